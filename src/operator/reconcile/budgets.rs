//! AIBudget: where each limit stands.

use super::{ReconcileError, Round, created_ms, key};
use crate::api::budget::{AIBudget, AIBudgetStatus, BudgetAlert, LimitStatus};
use crate::api::common::condition;
use crate::api::parse::{self, ParseError};
use crate::core::amount::Unit;
use crate::core::budget::BudgetSet;
use crate::core::forecast::{Pace, percent};
use crate::core::money::PicoUsd;
use crate::core::policy::{Budget, Enforcement};
use crate::core::recommend::rfc3339;
use crate::ledger::query::LimitBalance;
use crate::operator::conditions::{Finding, Transition, conditions};
use crate::operator::context::Refusal;
use crate::operator::selection;

/// Values of a split budget that a status lists.
const MAX_LISTED: usize = 50;

/// What a status is decided from.
struct Inputs<'a> {
    budget: &'a AIBudget,
    parsed: Result<&'a Budget, String>,
    /// Each balance, and the limit's refusals if there were any.
    balances: Vec<(LimitBalance, Option<Refusal>)>,
    selected_pods: usize,
    now_ms: i64,
}

impl Round<'_> {
    pub(super) async fn budget(&self, budget: &AIBudget) -> Result<(), ReconcileError> {
        let key = key(budget);
        let parsed = parse::budget(key.clone(), &budget.spec).map_err(|e: ParseError| e.to_string());
        let compiled = parsed.clone().and_then(|b| BudgetSet::compile(vec![b]).map_err(|e| e.to_string()));
        let terms = compiled.as_ref().map(|set| set.limits_of(&key, self.now_ms)).unwrap_or_default();
        let balances = self.context.ledger.balances(&terms, self.now_ms).await?;
        let with_refusals = |b: LimitBalance| {
            let refusal = self.context.refusals.of(&b.key);
            (b, refusal)
        };
        let workloads = budget.spec.scope.workloads.as_ref();
        let selected = |pod: &&selection::PodFacts| {
            !pod.ended && selection::selects(workloads, key.namespace(), &self.context.namespace, pod, &self.snapshot.namespaces)
        };
        let inputs = Inputs {
            budget,
            parsed: parsed.as_ref().map_err(Clone::clone).and_then(|b| compiled.map(|_| b)),
            balances: balances.into_iter().map(with_refusals).collect(),
            selected_pods: self.snapshot.pods.iter().filter(selected).count(),
            now_ms: self.now_ms,
        };
        let (status, news) = decide(&inputs);
        self.publisher.status(budget, budget.status.as_ref(), &status, &news).await
    }
}

fn decide(inputs: &Inputs<'_>) -> (AIBudgetStatus, Vec<Transition>) {
    let before = inputs.budget.status.clone().unwrap_or_default();
    let generation = inputs.budget.metadata.generation;
    let mut limits = Vec::new();
    let mut findings = vec![ready(&inputs.parsed, inputs.budget.spec.enforcement)];
    if let Ok(budget) = inputs.parsed {
        limits = inputs.balances.iter().filter_map(|(balance, _)| limit_status(inputs, budget, balance)).collect();
        limits.sort_by(|a, b| b.percent_spent.cmp(&a.percent_spent).then_with(|| (&a.name, &a.split).cmp(&(&b.name, &b.split))));
        limits.truncate(MAX_LISTED);
        findings.push(exhausted(&inputs.balances));
        findings.push(alerting(&inputs.budget.spec.alerts, inputs));
    }
    let (conditions, news) = conditions(&before.conditions, &findings, generation, inputs.now_ms);
    let status = AIBudgetStatus {
        observed_generation: generation,
        conditions,
        tightest: limits.first().cloned(),
        limits,
        selected_pods: i64::try_from(inputs.selected_pods).unwrap_or(i64::MAX),
        recommendations: before.recommendations,
    };
    (status, news)
}

fn ready(parsed: &Result<&Budget, String>, enforcement: Enforcement) -> Finding {
    let (holds, reason, message) = match parsed {
        Ok(_) if enforcement == Enforcement::Warn => (true, "InForce", "Matching calls are counted, and never refused.".to_owned()),
        Ok(_) => (true, "InForce", "Every matching call must fit this budget before it is made.".to_owned()),
        Err(problems) => (false, "Invalid", format!("Not in force: {problems}")),
    };
    Finding { type_: condition::READY, holds, reason, message, is_alarm: false }
}

/// A limit is exhausted while it has less left than a call that it refused in this window needed, or was lowered to what is spent.
fn exhausted(balances: &[(LimitBalance, Option<Refusal>)]) -> Finding {
    let refused = |b: &LimitBalance, r: &Refusal| r.last_ms >= b.window_start_ms && b.left() < r.smallest;
    let refusing = balances.iter().find(|(b, refusal)| b.settled >= b.limit || refusal.is_some_and(|r| refused(b, &r)));
    let (holds, reason, message) = match refusing {
        Some((b, _)) => {
            let until = b.window_end_ms.map(|end| format!("; it is whole again at {}", rfc3339(end))).unwrap_or_default();
            let message = format!(
                "Limit {} refuses calls: {} of {} is left{until}. Raise the limit, add a grant, or lower what calls may cost (max tokens).",
                b.key,
                amount(b.unit, b.left()),
                amount(b.unit, b.limit)
            );
            (true, "LimitReached", message)
        }
        None => (false, "Within", "Every limit has room for the calls that are made.".to_owned()),
    };
    Finding { type_: condition::EXHAUSTED, holds, reason, message, is_alarm: true }
}

fn alerting(alerts: &[BudgetAlert], inputs: &Inputs<'_>) -> Finding {
    let crossed: Vec<String> =
        inputs.balances.iter().flat_map(|(b, _)| alerts.iter().filter_map(move |alert| crossed(alert, b, inputs))).collect();
    let holds = !crossed.is_empty();
    let message = if holds { crossed.join(" ") } else { "No alert's threshold is crossed.".to_owned() };
    Finding {
        type_: condition::ALERTING,
        holds,
        reason: if holds { "ThresholdCrossed" } else { "BelowThresholds" },
        message,
        is_alarm: true,
    }
}

fn crossed(alert: &BudgetAlert, balance: &LimitBalance, inputs: &Inputs<'_>) -> Option<String> {
    if let Some(threshold) = alert.percent_spent {
        let spent = percent(balance.settled, balance.limit);
        return (spent >= threshold.into()).then(|| format!("Limit {} has passed {threshold}% spent.", balance.key));
    }
    let forecast = pace(balance, inputs).forecast()?;
    let threshold = alert.percent_forecast?;
    (percent(forecast, balance.limit) >= threshold.into())
        .then(|| format!("Limit {} will pass {threshold}% by the window's end at the present rate.", balance.key))
}

fn pace(balance: &LimitBalance, inputs: &Inputs<'_>) -> Pace {
    let since_ms = balance.window_start_ms.max(created_ms(inputs.budget));
    Pace { limit: balance.limit, spent: balance.settled, since_ms, now_ms: inputs.now_ms, end_ms: balance.window_end_ms }
}

fn limit_status(inputs: &Inputs<'_>, budget: &Budget, balance: &LimitBalance) -> Option<LimitStatus> {
    let limit = budget.limits.iter().find(|l| l.name == balance.key.name())?;
    let pace = pace(balance, inputs);
    let in_unit = |n: i128| amount(balance.unit, n);
    Some(LimitStatus {
        name: limit.name.clone(),
        split: balance.key.split().map(str::to_owned),
        window: limit.window.to_string(),
        unit: match balance.unit {
            Unit::Usd => "USD",
            Unit::Tokens => "tokens",
            Unit::Requests => "requests",
        }
        .to_owned(),
        window_start: (balance.window_start_ms > 0 && balance.window_end_ms.is_some()).then(|| rfc3339(balance.window_start_ms)),
        window_end: balance.window_end_ms.map(rfc3339),
        limit: in_unit(balance.limit),
        spent: in_unit(balance.settled),
        reserved: in_unit(balance.outstanding),
        remaining: in_unit(balance.left()),
        percent_spent: percent(balance.settled, balance.limit),
        forecast: pace.forecast().map(in_unit),
        // To the minute: seconds would change with every round.
        exhausted_at: pace.exhausted_at_ms().map(|at| rfc3339(at - at.rem_euclid(60_000))),
    })
}

fn amount(unit: Unit, n: i128) -> String {
    match unit {
        Unit::Usd => PicoUsd(n).to_string(),
        Unit::Tokens | Unit::Requests => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limit::LimitKey;
    use serde_json::json;

    fn budget(spec: serde_json::Value) -> AIBudget {
        let mut budget = AIBudget::new("b", serde_json::from_value(spec).expect("a spec"));
        budget.metadata.namespace = Some("shop".into());
        budget.metadata.generation = Some(3);
        budget
    }

    fn balance(settled: i128, outstanding: i128) -> LimitBalance {
        LimitBalance {
            key: LimitKey("shop/b/total".into()),
            unit: Unit::Usd,
            limit: 1_000_000_000_000,
            settled,
            outstanding,
            reserved: 0,
            window_start_ms: 0,
            window_end_ms: None,
        }
    }

    fn decided(resource: &AIBudget, balances: Vec<(LimitBalance, Option<Refusal>)>) -> (AIBudgetStatus, Vec<Transition>) {
        let parsed = parse::budget(key(resource), &resource.spec).map_err(|e| e.to_string());
        decide(&Inputs { budget: resource, parsed: parsed.as_ref().map_err(Clone::clone), balances, selected_pods: 2, now_ms: 7_200_000 })
    }

    fn is(status: &AIBudgetStatus, type_: &str) -> Option<bool> {
        status.conditions.iter().find(|c| c.type_ == type_).map(|c| c.status == "True")
    }

    #[test]
    fn a_status_says_where_each_limit_stands() {
        let budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Lifetime"}], "alerts": [{"percentSpent": 40}]}));
        let (status, news) = decided(&budget, vec![(balance(400_000_000_000, 100_000_000_000), None)]);
        let limit = status.tightest.clone().expect("a limit");
        assert_eq!((limit.spent.as_str(), limit.reserved.as_str(), limit.remaining.as_str()), ("$0.400000", "$0.100000", "$0.500000"));
        assert_eq!((limit.percent_spent, limit.window.as_str(), status.selected_pods), (40, "Lifetime", 2));
        assert_eq!((is(&status, "Ready"), is(&status, "Exhausted"), is(&status, "Alerting")), (Some(true), Some(false), Some(true)));
        assert_eq!(news.iter().map(|t| (t.reason, t.warning)).collect::<Vec<_>>(), [("InForce", false), ("ThresholdCrossed", true)]);
    }

    #[test]
    fn a_limit_is_exhausted_while_it_has_less_left_than_what_it_refused() {
        let budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Lifetime"}]}));
        let refusal = Refusal { count: 1, last_ms: 5, smallest: 50_000_000_000 };
        let (status, news) = decided(&budget, vec![(balance(960_000_000_000, 0), Some(refusal))]);
        assert_eq!(is(&status, "Exhausted"), Some(true));
        let message = &news.iter().find(|t| t.reason == "LimitReached").expect("an Event").message;
        assert!(message.contains("$0.040000 of $1.000000 is left") && message.contains("Raise the limit"), "{message}");
        let (status, _) = decided(&budget, vec![(balance(100, 0), Some(refusal))]);
        assert_eq!(is(&status, "Exhausted"), Some(false), "a raised limit refuses no longer");
        let (status, _) = decided(&budget, vec![(balance(1_000_000_000_000, 0), None)]);
        assert_eq!(is(&status, "Exhausted"), Some(true), "a limit that was lowered to what is spent refuses whatever comes");
    }

    #[test]
    fn a_budget_that_is_not_understood_is_not_ready_and_says_why() {
        let budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day", "timeZone": "Mars/Base"}]}));
        let (status, news) = decided(&budget, vec![]);
        assert_eq!((is(&status, "Ready"), status.observed_generation), (Some(false), Some(3)));
        assert!(news[0].message.contains("spec.limits[0].timeZone"), "{news:?}");
    }
}
