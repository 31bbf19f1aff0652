//! Budgets, compiled: which limits a call must fit, and what each limit is at a moment.

use std::collections::BTreeMap;

use super::cel::{CallFacts, CelError, Expression};
use super::limit::{LimitKey, LimitTerms, Shortfall, Span};
use super::policy::{Budget, Enforcement, Limit, OnLedgerUnavailable, ReservationMode, ResourceKey, Scope, UnpricedModels};
use super::window::{Schedule, UnknownTimeZone};

/// Budgets that are ready to be asked about calls.
#[derive(Clone, Debug, Default)]
pub struct BudgetSet {
    budgets: Vec<CompiledBudget>,
    /// Where each limit is, by its key without a split value: budget and limit.
    places: BTreeMap<LimitKey, (usize, usize)>,
}

#[derive(Clone, Debug)]
struct CompiledBudget {
    budget: Budget,
    expression: Option<Expression>,
    limits: Vec<CompiledLimit>,
}

#[derive(Clone, Debug)]
struct CompiledLimit {
    key: LimitKey,
    limit: Limit,
    schedule: Schedule,
}

/// What the budgets say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicable {
    /// Limits that must have room before the call is made (`Block` and `Fit`), sorted.
    pub leased: Vec<LimitKey>,
    /// Limits that only count the call (`Warn`), sorted.
    pub warned: Vec<LimitKey>,
    /// Those of `leased` whose budget says `Fit`.
    pub fit: Vec<LimitKey>,
    /// Every budget in `leased` is `FailOpen`, so the call may go on while the ledger is away.
    pub fail_open: bool,
    /// What the strictest budget in `leased` says of a model without a price.
    pub unpriced: UnpricedModels,
    /// `Calibrated` when every budget in `leased` is: one that says `Sound` is promised that nothing is overspent.
    pub reservation: ReservationMode,
}

impl Applicable {
    /// True when a call that lacks `short` may be made smaller instead of being refused: every limit that is short says so.
    /// What the other budgets say does not matter, since they have room for more.
    pub fn may_shrink(&self, short: &[Shortfall]) -> bool {
        short.iter().all(|shortfall| self.fit.contains(&shortfall.key))
    }
}

/// Why a budget cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    #[error("budget {budget}: scope.match: {error}")]
    Match { budget: ResourceKey, error: CelError },
    #[error("budget {budget}: limit {limit}: {error}")]
    TimeZone { budget: ResourceKey, limit: String, error: UnknownTimeZone },
    #[error("budget {budget} has two limits named {limit:?}; give each its own name")]
    DuplicateLimit { budget: ResourceKey, limit: String },
}

impl BudgetSet {
    /// # Errors
    /// The first budget that cannot be enforced; nothing is enforced in part.
    pub fn compile(budgets: Vec<Budget>) -> Result<BudgetSet, BudgetError> {
        let mut set = BudgetSet::default();
        for budget in budgets {
            let compiled = CompiledBudget::new(budget)?;
            for (index, limit) in compiled.limits.iter().enumerate() {
                if set.places.insert(limit.key.clone(), (set.budgets.len(), index)).is_some() {
                    return Err(BudgetError::DuplicateLimit { budget: compiled.budget.key.clone(), limit: limit.limit.name.clone() });
                }
            }
            set.budgets.push(compiled);
        }
        Ok(set)
    }

    /// The limits that count this call.
    pub fn applicable(&self, call: &CallFacts<'_>) -> Applicable {
        let mut found = Applicable {
            leased: Vec::new(),
            warned: Vec::new(),
            fit: Vec::new(),
            fail_open: true,
            unpriced: UnpricedModels::Allow,
            reservation: ReservationMode::Calibrated,
        };
        for compiled in self.budgets.iter().filter(|b| b.counts(call)) {
            let budget = &compiled.budget;
            if budget.enforcement == Enforcement::Warn {
                found.warned.extend(compiled.keys(call));
                continue;
            }
            found.leased.extend(compiled.keys(call));
            if budget.enforcement == Enforcement::Fit {
                found.fit.extend(compiled.keys(call));
            }
            found.fail_open &= budget.on_ledger_unavailable == OnLedgerUnavailable::FailOpen;
            if budget.unpriced_models == UnpricedModels::Deny {
                found.unpriced = UnpricedModels::Deny;
            }
            if budget.reservation == ReservationMode::Sound {
                found.reservation = ReservationMode::Sound;
            }
        }
        found.leased.sort_unstable();
        found.warned.sort_unstable();
        found
    }

    /// A limit as it stands at `now_ms`; `None` when there is no such limit, or when it is split and the key names no
    /// value (or the reverse).
    pub fn terms(&self, key: &LimitKey, now_ms: i64) -> Option<LimitTerms> {
        let (budget, limit) = match key.split() {
            None => self.places.get(key)?,
            Some(_) => self.places.get(&LimitKey(key.base().to_owned()))?,
        };
        let compiled = &self.budgets[*budget];
        let split = compiled.budget.split_by.is_some();
        (split == key.split().is_some()).then(|| compiled.limits[*limit].terms(key.clone(), now_ms))
    }

    /// Every limit of a budget as it stands at `now_ms`; those of a split budget without a value, which stands for all
    /// of its values.
    pub fn limits_of(&self, budget: &ResourceKey, now_ms: i64) -> Vec<LimitTerms> {
        let compiled = self.budgets.iter().filter(|b| b.budget.key == *budget);
        compiled.flat_map(|b| &b.limits).map(|limit| limit.terms(limit.key.clone(), now_ms)).collect()
    }

    /// The budgets that count this call.
    pub fn counting<'a>(&'a self, call: &'a CallFacts<'_>) -> impl Iterator<Item = &'a Budget> {
        self.budgets.iter().filter(|b| b.counts(call)).map(|b| &b.budget)
    }

    /// The budgets themselves.
    pub fn iter(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.iter().map(|b| &b.budget)
    }
}

impl CompiledBudget {
    fn new(budget: Budget) -> Result<CompiledBudget, BudgetError> {
        let expression = budget.scope.cel.as_deref().map(Expression::compile).transpose();
        let expression = expression.map_err(|error| BudgetError::Match { budget: budget.key.clone(), error })?;
        let limits = budget.limits.iter().map(|limit| CompiledLimit::new(&budget.key, limit)).collect::<Result<_, _>>()?;
        Ok(CompiledBudget { budget, expression, limits })
    }

    /// Whether the budget counts a call. A `match` that could not be evaluated counts it: better a call too many in a
    /// budget than one that nobody holds to it.
    fn counts(&self, call: &CallFacts<'_>) -> bool {
        self.budget.scope.lists(call) && self.expression.as_ref().is_none_or(|e| e.matches(call).unwrap_or(true))
    }

    /// The keys of the limits for this call.
    fn keys<'a>(&'a self, call: &'a CallFacts<'_>) -> impl Iterator<Item = LimitKey> + 'a {
        self.limits.iter().map(|limit| match self.budget.split_by {
            None => limit.key.clone(),
            Some(dimension) => limit.key.with_split(call.dimensions.get(dimension).unwrap_or_default()),
        })
    }
}

impl Scope {
    /// Whether the call's dimensions and model are among those listed; the expression is not looked at.
    fn lists(&self, call: &CallFacts<'_>) -> bool {
        (self.models.is_empty() || self.models.contains(call.model))
            && self.dimensions.iter().all(|(d, values)| call.dimensions.get(*d).is_some_and(|v| values.contains(v)))
    }
}

impl CompiledLimit {
    fn new(budget: &ResourceKey, limit: &Limit) -> Result<CompiledLimit, BudgetError> {
        let schedule = Schedule::new(limit.window.clone());
        let schedule = schedule.map_err(|error| BudgetError::TimeZone { budget: budget.clone(), limit: limit.name.clone(), error })?;
        Ok(CompiledLimit { key: LimitKey::new(budget, &limit.name), limit: limit.clone(), schedule })
    }

    fn terms(&self, key: LimitKey, now_ms: i64) -> LimitTerms {
        let in_force = self.limit.grants.iter().filter(|g| g.from_ms <= now_ms && now_ms < g.until_ms);
        let limit = in_force.fold(self.limit.amount, |sum, grant| sum.saturating_add(grant.add));
        LimitTerms { key, unit: self.limit.unit, limit, span: self.span_at(now_ms) }
    }

    /// A reset ends the window that it falls into, and begins it anew: two windows with an account each, as at the end of a day. What
    /// was leased before it still counts in the first, so that neither can be overspent.
    fn span_at(&self, now_ms: i64) -> Span {
        match (self.schedule.span_at(now_ms), self.limit.reset_at_ms) {
            (Span::Fixed { start_ms, end_ms }, Some(reset)) if start_ms < reset && reset < end_ms => {
                if now_ms < reset {
                    Span::Fixed { start_ms, end_ms: reset }
                } else {
                    Span::Fixed { start_ms: reset, end_ms }
                }
            }
            (span, _) => span,
        }
    }
}

/// Limits of budgets that are not what they were, or are no more: what is held under them, or under a value of one that is split, was
/// measured by the old ones.
pub fn changed_limits(before: &[Budget], now: &[Budget]) -> Vec<LimitKey> {
    let changed = before.iter().filter(|old| !now.contains(old));
    changed.flat_map(|budget| budget.limits.iter().map(|limit| LimitKey::new(&budget.key, &limit.name))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::core::amount::Unit;
    use crate::core::dimensions::{Dimension, Dimensions, Origin};
    use crate::core::policy::{CalendarPeriod, Grant, Window};

    fn limit(name: &str, amount: i128) -> Limit {
        let window = Window::Calendar { period: CalendarPeriod::Day, time_zone: "UTC".into() };
        Limit { name: name.into(), unit: Unit::Usd, amount, window, grants: Vec::new(), reset_at_ms: None }
    }

    fn budget(name: &str) -> Budget {
        Budget {
            key: ResourceKey::new("shop", name),
            scope: Scope::default(),
            split_by: None,
            limits: vec![limit("daily", 100)],
            enforcement: Enforcement::Block,
            on_ledger_unavailable: OnLedgerUnavailable::FailClosed,
            unpriced_models: UnpricedModels::Deny,
            reservation: ReservationMode::Sound,
            runaway: None,
        }
    }

    fn compiled(budgets: impl IntoIterator<Item = Budget>) -> BudgetSet {
        BudgetSet::compile(budgets.into_iter().collect()).unwrap()
    }

    /// What the budgets say of a call to `gpt-5` with these dimensions.
    fn applicable(set: &BudgetSet, dimensions: &[(Dimension, &str)]) -> Applicable {
        let origin = Origin { namespace: "shop".into(), ..Origin::default() };
        let dimensions = dimensions.iter().map(|(d, v)| (*d, (*v).to_owned())).collect::<Dimensions>();
        set.applicable(&CallFacts { origin: &origin, dimensions: &dimensions, model: "gpt-5", backend: "openai", tier: None })
    }

    fn keys(keys: &[LimitKey]) -> Vec<&str> {
        keys.iter().map(|k| k.0.as_str()).collect()
    }

    #[test]
    fn limits_have_changed_when_their_budget_has_or_when_it_is_gone() {
        let lowered = Budget { limits: vec![limit("daily", 99), limit("hourly", 9)], ..budget("lowered") };
        let before = [budget("same"), budget("lowered"), budget("gone")];
        let now = [budget("new"), lowered, budget("same")];
        assert_eq!(keys(&changed_limits(&before, &now)), ["shop/lowered/daily", "shop/gone/daily"]);
        assert_eq!(changed_limits(&before, &before), []);
    }

    #[test]
    fn a_call_is_held_to_every_budget_that_matches_it() {
        let values = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<BTreeSet<_>>();
        let with_scope = |name, scope| Budget { scope, ..budget(name) };
        let dimensions = [(Dimension::Team, values(&["support", "search"]))].into();
        let set = compiled([
            budget("all"),
            with_scope("team", Scope { dimensions, ..Scope::default() }),
            with_scope("model", Scope { models: values(&["claude-opus-5"]), ..Scope::default() }),
            with_scope("cel", Scope { cel: Some("call.team == 'support' && call.model == 'gpt-5'".into()), ..Scope::default() }),
        ]);
        let leased = |dimensions: &[_]| keys(&applicable(&set, dimensions).leased).join(" ");
        assert_eq!(leased(&[(Dimension::Team, "support")]), "shop/all/daily shop/cel/daily shop/team/daily");
        assert_eq!(leased(&[(Dimension::Team, "search")]), "shop/all/daily shop/team/daily");
        assert_eq!(leased(&[]), "shop/all/daily");
    }

    #[test]
    fn a_split_budget_has_a_limit_for_each_value_and_one_for_calls_without() {
        let set = compiled([Budget { split_by: Some(Dimension::Session), ..budget("agents") }]);
        assert_eq!(keys(&applicable(&set, &[(Dimension::Session, "s=1")]).leased), ["shop/agents/daily=s=1"]);
        assert_eq!(keys(&applicable(&set, &[]).leased), ["shop/agents/daily="]);
        for (key, known) in [("shop/agents/daily=s=1", true), ("shop/agents/daily=", true), ("shop/agents/daily", false)] {
            assert_eq!(set.terms(&LimitKey(key.into()), 0).is_some(), known, "{key}");
        }
        assert_eq!(set.limits_of(&ResourceKey::new("shop", "agents"), 0)[0].key.0, "shop/agents/daily");
    }

    #[test]
    fn the_strictest_budget_decides_and_one_that_only_warns_does_not() {
        let lenient = Budget {
            enforcement: Enforcement::Fit,
            on_ledger_unavailable: OnLedgerUnavailable::FailOpen,
            unpriced_models: UnpricedModels::Allow,
            reservation: ReservationMode::Calibrated,
            ..budget("lenient")
        };
        let warning = Budget { enforcement: Enforcement::Warn, ..budget("warning") };
        let found = applicable(&compiled([lenient.clone(), warning.clone()]), &[]);
        assert_eq!((keys(&found.leased), keys(&found.warned)), (vec!["shop/lenient/daily"], vec!["shop/warning/daily"]));
        assert!(found.fit == found.leased && found.fail_open && found.unpriced == UnpricedModels::Allow);
        assert_eq!(found.reservation, ReservationMode::Calibrated);
        let found = applicable(&compiled([lenient, budget("strict")]), &[]);
        assert!(found.fit.len() == 1 && !found.fail_open && found.unpriced == UnpricedModels::Deny);
        assert_eq!(found.reservation, ReservationMode::Sound);
    }

    #[test]
    fn a_call_is_made_smaller_when_every_limit_that_is_short_says_so() {
        let lenient = Budget { enforcement: Enforcement::Fit, ..budget("lenient") };
        let found = applicable(&compiled([lenient, budget("strict")]), &[]);
        let short = |keys: &[&str]| {
            let one = |key: &&str| Shortfall { key: LimitKey((*key).into()), unit: Unit::Usd, left: 1, idle: 0, resets_at_ms: None };
            found.may_shrink(&keys.iter().map(one).collect::<Vec<_>>())
        };
        assert!(short(&["shop/lenient/daily"]), "the strict one has room");
        assert!(!short(&["shop/strict/daily"]) && !short(&["shop/lenient/daily", "shop/strict/daily"]));
    }

    #[test]
    fn a_grant_raises_its_limit_while_it_lasts() {
        let mut raised = budget("raised");
        raised.limits[0].grants =
            vec![Grant { add: 10, from_ms: 1000, until_ms: 3000 }, Grant { add: i128::MAX, from_ms: 2000, until_ms: 3000 }];
        let set = compiled([raised]);
        let limit = |now| set.terms(&LimitKey("shop/raised/daily".into()), now).map(|t| t.limit);
        assert_eq!([limit(999), limit(1000), limit(2999), limit(3000)], [100, 110, i128::MAX, 100].map(Some));
    }

    #[test]
    fn a_reset_divides_the_window_that_it_is_in_and_no_other() {
        let day = 86_400_000;
        let mut reset = budget("reset");
        reset.limits[0].reset_at_ms = Some(day + 5);
        let forever = Limit { name: "ever".into(), window: Window::Lifetime, reset_at_ms: Some(day), ..limit("ever", 7) };
        reset.limits.push(forever);
        let set = compiled([reset]);
        let span = |limit: &str, now| match set.terms(&LimitKey(format!("shop/reset/{limit}")), now).map(|t| t.span) {
            Some(Span::Fixed { start_ms, end_ms }) => (start_ms, end_ms),
            other => panic!("{other:?}"),
        };
        let found = [day - 1, day, day + 4, day + 5, 2 * day].map(|now| span("daily", now));
        assert_eq!(found, [(0, day), (day, day + 5), (day, day + 5), (day + 5, 2 * day), (2 * day, 3 * day)]);
        assert_eq!([span("ever", 0), span("ever", day)], [(0, day), (day, i64::MAX)]);
    }

    #[test]
    fn terms_carry_the_window_of_the_moment() {
        let set = compiled([budget("all")]);
        let day = 86_400_000;
        let span = |now| set.terms(&LimitKey("shop/all/daily".into()), now).map(|t| t.span);
        assert_eq!(span(day - 1), Some(Span::Fixed { start_ms: 0, end_ms: day }));
        assert_eq!(span(day), Some(Span::Fixed { start_ms: day, end_ms: 2 * day }));
        assert_eq!(set.terms(&LimitKey("shop/all/monthly".into()), 0), None);
        assert_eq!(set.terms(&LimitKey("shop/all/daily=x".into()), 0), None);
    }

    #[test]
    fn what_cannot_be_enforced_is_refused_as_a_whole() {
        let bad_match = Budget { scope: Scope { cel: Some("call.taem == 'x'".into()), ..Scope::default() }, ..budget("m") };
        let mut bad_zone = budget("z");
        bad_zone.limits[0].window = Window::Calendar { period: CalendarPeriod::Day, time_zone: "Mars".into() };
        let twice = Budget { limits: vec![limit("daily", 1), limit("daily", 2)], ..budget("t") };
        for (bad, expected) in
            [(bad_match, "budget shop/m: scope.match: line 1"), (bad_zone, "limit daily: \"Mars\""), (twice, "two limits")]
        {
            let message = BudgetSet::compile(vec![budget("fine"), bad]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
