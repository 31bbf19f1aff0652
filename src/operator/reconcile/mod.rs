//! The reconcilers: read a snapshot of cluster and ledger, decide, write status by server-side apply.
//!
//! A round looks at every resource. It begins when the cluster or the ledger has changed, at most once a second, and at
//! the latest after [`TICK`], because time alone opens windows and moves forecasts. A status that would not change is
//! not written; one of a budget of which only figures have changed, every ten seconds at most.

mod allocations;
mod approvals;
mod budgets;
mod publish;
pub(super) mod quantity;
mod routes;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::Resource;

use super::context::{Context, now_ms};
use super::index::Snapshot;
use super::metrics::Metrics;
use super::selection::key_of as key;
use crate::core::policy::ResourceKey;
use budgets::{Memory, Past};
use publish::Publisher;

/// Rounds are at least this far apart.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Rounds are at most this far apart.
const TICK: Duration = Duration::from_secs(10);

/// Why a resource could not be reconciled; the next round tries again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Ledger(#[from] crate::ledger::LedgerError),
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    #[error("a status cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Everything that one round looks at.
struct Round<'a> {
    context: &'a Context,
    publisher: &'a Publisher,
    snapshot: Snapshot,
    now_ms: i64,
}

/// Reconciles for ever.
pub async fn run(context: Arc<Context>, metrics: Arc<Metrics>, identity: String) {
    let publisher = Publisher::new(context.client.clone(), identity);
    let mut cluster = context.index.changes();
    let mut ledger = context.ledger_changes.clone();
    let mut elsewhere = context.replicas.heard();
    context.index.ready().await;
    let mut memory = Memory::after(Past::read(&*context.ledger, &context.index.snapshot(), &context.namespace, now_ms()).await);
    loop {
        let started = tokio::time::Instant::now();
        let round = Round { context: &context, publisher: &publisher, snapshot: context.index.snapshot(), now_ms: now_ms() };
        let held_back = round.run(&metrics, &mut memory).await;
        tokio::time::sleep_until(started + DEBOUNCE).await;
        tokio::select! {
            // An error means that the sender is gone, and then the whole operator is about to be.
            _ = cluster.changed() => {}
            _ = ledger.changed() => {}
            _ = elsewhere.changed() => {}
            () = tokio::time::sleep_until(started + held_back.map_or(TICK, |held_back| held_back.min(TICK))) => {}
        }
    }
}

impl Round<'_> {
    /// Looks at everything; the time until the first status may be written that was held back.
    async fn run(&self, metrics: &Metrics, memory: &mut Memory) -> Option<Duration> {
        let mut held_back_ms = None;
        for budget in &self.snapshot.budgets {
            let done = self.budget(budget, memory, metrics).await;
            held_back_ms = done.as_ref().ok().copied().flatten().into_iter().chain(held_back_ms).min();
            note("AIBudget", budget.as_ref(), done.map(drop), metrics);
        }
        self.forget_gone_budgets(memory, metrics);
        for route in &self.snapshot.routes {
            note("ModelRoute", route.as_ref(), self.route(route).await, metrics);
        }
        for allocation in &self.snapshot.allocations {
            note("CostAllocation", allocation.as_ref(), self.allocation(allocation).await, metrics);
        }
        held_back_ms.map(|at_ms| Duration::from_millis(u64::try_from(at_ms - self.now_ms).unwrap_or(0)))
    }

    fn forget_gone_budgets(&self, memory: &mut Memory, metrics: &Metrics) {
        let there: HashSet<ResourceKey> = self.snapshot.budgets.iter().map(|budget| key(budget.as_ref())).collect();
        memory.retain(|key| there.contains(key));
        metrics.retain_budgets(|key| there.contains(key));
    }
}

fn note<K: Resource + Debug>(kind: &str, resource: &K, result: Result<(), ReconcileError>, metrics: &Metrics) {
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics.reconciles.with_label_values(&[kind, outcome]).inc();
    if let Err(error) = result {
        tracing::warn!(kind, resource = %key(resource), %error, "not reconciled; the next round tries again");
    }
}

/// When a resource was made, Unix milliseconds.
fn created_ms<K: Resource>(resource: &K) -> i64 {
    resource.meta().creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond())
}
