use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Monday, 2 November 2026, midnight UTC.
const MONDAY: i64 = 1_793_577_600_000;

fn pace(limit: i128, spent: i128, now_ms: i64, end_ms: Option<i64>) -> Pace {
    Pace { limit, spent, since_ms: 0, now_ms, end_ms, rolling_ms: None }
}

/// Two weeks of working hours: 90 an hour from 8 to 18 from Monday to Friday, 10 else; from a Monday on, until `now_ms`.
fn office(weeks: i64, change: impl Fn(i64, i128) -> i128) -> (History, i64) {
    let hours = (0..weeks * WEEK_HOURS).map(|hour| {
        let busy = (8..18).contains(&(hour % 24)) && hour / 24 % 7 < 5;
        (MONDAY + hour * HOUR, change(hour, if busy { 90 } else { 10 }))
    });
    (History::from_hours(MONDAY, hours), MONDAY + weeks * WEEK_HOURS * HOUR)
}

/// What an office spends in a week: 50 busy hours, 118 others.
const WEEK: i128 = 50 * 90 + 118 * 10;

#[test]
fn half_spent_at_half_time_is_all_spent_at_the_end() {
    let half = pace(1_000, 500, 12 * HOUR, Some(24 * HOUR));
    assert_eq!(half.straight(), Some(1_000));
    assert_eq!(half.straight_to_exhaustion_ms(), None, "exactly at the end is not before it");
    let faster = Pace { spent: 750, ..half };
    assert_eq!((faster.straight(), faster.straight_to_exhaustion_ms()), (Some(1_500), Some(16 * HOUR)));
}

#[test]
fn a_minute_is_no_trend_and_no_end_has_no_forecast() {
    let nothing = History::new(0);
    let short = pace(10, 5, 59_999, Some(HOUR));
    assert_eq!((short.forecast(None, &nothing), short.exhausted_at_ms(None, &nothing)), (None, None));
    let lifetime = Pace { now_ms: HOUR, end_ms: None, ..short };
    assert_eq!((lifetime.forecast(None, &nothing), lifetime.exhausted_at_ms(None, &nothing)), (None, Some(2 * HOUR)));
    assert_eq!(Pace { spent: 0, ..lifetime }.exhausted_at_ms(None, &nothing), None);
    assert_eq!(Pace { spent: 11, ..lifetime }.exhausted_at_ms(None, &nothing), Some(HOUR));
}

#[test]
fn a_straight_line_says_how_sure_it_is_once_six_hours_are_known() {
    let known = |hours: i64, of: fn(i64) -> i128| {
        let history = History::from_hours(0, (0..hours).map(|hour| (hour * HOUR, of(hour))));
        let spent = (0..hours).map(of).sum();
        pace(10_000, spent, hours * HOUR, Some(24 * HOUR)).forecast(None, &history).unwrap()
    };
    assert_eq!(known(5, |_| 10), Forecast { expected: 240, interval: None });
    assert_eq!(known(12, |_| 10), Forecast { expected: 240, interval: Some((240, 240)) });
    let Forecast { expected, interval } = known(12, |hour| if hour % 2 == 0 { 5 } else { 15 });
    let (low, high) = interval.unwrap();
    assert_eq!((expected, expected - low), (240, high - expected));
    assert!((20..30).contains(&(high - expected)), "5 · √(12 + 12²/12) = 24.5: {high}");
}

#[test]
fn with_a_week_of_history_a_quiet_night_is_not_taken_for_the_rate_of_the_day() {
    let (history, now) = office(1, |_, usual| usual);
    let outlook = Outlook::learn(&history, now).unwrap();
    // Monday at midnight: nothing is spent yet, and the whole week is to come.
    let monday = Pace { since_ms: now, ..pace(10_000, 0, now, Some(now + 7 * DAY)) };
    let forecast = monday.forecast(Some(&outlook), &history).unwrap();
    assert_eq!((forecast.expected, forecast.interval), (WEEK, Some((WEEK, WEEK))));
    // 2,000 are left: 1,040 go on Monday, 80 in the night, and 880 of Tuesday's hours take until 17:46.
    let exhausted = Pace { limit: 2_000, ..monday }.exhausted_at_ms(Some(&outlook), &history).unwrap();
    let minutes = (exhausted - now) / 60_000;
    assert_eq!((minutes / 1_440, minutes % 1_440 / 60, minutes % 60), (1, 17, 46));
    assert_eq!(Pace { limit: WEEK + 1, ..monday }.exhausted_at_ms(Some(&outlook), &history), None);
    assert!(Outlook::learn(&history, now - HOUR).is_none(), "six days and twenty-three hours are no week");
}

#[test]
fn one_outlier_day_changes_nothing() {
    for (weeks, day) in [(1, 2), (1, 5), (2, 9), (3, 20), (4, 22)] {
        let spike = |hour: i64, usual: i128| if hour / 24 == day { usual * 40 } else { usual };
        let (history, now) = office(weeks, spike);
        let outlook = Outlook::learn(&history, now).unwrap();
        // Its shape is left out, too, so that only roundings differ.
        let expected = outlook.between(now + 6 * HOUR, now + 6 * HOUR + 7 * DAY);
        assert!((expected - WEEK).abs() <= WEEK / 100, "{weeks} weeks, day {day}: {expected} instead of {WEEK}");
    }
}

#[test]
fn a_level_that_rose_is_taken_up_within_days_and_an_unusual_hour_for_three_more() {
    let (history, now) = office(4, |hour, usual| if hour >= 3 * WEEK_HOURS { usual * 2 } else { usual });
    let outlook = Outlook::learn(&history, now).unwrap();
    assert_eq!(outlook.between(now, now + 7 * DAY), 2 * WEEK);
    let (mut history, now) = office(2, |_, usual| usual);
    let outlook = Outlook::learn(&history, now).unwrap();
    // Monday, 3 o'clock: since midnight each hour costs 100 more than usual.
    let later = now + 3 * HOUR;
    for hour in 0..3 {
        history.add(now + hour * HOUR, now + (hour + 1) * HOUR, 110);
    }
    let pace = Pace { since_ms: now, ..pace(1_000_000, 330, later, Some(now + 7 * DAY)) };
    assert_eq!(pace.forecast(Some(&outlook), &history).unwrap().expected, 330 + WEEK - 30 + 300);
}

#[test]
fn what_grew_in_three_weeks_goes_on_growing_and_what_rose_once_does_not() {
    let weeks = |levels: [i128; 4]| {
        let (history, now) = office(4, |hour, usual| usual * levels[(hour / WEEK_HOURS) as usize]);
        (Outlook::learn(&history, now).unwrap(), history, now)
    };
    // The slowest rise is from the second week to the third.
    let (outlook, history, now) = weeks([100, 115, 130, 150]);
    assert_eq!(outlook.growth, 130);
    let pace = Pace { since_ms: now, ..pace(i128::MAX >> 64, 0, now, Some(now + 14 * DAY)) };
    let expected = pace.forecast(Some(&outlook), &history).unwrap().expected;
    // The first week from now is a week after the middle of the last, the second two.
    let exact = 150 * WEEK * (1_130 + 1_260) / 1_000;
    assert!((expected - exact).abs() <= exact / 50, "{expected} instead of {exact}");
    // It is known at any hour of the day.
    let (longer, now) = office(5, |hour, usual| usual * [100, 115, 130, 150, 150][(hour / WEEK_HOURS) as usize]);
    for hour in 0..24 {
        assert_eq!(Outlook::learn(&longer, now - 7 * DAY + hour * HOUR).unwrap().growth, 130, "at {hour} o'clock");
    }
    for levels in [[100, 100, 100, 200], [100, 115, 110, 130], [100, 101, 102, 103], [150, 130, 115, 100]] {
        assert_eq!(weeks(levels).0.growth, 0, "{levels:?}");
    }
}

#[test]
fn a_lifetime_is_exhausted_by_whole_weeks_and_not_beyond_a_year() {
    let (history, now) = office(1, |_, usual| usual);
    let outlook = Outlook::learn(&history, now).unwrap();
    let lifetime = |limit| pace(limit, 0, now, None).exhausted_at_ms(Some(&outlook), &history);
    let twenty = lifetime(20 * WEEK).unwrap();
    assert!((now + 19 * 7 * DAY..=now + 20 * 7 * DAY).contains(&twenty));
    assert_eq!(lifetime(60 * WEEK), None);
}

#[test]
fn a_rolling_window_at_its_usual_rate_is_never_exhausted_and_one_that_fills_is() {
    let rolling = |recent: i128, spent: i128| {
        let mut history = History::new(0);
        history.add(46 * HOUR, 47 * HOUR, recent / 2);
        history.add(47 * HOUR, 48 * HOUR, recent / 2);
        Pace { rolling_ms: Some(DAY), ..pace(1_000, spent, 48 * HOUR, None) }.exhausted_at_ms(None, &history)
    };
    assert_eq!(rolling(50, 600), None, "25 an hour come and 25 leave");
    // 75 an hour come, 25 leave, 400 are left.
    assert_eq!(rolling(150, 600), Some(56 * HOUR));
    assert_eq!(rolling(0, 1_000), Some(48 * HOUR));
}

#[test]
fn what_is_shown_has_two_digits_and_times_are_coarser_the_further_off() {
    assert_eq!([0, 7, 99, 104, 105, 9_949, 9_951, -105].map(shown), [0, 7, 99, 100, 110, 9_900, 10_000, -110]);
    let at = |ahead_ms: i64| shown_time(MONDAY + 12 * HOUR + ahead_ms, MONDAY + 12 * HOUR) - MONDAY;
    assert_eq!(at(7 * 60_000 + 1), 12 * HOUR + 7 * 60_000, "what is near is no time that has passed");
    assert_eq!(at(17 * 60_000), 12 * HOUR + 15 * 60_000);
    assert_eq!(at(5 * HOUR + 1), 17 * HOUR);
    assert_eq!(at(3 * DAY), 3 * DAY + 12 * HOUR);
}

#[test]
fn the_largest_amounts_do_not_overflow() {
    let largest = pace(i128::MAX / 4, i128::MAX / 8, HOUR, Some(i64::MAX));
    assert_eq!(largest.straight(), None);
    assert!((0..=100).contains(&percent(i128::MAX / 8, i128::MAX / 4)));
    let _ = shown(i128::MAX);
}

proptest! {
    #[test]
    fn a_forecast_is_no_less_than_what_is_spent_lies_in_its_interval_and_is_the_same_each_time(
        hours in prop::collection::vec(0..1i128 << 60, 1..700),
        spent in 0..1i128 << 60, limit in 1..1i128 << 60, ahead in 0..60 * DAY,
    ) {
        let history = History::from_hours(MONDAY, hours.iter().enumerate().map(|(i, sum)| (MONDAY + i as i64 * HOUR, *sum)));
        let now = MONDAY + hours.len() as i64 * HOUR;
        let pace = Pace { since_ms: MONDAY, ..pace(limit, spent, now, Some(now + ahead)) };
        let outlook = Outlook::learn(&history, now);
        prop_assert_eq!(outlook.is_some(), hours.len() >= 168);
        let forecast = pace.forecast(outlook.as_ref(), &history);
        if let Some(Forecast { expected, interval }) = forecast {
            prop_assert!(expected >= spent);
            if let Some((low, high)) = interval {
                prop_assert!(spent <= low && low <= expected && expected <= high);
            }
        }
        prop_assert_eq!(forecast, pace.forecast(Outlook::learn(&history, now).as_ref(), &history));
        if let Some(at) = pace.exhausted_at_ms(outlook.as_ref(), &history) {
            prop_assert!(now <= at && (at < now + ahead || spent >= limit));
        }
    }

    #[test]
    fn an_idle_limit_is_shown_the_same_for_a_long_time(spent in 1..1i128 << 60, hours in 1..20i64) {
        // A day's window, nothing more is spent, a look each ten seconds until it ends.
        let history = History::new(0);
        let mut seen = Vec::new();
        for tick in 0..(24 - hours) * 360 {
            let pace = pace(1 << 59, spent, hours * HOUR + tick * 10_000, Some(DAY));
            seen.push(pace.forecast(None, &history).map(|f| shown(f.expected)));
        }
        let looks = seen.len();
        seen.dedup();
        // From twenty-four times what is spent down to it, two digits change so often.
        prop_assert!(seen.len() <= 160, "{} of {looks}", seen.len());
    }
}
