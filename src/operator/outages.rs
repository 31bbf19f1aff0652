//! What budgets did while sidecars could not reach the ledger: calls that were refused, and calls that were let through and charged
//! afterwards. Sidecars tell of it once they reach an operator again. And what is wrong with the ledger itself, for as long as it is. In
//! memory: what was told before a restart is history.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::news::Unkept;
use crate::core::policy::ResourceKey;
use crate::ledger::LedgerError;

/// How long an outage is news after the last that was heard of it.
const NEWS_MS: i64 = 5 * 60_000;

/// What one budget did without its ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    pub unkept: Unkept,
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

    /// Notes what sidecars told.
    pub fn note(&self, news: &BTreeMap<ResourceKey, Unkept>, at_ms: i64) {
        let mut outages = self.lock();
        for (key, unkept) in news {
            let outage = outages.entry(key.clone()).or_default();
            if at_ms - outage.last_ms > NEWS_MS {
                *outage = Outage::default();
            }
            outage.last_ms = outage.last_ms.max(at_ms);
            outage.unkept.add(*unkept);
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
    use super::*;
    use crate::core::money::PicoUsd;

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
        let (key, outages) = (ResourceKey::new("shop", "b"), Outages::default());
        let refused = Unkept { refused: true, ..Unkept::default() };
        let let_through = Unkept { let_through: 1, charged: PicoUsd(7), refused: false };
        let note = |unkept: Unkept, now_ms: i64| outages.note(&BTreeMap::from([(key.clone(), unkept)]), now_ms);
        note(refused, 0);
        note(let_through, 1);
        assert_eq!(outages.of(&key, 1 + NEWS_MS).map(|o| o.unkept), Some(Unkept { refused: true, ..let_through }));
        assert_eq!(outages.of(&key, 2 + NEWS_MS), None);
        note(let_through, 2 * NEWS_MS);
        assert_eq!(outages.of(&key, 2 * NEWS_MS).map(|o| o.unkept), Some(let_through));
        outages.retain(|_| false);
        assert_eq!(outages.of(&key, 2 * NEWS_MS), None);
    }
}
