//! Whether somebody goes on spending and brings nothing any more, at whatever rate it spends.
//!
//! What it spends between one outcome and the next is compared with the last such stretches. If outcomes come by chance and cost `c` in
//! the mean, a stretch without one that costs `x · c` has the probability `e^-x` (the exponential distribution's tail): at twenty, one false
//! alarm in five hundred million outcomes. Who brings them by the batch has long stretches in its past, and is measured by those.

use std::collections::VecDeque;

/// Stretches that are remembered, and how many of them are enough to know what is usual.
const PAST: usize = 30;
const ENOUGH: usize = 10;
/// How many times the longest stretch in the past is too long.
const LONGEST: i128 = 3;

/// A stretch without an outcome that is too long. Amounts are in the unit of what was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drought {
    /// What was spent since the last outcome, when it was found.
    pub spent: i128,
    /// What is usually spent from one outcome to the next.
    pub usual: i128,
}

/// What one value spends from one outcome to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Stretches {
    past: VecDeque<i128>,
    since: i128,
    /// The dearest call since: one dear call is no drought.
    dearest: i128,
}

impl Stretches {
    pub fn spent(&mut self, amount: i128, dearest: i128) {
        self.since += amount;
        self.dearest = self.dearest.max(dearest);
    }

    /// An outcome came. Of outcomes that come together, the first ends a stretch. What is too long already is not `heeded`: nobody gets
    /// used to it.
    pub fn outcome(&mut self, heeded: bool) {
        let spent = std::mem::take(&mut self.since);
        self.dearest = 0;
        if heeded && spent > 0 {
            self.past.push_back(spent);
            self.past.drain(..self.past.len().saturating_sub(PAST));
        }
    }

    /// What was spent since the last outcome, if that, without its dearest call, is twice `factor` times the usual or more, three times the
    /// longest in the past or more, and `material` or more.
    pub fn drought(&self, factor: i128, material: i128) -> Option<Drought> {
        if self.past.len() < ENOUGH {
            return None;
        }
        let usual = self.past.iter().sum::<i128>() / self.past.len() as i128;
        let longest = self.past.iter().copied().max().unwrap_or_default();
        let least = usual.saturating_mul(2 * factor).max(longest.saturating_mul(LONGEST)).max(material);
        (self.since - self.dearest >= least).then_some(Drought { spent: self.since, usual })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(past: &[i128], since: i128) -> Stretches {
        let mut stretches = Stretches::default();
        for spent in past {
            stretches.spent(*spent, 0);
            stretches.outcome(true);
        }
        stretches.spent(since, 0);
        stretches
    }

    #[test]
    fn a_stretch_is_too_long_by_what_is_usual_what_was_longest_and_what_is_worth_a_word() {
        let even = [20; 10];
        let mut uneven = [20; 10];
        uneven[3] = 200;
        for (case, past, since, material, expected) in [
            ("twenty times what one costs", &even[..], 400, 1, Some(Drought { spent: 400, usual: 20 })),
            ("less than that", &even, 399, 1, None),
            ("it is no matter", &even, 400, 401, None),
            ("too little is known", &even[1..], 4_000, 1, None),
            ("three times the longest is more: 38 in the mean", &uneven, 761, 1, Some(Drought { spent: 761, usual: 38 })),
        ] {
            assert_eq!(after(past, since).drought(10, material), expected, "{case}");
        }
        assert_eq!(after(&[[1; 9].as_slice(), &[1_000]].concat(), 2_999).drought(10, 1), None, "a batch is a long stretch");
        let mut dear = after(&even, 300);
        dear.spent(50_000, 50_000);
        assert_eq!(dear.drought(10, 1), None, "one dear call");
    }

    #[test]
    fn an_outcome_ends_a_drought_and_what_was_too_long_is_not_learnt() {
        let mut stretches = after(&[20; 10], 4_000);
        assert!(stretches.drought(10, 1).is_some());
        stretches.outcome(false);
        assert_eq!(stretches.drought(10, 1), None);
        stretches.outcome(true);
        stretches.spent(400, 0);
        assert_eq!(stretches.drought(10, 1), Some(Drought { spent: 400, usual: 20 }), "as before, and outcomes that come together are one");
    }

    proptest! {
        #[test]
        fn no_stretch_is_too_long_that_is_no_longer_than_three_in_the_past(past in prop::collection::vec(0..1_000i128, 0..60), factor in 2..50i128) {
            let remembered = past.iter().copied().filter(|spent| *spent > 0).rev().take(PAST).max().unwrap_or_default();
            prop_assert_eq!(after(&past, (LONGEST * remembered - 1).max(0)).drought(factor, 1), None);
        }

        #[test]
        fn what_is_found_is_found_of_more_too(past in prop::collection::vec(1..1_000i128, 10..40), since in 0..100_000i128, more in 0..100_000i128) {
            if after(&past, since).drought(10, 1).is_some() {
                prop_assert!(after(&past, since + more).drought(10, 1).is_some());
            }
        }
    }
}
