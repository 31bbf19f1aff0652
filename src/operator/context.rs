//! What every part of the operator shares.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::limit::LimitKey;
use crate::core::policy::ResourceKey;
use crate::core::throttle;
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

/// Limits of which refusals are remembered; as many as statuses remember. Each value of a split is one.
const MOST_REFUSED: usize = 10_000;

/// Limits that lately refused a lease, in memory: a refusal after a restart is noted again when it happens again. Bounded: of too many, those
/// that refused last are kept, and one that is forgotten and refuses still is noted again with its next refusal.
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
        if refusals.len() > MOST_REFUSED {
            forget_oldest(&mut refusals, MOST_REFUSED / 10 * 9);
        }
    }

    /// Forgets limits of budgets that are not there any more, and those that held back their runaways.
    pub fn retain(&self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_there(&throttle::of(key)));
    }

    pub fn of(&self, key: &LimitKey) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

/// Leaves the `kept` that refused last, fewer than there are, so that this need not be done with each further one.
fn forget_oldest(refusals: &mut HashMap<LimitKey, Refusal>, kept: usize) {
    let mut times: Vec<i64> = refusals.values().map(|refusal| refusal.last_ms).collect();
    let gone = times.len() - kept;
    let (_, first_kept, _) = times.select_nth_unstable(gone);
    let first_kept = *first_kept;
    // Of those that refused at one moment, any.
    let mut of_that_moment = refusals.values().filter(|refusal| refusal.last_ms >= first_kept).count() - kept;
    refusals.retain(|_, refusal| {
        let is_surplus = refusal.last_ms == first_kept && of_that_moment > 0;
        of_that_moment -= usize::from(is_surplus);
        refusal.last_ms >= first_kept && !is_surplus
    });
}

/// Unix milliseconds by this machine's clock.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::amount::{Amount, Unit};
    use crate::core::limit::Shortfall;
    use crate::core::runaway::RunawayBy;

    fn refuse(refusals: &Refusals, key: &str, at_ms: i64) {
        let shortfall = Shortfall { key: LimitKey(key.to_owned()), unit: Unit::Usd, left: 1, idle: 0, resets_at_ms: None };
        refusals.note(&News::of_refusal(&[shortfall], Amount::ZERO).refused, at_ms);
    }

    fn count(refusals: &Refusals) -> usize {
        refusals.0.lock().expect("whole").len()
    }

    #[test]
    fn refusals_of_any_number_of_values_take_bounded_memory_and_the_latest_are_known() {
        let refusals = Refusals::default();
        let key = |n: usize| format!("shop/b/l={n}");
        for n in 0..3 * MOST_REFUSED {
            // A hundred in each millisecond; one of the first goes on.
            refuse(&refusals, &key(n), (n / 100) as i64);
            refuse(&refusals, &key(7), (n / 100) as i64);
            assert!(count(&refusals) <= MOST_REFUSED, "after {n}");
        }
        let is_known = |n: usize| refusals.of(&LimitKey(key(n))).is_some();
        assert!(count(&refusals) >= MOST_REFUSED / 10 * 9 && is_known(7) && !is_known(8));
        assert!((2 * MOST_REFUSED + MOST_REFUSED / 5..3 * MOST_REFUSED).all(is_known));
    }

    #[test]
    fn refusals_of_one_moment_are_bounded_and_those_of_a_budget_go_with_it() {
        let refusals = Refusals::default();
        for n in 0..=MOST_REFUSED {
            refuse(&refusals, &format!("shop/b/l={n}"), 5);
        }
        assert_eq!(count(&refusals), MOST_REFUSED / 10 * 9);
        refuse(&refusals, "shop/other/l", 6);
        let other = ResourceKey::new("shop", "other");
        let held_back = throttle::key(&other, RunawayBy::Agent, "looping");
        refuse(&refusals, &held_back.0, 6);
        refusals.retain(|key| *key == other);
        assert!(count(&refusals) == 2 && refusals.of(&held_back).is_some(), "who is held back and refused still runs");
        refusals.retain(|_| false);
        assert_eq!(count(&refusals), 0);
    }
}
