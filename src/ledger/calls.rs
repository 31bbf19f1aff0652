//! Single calls as they were recorded, a page at a time: for exports, which must hold neither all of them in memory nor anybody up.
//!
//! Read on a connection of its own that cannot write, so that another process than the ledger's may do so.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};
use tokio_postgres::Client;

use super::LedgerError;
use super::columns::{NUMBERS, TEXTS};
use super::encoded::integer;
use super::postgres::{self, LONG};
use crate::core::money::PicoUsd;

/// Calls of one page at most.
const PAGE: i64 = 1_000;

/// A call, as its row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCall {
    /// In the order of [`TEXTS`]; empty for what is not known.
    pub texts: [String; TEXTS.len()],
    /// In the order of [`NUMBERS`]; `None` for what is not known.
    pub numbers: [Option<i64>; NUMBERS.len()],
    pub cost: PicoUsd,
}

impl StoredCall {
    /// When it ended by the ledger's clock, Unix milliseconds.
    pub fn at_ms(&self) -> i64 {
        self.numbers[0].unwrap_or_default()
    }

    pub fn id(&self) -> &str {
        &self.texts[0]
    }
}

/// Reads calls that ended in a stretch of time, in the order in which they did. Calls that are recorded or deleted meanwhile may be there or not;
/// each is there once.
pub struct Calls {
    source: Source,
    /// Those after this time and identity, before the other time.
    after: (i64, String),
    to_ms: i64,
}

enum Source {
    Sqlite(Connection),
    Postgres(Client),
}

impl Calls {
    /// Of the ledger at `address`, which is as [`super::open`] takes it, those that ended in `from_ms ≤ t < to_ms`. `ca` as in
    /// [`super::Options`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn open(address: &str, ca: Option<&Path>, from_ms: i64, to_ms: i64) -> Result<Calls, LedgerError> {
        let source = if super::is_shared(address) {
            Source::Postgres(postgres::connect_to_read(address, ca).await?)
        } else {
            let unusable = |e: rusqlite::Error| LedgerError::Open { path: address.to_owned(), reason: e.to_string() };
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(address, flags).map_err(unusable)?;
            connection.busy_timeout(LONG).map_err(unusable)?;
            Source::Sqlite(connection)
        };
        Ok(Calls { source, after: (from_ms, String::new()), to_ms })
    }

    /// The next of them; none when there are no more.
    ///
    /// # Errors
    /// When they cannot be read. The same page is next then.
    pub async fn page(&mut self) -> Result<Vec<StoredCall>, LedgerError> {
        let page = match &self.source {
            Source::Sqlite(connection) => from_sqlite(connection, &self.after, self.to_ms)?,
            Source::Postgres(client) => from_postgres(client, &self.after, self.to_ms).await?,
        };
        if let Some(last) = page.last() {
            self.after = (last.at_ms(), last.id().to_owned());
        }
        Ok(page)
    }
}

/// Columns of a call, `cost` being how it is selected; which calls, by parameters named so.
fn select(cost: &str, [at_ms, id, to_ms, most]: [&str; 4]) -> String {
    let columns = [TEXTS.as_slice(), &NUMBERS].concat().join(", ");
    format!(
        "SELECT {columns}, {cost} FROM calls WHERE at_ms >= {at_ms} AND at_ms < {to_ms} AND (at_ms > {at_ms} OR id > {id})
         ORDER BY at_ms, id LIMIT {most}"
    )
}

fn from_sqlite(connection: &Connection, (at_ms, id): &(i64, String), to_ms: i64) -> Result<Vec<StoredCall>, LedgerError> {
    let mut statement = connection.prepare_cached(&select("cost_micro, cost_pico", ["?1", "?2", "?3", "?4"]))?;
    let mut rows = statement.query(params![at_ms, id, to_ms, PAGE])?;
    let mut calls = Vec::new();
    while let Some(row) = rows.next()? {
        let mut call = StoredCall { texts: Default::default(), numbers: Default::default(), cost: PicoUsd::ZERO };
        for (index, text) in call.texts.iter_mut().enumerate() {
            *text = row.get(index)?;
        }
        for (index, number) in call.numbers.iter_mut().enumerate() {
            *number = row.get(TEXTS.len() + index)?;
        }
        let first = TEXTS.len() + NUMBERS.len();
        let (micro, pico): (i64, i64) = (row.get(first)?, row.get(first + 1)?);
        call.cost = PicoUsd(i128::from(micro) * 1_000_000 + i128::from(pico));
        calls.push(call);
    }
    Ok(calls)
}

async fn from_postgres(client: &Client, (at_ms, id): &(i64, String), to_ms: i64) -> Result<Vec<StoredCall>, LedgerError> {
    let sql = select("cost::text", ["$1", "$2", "$3", "$4"]);
    let mut calls = Vec::new();
    for row in postgres::in_time(async { Ok(client.query(&sql, &[at_ms, id, &to_ms, &PAGE]).await?) }).await? {
        let unreadable = |e: tokio_postgres::Error| LedgerError::Corrupt(e.to_string());
        let mut call = StoredCall { texts: Default::default(), numbers: Default::default(), cost: PicoUsd::ZERO };
        for (index, text) in call.texts.iter_mut().enumerate() {
            *text = row.try_get(index).map_err(unreadable)?;
        }
        for (index, number) in call.numbers.iter_mut().enumerate() {
            *number = row.try_get(TEXTS.len() + index).map_err(unreadable)?;
        }
        call.cost = PicoUsd(integer(row.try_get(TEXTS.len() + NUMBERS.len()).map_err(unreadable)?)?);
        calls.push(call);
    }
    Ok(calls)
}
