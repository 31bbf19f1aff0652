use proptest::prelude::*;

use super::*;

fn shape(quarters: u64) -> Shape {
    Shape { class: Class::Prose, quarters }
}

fn learnt(calls: impl IntoIterator<Item = (u64, u64)>) -> Calibration {
    let mut calibration = Calibration::default();
    calls.into_iter().for_each(|(quarters, billed)| calibration.learn("m", shape(quarters), billed));
    calibration
}

fn times(calls: u64, call: (u64, u64)) -> impl Iterator<Item = (u64, u64)> {
    (0..calls).map(move |_| call)
}

#[test]
fn nothing_is_estimated_of_too_few_calls_or_of_other_models_and_classes() {
    assert_eq!(learnt(times(ENOUGH - 1, (400, 100))).estimate("m", shape(400)), None);
    let calibration = learnt(times(ENOUGH, (400, 100)));
    assert!(calibration.estimate("m", shape(400)).is_some_and(|tokens| (100..=104).contains(&tokens)));
    assert_eq!(calibration.estimate("n", shape(400)), None);
    assert_eq!(calibration.estimate("m", Shape { class: Class::Han, ..shape(400) }), None);
}

#[test]
fn one_call_in_a_thousand_may_exceed_it() {
    let odd = |calls, odd| learnt(times(calls - odd, (400, 100)).chain(times(odd, (400, 400))));
    // The largest of 999 is exceeded by one in a thousand; of 2,999 the third largest is.
    for (calls, outliers, heeded) in [(999, 1, true), (1_999, 1, false), (1_999, 2, true), (2_999, 2, false), (2_999, 3, true)] {
        let estimate = odd(calls, outliers).estimate("m", shape(400)).unwrap();
        assert_eq!(estimate >= 400, heeded, "{outliers} of {calls}: {estimate}");
    }
}

#[test]
fn what_a_model_did_long_ago_is_forgotten() {
    let mut calibration = learnt(times(WINDOW, (400, 400)));
    for _ in 0..WINDOW {
        calibration.learn("m", shape(400), 100);
    }
    assert!(calibration.estimate("m", shape(400)).unwrap() >= 400);
    calibration.learn("m", shape(400), 100);
    assert!(calibration.estimate("m", shape(400)).unwrap() <= 104);
}

#[test]
fn what_is_beyond_every_edge_has_no_estimate() {
    assert_eq!(learnt(times(ENOUGH, (4, 1_000))).estimate("m", shape(4)), None);
    assert_eq!(learnt(times(ENOUGH, (u64::MAX, 0))).estimate("m", shape(64)), Some(2));
    assert_eq!(learnt(times(ENOUGH, (1, u64::MAX))).estimate("m", shape(u64::MAX)), None);
}

#[test]
fn memory_is_bounded() {
    let mut calibration = Calibration::default();
    for model in 0..100 {
        for class in Class::ALL {
            calibration.learn(&model.to_string(), Shape { class, quarters: 4 }, 1);
        }
    }
    let bytes = calibration.models.len() * Class::ALL.len() * size_of::<Ratios>();
    assert!(calibration.models.len() == MOST_MODELS && bytes < 1 << 19, "{bytes} bytes");
}

#[test]
fn steps_are_fine_and_wide_enough() {
    assert!(EDGES.windows(2).all(|pair| pair[0] < pair[1] && (pair[1] - pair[0]) * 31 <= pair[0] + 31));
    assert!(EDGES[STEPS - 1] >= 8 * SCALE, "{}", EDGES[STEPS - 1]);
}

proptest! {
    /// With a thousand calls it is the largest ratio seen, rounded up by a step.
    #[test]
    fn a_call_that_was_seen_is_covered_and_not_by_much(billed in prop::collection::vec(50u64..2_000, 999), quarters in 500u64..2_000) {
        let calibration = learnt(billed.iter().map(|billed| (quarters, *billed)));
        let (most, estimate) = (*billed.iter().max().unwrap(), calibration.estimate("m", shape(quarters)).unwrap());
        prop_assert!(most <= estimate && estimate <= most + most / 24 + 4, "{} {}", most, estimate);
    }
}
