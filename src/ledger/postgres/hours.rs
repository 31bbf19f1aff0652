//! Usage by hour and by day ([`crate::ledger::usage`]), and the end of single calls.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::columns::Parameter;
use super::connect::Failure;
use super::statements::Statements;
use crate::core::money::PicoUsd;
use crate::ledger::encoded::integer;
use crate::ledger::machine::Booking;
use crate::ledger::query::CallTotals;
use crate::ledger::usage::{COUNTS, DAY_MS, HOUR_MS, Summed, day_of, hour_of, hours_of_replaced, totals};

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

/// How far days are summed: until now a day was summed at once. Their table gets another name so that a replica of an earlier release does not
/// read a day of which only a part is there.
pub fn schema_of_parts() -> String {
    format!(
        "ALTER TABLE usage_days RENAME TO usage_by_day;
         CREATE TABLE days_summed (one int PRIMARY KEY CHECK (one = 1), day bigint NOT NULL, dimensions text NOT NULL);
         INSERT INTO days_summed SELECT 1, coalesce(max(day) + {DAY_MS}, 0), '' FROM usage_by_day"
    )
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

/// Hours and sums of them as days, which begin at `start`.
fn summed_by_day(start: &str, source: &str) -> String {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum(u.{name})::bigint")).collect();
    let columns = COUNTS.join(", ");
    format!(
        "INSERT INTO usage_by_day (day, dimensions, {columns}, cost, first_ms, last_ms)
         SELECT {start}, u.dimensions, {}, sum(u.cost), min(u.first_ms), max(u.last_ms) FROM {source} GROUP BY 1, 2",
        sums.join(", ")
    )
}

/// Groups by an array, and those that hours of another array have now.
const GROUPS: &str = "SELECT unnest($2::text[]) AS dimensions UNION SELECT dimensions FROM usage_hours WHERE hour = ANY($3::bigint[])";

/// Deletes groups of the days that begin at those of an array.
pub fn delete_groups_of_days() -> String {
    format!("DELETE FROM usage_by_day AS d USING ({GROUPS}) AS g WHERE d.day = ANY($1::bigint[]) AND d.dimensions = g.dimensions")
}

/// Sums them anew from their hours, as far as days are summed.
pub fn sum_groups_of_days() -> String {
    let source = format!(
        "unnest($1::bigint[]) AS w (start) CROSS JOIN generate_series(0, 23) AS n (n) CROSS JOIN ({GROUPS}) AS g
         JOIN days_summed AS s ON s.one = 1 AND (w.start, g.dimensions) <= (s.day, s.dimensions)
         JOIN usage_hours AS u ON u.hour = w.start + n.n * {HOUR_MS} AND u.dimensions = g.dimensions"
    );
    summed_by_day("w.start", &source)
}

/// How far days are summed.
///
/// # Errors
/// When the database does not say.
pub async fn summed(client: &Client) -> Result<Summed, Failure> {
    let row = client.query_one("SELECT day, dimensions FROM days_summed WHERE one = 1", &[]).await?;
    Ok(Summed { day: row.try_get(0)?, group: row.try_get(1)? })
}

/// Sums a part of the first day that is not summed, if it was over before `over_ms`: `most` groups of an hour at most. Whether there was one. In
/// a transaction in which nobody else writes.
///
/// # Errors
/// When the database does not do so.
pub async fn sum_a_part(client: &Client, over_ms: i64, most: i64) -> Result<bool, Failure> {
    let summed = summed(client).await?;
    let next = client.query_one("SELECT min(hour) FROM usage_hours WHERE hour >= $1", &[&summed.day]).await?.try_get(0)?;
    let Some(part) = summed.next(next, over_ms) else { return Ok(false) };
    let last = format!(
        "SELECT min((SELECT dimensions FROM usage_hours WHERE hour = $1::bigint + n.n * {HOUR_MS} AND dimensions > $2 ORDER BY dimensions
           LIMIT 1 OFFSET $3)) FROM generate_series(0, 23) AS n (n)"
    );
    let last: Option<String> = client.query_one(&last, &[&part.day, &part.group, &(most - 1)]).await?.try_get(0)?;
    let until = if last.is_some() { " AND u.dimensions <= $3" } else { "" };
    let source = format!(
        "usage_hours AS u WHERE u.hour = ANY(ARRAY(SELECT $1::bigint + n.n * {HOUR_MS} FROM generate_series(0, 23) AS n (n)))
           AND u.dimensions > $2{until}"
    );
    let some = summed_by_day("$1::bigint", &source);
    match &last {
        Some(last) => client.execute(&some, &[&part.day, &part.group, last]).await?,
        None => client.execute(&some, &[&part.day, &part.group]).await?,
    };
    let Summed { day, group } = part.after(last);
    client.execute("UPDATE days_summed SET day = $1, dimensions = $2 WHERE one = 1", &[&day, &group]).await?;
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
    read_from(client, "usage_by_day WHERE day >= $1 AND day < $2", days).await
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

/// The hours in which a call is replaced, seldom any; and in the days of them that are summed, the groups that they have before.
#[derive(Default)]
pub struct ToSumAnew {
    hours: Vec<i64>,
    days: Vec<i64>,
    hours_of_days: Vec<i64>,
    groups: Vec<String>,
}

impl ToSumAnew {
    /// # Errors
    /// When the database does not say.
    pub async fn of(client: &Client, statements: &Statements, books: &[Booking]) -> Result<ToSumAnew, Failure> {
        let mut hours = hours_of_replaced(books);
        if hours.is_empty() {
            return Ok(ToSumAnew::default());
        }
        let replaced = books.iter().filter_map(|booking| match booking {
            Booking::Call { record, replaces: true, .. } => Some(record.id.0.as_ref()),
            _ => None,
        });
        let replaced: Vec<&str> = replaced.collect();
        for row in &client.query(&statements.times_of_calls, &[&replaced]).await? {
            hours.insert(hour_of(row.try_get(0)?));
        }
        let until = summed(client).await?;
        let days: BTreeSet<i64> = hours.iter().map(|hour| day_of(*hour)).filter(|day| *day <= until.day).collect();
        let (hours, days): (Vec<i64>, Vec<i64>) = (hours.into_iter().collect(), days.into_iter().collect());
        let hours_of_days: Vec<i64> = hours.iter().copied().filter(|hour| days.contains(&day_of(*hour))).collect();
        let mut groups = Vec::new();
        if !days.is_empty() {
            for row in &client.query(&statements.groups_of_hours, &[&hours_of_days]).await? {
                groups.push(row.try_get(0)?);
            }
        }
        Ok(ToSumAnew { hours, days, hours_of_days, groups })
    }

    /// Does so.
    ///
    /// # Errors
    /// When the database does not.
    pub async fn send(&self, client: &Client, statements: &Statements) -> Result<(), Failure> {
        if self.hours.is_empty() {
            return Ok(());
        }
        let hours: [Parameter<'_>; 1] = [&self.hours];
        let anew =
            futures::future::try_join(client.execute(&statements.delete_hours, &hours), client.execute(&statements.sum_hours, &hours));
        let groups: [Parameter<'_>; 3] = [&self.days, &self.groups, &self.hours_of_days];
        let days = async {
            if self.days.is_empty() {
                return Ok((0, 0));
            }
            let (deleted, summed) = (&statements.delete_groups_of_days, &statements.sum_groups_of_days);
            futures::future::try_join(client.execute(deleted, &groups), client.execute(summed, &groups)).await
        };
        futures::future::try_join(anew, days).await?;
        Ok(())
    }
}
