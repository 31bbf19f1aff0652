//! Queries: they run beside the writer and see what was last committed.

use rusqlite::{Connection, Row, params};

use super::load;
use crate::core::call::CallOutcome;
use crate::core::dimensions::{Dimension, Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms};
use crate::core::money::PicoUsd;
use crate::core::policy::Tier;
use crate::core::usage::Usage;
use crate::ledger::machine::Rows;
use crate::ledger::machine::rows::{counted_buckets, held_account};
use crate::ledger::machine::touch::Accounts;
use crate::ledger::query::{CallQuery, CallTotals, LimitBalance, OutcomeCount};
use crate::ledger::{HolderId, LedgerError};

/// Values of a split limit that one query returns at most.
const MAX_SPLITS: usize = 1_000;

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
    const SQL: &str = "SELECT namespace, workload, feature, team, process, agent, session, route, backend, shared, requested_model, model,
          requested_tier, tier, needed_tier, outcome,
          count(*), sum(input), sum(cached_read), sum(cache_write), sum(cache_write_long), sum(output),
          sum(cost_micro), sum(cost_pico), sum(bytes), sum(duration_ms), min(at_ms), max(at_ms),
          sum(audio_input), sum(image_input), sum(audio_output), sum(image_output), sum(web_searches)
        FROM calls WHERE at_ms >= ?1 AND at_ms < ?2 AND (?3 IS NULL OR route = ?3)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16";
    let mut statement = connection.prepare_cached(SQL)?;
    let mut rows = statement.query(params![query.from_ms, query.to_ms, query.route])?;
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
        outcome: OUTCOMES
            .into_iter()
            .find(|o| o.name() == outcome)
            .ok_or_else(|| LedgerError::Corrupt("an outcome that is none".to_owned()))?,
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

const OUTCOMES: [CallOutcome; 5] =
    [CallOutcome::Completed, CallOutcome::Failed, CallOutcome::Interrupted, CallOutcome::Unknown, CallOutcome::Refused];

fn count(row: &Row<'_>, column: usize) -> Result<u64, LedgerError> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|_| LedgerError::Corrupt("a negative count".to_owned()))
}

fn tier(row: &Row<'_>, column: usize) -> Result<Option<Tier>, LedgerError> {
    let name: String = row.get(column)?;
    Ok(Tier::ALL.into_iter().find(|t| t.name() == name))
}

/// Five columns from `first` on, in the order of [`Dimension::ALL`].
fn dimensions(row: &Row<'_>, first: usize) -> Result<Dimensions, LedgerError> {
    let mut dimensions = Dimensions::default();
    for (index, dimension) in Dimension::ALL.into_iter().enumerate() {
        let value: String = row.get(first + index)?;
        if !value.is_empty() {
            dimensions.0.insert(dimension, value);
        }
    }
    Ok(dimensions)
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
