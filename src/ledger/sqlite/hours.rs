//! Usage by hour and by day ([`crate::ledger::usage`]), and the end of single calls.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::row::not_text;
use crate::core::money::PicoUsd;
use crate::ledger::LedgerError;
use crate::ledger::query::CallTotals;
use crate::ledger::usage::{COUNTS, DAY_MS, HOUR_MS, Hours, MOST_OF_A_DAY, counts, day_of, totals};

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

/// Sums the hours of the day that begins at the first parameter, if `condition` holds.
fn day_summed_up(condition: &str) -> String {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})")).collect();
    format!(
        "INSERT INTO usage_days SELECT ?1, dimensions, {}, sum(cost_micro), sum(cost_pico), min(first_ms), max(last_ms)
         FROM usage_hours WHERE hour >= ?1 AND hour < ?1 + {DAY_MS} AND {condition} GROUP BY dimensions",
        sums.join(", ")
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

/// Sums hours anew, from their calls; and their days, from their hours.
pub fn sum_anew(connection: &Connection, hours: &BTreeSet<i64>) -> Result<(), LedgerError> {
    for hour in hours {
        connection.prepare_cached("DELETE FROM usage_hours WHERE hour = ?1")?.execute([hour])?;
        connection.prepare_cached(&summed_up("at_ms >= ?1 AND at_ms < ?2"))?.execute([*hour, hour + HOUR_MS])?;
    }
    // One that is not before another is summed when there is time.
    let again = day_summed_up("?1 < (SELECT max(day) FROM usage_days)");
    for day in hours.iter().map(|hour| day_of(*hour)).collect::<BTreeSet<i64>>() {
        connection.prepare_cached("DELETE FROM usage_days WHERE day = ?1")?.execute([day])?;
        connection.prepare_cached(&again)?.execute([day])?;
    }
    Ok(())
}

/// The end of the last day that is summed.
pub fn summed_ms(connection: &Connection) -> Result<i64, LedgerError> {
    let last: Option<i64> = connection.prepare_cached("SELECT max(day) FROM usage_days")?.query_row([], |row| row.get(0))?;
    Ok(last.map_or(i64::MIN, |day| day + DAY_MS))
}

/// Sums the first day that is not, if it was over before `over_ms`; whether there was one.
pub fn sum_a_day(connection: &Connection, over_ms: i64) -> Result<bool, LedgerError> {
    let mut next = connection.prepare_cached("SELECT min(hour) FROM usage_hours WHERE hour >= ?1")?;
    let next: Option<i64> = next.query_row([summed_ms(connection)?], |row| row.get(0))?;
    let Some(day) = next.map(day_of).filter(|day| day + DAY_MS <= over_ms) else { return Ok(false) };
    const ROWS: &str = "SELECT count(*) FROM (SELECT 1 FROM usage_hours WHERE hour >= ?1 AND hour < ?2 LIMIT ?3)";
    let rows: i64 = connection.prepare_cached(ROWS)?.query_row([day, day + DAY_MS, MOST_OF_A_DAY + 1], |row| row.get(0))?;
    if rows > MOST_OF_A_DAY {
        return Ok(false);
    }
    connection.prepare_cached(&day_summed_up("TRUE"))?.execute([day])?;
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
