//! The ledger in PostgreSQL, which several replicas of the operator may write at once.
//!
//! As in SQLite, a transaction is a batch of a replica's requests: it locks the rows that they touch, lets the machine apply them, and
//! writes what changed. Why locks, and what of SQL is used: `docs/decisions/0020-postgresql.md`.

mod columns;
mod connect;
mod hours;
mod line;
mod load;
mod notes;
mod read;
mod save;
mod schema;
mod session;
mod statements;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::query::{CallQuery, CallTotals, LimitBalance, OutcomeCount};
use super::queue::Queue;
use super::{Acquire, Decision, Entry, HolderId, Ledger, LedgerError, Note, Options, Reconciled};
use crate::core::limit::LimitTerms;
pub use connect::LONG;
use connect::{Database, Failure};
use writer::Writer;

/// Replicas that start at once may meet on the schema.
const ATTEMPTS_TO_PREPARE: u32 = 10;

/// The PostgreSQL adapter of the [`Ledger`] port.
pub struct PostgresLedger {
    queue: Queue,
    database: Database,
    /// For queries.
    reader: Connection,
    /// For notes, which must not wait for a query.
    board: Connection,
    changes: watch::Receiver<u64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl PostgresLedger {
    /// Opens the ledger at `url` (`postgres://user:password@host:port/database?…`), and creates its tables or brings them up to date.
    ///
    /// # Errors
    /// When the database cannot be used, or was written by a newer release.
    pub async fn open(url: &str, options: Options) -> Result<PostgresLedger, LedgerError> {
        let database = Database::parse(url, options.ca.as_deref())?;
        let unusable = |failure: Failure| match LedgerError::from(failure) {
            LedgerError::Unreachable(reason) | LedgerError::Storage(reason) => LedgerError::Open { path: database.name.clone(), reason },
            error => error,
        };
        let client = database.connect_for_long().await.map_err(unusable)?;
        for attempt in 1.. {
            match schema::prepare(&client, &database.name).await {
                Ok(()) => break,
                Err(Failure::Conflict(_)) if attempt < ATTEMPTS_TO_PREPARE => sleep(Duration::from_millis(50)).await,
                Err(failure) => return Err(unusable(failure)),
            }
        }
        let (queue, requests) = Queue::new();
        let (changed, changes) = watch::channel(0);
        let writer = tokio::spawn(Writer::new(database.clone(), options).run(requests, changed));
        let (reader, board, writer) = (Connection::new(Some(client)), Connection::new(None), Mutex::new(Some(writer)));
        Ok(PostgresLedger { queue, database, reader, board, changes, writer })
    }

    async fn reader(&self) -> Result<Arc<Client>, Failure> {
        self.reader.client(&self.database).await
    }

    async fn board(&self) -> Result<Arc<Client>, Failure> {
        self.board.client(&self.database).await
    }
}

/// A connection beside the writer's; made when there is none, or when the last one is lost.
struct Connection(Mutex<Option<Arc<Client>>>);

impl Connection {
    fn new(client: Option<Client>) -> Connection {
        Connection(Mutex::new(client.map(Arc::new)))
    }

    async fn client(&self, database: &Database) -> Result<Arc<Client>, Failure> {
        let mut known = self.0.lock().await;
        match known.as_ref().filter(|client| !client.is_closed()) {
            Some(client) => Ok(Arc::clone(client)),
            None => Ok(Arc::clone(known.insert(Arc::new(database.connect_for_long().await?)))),
        }
    }
}

/// A connection on which nothing can be written.
///
/// # Errors
/// When the database cannot be reached.
pub async fn connect_to_read(url: &str, ca: Option<&Path>) -> Result<Client, LedgerError> {
    let read_only = async |client: Client| {
        client.batch_execute("SET default_transaction_read_only = on").await?;
        Ok(client)
    };
    let client = Database::parse(url, ca)?.connect_for_long().await?;
    in_time(read_only(client)).await
}

/// A query that ends in time, one way or the other.
pub async fn in_time<T>(query: impl Future<Output = Result<T, Failure>>) -> Result<T, LedgerError> {
    match timeout(LONG, query).await {
        Ok(read) => read.map_err(LedgerError::from),
        Err(_) => Err(LedgerError::Unreachable("the database did not answer in time".to_owned())),
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn acquire(&self, request: Acquire) -> Result<Decision, LedgerError> {
        self.queue.acquire(request).await
    }

    async fn report(&self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) -> Result<Vec<bool>, LedgerError> {
        self.queue.report(holder, entries, now_ms).await
    }

    async fn holder_gone(&self, holder: &HolderId, now_ms: i64) -> Result<Reconciled, LedgerError> {
        self.queue.holder_gone(holder, now_ms).await
    }

    async fn holders(&self) -> Result<Vec<HolderId>, LedgerError> {
        in_time(async { read::holders(&*self.reader().await?).await }).await
    }

    async fn balances(&self, terms: &[LimitTerms], now_ms: i64) -> Result<Vec<LimitBalance>, LedgerError> {
        in_time(async { read::balances(&*self.reader().await?, terms, now_ms).await }).await
    }

    async fn totals(&self, query: &CallQuery) -> Result<Vec<CallTotals>, LedgerError> {
        in_time(async { read::totals(&*self.reader().await?, query).await }).await
    }

    async fn outcomes(&self, from_ms: i64, to_ms: i64) -> Result<Vec<OutcomeCount>, LedgerError> {
        in_time(async { read::outcomes(&*self.reader().await?, from_ms, to_ms).await }).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    async fn tell(&self, note: &Note) -> Result<(), LedgerError> {
        in_time(async { notes::write(&*self.board().await?, note).await }).await
    }

    async fn told(&self, reader: &str, known: &BTreeMap<String, i64>) -> Result<Vec<(Note, i64)>, LedgerError> {
        in_time(async { notes::read(&*self.board().await?, reader, known).await }).await
    }

    async fn close(&self) {
        self.queue.close();
        if let Some(writer) = self.writer.lock().await.take() {
            // A writer that panicked has nothing left to finish.
            let _ = writer.await;
        }
    }
}
