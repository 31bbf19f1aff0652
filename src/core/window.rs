//! Windows of time: which stretch of ledger time a limit sums at a moment.
//!
//! Calendar windows partition time: every instant is in exactly one, and each ends where the next begins, through
//! daylight-saving changes and leap years. Time-zone rules are compiled in, so that no machine's files change a window.

use std::fmt;

use jiff::civil::{Date, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Span as Stretch, Timestamp, ToSpan};

use super::limit::Span;
use super::policy::{CalendarPeriod, Window};

/// Buckets of a rolling window.
const BUCKETS: i64 = 60;
/// The shortest bucket, milliseconds.
const SHORTEST_BUCKET_MS: i64 = 1000;
/// Instants outside 1970 … 9990 are taken as the nearest inside, so that no calendar arithmetic can leave its range.
const LAST_MS: i64 = 253_086_163_200_000;

/// A window whose time zone is known.
#[derive(Clone, Debug)]
pub struct Schedule {
    window: Window,
    /// Of calendar windows; UTC for the others, which do not look at it.
    zone: TimeZone,
}

/// A name that is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an IANA time zone; write for example \"UTC\" or \"Europe/Zurich\" (abbreviations such as CET or EST hide daylight saving)"
)]
pub struct UnknownTimeZone(pub String);

/// The rules of an IANA time zone.
///
/// # Errors
/// When there is no zone of this name.
pub fn time_zone(name: &str) -> Result<TimeZone, UnknownTimeZone> {
    TimeZoneDatabase::bundled().get(name).map_err(|_| UnknownTimeZone(name.to_owned()))
}

impl Schedule {
    /// # Errors
    /// When the window's time zone does not exist.
    pub fn new(window: Window) -> Result<Schedule, UnknownTimeZone> {
        let zone = match &window {
            Window::Calendar { time_zone: name, .. } => time_zone(name)?,
            Window::Rolling { .. } | Window::Lifetime => TimeZone::UTC,
        };
        Ok(Schedule { window, zone })
    }

    /// The stretch that the window covers at an instant, Unix milliseconds.
    pub fn span_at(&self, now_ms: i64) -> Span {
        match &self.window {
            Window::Calendar { period, .. } => calendar_span(*period, &self.zone, now_ms),
            Window::Rolling { length_ms } => {
                Span::Rolling { length_ms: *length_ms, bucket_ms: (length_ms / BUCKETS).max(SHORTEST_BUCKET_MS) }
            }
            Window::Lifetime => Span::Fixed { start_ms: 0, end_ms: i64::MAX },
        }
    }
}

/// The calendar period that contains an instant.
fn calendar_span(period: CalendarPeriod, zone: &TimeZone, now_ms: i64) -> Span {
    let now_ms = now_ms.clamp(0, LAST_MS);
    let now = Timestamp::from_millisecond(now_ms).expect("the instant was clamped to years that calendars know");
    let mut first = first_day(period, now.to_zoned(zone.clone()).date());
    let mut next = following(period, first);
    // Where clocks go back over midnight, an instant can carry the date of the day before although the new day has begun.
    while start_ms(next, zone) <= now_ms {
        (first, next) = (next, following(period, next));
    }
    Span::Fixed { start_ms: start_ms(first, zone), end_ms: start_ms(next, zone) }
}

/// The first day of the period that a day is in.
fn first_day(period: CalendarPeriod, day: Date) -> Date {
    match period {
        CalendarPeriod::Day => day,
        CalendarPeriod::Week => later(day, i64::from(-day.weekday().since(Weekday::Monday)).days()),
        CalendarPeriod::Month => day.first_of_month(),
        CalendarPeriod::Year => day.first_of_year(),
    }
}

/// The first day of the period after the one that starts on `first`.
fn following(period: CalendarPeriod, first: Date) -> Date {
    later(
        first,
        match period {
            CalendarPeriod::Day => 1.day(),
            CalendarPeriod::Week => 1.week(),
            CalendarPeriod::Month => 1.month(),
            CalendarPeriod::Year => 1.year(),
        },
    )
}

fn later(day: Date, stretch: Stretch) -> Date {
    day.checked_add(stretch).expect("days were clamped to years that calendars know")
}

/// The first instant of a day: 00:00, or the end of the gap where clocks skip midnight.
fn start_ms(day: Date, zone: &TimeZone) -> i64 {
    day.to_zoned(zone.clone()).expect("days were clamped to years that calendars know").timestamp().as_millisecond()
}

/// The window in words: `Month (Europe/Zurich)`, `Rolling 24h`, `Lifetime`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Calendar { period, time_zone } => write!(f, "{period:?} ({time_zone})"),
            Window::Rolling { length_ms } => {
                let minutes = length_ms / 60_000;
                match (minutes % 1440, minutes % 60) {
                    (0, _) if minutes > 1440 => write!(f, "Rolling {}d", minutes / 1440),
                    (_, 0) => write!(f, "Rolling {}h", minutes / 60),
                    _ => write!(f, "Rolling {minutes}m"),
                }
            }
            Window::Lifetime => f.write_str("Lifetime"),
        }
    }
}

/// An instant as RFC 3339 text in UTC, to the second: `2026-11-24T15:00:00Z`.
pub fn rfc3339(at_ms: i64) -> String {
    let second = at_ms.clamp(0, LAST_MS).div_euclid(1000);
    Timestamp::from_second(second).expect("the instant was clamped to years that calendars know").to_string()
}

/// The instant that an RFC 3339 text names, Unix milliseconds; `None` when it names none.
pub fn from_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(period: CalendarPeriod, zone: &str) -> Schedule {
        Schedule::new(Window::Calendar { period, time_zone: zone.into() }).unwrap()
    }

    fn ends(span: Span) -> (i64, i64) {
        match span {
            Span::Fixed { start_ms, end_ms } => (start_ms, end_ms),
            Span::Rolling { .. } => panic!("{span:?} is no calendar window"),
        }
    }

    #[test]
    fn calendar_windows_follow_the_clocks_of_their_zone() {
        use CalendarPeriod::{Day, Month, Week, Year};
        for (period, zone, now, start, end) in [
            (Day, "UTC", "2026-11-24T15:00:00Z", "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"),
            // Zurich's clocks go forward on 29 March 2026 (23 hours) and back on 25 October (25 hours).
            (Day, "Europe/Zurich", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Day, "Europe/Zurich", "2026-10-25T00:30:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Day, "Europe/Zurich", "2026-10-25T01:30:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Week, "Europe/Zurich", "2026-10-25T22:59:59Z", "2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "UTC", "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Month, "Europe/Zurich", "2026-03-31T22:30:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"),
            (Month, "UTC", "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Year, "UTC", "2028-02-29T12:00:00Z", "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"),
            (Year, "Asia/Kolkata", "2026-12-31T18:29:59Z", "2025-12-31T18:30:00Z", "2026-12-31T18:30:00Z"),
            // Midnight does not exist where clocks skip it: Beirut's day begins at 01:00.
            (Day, "Asia/Beirut", "2026-03-29T10:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"),
            // Samoa left out 30 December 2011.
            (Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
            (Day, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
            // Newfoundland's clocks once went back over midnight, from 00:01 to 23:01.
            (Day, "America/St_Johns", "2006-10-29T02:45:00Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"),
        ] {
            let at = |text| from_rfc3339(text).unwrap();
            let found = ends(schedule(period, zone).span_at(at(now)));
            assert_eq!((rfc3339(found.0), rfc3339(found.1)), (start.into(), end.into()), "{period:?} in {zone} at {now}");
            assert!(found.0 <= at(now) && at(now) < found.1);
        }
    }

    #[test]
    fn rolling_windows_have_sixty_buckets_of_a_second_at_least() {
        let span = |length_ms| Schedule::new(Window::Rolling { length_ms }).unwrap().span_at(7);
        assert_eq!(span(3_600_000), Span::Rolling { length_ms: 3_600_000, bucket_ms: 60_000 });
        assert_eq!(span(30_000), Span::Rolling { length_ms: 30_000, bucket_ms: 1000 });
    }

    #[test]
    fn a_lifetime_has_no_end() {
        let span = Schedule::new(Window::Lifetime).unwrap().span_at(i64::MAX);
        assert_eq!(span, Span::Fixed { start_ms: 0, end_ms: i64::MAX });
    }

    #[test]
    fn an_unknown_time_zone_is_named_with_an_example() {
        let window = Window::Calendar { period: CalendarPeriod::Day, time_zone: "Zurich".into() };
        let message = Schedule::new(window).unwrap_err().to_string();
        assert!(message.contains("\"Zurich\" is not an IANA time zone") && message.contains("Europe/Zurich"), "{message}");
    }

    #[test]
    fn windows_have_words() {
        let calendar = Window::Calendar { period: CalendarPeriod::Month, time_zone: "UTC".into() };
        let rolling = |minutes: i64| Window::Rolling { length_ms: minutes * 60_000 }.to_string();
        assert_eq!(calendar.to_string(), "Month (UTC)");
        assert_eq!([rolling(90), rolling(1440), rolling(10_080)], ["Rolling 90m", "Rolling 24h", "Rolling 7d"]);
        assert_eq!(Window::Lifetime.to_string(), "Lifetime");
    }

    proptest! {
        #[test]
        fn every_instant_is_in_one_window_and_windows_abut(
            // The window after the last one would begin beyond the end of time.
            now in 0..LAST_MS - 366 * 86_400_000,
            period in prop::sample::select(vec![
                CalendarPeriod::Day, CalendarPeriod::Week, CalendarPeriod::Month, CalendarPeriod::Year,
            ]),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Zurich", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu", "Australia/Lord_Howe",
                "America/Sao_Paulo", "Africa/Casablanca", "Asia/Beirut", "America/Havana",
            ]),
        ) {
            let schedule = schedule(period, zone);
            // Half of the instants in the years whose clocks were changed in every way.
            for now in [now, now % 1_800_000_000_000] {
                let (start, end) = ends(schedule.span_at(now));
                prop_assert!(start <= now && now < end);
                prop_assert_eq!(ends(schedule.span_at(start.max(0))), (start, end));
                prop_assert_eq!(ends(schedule.span_at(end - 1)), (start, end));
                prop_assert_eq!(ends(schedule.span_at(end)).0, end);
            }
        }

        #[test]
        fn no_instant_is_out_of_range(now in any::<i64>()) {
            let _ = schedule(CalendarPeriod::Week, "Pacific/Apia").span_at(now);
            let _ = rfc3339(now);
        }
    }
}
