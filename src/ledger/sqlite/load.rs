//! Reads the rows that a batch of requests touches.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row;
use crate::core::amount::Amount;
use crate::core::call::CallId;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::ledger::encoded::{decode, integer};
use crate::ledger::known::Known;
use crate::ledger::machine::touch::{self, Touched};
use crate::ledger::machine::{Account, AccountKey, Ended, Lease, OpenCall, Request, Rows};
use crate::ledger::{HolderId, LedgerError};

/// What `requests` may touch: what is known of it, and the rest read.
pub fn rows<'a>(connection: &Connection, known: &Known, requests: impl Iterator<Item = &'a Request> + Clone) -> Result<Rows, LedgerError> {
    let mut rows = Rows { seen_ms: clock(connection)?, ..Rows::default() };
    let touched = Touched::by(requests.clone());
    let to_read = known.fill(&mut rows, &touched, false);
    for lease in &to_read.leases {
        leases(connection, &mut rows, "lease = ?1", &lease.0)?;
    }
    for holder in &to_read.holders {
        leases(connection, &mut rows, "holder = ?1", &holder.0)?;
        open_calls(connection, &mut rows, "holder = ?1", &holder.0)?;
    }
    for call in &to_read.calls {
        if is_there(connection, call)? {
            open_calls(connection, &mut rows, "call = ?1", &call.0)?;
            ended(connection, &mut rows, call)?;
        }
    }
    for lease in known.leases_of_open_calls(&mut rows) {
        leases(connection, &mut rows, "lease = ?1", &lease.0)?;
    }
    for lease in &to_read.asked {
        if !rows.leases.contains(lease) {
            open_calls(connection, &mut rows, "lease = ?1", &lease.0)?;
        }
    }
    for id in &to_read.outcomes {
        if connection.prepare_cached("SELECT 1 FROM outcomes WHERE id = ?1")?.exists([id])? {
            rows.outcomes.load((*id).to_owned(), ());
        }
    }
    let wanted = touch::accounts(&rows, requests);
    for range in known.accounts(&mut rows, wanted) {
        accounts(connection, &mut rows, &range)?;
    }
    Ok(rows)
}

/// Changes whenever another connection has written.
pub fn version(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

/// Most calls are new: one statement says so.
fn is_there(connection: &Connection, call: &CallId) -> Result<bool, LedgerError> {
    const SQL: &str = "SELECT 1 FROM open_calls WHERE call = ?1 UNION ALL SELECT 1 FROM calls WHERE id = ?1
        UNION ALL SELECT 1 FROM unknown_calls WHERE call = ?1";
    Ok(connection.prepare_cached(SQL)?.exists([&call.0])?)
}

/// Ledger time, as it was last written down.
pub fn clock(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection.prepare_cached("SELECT seen_ms FROM clock")?.query_row([], |row| row.get(0))?)
}

fn leases(connection: &Connection, rows: &mut Rows, condition: &str, value: &str) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT lease, holder, seq, answer, limits, touched_ms, usd, tokens, requests, reserved_usd, reserved_tokens, reserved_requests
         FROM leases WHERE {condition}"
    ))?;
    let mut found = statement.query([value])?;
    while let Some(row) = found.next()? {
        rows.leases.load(LeaseId(row.get(0)?), lease(row)?);
    }
    Ok(())
}

fn lease(row: &Row<'_>) -> Result<Lease, LedgerError> {
    Ok(Lease {
        holder: HolderId(row.get(1)?),
        seq: row.get::<_, i64>(2)?.cast_unsigned(),
        answer: decode(row.get_ref(3)?.as_str().map_err(row::not_text)?, "an answer")?,
        limits: decode(row.get_ref(4)?.as_str().map_err(row::not_text)?, "the limits of a lease")?,
        touched_ms: row.get(5)?,
        outstanding: row::amount(row, 6)?,
        reserved: row::amount(row, 9)?,
    })
}

fn open_calls(connection: &Connection, rows: &mut Rows, condition: &str, value: &str) -> Result<(), LedgerError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT call, holder, lease, usd, tokens, requests, unleased, draft FROM open_calls WHERE {condition}"))?;
    let mut found = statement.query([value])?;
    while let Some(row) = found.next()? {
        let lease: String = row.get(2)?;
        let draft: Option<String> = row.get(7)?;
        let call = OpenCall {
            holder: HolderId(row.get(1)?),
            lease: (!lease.is_empty()).then(|| LeaseId(lease.into())),
            reserved: row::amount(row, 3)?,
            unleased: decode(row.get_ref(6)?.as_str().map_err(row::not_text)?, "the limits of an open call")?,
            draft: draft.map(|text| decode(&text, "the draft of a record")).transpose()?,
        };
        rows.open.load(CallId(row.get(0)?), call);
    }
    Ok(())
}

fn ended(connection: &Connection, rows: &mut Rows, call: &CallId) -> Result<(), LedgerError> {
    let mut unknown = connection.prepare_cached("SELECT charges FROM unknown_calls WHERE call = ?1")?;
    let charges: Option<String> = unknown.query_row([&call.0], |row| row.get(0)).optional()?;
    if let Some(charges) = charges {
        rows.ended.load(call.clone(), Ended::Unknown { charges: decode(&charges, "the charges of a call")? });
    } else if connection.prepare_cached("SELECT 1 FROM calls WHERE id = ?1")?.exists([&call.0])? {
        rows.ended.load(call.clone(), Ended::Known);
    }
    Ok(())
}

/// Accounts of a limit, by bucket.
pub fn accounts(connection: &Connection, rows: &mut Rows, range: &touch::Accounts) -> Result<(), LedgerError> {
    let mut statement = connection
        .prepare_cached("SELECT bucket, settled, outstanding, reserved FROM accounts WHERE key = ?1 AND bucket BETWEEN ?2 AND ?3")?;
    let mut found = statement.query(params![range.limit.0, range.from, range.to])?;
    while let Some(row) = found.next()? {
        let key = AccountKey { limit: range.limit.clone(), bucket: row.get(0)? };
        rows.accounts.load(key, account(row, 1)?);
    }
    Ok(())
}

/// Columns `first`, `first + 1`, `first + 2` are settled, outstanding, reserved.
fn account(row: &Row<'_>, first: usize) -> Result<Account, LedgerError> {
    let column = |index: usize| integer(row.get_ref(first + index)?.as_str().map_err(row::not_text)?);
    Ok(Account { settled: column(0)?, outstanding: column(1)?, reserved: column(2)? })
}

/// Accounts that say that something is held, by every lease there is; and what the leases say.
pub struct Held {
    pub accounts: Vec<(AccountKey, Account)>,
    pub leases: Vec<(LeaseId, Lease)>,
    /// What the open calls of each lease have reserved.
    pub open: Vec<(LeaseId, Amount)>,
}

/// Leases that hold something, or say that something is reserved, or that open calls draw on.
const HOLDING: &str = "usd <> ?1 OR tokens <> 0 OR requests <> 0 OR reserved_usd <> ?1 OR reserved_tokens <> 0 OR reserved_requests <> 0
    OR lease IN (SELECT lease FROM open_calls)";

/// All that is held.
pub fn held(connection: &Connection) -> Result<Held, LedgerError> {
    let mut held = Held { accounts: Vec::new(), leases: Vec::new(), open: Vec::new() };
    let mut statement = connection
        .prepare("SELECT key, bucket, settled, outstanding, reserved FROM accounts WHERE outstanding <> '0' OR reserved <> '0'")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        held.accounts.push((AccountKey { limit: LimitKey(row.get(0)?), bucket: row.get(1)? }, account(row, 2)?));
    }
    let mut all = Rows::default();
    leases(connection, &mut all, HOLDING, "0")?;
    held.leases.extend(all.leases.iter().map(|(id, lease)| (id.clone(), lease.clone())));
    let mut statement = connection.prepare("SELECT lease, usd, tokens, requests FROM open_calls WHERE lease <> ''")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        held.open.push((LeaseId(row.get(0)?), row::amount(row, 1)?));
    }
    Ok(held)
}
