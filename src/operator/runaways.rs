//! Runaways as the operator sees them: every report of a sidecar is noted by who made its calls, and whoever runs away is held back if
//! its budget says so. In memory: after a restart the first minutes are measured by peers and limits.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::channel::message::Reported;
use crate::core::budget::BudgetSet;
use crate::core::cel::CallFacts;
use crate::core::dimensions::Origin;
use crate::core::limit::LimitKey;
use crate::core::policy::{Budget, ResourceKey};
use crate::core::runaway::{Runaway, RunawayAction, Running, Scale, Watch};
use crate::core::throttle::{self, Throttle};

/// Who is held back, by budget.
pub type Throttles = BTreeMap<ResourceKey, Vec<Throttle>>;

/// Watches over every budget that asks for it.
#[derive(Default)]
pub struct Runaways {
    /// A budget whose rule changes is watched anew.
    watches: Mutex<HashMap<ResourceKey, (Runaway, Watch)>>,
    throttles: watch::Sender<Throttles>,
}

impl Runaways {
    fn watches(&self) -> MutexGuard<'_, HashMap<ResourceKey, (Runaway, Watch)>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pod reported and the ledger took. A report that is sent again because its answer was lost counts twice.
    pub fn note(&self, budgets: &BudgetSet, origin: &Origin, entries: &[Reported], now_ms: i64) {
        if budgets.iter().all(|budget| budget.runaway.is_none()) {
            return;
        }
        for entry in entries {
            match entry {
                Reported::Settled { record, .. } if record.outcome.is_charged() => {
                    let facts = CallFacts {
                        origin,
                        dimensions: &record.dimensions,
                        model: &record.model,
                        backend: &record.backend,
                        tier: record.tier,
                    };
                    for budget in budgets.counting(&facts) {
                        let amount = budget.limits.first().map(|limit| record.amount().in_unit(limit.unit));
                        self.with(budget, |rule, watch| {
                            let value = rule.by.value(origin, &record.dimensions);
                            if let Some((value, amount)) = value.zip(amount) {
                                watch.spent(value, amount, now_ms);
                            }
                        });
                    }
                }
                Reported::Outcome { dimensions, count, .. } => {
                    // An outcome has no model, so whether a budget counts it is whether it knows who brought it.
                    for budget in budgets.iter() {
                        self.with(budget, |rule, watch| {
                            if let Some(value) = rule.by.value(origin, dimensions) {
                                watch.outcomes(value, *count, now_ms);
                            }
                        });
                    }
                }
                _ => {}
            }
        }
    }

    fn with<T>(&self, budget: &Budget, note: impl FnOnce(&Runaway, &mut Watch) -> T) -> Option<T> {
        let rule = budget.runaway?;
        let mut watches = self.watches();
        let (known, watch) = watches.entry(budget.key.clone()).or_insert_with(|| (rule, Watch::default()));
        if *known != rule {
            (*known, *watch) = (rule, Watch::default());
        }
        Some(note(&rule, watch))
    }

    /// Who runs away under a budget now; they are held back from here on, if it says so, and nobody else. `refused_ms` is when a limit
    /// last refused a call.
    pub fn look(&self, budget: &Budget, scale: Scale, refused_ms: impl Fn(&LimitKey) -> Option<i64>, now_ms: i64) -> Vec<Running> {
        let held: Vec<Throttle> = self.throttles.borrow().get(&budget.key).cloned().unwrap_or_default();
        let look = |rule: &Runaway, watch: &mut Watch| {
            for Throttle { value, .. } in &held {
                if let Some(at_ms) = refused_ms(&throttle::key(&budget.key, rule.by, value)) {
                    watch.refused(value, at_ms);
                }
            }
            watch.look(rule, scale, now_ms)
        };
        let running = self.with(budget, look).unwrap_or_default();
        let throttles = budget.runaway.is_some_and(|rule| rule.action == RunawayAction::Throttle);
        let held = running.iter().filter(|_| throttles).map(|r| Throttle { value: r.value.clone(), allowance: r.allowance });
        self.hold(&budget.key, held.collect());
        running
    }

    /// Forgets budgets that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.watches().retain(|key, _| is_there(key));
        self.throttles.send_if_modified(|throttles| {
            let before = throttles.len();
            throttles.retain(|key, _| is_there(key));
            throttles.len() != before
        });
    }

    fn hold(&self, key: &ResourceKey, held: Vec<Throttle>) {
        self.throttles.send_if_modified(|throttles| {
            let changed = throttles.get(key).map_or(!held.is_empty(), |before| *before != held);
            if held.is_empty() {
                throttles.remove(key);
            } else if changed {
                throttles.insert(key.clone(), held);
            }
            changed
        });
    }

    /// Who is held back, and when that changes.
    pub fn throttles(&self) -> watch::Receiver<Throttles> {
        self.throttles.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::budget::AIBudgetSpec;
    use crate::api::parse;
    use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
    use crate::core::dimensions::{Dimension, Dimensions};
    use crate::core::money::PicoUsd;
    use serde_json::json;

    const DOLLAR: Scale = Scale { limit: PicoUsd::from_usd(1).0, window_ms: None };

    fn budget(action: &str) -> Budget {
        let spec: AIBudgetSpec = serde_json::from_value(json!({
            "scope": {"teams": ["search"]},
            "limits": [{"name": "m", "usd": "1", "period": "Lifetime"}],
            "runaway": {"by": "agent", "action": action}
        }))
        .expect("a spec");
        parse::budget(ResourceKey::new("shop", "b"), &spec).expect("a budget")
    }

    fn call(team: &str, agent: &str, usd: &str) -> Reported {
        let dimensions = [(Dimension::Team, team), (Dimension::Agent, agent)];
        let dimensions = Dimensions(dimensions.map(|(d, v)| (d, v.to_owned())).into());
        let begun = CallRecord::begun(CallId(String::new()), Origin::default(), dimensions, CallKind::Shared, 0);
        let record = CallRecord { cost: usd.parse().expect("an amount"), outcome: CallOutcome::Completed, status: 200, ..begun };
        Reported::Settled { record: Arc::new(record), lease: None, unleased: vec![] }
    }

    #[test]
    fn who_runs_away_under_a_budget_that_throttles_is_held_back_until_the_rule_or_the_budget_changes() {
        for (action, held) in [("Throttle", 1), ("Warn", 0)] {
            let runaways = Runaways::default();
            let throttles = runaways.throttles();
            let budget = budget(action);
            let set = BudgetSet::compile(vec![budget.clone()]).expect("a set");
            for second in 0..60 {
                // The one that the budget does not count runs, too.
                let entries = [call("search", "a", "0.01"), call("ads", "b", "0.01")];
                runaways.note(&set, &Origin::default(), &entries, second * 1_000);
            }
            let running = runaways.look(&budget, DOLLAR, |_| None, 60_000);
            assert_eq!(running.iter().map(|r| r.value.as_str()).collect::<Vec<_>>(), ["a"]);
            assert_eq!(throttles.borrow().values().map(Vec::len).sum::<usize>(), held);
            runaways.look(&budget, DOLLAR, |_| None, 60_001);
            // It makes no call any more; who is held back was refused some until the ninth minute.
            for minute in 2..=16 {
                let running = runaways.look(&budget, DOLLAR, |_| Some(minute.min(9) * 60_000), minute * 60_000);
                assert_eq!(!running.is_empty(), minute < if held == 1 { 15 } else { 7 }, "{action} at minute {minute}");
            }
            runaways.retain(|_| false);
            assert!(throttles.borrow().is_empty());
        }
    }

    #[test]
    fn a_changed_rule_begins_anew() {
        let (runaways, budget) = (Runaways::default(), budget("Warn"));
        let set = BudgetSet::compile(vec![budget.clone()]).expect("a set");
        for second in 0..60 {
            runaways.note(&set, &Origin::default(), &[call("search", "a", "0.01")], second * 1_000);
        }
        let mut changed = budget.clone();
        changed.runaway = changed.runaway.map(|rule| Runaway { factor: 20, ..rule });
        assert_eq!(runaways.look(&budget, DOLLAR, |_| None, 60_000).len(), 1);
        assert!(runaways.look(&changed, DOLLAR, |_| None, 60_000).is_empty());
    }
}
