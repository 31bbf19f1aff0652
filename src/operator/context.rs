//! What every part of the operator shares.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::limit::LimitKey;
use crate::ledger::Ledger;

use super::index::Index;
use super::kubelet::UsageHistory;
use super::news::{News, Refused};
use super::outages::Outages;
use super::recalls::Recalls;
use super::replicas::Replicas;
use super::runaways::Runaways;

/// Shared by the control channel, the webhooks and the reconcilers.
pub struct Context {
    pub client: kube::Client,
    pub ledger: Arc<dyn Ledger>,
    /// Grows whenever a balance or a record in the ledger changes.
    pub ledger_changes: tokio::sync::watch::Receiver<u64>,
    pub index: Arc<Index>,
    pub refusals: Refusals,
    pub recalls: Recalls,
    pub usage: Arc<UsageHistory>,
    pub runaways: Runaways,
    pub outages: Outages,
    pub replicas: Replicas,
    /// The operator's own namespace: resources in it may select pods of others.
    pub namespace: String,
    /// Apply what was approved; else approvals are only recorded.
    pub apply_approved: bool,
}

impl Context {
    /// Takes in what a sidecar told this replica, and tells the others.
    pub fn heard(&self, news: News, now_ms: i64) {
        self.note(&news, now_ms);
        self.replicas.tell(news);
    }

    /// Takes in what a sidecar told another replica, and when.
    pub fn heard_elsewhere(&self, news: &News, at_ms: i64) {
        self.recalls.ask(None, news.scarce());
        self.note(news, at_ms);
    }

    fn note(&self, news: &News, at_ms: i64) {
        self.refusals.note(&news.refused, at_ms);
        self.runaways.note(&news.spent, at_ms);
        self.outages.note(&news.outages, at_ms);
    }
}

/// Limits that lately refused a lease, in memory: a refusal after a restart is noted again when it happens again.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<LimitKey, Refusal>>);

/// The refusals of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Those that the limit has not had room for since.
    pub refused: Refused,
    /// Unix milliseconds.
    pub last_ms: i64,
}

impl Refusals {
    fn note(&self, news: &BTreeMap<LimitKey, Refused>, at_ms: i64) {
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, refused) in news {
            let noted = |known: &mut Refusal| {
                known.refused.add(*refused);
                known.last_ms = known.last_ms.max(at_ms);
            };
            refusals.entry(key.clone()).and_modify(noted).or_insert(Refusal { refused: *refused, last_ms: at_ms });
        }
    }

    pub fn of(&self, key: &LimitKey) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

/// Unix milliseconds by this machine's clock.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
