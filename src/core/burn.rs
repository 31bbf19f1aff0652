//! Burn rates: how many times faster than its window allows a limit is being spent, in a long and a short look back at once.
//!
//! After "The Site Reliability Workbook", chapter 5, "Alerting on SLOs", alert 6 (multiwindow, multi-burn-rate): the long look
//! back says that what burns is worth a word, the short one, a twelfth of it, that it still burns. The workbook's figures are
//! for a window of 30 days; here they scale with the limit's window.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::history::{HOUR_MS, MINUTE_MS};

/// The two pairs of looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BurnSpeed {
    /// 14.4 times too fast over a 720th of the window, and still: of a month, 2 % of the limit within an hour. Used up in two days.
    Fast,
    /// 6 times too fast over a 120th of the window, and still: of a month, 5 % of the limit within six hours. Used up in five days.
    Slow,
}

/// What a speed means for one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BurnWindows {
    pub long_ms: i64,
    pub short_ms: i64,
    /// In percent of the rate that uses the limit exactly up.
    pub threshold: i64,
}

/// Looks back are no shorter than this: a limit's history knows minutes, and one call is no fire.
const SHORTEST_LONG_MS: i64 = 5 * MINUTE_MS;
/// An alert that burns is over when its long look back is below this part of its threshold.
const OVER_PERCENT: i64 = 75;

impl BurnSpeed {
    /// The looks back for a window of this length.
    pub fn windows(self, window_ms: i64) -> BurnWindows {
        let (part, threshold) = match self {
            BurnSpeed::Fast => (720, 1_440),
            BurnSpeed::Slow => (120, 600),
        };
        let long_ms = (window_ms / part).max(SHORTEST_LONG_MS);
        BurnWindows { long_ms, short_ms: (long_ms / 12).max(MINUTE_MS), threshold }
    }
}

/// How fast `spent` in a look back uses a limit up, in percent: 100 uses it up exactly by its window's end.
pub fn burn_rate(spent: i128, lookback_ms: i64, limit: i128, window_ms: i64) -> i64 {
    let (used, allowed) = (spent.saturating_mul(window_ms.into()), limit.saturating_mul(lookback_ms.into()));
    super::forecast::percent(used, allowed).max(0)
}

/// Whether an alert's condition is met, is over, or is in between, where it stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Met,
    Between,
    Over,
}

impl Level {
    /// Of a figure against its threshold, over below `over_percent` of that.
    pub fn of(figure: i64, threshold: i64, over_percent: i64) -> Level {
        match figure {
            _ if figure >= threshold => Level::Met,
            _ if figure.saturating_mul(100) < threshold.saturating_mul(over_percent) => Level::Over,
            _ => Level::Between,
        }
    }

    /// Of a burn rate in its two looks back.
    pub fn of_burn(long: i64, short: i64, threshold: i64) -> Level {
        match Level::of(long, threshold, OVER_PERCENT) {
            Level::Met if short < threshold => Level::Between,
            level => level,
        }
    }
}

/// An alert that does not flap: it goes on at once, and off when its condition has been over for a while on end.
///
/// ```text
///            met                  over for `hold`
///   (off) ────────▶ (on) ────────────────────────▶ (off)
///                    ▲ └─ over ─▶ waiting ─┐
///                    └──── met, between ───┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latch {
    on: bool,
    /// Since when the condition is over, while the alert is on.
    over_since_ms: Option<i64>,
}

/// How long an alert's condition is over before the alert is.
pub const HOLD_MS: i64 = 10 * MINUTE_MS;

/// The longest that an alert outlasts its condition: an hour, of which ten minutes are for the shortest windows.
pub fn hold_ms(short_ms: i64) -> i64 {
    short_ms.clamp(HOLD_MS, HOUR_MS)
}

impl Latch {
    /// As it was when an earlier process wrote it down.
    pub fn restored(on: bool) -> Latch {
        Latch { on, over_since_ms: None }
    }

    pub fn is_on(self) -> bool {
        self.on
    }

    /// The latch after a look at its condition; a moment before the last one is taken as that.
    #[must_use]
    pub fn after(self, level: Level, now_ms: i64, hold_ms: i64) -> Latch {
        match (self.on, level) {
            (_, Level::Met) => Latch { on: true, over_since_ms: None },
            (true, Level::Between) => Latch { on: true, over_since_ms: None },
            (true, Level::Over) => {
                let since = self.over_since_ms.unwrap_or(now_ms);
                if now_ms - since >= hold_ms { Latch::default() } else { Latch { on: true, over_since_ms: Some(since) } }
            }
            (false, _) => Latch::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::history::History;

    const DAY_MS: i64 = 24 * HOUR_MS;

    #[test]
    fn the_workbooks_figures_hold_for_thirty_days_and_scale() {
        let figures = |speed: BurnSpeed, window_ms: i64| {
            let BurnWindows { long_ms, short_ms, threshold } = speed.windows(window_ms);
            (long_ms / MINUTE_MS, short_ms / MINUTE_MS, threshold)
        };
        assert_eq!(figures(BurnSpeed::Fast, 30 * DAY_MS), (60, 5, 1_440));
        assert_eq!(figures(BurnSpeed::Slow, 30 * DAY_MS), (360, 30, 600));
        assert_eq!(figures(BurnSpeed::Slow, 7 * DAY_MS), (84, 7, 600));
        assert_eq!(figures(BurnSpeed::Fast, DAY_MS), (5, 1, 1_440));
    }

    #[test]
    fn a_burn_rate_of_a_hundred_percent_uses_a_limit_up_exactly() {
        // 2 % of a month's limit in an hour.
        assert_eq!(burn_rate(20, HOUR_MS, 1_000, 30 * DAY_MS), 1_440);
        assert_eq!(burn_rate(1_000, 30 * DAY_MS, 1_000, 30 * DAY_MS), 100);
        assert_eq!(burn_rate(-5, HOUR_MS, 1_000, DAY_MS), 0);
        assert!(burn_rate(i128::MAX, HOUR_MS, 1, i64::MAX) > 0);
    }

    #[test]
    fn both_looks_back_must_burn_and_an_alert_is_over_well_below_its_threshold() {
        use Level::{Between, Met, Over};
        for (long, short, level) in [(600, 600, Met), (900, 599, Between), (599, 900, Between), (450, 0, Between), (449, 900, Over)] {
            assert_eq!(Level::of_burn(long, short, 600), level, "{long} and {short}");
        }
    }

    #[test]
    fn an_alert_goes_off_when_its_condition_was_over_for_a_while_on_end() {
        use Level::{Between, Met, Over};
        let looks = [(0, Between, false), (1, Met, true), (2, Over, true), (11, Over, true), (12, Over, false), (13, Between, false)];
        let again = [(14, Met, true), (15, Over, true), (20, Between, true), (21, Over, true), (30, Over, true), (31, Over, false)];
        let mut latch = Latch::default();
        for (minute, level, on) in looks.into_iter().chain(again) {
            latch = latch.after(level, minute * MINUTE_MS, HOLD_MS);
            assert_eq!(latch.is_on(), on, "at minute {minute}");
        }
    }

    proptest! {
        #[test]
        fn however_noisy_spending_is_an_alert_changes_twice_in_its_hold_time_at_most(
            spent in prop::collection::vec(prop_oneof![Just(0i128), 0..40i128, 200..400i128], 60..1_500),
            day in any::<bool>(),
        ) {
            let window_ms = if day { DAY_MS } else { 30 * DAY_MS };
            let BurnWindows { long_ms, short_ms, threshold } = BurnSpeed::Slow.windows(window_ms);
            let hold_ms = hold_ms(short_ms);
            let (mut history, mut latch, mut changes) = (History::new(0), Latch::default(), 0);
            for (minute, amount) in spent.iter().enumerate() {
                let from = minute as i64 * MINUTE_MS;
                let now = from + MINUTE_MS;
                history.add(from, now, *amount);
                let rate = |lookback_ms| burn_rate(history.spent(lookback_ms, now), lookback_ms, 40_000, window_ms);
                let next = latch.after(Level::of_burn(rate(long_ms), rate(short_ms), threshold), now, hold_ms);
                changes += usize::from(next.is_on() != latch.is_on());
                latch = next;
            }
            let holds = spent.len() as i64 * MINUTE_MS / hold_ms;
            prop_assert!(changes as i64 <= 2 * (holds + 1), "{changes} changes in {} minutes", spent.len());
        }
    }
}
