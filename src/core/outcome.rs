//! What one outcome cost.

use super::money::PicoUsd;

/// An owner's cost over the outcomes that it bought: `cost = count × per_outcome + remainder`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutcomeCost {
    pub cost: PicoUsd,
    pub count: u64,
    /// Rounded down; `None` while there are no outcomes.
    pub per_outcome: Option<PicoUsd>,
    /// Less than one pico-dollar for each outcome; all of the cost while there are none.
    pub remainder: PicoUsd,
}

/// Divides `cost` by the number of outcomes.
pub fn cost_per_outcome(cost: PicoUsd, count: u64) -> OutcomeCost {
    match i128::from(count) {
        0 => OutcomeCost { cost, count, per_outcome: None, remainder: cost },
        n => OutcomeCost { cost, count, per_outcome: Some(PicoUsd(cost.0.div_euclid(n))), remainder: PicoUsd(cost.0.rem_euclid(n)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_outcome_costs_its_part_and_the_rest_is_shown() {
        let cost = cost_per_outcome(PicoUsd(10), 3);
        assert_eq!((cost.per_outcome, cost.remainder), (Some(PicoUsd(3)), PicoUsd(1)));
    }

    #[test]
    fn without_outcomes_there_is_no_cost_of_one() {
        let cost = cost_per_outcome(PicoUsd(10), 0);
        assert_eq!((cost.per_outcome, cost.remainder), (None, PicoUsd(10)));
    }

    proptest! {
        #[test]
        fn the_outcomes_and_the_remainder_add_up_to_the_cost(cost in -PicoUsd::MAX.0..PicoUsd::MAX.0, count: u64) {
            let divided = cost_per_outcome(PicoUsd(cost), count);
            let outcomes = divided.per_outcome.unwrap_or_default().0 * i128::from(count);
            prop_assert_eq!(outcomes + divided.remainder.0, cost);
            prop_assert!(count == 0 || (0..i128::from(count)).contains(&divided.remainder.0));
        }
    }
}
