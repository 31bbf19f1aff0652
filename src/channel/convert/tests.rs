use proptest::prelude::*;
use prost::Message;
use std::sync::Arc;

use super::*;
use crate::core::call::{CallKind, CallOutcome};
use crate::core::dimensions::Origin;
use crate::core::policy::{Policy, Protocol};
use crate::core::usage::Usage;

fn some_amount() -> impl Strategy<Value = Amount> {
    (0..PicoUsd::MAX.0, 0..i64::MAX, 0..i64::MAX).prop_map(|(usd, tokens, requests)| Amount { usd: PicoUsd(usd), tokens, requests })
}

fn a_record() -> CallRecord {
    CallRecord {
        id: CallId("c-1".into()),
        started_at_ms: 1,
        duration_ms: 2,
        time_to_first_byte_ms: Some(1),
        origin: Arc::default(),
        dimensions: Dimensions::default(),
        kind: CallKind::Model { protocol: Protocol::OpenAIChat },
        route: "a/r".into(),
        backend: "b".into(),
        requested_model: "m".into(),
        model: "m".into(),
        requested_tier: None,
        tier: None,
        classification: None,
        usage: Usage { input: 3, output: 4, ..Usage::default() },
        cost: PicoUsd(5),
        reserved: Amount { usd: PicoUsd(9), tokens: 9, requests: 1 },
        bytes: 10,
        outcome: CallOutcome::Completed,
        status: 200,
        unpriced: false,
    }
}

fn over_the_wire<A: Message, B: Message + Default>(message: A) -> B {
    B::decode(message.encode_to_vec().as_slice()).unwrap()
}

fn settled(record: &CallRecord) -> proto::ReportRequest {
    let entry = Reported::Settled { record: Arc::new(record.clone()), lease: Some(LeaseId("l".into())), unleased: vec![] };
    proto::ReportRequest { entries: vec![entry.into()] }
}

proptest! {
    #[test]
    fn a_lease_request_survives_the_wire(min in some_amount(), more in some_amount(), seq: u64) {
        let ask = LeaseAsk {
            lease: LeaseId("l-1".into()),
            seq,
            limits: vec![LimitKey("a/b/c".into()), LimitKey("a/b/d=x y".into())],
            min,
            want: min.max(more),
            need: min.max(more),
        };
        let wire: proto::AcquireRequest = over_the_wire(proto::AcquireRequest::from(ask.clone()));
        prop_assert_eq!(LeaseAsk::try_from(wire).unwrap(), ask);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(wire) = proto::ReportRequest::decode(bytes.as_slice()) {
            let _ = report_from_wire(wire);
        }
        if let Ok(wire) = proto::AcquireRequest::decode(bytes.as_slice()) {
            let _ = LeaseAsk::try_from(wire);
        }
        let entry = proto::entry::Entry::Settled(proto::Settled { record_json: bytes, ..Default::default() });
        let _ = report_from_wire(proto::ReportRequest { entries: vec![proto::Entry { entry: Some(entry) }] });
    }
}

#[test]
fn every_entry_survives_the_wire_in_order() {
    let entries = vec![
        Reported::Opened {
            call: CallId("c-1".into()),
            lease: Some(LeaseId("l".into())),
            reserved: a_record().reserved,
            draft: Some(Arc::new(a_record())),
            unleased: vec![LimitKey("a/w/l".into())],
        },
        Reported::Opened { call: CallId("c-2".into()), lease: None, reserved: Amount::ZERO, draft: None, unleased: vec![] },
        Reported::Settled { record: Arc::new(a_record()), lease: None, unleased: vec![LimitKey("a/w/l".into())] },
        Reported::GivenBack { lease: LeaseId("l".into()), seq: 7, amount: Amount::ZERO },
        Reported::Outcome {
            id: "o-1".into(),
            outcome: "resolved-ticket".into(),
            count: 2,
            dimensions: Dimensions([(Dimension::Team, "support".to_owned())].into()),
        },
    ];
    let wire = proto::ReportRequest { entries: entries.iter().cloned().map(Into::into).collect() };
    assert_eq!(report_from_wire(over_the_wire(wire)).unwrap(), entries);
}

#[test]
fn answers_survive_the_wire_and_their_times_move_to_the_readers_clock() {
    let shortfall = |resets_at_ms| Shortfall { key: LimitKey("a/b/c".into()), unit: Unit::Tokens, left: -3, idle: 7, resets_at_ms };
    let sent = Decision::Refused { shortfalls: vec![shortfall(Some(1_500)), shortfall(None)] };
    let read = decision_from_wire(over_the_wire(decision_to_wire(sent, 1_000)), 90_000).unwrap();
    assert_eq!(read, Decision::Refused { shortfalls: vec![shortfall(Some(90_500)), shortfall(None)] });
    for decision in [Decision::Expired, Decision::Granted { granted: a_record().reserved, valid_for_ms: 60_000, left: Some(PicoUsd(7)) }] {
        assert_eq!(decision_from_wire(decision_to_wire(decision.clone(), 5), 9).unwrap(), decision);
    }
}

#[test]
fn a_policy_and_its_credentials_survive_the_wire() {
    let credential = BackendCredential { route: ResourceKey::new("a", "r"), backend: "b".into(), value: Secret::new("k".into()) };
    let pushed = Pushed {
        policy: Some(Policy { generation: 3, ..Policy::default() }),
        credentials: vec![credential],
        recall: vec![LimitKey("a/b/c".into())],
        operator_version: "0.1.0".into(),
    };
    let wire: proto::Push = over_the_wire(proto::Push::from(&pushed));
    assert_eq!(Pushed::try_from(wire).unwrap(), pushed);
    assert_eq!(Pushed::try_from(proto::Push::default()).unwrap().policy, None);
}

#[test]
fn a_sidecar_cannot_credit_itself() {
    let negative = proto::Amount { pico_usd: "-5".into(), ..Default::default() };
    assert!(amount("x", Some(negative)).is_err());
    assert!(amount("x", Some(proto::Amount { tokens: -1, ..Default::default() })).is_err());
    assert!(report_from_wire(settled(&CallRecord { cost: PicoUsd(-1), ..a_record() })).is_err());
    let reserved = Amount { requests: -1, ..Amount::ZERO };
    assert!(report_from_wire(settled(&CallRecord { reserved, ..a_record() })).is_err());
}

#[test]
fn what_is_too_large_or_missing_is_refused_by_name() {
    let huge_usage = Usage { input: u64::MAX, ..Usage::default() };
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    let bad_records = [
        (CallRecord { id: CallId(String::new()), ..a_record() }, "record.id"),
        (CallRecord { usage: huge_usage, ..a_record() }, "record.usage"),
        (CallRecord { dimensions: Dimensions([(Dimension::Team, long)].into()), ..a_record() }, "record.dimensions"),
    ];
    for (record, field) in bad_records {
        let error = report_from_wire(settled(&record)).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    let no_limits = proto::AcquireRequest { lease: "l".into(), ..Default::default() };
    assert!(LeaseAsk::try_from(no_limits).unwrap_err().to_string().contains("limits is missing"));
    let entries = vec![proto::Entry::default(); MAX_ENTRIES + 1];
    assert!(report_from_wire(proto::ReportRequest { entries }).is_err());
}

#[test]
fn entries_of_a_newer_release_are_left_out() {
    let report = proto::ReportRequest { entries: vec![proto::Entry { entry: None }] };
    assert_eq!(report_from_wire(report).unwrap(), vec![]);
}

#[test]
fn the_origin_of_a_record_is_the_reporters() {
    let origin = Origin { namespace: "real".into(), ..Origin::default() };
    let lying = CallRecord { origin: Arc::new(Origin { namespace: "other".into(), ..Origin::default() }), ..a_record() };
    let entry = report_from_wire(settled(&lying)).unwrap().remove(0);
    match entry.into_entry(&origin, |_| None, 0) {
        crate::ledger::Entry::Settled { record, .. } => assert_eq!(*record.origin, origin),
        other => panic!("{other:?}"),
    }
}
