use proptest::prelude::*;

use super::*;
use RecommendationState::{Applied, Approved, Expired, Proposed, Rejected, RolledBack, Verified};

fn recommendation(patch: &str, state: RecommendationState, time: &str) -> Recommendation {
    let target = TargetRef { api_version: "apps/v1".into(), kind: "Deployment".into(), namespace: "shop".into(), name: "bot".into() };
    let evidence = Evidence {
        from: "2026-11-01T00:00:00Z".into(),
        to: "2026-11-02T00:00:00Z".into(),
        window_seconds: 86_400,
        samples: 100,
        source: "kubelet".into(),
        figures: BTreeMap::new(),
    };
    let proposal = Proposal {
        kind: RecommendationKind::WorkloadResources,
        target,
        summary: "Smaller".into(),
        patch: patch.into(),
        revert: "{}".into(),
        evidence,
        estimated_monthly_savings: PicoUsd::from_usd(1),
        risk: Risk::Low,
    };
    Recommendation { state, transition_time: Some(time.to_owned()), ..proposal.into() }
}

#[test]
fn only_the_arrows_of_the_diagram_can_be_followed() {
    let arrows = [
        (Proposed, Event::Approve, Approved),
        (Proposed, Event::Reject, Rejected),
        (Proposed, Event::Expire, Expired),
        (Approved, Event::Apply, Applied),
        (Approved, Event::Expire, Expired),
        (Applied, Event::Verify, Verified),
        (Applied, Event::RollBack, RolledBack),
        (Verified, Event::RollBack, RolledBack),
    ];
    for state in RecommendationState::ALL {
        for event in Event::ALL {
            let expected = arrows.iter().find(|(from, by, _)| (*from, *by) == (state, event)).map(|(_, _, to)| *to);
            assert_eq!(transition(state, event).ok(), expected, "{state:?} {event:?}");
        }
    }
}

#[test]
fn a_refusal_says_what_can_be_done() {
    let refused = transition(Verified, Event::Approve).unwrap_err();
    assert_eq!(refused.to_string(), "a recommendation that is applied and verified cannot be approved; it can only be rolled back");
    let mut known = recommendation("a", Rejected, "t0");
    assert!(known.advance(Event::Apply, "t1").is_err());
    assert_eq!(known, recommendation("a", Rejected, "t0"));
}

#[test]
fn an_id_follows_from_kind_target_and_patch_alone() {
    let one = recommendation("a", Proposed, "t0");
    assert_eq!(one.id.len(), 10);
    assert!(one.id.bytes().all(|b| b.is_ascii_hexdigit()));
    let other_evidence = Recommendation { summary: "Other words".into(), ..recommendation("a", Proposed, "t9") };
    assert_eq!(one.id, other_evidence.id);
    assert_ne!(one.id, recommendation("b", Proposed, "t0").id);
    let elsewhere = TargetRef { name: "other".into(), ..one.target.clone() };
    assert_ne!(one.id, id(one.kind, &elsewhere, &one.patch));
    assert_ne!(one.id, id(RecommendationKind::ModelTier, &one.target, &one.patch));
    assert_ne!(one.field_manager(), recommendation("b", Proposed, "t0").field_manager(), "one manager would drop the other's fields");
}

/// State and time of what was known as `state` at `t0`, after a round at `t1` that proposes it again or not.
fn after_round(state: RecommendationState, proposed_again: bool) -> (RecommendationState, String) {
    let proposed = if proposed_again { vec![recommendation("a", Proposed, "")] } else { vec![] };
    let merged = merge(vec![recommendation("a", state, "t0")], proposed, "t1");
    assert_eq!(merged.len(), 1);
    (merged[0].state, merged[0].transition_time.clone().unwrap())
}

#[test]
fn a_round_of_proposals_changes_open_ones_and_leaves_decisions_alone() {
    for (state, proposed_again, then, time) in [
        (Proposed, true, Proposed, "t0"),
        (Proposed, false, Expired, "t1"),
        (Expired, true, Proposed, "t1"),
        (Expired, false, Expired, "t0"),
        (Approved, true, Approved, "t0"),
        (Approved, false, Approved, "t0"),
        (Rejected, true, Rejected, "t0"),
        (Rejected, false, Rejected, "t0"),
        (Applied, true, Applied, "t0"),
        (Applied, false, Applied, "t0"),
        (Verified, true, Verified, "t0"),
        (Verified, false, Verified, "t0"),
        (RolledBack, true, RolledBack, "t0"),
        (RolledBack, false, RolledBack, "t0"),
    ] {
        assert_eq!(after_round(state, proposed_again), (then, time.to_owned()), "{state:?}, proposed again: {proposed_again}");
    }
}

#[test]
fn an_open_proposal_gets_the_new_evidence_and_a_decided_one_keeps_its_own() {
    let newer = Recommendation { summary: "Newer".into(), ..recommendation("a", Proposed, "") };
    for (state, summary) in [(Proposed, "Newer"), (Approved, "Smaller")] {
        let merged = merge(vec![recommendation("a", state, "t0")], vec![newer.clone()], "t1");
        assert_eq!(merged[0].summary, summary, "{state:?}");
    }
}

#[test]
fn a_new_proposal_says_since_when_it_stands() {
    let merged = merge(vec![], vec![recommendation("a", Proposed, "")], "t1");
    assert_eq!((merged[0].state, merged[0].transition_time.as_deref()), (Proposed, Some("t1")));
}

#[test]
fn history_is_bounded_and_expired_ones_leave_first() {
    let expired = (0..30).map(|i| recommendation(&format!("e{i}"), Expired, &format!("t5{i:02}")));
    let decided = (0..10).map(|i| recommendation(&format!("d{i}"), Rejected, &format!("t1{i:02}")));
    let open = (0..25).map(|i| recommendation(&format!("o{i}"), Approved, "t0"));
    let merged = merge(expired.chain(decided).chain(open).collect(), vec![], "t9");
    let count = |state| merged.iter().filter(|r| r.state == state).count();
    assert_eq!((count(Approved), count(Rejected), count(Expired)), (25, 10, 10));
    assert!(merged[..25].iter().all(|r| r.state == Approved), "open ones come first");
    assert_eq!(merged[25].transition_time.as_deref(), Some("t529"), "then the newest");
}

proptest! {
    #[test]
    fn merging_the_same_round_again_changes_nothing(
        known in prop::collection::btree_map("[a-f]", prop::sample::select(&RecommendationState::ALL), 0..6),
        proposed in prop::collection::btree_set("[a-f]", 0..6),
    ) {
        let known: Vec<_> = known.iter().map(|(patch, state)| recommendation(patch, *state, "t0")).collect();
        let proposed: Vec<_> = proposed.iter().map(|patch| recommendation(patch, Proposed, "")).collect();
        let once = merge(known, proposed.clone(), "t1");
        prop_assert_eq!(&merge(once.clone(), proposed, "t2"), &once);
    }
}
