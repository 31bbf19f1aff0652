//! Random requests to the machine, hostile ones among them, and what must hold after each.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallOutcome};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::ledger::conformance::{DAY, holder, record};

const ROLLING: Span = Span::Rolling { length_ms: 60, bucket_ms: 10 };

fn amount() -> impl Strategy<Value = Amount> {
    (0..60_i128, 0..60_i64).prop_map(|(usd, tokens)| Amount { usd: PicoUsd(usd), tokens, requests: 1 })
}

fn terms() -> impl Strategy<Value = Vec<LimitTerms>> {
    let all = [("a/b/day", Unit::Usd, DAY, 500), ("a/b/tokens", Unit::Tokens, DAY, 300), ("a/c/rolling", Unit::Usd, ROLLING, 400)];
    let all = all.map(|(key, unit, span, limit)| LimitTerms { key: LimitKey(key.into()), unit, limit, span });
    proptest::sample::subsequence(all.to_vec(), 0..=3)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (0..3_u8).prop_map(|n| LeaseId(format!("lease-{n}")))
}

fn of_lease() -> impl Strategy<Value = Option<LeaseId>> {
    proptest::option::weighted(0.8, lease())
}

fn pod() -> impl Strategy<Value = HolderId> {
    (0..2_u8).prop_map(|n| holder(&format!("pod-{n}")))
}

fn entry() -> impl Strategy<Value = Entry> {
    let call = (0..6_u8).prop_map(|n| CallId(format!("call-{n}"))).boxed();
    prop_oneof![
        (call.clone(), of_lease(), amount(), terms()).prop_map(|(call, lease, reserved, unleased)| {
            let draft = lease.is_none().then(|| record(&call.0, 1, CallOutcome::Unknown));
            Entry::Opened { call, lease, reserved, draft, unleased }
        }),
        (call, of_lease(), 0..80_i128, terms(), any::<bool>()).prop_map(|(call, lease, cost, unleased, charged)| {
            let outcome = if charged { CallOutcome::Completed } else { CallOutcome::Failed };
            Entry::Settled { record: record(&call.0, cost, outcome), lease, unleased }
        }),
        (lease(), 0..9_u64, amount()).prop_map(|(lease, seq, amount)| Entry::GivenBack { lease, seq, amount }),
        (0..3_u8).prop_map(|n| Entry::Outcome {
            id: format!("outcome-{n}"),
            outcome: "resolved".into(),
            count: 1,
            origin: Origin::default(),
            dimensions: Dimensions::default(),
            at_ms: 0,
        }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let now = || 0..300_i64;
    prop_oneof![
        3 => (lease(), 0..9_u64, pod(), terms(), amount(), amount(), now()).prop_map(|(lease, seq, holder, limits, min, more, now_ms)| {
            Request::Acquire(Acquire { lease, seq, holder, limits, min, want: min + more, now_ms })
        }),
        4 => (pod(), proptest::collection::vec(entry(), 0..4), now())
            .prop_map(|(holder, entries, now_ms)| Request::Report { holder, entries, now_ms }),
        1 => (pod(), now()).prop_map(|(holder, now_ms)| Request::HolderGone { holder, now_ms }),
    ]
}

/// The rows that `requests` are said to touch, of all that there are.
fn touched(all: &Rows, requests: &[Request]) -> Rows {
    let mut rows = Rows { seen_ms: all.seen_ms, ..Rows::default() };
    let touched = touch::Touched::by(requests);
    for (id, lease) in all.leases.iter() {
        if touched.leases.contains(id) || touched.holders.contains(&lease.holder) {
            rows.leases.load(id.clone(), lease.clone());
        }
    }
    for (id, call) in all.open.iter() {
        let asked = |lease: &LeaseId| touched.asked.contains(lease) && !all.leases.contains(lease);
        if touched.calls.contains(id) || touched.holders.contains(&call.holder) || call.lease.as_ref().is_some_and(asked) {
            rows.open.load(id.clone(), call.clone());
        }
    }
    for id in touch::leases_of_open_calls(&rows) {
        all.leases.get(&id).into_iter().for_each(|lease| rows.leases.load(id.clone(), lease.clone()));
    }
    all.ended.iter().filter(|(id, _)| touched.calls.contains(id)).for_each(|(id, ended)| rows.ended.load(id.clone(), ended.clone()));
    all.outcomes.iter().filter(|(id, ())| touched.outcomes.contains(id.as_str())).for_each(|(id, ())| rows.outcomes.load(id.clone(), ()));
    for range in touch::accounts(&rows, requests) {
        let key = |bucket| AccountKey { limit: range.limit.clone(), bucket };
        all.accounts.range(key(range.from), key(range.to)).for_each(|(key, account)| rows.accounts.load(key.clone(), *account));
    }
    rows
}

fn apply_all(rows: &mut Rows, requests: &[Request]) -> (Vec<Result<Answer, Rejected>>, Vec<Booking>) {
    let mut books = Vec::new();
    (requests.iter().map(|request| apply(rows, request, &mut books)).collect(), books)
}

/// Puts the changes of `batch` into `all`, as a store would.
fn store(all: &mut Rows, batch: &Rows) {
    fn table<K: Ord + Clone + std::fmt::Debug, V: Clone>(all: &mut Table<K, V>, batch: &Table<K, V>) {
        for (key, change) in batch.changes() {
            match change {
                Change::New(row) => {
                    assert!(!all.contains(key), "{key:?} is thought to be new, and is not");
                    all.put(key.clone(), row.clone());
                }
                Change::Changed(row) => all.put(key.clone(), row.clone()),
                Change::Deleted => drop(all.remove(key)),
            }
        }
        all.saved();
    }
    all.seen_ms = batch.seen_ms;
    table(&mut all.leases, &batch.leases);
    table(&mut all.open, &batch.open);
    table(&mut all.ended, &batch.ended);
    table(&mut all.accounts, &batch.accounts);
    table(&mut all.outcomes, &batch.outcomes);
}

/// What is held is the sum over the leases, and what leases have reserved is the sum over their open calls.
fn assert_adds_up(rows: &Rows) {
    let expected = Rows::held_by_leases(rows.leases.iter().map(|(_, lease)| lease));
    for (key, account) in rows.accounts.iter() {
        let should = expected.get(key).copied().unwrap_or_default();
        assert_eq!((account.outstanding, account.reserved), (should.outstanding, should.reserved), "{key:?}");
    }
    assert!(expected.keys().all(|key| rows.accounts.contains(key)));
    for (id, lease) in rows.leases.iter() {
        let open = rows.open.iter().filter(|(_, call)| call.lease.as_ref() == Some(id));
        assert_eq!(lease.reserved, open.fold(Amount::ZERO, |sum, (_, call)| sum + call.reserved), "{id:?}");
        assert!(lease.outstanding.covers(&Amount::ZERO), "{id:?} holds {:?}", lease.outstanding);
    }
    assert!(rows.open.iter().all(|(id, _)| !rows.ended.contains(id)), "a call is open or has ended");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_held_adds_up_whatever_is_asked_and_what_is_rejected_changes_nothing(requests in proptest::collection::vec(request(), 1..40)) {
        let mut rows = Rows::default();
        for request in requests {
            let (before, mut books) = (rows.clone(), Vec::new());
            if apply(&mut rows, &request, &mut books).is_err() {
                prop_assert_eq!(&before, &rows, "{:?} was rejected", request);
                prop_assert!(books.is_empty());
            }
            prop_assert!(rows.seen_ms >= before.seen_ms);
            assert_adds_up(&rows);
            rows.saved();
        }
    }

    #[test]
    fn a_request_that_is_repeated_at_once_changes_nothing(requests in proptest::collection::vec(request(), 1..30)) {
        let mut rows = Rows::default();
        for request in requests {
            let mut books = Vec::new();
            let first = apply(&mut rows, &request, &mut books);
            rows.saved();
            let (after, booked) = (rows.clone(), books.len());
            let second = apply(&mut rows, &request, &mut books);
            rows.saved();
            match first {
                // The second end of a holder frees nothing, and what is reported again tells nothing new.
                Ok(Answer::Reconciled(_)) => {}
                Ok(Answer::Reported(new)) => prop_assert_eq!(second, Ok(Answer::Reported(vec![false; new.len()]))),
                first => prop_assert_eq!(first, second),
            }
            prop_assert_eq!((&after, booked), (&rows, books.len()), "{:?}", request);
        }
    }

    #[test]
    fn a_batch_on_the_rows_that_it_touches_is_each_request_on_all_rows(batches in proptest::collection::vec(proptest::collection::vec(request(), 1..8), 1..8)) {
        let (mut all, mut stored) = (Rows::default(), Rows::default());
        for batch in batches {
            let one_by_one = apply_all(&mut all, &batch);
            all.saved();
            let mut rows = touched(&stored, &batch);
            prop_assert_eq!(&one_by_one, &apply_all(&mut rows, &batch));
            store(&mut stored, &rows);
            prop_assert_eq!(&all, &stored);
        }
    }

    #[test]
    fn each_call_is_booked_once_and_again_only_when_its_end_was_unknown(requests in proptest::collection::vec(request(), 1..40)) {
        let mut rows = Rows::default();
        let (mut known, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for request in requests {
            let mut books = Vec::new();
            let _ = apply(&mut rows, &request, &mut books);
            for booking in books {
                let Booking::Call { record, .. } = booking else { continue };
                prop_assert!(!known.contains(&record.id), "{} is booked again", record.id);
                let was_unknown = unknown.remove(&record.id);
                if record.outcome == CallOutcome::Unknown && !was_unknown { &mut unknown } else { &mut known }.insert(record.id.clone());
            }
        }
    }
}

#[test]
fn a_lost_holders_call_without_a_lease_is_charged_to_the_limits_that_only_warn() {
    let (mut rows, mut books) = (Rows::default(), Vec::new());
    let warns = LimitTerms { key: LimitKey("a/b/l".into()), unit: Unit::Usd, limit: 10, span: DAY };
    let reserved = Amount { usd: PicoUsd(30), tokens: 5, requests: 1 };
    let draft = Some(record("call", 30, CallOutcome::Unknown));
    let entries = vec![Entry::Opened { call: CallId("call".into()), lease: None, reserved, draft, unleased: vec![warns.clone()] }];
    let pod = holder("pod");
    apply(&mut rows, &Request::Report { holder: pod.clone(), entries, now_ms: 1 }, &mut books).expect("reported");
    let gone = apply(&mut rows, &Request::HolderGone { holder: pod.clone(), now_ms: 2 }, &mut books);
    assert_eq!(gone, Ok(Answer::Reconciled(Reconciled { unknown_calls: 1, charged: reserved, freed: Amount::ZERO })));
    let [Booking::Call { record: booked, .. }] = books.as_slice() else { panic!("{books:?}") };
    assert_eq!((booked.origin.workload.as_str(), booked.cost, booked.outcome), ("Deployment/bot", PicoUsd(30), CallOutcome::Unknown));
    assert_eq!(rows.standing(&warns.key, DAY, 2).settled, 30);
    let settled = Entry::Settled { record: record("call", 4, CallOutcome::Completed), lease: None, unleased: vec![warns.clone()] };
    apply(&mut rows, &Request::Report { holder: pod, entries: vec![settled], now_ms: 3 }, &mut books).expect("reported");
    assert_eq!(rows.standing(&warns.key, DAY, 3).settled, 4, "now its true cost is known");
}
