//! What budgets did while sidecars could not reach the ledger: calls that were refused, and calls that were let through and charged
//! afterwards. Sidecars tell of it once they reach the operator again. And what is wrong with the ledger itself, for as long as it is. In
//! memory: what was told before a restart is history.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::channel::message::Reported;
use crate::core::budget::BudgetSet;
use crate::core::call::CallOutcome;
use crate::core::money::PicoUsd;
use crate::core::policy::{Enforcement, ResourceKey};
use crate::ledger::LedgerError;

/// How long an outage is news after the last that was heard of it.
const NEWS_MS: i64 = 5 * 60_000;

/// What one budget did without its ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// Calls that went upstream without a lease, and what they were charged.
    pub let_through: u64,
    pub charged: PicoUsd,
    /// True when calls were refused; a sidecar tells of one in ten seconds, so they are not counted.
    pub refused: bool,
    /// Unix milliseconds.
    pub last_ms: i64,
}

/// What is wrong with the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// [`LedgerError::reason`].
    pub reason: &'static str,
    pub message: String,
    /// Unix milliseconds.
    pub last_ms: i64,
}

/// The latest outage of each budget, and the ledger's own fault.
#[derive(Default)]
pub struct Outages {
    budgets: Mutex<HashMap<ResourceKey, Outage>>,
    fault: Mutex<Option<Fault>>,
}

impl Outages {
    fn lock(&self) -> MutexGuard<'_, HashMap<ResourceKey, Outage>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pod reported and the ledger took: whatever names a limit without a lease, though its budget asks for one.
    pub fn note(&self, budgets: &BudgetSet, entries: &[Reported], now_ms: i64) {
        for entry in entries {
            let Reported::Settled { record, unleased, .. } = entry else { continue };
            let mut keys: Vec<ResourceKey> = unleased.iter().map(|key| key.budget()).collect();
            keys.dedup();
            for key in keys {
                if budgets.iter().any(|budget| budget.key == key && budget.enforcement != Enforcement::Warn) {
                    let mut outages = self.lock();
                    let outage = outages.entry(key).or_default();
                    if now_ms - outage.last_ms > NEWS_MS {
                        *outage = Outage::default();
                    }
                    outage.last_ms = now_ms;
                    match record.outcome {
                        CallOutcome::Refused => outage.refused = true,
                        outcome => {
                            outage.let_through += u64::from(outcome.is_charged());
                            outage.charged += record.cost;
                        }
                    }
                }
            }
        }
    }

    /// A budget's outage, while it is news.
    pub fn of(&self, key: &ResourceKey, now_ms: i64) -> Option<Outage> {
        self.lock().get(key).copied().filter(|outage| now_ms - outage.last_ms <= NEWS_MS)
    }

    /// Notes how a write of the ledger went: one that is done ends a fault.
    pub fn wrote<T>(&self, result: Result<T, LedgerError>, now_ms: i64) -> Result<T, LedgerError> {
        match &result {
            Ok(_) => *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None,
            Err(error) => self.failed(error, now_ms),
        }
        result
    }

    /// Notes that the ledger did not do what it was asked.
    pub fn failed(&self, error: &LedgerError, now_ms: i64) {
        if let Some(reason) = error.reason() {
            let fault = Fault { reason, message: error.to_string(), last_ms: now_ms };
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
    }

    /// What is wrong with the ledger, as far as it was asked of late.
    pub fn fault(&self, now_ms: i64) -> Option<Fault> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone().filter(|fault| now_ms - fault.last_ms <= NEWS_MS)
    }

    /// Forgets budgets that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.lock().retain(|key, _| is_there(key));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::api::parse;
    use crate::core::call::{CallId, CallKind, CallRecord};
    use crate::core::dimensions::{Dimensions, Origin};
    use crate::core::limit::LimitKey;

    fn set(enforcement: &str) -> (ResourceKey, BudgetSet) {
        let limits = json!([{"name": "total", "usd": "1", "period": "Day"}, {"name": "calls", "requests": 9, "period": "Day"}]);
        let spec = serde_json::from_value(json!({"limits": limits, "enforcement": enforcement})).expect("a spec");
        let budget = parse::budget(ResourceKey::new("shop", "b"), &spec).expect("a budget");
        (budget.key.clone(), BudgetSet::compile(vec![budget]).expect("a set"))
    }

    fn settled(outcome: &str, unleased: &[&str]) -> Reported {
        let outcome = serde_json::from_value(json!(outcome)).expect("an outcome");
        let begun = CallRecord::begun(CallId("c".into()), Origin::default(), Dimensions::default(), CallKind::Shared, 0);
        let record = CallRecord { cost: PicoUsd(250_000_000_000), outcome, ..begun };
        let unleased = unleased.iter().map(|key| LimitKey((*key).to_owned())).collect();
        Reported::Settled { record: Arc::new(record), lease: None, unleased }
    }

    #[test]
    fn a_call_without_a_lease_tells_of_an_outage_where_the_budget_asks_for_one() {
        let both = ["shop/b/total", "shop/b/calls"];
        let after = |enforcement: &str, entries: &[Reported]| {
            let ((key, set), outages) = (set(enforcement), Outages::default());
            outages.note(&set, entries, 1_000);
            outages.of(&key, 1_000 + NEWS_MS)
        };
        let outage = after("Block", &[settled("completed", &both), settled("failed", &both), settled("interrupted", &both)]);
        let quarters = |n: i128| PicoUsd(n * 250_000_000_000);
        assert_eq!(outage, Some(Outage { let_through: 2, charged: quarters(3), refused: false, last_ms: 1_000 }));
        assert_eq!(after("Fit", &[settled("refused", &both)]).map(|o| (o.let_through, o.refused)), Some((0, true)));
        assert_eq!(after("Warn", &[settled("completed", &both)]), None, "what only warns never has a lease");
        assert_eq!(after("Block", &[settled("completed", &[]), settled("completed", &["shop/other/total"])]), None);
    }

    #[test]
    fn a_fault_of_the_ledger_stands_until_it_writes_again_or_nobody_asks_for_minutes() {
        let outages = Outages::default();
        let full = || Err::<(), _>(LedgerError::NoSpace("no space left on the volume".into()));
        assert!(outages.wrote(full(), 5).is_err());
        let fault = outages.fault(5 + NEWS_MS).expect("a fault");
        assert!(fault.reason == "NoSpace" && fault.message.contains("no space left"), "{fault:?}");
        assert_eq!(outages.fault(6 + NEWS_MS), None);
        outages.failed(&LedgerError::Stopped, 7);
        assert_eq!(outages.fault(7), Some(fault), "to be told to end is no fault");
        assert_eq!(outages.wrote(Ok(3), 8), Ok(3));
        assert_eq!(outages.fault(8), None);
    }

    #[test]
    fn an_outage_is_news_for_minutes_and_the_next_one_begins_anew() {
        let ((key, set), outages) = (set("Block"), Outages::default());
        outages.note(&set, &[settled("refused", &["shop/b/total"])], 0);
        assert!(outages.of(&key, NEWS_MS).is_some() && outages.of(&key, NEWS_MS + 1).is_none());
        outages.note(&set, &[settled("completed", &["shop/b/total"])], 2 * NEWS_MS);
        assert_eq!(outages.of(&key, 2 * NEWS_MS).map(|o| (o.let_through, o.refused)), Some((1, false)));
        outages.retain(|_| false);
        assert_eq!(outages.of(&key, 2 * NEWS_MS), None);
    }
}
