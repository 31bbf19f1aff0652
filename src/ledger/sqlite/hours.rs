//! Usage by hour ([`crate::ledger::usage`]), and the end of single calls.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::row::not_text;
use crate::core::money::PicoUsd;
use crate::ledger::LedgerError;
use crate::ledger::query::CallTotals;
use crate::ledger::usage::{COUNTS, HOUR_MS, Hours, counts, totals};

/// A call's group, as its columns say it.
const GROUP: &str = "json_array(namespace, workload, feature, team, process, agent, session, route, backend,
    CASE shared WHEN 0 THEN '0' ELSE '1' END, requested_model, model, requested_tier, tier, needed_tier, outcome)";

/// The table, and the sums of the calls that there are.
pub fn schema() -> String {
    let columns: Vec<String> = COUNTS.iter().map(|name| format!("{name} INTEGER NOT NULL")).collect();
    format!(
        "CREATE TABLE usage_hours (hour INTEGER NOT NULL, dimensions TEXT NOT NULL, {}, cost_micro INTEGER NOT NULL, cost_pico INTEGER NOT NULL,
           first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, PRIMARY KEY (hour, dimensions)) WITHOUT ROWID;
         {};",
        columns.join(", "),
        summed_up("TRUE")
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

/// Adds what a batch booked.
pub fn add(connection: &Connection, hours: &Hours) -> Result<(), LedgerError> {
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

/// Sums hours anew, from their calls.
pub fn sum_anew(connection: &Connection, hours: &BTreeSet<i64>) -> Result<(), LedgerError> {
    for hour in hours {
        connection.prepare_cached("DELETE FROM usage_hours WHERE hour = ?1")?.execute([hour])?;
        connection.prepare_cached(&summed_up("at_ms >= ?1 AND at_ms < ?2"))?.execute([*hour, hour + HOUR_MS])?;
    }
    Ok(())
}

/// Sums of whole hours, from the first on until before the last.
pub fn read(connection: &Connection, (first, last): (i64, i64)) -> Result<Vec<CallTotals>, LedgerError> {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})")).collect();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT dimensions, sum(cost_micro), sum(cost_pico), min(first_ms), max(last_ms), {} FROM usage_hours WHERE hour >= ?1 AND hour < ?2
         GROUP BY dimensions",
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
