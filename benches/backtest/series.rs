//! Spending by the minute, made up: whole numbers, the same for the same seed.

pub const WINDOW_DAYS: usize = 30;
pub const WINDOW: usize = WINDOW_DAYS * 24 * 60;
/// The first window is only learnt from.
pub const WINDOWS: usize = 4;
/// What a minute costs on average at the beginning.
const USUAL: i64 = 1_000;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough for noise.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: i64) -> i64 {
        (self.next() % n.unsigned_abs().max(1)) as i64
    }
}

/// What happens in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    Steady,
    Seasonal,
    Growth,
    Outlier,
    Runaway,
    Launch,
    /// Seasonal, with the minutes of a recorded trace.
    Trace,
}

impl Story {
    pub const ALL: [Story; 7] =
        [Story::Steady, Story::Seasonal, Story::Growth, Story::Outlier, Story::Runaway, Story::Launch, Story::Trace];

    pub fn name(self) -> &'static str {
        match self {
            Story::Steady => "steady",
            Story::Seasonal => "office hours",
            Story::Growth => "growth, 1 % a day",
            Story::Outlier => "office hours, one day of 6",
            Story::Runaway => "office hours, runaway of 100 times",
            Story::Launch => "office hours, doubled by a launch",
            Story::Trace => "office hours, minutes of the trace",
        }
    }

    /// The limit, in percent of the first window's spending.
    pub fn limit_percent(self) -> i64 {
        match self {
            // The limit is kept although the traffic grows.
            Story::Growth => 150,
            Story::Outlier => 130,
            _ => 115,
        }
    }

    /// The series; `minutes` is the trace's, in thousandths of its mean.
    pub fn minutes(self, seed: u64, trace: &[i64]) -> Vec<i64> {
        let mut random = Random(seed);
        let mut spent = Vec::with_capacity(WINDOWS * WINDOW);
        let mut hour = 1_000;
        let events: Vec<usize> = (0..WINDOWS).map(|window| event(seed, window)).collect();
        for minute in 0..WINDOWS * WINDOW {
            if minute % 60 == 0 {
                // An hour is up to 30 % more or less than another.
                hour = 700 + random.below(601);
            }
            let (window, within) = (minute / WINDOW, minute % WINDOW);
            let since = within as i64 - events[window] as i64;
            let happens = happens(seed, window);
            let rate = match self {
                Story::Steady => USUAL,
                Story::Growth => compound(USUAL, minute / 1_440),
                Story::Launch if window * 2 >= WINDOWS && (window > WINDOWS / 2 || since > 0) => 2 * season(minute),
                Story::Outlier if happens && since / 1_440 == 0 && since >= 0 => 6 * season(minute),
                Story::Runaway if happens && (0..720).contains(&since) => season(minute) + 100 * USUAL,
                _ => season(minute),
            };
            // Few calls make a minute: it is from nothing to twice its rate, or as in the trace.
            let noise = match self {
                Story::Trace => trace[random.below(trace.len() as i64) as usize],
                _ => random.below(2_001),
            };
            spent.push(rate * hour / 1_000 * noise / 1_000);
        }
        spent
    }
}

/// In each window something may happen once, from the second day to the third last: the minute of the window.
pub fn event(seed: u64, window: usize) -> usize {
    let mut random = Random(seed * 1_000 + window as u64);
    (1_440 + random.below(WINDOW as i64 - 4 * 1_440)) as usize
}

/// Half of the windows are quiet, so that there is something to be wrong about.
pub fn happens(seed: u64, window: usize) -> bool {
    window > 0 && (window + seed as usize).is_multiple_of(2)
}

/// Four times as much from 8 to 18 o'clock of working days as else, with the same mean as a steady rate.
fn season(minute: usize) -> i64 {
    let (hour, day) = (minute / 60 % 24, minute / 1_440 % 7);
    // 50 of 168 hours at 4 shares, 118 at one: 318 shares for 168 hours.
    let share = USUAL * 168 / 318;
    if (8..18).contains(&hour) && day < 5 { 4 * share } else { share }
}

fn compound(amount: i64, days: usize) -> i64 {
    (0..days).fold(amount * 1_000, |amount, _| amount + amount / 100) / 1_000
}
