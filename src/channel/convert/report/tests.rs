use std::collections::BTreeSet;

use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

use super::super::figures::{MAX_COMMON_BYTES, MAX_TOLD_BYTES, outcome, usage};
use super::super::{MAX_KEY_BYTES, MAX_LIMITS};
use super::*;
use crate::core::amount::Amount;
use crate::core::call::{CallKind, CallRecord, Classification};
use crate::core::dimensions::Origin;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::core::policy::{Detector, Protocol, Tier};
use crate::core::usage::Usage;

/// Records of a few models, teams and findings, with any figures.
fn some_record() -> impl Strategy<Value = CallRecord> {
    let figures = (0..1_i64 << 50, 0..1_000_000_i64, proptest::option::of(0..9_000_i64), 0..=i128::from(u64::MAX) * 2, 0_u64..1 << 40);
    let meters = proptest::collection::vec(0_u64..3, Usage::METERS);
    let about = (any::<u128>(), 0..3_usize, 0..5_u8, proptest::option::of((any::<u8>(), any::<bool>())));
    (figures, meters, about, 0..5_i32).prop_map(|(figures, meters, (id, model, team, found), ended)| {
        let dimensions = Dimensions::from([(Dimension::Team, format!("team-{team}"))]);
        let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
        let id = CallId(Uuid::from_u128(id).to_string().into());
        let (started_at_ms, duration_ms, time_to_first_byte_ms, cost, bytes) = figures;
        CallRecord {
            duration_ms,
            time_to_first_byte_ms,
            model: ["a", "b", "c"][model].into(),
            tier: Some(Tier::Economy),
            classification: found.map(|(complexity, is_sensitive)| Classification {
                complexity,
                needed_tier: Tier::Standard,
                sensitive: is_sensitive.then_some(Detector::Email).into_iter().collect::<BTreeSet<_>>(),
            }),
            usage: usage(&meters).unwrap(),
            cost: PicoUsd(cost),
            reserved: Amount { usd: PicoUsd(cost), tokens: 7, requests: 1 },
            bytes,
            outcome: outcome(ended).unwrap(),
            status: 200,
            ..CallRecord::begun(id, Origin::default(), dimensions, kind, started_at_ms)
        }
    })
}

fn some_report() -> impl Strategy<Value = Vec<Reported>> {
    let call = (some_record(), 0..3_u8, any::<bool>(), any::<bool>()).prop_map(|(record, lease, is_warned, has_ended)| {
        let lease = (lease > 0).then(|| LeaseId(format!("l-{lease}").into()));
        let unleased = is_warned.then(|| LimitKey("a/w/l".into())).into_iter().collect();
        let record = Arc::new(record);
        match has_ended {
            true => Reported::Settled { record, lease, unleased },
            false => Reported::Opened { call: record.id.clone(), lease, reserved: record.reserved, draft: Some(record), unleased },
        }
    });
    let back = (0..9_u64).prop_map(|seq| Reported::GivenBack { lease: LeaseId("l-1".into()), seq, amount: Amount::ZERO });
    proptest::collection::vec(prop_oneof![4 => call, 1 => back], 0..40)
}

fn over_the_wire(report: &[Reported]) -> proto::ReportRequest {
    proto::ReportRequest::decode(report_to_wire(report).encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn a_report_survives_the_wire_in_order(report in some_report()) {
        prop_assert_eq!(report_from_wire(over_the_wire(&report)).unwrap(), report);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(wire) = proto::ReportRequest::decode(bytes.as_slice()) {
            let _ = report_from_wire(wire);
        }
        let entry = Entry::Settled(proto::Settled { record_json: bytes, ..Default::default() });
        let _ = report_from_wire(proto::ReportRequest { entries: vec![proto::Entry { entry: Some(entry) }], common: vec![] });
    }
}

fn settled(record: &CallRecord) -> Vec<Reported> {
    vec![Reported::Settled { record: Arc::new(record.clone()), lease: None, unleased: vec![] }]
}

fn opened(record: &CallRecord) -> Vec<Reported> {
    let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(Arc::new(record.clone())));
    vec![Reported::Opened { call, lease: None, reserved, draft, unleased: vec![] }]
}

fn a_record(number: u128) -> CallRecord {
    let id = CallId(Uuid::from_u128(number).to_string().into());
    CallRecord::begun(id, Origin::default(), Dimensions::default(), CallKind::Shared, 5)
}

#[test]
fn calls_that_are_alike_say_so_once() {
    let report: Vec<Reported> = (0..500).flat_map(|number| [opened(&a_record(number)), settled(&a_record(number))]).flatten().collect();
    let wire = over_the_wire(&report);
    assert_eq!((wire.common.len(), wire.entries.len()), (1, 1_000));
    let length = wire.encoded_len();
    assert!(length < 1_000 * 60, "{length} bytes");
}

#[test]
fn what_does_not_fit_is_written_out() {
    let named = CallRecord { id: CallId("call-1".into()), ..a_record(1) };
    let shouted = CallRecord { id: CallId(Uuid::from_u128(u128::MAX).to_string().to_uppercase().into()), ..a_record(1) };
    let dear = CallRecord { cost: PicoUsd(i128::from(u64::MAX) + 1), ..a_record(1) };
    let other = Reported::Opened { call: CallId("b".into()), lease: None, reserved: Amount::ZERO, draft: None, unleased: vec![] };
    let calls = [named, shouted, dear].into_iter().flat_map(|record| [opened(&record), settled(&record)]);
    for report in calls.chain([vec![other]]) {
        let wire = over_the_wire(&report);
        assert!(matches!(wire.entries[0].entry, Some(Entry::Opened(_) | Entry::Settled(_))), "{report:?}");
        assert_eq!(report_from_wire(wire).unwrap(), report);
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let wire = || over_the_wire(&settled(&a_record(1)));
    let end = |change: fn(&mut proto::CallFigures)| {
        let mut wire = wire();
        if let Some(Entry::SettledLike(end)) = &mut wire.entries[0].entry {
            change(end);
        }
        wire
    };
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    let dimensions = Dimensions::from([(Dimension::Team, long)]);
    let mut large = wire();
    large.common[0].record_json.resize(MAX_COMMON_BYTES + 1, b' ');
    let mut many = wire();
    many.common[0].record_json.resize(MAX_COMMON_BYTES, b' ');
    many.entries = vec![many.entries[0].clone(); MAX_TOLD_BYTES / MAX_COMMON_BYTES + 1];
    let mut keys = wire();
    keys.common[0].unleased = (0..MAX_LIMITS).map(|key| format!("{key:0MAX_KEY_BYTES$}")).collect();
    keys.entries = vec![keys.entries[0].clone(); MAX_ENTRIES];
    let mut none = wire();
    none.common.clear();
    for (wire, field) in [
        (end(|end| end.common = 1), "figures.common"),
        (end(|end| end.call = vec![0; 15]), "figures.call"),
        (end(|end| end.usage = vec![0; 11]), "figures.usage"),
        (end(|end| end.usage = vec![u64::MAX]), "record.usage"),
        (end(|end| end.outcome = 5), "figures.outcome"),
        (end(|end| end.status = 1 << 16), "figures.status"),
        (end(|end| end.complexity = Some(256)), "figures.complexity"),
        (end(|end| end.reserved_tokens = -1), "record.reserved"),
        (over_the_wire(&settled(&CallRecord { dimensions, ..a_record(1) })), "record.dimensions"),
        (large, "common.record_json"),
        (many, "common has"),
        (keys, "common has"),
        (none, "figures.common"),
        (proto::ReportRequest { entries: vec![proto::Entry::default(); MAX_ENTRIES + 1], common: vec![] }, "entries"),
        (proto::ReportRequest { common: vec![proto::Common::default(); MAX_ENTRIES + 1], entries: vec![] }, "common"),
    ] {
        let error = report_from_wire(wire).unwrap_err().to_string();
        assert!(error.starts_with(field), "{field}: {error}");
    }
}

#[test]
fn a_written_out_record_that_cannot_be_is_refused_by_name() {
    let settled = |record: CallRecord| {
        let entry = written_out(settled(&record).remove(0));
        proto::ReportRequest { entries: vec![proto::Entry { entry: Some(entry) }], common: vec![] }
    };
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    for (record, field) in [
        (CallRecord { id: CallId("".into()), ..a_record(1) }, "record.id"),
        (CallRecord { usage: Usage { input: u64::MAX, ..Usage::default() }, ..a_record(1) }, "record.usage"),
        (CallRecord { dimensions: Dimensions::from([(Dimension::Team, long)]), ..a_record(1) }, "record.dimensions"),
        // A sidecar cannot credit itself.
        (CallRecord { cost: PicoUsd(-1), ..a_record(1) }, "record.cost"),
        (CallRecord { reserved: Amount { requests: -1, ..Amount::ZERO }, ..a_record(1) }, "record.reserved"),
    ] {
        let error = report_from_wire(settled(record)).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

#[test]
fn every_entry_survives_the_wire_written_out_or_not() {
    let entries = vec![
        Reported::Opened {
            call: CallId("c-1".into()),
            lease: Some(LeaseId("l".into())),
            reserved: a_record(1).reserved,
            draft: Some(Arc::new(a_record(1))),
            unleased: vec![LimitKey("a/w/l".into())],
        },
        Reported::Opened { call: CallId("c-2".into()), lease: None, reserved: Amount::ZERO, draft: None, unleased: vec![] },
        Reported::Settled { record: Arc::new(a_record(1)), lease: None, unleased: vec![LimitKey("a/w/l".into())] },
        Reported::GivenBack { lease: LeaseId("l".into()), seq: 7, amount: Amount::ZERO },
        Reported::Outcome {
            id: "o-1".into(),
            outcome: "resolved-ticket".into(),
            count: 2,
            dimensions: Dimensions::from([(Dimension::Team, "support".to_owned())]),
        },
    ];
    let written_out = entries.iter().cloned().map(|entry| proto::Entry { entry: Some(written_out(entry)) });
    let wire = proto::ReportRequest { entries: written_out.collect(), common: vec![] };
    assert_eq!(report_from_wire(wire).unwrap(), entries);
    assert_eq!(report_from_wire(over_the_wire(&entries)).unwrap(), entries);
}

#[test]
fn entries_of_a_newer_release_are_left_out() {
    let report = proto::ReportRequest { entries: vec![proto::Entry { entry: None }], common: vec![] };
    assert_eq!(report_from_wire(report).unwrap(), vec![]);
}

#[test]
fn the_origin_of_a_record_is_the_reporters() {
    let origin = Origin { namespace: "real".into(), ..Origin::default() };
    let lying = CallRecord { origin: Arc::new(Origin { namespace: "other".into(), ..Origin::default() }), ..a_record(1) };
    let entry = report_from_wire(over_the_wire(&settled(&lying))).unwrap().remove(0);
    match entry.into_entry(&origin, |_| None, 0) {
        crate::ledger::Entry::Settled { record, .. } => assert_eq!(*record.origin, origin),
        other => panic!("{other:?}"),
    }
}
