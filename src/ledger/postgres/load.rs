//! Reads and locks the rows that a batch of requests touches.
//!
//! Every transaction locks in the same order (leases, open calls, unknown calls, accounts; each by key), so that replicas wait for
//! each other and do not deadlock. A row that is not there cannot be locked: two that both make it collide on its key, and the second
//! begins anew. Under a rolling window everybody first locks the account that carries what is held ([`AccountKey::ROLLING`]),
//! so that no bucket appears between reading and writing.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::Failure;
use super::statements::Statements;
use crate::core::amount::Amount;
use crate::core::call::CallId;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::ledger::HolderId;
use crate::ledger::encoded::{decode, integer};
use crate::ledger::machine::touch::{self, Accounts, Touched};
use crate::ledger::machine::{Account, AccountKey, Ended, Lease, OpenCall, Request, Rows};

/// What `requests` may touch, locked until the transaction ends; begins it, too.
pub async fn rows(client: &Client, statements: &Statements, requests: &[&Request], seen_ms: i64) -> Result<Rows, Failure> {
    let touched = Touched::by(requests.iter().copied());
    let holders: Vec<&str> = touched.holders.iter().map(|holder| holder.0.as_str()).collect();
    let leases: Vec<&str> = touched.leases.iter().map(|lease| lease.0.as_str()).collect();
    let calls: Vec<&str> = touched.calls.iter().map(|call| call.0.as_str()).collect();
    let outcomes: Vec<&str> = touched.outcomes.iter().copied().collect();
    // One round trip: the server carries them out in this order.
    let ((), clock, found_leases, found_open, found_unknown, found_calls, found_outcomes) = futures::try_join!(
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED"),
        client.query_one(&statements.clock, &[]),
        find(client, &statements.leases, [&leases, &holders]),
        find(client, &statements.open_calls, [&calls, &holders]),
        find(client, &statements.unknown_calls, [&calls]),
        find(client, &statements.calls, [&calls]),
        find(client, &statements.outcomes, [&outcomes]),
    )?;
    let mut rows = Rows { seen_ms: seen_ms.max(clock.try_get(0)?), ..Rows::default() };
    for row in &found_leases {
        rows.leases.load(LeaseId(row.try_get(0)?), lease(row)?);
    }
    for row in &found_open {
        rows.open.load(CallId(row.try_get(0)?), open_call(row)?);
    }
    for row in &found_unknown {
        let charges: &str = row.try_get(1)?;
        rows.ended.load(CallId(row.try_get(0)?), Ended::Unknown { charges: decode(charges, "the charges of a call")? });
    }
    for row in &found_calls {
        rows.ended.load(CallId(row.try_get(0)?), Ended::Known);
    }
    for row in &found_outcomes {
        rows.outcomes.load(row.try_get(0)?, ());
    }
    further(client, statements, &touched, &mut rows).await?;
    accounts(client, statements, touch::accounts(&rows, requests.iter().copied()), &mut rows).await?;
    Ok(rows)
}

async fn find<const N: usize>(client: &Client, statement: &Statement, keys: [&Vec<&str>; N]) -> Result<Vec<Row>, tokio_postgres::Error> {
    client.query(statement, &keys.map(|keys| keys as &(dyn ToSql + Sync))).await
}

/// Leases of open calls, and open calls of leases that may be new; seldom any.
async fn further(client: &Client, statements: &Statements, touched: &Touched<'_>, rows: &mut Rows) -> Result<(), Failure> {
    let leases = touch::leases_of_open_calls(rows);
    if !leases.is_empty() {
        let leases: Vec<&str> = leases.iter().map(|lease| lease.0.as_str()).collect();
        for row in &client.query(&statements.leases, &[&leases, &Vec::<&str>::new()]).await? {
            rows.leases.load(LeaseId(row.try_get(0)?), lease(row)?);
        }
    }
    let new: Vec<&str> = touched.asked.iter().filter(|lease| !rows.leases.contains(lease)).map(|lease| lease.0.as_str()).collect();
    if !new.is_empty() {
        for row in &client.query(&statements.open_calls_of_leases, &[&new]).await? {
            rows.open.load(CallId(row.try_get(0)?), open_call(row)?);
        }
    }
    Ok(())
}

async fn accounts(client: &Client, statements: &Statements, touched: Vec<Accounts>, rows: &mut Rows) -> Result<(), Failure> {
    let (points, ranges): (Vec<Accounts>, Vec<Accounts>) = touched.into_iter().partition(|range| range.from == range.to);
    let limits: Vec<&str> = points.iter().map(|point| point.limit.0.as_str()).collect();
    let buckets: Vec<i64> = points.iter().map(|point| point.from).collect();
    let mut found = client.query(&statements.accounts, &[&limits, &buckets]).await?;
    if !ranges.is_empty() && found.len() < points.len() && make_heads(client, statements, &points, &found).await? {
        found = client.query(&statements.accounts, &[&limits, &buckets]).await?;
    }
    if !ranges.is_empty() {
        let limits: Vec<&str> = ranges.iter().map(|range| range.limit.0.as_str()).collect();
        let (from, to): (Vec<i64>, Vec<i64>) = ranges.iter().map(|range| (range.from, range.to)).unzip();
        found.extend(client.query(&statements.account_ranges, &[&limits, &from, &to]).await?);
    }
    for row in &found {
        let key = AccountKey { limit: LimitKey(row.try_get(0)?), bucket: row.try_get(1)? };
        rows.accounts.load(key, account(row, 2)?);
    }
    Ok(())
}

/// Makes the accounts that stand for a rolling window, where they are not there yet, so that they can be locked.
async fn make_heads(client: &Client, statements: &Statements, points: &[Accounts], found: &[Row]) -> Result<bool, Failure> {
    let mut there = BTreeSet::new();
    for row in found {
        there.insert((row.try_get::<_, &str>(0)?, row.try_get::<_, i64>(1)?));
    }
    let is_missing = |point: &&Accounts| point.from == AccountKey::ROLLING && !there.contains(&(point.limit.0.as_str(), point.from));
    let missing: Vec<&LimitKey> = points.iter().filter(is_missing).map(|point| &point.limit).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let (keys, bases): (Vec<&str>, Vec<&str>) = missing.iter().map(|key| (key.0.as_str(), key.base())).unzip();
    client.execute(&statements.make_heads, &[&keys, &bases]).await?;
    Ok(true)
}

fn lease(row: &Row) -> Result<Lease, Failure> {
    Ok(Lease {
        holder: HolderId(row.try_get(1)?),
        seq: row.try_get::<_, i64>(2)?.cast_unsigned(),
        answer: decode(row.try_get(3)?, "an answer")?,
        limits: decode(row.try_get(4)?, "the limits of a lease")?,
        touched_ms: row.try_get(5)?,
        outstanding: amount(row, 6)?,
        reserved: amount(row, 9)?,
    })
}

fn open_call(row: &Row) -> Result<OpenCall, Failure> {
    let lease: String = row.try_get(2)?;
    let draft: Option<&str> = row.try_get(7)?;
    Ok(OpenCall {
        holder: HolderId(row.try_get(1)?),
        lease: (!lease.is_empty()).then_some(LeaseId(lease)),
        reserved: amount(row, 3)?,
        unleased: decode(row.try_get(6)?, "the limits of an open call")?,
        draft: draft.map(|text| decode(text, "the draft of a record")).transpose()?,
    })
}

/// Columns `first`, `first + 1`, `first + 2` are usd, tokens, requests.
fn amount(row: &Row, first: usize) -> Result<Amount, Failure> {
    let usd = PicoUsd(integer(row.try_get(first)?)?);
    Ok(Amount { usd, tokens: row.try_get(first + 1)?, requests: row.try_get(first + 2)? })
}

/// Columns `first`, `first + 1`, `first + 2` are settled, outstanding, reserved.
pub fn account(row: &Row, first: usize) -> Result<Account, Failure> {
    let column = |index: usize| -> Result<i128, Failure> { Ok(integer(row.try_get(first + index)?)?) };
    Ok(Account { settled: column(0)?, outstanding: column(1)?, reserved: column(2)? })
}
