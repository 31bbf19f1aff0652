//! What holds a runaway: a rolling limit of its own, for as long as it runs. It reaches the sidecar as any budget does, and its money is
//! leased as any other, so that it needs no mechanism of its own and cannot be overspent either.

use std::collections::BTreeSet;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::limit::LimitKey;
use super::policy::{Budget, Enforcement, Limit, ResourceKey, Scope, Window};
use super::runaway::{Runaway, RunawayBy};

/// The name of the one limit of a throttle.
const LIMIT: &str = "runaway";
/// What a throttled value may spend in a minute, it may spend in any minute.
const WINDOW_MS: i64 = 60_000;

/// One value that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    pub value: String,
    /// In the unit of the budget's first limit, a minute.
    pub allowance: i128,
}

/// The limit that holds back `value`. No resource can have its budget's name: it has a tilde.
pub fn key(budget: &ResourceKey, by: RunawayBy, value: &str) -> LimitKey {
    LimitKey::new(&name(budget, by, value), LIMIT)
}

/// The budget whose runaways a limit holds back, or whose limit it is.
pub fn of(limit: &LimitKey) -> ResourceKey {
    let budget = limit.budget().0;
    ResourceKey(budget.split_once('~').map_or(budget.as_str(), |(watching, _)| watching).to_owned())
}

fn name(budget: &ResourceKey, by: RunawayBy, value: &str) -> ResourceKey {
    ResourceKey(format!("{budget}~{}", digest(by, value)))
}

/// The budget that holds `throttle` back, of those calls that `budget` counts; `None` when that has no limit to take the unit from.
pub fn budget(budget: &Budget, rule: &Runaway, throttle: &Throttle) -> Option<Budget> {
    let unit = budget.limits.first()?.unit;
    let window = Window::Rolling { length_ms: WINDOW_MS };
    let limit = Limit { name: LIMIT.into(), unit, amount: throttle.allowance, window, grants: Vec::new(), reset_at_ms: None };
    Some(Budget {
        key: name(&budget.key, rule.by, &throttle.value),
        scope: narrowed(&budget.scope, rule.by, &throttle.value),
        split_by: None,
        limits: vec![limit],
        enforcement: Enforcement::Block,
        runaway: None,
        ..budget.clone()
    })
}

fn narrowed(scope: &Scope, by: RunawayBy, value: &str) -> Scope {
    let mut scope = scope.clone();
    match by.dimension() {
        Some(dimension) => {
            scope.dimensions.insert(dimension, BTreeSet::from([value.to_owned()]));
        }
        None => {
            // JSON's escapes are CEL's, too.
            let is_it = format!("call.workload == {}", serde_json::Value::from(value));
            scope.cel = Some(scope.cel.map_or(is_it.clone(), |cel| format!("({cel}) && {is_it}")));
        }
    }
    scope
}

/// Eight hexadecimal digits: values may hold what keys of limits may not.
fn digest(by: RunawayBy, value: &str) -> String {
    let hash = Sha256::digest(format!("{}={value}", by.name()));
    hash.iter().take(4).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::amount::Unit;
    use crate::core::budget::BudgetSet;
    use crate::core::cel::CallFacts;
    use crate::core::dimensions::{Dimension, Dimensions, Origin};
    use crate::core::policy::{OnLedgerUnavailable, ReservationMode, UnpricedModels};
    use crate::core::runaway::RunawayAction;

    #[test]
    fn a_throttle_holds_one_value_of_the_calls_that_the_budget_counts_and_nobody_else() {
        let monthly = Limit {
            name: "monthly".into(),
            unit: Unit::Usd,
            amount: 1_000,
            window: Window::Lifetime,
            grants: Vec::new(),
            reset_at_ms: None,
        };
        let scope = Scope { cel: Some("call.team == 'search' || call.team == 'ads'".into()), ..Scope::default() };
        let original = Budget {
            key: ResourceKey::new("shop", "b"),
            scope,
            split_by: None,
            limits: vec![monthly],
            enforcement: Enforcement::Warn,
            on_ledger_unavailable: OnLedgerUnavailable::FailClosed,
            unpriced_models: UnpricedModels::Deny,
            reservation: ReservationMode::Sound,
            runaway: None,
        };
        for (by, value) in [(RunawayBy::Agent, "a\"=/1"), (RunawayBy::Workload, "Deployment/bot")] {
            let rule = Runaway { by, action: RunawayAction::Throttle, factor: 10 };
            let held = budget(&original, &rule, &Throttle { value: value.into(), allowance: 7 }).unwrap();
            let key = key(&original.key, by, value);
            let set = BudgetSet::compile(vec![original.clone(), held]).unwrap();
            assert_eq!(set.terms(&key, 0).map(|terms| (terms.limit, terms.unit)), Some((7, Unit::Usd)));
            let leased = |team: &str, agent: &str, workload: &str| {
                let origin = Origin { workload: workload.into(), ..Origin::default() };
                let dimensions = [(Dimension::Team, team.to_owned()), (Dimension::Agent, agent.to_owned())];
                let dimensions = dimensions.into_iter().collect::<Dimensions>();
                let facts = CallFacts { origin: &origin, dimensions: &dimensions, model: "m", backend: "b", tier: None };
                set.applicable(&facts).leased
            };
            assert_eq!(leased("ads", "a\"=/1", "Deployment/bot"), [key]);
            assert!(leased("ads", "a2", "Deployment/web").is_empty() && leased("hr", "a\"=/1", "Deployment/bot").is_empty());
        }
    }
}
