//! From parts to a running sidecar, and from a running sidecar to an orderly end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::call::{Settings, Sidecar};
use super::clock::Clock;
use super::config::InForce;
use super::health::Health;
use super::journal::{Held, Journal, JournalError};
use super::leases::Leases;
use super::metrics::Metrics;
use super::refusal::RefusalLog;
use super::settle::Accounts;
use super::source::{LeaseSource, SourceError};
use super::telemetry::{Target, Telemetry};
use super::upstream::Upstream;
use super::workers::Workers;
use super::{admin, listen, outcomes, reporter};
use crate::core::amount::Amount;
use crate::core::lease::{GiveBack, LeaseId};
use crate::ledger::Decision;

/// How long the last reports may take at the end.
const LAST_REPORTS: Duration = Duration::from_secs(5);
/// How long the last spans may take after them.
const LAST_SPANS: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// What a sidecar is made of.
pub struct Parts {
    pub source: Arc<dyn LeaseSource>,
    pub journal: Arc<Journal>,
    pub in_force: InForce,
    pub upstream: Upstream,
    pub settings: Settings,
    pub clock: Clock,
    /// Where calls are told of, if anywhere.
    pub collector: Option<Target>,
}

/// Puts a sidecar together and cleans up after the process before it.
///
/// # Errors
/// When the journal cannot be written.
pub fn assemble(parts: Parts) -> Result<Arc<Sidecar>, JournalError> {
    let Parts { source, journal, in_force, upstream, settings, clock, collector } = parts;
    recover(&journal, &source)?;
    tokio::spawn(reporter::run(Arc::clone(&journal), Arc::clone(&source)));
    let metrics = Arc::new(Metrics::new());
    let leases = Leases::new(source, Arc::clone(&journal), Arc::clone(&metrics), clock);
    let accounts = Arc::new(Accounts { leases, journal, metrics, clock });
    let telemetry = Telemetry::start(collector, &accounts.metrics);
    let (health, refusal_log, estimates) = (Health::default(), RefusalLog::default(), Arc::default());
    Ok(Arc::new(Sidecar { accounts, in_force, health, refusal_log, upstream, settings, telemetry, estimates }))
}

/// What the process before left behind: calls whose end nobody saw are charged as reserved, and its leases go back.
fn recover(journal: &Arc<Journal>, source: &Arc<dyn LeaseSource>) -> Result<(), JournalError> {
    let calls = journal.settle_open_calls()?;
    let leases = journal.state().leases;
    if calls > 0 || !leases.is_empty() {
        tracing::info!(calls, leases = leases.len(), "recovered from the journal: open calls are charged as reserved, leases go back");
    }
    for (lease, held) in leases {
        if held.asked.is_some() {
            tokio::spawn(learn_and_give_back(Arc::clone(journal), Arc::clone(source), lease, held));
        } else {
            give_back(journal, held.give_back(&lease, Amount::ZERO));
        }
    }
    Ok(())
}

fn give_back(journal: &Journal, back: Option<GiveBack>) {
    if let Err(error) = journal.give_back(back) {
        tracing::error!(%error, "a lease of the process before cannot go back before this pod ends");
    }
}

/// A request was on its way when the process died: asking again tells whether it was granted.
async fn learn_and_give_back(journal: Arc<Journal>, source: Arc<dyn LeaseSource>, lease: LeaseId, held: Held) {
    let Some(ask) = held.unanswered(&lease) else { return };
    let granted = loop {
        match source.acquire(ask.clone()).await {
            Ok(Decision::Granted { granted, .. }) => break granted,
            Ok(Decision::Refused { .. } | Decision::Expired) | Err(SourceError::Rejected(_)) => break Amount::ZERO,
            Err(SourceError::Unavailable(_)) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    };
    if let Err(error) = journal.answered(lease.clone(), granted) {
        tracing::warn!(%error, "an answer of the ledger is not in the journal");
    }
    give_back(&journal, held.give_back(&lease, granted));
}

/// Serves until `stop` resolves, then ends in order: calls under way are given `drain`, what is open then is charged as
/// reserved, leases go back, and the last reports are sent.
///
/// # Errors
/// When its threads cannot be started.
pub async fn run(
    sidecar: Arc<Sidecar>,
    proxy: TcpListener,
    admin: Option<TcpListener>,
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> std::io::Result<()> {
    let workers = Workers::start()?;
    let keeper = {
        let sidecar = Arc::clone(&sidecar);
        tokio::spawn(async move { sidecar.accounts.leases.keep().await })
    };
    let scraper = tokio::spawn(outcomes::scrape(Arc::clone(&sidecar)));
    if let Some(admin) = admin {
        tokio::spawn(admin::serve(Arc::clone(&sidecar), admin));
    }
    let all_ended = listen::serve(Arc::clone(&sidecar), &workers, proxy, stop, drain).await;
    let began = tokio::time::Instant::now();
    // Calls without a caller have no connection any more.
    while all_ended && sidecar.accounts.metrics.calls_open.get() > 0 && began.elapsed() < drain {
        tokio::time::sleep(POLL).await;
    }
    scraper.abort();
    keeper.abort();
    outcomes::scrape_once(&sidecar).await;
    end(&sidecar).await;
    sidecar.telemetry.flush(LAST_SPANS).await;
    Ok(())
}

async fn end(sidecar: &Sidecar) {
    let journal = &sidecar.accounts.journal;
    match journal.settle_open_calls() {
        Ok(0) => {}
        Ok(calls) => tracing::warn!(calls, "calls were still under way; they are charged as reserved"),
        Err(error) => tracing::error!(%error, "calls under way are charged as reserved when this pod is gone"),
    }
    sidecar.accounts.leases.close_all();
    if !reporter::reported(journal, journal.end(), LAST_REPORTS).await {
        tracing::warn!(bytes = journal.backlog(), "the last reports were not taken; they are in the journal");
    }
}
