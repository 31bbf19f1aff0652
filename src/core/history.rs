//! What the calls of one limit cost over time: an hour of minutes and a little more than four weeks of hours, bounded in memory.
//!
//! A plain value: it is filled from readings of a limit's settled sum ([`Sampled`]), or from hours that were recorded before
//! ([`History::from_hours`]). Time is Unix milliseconds; amounts are in the limit's unit.

use std::collections::VecDeque;

use super::limit::Span;

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 3_600_000;
pub const DAY_HOURS: i64 = 24;
pub const WEEK_HOURS: i64 = 168;

/// Minutes that are kept: an hour, and the one under way.
const MINUTES: usize = 61;
/// Hours that are kept: four weeks, so that the median of a weekday bears one bad day, one day more, so that they are whole days at
/// any hour, and the one under way.
const HOURS: usize = (4 * WEEK_HOURS + DAY_HOURS) as usize + 1;

/// Sums of equal stretches of time, the newest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    width_ms: i64,
    capacity: usize,
    /// Number of the oldest stretch since 1970.
    first: i64,
    sums: VecDeque<i128>,
}

impl Series {
    pub(super) fn new(width_ms: i64, capacity: usize) -> Series {
        Series { width_ms, capacity, first: 0, sums: VecDeque::new() }
    }

    fn end(&self) -> i64 {
        self.first + self.sums.len() as i64
    }

    /// What lies before the oldest stretch is forgotten already.
    pub(super) fn add(&mut self, at_ms: i64, amount: i128) {
        let number = at_ms.div_euclid(self.width_ms);
        if self.sums.is_empty() || number - self.end() >= self.capacity as i64 {
            (self.first, self.sums) = (number, VecDeque::from([0]));
        }
        while self.end() <= number {
            self.sums.push_back(0);
        }
        while self.sums.len() > self.capacity {
            self.sums.pop_front();
            self.first += 1;
        }
        let index = usize::try_from(number - self.first);
        if let Some(sum) = index.ok().and_then(|index| self.sums.get_mut(index)) {
            *sum = sum.saturating_add(amount);
        }
    }

    /// What was spent in `from_ms ≤ t < to_ms`; of a stretch that is in it in part, that part.
    pub(super) fn sum(&self, from_ms: i64, to_ms: i64) -> i128 {
        let mut sum = 0i128;
        for number in from_ms.div_euclid(self.width_ms).max(self.first)..=to_ms.div_euclid(self.width_ms).min(self.end() - 1) {
            let (start, end) = (number * self.width_ms, (number + 1) * self.width_ms);
            let within = i128::from(end.min(to_ms) - start.max(from_ms));
            let whole = self.sums[usize::try_from(number - self.first).unwrap_or_default()];
            sum += if within == i128::from(self.width_ms) { whole } else { whole.saturating_mul(within) / i128::from(self.width_ms) };
        }
        sum
    }

    /// Raises the sum of a stretch to `amount`, for a series of largest amounts.
    pub(super) fn raise(&mut self, at_ms: i64, amount: i128) {
        self.add(at_ms, 0);
        let index = usize::try_from(at_ms.div_euclid(self.width_ms) - self.first);
        if let Some(largest) = index.ok().and_then(|index| self.sums.get_mut(index)) {
            *largest = (*largest).max(amount);
        }
    }

    /// The largest of the stretches that are in `from_ms ≤ t < to_ms`, if only in part; 0 of none.
    pub(super) fn largest(&self, from_ms: i64, to_ms: i64) -> i128 {
        let numbers = from_ms.div_euclid(self.width_ms).max(self.first)..=to_ms.div_euclid(self.width_ms).min(self.end() - 1);
        let of = |number: i64| usize::try_from(number - self.first).ok().and_then(|index| self.sums.get(index)).copied();
        numbers.filter_map(of).max().unwrap_or(0)
    }

    fn start_ms(&self) -> i64 {
        self.first * self.width_ms
    }
}

/// Usage over time. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Since when it is known what was spent.
    since_ms: i64,
    minutes: Series,
    hours: Series,
}

impl History {
    /// Nothing is known of what was before `since_ms`.
    pub fn new(since_ms: i64) -> History {
        History { since_ms, minutes: Series::new(MINUTE_MS, MINUTES), hours: Series::new(HOUR_MS, HOURS) }
    }

    /// From what each hour cost, in order of time: the start of the hour, and its sum. Hours that are left out cost nothing.
    pub fn from_hours(since_ms: i64, hours: impl IntoIterator<Item = (i64, i128)>) -> History {
        let mut history = History::new(since_ms);
        for (start_ms, amount) in hours {
            history.hours.add(start_ms, amount);
        }
        history
    }

    /// Adds what was spent in `from_ms ≤ t < to_ms`, evenly; of more than an hour, to the last one.
    pub fn add(&mut self, from_ms: i64, to_ms: i64, amount: i128) {
        let from_ms = from_ms.clamp(to_ms - HOUR_MS, to_ms);
        let (mut at, mut left) = (from_ms, amount);
        loop {
            let end = (at.div_euclid(MINUTE_MS) + 1) * MINUTE_MS;
            let part = if end >= to_ms { left } else { left.saturating_mul((end - at).into()) / i128::from((to_ms - at).max(1)) };
            self.minutes.add(at, part);
            self.hours.add(at, part);
            left -= part;
            if end >= to_ms {
                return;
            }
            at = end;
        }
    }

    /// What was spent in the last `lookback_ms`: to the minute within an hour, else to the hour.
    pub fn spent(&self, lookback_ms: i64, now_ms: i64) -> i128 {
        let from_ms = now_ms - lookback_ms;
        if lookback_ms <= HOUR_MS && !self.minutes.sums.is_empty() && self.minutes.start_ms() <= self.since_ms.max(from_ms) {
            // The minute under way counts as far as it goes.
            return self.minutes.sum(from_ms, (now_ms.div_euclid(MINUTE_MS) + 1) * MINUTE_MS);
        }
        // Of the hour under way, what has passed of it is known.
        let began_ms = now_ms.div_euclid(HOUR_MS) * HOUR_MS;
        let under_way = self.hours.sum(began_ms, began_ms + HOUR_MS);
        let passed = i128::from((now_ms - began_ms).max(1));
        let within = i128::from(now_ms - from_ms.max(began_ms)).min(passed);
        let under_way = if within == passed { under_way } else { under_way.saturating_mul(within) / passed };
        self.hours.sum(from_ms, began_ms.max(from_ms)) + under_way
    }

    /// Hours that are over and known from their first minute: number since 1970 and sum, the oldest first.
    pub fn whole_hours(&self, now_ms: i64) -> impl DoubleEndedIterator<Item = (i64, i128)> + '_ {
        // A minute's delay of the first reading is no reason to lose an hour.
        let known = (self.since_ms - MINUTE_MS).div_euclid(HOUR_MS) + 1;
        let now = now_ms.div_euclid(HOUR_MS);
        let kept = now - (self.hours.capacity as i64 - 1);
        (known.max(kept)..now).map(|number| {
            let index = usize::try_from(number - self.hours.first).ok();
            (number, index.and_then(|index| self.hours.sums.get(index)).copied().unwrap_or(0))
        })
    }
}

/// A limit's settled sum at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Start of the window that is summed.
    pub window_start_ms: i64,
    pub settled: i128,
    pub at_ms: i64,
}

/// A history that is kept by reading a limit's settled sum now and then.
///
/// What settles into a window after it has ended, and between its last reading and its end, is not in it: seconds of a window.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub history: History,
    last: Reading,
}

impl Sampled {
    /// Begins with a first reading: when its sum was spent is not known, so it is not in the history.
    pub fn new(first: Reading) -> Sampled {
        Sampled { history: History::new(first.at_ms), last: first }
    }

    /// Goes on from a history that is known up to a first reading.
    pub fn after(history: History, first: Reading) -> Sampled {
        Sampled { history, last: first }
    }

    /// Takes the next reading; one of an earlier moment or an earlier window is ignored.
    pub fn read(&mut self, reading: Reading) {
        let last = self.last;
        if reading.at_ms < last.at_ms || reading.window_start_ms < last.window_start_ms {
            return;
        }
        if reading.window_start_ms == last.window_start_ms {
            // Less than before is a charge that was taken back.
            self.history.add(last.at_ms, reading.at_ms, reading.settled - last.settled);
        } else {
            self.history.add(reading.window_start_ms.clamp(last.at_ms, reading.at_ms), reading.at_ms, reading.settled);
        }
        self.last = reading;
    }

    /// When the limit was read last.
    pub fn read_at_ms(&self) -> i64 {
        self.last.at_ms
    }
}

/// What to read of a limit for its history: the window itself where it is fixed. A rolling window's sum falls as well as
/// rises, so it is read in blocks of its length, which begin anew instead: the start of the block, and its span.
pub fn block(span: Span, now_ms: i64) -> (i64, Span) {
    match span {
        Span::Fixed { start_ms, .. } => (start_ms, span),
        Span::Rolling { length_ms, bucket_ms } => {
            let block_ms = (length_ms / bucket_ms.max(1)).max(1) * bucket_ms.max(1);
            let start_ms = now_ms.div_euclid(block_ms) * block_ms;
            // A bucket counts while it is younger than length and bucket: with this length, those since the start.
            (start_ms, Span::Rolling { length_ms: now_ms - start_ms - bucket_ms + 1, bucket_ms })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_spent_lately_is_known_to_the_minute_and_what_was_before_to_the_hour() {
        let mut history = History::new(0);
        for minute in 0..600 {
            history.add(minute * MINUTE_MS, (minute + 1) * MINUTE_MS, 60);
        }
        let now = 600 * MINUTE_MS;
        assert_eq!([5, 30, 60, 120, 360].map(|minutes| history.spent(minutes * MINUTE_MS, now)), [300, 1_800, 3_600, 7_200, 21_600]);
        assert_eq!(history.spent(5 * MINUTE_MS + MINUTE_MS / 2, now), 330, "half a minute counts half");
        assert_eq!(history.whole_hours(now).collect::<Vec<_>>(), (0..10).map(|hour| (hour, 3_600)).collect::<Vec<_>>());
    }

    #[test]
    fn of_hours_that_were_recorded_before_the_last_minutes_are_a_part() {
        let mut history = History::from_hours(0, [(0, 3_600), (HOUR_MS, 1_200)]);
        let now = HOUR_MS + 20 * MINUTE_MS;
        let spent = |history: &History| [5, 20, 50, 80].map(|minutes| history.spent(minutes * MINUTE_MS, now));
        assert_eq!(spent(&history), [300, 1_200, 1_200 + 1_800, 4_800]);
        // The first reading after that tells nothing of the minutes before.
        history.add(now, now, 0);
        assert_eq!(spent(&history), [300, 1_200, 1_200 + 1_800, 4_800]);
    }

    #[test]
    fn an_hour_whose_beginning_was_not_seen_is_no_whole_hour_and_silence_is_known_to_be_silence() {
        let mut history = History::new(HOUR_MS / 2);
        history.add(HOUR_MS / 2, HOUR_MS, 7);
        assert_eq!(history.whole_hours(3 * HOUR_MS).collect::<Vec<_>>(), [(1, 0), (2, 0)]);
        assert_eq!(History::from_hours(0, [(HOUR_MS, 5)]).whole_hours(3 * HOUR_MS).collect::<Vec<_>>(), [(0, 0), (1, 5), (2, 0)]);
    }

    #[test]
    fn readings_are_differences_through_the_windows_end_and_a_charge_taken_back() {
        let read = |window_start_ms, settled, at_ms| Reading { window_start_ms, settled, at_ms };
        let mut sampled = Sampled::new(read(0, 1_000, 10_000));
        for reading in [read(0, 1_005, 20_000), read(0, 1_003, 30_000), read(40_000, 9, 50_000), read(0, 5_000, 60_000)] {
            sampled.read(reading);
        }
        assert_eq!(sampled.history.spent(HOUR_MS, 60_000), 5 - 2 + 9);
    }

    #[test]
    fn a_rolling_window_is_read_in_blocks_that_begin_with_a_bucket() {
        let span = Span::Rolling { length_ms: 60_000, bucket_ms: 1_000 };
        let (start, of_block) = block(span, 150_500);
        assert_eq!(start, 120_000);
        let Span::Rolling { length_ms, bucket_ms } = of_block else { panic!("{of_block:?}") };
        // As the ledger sums: buckets later than this.
        assert_eq!(150_500 - length_ms - bucket_ms + 1, start);
        assert_eq!(block(Span::Fixed { start_ms: 5, end_ms: 9 }, 7), (5, Span::Fixed { start_ms: 5, end_ms: 9 }));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_memory_is_bounded(parts in prop::collection::vec((0..7_200_000i64, 0..1i128 << 100), 1..60)) {
            let (mut history, mut at, mut sum) = (History::new(0), 0, 0);
            for (gap, amount) in parts {
                history.add(at, at + gap, amount);
                (at, sum) = (at + gap, sum + amount);
            }
            prop_assert_eq!(history.hours.sums.iter().sum::<i128>(), sum);
            prop_assert!(history.minutes.sums.len() <= MINUTES && history.hours.sums.len() <= HOURS);
            prop_assert!(history.spent(HOUR_MS, at) <= sum);
        }

        #[test]
        fn a_year_of_hours_takes_no_more_than_what_is_kept(last in 0..9_000i64) {
            let mut history = History::new(0);
            history.add(0, 1, 3);
            history.add(last * HOUR_MS, last * HOUR_MS + 1, 4);
            prop_assert!(history.hours.sums.len() <= HOURS);
            prop_assert!(history.whole_hours((last + 1) * HOUR_MS).count() < HOURS);
        }
    }
}
