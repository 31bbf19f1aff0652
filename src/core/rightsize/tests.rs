use proptest::prelude::*;

use super::*;

const PARAMS: Params = Params { percentile: 99, headroom_percent: 15, min_history_seconds: 60 };
const WORKLOAD: Workload<'static> = Workload { namespace: "shop", deployment: "bot", container: "app", replicas: 2 };

/// One sample a second: CPU in millicores, memory in MiB.
fn samples(usage: impl IntoIterator<Item = (u64, u64)>) -> Vec<Sample> {
    let sample = |(i, (cpu, memory)): (usize, (u64, u64))| Sample {
        at_ms: i as i64 * 1_000,
        cpu_nanocores: cpu * NANOCORES_PER_MILLICORE,
        memory_bytes: memory * BYTES_PER_MIB,
    };
    usage.into_iter().enumerate().map(sample).collect()
}

fn requests(cpu: u64, memory: u64) -> Resources {
    Resources { cpu_request_millicores: Some(cpu), memory_request_mib: Some(memory), ..Resources::default() }
}

/// The change that is proposed after 101 seconds of steady use.
fn proposed(cpu: u64, memory: u64, current: &Resources) -> Option<Change> {
    match decide(&samples([(cpu, memory); 101]), current, &PARAMS, None) {
        Decision::Propose { change, .. } => Some(change),
        Decision::Fits { .. } => None,
        short => panic!("{short:?}"),
    }
}

#[test]
fn a_percentile_is_a_value_that_was_measured() {
    let hundred = samples((1..=100).map(|i| (i, 1)));
    for (percentile, expected) in [(50, 50), (99, 99), (100, 100), (1, 1)] {
        assert_eq!(cpu_percentile(&hundred, percentile), expected * NANOCORES_PER_MILLICORE, "p{percentile}");
    }
    let three = samples([(30, 1), (10, 1), (20, 1)]);
    for (percentile, expected) in [(33, 10), (34, 20), (66, 20), (67, 30), (99, 30)] {
        assert_eq!(cpu_percentile(&three, percentile), expected * NANOCORES_PER_MILLICORE, "p{percentile} of three");
    }
}

#[test]
fn requests_cover_the_percentile_of_cpu_and_all_of_the_memory_with_headroom() {
    let mut usage = vec![(100, 200); 199];
    usage.extend([(900, 400), (900, 100)]);
    let Decision::Propose { observed, change } = decide(&samples(usage), &requests(1_000, 1_024), &PARAMS, None) else {
        panic!("a tenth of the request is used")
    };
    assert_eq!((observed.cpu_percentile_millicores, observed.memory_max_mib), (100, 400), "two peaks in 201 are above p99");
    assert_eq!((observed.samples, observed.history_seconds()), (201, 200));
    assert_eq!(change, Change { cpu_request_millicores: Some(115), memory_request_mib: Some(460), memory_limit_mib: None });
}

#[test]
fn a_fraction_is_rounded_up() {
    assert_eq!(with_headroom(1, 0, NANOCORES_PER_MILLICORE), 1);
    assert_eq!(with_headroom(BYTES_PER_MIB + 1, 0, BYTES_PER_MIB), 2);
    assert_eq!(with_headroom(7 * BYTES_PER_MIB, 15, BYTES_PER_MIB), 9, "8.05");
    assert_eq!(with_headroom(0, 15, BYTES_PER_MIB), 1, "a request of nothing is no request");
    assert_eq!(with_headroom(u64::MAX, u32::MAX, 1), u64::MAX);
}

#[test]
fn a_short_history_proposes_nothing_and_says_how_long_it_is() {
    let decision = decide(&samples([(1, 1); 60]), &requests(1_000, 1_000), &PARAMS, None);
    assert!(matches!(decision, Decision::TooShort { have_seconds: 59, need_seconds: 60, .. }), "{decision:?}");
    assert!(matches!(decide(&[], &Resources::default(), &Params { min_history_seconds: 0, ..PARAMS }, None), Decision::TooShort { .. }));
}

#[test]
fn a_change_of_less_than_a_tenth_is_not_proposed() {
    // 100m of use needs 115m, 100Mi need 115Mi.
    for (cpu, memory, expected) in [
        (115, 115, None),
        (127, 127, None),
        (105, 105, None),
        (128, 115, Some((Some(115), None))),
        (115, 128, Some((None, Some(115)))),
        (104, 104, Some((Some(115), Some(115)))),
    ] {
        let change = proposed(100, 100, &requests(cpu, memory));
        assert_eq!(change.map(|c| (c.cpu_request_millicores, c.memory_request_mib)), expected, "{cpu}m {memory}Mi");
    }
}

#[test]
fn what_is_not_set_is_proposed() {
    let change = proposed(100, 100, &Resources::default()).unwrap();
    assert_eq!((change.cpu_request_millicores, change.memory_request_mib), (Some(115), Some(115)));
}

#[test]
fn a_request_fits_under_its_limit() {
    let limited = Resources { cpu_limit_millicores: Some(110), memory_limit_mib: Some(110), ..requests(50, 50) };
    let change = proposed(100, 100, &limited).unwrap();
    assert_eq!(change.cpu_request_millicores, Some(110), "the CPU limit is left alone");
    assert_eq!((change.memory_request_mib, change.memory_limit_mib), (Some(115), Some(115)), "the memory limit makes room");
}

#[test]
fn a_standing_proposal_stays_while_it_is_good_enough() {
    let standing = Change { cpu_request_millicores: Some(120), memory_request_mib: Some(115), memory_limit_mib: None };
    let decide_with = |cpu| match decide(&samples([(cpu, 100); 101]), &requests(1_000, 1_000), &PARAMS, Some(standing)) {
        Decision::Propose { change, .. } => change.cpu_request_millicores,
        other => panic!("{other:?}"),
    };
    assert_eq!(decide_with(100), Some(120), "115m are needed");
    assert_eq!(decide_with(104), Some(120), "120m are needed");
    assert_eq!(decide_with(120), Some(120), "138m are needed, and 120m cover what was used without its headroom");
    assert_eq!(decide_with(121), Some(140), "it no longer covers what was used");
    assert_eq!(decide_with(94), Some(109), "it wastes more than a tenth");
}

#[test]
fn savings_are_what_the_freed_requests_cost_in_a_month() {
    let price = NodePrice { core_hour: "0.04".parse().unwrap(), gib_hour: "0.005".parse().unwrap() };
    let halved = Change { cpu_request_millicores: Some(500), memory_request_mib: Some(1_024), memory_limit_mib: None };
    let savings = |change| monthly_savings(&requests(1_000, 2_048), &change, 2, &price).to_decimal();
    assert_eq!(savings(halved), "36.50", "730 h × 2 × (0.5 × $0.04 + 1 × $0.005)");
    assert_eq!(savings(Change::default()), "0.00");
    assert_eq!(savings(Change { cpu_request_millicores: Some(2_000), ..Change::default() }), "-58.40");
}

#[test]
fn patch_and_revert_are_the_new_and_the_old_values_of_what_changes() {
    let price = NodePrice { core_hour: PicoUsd::ZERO, gib_hour: PicoUsd::ZERO };
    let change = Change { cpu_request_millicores: Some(115), memory_request_mib: Some(120), memory_limit_mib: None };
    let current = Resources { memory_request_mib: None, ..requests(1_000, 0) };
    let proposal = proposal(&WORKLOAD, &current, &Observed::default(), &change, &PARAMS, &price);
    let with = |resources: &str| {
        format!(
            r#"{{"apiVersion":"apps/v1","kind":"Deployment","metadata":{{"name":"bot","namespace":"shop"}},"spec":{{"template":{{"spec":{{"containers":[{{"name":"app","resources":{resources}}}]}}}}}}}}"#
        )
    };
    assert_eq!(proposal.patch, with(r#"{"requests":{"cpu":"115m","memory":"120Mi"}}"#));
    assert_eq!(proposal.revert, with(r#"{"requests":{"cpu":"1000m"}}"#), "what was not set is withdrawn, not set to something");
    assert_eq!(
        proposal.summary,
        "Change the CPU request from 1000m to 115m, the memory request from nothing to 120Mi of container app in Deployment bot"
    );
    assert_eq!(change_of_patch(&proposal.patch), Some(change));
    assert_eq!(change_of_patch("{}"), None);
}

proptest! {
    #[test]
    fn memory_is_never_proposed_below_what_was_used_with_headroom(
        memory in prop::collection::vec(1u64..1 << 40, 61..100), request in prop::option::of(1u64..1 << 20),
        limit in prop::option::of(1u64..1 << 20), headroom in 0u32..500,
    ) {
        let samples: Vec<Sample> = memory.iter().enumerate()
            .map(|(i, bytes)| Sample { at_ms: i as i64 * 1_000, cpu_nanocores: 0, memory_bytes: *bytes }).collect();
        let current = Resources { memory_request_mib: request, memory_limit_mib: limit, ..Resources::default() };
        let params = Params { headroom_percent: headroom, ..PARAMS };
        if let Decision::Propose { change, .. } = decide(&samples, &current, &params, None) {
            let most = u128::from(*memory.iter().max().expect("there are samples"));
            for proposed in [change.memory_request_mib, change.memory_limit_mib].into_iter().flatten() {
                prop_assert!(u128::from(proposed) * u128::from(BYTES_PER_MIB) * 100 >= most * (100 + u128::from(headroom)));
            }
            let limit_after = change.memory_limit_mib.or(limit);
            let valid = change.memory_request_mib.is_none_or(|r| limit_after.is_none_or(|l| r <= l));
            prop_assert!(valid, "a request above its limit is refused by the API server");
        }
    }

    #[test]
    fn the_order_of_samples_does_not_matter(usage in prop::collection::vec((0u64..4_000, 0u64..4_000), 61..100)) {
        let forwards = samples(usage);
        let backwards: Vec<Sample> = forwards.iter().rev().copied().collect();
        prop_assert_eq!(decide(&forwards, &requests(500, 500), &PARAMS, None), decide(&backwards, &requests(500, 500), &PARAMS, None));
    }
}
