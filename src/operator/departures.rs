//! Pods that ended: what their leases still hold is charged or freed (invariants I2 and I3).
//!
//! When that is safe depends on what is known of the pod's end:
//!
//! | what is known | wait | why |
//! |---|---|---|
//! | its phase is final, or it never ran on a node | [`SETTLING`] | nothing spends any more; last reports may be on their way |
//! | it is gone without either (deleted by force, or while this operator was away) | [`LEASE_END`] | its containers may still run where no kubelet answers, and spend until their leases end by themselves |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::{Context, now_ms};
use super::metrics::Metrics;
use super::roster::{Roster, View};
use super::selection::PodFacts;
use crate::ledger::{HolderId, LedgerError};

/// For reports that were sent before a pod's end.
const SETTLING: Duration = Duration::from_secs(5);
/// Longer than any lease is valid (60 s).
const LEASE_END: Duration = Duration::from_secs(65);
/// Pause between two looks while nothing changes.
const SWEEP: Duration = Duration::from_secs(5);

/// How long after a holder was first missed its leases are reconciled; `None` while its pod runs.
fn grace(pod: Option<&PodFacts>, departed: Option<&PodFacts>) -> Option<Duration> {
    match (pod, departed) {
        (Some(pod), _) => pod.ended.then_some(SETTLING),
        (None, Some(last)) if last.ended || last.host_ip.is_none() => Some(SETTLING),
        (None, _) => Some(LEASE_END),
    }
}

/// Follows pods to their end.
pub struct Departures {
    context: Arc<Context>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    missed_since: HashMap<HolderId, Instant>,
}

impl Departures {
    pub fn new(context: Arc<Context>, roster: Arc<Roster>, metrics: Arc<Metrics>) -> Departures {
        Departures { context, roster, metrics, missed_since: HashMap::new() }
    }

    /// Never returns while the operator runs. Starts once the roster is complete: before that, absence means nothing.
    pub async fn keep_settling(mut self) {
        let mut views = self.roster.views();
        self.context.index.ready().await;
        loop {
            let view = views.borrow_and_update().clone();
            if let Err(error) = self.sweep(&view).await {
                tracing::warn!(%error, "leases of pods that ended cannot be reconciled yet; trying again");
            }
            // Only the time and the next view end the wait; the roster lives as long as this task.
            let _ = tokio::time::timeout(SWEEP, views.changed()).await;
        }
    }

    async fn sweep(&mut self, view: &View) -> Result<(), LedgerError> {
        let holders = self.context.ledger.holders().await?;
        self.missed_since.retain(|holder, _| holders.contains(holder));
        for holder in holders {
            let departed = self.context.index.departed(&holder.0);
            let grace = grace(view.pod(&holder.0).map(AsRef::as_ref), departed.as_ref());
            match grace {
                None => drop(self.missed_since.remove(&holder)),
                Some(grace) => {
                    let since = *self.missed_since.entry(holder.clone()).or_insert_with(Instant::now);
                    if since.elapsed() >= grace {
                        self.settle(holder).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn settle(&mut self, holder: HolderId) -> Result<(), LedgerError> {
        let done = self.context.ledger.holder_gone(&holder, now_ms()).await?;
        self.metrics.holders_gone.with_label_values::<&str>(&[]).inc();
        self.metrics.unknown_calls.with_label_values::<&str>(&[]).inc_by(done.unknown_calls);
        let pod = self.context.index.departed(&holder.0).map(|pod| format!("{}/{}", pod.origin.namespace, pod.origin.pod));
        tracing::info!(
            pod = pod.unwrap_or_default(), uid = %holder.0, unknown_calls = done.unknown_calls, charged_usd = %done.charged.usd.to_decimal(),
            freed_usd = %done.freed.usd.to_decimal(), "a pod ended; its leases are reconciled"
        );
        self.missed_since.remove(&holder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(host_ip: Option<&str>, ended: bool) -> PodFacts {
        PodFacts { host_ip: host_ip.map(str::to_owned), ended, ..PodFacts::default() }
    }

    #[test]
    fn leases_are_freed_only_once_nothing_can_spend_from_them() {
        let running = pod(Some("10.0.0.1"), false);
        let ended = pod(Some("10.0.0.1"), true);
        let unscheduled = pod(None, false);
        let table = [
            ("it runs", Some(&running), None, None),
            ("it has ended", Some(&ended), None, Some(SETTLING)),
            ("it ended and was deleted", None, Some(&ended), Some(SETTLING)),
            ("it never ran", None, Some(&unscheduled), Some(SETTLING)),
            ("it vanished while it ran", None, Some(&running), Some(LEASE_END)),
            ("it vanished while nobody looked", None, None, Some(LEASE_END)),
        ];
        for (case, pod, departed, expected) in table {
            assert_eq!(grace(pod, departed), expected, "{case}");
        }
    }
}
