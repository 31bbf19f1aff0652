//! Where a limit is heading: straight-line arithmetic on what was spent so far, in integers.

/// A limit's spending so far, in the limit's unit and Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub limit: i128,
    pub spent: i128,
    /// Since when it was spent: the window's start, or the budget's own if that is later.
    pub since_ms: i64,
    pub now_ms: i64,
    /// The window's end; `None` for windows that have none.
    pub end_ms: Option<i64>,
}

/// The shortest history that a forecast rests on: before that, one call would look like a trend.
const MIN_HISTORY_MS: i64 = 60_000;

impl Pace {
    fn elapsed_ms(&self) -> Option<i128> {
        let elapsed = self.now_ms - self.since_ms;
        (elapsed >= MIN_HISTORY_MS).then_some(elapsed.into())
    }

    /// What will be spent by the window's end at the present rate.
    pub fn forecast(&self) -> Option<i128> {
        let elapsed = self.elapsed_ms()?;
        let remaining = i128::from((self.end_ms? - self.now_ms).max(0));
        Some(self.spent + self.spent.checked_mul(remaining)? / elapsed)
    }

    /// When the limit is used up at the present rate, if that is before the window's end.
    pub fn exhausted_at_ms(&self) -> Option<i64> {
        let elapsed = self.elapsed_ms()?;
        if self.spent <= 0 {
            return None;
        }
        if self.spent >= self.limit {
            return Some(self.now_ms);
        }
        let left_ms = (self.limit - self.spent).checked_mul(elapsed)? / self.spent;
        let at = self.now_ms.checked_add(i64::try_from(left_ms).ok()?)?;
        (at < self.end_ms.unwrap_or(i64::MAX)).then_some(at)
    }
}

/// `part` in percent of `whole`, rounded down; more than everything of nothing is 100.
pub fn percent(part: i128, whole: i128) -> i64 {
    if whole <= 0 {
        return if part > 0 { 100 } else { 0 };
    }
    i64::try_from(part.saturating_mul(100) / whole).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn half_spent_at_half_time_is_all_spent_at_the_end() {
        let pace = Pace { limit: 1_000, spent: 500, since_ms: 0, now_ms: 12 * HOUR, end_ms: Some(24 * HOUR) };
        assert_eq!(pace.forecast(), Some(1_000));
        assert_eq!(pace.exhausted_at_ms(), None, "exactly at the end is not before it");
        let faster = Pace { spent: 750, ..pace };
        assert_eq!((faster.forecast(), faster.exhausted_at_ms()), (Some(1_500), Some(16 * HOUR)));
    }

    #[test]
    fn a_minute_is_no_trend_and_no_end_has_no_forecast() {
        let pace = Pace { limit: 10, spent: 5, since_ms: 0, now_ms: 59_999, end_ms: Some(HOUR) };
        assert_eq!((pace.forecast(), pace.exhausted_at_ms()), (None, None));
        let lifetime = Pace { now_ms: HOUR, end_ms: None, ..pace };
        assert_eq!((lifetime.forecast(), lifetime.exhausted_at_ms()), (None, Some(2 * HOUR)));
        assert_eq!(Pace { spent: 0, ..lifetime }.exhausted_at_ms(), None);
        assert_eq!(Pace { spent: 11, ..lifetime }.exhausted_at_ms(), Some(HOUR));
    }

    #[test]
    fn the_largest_amounts_do_not_overflow() {
        let pace = Pace { limit: i128::MAX / 4, spent: i128::MAX / 8, since_ms: 0, now_ms: HOUR, end_ms: Some(i64::MAX) };
        assert_eq!(pace.forecast(), None);
        assert!((0..=100).contains(&percent(i128::MAX / 8, i128::MAX / 4)));
    }
}
