use serde_json::json;

use super::memory::{Remembered, WRITE_PAUSE_MS};
use super::*;
use crate::ledger::query::LimitBalance;
use crate::operator::context::Refusal;
use crate::operator::news::Refused;

const DAY_MS: i64 = 86_400_000;
const DOLLAR: i128 = 1_000_000_000_000;

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

/// One refusal of a call that needed so much.
fn refusal(last_ms: i64, smallest: i128) -> Refusal {
    Refusal { refused: Refused { count: 1, smallest, left: 0, is_held: false }, last_ms }
}

/// One round at a moment; the status is the resource's from then on.
fn round(
    resource: &mut AIBudget,
    remembered: &mut Remembered,
    balances: Vec<(LimitBalance, Option<Refusal>)>,
    now_ms: i64,
) -> (AIBudgetStatus, Vec<Transition>) {
    let parsed = parse::budget(key(resource), &resource.spec).map_err(|e| e.to_string());
    let found = balances.into_iter().map(|(balance, refusal)| Found {
        window: parsed.as_ref().expect("a budget").limits[0].window.clone(),
        refusal,
        since_ms: balance.window_start_ms,
        reading: Reading { window_start_ms: balance.window_start_ms, settled: balance.settled, at_ms: now_ms },
        balance,
    });
    let limits = remembered.look(found.collect(), &resource.spec.alerts, said(resource, condition::ALERTING), now_ms);
    let parsed = parsed.as_ref().map_err(Clone::clone);
    let (status, news) =
        decide(&Inputs { budget: resource, parsed, limits, running: vec![], outage: None, fault: None, selected_pods: 2, now_ms });
    resource.status = Some(status.clone());
    (status, news)
}

fn decided(resource: &AIBudget, balances: Vec<(LimitBalance, Option<Refusal>)>) -> (AIBudgetStatus, Vec<Transition>) {
    round(&mut resource.clone(), &mut Remembered::default(), balances, 7_200_000)
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
    let refusal = refusal(5, 50_000_000_000);
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

/// A dollar a day; since midnight `settled` was spent.
fn daily(settled: i128) -> LimitBalance {
    LimitBalance { window_start_ms: DAY_MS, window_end_ms: Some(2 * DAY_MS), ..balance(settled, 0) }
}

#[test]
fn a_status_foretells_the_windows_end_and_when_a_limit_is_used_up() {
    let budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}], "alerts": [{"percentForecast": 120}]}));
    let noon = DAY_MS + DAY_MS / 2;
    let (status, _) = round(&mut budget.clone(), &mut Remembered::default(), vec![(daily(DOLLAR * 3 / 4), None)], noon);
    let limit = status.tightest.expect("a limit");
    assert_eq!(limit.forecast.as_deref(), Some("$1.500000"));
    assert_eq!(limit.exhausted_at.as_deref(), Some("1970-01-02T16:00:00Z"));
    assert_eq!((limit.forecast_low, limit.forecast_high), (None, None), "of no hour is it known what it cost");
    assert!(status.conditions.iter().any(|c| c.message.contains("forecast to pass 120% by the window's end")));
}

#[test]
fn nothing_is_written_while_nothing_is_spent_and_a_spending_budget_is_written_every_ten_seconds() {
    let mut budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}], "alerts": [{"percentForecast": 90}]}));
    let mut remembered = Remembered::default();
    let mut writes = |spent_at: fn(i64) -> i128, seconds: std::ops::Range<i64>| {
        let mut writes = 0;
        for second in seconds {
            let (before, now_ms) = (budget.status.clone(), DAY_MS + second * 1_000);
            let (status, news) = round(&mut budget, &mut remembered, vec![(daily(spent_at(second)), None)], now_ms);
            match remembered.is_due(before.as_ref(), &status, !news.is_empty(), now_ms) {
                Ok(()) => writes += usize::from(before.as_ref() != Some(&status)),
                // What is not written is not what the next round finds.
                Err(until_ms) => {
                    assert!(until_ms <= now_ms + WRITE_PAUSE_MS);
                    budget.status = before;
                }
            }
        }
        writes
    };
    // A round each second, of which each has spent something.
    assert!(writes(|second| i128::from(second) * 1_000_000, 43_200..43_800) <= 61);
    // The same again, and nothing more is spent for an hour: what is left changes its two digits now and then.
    let idle = writes(|_| 43_800 * 1_000_000, 43_800..47_400);
    assert!(idle <= 8, "{idle} writes in an hour");
}

#[test]
fn ten_thousand_idle_budgets_change_no_status_from_one_round_to_the_next() {
    let resource = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Month"}], "alerts": [{"burnRate": "Fast"}]}));
    let month = |settled| LimitBalance { window_start_ms: 0, window_end_ms: Some(31 * DAY_MS), ..balance(settled, 0) };
    let mut changed = 0;
    for n in 0..10_000 {
        let (mut resource, mut remembered) = (resource.clone(), Remembered::default());
        let spent = DOLLAR * (n + 1) / 20_011;
        let (first, _) = round(&mut resource, &mut remembered, vec![(month(spent), None)], 10 * DAY_MS);
        let (second, _) = round(&mut resource, &mut remembered, vec![(month(spent), None)], 10 * DAY_MS + 10_000);
        changed += usize::from(first != second);
    }
    // Now and then one of two digits turns.
    assert!(changed <= 20, "{changed} of 10,000");
}

#[test]
fn an_alert_that_joins_others_is_an_event_of_its_own_and_one_that_is_over_waits() {
    let alerts = json!([{"percentSpent": 50}, {"percentSpent": 80}, {"burnRate": "Fast"}]);
    let mut budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}], "alerts": alerts}));
    let mut remembered = Remembered::default();
    let mut at = |minute: i64, percent: i128| {
        let now_ms = DAY_MS + DAY_MS / 2 + minute * 60_000;
        let (status, news) = round(&mut budget, &mut remembered, vec![(daily(DOLLAR * percent / 100), None)], now_ms);
        let messages = news.into_iter().filter(|t| t.reason != "InForce").map(|t| t.message).collect::<Vec<_>>().join(" ");
        (is(&status, "Alerting"), messages)
    };
    assert_eq!(at(0, 40), (Some(false), String::new()));
    let (alerting, news) = at(1, 55);
    assert!(alerting == Some(true) && news.contains("50% spent") && news.contains("14.4 times"), "{news}");
    assert_eq!(at(2, 55), (Some(true), String::new()));
    let (_, news) = at(3, 85);
    assert!(news.contains("80% spent") && !news.contains("50% spent"), "{news}");
    assert_eq!(at(40, 85).1, "", "that it burns no more is no news while others hold");
}

#[test]
fn a_restart_neither_ends_an_alert_nor_tells_of_it_twice() {
    let mut budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}], "alerts": [{"burnRate": "Fast"}]}));
    let noon = DAY_MS + DAY_MS / 2;
    let mut remembered = Remembered::default();
    round(&mut budget, &mut remembered, vec![(daily(0), None)], noon);
    let (status, _) = round(&mut budget, &mut remembered, vec![(daily(DOLLAR / 2), None)], noon + 60_000);
    assert_eq!(is(&status, "Alerting"), Some(true));
    let mut remembered = Remembered::default();
    let (status, news) = round(&mut budget, &mut remembered, vec![(daily(DOLLAR / 2), None)], noon + 120_000);
    assert_eq!((is(&status, "Alerting"), news), (Some(true), vec![]));
    let (status, _) = round(&mut budget, &mut remembered, vec![(daily(DOLLAR / 2), None)], noon + 120_000 + 600_000);
    assert_eq!(is(&status, "Alerting"), Some(false));
}

#[test]
fn calls_that_settle_each_second_do_not_make_exhausted_flap() {
    let mut budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}]}));
    let mut remembered = Remembered::default();
    let refusal = refusal(DAY_MS, DOLLAR / 20);
    let mut changes = 0;
    for second in 0..600 {
        // A lease takes what is left and comes back.
        let held = if second % 2 == 0 { DOLLAR / 10 } else { 0 };
        let balance = LimitBalance { outstanding: held, ..daily(DOLLAR * 9 / 10) };
        let (_, news) = round(&mut budget, &mut remembered, vec![(balance, Some(refusal))], DAY_MS + second * 1_000);
        changes += news.iter().filter(|t| t.reason == "LimitReached" || t.reason == "Within").count();
    }
    assert_eq!(changes, 1);
    let raised = LimitBalance { limit: 2 * DOLLAR, ..daily(DOLLAR * 9 / 10) };
    let (status, _) = round(&mut budget, &mut remembered, vec![(raised, Some(refusal))], DAY_MS + 600_000);
    assert_eq!(is(&status, "Exhausted"), Some(false), "a raised limit refuses no longer");
}

#[test]
fn debt_is_carried_and_shown_and_a_grant_in_force_says_who_granted_it() {
    let grant = json!({"limit": "total", "usd": "0.5", "from": "1970-01-01T00:00:00Z", "until": "1970-01-01T03:00:00Z",
        "reason": "launch", "approvedBy": "alice"});
    let budget = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Lifetime"}], "grants": [grant]}));
    let (status, _) = decided(&budget, vec![(balance(DOLLAR * 5 / 4, 0), None)]);
    let limit = status.tightest.expect("a limit");
    assert_eq!((limit.remaining.as_str(), limit.percent_spent), ("-$0.250000", 125));
    assert_eq!((limit.grants[0].approved_by.as_deref(), limit.grants[0].amount.as_str()), (Some("alice"), "$0.500000"));
}

#[test]
fn a_runaway_is_named_with_what_it_spent_and_what_is_done() {
    let spec = json!({"limits": [{"name": "total", "usd": "1", "period": "Day"}], "runaway": {"action": "Throttle"}});
    let resource = budget(spec);
    let parsed = parse::budget(key(&resource), &resource.spec).expect("a budget");
    let running = |value: &str| Running {
        value: value.into(),
        per_minute: DOLLAR / 10,
        usual: DOLLAR / 1_000,
        basis: Basis::Past,
        allowance: DOLLAR / 300,
        drought: None,
    };
    let decided = |resource: &AIBudget, running| {
        decide(&Inputs {
            budget: resource,
            parsed: Ok(&parsed),
            limits: vec![],
            running,
            outage: None,
            fault: None,
            selected_pods: 0,
            now_ms: 1,
        })
    };
    let (status, news) = decided(&resource, vec![running("crawler")]);
    assert_eq!(is(&status, "Runaway"), Some(true));
    let message = &news.iter().find(|t| t.reason == "RunningAway").expect("an Event").message;
    for part in ["agent \"crawler\"", "$0.100000", "$0.001000", "held to $0.003333 a minute"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let resource = AIBudget { status: Some(status), ..resource };
    let (status, news) = decided(&resource, vec![running("crawler"), running("writer")]);
    assert!(news.len() == 1 && news[0].message.contains("writer") && !news[0].message.contains("crawler"), "{news:?}");
    let (status, _) = decided(&AIBudget { status: Some(status), ..resource.clone() }, vec![]);
    assert_eq!(is(&status, "Runaway"), Some(false));
}

#[test]
fn a_budget_whose_standing_cannot_be_read_keeps_its_figures_and_says_what_is_wrong_with_the_ledger() {
    let mut resource = budget(json!({"limits": [{"name": "total", "usd": "1", "period": "Lifetime"}]}));
    let (known, _) = decided(&resource, vec![(balance(400_000_000_000, 0), None)]);
    resource.status = Some(known.clone());
    let fault = || Fault { reason: "Unreachable", message: "the database does not answer".into(), last_ms: 1 };
    let (status, news) = unread(&resource, fault(), 7_300_000);
    assert_eq!((&status.limits, is(&status, "LedgerAvailable"), is(&status, "Ready")), (&known.limits, Some(false), Some(true)));
    assert_eq!(news.iter().map(|t| (t.reason, t.warning)).collect::<Vec<_>>(), [("Unreachable", true)]);
    resource.status = Some(status);
    assert_eq!(unread(&resource, fault(), 7_400_000).1, [], "once is enough");
}
