//! Usage by hour and by day ([`crate::ledger::usage`]), and the end of single calls.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::row::not_text;
use crate::core::money::PicoUsd;
use crate::ledger::LedgerError;
use crate::ledger::query::CallTotals;
use crate::ledger::usage::{COUNTS, DAY_MS, HOUR_MS, Hours, Summed, counts, day_of, totals};

/// A call's group, as its columns say it.
const GROUP: &str = "json_array(namespace, workload, feature, team, process, agent, session, route, backend,
    CASE shared WHEN 0 THEN '0' ELSE '1' END, requested_model, model, requested_tier, tier, needed_tier, outcome)";

/// The table of hours, and the sums of the calls that there are.
pub fn schema() -> String {
    format!("{}; {};", table("usage_hours (hour"), summed_up("TRUE"))
}

/// The table of days. What is over is summed bit by bit.
pub fn schema_of_days() -> String {
    format!("{};", table("usage_days (day"))
}

/// How far days are summed: until now a day was summed at once.
pub fn schema_of_parts() -> String {
    format!(
        "CREATE TABLE days_summed (one INTEGER PRIMARY KEY CHECK (one = 1), day INTEGER NOT NULL, dimensions TEXT NOT NULL);
         INSERT INTO days_summed SELECT 1, coalesce(max(day) + {DAY_MS}, 0), '' FROM usage_days;"
    )
}

fn table(name_and_start: &str) -> String {
    let columns: Vec<String> = COUNTS.iter().map(|name| format!("{name} INTEGER NOT NULL")).collect();
    let start = name_and_start.rsplit('(').next().unwrap_or_default();
    format!(
        "CREATE TABLE {name_and_start} INTEGER NOT NULL, dimensions TEXT NOT NULL, {}, cost_micro INTEGER NOT NULL, cost_pico INTEGER NOT NULL,
           first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, PRIMARY KEY ({start}, dimensions)) WITHOUT ROWID",
        columns.join(", ")
    )
}

/// Sums the calls that `condition` holds for.
fn summed_up(condition: &str) -> String {
    let sums: Vec<String> = COUNTS[1..].iter().map(|name| format!("sum({name})")).collect();
    format!(
        "INSERT INTO usage_hours SELECT at_ms - at_ms % {HOUR_MS}, {GROUP}, count(*), {}, sum(cost_micro), sum(cost_pico), min(at_ms), max(at_ms)
         FROM calls WHERE {condition} GROUP BY 1, 2",
        sums.join(", ")
    )
}

/// Sums those hours of the day that begins at the first parameter that have `groups`.
fn day_summed_up(groups: &str) -> String {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})")).collect();
    let hours: Vec<String> = (0..24).map(|hour| format!("?1 + {}", hour * HOUR_MS)).collect();
    format!(
        "INSERT INTO usage_days SELECT ?1, dimensions, {}, sum(cost_micro), sum(cost_pico), min(first_ms), max(last_ms)
         FROM usage_hours WHERE hour IN ({}) AND {groups} GROUP BY dimensions",
        sums.join(", "),
        hours.join(", ")
    )
}

/// Adds what a batch booked.
pub fn add(connection: &Connection, hours: &Hours) -> Result<(), LedgerError> {
    if hours.is_empty() {
        return Ok(());
    }
    let values: Vec<String> = (1..=COUNTS.len() + 6).map(|n| format!("?{n}")).collect();
    let sums: Vec<String> =
        COUNTS.iter().chain(&["cost_micro", "cost_pico"]).map(|name| format!("{name} = {name} + excluded.{name}")).collect();
    let mut statement = connection.prepare_cached(&format!(
        "INSERT INTO usage_hours VALUES ({}) ON CONFLICT DO UPDATE
         SET {}, first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)",
        values.join(", "),
        sums.join(", ")
    ))?;
    for ((hour, group), sum) in hours {
        statement.raw_bind_parameter(1, hour)?;
        statement.raw_bind_parameter(2, group)?;
        let micro = i64::try_from(sum.cost.0.div_euclid(1_000_000)).unwrap_or(i64::MAX);
        let pico = i64::try_from(sum.cost.0.rem_euclid(1_000_000)).unwrap_or(0);
        let numbers = counts(sum).into_iter().chain([micro, pico, sum.first_ms, sum.last_ms]);
        for (index, number) in numbers.enumerate() {
            statement.raw_bind_parameter(index + 3, number)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

/// Sums hours anew, from their calls; and the groups that they had or have now, in the days that are summed so far.
pub fn sum_anew(connection: &Connection, hours: &BTreeSet<i64>) -> Result<(), LedgerError> {
    let summed = summed(connection)?;
    let anew = day_summed_up("dimensions = ?2 AND (?1, ?2) <= (SELECT day, dimensions FROM days_summed)");
    for hour in hours {
        let day = day_of(*hour);
        let mut groups = if day <= summed.day { groups_of(connection, *hour)? } else { BTreeSet::new() };
        connection.prepare_cached("DELETE FROM usage_hours WHERE hour = ?1")?.execute([hour])?;
        connection.prepare_cached(&summed_up("at_ms >= ?1 AND at_ms < ?2"))?.execute([*hour, hour + HOUR_MS])?;
        if day <= summed.day {
            groups.extend(groups_of(connection, *hour)?);
        }
        for group in groups {
            connection.prepare_cached("DELETE FROM usage_days WHERE day = ?1 AND dimensions = ?2")?.execute(params![day, group])?;
            connection.prepare_cached(&anew)?.execute(params![day, group])?;
        }
    }
    Ok(())
}

fn groups_of(connection: &Connection, hour: i64) -> Result<BTreeSet<String>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT dimensions FROM usage_hours WHERE hour = ?1")?;
    let groups = statement.query_map([hour], |row| row.get(0))?;
    Ok(groups.collect::<Result<_, _>>()?)
}

/// How far days are summed.
pub fn summed(connection: &Connection) -> Result<Summed, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT day, dimensions FROM days_summed")?;
    Ok(statement.query_row([], |row| Ok(Summed { day: row.get(0)?, group: row.get(1)? }))?)
}

/// Sums a part of the first day that is not summed, if it was over before `over_ms`: `most` groups of an hour at most. Whether there was one.
pub fn sum_a_part(connection: &Connection, over_ms: i64, most: i64) -> Result<bool, LedgerError> {
    let summed = summed(connection)?;
    let mut next = connection.prepare_cached("SELECT min(hour) FROM usage_hours WHERE hour >= ?1")?;
    let Some(part) = summed.next(next.query_row([summed.day], |row| row.get(0))?, over_ms) else { return Ok(false) };
    let last = format!(
        "WITH RECURSIVE h (hour) AS (SELECT ?1 UNION ALL SELECT hour + {HOUR_MS} FROM h WHERE hour + {HOUR_MS} < ?1 + {DAY_MS})
         SELECT min((SELECT dimensions FROM usage_hours AS u WHERE u.hour = h.hour AND dimensions > ?2 ORDER BY dimensions LIMIT 1 OFFSET ?3))
         FROM h"
    );
    let last: Option<String> = connection.prepare_cached(&last)?.query_row(params![part.day, part.group, most - 1], |row| row.get(0))?;
    match &last {
        Some(last) => {
            let some = day_summed_up("dimensions > ?2 AND dimensions <= ?3");
            connection.prepare_cached(&some)?.execute(params![part.day, part.group, last])?
        }
        None => connection.prepare_cached(&day_summed_up("dimensions > ?2"))?.execute(params![part.day, part.group])?,
    };
    let Summed { day, group } = part.after(last);
    connection.prepare_cached("UPDATE days_summed SET day = ?1, dimensions = ?2")?.execute(params![day, group])?;
    Ok(true)
}

/// Sums of whole hours, from the first on until before the last.
pub fn read(connection: &Connection, hours: (i64, i64)) -> Result<Vec<CallTotals>, LedgerError> {
    read_from(connection, "usage_hours WHERE hour >= ?1 AND hour < ?2", hours)
}

/// The same of whole days.
pub fn read_days(connection: &Connection, days: (i64, i64)) -> Result<Vec<CallTotals>, LedgerError> {
    read_from(connection, "usage_days WHERE day >= ?1 AND day < ?2", days)
}

fn read_from(connection: &Connection, source: &str, (first, last): (i64, i64)) -> Result<Vec<CallTotals>, LedgerError> {
    if first >= last {
        return Ok(Vec::new());
    }
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})")).collect();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT dimensions, sum(cost_micro), sum(cost_pico), min(first_ms), max(last_ms), {} FROM {source} GROUP BY dimensions",
        sums.join(", ")
    ))?;
    let mut rows = statement.query([first, last])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut counts = [0; COUNTS.len()];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = row.get(index + 5)?;
        }
        let (micro, pico): (i64, i64) = (row.get(1)?, row.get(2)?);
        let cost = PicoUsd(i128::from(micro) * 1_000_000 + i128::from(pico));
        found.push(totals(row.get_ref(0)?.as_str().map_err(not_text)?, counts, cost, (row.get(3)?, row.get(4)?))?);
    }
    Ok(found)
}

/// Deletes calls from before `before_ms`, `most` at a time; how many. What they were charged is final then.
pub fn prune(connection: &Connection, before_ms: i64, most: i64) -> Result<usize, LedgerError> {
    const UNKNOWN: &str = "DELETE FROM unknown_calls WHERE EXISTS (SELECT 1 FROM calls WHERE id = unknown_calls.call AND at_ms < ?1)";
    const CALLS: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)";
    connection.prepare_cached(UNKNOWN)?.execute([before_ms])?;
    Ok(connection.prepare_cached(CALLS)?.execute(params![before_ms, most])?)
}
