//! Writes what a batch of requests changed: each row once, however many requests changed it.

use rusqlite::{Connection, OptionalExtension, params};

use super::{calls, hours};
use crate::core::call::CallId;
use crate::core::lease::LeaseId;
use crate::ledger::encoded::encode;
use crate::ledger::machine::forget::Needed;
use crate::ledger::machine::{Account, AccountKey, Booking, Change, Ended, Lease, OpenCall, Rows};
use crate::ledger::{LedgerError, usage};

pub fn clock(connection: &Connection, seen_ms: i64) -> Result<(), LedgerError> {
    connection.prepare_cached("UPDATE clock SET seen_ms = ?1")?.execute([seen_ms])?;
    Ok(())
}

/// What `rows` says has changed. A row that is thought to be new and is not fails the transaction.
pub fn rows(connection: &Connection, rows: &Rows, needed: &Needed) -> Result<(), LedgerError> {
    for (id, change) in rows.leases.changes() {
        lease(connection, id, change)?;
    }
    for (id, change) in rows.open.changes() {
        open_call(connection, id, change)?;
    }
    for (id, change) in rows.ended.changes() {
        ended(connection, id, change)?;
    }
    for (key, change) in rows.accounts.changes() {
        account(connection, key, change, needed)?;
    }
    Ok(())
}

fn lease(connection: &Connection, id: &LeaseId, change: Change<'_, Lease>) -> Result<(), LedgerError> {
    let (sql, row) = match change {
        Change::New(row) => (
            "INSERT INTO leases (lease, seq, answer, usd, tokens, requests, reserved_usd, reserved_tokens, reserved_requests, touched_ms, holder, limits)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            row,
        ),
        Change::Changed(row) => (
            "UPDATE leases SET seq = ?2, answer = ?3, usd = ?4, tokens = ?5, requests = ?6, reserved_usd = ?7, reserved_tokens = ?8,
             reserved_requests = ?9, touched_ms = ?10 WHERE lease = ?1",
            row,
        ),
        Change::Deleted => {
            connection.prepare_cached("DELETE FROM leases WHERE lease = ?1")?.execute([&id.0])?;
            return Ok(());
        }
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement.raw_bind_parameter(1, &id.0)?;
    statement.raw_bind_parameter(2, row.seq.cast_signed())?;
    statement.raw_bind_parameter(3, encode(&row.answer)?)?;
    statement.raw_bind_parameter(4, row.outstanding.usd.0.to_string())?;
    statement.raw_bind_parameter(5, row.outstanding.tokens)?;
    statement.raw_bind_parameter(6, row.outstanding.requests)?;
    statement.raw_bind_parameter(7, row.reserved.usd.0.to_string())?;
    statement.raw_bind_parameter(8, row.reserved.tokens)?;
    statement.raw_bind_parameter(9, row.reserved.requests)?;
    statement.raw_bind_parameter(10, row.touched_ms)?;
    if matches!(change, Change::New(_)) {
        statement.raw_bind_parameter(11, &row.holder.0)?;
        statement.raw_bind_parameter(12, encode(&row.limits)?)?;
    }
    statement.raw_execute()?;
    Ok(())
}

fn open_call(connection: &Connection, id: &CallId, change: Change<'_, OpenCall>) -> Result<(), LedgerError> {
    match change {
        Change::New(call) => {
            let mut statement = connection.prepare_cached(
                "INSERT INTO open_calls (call, lease, holder, usd, tokens, requests, unleased, draft) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            let (lease, reserved) = (call.lease.as_ref().map_or("", |lease| &lease.0), call.reserved);
            let draft = call.draft.as_deref().map(encode).transpose()?;
            let unleased = encode(&call.unleased)?;
            let usd = reserved.usd.0.to_string();
            statement.execute(params![id.0, lease, call.holder.0, usd, reserved.tokens, reserved.requests, unleased, draft])?;
        }
        Change::Changed(call) => {
            let mut statement = connection.prepare_cached("UPDATE open_calls SET usd = ?2, tokens = ?3, requests = ?4 WHERE call = ?1")?;
            statement.execute(params![id.0, call.reserved.usd.0.to_string(), call.reserved.tokens, call.reserved.requests])?;
        }
        Change::Deleted => {
            connection.prepare_cached("DELETE FROM open_calls WHERE call = ?1")?.execute([&id.0])?;
        }
    }
    Ok(())
}

/// Only what is unknown of ended calls has a row of its own; that a call has ended is what its record says.
fn ended(connection: &Connection, id: &CallId, change: Change<'_, Ended>) -> Result<(), LedgerError> {
    match change {
        Change::New(Ended::Known) => {}
        Change::New(Ended::Unknown { charges }) => {
            connection.prepare_cached("INSERT INTO unknown_calls VALUES (?1, ?2)")?.execute(params![id.0, encode(charges)?])?;
        }
        Change::Changed(Ended::Unknown { charges }) => {
            connection.prepare_cached("UPDATE unknown_calls SET charges = ?2 WHERE call = ?1")?.execute(params![id.0, encode(charges)?])?;
        }
        Change::Changed(Ended::Known) | Change::Deleted => {
            connection.prepare_cached("DELETE FROM unknown_calls WHERE call = ?1")?.execute([&id.0])?;
        }
    }
    Ok(())
}

fn account(connection: &Connection, key: &AccountKey, change: Change<'_, Account>, needed: &Needed) -> Result<(), LedgerError> {
    let (sql, account) = match change {
        Change::New(account) => {
            ("INSERT INTO accounts (key, bucket, settled, outstanding, reserved, until_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)", account)
        }
        Change::Changed(account) => {
            ("UPDATE accounts SET settled = ?3, outstanding = ?4, reserved = ?5 WHERE key = ?1 AND bucket = ?2", account)
        }
        Change::Deleted => {
            connection.prepare_cached("DELETE FROM accounts WHERE key = ?1 AND bucket = ?2")?.execute(params![key.limit.0, key.bucket])?;
            return Ok(());
        }
    };
    let [settled, outstanding, reserved] = [account.settled, account.outstanding, account.reserved].map(|n| n.to_string());
    let mut statement = connection.prepare_cached(sql)?;
    if matches!(change, Change::New(_)) {
        statement.execute(params![key.limit.0, key.bucket, settled, outstanding, reserved, needed.until_ms(key)])?;
    } else {
        statement.execute(params![key.limit.0, key.bucket, settled, outstanding, reserved])?;
    }
    Ok(())
}

pub fn bookings(connection: &Connection, books: &[Booking]) -> Result<(), LedgerError> {
    let mut anew = usage::hours_of_replaced(books);
    for booking in books {
        match booking {
            Booking::Call { record, holder, at_ms, replaces } => {
                if *replaces {
                    let mut replaced = connection.prepare_cached("SELECT at_ms FROM calls WHERE id = ?1")?;
                    anew.extend(replaced.query_row([&record.id.0], |row| row.get(0)).optional()?.map(usage::hour_of));
                }
                calls::insert(connection, holder, record, *at_ms)?;
            }
            Booking::Outcome { .. } => calls::insert_outcome(connection, booking)?,
        }
    }
    hours::add(connection, &usage::by_hour(books)?)?;
    hours::sum_anew(connection, &anew)
}

/// Drops leases that have been empty since before `before_ms`.
pub fn forget(connection: &Connection, before_ms: i64) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "DELETE FROM leases WHERE usd = '0' AND tokens = 0 AND requests = 0 AND touched_ms < ?1
             AND lease NOT IN (SELECT lease FROM open_calls)",
        )?
        .execute([before_ms])?;
    Ok(())
}

/// Deletes accounts that nobody needs since `before_ms`, `most` at a time; how many.
pub fn forget_accounts(connection: &Connection, before_ms: i64, most: i64) -> Result<usize, LedgerError> {
    const SQL: &str = "DELETE FROM accounts WHERE (key, bucket) IN
        (SELECT key, bucket FROM accounts WHERE until_ms < ?1 AND outstanding = '0' AND reserved = '0' ORDER BY until_ms LIMIT ?2)";
    Ok(connection.prepare_cached(SQL)?.execute(params![before_ms, most])?)
}

/// Writes what the leases and accounts hold by the open calls and leases themselves; how many rows were not so.
pub fn recount(connection: &Connection) -> Result<usize, LedgerError> {
    let held = super::load::held(connection)?;
    let mut all = Rows::default();
    held.accounts.into_iter().for_each(|(key, account)| all.accounts.load(key, account));
    let mut reserved = std::collections::BTreeMap::new();
    for (lease, amount) in held.open {
        *reserved.entry(lease).or_insert(crate::core::amount::Amount::ZERO) += amount;
    }
    for (id, lease) in held.leases {
        let open = reserved.get(&id).copied().unwrap_or_default();
        let differs = open != lease.reserved;
        all.leases.load(id.clone(), lease);
        if let Some(row) = differs.then(|| all.leases.change(&id)).flatten() {
            row.reserved = open;
        }
    }
    let expected = Rows::held_by_leases(all.leases.iter().map(|(_, lease)| lease));
    let held: Vec<AccountKey> = all.accounts.iter().map(|(key, _)| key.clone()).collect();
    for key in held.iter().chain(expected.keys()) {
        // What nothing is held of is not in `all` yet: its settled sum is to be kept.
        if !all.accounts.contains(key) {
            let range = crate::ledger::machine::touch::Accounts { limit: key.limit.clone(), from: key.bucket, to: key.bucket };
            super::load::accounts(connection, &mut all, &range)?;
        }
        let is = all.accounts.get(key).copied().unwrap_or_default();
        let should = expected.get(key).copied().unwrap_or_default();
        let should = Account { settled: is.settled, ..should };
        if is != should {
            all.accounts.put(key.clone(), should);
        }
    }
    let wrong = all.leases.changes().count() + all.accounts.changes().count();
    let needed = Needed::by(&all, []);
    rows(connection, &all, &needed)?;
    Ok(wrong)
}
