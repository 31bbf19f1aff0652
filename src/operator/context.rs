//! What every part of the operator shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::limit::LimitKey;
use crate::ledger::Ledger;

use super::index::Index;
use super::kubelet::UsageHistory;

/// Shared by the control channel, the webhooks and the reconcilers.
pub struct Context {
    pub client: kube::Client,
    pub ledger: Arc<dyn Ledger>,
    /// Grows whenever a balance or a record in the ledger changes.
    pub ledger_changes: tokio::sync::watch::Receiver<u64>,
    pub index: Arc<Index>,
    pub refusals: Refusals,
    pub usage: Arc<UsageHistory>,
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
    /// The smallest amount that was refused since the limit last granted anything, in the limit's unit.
    pub smallest: i128,
}

impl Refusals {
    /// Notes that `key` had less left than `needed`.
    pub fn note(&self, key: &LimitKey, needed: i128, now_ms: i64) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = refusals.entry(key.clone()).or_insert(Refusal { count: 0, last_ms: now_ms, smallest: needed });
        refusal.count += 1;
        refusal.last_ms = now_ms;
        refusal.smallest = refusal.smallest.min(needed);
    }

    pub fn of(&self, key: &LimitKey) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

/// Unix milliseconds by this machine's clock.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
