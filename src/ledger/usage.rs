//! Usage by hour: calls of an hour with the same dimensions, summed when they are booked, so that sums over months read few rows and
//! single calls need not be kept for ever.
//!
//! A query reads whole hours from these sums, and what is left at its two ends from single calls. Both are exact. Hours of a day that is
//! over are summed once more, when there is time for it, so that a year is 365 rows of each group and not 8,760: ledger time does not go
//! back, so that such a day changes only where a call replaces another, and is summed anew then. Days are summed in their order; all
//! before the end of the last that is there are there.

use std::collections::{BTreeMap, BTreeSet};

use super::LedgerError;
use super::columns::{to_count, to_dimensions, to_outcome, to_tier};
use super::encoded::{decode, encode};
use super::machine::Booking;
use super::query::CallTotals;
use crate::core::call::{CallId, CallKind, CallRecord};
use crate::core::dimensions::{Dimension, Dimensions, Origin};
use crate::core::money::PicoUsd;
use crate::core::policy::Tier;
use crate::core::usage::Usage;

pub const HOUR_MS: i64 = 3_600_000;
/// Of UTC: a day of sums is no calendar's, and a query that begins elsewhere reads the hours between.
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// A day is summed in parts, each a transaction, so that nobody waits for long: so many groups of an hour at most, and so 24 times as many
/// sums. Fewer in tests, whose days have few.
pub const GROUPS_OF_A_PART: i64 = if cfg!(test) { 1 } else { 2_000 };

/// How far days are summed: those before a day, and of that one, the groups up to one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Summed {
    /// The start of a day. Nothing of it is read as a day before all of it is summed.
    pub day: i64,
    /// As the store compares texts; empty when none of the day is summed.
    pub group: String,
}

impl Summed {
    /// The day that is to be summed now, if the first hour of which there are sums is over so far, and the group after which to go on. `next`
    /// is the first hour that is not summed.
    pub fn next(&self, next: Option<i64>, over_ms: i64) -> Option<Summed> {
        let day = next.map(day_of).filter(|day| day + DAY_MS <= over_ms)?;
        Some(if day == self.day { self.clone() } else { Summed { day, group: String::new() } })
    }

    /// How far they are once the groups up to `last` are, or all of them.
    #[must_use]
    pub fn after(&self, last: Option<String>) -> Summed {
        match last {
            Some(group) => Summed { group, ..self.clone() },
            None => Summed { day: self.day + DAY_MS, group: String::new() },
        }
    }
}

/// What calls have in common that are summed, as text: the columns of a query's group, in their order.
pub type Group = [String; 16];

/// Columns of a group's sums, in the order of [`counts`].
pub const COUNTS: [&str; 13] = [
    "calls",
    "input",
    "cached_read",
    "cache_write",
    "cache_write_long",
    "output",
    "audio_input",
    "image_input",
    "audio_output",
    "image_output",
    "web_searches",
    "bytes",
    "duration_ms",
];

/// Sums by hour (its start) and group.
pub type Hours = BTreeMap<(i64, String), CallTotals>;

/// The start of the hour of an instant.
pub fn hour_of(at_ms: i64) -> i64 {
    at_ms.div_euclid(HOUR_MS) * HOUR_MS
}

/// What a batch adds. A call that replaces another is left out: its hours are to be summed anew.
///
/// # Errors
/// When a group cannot be written down.
pub fn by_hour(books: &[Booking]) -> Result<Hours, LedgerError> {
    let mut hours = Hours::new();
    for booking in books {
        let Booking::Call { record, at_ms, replaces: false, .. } = booking else { continue };
        let totals = of_call(record, *at_ms);
        let key = (hour_of(*at_ms), encode(&group(&totals))?);
        hours.entry(key).and_modify(|sum| add(sum, &totals)).or_insert(totals);
    }
    Ok(hours)
}

/// The hours that are to be summed anew: those in which a call was booked that replaces another, or is replaced. Where the other was
/// booked before this batch, its hour is to be added.
pub fn hours_of_replaced(books: &[Booking]) -> BTreeSet<i64> {
    let call = |booking: &Booking| match booking {
        Booking::Call { record, at_ms, replaces, .. } => Some((record.id.clone(), hour_of(*at_ms), *replaces)),
        Booking::Outcome { .. } => None,
    };
    let replaced: BTreeSet<CallId> = books.iter().filter_map(call).filter(|(.., replaces)| *replaces).map(|(id, ..)| id).collect();
    books.iter().filter_map(call).filter(|(id, ..)| replaced.contains(id)).map(|(_, hour, _)| hour).collect()
}

/// A stretch of time, as whole days, whole hours around them, and what is left of it at its ends. Unix milliseconds; the second of each
/// pair is excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub days: (i64, i64),
    pub hours: [(i64, i64); 2],
    pub ends: [(i64, i64); 2],
}

/// How to read `from_ms ≤ t < to_ms`, where days are summed until `summed_ms`, the end of one of them.
pub fn stretch(from_ms: i64, to_ms: i64, summed_ms: i64) -> Stretch {
    let (ends, hours) = wholes(from_ms, to_ms, HOUR_MS);
    let (around, days) = wholes(hours.0, hours.1.min(summed_ms.max(hours.0)), DAY_MS);
    let rest = (around[1].0, hours.1);
    Stretch { days, hours: [around[0], rest], ends }
}

/// What is left at the ends of a stretch, and the whole units of it between.
fn wholes(from_ms: i64, to_ms: i64, unit_ms: i64) -> ([(i64, i64); 2], (i64, i64)) {
    let first = from_ms.saturating_add(unit_ms - 1).div_euclid(unit_ms) * unit_ms;
    let last = to_ms.div_euclid(unit_ms) * unit_ms;
    if first >= last { ([(from_ms, to_ms), (to_ms, to_ms)], (to_ms, to_ms)) } else { ([(from_ms, first), (last, to_ms)], (first, last)) }
}

/// The day of hours, which begins the first of them.
pub fn day_of(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS) * DAY_MS
}

/// Sums of whole hours and of the ends, by group, in the order of the group's columns.
pub fn together(sums: impl IntoIterator<Item = CallTotals>) -> Vec<CallTotals> {
    let mut groups: BTreeMap<Group, CallTotals> = BTreeMap::new();
    for totals in sums {
        groups.entry(group(&totals)).and_modify(|sum| add(sum, &totals)).or_insert(totals);
    }
    groups.into_values().collect()
}

/// What one call adds.
pub fn of_call(record: &CallRecord, at_ms: i64) -> CallTotals {
    CallTotals {
        origin: Origin { namespace: record.origin.namespace.clone(), workload: record.origin.workload.clone(), ..Origin::default() },
        dimensions: record.dimensions.clone(),
        route: record.route.to_string(),
        backend: record.backend.to_string(),
        shared: matches!(record.kind, CallKind::Shared),
        requested_model: record.requested_model.to_string(),
        model: record.model.to_string(),
        requested_tier: record.requested_tier,
        tier: record.tier,
        needed_tier: record.classification.as_ref().map(|c| c.needed_tier),
        outcome: record.outcome,
        calls: 1,
        usage: record.usage,
        bytes: record.bytes,
        cost: record.cost,
        duration_ms: u64::try_from(record.duration_ms).unwrap_or(0),
        first_ms: at_ms,
        last_ms: at_ms,
    }
}

fn add(sum: &mut CallTotals, other: &CallTotals) {
    sum.calls += other.calls;
    sum.usage = sum.usage.saturating_add(&other.usage);
    sum.bytes = sum.bytes.saturating_add(other.bytes);
    sum.cost += other.cost;
    sum.duration_ms = sum.duration_ms.saturating_add(other.duration_ms);
    sum.first_ms = sum.first_ms.min(other.first_ms);
    sum.last_ms = sum.last_ms.max(other.last_ms);
}

fn group(totals: &CallTotals) -> Group {
    let [feature, team, process, agent, session] = Dimension::ALL.map(|d| totals.dimensions.get(d).unwrap_or("").to_owned());
    let tier = |tier: Option<Tier>| tier.map_or("", |t| t.name()).to_owned();
    [
        totals.origin.namespace.clone(),
        totals.origin.workload.clone(),
        feature,
        team,
        process,
        agent,
        session,
        totals.route.clone(),
        totals.backend.clone(),
        u8::from(totals.shared).to_string(),
        totals.requested_model.clone(),
        totals.model.clone(),
        tier(totals.requested_tier),
        tier(totals.tier),
        tier(totals.needed_tier),
        totals.outcome.name().to_owned(),
    ]
}

/// A group's sums but the cost and the times.
pub fn counts(totals: &CallTotals) -> [i64; 13] {
    let usage = &totals.usage;
    [
        totals.calls,
        usage.input,
        usage.cached_read,
        usage.cache_write,
        usage.cache_write_long,
        usage.output,
        usage.audio_input,
        usage.image_input,
        usage.audio_output,
        usage.image_output,
        usage.web_searches,
        totals.bytes,
        totals.duration_ms,
    ]
    .map(|count| i64::try_from(count).unwrap_or(i64::MAX))
}

/// The sums of a group of which [`counts`], cost and times are known.
///
/// # Errors
/// When a count is negative, or the text stands for no group.
pub fn totals(text: &str, counts: [i64; 13], cost: PicoUsd, (first_ms, last_ms): (i64, i64)) -> Result<CallTotals, LedgerError> {
    let [calls, input, cached_read, cache_write, cache_write_long, output, rest @ ..] = counts;
    let [audio_input, image_input, audio_output, image_output, web_searches, bytes, duration_ms] = rest;
    let usage = Usage {
        input: to_count(input)?,
        cached_read: to_count(cached_read)?,
        cache_write: to_count(cache_write)?,
        cache_write_long: to_count(cache_write_long)?,
        audio_input: to_count(audio_input)?,
        image_input: to_count(image_input)?,
        output: to_count(output)?,
        audio_output: to_count(audio_output)?,
        image_output: to_count(image_output)?,
        web_searches: to_count(web_searches)?,
    };
    let (calls, bytes, duration_ms) = (to_count(calls)?, to_count(bytes)?, to_count(duration_ms)?);
    Ok(CallTotals { calls, usage, bytes, cost, duration_ms, first_ms, last_ms, ..of_group(text)? })
}

/// Sums without figures, of the group that `text` stands for.
///
/// # Errors
/// When it stands for none.
fn of_group(text: &str) -> Result<CallTotals, LedgerError> {
    let group: Group = decode(text, "a group of calls")?;
    let [namespace, workload, feature, team, process, agent, session, route, backend, shared, requested_model, model, rest @ ..] = group;
    let [requested_tier, tier, needed_tier, outcome] = rest;
    let dimensions: Dimensions = to_dimensions([feature, team, process, agent, session]);
    Ok(CallTotals {
        origin: Origin { namespace, workload, ..Origin::default() },
        dimensions,
        route,
        backend,
        shared: shared == "1",
        requested_model,
        model,
        requested_tier: to_tier(&requested_tier),
        tier: to_tier(&tier),
        needed_tier: to_tier(&needed_tier),
        outcome: to_outcome(&outcome)?,
        calls: 0,
        usage: Default::default(),
        bytes: 0,
        cost: Default::default(),
        duration_ms: 0,
        first_ms: i64::MAX,
        last_ms: i64::MIN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_instant_of_a_stretch_is_in_one_part_of_it(
            from in -3 * DAY_MS..3 * DAY_MS, length in 0..4 * DAY_MS, summed in -4..8_i64, at in -4 * DAY_MS..8 * DAY_MS
        ) {
            let (to, summed) = (from + length, summed * DAY_MS);
            let stretch = stretch(from, to, summed);
            let parts = [&[stretch.days][..], &stretch.hours, &stretch.ends].concat();
            let within = parts.iter().filter(|(first, last)| (*first..*last).contains(&at)).count();
            prop_assert_eq!(within, usize::from((from..to).contains(&at)), "{:?}", stretch);
            let whole = |(first, last): (i64, i64), unit: i64| first >= last || (first % unit, last % unit) == (0, 0);
            prop_assert!(stretch.hours.into_iter().all(|hours| whole(hours, HOUR_MS)), "{:?}", stretch);
            prop_assert!(whole(stretch.days, DAY_MS) && (stretch.days.0 >= stretch.days.1 || stretch.days.1 <= summed), "{:?}", stretch);
            let longest = |unit: i64| to - from >= 2 * unit;
            prop_assert!(!longest(DAY_MS) || summed < to || stretch.days.0 < stretch.days.1, "whole days are read as such: {:?}", stretch);
        }
    }

    #[test]
    fn a_group_and_back_is_the_same() {
        let record = crate::ledger::conformance::record("c", 7, crate::core::call::CallOutcome::Completed);
        let totals = of_call(&record, 5);
        let text = encode(&group(&totals)).expect("text");
        let times = (totals.first_ms, totals.last_ms);
        assert_eq!(super::totals(&text, counts(&totals), totals.cost, times), Ok(totals.clone()));
        assert_eq!(together([totals.clone(), totals])[0].cost.0, 14);
    }
}
