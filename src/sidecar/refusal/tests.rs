use http_body_util::BodyExt;

use super::*;
use crate::core::amount::Amount;
use crate::core::dimensions::Dimension;
use crate::core::policy::{Budget, Enforcement, Limit, Policy, ResourceKey};

fn snapshot(split_by: Option<Dimension>, window: Window) -> Snapshot {
    let limit =
        Limit { name: "total".into(), unit: Unit::Usd, amount: PicoUsd::from_usd(1).0, window, grants: Vec::new(), reset_at_ms: None };
    let budget = Budget {
        key: ResourceKey::new("agents", "runaway"),
        scope: Default::default(),
        split_by,
        limits: vec![limit],
        enforcement: Enforcement::Block,
        on_ledger_unavailable: Default::default(),
        unpriced_models: Default::default(),
        reservation: Default::default(),
        runaway: None,
    };
    Snapshot::new(Policy { budgets: vec![budget], ..Policy::default() }, &[]).unwrap()
}

fn shortfall(key: &str, resets_at_ms: Option<i64>) -> Shortfall {
    Shortfall { key: LimitKey(key.into()), unit: Unit::Usd, left: PicoUsd::from_micro(30_000).0, idle: 0, resets_at_ms }
}

fn needs() -> Amount {
    Amount { usd: PicoUsd::from_micro(81_234), tokens: 100, requests: 1 }
}

#[test]
fn a_person_reads_which_limit_what_is_left_what_was_needed_and_what_to_do() {
    let snapshot = snapshot(None, Window::Lifetime);
    let refusal = Refusal::over_budget(&snapshot, &[shortfall("agents/runaway/total", None)], needs(), 0);
    assert_eq!(
        refusal.message,
        "Spendkeeper: this call does not fit: budget agents/runaway: limit total ($1.00, lifetime) has $0.03 left and this call \
         may cost up to $0.081234. Ask for fewer output tokens or a smaller prompt, wait, or have the budget's owner raise it or \
         add a grant."
    );
    assert_eq!(refusal.retry_after_s, None);
}

#[test]
fn a_split_limit_names_its_value_and_a_window_its_reset() {
    let window = Window::Calendar { period: CalendarPeriod::Day, time_zone: "UTC".into() };
    let snapshot = snapshot(Some(Dimension::Session), window);
    let refusal = Refusal::over_budget(&snapshot, &[shortfall("agents/runaway/total=s1", Some(7_500_000))], needs(), 0);
    assert!(refusal.message.contains("limit total for session s1 ($1.00, each day, UTC)"), "{}", refusal.message);
    assert!(refusal.message.contains("; it resets in 2 h 5 min"), "{}", refusal.message);
    assert_eq!(refusal.retry_after_s, Some(7_500));
}

#[test]
fn a_rolling_limit_is_whole_again_when_its_window_has_passed_and_a_lifetime_never_is() {
    let retry_after = |window: Window, resets_at_ms| {
        let short = [shortfall("agents/runaway/total", resets_at_ms), shortfall("agents/runaway/total=a", Some(20_000))];
        Refusal::over_budget(&snapshot(None, window), &short, needs(), 10_000).retry_after_s
    };
    assert_eq!(retry_after(Window::Rolling { length_ms: 60_000 }, None), Some(60));
    assert_eq!(retry_after(Window::Lifetime, None), None);
    assert_eq!(retry_after(Window::Lifetime, Some(15_000)), Some(10));
}

#[tokio::test]
async fn each_protocol_gets_its_own_shape_and_no_invitation_to_retry() {
    let snapshot = snapshot(None, Window::Lifetime);
    for (protocol, pointer) in [(Protocol::OpenAIChat, "/error/message"), (Protocol::AnthropicMessages, "/error/message")] {
        let refusal = Refusal::over_budget(&snapshot, &[shortfall("agents/runaway/total", Some(5_000))], needs(), 0);
        let response = refusal.into_response(protocol);
        assert_eq!((response.status().as_u16(), &response.headers()["x-should-retry"]), (429, &HeaderValue::from_static("false")));
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(json.pointer(pointer).unwrap().as_str().unwrap().contains("agents/runaway"));
    }
}

#[test]
fn durations_have_two_units_at_most() {
    for (ms, text) in [(0, "0 s"), (999, "1 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h"), (90_061_000, "1 d 1 h")] {
        assert_eq!(duration(ms), text);
    }
}

#[test]
fn of_many_refusals_alike_one_in_ten_seconds_is_logged_with_the_number_of_the_others() {
    let log = RefusalLog::default();
    let kind = ErrorKind::BudgetExceeded;
    assert_eq!([0, 1, 9_999].map(|now| log.due(kind, now)), [Some(0), None, None]);
    assert_eq!(log.due(ErrorKind::NoRoute, 5), Some(0), "each kind by itself");
    assert_eq!((log.due(kind, 10_000), log.due(kind, 25_000)), (Some(2), Some(0)));
}
