//! What every part of the operator shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::limit::{LimitKey, Shortfall};
use crate::ledger::Ledger;

use super::index::Index;
use super::kubelet::UsageHistory;
use super::outages::Outages;
use super::runaways::Runaways;

/// Shared by the control channel, the webhooks and the reconcilers.
pub struct Context {
    pub client: kube::Client,
    pub ledger: Arc<dyn Ledger>,
    /// Grows whenever a balance or a record in the ledger changes.
    pub ledger_changes: tokio::sync::watch::Receiver<u64>,
    pub index: Arc<Index>,
    pub refusals: Refusals,
    pub usage: Arc<UsageHistory>,
    pub runaways: Runaways,
    pub outages: Outages,
    /// The operator's own namespace: resources in it may select pods of others.
    pub namespace: String,
    /// Apply what was approved; else approvals are only recorded.
    pub apply_approved: bool,
}

/// Limits that lately refused a lease, in memory: a refusal after a restart is noted again when it happens again.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<LimitKey, Refusal>>);

/// The refusals of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub count: u64,
    /// Unix milliseconds.
    pub last_ms: i64,
    /// The least that a refused call needed, in the limit's unit; of those calls that the limit has not had room for since.
    pub smallest: i128,
}

impl Refusals {
    /// Notes that a limit had too little left for a call that may cost `needed`.
    pub fn note(&self, shortfall: &Shortfall, needed: i128, now_ms: i64) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = refusals.entry(shortfall.key.clone()).or_insert(Refusal { count: 0, last_ms: now_ms, smallest: needed });
        refusal.count += 1;
        refusal.last_ms = now_ms;
        // What fits by now is refused no longer.
        refusal.smallest = if refusal.smallest <= shortfall.left { needed } else { refusal.smallest.min(needed) };
    }

    pub fn of(&self, key: &LimitKey) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

/// Unix milliseconds by this machine's clock.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::amount::Unit;

    #[test]
    fn a_refusal_is_remembered_for_as_long_as_there_is_no_room_for_it() {
        let refusals = Refusals::default();
        let noted = |left: i128, needed: i128| {
            let shortfall = Shortfall { key: LimitKey("a/b/c".into()), unit: Unit::Usd, left, idle: 0, resets_at_ms: None };
            refusals.note(&shortfall, needed, 7);
            refusals.of(&shortfall.key).expect("noted").smallest
        };
        assert_eq!([noted(3, 10), noted(3, 5), noted(3, 8)], [10, 5, 5]);
        assert_eq!(noted(6, 9), 9, "there is room for 5 now, and yet a call is refused");
    }
}
