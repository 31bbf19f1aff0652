use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::core::call::{CallId, CallKind, CallOutcome, Classification};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::money::PicoUsd;
use crate::core::policy::{Protocol, Tier};
use crate::core::usage::Usage;

fn draft(id: &str) -> CallRecord {
    let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
    CallRecord {
        route: "a/r".into(),
        backend: "b".into(),
        requested_model: "m".into(),
        model: "m".into(),
        usage: Usage { input: 3, ..Usage::default() },
        cost: PicoUsd(7),
        reserved: amount(7),
        outcome: CallOutcome::Unknown,
        ..CallRecord::begun(CallId(id.into()), Origin::default(), Dimensions::default(), kind, 1)
    }
}

fn amount(usd: i128) -> Amount {
    Amount { usd: PicoUsd(usd), tokens: 3, requests: 1 }
}

fn lease() -> LeaseId {
    LeaseId("l".into())
}

fn ask(seq: u64) -> LeaseAsk {
    LeaseAsk { lease: lease(), seq, limits: vec![LimitKey("a/b/c".into())], min: amount(7), want: amount(9), need: amount(7) }
}

fn settled(id: &str) -> Line {
    Line::Reported(Reported::Settled { record: Arc::new(draft(id)), lease: Some(lease()), unleased: vec![] })
}

#[test]
fn what_is_written_is_read_back_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    journal.opened(Arc::new(draft("c")), Some(&lease()), &[]).unwrap();
    journal.append(vec![settled("c")]).unwrap();
    journal.give_back([GiveBack { lease: lease(), seq: 2, amount: amount(1) }]).unwrap();
    let batch = journal.read(0, 100).unwrap();
    assert!(
        matches!(batch.entries.as_slice(), [Reported::Settled { .. }, Reported::GivenBack { seq: 2, .. }]),
        "a call that has ended was never open"
    );
    assert_eq!(batch.end, journal.end());
    let first = journal.read(0, 2).unwrap();
    assert!(matches!(first.entries.as_slice(), [Reported::Opened { .. }]));
    drop(journal);
    let reopened = Journal::open(directory.path()).unwrap();
    assert_eq!(reopened.read(first.end, 100).unwrap().entries, batch.entries, "from the file as from memory");
    let (journal, batch) = (reopened, Batch { entries: vec![], ..batch });
    assert!(journal.read(batch.end, 100).unwrap().entries.is_empty());
}

#[test]
fn after_a_crash_open_calls_and_leases_are_known_and_what_was_not_acknowledged_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    journal.asked(ask(1)).unwrap();
    journal.answered(lease(), amount(30)).unwrap();
    journal.opened(Arc::new(draft("done")), Some(&lease()), &[]).unwrap();
    let seen = journal.read(0, 100).unwrap().end;
    journal.acknowledge(seen);
    journal.opened(Arc::new(draft("open")), Some(&lease()), &[]).unwrap();
    journal.append(vec![settled("done")]).unwrap();
    journal.asked(ask(2)).unwrap();
    drop(journal);

    let journal = Journal::open(directory.path()).unwrap();
    let state = journal.state();
    assert_eq!(state.open.keys().map(|id| id.0.as_ref()).collect::<Vec<_>>(), ["open"]);
    let held = &state.leases[&lease()];
    assert_eq!(held.outstanding, Amount { usd: PicoUsd(23), tokens: 0, requests: 0 });
    assert_eq!(held.unanswered(&lease()), Some(ask(2)));
    let from = *journal.acknowledged().borrow();
    assert_eq!(from, seen);
    let mut ids = Vec::new();
    let mut position = from;
    while position < journal.end() {
        let batch = journal.read(position, 100).unwrap();
        position = batch.end;
        ids.extend(batch.entries.into_iter().map(|e| match e {
            Reported::Opened { call, .. } => call.0,
            Reported::Settled { record, .. } => record.id.0.clone(),
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(ids, ["open".into(), "done".into()]);
    assert_eq!(journal.settle_open_calls().unwrap(), 1);
    assert!(journal.state().open.is_empty());
}

#[test]
fn what_makes_a_give_back_free_is_reported_before_it_though_its_call_has_ended() {
    let opened = |reserved| {
        let record = Arc::new(CallRecord { reserved: amount(reserved), ..draft("c") });
        Line::Opened(Arc::new(OpenedCall { record, lease: Some(lease()), unleased: vec![] }))
    };
    let back = Line::Reported(Reported::GivenBack { lease: lease(), seq: 2, amount: amount(5) });
    let told = |lines: &[&Line]| {
        let name = |entry: &Reported| match entry {
            Reported::Opened { reserved, .. } => format!("opened {}", reserved.usd.0),
            Reported::Settled { .. } => "settled".to_owned(),
            _ => "given back".to_owned(),
        };
        reported(lines.iter().copied()).iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(told(&[&opened(2), &back, &settled("c")]), ["opened 2", "given back", "settled"]);
    assert_eq!(told(&[&back, &opened(7), &opened(2), &settled("c")]), ["given back", "settled"]);
}

#[test]
fn half_a_line_is_as_if_it_had_never_been_written() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    journal.opened(Arc::new(draft("whole")), None, &[]).unwrap();
    let end = journal.end();
    drop(journal);
    let file = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let mut text = fs::read(&file).unwrap();
    text.extend_from_slice(b"{\"opened\":{\"rec");
    fs::write(&file, text).unwrap();

    let journal = Journal::open(directory.path()).unwrap();
    assert_eq!(journal.state().open.len(), 1);
    journal.append(vec![settled("later")]).unwrap();
    let mut position = end;
    let mut entries = Vec::new();
    while position < journal.end() {
        let batch = journal.read(position, 10).unwrap();
        assert!(batch.end > position, "the reader goes on");
        position = batch.end;
        entries.extend(batch.entries);
    }
    assert_eq!(entries.len(), 1);
}

#[test]
fn a_journal_that_is_cut_at_any_byte_charges_every_call_that_it_knows_once_and_forgets_none() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    // The position after each write, and the calls that are known from there on.
    let mut writes = vec![(journal.end(), 0)];
    let mut known = |calls| writes.push((journal.end(), calls));
    let open = |id: &str| journal.opened(Arc::new(draft(id)), Some(&lease()), &[]).unwrap();
    journal.asked(ask(1)).unwrap();
    journal.answered(lease(), amount(40)).unwrap();
    known(0);
    open("a");
    known(1);
    open("b");
    known(2);
    journal.append(vec![settled("a"), Line::Counter { metric: "m".into(), value: 1 }]).unwrap();
    known(2);
    open("d");
    known(3);
    journal.ended(end_of("d"), Some(lease()), vec![]).unwrap();
    known(3);
    open("b");
    known(3);
    journal.give_back([GiveBack { lease: lease(), seq: 2, amount: amount(1) }]).unwrap();
    known(3);
    open("c");
    known(4);
    journal.append(vec![settled("b")]).unwrap();
    known(4);
    drop(journal);
    let name = |path: &Path| path.join("0000000000000000.journal");
    let text = fs::read(name(directory.path())).unwrap();
    assert_eq!(text.len() as Position, writes.last().unwrap().0);

    for cut in writes[0].0 as usize..=text.len() {
        // Thousands of journals: in memory, where that has a file system.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        fs::write(name(directory.path()), &text[..cut]).unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        journal.settle_open_calls().unwrap();
        let mut charged: Vec<Arc<str>> = Vec::new();
        let mut position = 0;
        while position < journal.end() {
            let batch = journal.read(position, 100).unwrap();
            position = batch.end;
            charged.extend(batch.entries.into_iter().filter_map(|entry| match entry {
                Reported::Settled { record, .. } => Some(record.id.0.clone()),
                _ => None,
            }));
        }
        charged.sort();
        let calls = writes.iter().rev().find(|(end, _)| *end <= cut as Position).unwrap().1;
        let mut expected = ["a", "b", "d", "c"][..calls].to_vec();
        expected.sort();
        assert_eq!(charged.iter().map(|id| &**id).collect::<Vec<_>>(), expected, "cut at {cut}");
    }
}

/// As [`draft`] is once its call has ended.
fn end_of(id: &str) -> Arc<CallRecord> {
    let usage = Usage { input: 2, output: 5, ..Usage::default() };
    let outcome = CallOutcome::Completed;
    Arc::new(CallRecord {
        duration_ms: 9,
        time_to_first_byte_ms: Some(4),
        usage,
        cost: PicoUsd(5),
        bytes: 77,
        outcome,
        status: 200,
        ..draft(id)
    })
}

#[test]
fn an_end_is_written_short_and_read_whole_wherever_its_call_was_opened() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    journal.asked(ask(1)).unwrap();
    journal.answered(lease(), amount(40)).unwrap();
    for id in ["a", "b", "c"] {
        journal.opened(Arc::new(draft(id)), Some(&lease()), &[]).unwrap();
    }
    let from = journal.end();
    assert!(journal.ended(end_of("a"), Some(lease()), vec![]).unwrap());
    assert!(journal.end() - from < 300, "{}", journal.end() - from);
    assert!(!journal.ended(end_of("a"), Some(lease()), vec![]).unwrap(), "a call ends once");
    // One that differs in more than its end is written whole.
    let other = Arc::new(CallRecord { model: "another".into(), ..CallRecord::clone(&end_of("b")) });
    assert!(journal.ended(Arc::clone(&other), Some(lease()), vec![]).unwrap());
    // The call was opened in a segment before the one in which it ends.
    let segments = || fs::read_dir(directory.path()).unwrap().count();
    let before = segments();
    while segments() == before {
        journal.append(vec![settled("filler")]).unwrap();
    }
    let later = journal.end();
    assert!(journal.ended(end_of("c"), Some(lease()), vec![]).unwrap());
    let (remembered, state) = (journal.read(later, 10).unwrap().entries, journal.state());
    drop(journal);

    let journal = Journal::open(directory.path()).unwrap();
    assert_eq!(journal.state(), state, "as the lines add up to");
    let expected = |record: Arc<CallRecord>| Reported::Settled { record, lease: Some(lease()), unleased: vec![] };
    assert_eq!(journal.read(from, 2).unwrap().entries, [expected(end_of("a")), expected(other)]);
    assert_eq!(journal.read(later, 10).unwrap().entries, remembered);
    assert_eq!(remembered, [expected(end_of("c"))]);
}

#[test]
fn a_call_that_is_like_another_is_written_short_and_read_whole_in_every_segment() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    let call = |number: u32| CallRecord {
        model: format!("model-{}", number % 2).into(),
        cost: PicoUsd(number.into()),
        classification: (number % 4 < 2).then(|| Classification {
            complexity: (number % 100) as u8,
            needed_tier: Tier::Economy,
            sensitive: Default::default(),
        }),
        ..draft(&format!("call-{number}"))
    };
    let leased = |number: u32| (!number.is_multiple_of(5)).then(lease);
    let open = |number: u32| journal.opened(Arc::new(call(number)), leased(number).as_ref(), &[]).unwrap();
    (0..30).for_each(open);
    let from = journal.end();
    open(30);
    assert!(journal.end() - from < 250, "{}", journal.end() - from);
    let mut expected: BTreeMap<_, _> =
        (0..31).map(|number| (CallId(format!("call-{number}").into()), (call(number), leased(number)))).collect();
    let segments = || fs::read_dir(directory.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some()).count();
    // In the next segment a call is written out again, before others are like it.
    for number in 31.. {
        open(number);
        expected.insert(CallId(format!("call-{number}").into()), (call(number), leased(number)));
        if segments() > 2 {
            break;
        }
    }
    let found = |journal: &Journal| -> BTreeMap<_, _> {
        let open = journal.state().open;
        open.into_iter().map(|(id, call)| (id, (CallRecord::clone(&call.record), call.lease.clone()))).collect()
    };
    assert!(found(&journal) == expected);
    let last = *expected.keys().max_by_key(|id| id.0[5..].parse::<u32>().unwrap()).as_ref().unwrap();
    // What is read from the files is what was kept in memory, from the first to the last.
    journal.acknowledge(0);
    drop(journal);
    let journal = Journal::open(directory.path()).unwrap();
    assert!(found(&journal) == expected);
    let (mut position, mut told) = (0, Vec::new());
    while position < journal.end() {
        let batch = journal.read(position, 500).unwrap();
        position = batch.end;
        told.extend(batch.entries);
    }
    let drafts = told.iter().filter_map(|entry| match entry {
        Reported::Opened { draft: Some(draft), lease, .. } => Some((draft.id.clone(), (CallRecord::clone(draft), lease.clone()))),
        _ => None,
    });
    assert!(drafts.collect::<BTreeMap<_, _>>() == expected);
    assert!(told.iter().any(|entry| matches!(entry, Reported::Opened { call, .. } if call == last)));
}

#[test]
fn a_reader_that_is_behind_goes_on_where_it_was_while_calls_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    let mut position = journal.end();
    let call = |number: u32| {
        let record = Arc::new(CallRecord { duration_ms: i64::from(number), ..draft(&format!("call-{number}")) });
        journal.opened(Arc::clone(&record), Some(&lease()), &[]).unwrap();
        journal.ended(record, Some(lease()), vec![]).unwrap();
    };
    // More than is kept in memory.
    (0..6_000).for_each(call);
    let (mut number, mut told) = (6_000, Vec::new());
    while position < journal.end() {
        let batch = journal.read(position, 300).unwrap();
        if told.len() < 2_000 {
            // What was not taken is read again, and calls go on meanwhile.
            assert_eq!(journal.read(position, 300).unwrap().entries, batch.entries);
            (number..number + 100).for_each(call);
            number += 100;
        }
        assert!(batch.end > position);
        position = batch.end;
        told.extend(batch.entries.into_iter().filter_map(|entry| match entry {
            Reported::Settled { record, .. } => Some(record.duration_ms),
            _ => None,
        }));
    }
    assert_eq!(told, (0..i64::from(number)).collect::<Vec<_>>());
}

#[test]
fn however_many_calls_are_open_a_segment_is_more_than_the_state_that_it_begins_with() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    // No call is like one of the last few before it, so that each is written out.
    let call =
        |number: u32| CallRecord { model: format!("model-{}-{}", number % 50, "x".repeat(400)).into(), ..draft(&format!("call-{number}")) };
    (0..3_000).for_each(|number| journal.opened(Arc::new(call(number)), Some(&lease()), &[]).unwrap());
    let written = journal.end();
    let end = |number| journal.ended(Arc::new(call(number)), Some(lease()), vec![]).unwrap();
    assert!((0..20).all(end));
    assert!(journal.end() - written < 20 * 500, "{} bytes for twenty ends", journal.end() - written);
    let segments = fs::read_dir(directory.path()).unwrap().count();
    assert!(segments < 6, "{segments} files");
    drop(journal);
    assert_eq!(Journal::open(directory.path()).unwrap().state().open.len(), 2_980);
}

#[test]
fn a_state_is_the_same_when_what_its_calls_have_in_common_is_said_once() {
    let mut state = State::default();
    state.acknowledged = 7;
    for number in 0..500 {
        let record = CallRecord { model: format!("model-{}", number % 3).into(), duration_ms: number, ..draft(&format!("call-{number}")) };
        let lease = (number % 7 > 0).then(lease);
        state.apply(&Line::Opened(Arc::new(OpenedCall { record: Arc::new(record), lease, unleased: vec![] })));
    }
    let text = line::to_text(&[Line::State(Box::new(state.said_once()))]);
    let in_full = line::to_text(&[Line::State(Box::new(state.clone()))]);
    assert!(text.len() * 4 < in_full.len(), "{} and {} bytes", text.len(), in_full.len());
    for text in [text, in_full] {
        let mut reading = Reading::default();
        for line in line::from_text(text.trim_ascii_end()) {
            reading.next(line);
        }
        assert!(reading.state == state);
    }
}

#[test]
fn a_call_that_is_like_none_that_can_be_read_means_nothing() {
    let journal = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("0000000000000000.journal"), text).unwrap();
        Journal::open(directory.path()).unwrap().state()
    };
    let like = "[1,2,null,null,[3,0,0,0,0,0,0,0,0,0],\"7\",[\"7\",3,1],0,\"unknown\",0]";
    let text = format!("{{\"begun\":{{\"like\":\"lost\",\"call\":\"c\",\"figures\":{like}}}}}\n");
    assert_eq!(journal(&text), State::default());
    let directory = tempfile::tempdir().unwrap();
    let written = Journal::open(directory.path()).unwrap();
    written.opened(Arc::new(draft("lost")), None, &[]).unwrap();
    drop(written);
    let before = fs::read_to_string(directory.path().join("0000000000000000.journal")).unwrap();
    assert_eq!(journal(&format!("{before}{text}")).open.len(), 2);
}

#[test]
fn segments_that_are_reported_go_and_the_state_stays() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path()).unwrap();
    journal.opened(Arc::new(draft("long")), None, &[]).unwrap();
    let segments = || fs::read_dir(directory.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some()).count();
    while segments() < 3 {
        journal.append(vec![settled("short")]).unwrap();
    }
    journal.acknowledge(journal.end());
    assert_eq!(segments(), 1);
    drop(journal);
    let journal = Journal::open(directory.path()).unwrap();
    assert_eq!(journal.state().open.len(), 1);
    assert!(journal.backlog() < 4096, "{}", journal.backlog());
}

#[test]
fn two_sidecars_cannot_share_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Journal::open(directory.path()).unwrap();
    assert!(matches!(Journal::open(directory.path()), Err(JournalError::InUse { .. })));
}
