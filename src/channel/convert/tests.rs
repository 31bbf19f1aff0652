use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::core::policy::Policy;

fn some_amount() -> impl Strategy<Value = Amount> {
    (0..PicoUsd::MAX.0, 0..i64::MAX, 0..i64::MAX).prop_map(|(usd, tokens, requests)| Amount { usd: PicoUsd(usd), tokens, requests })
}

fn over_the_wire<A: Message, B: Message + Default>(message: A) -> B {
    B::decode(message.encode_to_vec().as_slice()).unwrap()
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
        if let Ok(wire) = proto::AcquireRequest::decode(bytes.as_slice()) {
            let _ = LeaseAsk::try_from(wire);
        }
    }
}

#[test]
fn answers_survive_the_wire_and_their_times_move_to_the_readers_clock() {
    let shortfall = |resets_at_ms| Shortfall { key: LimitKey("a/b/c".into()), unit: Unit::Tokens, left: -3, idle: 7, resets_at_ms };
    let sent = Decision::Refused { shortfalls: vec![shortfall(Some(1_500)), shortfall(None)] };
    let read = decision_from_wire(over_the_wire(decision_to_wire(sent, 1_000)), 90_000).unwrap();
    assert_eq!(read, Decision::Refused { shortfalls: vec![shortfall(Some(90_500)), shortfall(None)] });
    for decision in [
        Decision::Expired,
        Decision::Granted { granted: Amount { usd: PicoUsd(9), tokens: 9, requests: 1 }, valid_for_ms: 60_000, left: Some(PicoUsd(7)) },
    ] {
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
}

#[test]
fn what_is_missing_is_refused_by_name() {
    let no_limits = proto::AcquireRequest { lease: "l".into(), ..Default::default() };
    assert!(LeaseAsk::try_from(no_limits).unwrap_err().to_string().contains("limits is missing"));
}
