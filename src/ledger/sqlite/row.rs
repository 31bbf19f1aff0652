//! Amounts, limits and accounts as rows.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::corrupt;
use crate::core::amount::{Amount, Unit};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::ledger::LedgerError;

/// A limit under which a lease was granted, in the window that it had then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseLimit {
    pub key: LimitKey,
    pub unit: Unit,
    pub span: Span,
}

impl LeaseLimit {
    pub fn of(terms: &LimitTerms) -> LeaseLimit {
        LeaseLimit { key: terms.key.clone(), unit: terms.unit, span: terms.span }
    }

    /// Where a charge at `now_ms` goes: the window of the lease, or, for a rolling one, the bucket of now, so that a
    /// late settlement stays in the window for its full length.
    pub fn bucket(&self, now_ms: i64) -> i64 {
        account_bucket(self.span, now_ms)
    }
}

/// The account of a charge at `now_ms`.
pub fn account_bucket(span: Span, now_ms: i64) -> i64 {
    match span {
        Span::Fixed { start_ms, .. } => start_ms,
        Span::Rolling { bucket_ms, .. } => now_ms.div_euclid(bucket_ms.max(1)) * bucket_ms.max(1),
    }
}

/// What `lease_limits.bucket` holds: leases under a rolling window count whenever they were granted.
pub fn lease_bucket(span: Span) -> i64 {
    match span {
        Span::Fixed { start_ms, .. } => start_ms,
        Span::Rolling { .. } => -1,
    }
}

/// Columns `first`, `first + 1`, `first + 2` are usd, tokens, requests.
pub fn amount(row: &Row<'_>, first: usize) -> rusqlite::Result<(String, i64, i64)> {
    Ok((row.get(first)?, row.get(first + 1)?, row.get(first + 2)?))
}

pub fn to_amount((usd, tokens, requests): (String, i64, i64)) -> Result<Amount, LedgerError> {
    Ok(Amount { usd: PicoUsd(integer(&usd)?), tokens, requests })
}

pub fn integer(text: &str) -> Result<i128, LedgerError> {
    text.parse().map_err(|_| corrupt("an amount"))
}

pub fn limits_of(connection: &Connection, lease: &str) -> Result<Vec<LeaseLimit>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT key, unit, span FROM lease_limits WHERE lease = ?1 ORDER BY key")?;
    let rows = statement.query_map([lease], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
    rows.map(|row| {
        let (key, unit, span) = row?;
        let span = serde_json::from_str(&span).map_err(|_| corrupt("a window"))?;
        Ok(LeaseLimit { key: LimitKey(key), unit: unit_of(&unit)?, span })
    })
    .collect()
}

pub fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Usd => "Usd",
        Unit::Tokens => "Tokens",
        Unit::Requests => "Requests",
    }
}

pub fn unit_of(name: &str) -> Result<Unit, LedgerError> {
    [Unit::Usd, Unit::Tokens, Unit::Requests].into_iter().find(|u| unit_name(*u) == name).ok_or_else(|| corrupt("a unit"))
}

/// Adds `amount` (may be negative) to an account.
pub fn charge(connection: &Connection, key: &LimitKey, bucket: i64, amount: i128) -> Result<(), LedgerError> {
    if amount == 0 {
        return Ok(());
    }
    let mut select = connection.prepare_cached("SELECT settled FROM accounts WHERE key = ?1 AND bucket = ?2")?;
    let settled: Option<String> = select.query_row(params![key.0, bucket], |row| row.get(0)).optional()?;
    let settled = settled.as_deref().map_or(Ok(0), integer)? + amount;
    let mut upsert =
        connection.prepare_cached("INSERT INTO accounts VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET settled = excluded.settled")?;
    upsert.execute(params![key.0, bucket, settled.to_string()])?;
    Ok(())
}

/// What was settled under `key` in `span`, as of `now_ms`.
pub fn settled(connection: &Connection, key: &LimitKey, span: Span, now_ms: i64) -> Result<i128, LedgerError> {
    // A rolling bucket counts until all of it is older than the window.
    let (from, to) = match span {
        Span::Fixed { start_ms, .. } => (start_ms, start_ms),
        Span::Rolling { length_ms, bucket_ms } => (now_ms.saturating_sub(length_ms).saturating_sub(bucket_ms) + 1, i64::MAX),
    };
    let mut statement = connection.prepare_cached("SELECT settled FROM accounts WHERE key = ?1 AND bucket BETWEEN ?2 AND ?3")?;
    let rows = statement.query_map(params![key.0, from, to], |row| row.get::<_, String>(0))?;
    rows.map(|text| integer(&text?)).sum()
}

/// What leases hold under `key` in `span`.
pub fn outstanding(connection: &Connection, key: &LimitKey, unit: Unit, span: Span) -> Result<i128, LedgerError> {
    sum_in_unit(
        connection,
        "SELECT l.usd, l.tokens, l.requests FROM lease_limits k JOIN leases l USING (lease) WHERE k.key = ?1 AND k.bucket = ?2",
        key,
        unit,
        span,
    )
}

/// The part of [`outstanding`] that open calls have reserved.
pub fn reserved(connection: &Connection, key: &LimitKey, unit: Unit, span: Span) -> Result<i128, LedgerError> {
    sum_in_unit(
        connection,
        "SELECT o.usd, o.tokens, o.requests FROM lease_limits k JOIN open_calls o USING (lease) WHERE k.key = ?1 AND k.bucket = ?2",
        key,
        unit,
        span,
    )
}

fn sum_in_unit(connection: &Connection, sql: &str, key: &LimitKey, unit: Unit, span: Span) -> Result<i128, LedgerError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![key.0, lease_bucket(span)], |row| amount(row, 0))?;
    rows.map(|row| Ok(to_amount(row?)?.in_unit(unit))).sum()
}

/// Ledger time: never earlier than any that was seen before, so that a clock that goes back opens no window again.
pub fn ledger_time(connection: &Connection, now_ms: i64) -> Result<i64, LedgerError> {
    let mut statement = connection.prepare_cached("UPDATE clock SET seen_ms = max(seen_ms, ?1) RETURNING seen_ms")?;
    Ok(statement.query_row([now_ms], |row| row.get(0))?)
}
