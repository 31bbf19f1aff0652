use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::amount::Unit;
use crate::core::money::PicoUsd;

fn amount(n: i64) -> Amount {
    Amount { usd: PicoUsd(n.into()), tokens: n, requests: n.min(1) }
}

fn set(names: &[&str]) -> Vec<LimitKey> {
    names.iter().map(|n| LimitKey((*n).to_owned())).collect()
}

fn id(name: &str) -> LeaseId {
    LeaseId(name.into())
}

/// A book with `granted` under limit `a`, in a lease that expires at `expires_ms`.
fn holding(granted: i64, expires_ms: i64) -> LeaseBook {
    let mut book = LeaseBook::default();
    let (ask, _) = book.ask(&set(&["a"]), amount(granted), Amount::ZERO, 0, || id("l"));
    book.answered(&set(&["a"]), &ask, Answer::Granted { amount: amount(granted), expires_ms, left: None }, 0);
    book
}

fn drawn(book: &mut LeaseBook, need: i64, now_ms: i64) -> bool {
    let need = Amount { requests: 0, ..amount(need) };
    book.draw(&set(&["a"]), need, now_ms).is_some()
}

fn usd(backs: &[GiveBack]) -> i128 {
    backs.iter().map(|b| b.amount.usd.0).sum()
}

#[test]
fn calls_draw_what_is_granted_and_no_more() {
    let mut book = holding(10, 60_000);
    assert!(drawn(&mut book, 6, 1) && !drawn(&mut book, 5, 1) && drawn(&mut book, 4, 1));
}

#[test]
fn an_expired_lease_takes_no_new_call_and_goes_back() {
    let mut book = holding(10, 1_000);
    assert!(!drawn(&mut book, 1, 1_000));
    let (ask, back) = book.ask(&set(&["a"]), amount(3), Amount::ZERO, 1_000, || id("next"));
    assert_eq!((ask.lease, ask.seq, ask.min), (id("next"), 1, amount(3)));
    assert_eq!(back, Some(GiveBack { lease: id("l"), seq: 2, amount: amount(10) }));
}

#[test]
fn money_that_nobody_touches_for_two_seconds_goes_back() {
    let mut book = holding(10, 60_000);
    assert_eq!(book.tick(IDLE_MS - 1), vec![]);
    assert_eq!(usd(&book.tick(IDLE_MS)), 10);
    assert_eq!(book.held(), Amount::ZERO);
}

#[test]
fn after_a_burst_a_trickle_does_not_keep_the_bursts_money() {
    let mut book = holding(1_000, 60_000);
    for second in 1..=3 {
        let need = Amount { requests: 0, ..amount(2) };
        let lease = book.draw(&set(&["a"]), need, second * 1_000).unwrap();
        book.settle(&lease, need, Amount { requests: 0, ..amount(1) }, second * 1_000);
        if usd(&book.tick(second * 1_000 + 500)) > 900 {
            return;
        }
    }
    panic!("{:?}", book.held());
}

#[test]
fn a_steady_spender_keeps_its_lease() {
    let mut book = holding(100, 60_000);
    for step in 1..=40 {
        let now = step * 100;
        let need = Amount { requests: 0, ..amount(20) };
        let lease = book.draw(&set(&["a"]), need, now).expect("the lease is still there");
        book.settle(&lease, need, amount(2), now);
        assert_eq!(book.tick(now), vec![]);
    }
}

#[test]
fn a_call_asks_only_for_what_it_lacks_so_that_the_last_money_can_be_used() {
    let mut book = holding(4, 60_000);
    let (ask, _) = book.ask(&set(&["a"]), amount(6), amount(12), 1, || unreachable!());
    assert_eq!((ask.seq, ask.min.usd.0, ask.want.usd.0), (2, 2, 14));
}

#[test]
fn leases_are_long_while_the_ledger_gives_all_that_is_asked_for_and_short_when_it_does_not() {
    let mut book = LeaseBook::default();
    let limits = set(&["a"]);
    let wanted = |book: &mut LeaseBook, grant: Option<i64>| {
        let (ask, _) = book.ask(&limits, amount(100_000), Amount::ZERO, 1, || id("l"));
        let granted = |n| Answer::Granted { amount: Amount { usd: PicoUsd(i128::from(n)), ..ask.want }, expires_ms: 60_000, left: None };
        book.answered(&limits, &ask, grant.map_or(Answer::Refused, granted), 1);
        (ask.want.usd - ask.min.usd).0
    };
    assert_eq!(wanted(&mut book, Some(900_000)), 800_000, "nothing is known yet: eight more calls");
    let lease = book.draw(&limits, amount(900_000), 1).expect("it was granted");
    book.settle(&lease, amount(900_000), amount(200_000), 2);
    book.draw(&limits, amount(700_000), 2).expect("the rest is free");
    assert_eq!(wanted(&mut book, Some(100_000)), 1_200_000, "half a minute's spending");
    assert_eq!(wanted(&mut book, None), 200_000, "less was granted than was asked for: five seconds' spending");
    assert_eq!(wanted(&mut book, None), 200_000);
}

#[test]
fn after_a_recall_leases_are_short_for_a_while() {
    let mut book = holding(10, 60_000);
    book.recall(&set(&["a"]), None, 1_000);
    let ahead = |now_ms| {
        let (ask, _) = book.clone().ask(&set(&["a"]), amount(3), Amount::ZERO, now_ms, || id("next"));
        (ask.want.usd - ask.min.usd).0
    };
    assert_eq!((ahead(2_000), ahead(11_000)), (0, 24));
}

#[test]
fn a_refused_call_waits_for_what_others_hold_idle_but_less_than_a_second_and_only_if_it_would_be_enough() {
    let waits: Vec<i64> = (0..).map_while(patience_ms).collect();
    assert!(waits.is_sorted() && waits.iter().sum::<i64>() < 1_000, "{waits:?}");
    let short = |left, idle| Shortfall { key: LimitKey("a".into()), unit: Unit::Usd, left, idle, resets_at_ms: None };
    for (case, left, idle, free, waits) in [
        ("others hold enough", 2, 8, 0, true),
        ("too little", 2, 7, 0, false),
        ("what is idle is held here", 2, 8, 8, false),
        ("some of it is", 2, 9, 8, true),
        ("overdrawn", -5, 14, 0, false),
    ] {
        assert_eq!(may_come_back(&[short(left, idle)], amount(10), amount(free)), waits, "{case}");
    }
}

#[test]
fn an_unanswered_request_is_repeated_as_it_was_and_counts_once() {
    let mut book = LeaseBook::default();
    let (first, _) = book.ask(&set(&["a"]), amount(5), Amount::ZERO, 0, || id("l"));
    let (again, _) = book.ask(&set(&["a"]), amount(9), Amount::ZERO, 1, || unreachable!());
    assert_eq!(first, again);
    assert_eq!(book.unanswered().len(), 1);
    for _ in 0..2 {
        book.answered(&set(&["a"]), &first, Answer::Granted { amount: amount(5), expires_ms: 60_000, left: None }, 2);
    }
    assert_eq!(book.held().usd.0, 5);
}

#[test]
fn a_recall_returns_what_is_free_under_that_limit_and_each_rest_as_its_call_settles() {
    let mut book = holding(10, 60_000);
    let lease = book.draw(&set(&["a"]), amount(4), 1).unwrap();
    assert_eq!(book.recall(&set(&["b"]), None, 1), vec![]);
    assert_eq!(book.recall(&set(&["a"]), Some(&set(&["a"])), 1), vec![]);
    assert_eq!(usd(&book.recall(&set(&["a"]), None, 1)), 6);
    let rest = book.settle(&lease, amount(4), amount(1), 2).unwrap();
    assert_eq!((rest.seq, rest.amount.usd.0), (3, 3));
    assert_eq!(book.held(), Amount::ZERO);
}

#[test]
fn nothing_is_drawn_on_what_was_granted_under_a_limit_that_has_changed_not_even_on_what_is_granted_just_now() {
    let mut book = LeaseBook::default();
    let split = set(&["a=x"]);
    let (ask, _) = book.ask(&split, amount(10), Amount::ZERO, 0, || id("l"));
    let granted = Answer::Granted { amount: amount(10), expires_ms: 60_000, left: None };
    book.answered(&split, &ask, granted, 0);
    let (ask, _) = book.ask(&split, amount(20), Amount::ZERO, 1, || unreachable!());
    assert_eq!(book.revoke(&set(&["b"])), vec![]);
    assert!(book.free(&split, 1).usd.0 == 10);
    assert_eq!(book.revoke(&set(&["a"])), vec![], "a request is under way");
    assert_eq!((book.draw(&split, amount(1), 1), book.free(&split, 1)), (None, Amount::ZERO));
    let back = book.answered(&split, &ask, granted, 2).expect("all of it goes back");
    assert_eq!((back.seq, back.amount.usd.0, book.held()), (3, 20, Amount::ZERO));
    let (next, _) = book.ask(&split, amount(1), Amount::ZERO, 3, || id("next"));
    assert_eq!((next.lease, next.seq), (id("next"), 1));
}

#[test]
fn a_cost_above_its_reservation_is_taken_from_what_is_free() {
    let mut book = holding(10, 60_000);
    let lease = book.draw(&set(&["a"]), amount(4), 1).unwrap();
    book.settle(&lease, amount(4), amount(7), 2);
    assert_eq!(book.held().usd.0, 3);
}

/// The ledger's view of leases: what was granted and is neither settled nor given back.
#[derive(Default)]
struct Granted(BTreeMap<LeaseId, (Amount, u64)>);

impl Granted {
    fn take(&mut self, back: impl IntoIterator<Item = GiveBack>) {
        for back in back {
            let (outstanding, seq) = self.0.get_mut(&back.lease).expect("only granted leases give back");
            assert!(outstanding.covers(&back.amount), "gave back more than was granted");
            assert!(back.seq > *seq, "sequence numbers grow");
            *outstanding -= back.amount;
            *seq = back.seq;
        }
    }

    fn settle(&mut self, lease: &LeaseId, cost: Amount) {
        let (outstanding, _) = self.0.get_mut(lease).expect("only granted leases are drawn on");
        *outstanding = outstanding.minus_floor_zero(cost);
    }

    fn total(&self) -> Amount {
        self.0.values().fold(Amount::ZERO, |sum, (outstanding, _)| sum + *outstanding)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Call { set: usize, need: i64 },
    Answer { set: usize, grant: Option<i64>, expires_in: i64 },
    Settle { call: usize, cost: i64 },
    Tick { after: i64 },
    Recall { limit: usize },
    Revoke { limit: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize, 1..50i64).prop_map(|(set, need)| Step::Call { set, need }),
        3 => (0..3usize, prop::option::weighted(0.8, 0..100i64), 1..10_000i64)
            .prop_map(|(set, grant, expires_in)| Step::Answer { set, grant, expires_in }),
        4 => (any::<usize>(), 0..60i64).prop_map(|(call, cost)| Step::Settle { call, cost }),
        2 => (1..3_000i64).prop_map(|after| Step::Tick { after }),
        1 => (0..2usize).prop_map(|limit| Step::Recall { limit }),
        1 => (0..2usize).prop_map(|limit| Step::Revoke { limit }),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn what_is_held_is_what_the_ledger_thinks_is_held_and_all_of_it_comes_back(steps in steps()) {
        let sets = [set(&["a"]), set(&["a", "b"]), set(&["b"])];
        let (mut book, mut ledger, mut calls, mut now, mut ids) = (LeaseBook::default(), Granted::default(), Vec::new(), 0, 0);
        for step in steps {
            match step {
                Step::Call { set, need } => {
                    if let Some(lease) = book.draw(&sets[set], amount(need), now) {
                        calls.push((lease, amount(need)));
                    } else {
                        ids += 1;
                        let (ask, back) = book.ask(&sets[set], amount(need), Amount::ZERO, now, || id(&ids.to_string()));
                        ledger.take(back);
                        prop_assert!(ask.want.covers(&ask.min));
                    }
                }
                Step::Answer { set, grant, expires_in } => {
                    let Some((_, ask)) = book.unanswered().into_iter().find(|(s, _)| *s == sets[set]) else { continue };
                    let answer = match grant {
                        None => Answer::Expired,
                        Some(0) => Answer::Refused,
                        Some(more) => Answer::Granted { amount: ask.min + amount(more), expires_ms: now + expires_in, left: None },
                    };
                    if let Answer::Granted { amount, .. } = answer {
                        let entry = ledger.0.entry(ask.lease.clone()).or_default();
                        prop_assert!(ask.seq > entry.1);
                        *entry = (entry.0 + amount, ask.seq);
                    }
                    ledger.take(book.answered(&sets[set], &ask, answer, now));
                }
                Step::Settle { call, cost } => {
                    if calls.is_empty() { continue }
                    let (lease, reserved) = calls.swap_remove(call % calls.len());
                    let cost = reserved.min(amount(cost));
                    ledger.settle(&lease, cost);
                    ledger.take(book.settle(&lease, reserved, cost, now));
                }
                Step::Tick { after } => {
                    now += after;
                    ledger.take(book.tick(now));
                }
                Step::Revoke { limit } => ledger.take(book.revoke(&set(&[["a", "b"][limit]]))),
                Step::Recall { limit } => ledger.take(book.recall(&set(&[["a", "b"][limit]]), None, now)),
            }
            prop_assert_eq!(book.held(), ledger.total());
            let drawn = calls.iter().fold(Amount::ZERO, |sum, (_, reserved)| sum + *reserved);
            prop_assert!(ledger.total().covers(&drawn), "calls draw more than was granted");
        }
        for (lease, reserved) in calls {
            ledger.take(book.settle(&lease, reserved, Amount::ZERO, now));
        }
        ledger.take(book.close_all());
        prop_assert_eq!(ledger.total(), Amount::ZERO);
        prop_assert_eq!(book.held(), Amount::ZERO);
    }
}
