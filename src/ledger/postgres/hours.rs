//! Usage by hour and by day ([`crate::ledger::usage`]), and the end of single calls.

use tokio_postgres::Client;

use super::connect::Failure;
use crate::core::money::PicoUsd;
use crate::ledger::encoded::integer;
use crate::ledger::query::CallTotals;
use crate::ledger::usage::{COUNTS, DAY_MS, HOUR_MS, MOST_OF_A_DAY, day_of, totals};

/// A call's group, as its columns say it.
const GROUP: &str = "json_build_array(namespace, workload, feature, team, process, agent, session, route, backend,
    CASE shared WHEN 0 THEN '0' ELSE '1' END, requested_model, model, requested_tier, tier, needed_tier, outcome)::text";

/// The table of hours, and the sums of the calls that there are.
pub fn schema() -> String {
    format!("{}; {}", table("usage_hours", "hour"), summed_up("calls"))
}

/// The table of days. What is over is summed bit by bit.
pub fn schema_of_days() -> String {
    table("usage_days", "day")
}

fn table(name: &str, start: &str) -> String {
    let columns: Vec<String> = COUNTS.iter().map(|name| format!("{name} bigint NOT NULL")).collect();
    format!(
        "CREATE TABLE {name} ({start} bigint NOT NULL, dimensions text NOT NULL, {}, cost numeric NOT NULL,
           first_ms bigint NOT NULL, last_ms bigint NOT NULL, PRIMARY KEY ({start}, dimensions))",
        columns.join(", ")
    )
}

/// Sums the calls of `source`.
fn summed_up(source: &str) -> String {
    let sums: Vec<String> = COUNTS[1..].iter().map(|name| format!("sum({name})::bigint")).collect();
    let columns = COUNTS.join(", ");
    format!(
        "INSERT INTO usage_hours (hour, dimensions, {columns}, cost, first_ms, last_ms)
         SELECT at_ms - at_ms % {HOUR_MS}, {GROUP}, count(*), {}, sum(cost), min(at_ms), max(at_ms)
         FROM {source} GROUP BY 1, 2",
        sums.join(", ")
    )
}

/// Sums the hours that begin at those of an array anew, from their calls.
pub fn sum_hours() -> String {
    summed_up(&format!("unnest($1::bigint[]) AS w (start) JOIN calls ON at_ms >= w.start AND at_ms < w.start + {HOUR_MS}"))
}

/// Sums the days that begin at those of an array, from their hours, if `condition` holds.
pub fn sum_days(condition: &str) -> String {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})::bigint")).collect();
    let columns = COUNTS.join(", ");
    format!(
        "INSERT INTO usage_days (day, dimensions, {columns}, cost, first_ms, last_ms)
         SELECT w.start, dimensions, {}, sum(cost), min(first_ms), max(last_ms)
         FROM unnest($1::bigint[]) AS w (start) JOIN usage_hours ON hour >= w.start AND hour < w.start + {DAY_MS}
         WHERE {condition} GROUP BY 1, 2",
        sums.join(", ")
    )
}

/// The end of the last day that is summed.
///
/// # Errors
/// When the database does not say.
pub async fn summed_ms(client: &Client) -> Result<i64, Failure> {
    let last: Option<i64> = client.query_one("SELECT max(day) FROM usage_days", &[]).await?.try_get(0)?;
    Ok(last.map_or(i64::MIN, |day| day + DAY_MS))
}

/// Sums the first day that is not, if it was over before `over_ms`; whether there was one. In a transaction in which nobody else writes.
///
/// # Errors
/// When the database does not do so.
pub async fn sum_a_day(client: &Client, over_ms: i64) -> Result<bool, Failure> {
    let summed_ms = summed_ms(client).await?;
    let next: Option<i64> = client.query_one("SELECT min(hour) FROM usage_hours WHERE hour >= $1", &[&summed_ms]).await?.try_get(0)?;
    let Some(day) = next.map(day_of).filter(|day| day + DAY_MS <= over_ms) else { return Ok(false) };
    const ROWS: &str = "SELECT count(*) FROM (SELECT 1 FROM usage_hours WHERE hour >= $1 AND hour < $2 LIMIT $3) AS hours";
    let rows: i64 = client.query_one(ROWS, &[&day, &(day + DAY_MS), &(MOST_OF_A_DAY + 1)]).await?.try_get(0)?;
    if rows > MOST_OF_A_DAY {
        return Ok(false);
    }
    client.execute(&sum_days("true"), &[&vec![day]]).await?;
    Ok(true)
}

/// Adds what a batch booked: hours, groups, costs, each count, first and last times, as one array each.
pub fn add() -> String {
    let columns = COUNTS.join(", ");
    let counts: Vec<String> = (4..4 + COUNTS.len()).map(|n| format!("${n}::bigint[]")).collect();
    let sums: Vec<String> = COUNTS.iter().chain(&["cost"]).map(|name| format!("{name} = h.{name} + excluded.{name}")).collect();
    let (first, last) = (4 + COUNTS.len(), 5 + COUNTS.len());
    format!(
        "INSERT INTO usage_hours AS h (hour, dimensions, cost, {columns}, first_ms, last_ms)
         SELECT hour, dimensions, cost::numeric, {columns}, first_ms, last_ms
         FROM unnest($1::bigint[], $2::text[], $3::text[], {}, ${first}::bigint[], ${last}::bigint[])
           AS t (hour, dimensions, cost, {columns}, first_ms, last_ms) ORDER BY hour, dimensions
         ON CONFLICT (hour, dimensions) DO UPDATE
         SET {}, first_ms = least(h.first_ms, excluded.first_ms), last_ms = greatest(h.last_ms, excluded.last_ms)",
        counts.join(", "),
        sums.join(", ")
    )
}

/// Sums of whole hours, from the first on until before the last.
///
/// # Errors
/// When the database does not say, or holds what is none.
pub async fn read(client: &Client, hours: (i64, i64)) -> Result<Vec<CallTotals>, Failure> {
    read_from(client, "usage_hours WHERE hour >= $1 AND hour < $2", hours).await
}

/// The same of whole days.
///
/// # Errors
/// As [`read`].
pub async fn read_days(client: &Client, days: (i64, i64)) -> Result<Vec<CallTotals>, Failure> {
    read_from(client, "usage_days WHERE day >= $1 AND day < $2", days).await
}

async fn read_from(client: &Client, source: &str, (first, last): (i64, i64)) -> Result<Vec<CallTotals>, Failure> {
    if first >= last {
        return Ok(Vec::new());
    }
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name})::bigint")).collect();
    let sql =
        format!("SELECT dimensions, sum(cost)::text, min(first_ms), max(last_ms), {} FROM {source} GROUP BY dimensions", sums.join(", "));
    let mut found = Vec::new();
    for row in &client.query(&sql, &[&first, &last]).await? {
        let mut counts = [0; COUNTS.len()];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = row.try_get(index + 4)?;
        }
        let cost = PicoUsd(integer(row.try_get(1)?)?);
        found.push(totals(row.try_get(0)?, counts, cost, (row.try_get(2)?, row.try_get(3)?))?);
    }
    Ok(found)
}

/// Deletes calls from before `before_ms`, `most` at a time; how many. What they were charged is final then.
///
/// # Errors
/// When the database does not do so; then it is done another time.
pub async fn prune(client: &Client, before_ms: i64, most: i64) -> Result<u64, Failure> {
    const UNKNOWN: &str = "DELETE FROM unknown_calls WHERE EXISTS (SELECT 1 FROM calls WHERE id = unknown_calls.call AND at_ms < $1)";
    const CALLS: &str = "DELETE FROM calls WHERE id IN (SELECT id FROM calls WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)";
    // Each a transaction of its own: the first says that nothing is replaced any more, the second that nothing is summed anew.
    client.execute(UNKNOWN, &[&before_ms]).await?;
    Ok(client.execute(CALLS, &[&before_ms, &most]).await?)
}
