//! How long a query over months takes: a year of sums, as a ledger has them after a year, and the port's own query over stretches of it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use spendkeeper::ledger::Ledger;
use spendkeeper::ledger::query::CallQuery;
use spendkeeper::ledger::usage::{COUNTS, DAY_MS, HOUR_MS};

use crate::common::{Figure, Row};
use crate::floor;

const DAYS: i64 = 365;
/// Groups of calls with the same dimensions that each hour has.
const GROUPS: i64 = 50;
const REPETITIONS: usize = 15;
/// Half an hour after a day begins and half an hour before another ends, as a query mostly has it.
const STRETCHES: [(&str, i64); 4] = [("a day", 1), ("a month", 30), ("a quarter", 91), ("a year", DAYS)];

/// Rows for SQLite in a file and PostgreSQL at an address.
pub async fn rows(path: &Path, url: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in ["Sqlite", "Postgres"] {
        let address = if engine == "Sqlite" { path.display().to_string() } else { url.to_owned() };
        // Makes the tables.
        spendkeeper::ledger::open(&address, Default::default()).await?.close().await;
        if engine == "Sqlite" {
            let hours = format!(
                "WITH RECURSIVE h (hour) AS (SELECT 0 UNION ALL SELECT hour + {HOUR_MS} FROM h WHERE hour < {})",
                DAYS * DAY_MS - HOUR_MS
            );
            let groups = format!("g (g) AS (SELECT 0 UNION ALL SELECT g + 1 FROM g WHERE g < {})", GROUPS - 1);
            let connection = rusqlite::Connection::open(path)?;
            connection.execute_batch(&filled(&format!("{hours}, {groups}"), "h, g", "json_array", "CAST(g AS TEXT)", "7, 5"))?;
            connection.execute_batch(&summed("usage_days", "cost_micro, cost_pico", "sum(cost_micro), sum(cost_pico)", ""))?;
        } else {
            let source = format!(
                "generate_series(0, {}, {HOUR_MS}) AS h (hour), generate_series(0, {}) AS g (g)",
                DAYS * DAY_MS - HOUR_MS,
                GROUPS - 1
            );
            floor::execute(url, &filled("", &source, "json_build_array", "g::text", "7")).await?;
            floor::execute(url, &summed("usage_by_day", "cost", "sum(cost)", "::bigint")).await?;
            floor::execute(url, "ANALYZE usage_hours; ANALYZE usage_by_day").await?;
        }
        let ledger = spendkeeper::ledger::open(&address, Default::default()).await?;
        for (name, days) in STRETCHES {
            rows.push(row(engine, name, days, ledger.as_ref()).await?);
        }
        ledger.close().await;
    }
    Ok(rows)
}

async fn row(engine: &'static str, name: &'static str, days: i64, ledger: &dyn Ledger) -> Result<Row> {
    let mut times = Vec::with_capacity(REPETITIONS);
    for _ in 0..REPETITIONS {
        let query = CallQuery { from_ms: HOUR_MS / 2, to_ms: days * DAY_MS - HOUR_MS / 2, route: None };
        let began = Instant::now();
        let totals = ledger.totals(&query).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        let calls: u64 = totals.iter().map(|totals| totals.calls).sum();
        // The hours at both ends are of single calls, and there are none.
        ensure!(calls == (days * 24 - 2).unsigned_abs() * GROUPS.unsigned_abs(), "{name}: {calls} calls");
    }
    Ok(Row::default().label("engine", engine).label("stretch", name).figure("ms", Figure::of(times)))
}

/// One call of each group in each hour.
fn filled(with: &str, source: &str, array: &str, number: &str, cost: &str) -> String {
    let ones = vec!["1"; COUNTS.len()].join(", ");
    let cost_columns = if cost.contains(',') { "cost_micro, cost_pico" } else { "cost" };
    let columns = COUNTS.join(", ");
    let group = format!(
        "{array}('shop', 'Deployment/bot', 'feature-' || {number}, 'team-' || {number}, '', '', '', 'shop/models', 'openai', '0', 'auto',
          'gpt-5-mini', 'frontier', 'standard', 'standard', 'completed')"
    );
    let group = if array == "json_array" { group } else { format!("{group}::text") };
    format!(
        "{with} INSERT INTO usage_hours (hour, dimensions, {columns}, {cost_columns}, first_ms, last_ms)
         SELECT hour, {group}, {ones}, {cost}, hour + 1, hour + 1 FROM {source}"
    )
}

/// Every day, as a writer sums it.
fn summed(table: &str, cost: &str, sums_of_cost: &str, as_number: &str) -> String {
    let sums: Vec<String> = COUNTS.iter().map(|name| format!("sum({name}){as_number}")).collect();
    format!(
        "INSERT INTO {table} (day, dimensions, {}, {cost}, first_ms, last_ms)
         SELECT hour - hour % {DAY_MS}, dimensions, {}, {sums_of_cost}, min(first_ms), max(last_ms) FROM usage_hours GROUP BY 1, 2;
         UPDATE days_summed SET day = {}",
        COUNTS.join(", "),
        sums.join(", "),
        DAYS * DAY_MS
    )
}
