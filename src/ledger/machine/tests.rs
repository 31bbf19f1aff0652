//! Random requests to the machine, hostile ones among them, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallOutcome};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::ledger::conformance::{DAY, holder, record};
use crate::ledger::known::Known;

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
    (0..3_u8).prop_map(|n| LeaseId(format!("lease-{n}").into()))
}

fn of_lease() -> impl Strategy<Value = Option<LeaseId>> {
    proptest::option::weighted(0.8, lease())
}

fn pod() -> impl Strategy<Value = HolderId> {
    (0..2_u8).prop_map(|n| holder(&format!("pod-{n}")))
}

fn entry() -> impl Strategy<Value = Entry> {
    let call = (0..6_u8).prop_map(|n| CallId(format!("call-{n}").into())).boxed();
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

/// The rows that `requests` are said to touch, of all that there are: those that are known, and the rest read.
fn touched(all: &Rows, requests: &[Request], known: &Known, opened_is_new: bool) -> Rows {
    let mut rows = Rows { seen_ms: all.seen_ms, ..Rows::default() };
    let to_read = known.fill(&mut rows, &touch::Touched::by(requests), opened_is_new);
    for (id, lease) in all.leases.iter() {
        if to_read.leases.contains(&id) || to_read.holders.contains(&&lease.holder) {
            rows.leases.load(id.clone(), lease.clone());
        }
    }
    for (id, call) in all.open.iter() {
        let is_asked = call.lease.as_ref().is_some_and(|lease| to_read.asked.contains(&lease));
        if to_read.calls.contains(&id) || to_read.holders.contains(&&call.holder) || is_asked {
            rows.open.load(id.clone(), call.clone());
        }
    }
    for id in known.leases_of_open_calls(&mut rows) {
        all.leases.get(&id).into_iter().for_each(|lease| rows.leases.load(id.clone(), lease.clone()));
    }
    all.ended.iter().filter(|(id, _)| to_read.calls.contains(id)).for_each(|(id, ended)| rows.ended.load(id.clone(), ended.clone()));
    all.outcomes.iter().filter(|(id, ())| to_read.outcomes.contains(&id.as_str())).for_each(|(id, ())| rows.outcomes.load(id.clone(), ()));
    let wanted = touch::accounts(&rows, requests);
    for range in known.accounts(&mut rows, wanted) {
        let key = |bucket| AccountKey { limit: range.limit.clone(), bucket };
        all.accounts.range(key(range.from), key(range.to)).for_each(|(key, account)| rows.accounts.load(key.clone(), *account));
    }
    rows
}

/// Whether a store refuses these changes: a call would be open and recorded, or either twice.
fn is_refused(all: &Rows, batch: &Rows) -> bool {
    let is_new = |change: &Change<'_, OpenCall>| matches!(change, Change::New(_));
    let opens = batch.open.changes().filter(|(_, change)| is_new(change)).any(|(id, _)| all.open.contains(id) || all.ended.contains(id));
    let recorded = batch.ended.changes().filter(|(_, change)| matches!(change, Change::New(_)));
    let closes = |call: &CallId| batch.open.changes().any(|(id, change)| id == call && change == Change::Deleted);
    opens || recorded.into_iter().any(|(id, _)| all.ended.contains(id) || (all.open.contains(id) && !closes(id)))
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
            let mut rows = touched(&stored, &batch, &Known::default(), false);
            prop_assert_eq!(&one_by_one, &apply_all(&mut rows, &batch));
            store(&mut stored, &rows);
            prop_assert_eq!(&all, &stored);
        }
    }

    #[test]
    fn a_writer_that_knows_its_rows_does_what_one_does_that_reads_them(
        batches in proptest::collection::vec((proptest::collection::vec(request(), 1..6), 0..6_u8), 1..12)
    ) {
        let (mut all, mut stored, mut known) = (Rows::default(), Rows::default(), Known::default());
        for (batch, forgets) in batches {
            let one_by_one = apply_all(&mut all, &batch);
            all.saved();
            let mut rows = touched(&stored, &batch, &known, true);
            let mut answers = apply_all(&mut rows, &batch);
            if is_refused(&stored, &rows) {
                known.forget();
                rows = touched(&stored, &batch, &known, false);
                answers = apply_all(&mut rows, &batch);
            }
            prop_assert_eq!(&one_by_one, &answers);
            store(&mut stored, &rows);
            prop_assert_eq!(&all, &stored);
            known.learn(rows);
            if forgets == 0 {
                known.forget();
            }
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

/// The accounts of a store, and until when each is needed.
type Ends = BTreeMap<AccountKey, i64>;

/// Forgets what may be forgotten.
fn forget_accounts(all: &mut Rows, ends: &mut Ends) {
    let is_over = |key: &AccountKey, account: &Account| forget::may_be_forgotten(account, ends[key], all.seen_ms);
    let over: Vec<AccountKey> = all.accounts.iter().filter(|(key, account)| is_over(key, account)).map(|(key, _)| key.clone()).collect();
    for key in over {
        all.accounts.remove(&key);
        ends.remove(&key);
    }
    all.saved();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn forgetting_accounts_changes_no_answer_and_no_window_that_has_not_ended(
        days in proptest::collection::vec((proptest::collection::vec((request(), 0..40_000_000_i64), 1..6), 0..3_i64), 1..12)
    ) {
        let (mut all, mut stored, mut ends, mut now_ms) = (Rows::default(), Rows::default(), Ends::new(), 0);
        for (requests, pause) in days {
            for (mut request, later_ms) in requests {
                now_ms += later_ms;
                on_day_of(&mut request, now_ms);
                let batch = [request];
                let one_by_one = apply_all(&mut all, &batch);
                all.saved();
                let mut rows = touched(&stored, &batch, &Known::default(), false);
                prop_assert_eq!(&one_by_one, &apply_all(&mut rows, &batch));
                let needed = forget::Needed::by(&rows, &batch);
                for (key, change) in rows.accounts.changes() {
                    if matches!(change, Change::New(_)) {
                        ends.insert(key.clone(), needed.until_ms(key));
                    }
                }
                store(&mut stored, &rows);
            }
            now_ms += pause * DAY_MS;
            forget_accounts(&mut stored, &mut ends);
            assert_adds_up(&stored);
            for (key, span) in [("a/b/day", day_of(now_ms)), ("a/b/tokens", day_of(now_ms)), ("a/c/rolling", ROLLING)] {
                let key = LimitKey(key.into());
                prop_assert_eq!(all.standing(&key, span, now_ms), stored.standing(&key, span, now_ms), "{:?}", key);
            }
        }
    }
}

const DAY_MS: i64 = 86_400_000;

fn day_of(now_ms: i64) -> Span {
    let start_ms = now_ms.div_euclid(DAY_MS) * DAY_MS;
    Span::Fixed { start_ms, end_ms: start_ms + DAY_MS }
}

/// A request that is made at `now_ms`, with limits as they stand then.
fn on_day_of(request: &mut Request, now_ms: i64) {
    let on_day = |terms: &mut Vec<LimitTerms>| {
        terms.iter_mut().filter(|terms| matches!(terms.span, Span::Fixed { .. })).for_each(|terms| terms.span = day_of(now_ms));
    };
    match request {
        Request::Acquire(acquire) => {
            acquire.now_ms = now_ms;
            on_day(&mut acquire.limits);
        }
        Request::Report { entries, now_ms: at_ms, .. } => {
            *at_ms = now_ms;
            for entry in entries {
                if let Entry::Opened { unleased, .. } | Entry::Settled { unleased, .. } = entry {
                    on_day(unleased);
                }
            }
        }
        Request::HolderGone { now_ms: at_ms, .. } => *at_ms = now_ms,
    }
}

#[test]
fn an_account_is_needed_while_its_window_lasts_and_forgotten_a_day_later_when_nothing_is_held() {
    let bucket = |bucket| AccountKey { limit: LimitKey("a/b/l".into()), bucket };
    let of = |span| {
        let terms = LimitTerms { key: LimitKey("a/b/l".into()), unit: Unit::Usd, limit: 1, span };
        let entry = Entry::Settled { record: record("c", 1, CallOutcome::Completed), lease: None, unleased: vec![terms] };
        let request = Request::Report { holder: holder("pod"), entries: vec![entry], now_ms: 5 };
        forget::Needed::by(&Rows { seen_ms: 5, ..Rows::default() }, &[request])
    };
    let forever = Span::Fixed { start_ms: 0, end_ms: i64::MAX };
    for (span, start, until_ms) in [
        (DAY, 0, 86_400_000),
        (forever, 0, i64::MAX),
        (ROLLING, 20, 20 + 60 + 10),
        (ROLLING, AccountKey::ROLLING, 5 + 60 + 10),
        // Of another window than any that is spoken of.
        (DAY, 7, 5),
    ] {
        assert_eq!(of(span).until_ms(&bucket(start)), until_ms, "{span:?} {start}");
    }
    let (free, held) = (Account { settled: 9, ..Account::default() }, Account { outstanding: 1, ..Account::default() });
    let open = Account { reserved: 1, ..Account::default() };
    for (account, until_ms, now_ms, expected) in [
        (free, 10, 10 + forget::KEEP_MS, false),
        (free, 10, 11 + forget::KEEP_MS, true),
        (held, 10, 11 + forget::KEEP_MS, false),
        (open, 10, 11 + forget::KEEP_MS, false),
        (free, i64::MAX, i64::MAX, false),
    ] {
        assert_eq!(forget::may_be_forgotten(&account, until_ms, now_ms), expected, "{account:?} until {until_ms} at {now_ms}");
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
