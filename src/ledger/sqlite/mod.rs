//! The embedded ledger: one SQLite file, one thread that writes it.
//!
//! A transaction is a batch of the queue's requests: it reads the rows that they touch, lets the machine apply them, and writes
//! what changed. Each answers only after its transaction is on disk.

mod calls;
mod hours;
mod load;
mod read;
mod row;
mod save;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use super::query::{CallQuery, CallTotals, LimitBalance, OutcomeCount};
use super::queue::Queue;
use super::{Acquire, Decision, Entry, HolderId, Ledger, LedgerError, Options, Reconciled};
use crate::core::limit::LimitTerms;

/// The SQLite adapter of the [`Ledger`] port.
pub struct SqliteLedger {
    queue: Queue,
    reader: Arc<Mutex<Connection>>,
    changes: watch::Receiver<u64>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl SqliteLedger {
    /// Opens or creates the ledger at `path`.
    ///
    /// # Errors
    /// When the file cannot be used, or was written by a newer release.
    pub fn open(path: &Path) -> Result<SqliteLedger, LedgerError> {
        SqliteLedger::open_with(path, Options::default())
    }

    /// The same, with `options` other than that everything is kept for ever.
    ///
    /// # Errors
    /// As [`SqliteLedger::open`].
    pub fn open_with(path: &Path, options: Options) -> Result<SqliteLedger, LedgerError> {
        let name = path.display().to_string();
        let unusable = |reason: String| LedgerError::Open { path: name.clone(), reason };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|e| unusable(e.to_string()))?;
        }
        let mut writer = Connection::open(path).map_err(|e| unusable(e.to_string()))?;
        schema::prepare(&mut writer, &name)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags).map_err(|e| unusable(e.to_string()))?;
        schema::settle_down(&reader).map_err(|e| unusable(e.to_string()))?;
        let (queue, requests) = Queue::new();
        let (changed, changes) = watch::channel(0);
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer::run(writer, requests, &changed, &options))
            .map_err(|e| unusable(e.to_string()))?;
        Ok(SqliteLedger { queue, reader: Arc::new(Mutex::new(reader)), changes, writer: Mutex::new(Some(writer)) })
    }

    /// Runs a query beside the writer, off the async threads.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let reader = Arc::clone(&self.reader);
        let run = move || query(&reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await.map_err(|_| LedgerError::Stopped)?
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
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
        self.read(read::holders).await
    }

    async fn balances(&self, terms: &[LimitTerms], now_ms: i64) -> Result<Vec<LimitBalance>, LedgerError> {
        let terms = terms.to_vec();
        self.read(move |connection| read::balances(connection, &terms, now_ms)).await
    }

    async fn totals(&self, query: &CallQuery) -> Result<Vec<CallTotals>, LedgerError> {
        let query = query.clone();
        self.read(move |connection| read::totals(connection, &query)).await
    }

    async fn outcomes(&self, from_ms: i64, to_ms: i64) -> Result<Vec<OutcomeCount>, LedgerError> {
        self.read(move |connection| read::outcomes(connection, from_ms, to_ms)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    async fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to finish.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> LedgerError {
        use rusqlite::ErrorCode;
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => LedgerError::NoSpace(reason),
            Some(ErrorCode::ReadOnly) => LedgerError::ReadOnly(reason),
            // A row that was thought to be new and is not, or that the schema does not allow.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => LedgerError::Corrupt(reason),
            Some(_) => LedgerError::Storage(reason),
            // A value of another type than the schema's.
            None => LedgerError::Corrupt(reason),
        }
    }
}
