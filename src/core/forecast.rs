//! Where a limit is heading, in integers: what will be spent by the window's end, how sure that is, and when it is used up.
//!
//! With a week of history the forecast goes by the hour of the week ([`Outlook`]); before that, straight on at the present rate
//! ([`Pace`]). Both can be computed again from the history. Methods and how well they did: `docs/forecast.md`.

use super::history::{DAY_HOURS, HOUR_MS, History, WEEK_HOURS};

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
    /// Length of a rolling window: what leaves it makes room.
    pub rolling_ms: Option<i64>,
}

/// What will be spent by the window's end; four times in five it is from `low` to `high`, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    pub expected: i128,
    pub interval: Option<(i128, i128)>,
}

/// The shortest history that a forecast rests on: before that, one call would look like a trend.
const MIN_HISTORY_MS: i64 = 60_000;
/// Of this many hours on, how much they differ says how sure a straight line is.
const MIN_SPREAD_HOURS: usize = 6;
/// Days that an [`Outlook`] needs.
const MIN_DAYS: usize = 7;
/// Days by which an outlook's level and its error are measured.
const RECENT_DAYS: usize = 7;
/// The median of seven is about as sure as the mean of four: of normal errors, 2/π of them (Laplace).
const LEVEL_DAYS: usize = 4;
/// What is unusual now is taken to last for so many hours more.
const PERSISTENCE_HOURS: i64 = 3;
const MILLI: i128 = 1_000;
/// No exhaustion further off than this is foretold.
const HORIZON_HOURS: i64 = 366 * DAY_HOURS;

impl Pace {
    fn elapsed_ms(&self) -> Option<i128> {
        let elapsed = self.now_ms - self.since_ms;
        (elapsed >= MIN_HISTORY_MS).then_some(elapsed.into())
    }

    fn remaining_ms(&self) -> Option<i64> {
        Some((self.end_ms? - self.now_ms).max(0))
    }

    /// What will be spent by the window's end at the present rate.
    pub fn straight(&self) -> Option<i128> {
        let elapsed = self.elapsed_ms()?;
        Some(self.spent + self.spent.checked_mul(self.remaining_ms()?.into())? / elapsed)
    }

    /// The straight line, with an interval by how much the hours so far differ from it.
    fn straight_with_interval(&self, history: &History) -> Option<Forecast> {
        let expected = self.straight()?;
        let hours: Vec<i128> = history.whole_hours(self.now_ms).rev().take(WEEK_HOURS as usize).map(|(_, sum)| sum).collect();
        let interval = (hours.len() >= MIN_SPREAD_HOURS).then(|| {
            let mean = self.spent.saturating_mul(HOUR_MS.into()) / self.elapsed_ms().unwrap_or(1);
            let errors = hours.iter().map(|sum| (sum - mean).abs()).collect();
            let half = spread(quantile(errors, 80), self.remaining_ms().unwrap_or(0), HOUR_MS, hours.len());
            ((expected - half).max(self.spent), expected.saturating_add(half))
        });
        Some(Forecast { expected, interval })
    }

    /// When the limit is used up at the mean rate so far, if that is before the window's end.
    pub fn straight_to_exhaustion_ms(&self) -> Option<i64> {
        let elapsed = self.elapsed_ms()?;
        if self.spent <= 0 {
            return None;
        }
        if self.spent >= self.limit {
            return Some(self.now_ms);
        }
        let left_ms = (self.limit - self.spent).checked_mul(elapsed)? / self.spent;
        self.before_end(self.now_ms.checked_add(i64::try_from(left_ms).ok()?)?)
    }

    /// A rolling window fills by what is spent more than leaves it: the rate of its last twelfth (five minutes at least) less its mean.
    fn rolling_exhaustion_ms(&self, length_ms: i64, history: &History) -> Option<i64> {
        if self.spent >= self.limit {
            return Some(self.now_ms);
        }
        let recent_ms = (length_ms / 12).clamp(5 * 60_000, length_ms.max(5 * 60_000));
        let filling = history.spent(recent_ms, self.now_ms).checked_mul(length_ms.into())? - self.spent.checked_mul(recent_ms.into())?;
        if filling <= 0 {
            return None;
        }
        let left_ms = (self.limit - self.spent).checked_mul(recent_ms.into())?.checked_mul(length_ms.into())? / filling;
        // By then the window holds nothing of what it holds now, and the rate is all there is to it.
        (left_ms < length_ms.into()).then(|| self.now_ms.checked_add(i64::try_from(left_ms).ok()?)).flatten()
    }

    fn before_end(&self, at_ms: i64) -> Option<i64> {
        (at_ms < self.end_ms.unwrap_or(i64::MAX)).then_some(at_ms)
    }

    /// What will be spent by the window's end; `None` for windows that have none, and in a window's first minute.
    pub fn forecast(&self, outlook: Option<&Outlook>, history: &History) -> Option<Forecast> {
        let Some(outlook) = outlook else { return self.straight_with_interval(history) };
        let remaining_ms = self.remaining_ms()?;
        let to_come = outlook.to_come(self.now_ms, self.now_ms + remaining_ms);
        let lasting = i128::from(remaining_ms.min(PERSISTENCE_HOURS * HOUR_MS));
        let unusual = outlook.unusual(history, self.now_ms).saturating_mul(lasting) / i128::from(HOUR_MS);
        let expected = self.spent + (to_come.saturating_add(unusual)).max(0);
        let half = spread(outlook.day_error, remaining_ms, DAY_HOURS * HOUR_MS, LEVEL_DAYS);
        Some(Forecast { expected, interval: Some(((expected - half).max(self.spent), expected.saturating_add(half))) })
    }

    /// When the limit is used up, if that is before the window's end.
    pub fn exhausted_at_ms(&self, outlook: Option<&Outlook>, history: &History) -> Option<i64> {
        if let Some(length_ms) = self.rolling_ms {
            return self.rolling_exhaustion_ms(length_ms, history);
        }
        let Some(outlook) = outlook else { return self.straight_to_exhaustion_ms() };
        let mut left = self.limit - self.spent;
        if left <= 0 {
            return Some(self.now_ms);
        }
        left = left.saturating_mul(MILLI);
        let unusual = outlook.unusual(history, self.now_ms).saturating_mul(MILLI);
        let (mut at, mut hours) = (self.now_ms, 0);
        while hours < HORIZON_HOURS && at < self.end_ms.unwrap_or(i64::MAX) {
            let week = outlook.grown(outlook.week(), hours + WEEK_HOURS / 2);
            if hours > PERSISTENCE_HOURS && week < left {
                left -= week;
                (at, hours) = (at + WEEK_HOURS * HOUR_MS, hours + WEEK_HOURS);
                continue;
            }
            let end = (at.div_euclid(HOUR_MS) + 1) * HOUR_MS;
            let more = if hours < PERSISTENCE_HOURS { unusual } else { 0 };
            let rate = (outlook.grown(outlook.of_hour(at.div_euclid(HOUR_MS)), hours) + more).max(0);
            let spent = rate.saturating_mul((end - at).into()) / i128::from(HOUR_MS);
            if spent >= left {
                let within = left.saturating_mul(HOUR_MS.into()) / rate.max(1);
                return self.before_end(at + i64::try_from(within).unwrap_or(0).min(end - at));
            }
            left -= spent;
            (at, hours) = (end, hours + 1);
        }
        None
    }
}

/// What each hour of the week is expected to cost, learnt from a week or more of history.
///
/// A day costs the median of its weekday (of the working days, or of the weekend, while there are fewer than three), times the
/// median by which the last seven days differed from that; it is spread over its hours as those days were, the dearest left out.
/// One outlier day therefore changes nothing. If each of the last three weeks was dearer than the one before, it goes on growing by as
/// much as in the slowest of them. Days and hours are UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// From Sunday, midnight; in thousandths of the unit, since there may be less than a call an hour.
    hours: Vec<i128>,
    /// Four of the last days in five were within so much of what the others say of them.
    day_error: i128,
    /// By how many thousandths of its level it grows in a week.
    growth: i128,
}

/// Three weeks in a row must have grown by so many thousandths to be growth.
const LEAST_GROWTH: i128 = 20;

/// A day that is over.
struct Day {
    number: i64,
    hours: [i128; DAY_HOURS as usize],
}

impl Day {
    fn total(&self) -> i128 {
        self.hours.iter().sum()
    }
}

/// 0 is Sunday; 1 January 1970 was a Thursday.
fn weekday(day: i64) -> i64 {
    (day + 4).rem_euclid(7)
}

fn is_weekend(weekday: i64) -> bool {
    weekday == 0 || weekday == 6
}

impl Outlook {
    /// `None` before a week is known.
    pub fn learn(history: &History, now_ms: i64) -> Option<Outlook> {
        let days = whole_days(history, now_ms);
        if days.len() < MIN_DAYS {
            return None;
        }
        let usual: Vec<i128> = (0..7).map(|weekday| usual_total(&days, weekday)).collect();
        let of = |day: &Day| usual[usize::try_from(weekday(day.number)).unwrap_or_default()];
        let recent = &days[days.len() - RECENT_DAYS..];
        // In thousandths. A level beyond tenfold is no trend.
        let level_of = |days: &[Day]| {
            let days = days.iter().filter(|day| of(day) > 0);
            let levels = days.map(|day| (day.total().saturating_mul(1_000) / of(day)).clamp(100, 10_000));
            Some(quantile(levels.collect(), 50)).filter(|level| *level > 0).unwrap_or(1_000)
        };
        let level = level_of(recent);
        let errors = recent.iter().map(|day| (day.total() - of(day).saturating_mul(level) / 1_000).abs()).collect();
        let hours = (0..7).flat_map(|weekday| {
            // The level is in thousandths, and so is the product.
            let total = usual[usize::try_from(weekday).unwrap_or_default()].saturating_mul(level);
            shape(&days, weekday).map(move |(part, whole)| (total.saturating_mul(part).saturating_add(whole / 2)) / whole)
        });
        Some(Outlook {
            hours: hours.collect(),
            day_error: quantile(errors, 80),
            growth: growth(&days.rchunks_exact(7).map(level_of).collect::<Vec<_>>()),
        })
    }

    /// What an hour, by its number since 1970, is expected to cost, in thousandths.
    fn of_hour(&self, number: i64) -> i128 {
        let (day, hour) = (number.div_euclid(DAY_HOURS), number.rem_euclid(DAY_HOURS));
        self.hours[usize::try_from(weekday(day) * DAY_HOURS + hour).unwrap_or_default()]
    }

    /// In thousandths.
    fn week(&self) -> i128 {
        self.hours.iter().sum()
    }

    /// What so much of the outlook is so many hours from now. Its level is that of the last week's middle, half a week ago.
    fn grown(&self, amount: i128, hours_from_now: i64) -> i128 {
        let hours = i128::from(hours_from_now + WEEK_HOURS / 2);
        amount.saturating_add(amount.saturating_mul(self.growth * hours) / (1_000 * i128::from(WEEK_HOURS)))
    }

    /// What is expected to be spent from now until `to_ms`.
    fn to_come(&self, now_ms: i64, to_ms: i64) -> i128 {
        const WEEK_MS: i64 = WEEK_HOURS * HOUR_MS;
        let (mut at, mut sum) = (now_ms, 0i128);
        while at < to_ms {
            let end = (at + WEEK_MS).min(to_ms);
            sum = sum.saturating_add(self.grown(self.between(at, end), ((at + end) / 2 - now_ms) / HOUR_MS));
            at = end;
        }
        sum
    }

    /// What is expected to be spent, but for growth, in `from_ms ≤ t < to_ms`.
    pub fn between(&self, from_ms: i64, to_ms: i64) -> i128 {
        let weeks = (to_ms - from_ms).max(0) / (WEEK_HOURS * HOUR_MS);
        let from_ms = from_ms + weeks * WEEK_HOURS * HOUR_MS;
        let mut sum = self.week().saturating_mul(weeks.into());
        for number in from_ms.div_euclid(HOUR_MS)..=to_ms.div_euclid(HOUR_MS) {
            let within = ((number + 1) * HOUR_MS).min(to_ms) - (number * HOUR_MS).max(from_ms);
            sum = sum.saturating_add(self.of_hour(number).saturating_mul(within.max(0).into()) / i128::from(HOUR_MS));
        }
        sum.saturating_add(MILLI / 2) / MILLI
    }

    /// How much more an hour costs at present than expected: by the last hour or by the last three, whichever says less. One
    /// busy hour is therefore no news.
    fn unusual(&self, history: &History, now_ms: i64) -> i128 {
        let more = |hours: i64| {
            let from_ms = now_ms - hours * HOUR_MS;
            (history.spent(hours * HOUR_MS, now_ms) - self.between(from_ms, now_ms)) / i128::from(hours)
        };
        let (last, longer) = (more(1), more(3));
        if last.signum() != longer.signum() { 0 } else { last.abs().min(longer.abs()) * last.signum() }
    }
}

/// By how many thousandths a week's level rises, of the weeks' levels, the last one first.
fn growth(levels: &[i128]) -> i128 {
    let [fourth, third, second, first] = levels else { return 0 };
    let rises = [(third, fourth), (second, third), (first, second)].map(|(before, after)| (after - before) * 1_000 / before.max(&1));
    Some(rises[0].min(rises[1]).min(rises[2])).filter(|least| *least >= LEAST_GROWTH).unwrap_or(0)
}

/// The days of which every hour is known, the oldest first.
fn whole_days(history: &History, now_ms: i64) -> Vec<Day> {
    let mut days: Vec<(Day, i64)> = Vec::new();
    for (number, sum) in history.whole_hours(now_ms) {
        let (day, hour) = (number.div_euclid(DAY_HOURS), number.rem_euclid(DAY_HOURS));
        if days.last().is_none_or(|(last, _)| last.number != day) {
            days.push((Day { number: day, hours: [0; DAY_HOURS as usize] }, 0));
        }
        if let Some((last, known)) = days.last_mut() {
            last.hours[usize::try_from(hour).unwrap_or_default()] = sum.max(0);
            *known += 1;
        }
    }
    days.into_iter().filter(|(_, known)| *known == DAY_HOURS).map(|(day, _)| day).collect()
}

/// What a weekday usually costs.
fn usual_total(days: &[Day], of: i64) -> i128 {
    let totals =
        |is_like: &dyn Fn(i64) -> bool| -> Vec<i128> { days.iter().filter(|day| is_like(weekday(day.number))).map(Day::total).collect() };
    let same = totals(&|weekday| weekday == of);
    let alike = if same.len() >= 3 { same } else { totals(&|weekday| is_weekend(weekday) == is_weekend(of)) };
    quantile(alike, 50)
}

/// What part of a weekday's total falls into each hour, as fractions.
fn shape(days: &[Day], of: i64) -> impl Iterator<Item = (i128, i128)> + use<> {
    let alike: Vec<&Day> = days.iter().filter(|day| is_weekend(weekday(day.number)) == is_weekend(of)).collect();
    let dearest = alike.iter().max_by_key(|day| (day.total(), day.number)).filter(|_| alike.len() > 1).map(|day| day.number);
    let mut parts = [0i128; DAY_HOURS as usize];
    for day in alike.iter().filter(|day| Some(day.number) != dearest) {
        parts.iter_mut().zip(day.hours).for_each(|(part, hour)| *part += hour);
    }
    let whole: i128 = parts.iter().sum();
    // Products with a day's total must not overflow: a hundred-millionth of the whole is fine enough.
    let parts = parts.map(|part| if whole > 0 { part.saturating_mul(100_000_000) / whole } else { 1 });
    let whole = parts.iter().sum();
    parts.into_iter().map(move |part| (part, whole))
}

/// The value below or at which `percent` of the values lie; of an even number's middle the lower. 0 of none.
fn quantile(mut values: Vec<i128>, percent: usize) -> i128 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0)
}

/// Half of the interval around the sum of what a remaining time will cost, when a unit of it errs by `error`: errors of `h` units
/// to come add up as their square root, and the level itself, known from `n` units, errs with `h/√n`. So it is
/// `error · √(h + h²/n)`, the prediction interval of a mean (for instance Hyndman and Athanasopoulos, "Forecasting: Principles and
/// Practice", 3rd ed., section 5.5).
fn spread(error: i128, remaining_ms: i64, unit_ms: i64, n: usize) -> i128 {
    // Thousandths of a unit.
    let h = u128::from(remaining_ms.unsigned_abs()) * 1_000 / u128::from(unit_ms.unsigned_abs().max(1));
    let squared = h * 1_000 + h * h / (n.max(1) as u128);
    error.saturating_mul(i128::try_from(squared.isqrt()).unwrap_or(i128::MAX)) / 1_000
}

/// `part` in percent of `whole`, rounded down; more than everything of nothing is 100.
pub fn percent(part: i128, whole: i128) -> i64 {
    if whole <= 0 {
        return if part > 0 { 100 } else { 0 };
    }
    i64::try_from(part.saturating_mul(100) / whole).unwrap_or(i64::MAX)
}

/// A forecast's figure as it is shown: two digits, since no more are known, and so that it does not change with every second.
pub fn shown(n: i128) -> i128 {
    let mut step = 1i128;
    while n.abs() / step >= 100 {
        step *= 10;
    }
    // Half away from zero.
    n.saturating_add(step / 2 * n.signum()) / step * step
}

/// A foretold time as it is shown: the further off, the coarser.
pub fn shown_time(at_ms: i64, now_ms: i64) -> i64 {
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const STEPS: [(i64, i64); 4] = [(15 * MINUTE, MINUTE), (2 * HOUR, 5 * MINUTE), (24 * HOUR, HOUR), (7 * 24 * HOUR, 6 * HOUR)];
    let step = STEPS.iter().find(|(ahead, _)| at_ms - now_ms < *ahead).map_or(24 * 60 * MINUTE, |(_, step)| *step);
    at_ms - at_ms.rem_euclid(step)
}

#[cfg(test)]
mod tests;
