//! Divides money by usage so that the parts add up to the whole, to the pico-dollar.

use std::cmp::Reverse;

use super::money::PicoUsd;

/// The shares of `cost` in proportion to `weights`, in their order; `None` when all weights are zero, for then nobody can bear it.
///
/// Largest remainder method (Hamilton): each share is rounded down, and the pico-dollars left over, fewer than there are
/// weights, go one each to the largest remainders; the earlier weight wins a tie. A weight of zero gets nothing.
///
/// # Panics
/// When the weights sum to 2¹²⁷ or more: no period has as many calls, tokens, bytes or pico-dollars.
pub fn split(cost: PicoUsd, weights: &[u128]) -> Option<Vec<PicoUsd>> {
    let total = weights.iter().try_fold(0u128, |sum, weight| sum.checked_add(*weight)).filter(|sum| *sum < 1 << 127);
    let total = total.expect("the usage of a period is below 2^127");
    if total == 0 {
        return None;
    }
    let magnitude = cost.0.unsigned_abs();
    let mut parts: Vec<(u128, u128)> = weights.iter().map(|weight| multiply_divide(magnitude, *weight, total)).collect();
    let left_over = magnitude - parts.iter().map(|(share, _)| share).sum::<u128>();
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|i| (Reverse(parts[*i].1), *i));
    for i in by_remainder.into_iter().take(usize::try_from(left_over).expect("fewer than there are weights")) {
        parts[i].0 += 1;
    }
    let signed = |share: u128| i128::try_from(share).expect("a share is no more than the cost") * cost.0.signum();
    Some(parts.into_iter().map(|(share, _)| PicoUsd(signed(share))).collect())
}

/// Quotient and remainder of `cost × weight / total` for `weight ≤ total < 2¹²⁷`.
///
/// The product needs up to 254 bits, so it is built and divided bit by bit of the weight, as by hand: after each bit,
/// `cost × (the bits so far) = quotient × total + remainder` with `remainder < total`.
fn multiply_divide(cost: u128, weight: u128, total: u128) -> (u128, u128) {
    let carried = |quotient: u128, remainder: u128| match remainder.checked_sub(total) {
        Some(less) => (quotient + 1, less),
        None => (quotient, remainder),
    };
    let (whole, part) = (cost / total, cost % total);
    let (mut quotient, mut remainder) = (0, 0);
    for bit in (0..u128::BITS - weight.leading_zeros()).rev() {
        (quotient, remainder) = carried(2 * quotient, 2 * remainder);
        if weight >> bit & 1 == 1 {
            (quotient, remainder) = carried(quotient + whole, remainder + part);
        }
    }
    (quotient, remainder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(cost: i128, weights: &[u128]) -> Vec<i128> {
        split(PicoUsd(cost), weights).expect("there is usage").into_iter().map(|share| share.0).collect()
    }

    #[test]
    fn pico_dollars_left_over_go_to_the_largest_remainders() {
        assert_eq!(shares(100, &[1, 1, 1]), [34, 33, 33], "the first wins a tie");
        assert_eq!(shares(10, &[5, 3, 2]), [5, 3, 2]);
        assert_eq!(shares(10, &[1, 2, 4]), [1, 3, 6], "remainders 3/7, 6/7, 5/7");
        assert_eq!(shares(1, &[1, 3]), [0, 1]);
        assert_eq!(shares(7, &[0, 2, 0]), [0, 7, 0]);
        assert_eq!(shares(-100, &[1, 1, 1]), [-34, -33, -33], "a credit is divided like a cost");
        assert_eq!(shares(0, &[1, 2]), [0, 0]);
    }

    #[test]
    fn what_nobody_used_is_nobodys() {
        assert_eq!(split(PicoUsd(5), &[0, 0]), None);
        assert_eq!(split(PicoUsd(5), &[]), None);
    }

    #[test]
    fn the_largest_amounts_are_divided_without_overflow() {
        let cost = PicoUsd::MAX.0;
        let third = (1u128 << 127) / 3;
        assert_eq!(shares(cost, &[third, third]), [cost - cost / 2, cost / 2]);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_are_within_one_of_the_exact_share(
            cost in 0..PicoUsd::MAX.0,
            weights in prop::collection::vec(prop_oneof![Just(0u128), 0..1_000u128, 0..1u128 << 120], 1..12),
        ) {
            let Some(parts) = split(PicoUsd(cost), &weights) else { return Ok(()) };
            prop_assert_eq!(parts.iter().copied().sum::<PicoUsd>(), PicoUsd(cost));
            let total: u128 = weights.iter().sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let (exact, _) = multiply_divide(cost as u128, *weight, total);
                prop_assert!((part.0 as u128).abs_diff(exact) <= 1);
                prop_assert!(*weight > 0 || part.0 == 0);
            }
        }

        #[test]
        fn the_long_division_is_right_where_a_machine_word_can_check_it(cost: u64, weight: u32, more: u32) {
            let total = u128::from(weight) + u128::from(more);
            prop_assume!(total > 0);
            let product = u128::from(cost) * u128::from(weight);
            prop_assert_eq!(multiply_divide(cost.into(), weight.into(), total), (product / total, product % total));
        }

        #[test]
        fn the_long_division_is_right_beyond_it(whole in 0..1u128 << 60, total in 1..1u128 << 127, weight in 0..1u128 << 127) {
            // A cost that is a multiple of the total divides to a multiple of the weight, remainder nought.
            let weight = weight % (total + 1);
            if let (Some(cost), Some(share)) = (whole.checked_mul(total), whole.checked_mul(weight)) {
                prop_assert_eq!(multiply_divide(cost, weight, total), (share, 0));
            }
        }

        #[test]
        fn more_usage_is_never_a_smaller_share(cost in 0..1i128 << 100, weights in prop::collection::vec(0..1u128 << 90, 2..8)) {
            let Some(parts) = split(PicoUsd(cost), &weights) else { return Ok(()) };
            for (i, j) in (0..weights.len()).flat_map(|i| (0..weights.len()).map(move |j| (i, j))) {
                prop_assert!(weights[i] <= weights[j] || parts[i] >= parts[j]);
            }
        }
    }
}
