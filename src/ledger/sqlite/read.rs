//! Queries: they run beside the writer and see what was last committed.

use rusqlite::{Connection, Row, params};

use super::row::not_text;
use super::{hours, load};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms};
use crate::core::money::PicoUsd;
use crate::core::policy::Tier;
use crate::core::usage::Usage;
use crate::ledger::columns::{to_count, to_dimensions, to_outcome, to_tier};
use crate::ledger::machine::Rows;
use crate::ledger::machine::rows::{counted_buckets, held_account};
use crate::ledger::machine::touch::Accounts;
use crate::ledger::query::{CallQuery, CallTotals, LimitBalance, MAX_SPLITS, OutcomeCount};
use crate::ledger::{HolderId, LedgerError, usage};

pub fn holders(connection: &Connection) -> Result<Vec<HolderId>, LedgerError> {
    const SQL: &str = "SELECT holder FROM leases WHERE usd <> '0' OR tokens <> 0 OR requests <> 0 UNION SELECT holder FROM open_calls";
    let mut statement = connection.prepare_cached(SQL)?;
    let rows = statement.query_map([], |row| row.get(0).map(HolderId))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn balances(connection: &Connection, terms: &[LimitTerms], now_ms: i64) -> Result<Vec<LimitBalance>, LedgerError> {
    let mut balances = Vec::new();
    for terms in terms {
        for key in keys_of(connection, &terms.key)? {
            balances.push(balance(connection, terms, key, now_ms)?);
        }
    }
    Ok(balances)
}

/// The limit itself and every split of it that was ever used.
fn keys_of(connection: &Connection, key: &LimitKey) -> Result<Vec<LimitKey>, LedgerError> {
    // '>' follows '=': the range holds exactly the keys that begin with `key=`.
    const SQL: &str = "SELECT DISTINCT key FROM accounts WHERE key >= ?1 || '=' AND key < ?1 || '>' LIMIT ?2";
    let mut statement = connection.prepare_cached(SQL)?;
    let rows = statement.query_map(params![key.0, MAX_SPLITS as i64], |row| row.get(0).map(LimitKey))?;
    let splits: Vec<LimitKey> = rows.collect::<Result<_, _>>()?;
    Ok(if splits.is_empty() { vec![key.clone()] } else { splits })
}

fn balance(connection: &Connection, terms: &LimitTerms, key: LimitKey, now_ms: i64) -> Result<LimitBalance, LedgerError> {
    let mut rows = Rows::default();
    let (from, to) = counted_buckets(terms.span, now_ms);
    let held = held_account(&key, terms.span).bucket;
    load::accounts(connection, &mut rows, &Accounts { limit: key.clone(), from, to })?;
    load::accounts(connection, &mut rows, &Accounts { limit: key.clone(), from: held, to: held })?;
    Ok(LimitBalance::of(terms, rows.standing(&key, terms.span, now_ms), key, now_ms))
}

pub fn totals(connection: &Connection, query: &CallQuery) -> Result<Vec<CallTotals>, LedgerError> {
    // One moment's ledger, so that nothing is counted as a day and as hours, or as neither.
    let snapshot = connection.unchecked_transaction()?;
    let stretch = usage::stretch(query.from_ms, query.to_ms, hours::summed(&snapshot)?.day);
    let mut sums = hours::read_days(connection, stretch.days)?;
    for hours in stretch.hours {
        sums.extend(hours::read(connection, hours)?);
    }
    for (from_ms, to_ms) in stretch.ends {
        sums.extend(totals_of_calls(connection, from_ms, to_ms)?);
    }
    sums.retain(|totals| query.route.as_ref().is_none_or(|route| *route == totals.route));
    Ok(usage::together(sums))
}

/// The same, from single calls.
pub fn totals_of_calls(connection: &Connection, from_ms: i64, to_ms: i64) -> Result<Vec<CallTotals>, LedgerError> {
    const SQL: &str = "SELECT namespace, workload, feature, team, process, agent, session, route, backend, shared, requested_model, model,
          requested_tier, tier, needed_tier, outcome,
          count(*), sum(input), sum(cached_read), sum(cache_write), sum(cache_write_long), sum(output),
          sum(cost_micro), sum(cost_pico), sum(bytes), sum(duration_ms), min(at_ms), max(at_ms),
          sum(audio_input), sum(image_input), sum(audio_output), sum(image_output), sum(web_searches)
        FROM calls WHERE at_ms >= ?1 AND at_ms < ?2
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16";
    let mut statement = connection.prepare_cached(SQL)?;
    let mut rows = statement.query([from_ms, to_ms])?;
    let mut totals = Vec::new();
    while let Some(row) = rows.next()? {
        totals.push(total(row)?);
    }
    Ok(totals)
}

fn total(row: &Row<'_>) -> Result<CallTotals, LedgerError> {
    let outcome: String = row.get(15)?;
    let (micro, pico): (i64, i64) = (row.get(22)?, row.get(23)?);
    Ok(CallTotals {
        origin: Origin { namespace: row.get(0)?, workload: row.get(1)?, ..Origin::default() },
        dimensions: dimensions(row, 2)?,
        route: row.get(7)?,
        backend: row.get(8)?,
        shared: row.get(9)?,
        requested_model: row.get(10)?,
        model: row.get(11)?,
        requested_tier: tier(row, 12)?,
        tier: tier(row, 13)?,
        needed_tier: tier(row, 14)?,
        outcome: to_outcome(&outcome)?,
        calls: count(row, 16)?,
        usage: Usage {
            input: count(row, 17)?,
            cached_read: count(row, 18)?,
            cache_write: count(row, 19)?,
            cache_write_long: count(row, 20)?,
            output: count(row, 21)?,
            audio_input: count(row, 28)?,
            image_input: count(row, 29)?,
            audio_output: count(row, 30)?,
            image_output: count(row, 31)?,
            web_searches: count(row, 32)?,
        },
        cost: PicoUsd(i128::from(micro) * 1_000_000 + i128::from(pico)),
        bytes: count(row, 24)?,
        duration_ms: count(row, 25)?,
        first_ms: row.get(26)?,
        last_ms: row.get(27)?,
    })
}

fn count(row: &Row<'_>, column: usize) -> Result<u64, LedgerError> {
    to_count(row.get(column)?)
}

fn tier(row: &Row<'_>, column: usize) -> Result<Option<Tier>, LedgerError> {
    Ok(to_tier(row.get_ref(column)?.as_str().map_err(not_text)?))
}

/// Five columns from `first` on, in the order of the dimensions.
fn dimensions(row: &Row<'_>, first: usize) -> Result<Dimensions, LedgerError> {
    Ok(to_dimensions([row.get(first)?, row.get(first + 1)?, row.get(first + 2)?, row.get(first + 3)?, row.get(first + 4)?]))
}

pub fn outcomes(connection: &Connection, from_ms: i64, to_ms: i64) -> Result<Vec<OutcomeCount>, LedgerError> {
    const SQL: &str = "SELECT outcome, namespace, workload, feature, team, process, agent, session, sum(count) FROM outcomes
        WHERE at_ms >= ?1 AND at_ms < ?2 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8";
    let mut statement = connection.prepare_cached(SQL)?;
    let mut rows = statement.query([from_ms, to_ms])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        counts.push(OutcomeCount {
            outcome: row.get(0)?,
            origin: Origin { namespace: row.get(1)?, workload: row.get(2)?, ..Origin::default() },
            dimensions: dimensions(row, 3)?,
            count: count(row, 8)?,
        });
    }
    Ok(counts)
}
