//! The promises, one a function; each adapter keeps all of them ([`keeps_promises!`]).

use std::sync::Arc;

use super::*;
use crate::ledger::query::{CallQuery, LimitBalance};
use crate::ledger::{Decision, Entry, Ledger, LedgerError, usage};

/// A ledger, and what a promise asks of it.
struct Bench<H> {
    home: H,
    ledger: Arc<dyn Ledger>,
}

impl<H: Home> Bench<H> {
    async fn new() -> Bench<H> {
        let home = H::new().await;
        Bench { ledger: home.open().await, home }
    }

    /// As after a crash: the first ledger is dropped without being closed.
    async fn reopen(self) -> Bench<H> {
        let Bench { home, ledger } = self;
        std::mem::forget(ledger);
        Bench { ledger: home.open().await, home }
    }

    async fn granted(&self, request: Acquire) -> i128 {
        match self.ledger.acquire(request).await.expect("an answer") {
            Decision::Granted { granted, .. } => granted.usd.0,
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn report(&self, entries: Vec<Entry>) {
        self.ledger.report(&holder("pod"), entries, 2_000).await.expect("reported");
    }

    async fn balance(&self, terms: &LimitTerms) -> LimitBalance {
        self.ledger.balances(std::slice::from_ref(terms), 2_000).await.expect("balances").remove(0)
    }
}

fn opened(call: &str, lease: &str, reserved: i128) -> Entry {
    Entry::Opened { call: CallId(call.into()), lease: Some(LeaseId(lease.into())), reserved: usd(reserved), draft: None, unleased: vec![] }
}

fn settled(call: &str, lease: &str, cost: i128) -> Entry {
    Entry::Settled { record: record(call, cost, CallOutcome::Completed), lease: Some(LeaseId(lease.into())), unleased: vec![] }
}

pub async fn what_was_answered_survives_a_crash<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 1_000);
    assert_eq!(bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 100, 100)).await, 100);
    bench.report(vec![opened("c", "a", 80), settled("c", "a", 60)]).await;
    let bench = bench.reopen().await;
    let balance = bench.balance(&terms).await;
    assert_eq!((balance.settled, balance.outstanding), (60, 40));
}

pub async fn a_repeated_request_changes_nothing_and_gets_the_same_answer<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 1_000);
    for _ in 0..3 {
        assert_eq!(bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 100, 200)).await, 200);
    }
    for _ in 0..3 {
        bench.report(vec![opened("c", "a", 50), settled("c", "a", 50)]).await;
        bench.report(vec![Entry::GivenBack { lease: LeaseId("a".into()), seq: 2, amount: usd(100) }]).await;
    }
    let balance = bench.balance(&terms).await;
    assert_eq!((balance.settled, balance.outstanding, balance.reserved), (50, 50, 0));
}

pub async fn a_lease_is_granted_under_all_of_its_limits_or_none<H: Home>() {
    let bench = Bench::<H>::new().await;
    let (wide, narrow) = (limit("shop/wide/l", 1_000), limit("shop/narrow/l", 10));
    let decision = bench.ledger.acquire(acquire("a", 1, &[wide.clone(), narrow], 20, 20)).await.expect("an answer");
    let Decision::Refused { shortfalls } = decision else { panic!("granted: {decision:?}") };
    assert_eq!(
        shortfalls.iter().map(|s| (s.key.0.as_str(), s.left, s.resets_at_ms)).collect::<Vec<_>>(),
        [("shop/narrow/l", 10, Some(86_400_000))]
    );
    assert_eq!(bench.balance(&wide).await.outstanding, 0);
}

pub async fn sixteen_holders_at_once_never_get_more_than_the_limit<H: Home>() {
    let bench = Bench::<H>::new().await;
    let ledger = Arc::clone(&bench.ledger);
    let terms = limit("shop/b/l", 10_000);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (ledger, terms) = (Arc::clone(&ledger), terms.clone());
        tasks.spawn(async move {
            let mut total = 0;
            for seq in 1..=50 {
                let mut request = acquire(&format!("lease-{n}"), seq, std::slice::from_ref(&terms), 30, 300);
                request.holder = holder(&format!("pod-{n}"));
                if let Decision::Granted { granted, .. } = ledger.acquire(request).await.expect("an answer") {
                    total += granted.usd.0;
                }
            }
            total
        });
    }
    let granted: i128 = tasks.join_all().await.into_iter().sum();
    let balance = ledger.balances(&[terms], 2_000).await.expect("balances").remove(0);
    assert_eq!(balance.outstanding, granted);
    assert!(balance.left() >= 0 && balance.left() < 30, "a limit that refuses has less left than one call needs: {balance:?}");
}

pub async fn an_overrun_is_charged_in_full<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 100);
    bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 50, 50)).await;
    bench.report(vec![settled("c", "a", 130)]).await;
    let balance = bench.balance(&terms).await;
    assert_eq!((balance.settled, balance.outstanding, balance.left()), (130, 0, -30));
}

pub async fn a_call_is_charged_to_the_window_in_which_it_was_admitted<H: Home>() {
    let bench = Bench::<H>::new().await;
    let (today, tomorrow) =
        (limit("shop/b/l", 100), LimitTerms { span: Span::Fixed { start_ms: 86_400_000, end_ms: 172_800_000 }, ..limit("shop/b/l", 100) });
    bench.granted(acquire("a", 1, std::slice::from_ref(&today), 60, 60)).await;
    let late = 86_400_500;
    bench.ledger.report(&holder("pod"), vec![settled("c", "a", 60)], late).await.expect("reported");
    assert_eq!(bench.ledger.balances(std::slice::from_ref(&today), late).await.expect("balances")[0].settled, 60);
    assert_eq!(bench.ledger.balances(std::slice::from_ref(&tomorrow), late).await.expect("balances")[0].left(), 100);
    let mut top_up = acquire("a", 2, &[tomorrow], 10, 10);
    top_up.now_ms = late;
    assert_eq!(bench.ledger.acquire(top_up).await.expect("an answer"), Decision::Expired);
}

pub async fn a_clock_that_goes_back_opens_no_ended_window<H: Home>() {
    let bench = Bench::<H>::new().await;
    let today = limit("shop/b/l", 100);
    bench.ledger.report(&holder("pod"), vec![], 86_400_001).await.expect("reported");
    assert_eq!(bench.ledger.acquire(acquire("a", 1, &[today], 10, 10)).await.expect("an answer"), Decision::Expired);
}

pub async fn a_rolling_window_forgets_only_what_is_older_than_all_of_it<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = LimitTerms { span: Span::Rolling { length_ms: 60_000, bucket_ms: 1_000 }, ..limit("shop/b/l", 100) };
    bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 60, 60)).await;
    bench.ledger.report(&holder("pod"), vec![settled("c", "a", 60)], 10_500).await.expect("reported");
    for (now_ms, expected) in [(10_500, 60), (70_500, 60), (70_999, 60), (71_001, 0)] {
        let balance = bench.ledger.balances(std::slice::from_ref(&terms), now_ms).await.expect("balances").remove(0);
        assert_eq!(balance.settled, expected, "at {now_ms}");
    }
}

pub async fn open_calls_of_a_lost_holder_are_charged_as_reserved_and_the_rest_is_free<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 1_000);
    bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 200, 200)).await;
    bench.report(vec![opened("c", "a", 80)]).await;
    assert_eq!(bench.ledger.holders().await.expect("holders"), [holder("pod")]);
    let gone = bench.ledger.holder_gone(&holder("pod"), 3_000).await.expect("reconciled");
    assert_eq!((gone.unknown_calls, gone.charged, gone.freed), (1, usd(80), usd(120)));
    assert_eq!(bench.balance(&terms).await.left(), 920);
    assert!(bench.ledger.holders().await.expect("holders").is_empty());

    // The sidecar was only cut off, and says later what the call really cost: charged exactly once.
    for _ in 0..2 {
        bench.report(vec![settled("c", "a", 30)]).await;
        assert_eq!(bench.balance(&terms).await.left(), 970);
    }
}

pub async fn what_open_calls_have_reserved_cannot_be_given_back<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 1_000);
    bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 100, 100)).await;
    bench.report(vec![opened("c", "a", 80), Entry::GivenBack { lease: LeaseId("a".into()), seq: 2, amount: usd(100) }]).await;
    assert_eq!(bench.balance(&terms).await.outstanding, 80);
}

pub async fn nobody_draws_on_another_holders_lease<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/b/l", 1_000);
    bench.granted(acquire("a", 1, std::slice::from_ref(&terms), 100, 100)).await;
    let stolen = bench.ledger.report(&holder("thief"), vec![settled("c", "a", 50)], 2_000).await;
    assert!(matches!(stolen, Err(LedgerError::Rejected(_))), "{stolen:?}");
    assert_eq!(bench.balance(&terms).await.settled, 0, "a report is applied whole or not at all");
}

pub async fn each_value_of_a_split_limit_stands_alone<H: Home>() {
    let bench = Bench::<H>::new().await;
    for (lease, value) in [("a", "x"), ("b", "y")] {
        bench.granted(acquire(lease, 1, &[limit(&format!("shop/b/l={value}"), 100)], 100, 100)).await;
    }
    bench.granted(acquire("other", 1, &[limit("shop/b/longer=z", 100)], 10, 10)).await;
    let balances = bench.ledger.balances(&[limit("shop/b/l", 100)], 2_000).await.expect("balances");
    assert_eq!(balances.iter().map(|b| (b.key.0.as_str(), b.left())).collect::<Vec<_>>(), [("shop/b/l=x", 0), ("shop/b/l=y", 0)]);
}

pub async fn what_is_reported_again_is_known_to_be_old<H: Home>() {
    let bench = Bench::<H>::new().await;
    bench.granted(acquire("a", 1, &[limit("shop/b/l", 100)], 100, 100)).await;
    let outcome = |id: &str| Entry::Outcome {
        id: id.into(),
        outcome: "resolved".into(),
        count: 1,
        origin: Default::default(),
        dimensions: Default::default(),
        at_ms: 0,
    };
    let report = async |entries: Vec<Entry>| bench.ledger.report(&holder("pod"), entries, 2_000).await.expect("reported");
    let first = vec![opened("c", "a", 50), settled("c", "a", 40), outcome("o")];
    assert_eq!(report(first.clone()).await, [false, true, true], "a call is told of once, when it has ended");
    let again: Vec<Entry> = first.into_iter().chain([settled("d", "a", 1), outcome("p")]).collect();
    assert_eq!(report(again).await, [false, false, false, true, true]);
    report(vec![opened("e", "a", 9)]).await;
    bench.ledger.holder_gone(&holder("pod"), 3_000).await.expect("reconciled");
    assert_eq!(report(vec![settled("e", "a", 2)]).await, [true], "its end was not known");
}

pub async fn limits_that_only_warn_are_charged_without_a_lease<H: Home>() {
    let bench = Bench::<H>::new().await;
    let terms = limit("shop/warn/l", 10);
    let entry = Entry::Settled { record: record("c", 25, CallOutcome::Completed), lease: None, unleased: vec![terms.clone()] };
    bench.report(vec![entry]).await;
    assert_eq!(bench.balance(&terms).await.left(), -15);
}

pub async fn accounts_that_nobody_needs_are_forgotten_and_no_others<H: Home>() {
    const DAY_MS: i64 = 86_400_000;
    let bench = Bench::<H>::new().await;
    let today = |value: &str| limit(&format!("shop/b/l={value}"), 100);
    let forever = LimitTerms { span: Span::Fixed { start_ms: 0, end_ms: i64::MAX }, ..today("forever") };
    let rolling = LimitTerms { span: Span::Rolling { length_ms: 7 * DAY_MS, bucket_ms: DAY_MS }, ..today("rolling") };
    let spend = async |ledger: &dyn Ledger, call: &str, terms: &LimitTerms, now_ms| {
        let entry = Entry::Settled { record: record(call, 7, CallOutcome::Completed), lease: None, unleased: vec![terms.clone()] };
        ledger.report(&holder("pod"), vec![entry], now_ms).await.expect("reported");
    };
    for terms in [&today("spent"), &forever, &rolling] {
        spend(bench.ledger.as_ref(), &terms.key.0, terms, 1_000).await;
    }
    bench.granted(acquire("held", 1, &[today("held")], 10, 10)).await;
    bench.granted(acquire("open", 1, &[today("open")], 10, 10)).await;
    bench.report(vec![opened("c", "open", 10)]).await;
    bench.ledger.close().await;
    // A writer looks for what it may forget after the first that it does.
    for (now_ms, kept) in [
        (DAY_MS + 1, &["forever", "held", "open", "rolling", "spent"][..]),
        (3 * DAY_MS, &["forever", "held", "open", "rolling"]),
        (9 * DAY_MS, &["forever", "held", "open", "rolling"]),
        (9 * DAY_MS + 2, &["forever", "held", "open"]),
    ] {
        let ledger = bench.home.open().await;
        ledger.report(&holder("pod"), vec![], now_ms).await.expect("reported");
        ledger.close().await;
        let ledger = bench.home.open().await;
        let balances = ledger.balances(&[limit("shop/b/l", 100)], now_ms).await.expect("balances");
        assert_eq!(balances.iter().filter_map(|b| b.key.split()).collect::<Vec<_>>(), kept, "at {now_ms}");
    }
    let ledger = bench.home.open().await;
    let left = async |terms: &LimitTerms| ledger.balances(std::slice::from_ref(terms), 9 * DAY_MS).await.expect("balances")[0].left();
    assert_eq!((left(&forever).await, left(&today("held")).await, left(&today("open")).await), (93, 90, 90));
    // What is said late of a window that is forgotten is taken, and forgotten again.
    spend(ledger.as_ref(), "late", &today("spent"), 9 * DAY_MS + 2).await;
    ledger.report(&holder("pod"), vec![settled("c", "open", 4)], 9 * DAY_MS + 2).await.expect("reported");
    assert_eq!(left(&today("open")).await, 90, "6 are held, 4 spent");
}

pub async fn calls_add_up_exactly_by_their_dimensions<H: Home>() {
    let bench = Bench::<H>::new().await;
    let cost = 9_000_000_000_000_123_457;
    bench
        .report(
            (0..3)
                .map(|n| Entry::Settled { record: record(&format!("c{n}"), cost, CallOutcome::Completed), lease: None, unleased: vec![] })
                .collect(),
        )
        .await;
    let totals = bench.ledger.totals(&CallQuery { from_ms: 0, to_ms: i64::MAX, route: Some("shop/models".into()) }).await.expect("totals");
    assert_eq!(totals.len(), 1);
    assert_eq!((totals[0].calls, totals[0].cost, totals[0].usage.total()), (3, PicoUsd(cost * 3), 45));
}

/// Calls at any time of four days: some end, some are given up for lost, and of those the end of some becomes known later. Days that are
/// over are summed between, part by part, while ledgers are opened again.
pub async fn sums_over_any_stretch_are_those_of_its_calls<H: Home>() {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    const SPAN_MS: i64 = 4 * usage::DAY_MS;

    let mut bench = Bench::<H>::new().await;
    let mut runner = proptest::test_runner::TestRunner::default();
    let calls = proptest::collection::vec((0..SPAN_MS, 0..4_u8, 0..3_u8, 0..SPAN_MS), 60..61);
    let (mut events, mut expected) = (Vec::new(), Vec::new());
    for (n, (at_ms, kind, model, later_ms)) in calls.new_tree(&mut runner).expect("calls").current().into_iter().enumerate() {
        let call = |outcome, cost| {
            let mut record = Arc::unwrap_or_clone(record(&format!("c{n}"), cost, outcome));
            (record.model, record.route) = (format!("model-{model}").into(), if model == 0 { "" } else { "shop/models" }.into());
            Arc::new(record)
        };
        let (lost, ended) = (call(CallOutcome::Unknown, 9_000_000_000_000_123_457), call(CallOutcome::Completed, 7));
        let (was_lost, was_ended) = (kind > 0, kind != 1);
        let ended_ms = if was_lost { at_ms.max(later_ms) } else { at_ms };
        if was_lost {
            events.push((at_ms, 0, n, Arc::clone(&lost)));
        }
        if was_ended {
            events.push((ended_ms, 1, n, Arc::clone(&ended)));
        }
        expected.push(if was_ended { (ended, ended_ms) } else { (lost, at_ms) });
    }
    events.sort_by_key(|(at_ms, step, n, _)| (*at_ms, *step, *n));
    for (index, (at_ms, step, n, record)) in events.into_iter().enumerate() {
        // A writer sums a part of a day that is over after the first that it does.
        if index % 2 == 0 {
            bench.ledger.close().await;
            bench.ledger = bench.home.open().await;
        }
        let pod = holder(&format!("pod-{n}"));
        let terms = vec![limit("shop/b/l", 1)];
        if step == 0 {
            let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(record));
            let opened = Entry::Opened { call, lease: None, reserved, draft, unleased: terms };
            bench.ledger.report(&pod, vec![opened], at_ms).await.expect("reported");
            bench.ledger.holder_gone(&pod, at_ms).await.expect("reconciled");
        } else {
            let settled = Entry::Settled { record, lease: None, unleased: terms };
            bench.ledger.report(&pod, vec![settled], at_ms).await.expect("reported");
        }
    }
    let stretches = (0..SPAN_MS, 0..SPAN_MS, proptest::bool::ANY);
    for _ in 0..40 {
        let (one, other, of_route) = stretches.new_tree(&mut runner).expect("a stretch").current();
        let (from_ms, to_ms) = (one.min(other), one.max(other));
        let route = of_route.then(|| "shop/models".to_owned());
        let within = expected
            .iter()
            .filter(|(record, at_ms)| (from_ms..to_ms).contains(at_ms) && route.as_ref().is_none_or(|r| **r == *record.route));
        let calls = usage::together(within.map(|(record, at_ms)| usage::of_call(record, *at_ms)));
        assert_eq!(bench.ledger.totals(&CallQuery { from_ms, to_ms, route }).await.expect("totals"), calls, "{from_ms} to {to_ms}");
    }
}

pub use super::model::every_history_agrees_with_the_model_and_nothing_is_overspent;
