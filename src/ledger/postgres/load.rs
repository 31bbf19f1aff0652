//! Reads and locks the rows that a batch of requests touches.
//!
//! Unless it is alone ([`super::session`]), a transaction locks in the same order as every other (leases, open calls, unknown calls, accounts; each by key), so that replicas wait for
//! each other and do not deadlock. A row that is not there cannot be locked: two that both make it collide on its key, and the second
//! begins anew. Under a rolling window everybody first locks the account that carries what is held ([`AccountKey::ROLLING`]),
//! so that no bucket appears between reading and writing.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::Failure;
use super::session::Session;
use super::statements::Statements;
use crate::core::amount::Amount;
use crate::core::call::CallId;
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::ledger::HolderId;
use crate::ledger::encoded::{decode, integer};
use crate::ledger::known::ToRead;
use crate::ledger::machine::forget::Needed;
use crate::ledger::machine::touch::{self, Accounts, Touched};
use crate::ledger::machine::{Account, AccountKey, Ended, Lease, OpenCall, Request, Rows};

/// What `requests` may touch, and whether the transaction has begun: not when all of it was known. With `opened_is_new`, see [`Known::fill`].
///
/// [`Known::fill`]: crate::ledger::known::Known::fill
pub async fn rows(session: &Session, requests: &[&Request], seen_ms: i64, opened_is_new: bool) -> Result<(Rows, bool), Failure> {
    let Session { known, is_alone, .. } = session;
    let requests = requests.iter().copied();
    let mut reading = Reading { session, rows: Rows { seen_ms, ..Rows::default() }, is_begun: false };
    let to_read = known.fill(&mut reading.rows, &Touched::by(requests.clone()), *is_alone && opened_is_new);
    // Who is alone waits for no locks, so that their order does not matter: accounts are read with the rest, as far as they are known to
    // be touched.
    let mut early = Vec::new();
    if *is_alone && !to_read.is_empty() {
        let wanted = touch::accounts(&reading.rows, requests.clone());
        early = known.accounts(&mut reading.rows, wanted);
    }
    if !is_alone || !to_read.is_empty() {
        reading.read(&to_read, &early, &Needed::default()).await?;
    }
    let leases = known.leases_of_open_calls(&mut reading.rows);
    if !leases.is_empty() {
        let leases = ToRead { leases: leases.iter().collect(), ..ToRead::default() };
        reading.read(&leases, &[], &Needed::default()).await?;
    }
    let wanted = touch::accounts(&reading.rows, requests.clone());
    let mut wanted = known.accounts(&mut reading.rows, wanted);
    wanted.retain(|range| !early.contains(range));
    if !wanted.is_empty() {
        let needed = Needed::by(&reading.rows, requests);
        reading.read(&ToRead::default(), &wanted, &needed).await?;
    }
    Ok((reading.rows, reading.is_begun))
}

/// Rows on their way to be there.
struct Reading<'a> {
    session: &'a Session,
    rows: Rows,
    is_begun: bool,
}

impl Reading<'_> {
    /// Reads and locks, in one round trip: the server carries the statements out in this order.
    async fn read(&mut self, to_read: &ToRead<'_>, ranges: &[Accounts], needed: &Needed) -> Result<(), Failure> {
        let Session { client, statements, is_alone, .. } = self.session;
        let leases: Vec<&str> = to_read.leases.iter().map(|lease| lease.0.as_ref()).collect();
        let asked: Vec<&str> = to_read.asked.iter().map(|lease| lease.0.as_ref()).collect();
        let holders: Vec<&str> = to_read.holders.iter().map(|holder| holder.0.as_str()).collect();
        let calls: Vec<&str> = to_read.calls.iter().map(|call| call.0.as_ref()).collect();
        let begin = async { if self.is_begun { Ok(None) } else { self.session.begin().await } };
        let (clock, leases, open, unknown, ended, outcomes, accounts) = futures::try_join!(
            begin,
            find(client, &statements.leases, [&leases, &holders]),
            find(client, &statements.open_calls, [&calls, &holders, &asked]),
            find(client, &statements.unknown_calls, [&calls]),
            find(client, &statements.calls, [&calls]),
            find(client, &statements.outcomes, [&to_read.outcomes]),
            accounts(client, statements, ranges, (!is_alone).then_some(needed)),
        )?;
        self.is_begun = true;
        let rows = &mut self.rows;
        rows.seen_ms = rows.seen_ms.max(clock.unwrap_or(i64::MIN));
        for row in &leases {
            rows.leases.load(LeaseId(row.try_get::<_, &str>(0)?.into()), lease(row)?);
        }
        for row in &open {
            rows.open.load(CallId(row.try_get::<_, &str>(0)?.into()), open_call(row)?);
        }
        for row in &unknown {
            let charges: &str = row.try_get(1)?;
            rows.ended
                .load(CallId(row.try_get::<_, &str>(0)?.into()), Ended::Unknown { charges: decode(charges, "the charges of a call")? });
        }
        for row in &ended {
            rows.ended.load(CallId(row.try_get::<_, &str>(0)?.into()), Ended::Known);
        }
        for row in &outcomes {
            rows.outcomes.load(row.try_get(0)?, ());
        }
        for row in &accounts {
            let key = AccountKey { limit: LimitKey(row.try_get(0)?), bucket: row.try_get(1)? };
            rows.accounts.load(key, account(row, 2)?);
        }
        Ok(())
    }
}

/// Nothing, where no keys are looked for.
async fn find<const N: usize>(client: &Client, statement: &Statement, keys: [&Vec<&str>; N]) -> Result<Vec<Row>, Failure> {
    if keys.iter().all(|keys| keys.is_empty()) {
        return Ok(Vec::new());
    }
    Ok(client.query(statement, &keys.map(|keys| keys as &(dyn ToSql + Sync))).await?)
}

/// Accounts; who is not alone makes those that are to be locked, `needed` until then.
async fn accounts(client: &Client, statements: &Statements, wanted: &[Accounts], needed: Option<&Needed>) -> Result<Vec<Row>, Failure> {
    let (points, ranges): (Vec<&Accounts>, Vec<&Accounts>) = wanted.iter().partition(|range| range.from == range.to);
    let points_found = async {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        let limits: Vec<&str> = points.iter().map(|point| point.limit.0.as_str()).collect();
        let buckets: Vec<i64> = points.iter().map(|point| point.from).collect();
        let found = client.query(&statements.accounts, &[&limits, &buckets]).await?;
        if let Some(needed) = needed.filter(|_| !ranges.is_empty() && found.len() < points.len())
            && make_heads(client, statements, &points, &found, needed).await?
        {
            return Ok(client.query(&statements.accounts, &[&limits, &buckets]).await?);
        }
        Ok::<_, Failure>(found)
    };
    let ranges_found = async {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let limits: Vec<&str> = ranges.iter().map(|range| range.limit.0.as_str()).collect();
        let (from, to): (Vec<i64>, Vec<i64>) = ranges.iter().map(|range| (range.from, range.to)).unzip();
        Ok::<_, Failure>(client.query(&statements.account_ranges, &[&limits, &from, &to]).await?)
    };
    let (mut found, further) = if needed.is_none() {
        futures::try_join!(points_found, ranges_found)?
    } else {
        // The accounts that carry what is held are locked before the stretches are looked at.
        (points_found.await?, ranges_found.await?)
    };
    found.extend(further);
    Ok(found)
}

/// Makes the accounts that stand for a rolling window, where they are not there yet, so that they can be locked.
async fn make_heads(
    client: &Client,
    statements: &Statements,
    points: &[&Accounts],
    found: &[Row],
    needed: &Needed,
) -> Result<bool, Failure> {
    let mut there = BTreeSet::new();
    for row in found {
        there.insert((row.try_get::<_, &str>(0)?, row.try_get::<_, i64>(1)?));
    }
    let is_missing = |point: &&&Accounts| point.from == AccountKey::ROLLING && !there.contains(&(point.limit.0.as_str(), point.from));
    let missing: Vec<&LimitKey> = points.iter().filter(is_missing).map(|point| &point.limit).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    let (keys, bases): (Vec<&str>, Vec<&str>) = missing.iter().map(|key| (key.0.as_str(), key.base())).unzip();
    let head = |key: &&LimitKey| AccountKey { limit: (*key).clone(), bucket: AccountKey::ROLLING };
    let until: Vec<i64> = missing.iter().map(|key| needed.until_ms(&head(key))).collect();
    client.execute(&statements.make_heads, &[&keys, &bases, &until]).await?;
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
        lease: (!lease.is_empty()).then(|| LeaseId(lease.into())),
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
