//! Columns that more than one statement reads.

use rusqlite::Row;
use rusqlite::types::FromSqlError;

use crate::core::amount::Amount;
use crate::core::money::PicoUsd;
use crate::ledger::LedgerError;
use crate::ledger::encoded::integer;

/// Columns `first`, `first + 1`, `first + 2` are usd, tokens, requests.
pub fn amount(row: &Row<'_>, first: usize) -> Result<Amount, LedgerError> {
    let usd = integer(row.get_ref(first)?.as_str().map_err(not_text)?)?;
    Ok(Amount { usd: PicoUsd(usd), tokens: row.get(first + 1)?, requests: row.get(first + 2)? })
}

/// A column that should be text.
pub fn not_text(_: FromSqlError) -> LedgerError {
    LedgerError::Corrupt("a column that is no text".to_owned())
}
