//! AIBudget specs.

use std::collections::{BTreeMap, BTreeSet};

use super::{ParseError, Problems, positive};
use crate::api::budget::{AIBudgetSpec, BudgetGrant, BudgetLimit, BudgetScope, LimitPeriod};
use crate::core::amount::Unit;
use crate::core::cel::Expression;
use crate::core::dimensions::Dimension;
use crate::core::money::PicoUsd;
use crate::core::policy::{Budget, CalendarPeriod, Grant, Limit, ResourceKey, Scope, Window};
use crate::core::runaway::Runaway;
use crate::core::window;

const TIME: &str = "must be a time as in RFC 3339, for example 2026-12-01T00:00:00Z";

/// # Errors
/// Everything that is wrong with the spec.
pub fn budget(key: ResourceKey, spec: &AIBudgetSpec) -> Result<Budget, ParseError> {
    let mut problems = Problems::default();
    let scope = scope(&spec.scope, &mut problems);
    let mut limits = Vec::new();
    for (index, limit) in spec.limits.iter().enumerate() {
        let field = format!("spec.limits[{index}]");
        if spec.limits[..index].iter().any(|earlier| earlier.name == limit.name) {
            problems.add(format!("{field}.name"), format!("{:?} is taken by an earlier limit; give each its own name", limit.name));
        }
        limits.extend(self::limit(&field, limit, &mut problems));
    }
    if spec.limits.is_empty() {
        problems.add("spec.limits", "a budget needs at least one limit, for example {name: monthly, usd: \"100.00\", period: Month}");
    }
    for (index, grant) in spec.grants.iter().enumerate() {
        let field = format!("spec.grants[{index}]");
        match limits.iter_mut().find(|l| l.name == grant.limit) {
            Some(limit) => limit.grants.extend(self::grant(&field, grant, limit.unit, &mut problems)),
            None => problems.add(format!("{field}.limit"), format!("there is no limit {:?} in spec.limits", grant.limit)),
        }
    }
    problems.finish(Some(Budget {
        key,
        scope,
        split_by: spec.split_by,
        limits,
        enforcement: spec.enforcement,
        on_ledger_unavailable: spec.on_ledger_unavailable,
        unpriced_models: spec.unpriced_models,
        reservation: spec.reservation,
        runaway: spec.runaway.as_ref().map(|r| Runaway {
            by: r.by,
            action: r.action,
            factor: u16::try_from(r.factor.max(2)).unwrap_or(u16::MAX),
        }),
    }))
}

fn scope(scope: &BudgetScope, problems: &mut Problems) -> Scope {
    let lists = [
        (Dimension::Feature, &scope.features),
        (Dimension::Team, &scope.teams),
        (Dimension::Process, &scope.processes),
        (Dimension::Agent, &scope.agents),
    ];
    let dimensions: BTreeMap<_, BTreeSet<_>> =
        lists.into_iter().filter(|(_, values)| !values.is_empty()).map(|(d, values)| (d, values.iter().cloned().collect())).collect();
    if let Some(cel) = &scope.cel {
        problems.check("spec.scope.match", Expression::compile(cel));
    }
    Scope { dimensions, models: scope.models.iter().cloned().collect(), cel: scope.cel.clone() }
}

fn limit(field: &str, limit: &BudgetLimit, problems: &mut Problems) -> Option<Limit> {
    let amount = amount(field, limit.usd, limit.tokens, limit.requests, problems);
    let window = window_of(field, limit, problems);
    let reset = limit.reset_at.as_deref();
    let reset_at_ms = reset.and_then(|text| problems.check(format!("{field}.resetAt"), window::from_rfc3339(text).ok_or(TIME)));
    if reset.is_some() && limit.period == LimitPeriod::Rolling {
        problems.add(format!("{field}.resetAt"), "is not for period Rolling, whose window frees itself; add a grant instead");
    }
    let (unit, amount) = amount?;
    Some(Limit { name: limit.name.clone(), unit, amount, window: window?, grants: Vec::new(), reset_at_ms })
}

/// Exactly one of the three units, positive.
fn amount(field: &str, usd: Option<PicoUsd>, tokens: Option<i64>, requests: Option<i64>, problems: &mut Problems) -> Option<(Unit, i128)> {
    match (usd, tokens, requests) {
        (Some(usd), None, None) if usd > PicoUsd::ZERO => Some((Unit::Usd, usd.0)),
        (Some(_), None, None) => {
            problems.add(format!("{field}.usd"), "must be more than zero");
            None
        }
        (None, Some(n), None) => problems.check(format!("{field}.tokens"), positive(n)).map(|n| (Unit::Tokens, n.into())),
        (None, None, Some(n)) => problems.check(format!("{field}.requests"), positive(n)).map(|n| (Unit::Requests, n.into())),
        _ => {
            problems.add(field, "set exactly one of usd, tokens and requests");
            None
        }
    }
}

fn window_of(field: &str, limit: &BudgetLimit, problems: &mut Problems) -> Option<Window> {
    let period = match limit.period {
        LimitPeriod::Day => CalendarPeriod::Day,
        LimitPeriod::Week => CalendarPeriod::Week,
        LimitPeriod::Month => CalendarPeriod::Month,
        LimitPeriod::Year => CalendarPeriod::Year,
        LimitPeriod::Lifetime => return Some(Window::Lifetime),
        LimitPeriod::Rolling => {
            let length = limit.rolling.as_deref().and_then(length_ms);
            if length.is_none() {
                problems.add(format!("{field}.rolling"), "must be a number and m, h or d, at most ten years, for example 24h");
            }
            return Some(Window::Rolling { length_ms: length? });
        }
    };
    problems.check(format!("{field}.timeZone"), window::time_zone(&limit.time_zone))?;
    Some(Window::Calendar { period, time_zone: limit.time_zone.clone() })
}

/// `90m`, `24h`, `30d` in milliseconds.
fn length_ms(text: &str) -> Option<i64> {
    const LONGEST_MS: i64 = 3_660 * 86_400_000;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ms = match unit {
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    number.checked_mul(unit_ms).filter(|ms| (1..=LONGEST_MS).contains(ms))
}

fn grant(field: &str, grant: &BudgetGrant, limit_unit: Unit, problems: &mut Problems) -> Option<Grant> {
    let amount = amount(field, grant.usd, grant.tokens, grant.requests, problems);
    let from = problems.check(format!("{field}.from"), window::from_rfc3339(&grant.from).ok_or(TIME));
    let until = problems.check(format!("{field}.until"), window::from_rfc3339(&grant.until).ok_or(TIME));
    let (unit, add) = amount?;
    let (from_ms, until_ms) = (from?, until?);
    if unit != limit_unit {
        problems.add(
            field,
            format!("the grant is in {unit:?} and limit {:?} is in {limit_unit:?}; grant in the unit of the limit", grant.limit),
        );
    }
    if until_ms <= from_ms {
        problems.add(format!("{field}.until"), "must be later than `from`");
    }
    Some(Grant { add, from_ms, until_ms })
}
