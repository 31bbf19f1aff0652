//! Runaways as the operator sees them: what sidecars report is noted by who made the calls, and whoever runs away is held back if
//! its budget says so. Each replica hears what any of them was told, and decides for its own sidecars. In memory: after a restart the
//! first minutes are measured by peers and limits.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::context::{Context, now_ms};
use super::news::{Spent, Watched};
use super::selection;
use crate::api::parse;
use crate::core::budget::BudgetSet;
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::policy::{Budget, ResourceKey};
use crate::core::runaway::{Runaway, RunawayAction, Running, Scale, Watch};
use crate::core::throttle::{self, Throttle};

/// How often it is looked who runs away.
const LOOK: Duration = Duration::from_secs(1);

/// Who is held back, by budget.
pub type Throttles = BTreeMap<ResourceKey, Vec<Throttle>>;

/// Watches over every budget that asks for it.
#[derive(Default)]
pub struct Runaways {
    /// A budget whose rule changes is watched anew.
    watches: Mutex<HashMap<ResourceKey, (Runaway, Watch)>>,
    /// Who was found running at the last look.
    running: Mutex<HashMap<ResourceKey, Vec<Running>>>,
    throttles: watch::Sender<Throttles>,
}

impl Runaways {
    fn watches(&self) -> MutexGuard<'_, HashMap<ResourceKey, (Runaway, Watch)>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what sidecars told. What was summed by another rule than the one that is known is left out: it tells of the moment of
    /// the change, and replicas need not see that at once.
    pub fn note(&self, news: &BTreeMap<ResourceKey, Watched>, at_ms: i64) {
        let mut watches = self.watches();
        for (key, Watched { rule, by_value }) in news {
            let (known, watch) = watches.entry(key.clone()).or_insert_with(|| (*rule, Watch::default()));
            if known != rule {
                continue;
            }
            for (value, Spent { amount, dearest, outcomes }) in by_value {
                if *amount != 0 {
                    watch.spent_together(value, *amount, *dearest, at_ms);
                }
                if *outcomes > 0 {
                    watch.outcomes(value, *outcomes, at_ms);
                }
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
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(budget.key.clone(), running.clone());
        let throttles = budget.runaway.is_some_and(|rule| rule.action == RunawayAction::Throttle);
        let held = running.iter().filter(|_| throttles).map(|r| Throttle { value: r.value.clone(), allowance: r.allowance });
        self.hold(&budget.key, held.collect());
        running
    }

    /// Who was found running under a budget at the last look.
    pub fn running(&self, key: &ResourceKey) -> Vec<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    /// Forgets budgets that are not there any more.
    pub fn retain(&self, is_there: impl Fn(&ResourceKey) -> bool) {
        self.watches().retain(|key, _| is_there(key));
        self.running.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_there(key));
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

/// Looks again and again who runs away, and forgets budgets that are gone; never returns.
pub async fn keep_looking(context: Arc<Context>) {
    context.index.ready().await;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (budgets, now_ms) = (context.index.budgets(), now_ms());
        let is_there: HashMap<ResourceKey, bool> =
            budgets.iter().map(|b| (selection::key_of(b.as_ref()), b.spec.runaway.is_some())).collect();
        context.runaways.retain(|key| is_there.get(key) == Some(&true));
        context.outages.retain(|key| is_there.contains_key(key));
        context.refusals.retain(|key| is_there.contains_key(key));
        for budget in budgets.iter().filter(|budget| budget.spec.runaway.is_some()) {
            let key = selection::key_of(budget.as_ref());
            // What makes no sense is not in force, as its status says.
            let Ok(parsed) = parse::budget(key.clone(), &budget.spec) else { continue };
            let Ok(compiled) = BudgetSet::compile(vec![parsed.clone()]) else { continue };
            if let Some(first) = compiled.limits_of(&key, now_ms).first() {
                let refused_ms = |key: &LimitKey| context.refusals.of(key).map(|refusal| refusal.last_ms);
                context.runaways.look(&parsed, scale_of(first), refused_ms, now_ms);
            }
        }
    }
}

/// The limit by which runaways are measured.
fn scale_of(terms: &LimitTerms) -> Scale {
    let window_ms = match terms.span {
        Span::Fixed { start_ms, end_ms } => (end_ms != i64::MAX).then(|| end_ms - start_ms),
        Span::Rolling { length_ms, .. } => Some(length_ms),
    };
    Scale { limit: terms.limit, window_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::budget::AIBudgetSpec;
    use crate::core::money::PicoUsd;
    use serde_json::json;

    const DOLLAR: Scale = Scale { limit: PicoUsd::from_usd(1).0, window_ms: None };
    const CENT: i128 = PicoUsd::from_usd(1).0 / 100;

    fn budget(action: &str) -> Budget {
        let spec: AIBudgetSpec = serde_json::from_value(json!({
            "limits": [{"name": "m", "usd": "1", "period": "Lifetime"}],
            "runaway": {"by": "agent", "action": action}
        }))
        .expect("a spec");
        parse::budget(ResourceKey::new("shop", "b"), &spec).expect("a budget")
    }

    /// A cent a second, for a minute.
    fn run(runaways: &Runaways, budget: &Budget) {
        let spent = Spent { amount: CENT, dearest: CENT, outcomes: 0 };
        let watched = Watched { rule: budget.runaway.expect("a rule"), by_value: BTreeMap::from([("a".to_owned(), spent)]) };
        let news = BTreeMap::from([(budget.key.clone(), watched)]);
        (0..60).for_each(|second| runaways.note(&news, second * 1_000));
    }

    #[test]
    fn who_runs_away_under_a_budget_that_throttles_is_held_back_until_the_rule_or_the_budget_changes() {
        for (action, held) in [("Throttle", 1), ("Warn", 0)] {
            let runaways = Runaways::default();
            let throttles = runaways.throttles();
            let budget = budget(action);
            run(&runaways, &budget);
            let running = runaways.look(&budget, DOLLAR, |_| None, 60_000);
            assert_eq!(running.iter().map(|r| r.value.as_str()).collect::<Vec<_>>(), ["a"]);
            assert_eq!(runaways.running(&budget.key), running);
            assert_eq!(throttles.borrow().values().map(Vec::len).sum::<usize>(), held);
            runaways.look(&budget, DOLLAR, |_| None, 60_001);
            // It makes no call any more; who is held back was refused some until the ninth minute.
            for minute in 2..=16 {
                let running = runaways.look(&budget, DOLLAR, |_| Some(minute.min(9) * 60_000), minute * 60_000);
                assert_eq!(!running.is_empty(), minute < if held == 1 { 15 } else { 7 }, "{action} at minute {minute}");
            }
            runaways.retain(|_| false);
            assert!(throttles.borrow().is_empty() && runaways.running(&budget.key).is_empty());
        }
    }

    #[test]
    fn a_changed_rule_begins_anew_and_hears_nothing_of_the_old_one() {
        let (runaways, budget) = (Runaways::default(), budget("Warn"));
        run(&runaways, &budget);
        let mut changed = budget.clone();
        changed.runaway = changed.runaway.map(|rule| Runaway { factor: 20, ..rule });
        assert_eq!(runaways.look(&budget, DOLLAR, |_| None, 60_000).len(), 1);
        assert!(runaways.look(&changed, DOLLAR, |_| None, 60_000).is_empty());
        run(&runaways, &budget);
        assert!(runaways.look(&changed, DOLLAR, |_| None, 60_000).is_empty());
    }
}
