//! Ledgers that store what they know, under the same histories.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use spendkeeper::core::limit::LimitTerms;
use spendkeeper::ledger::postgres::PostgresLedger;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger, Options};
use tokio::runtime::Runtime;

use crate::server::Server;
use crate::world::ledger::Books;

/// A place where an adapter finds again what it stored.
pub trait Place {
    type Adapter: Ledger;

    async fn open(&self) -> Self::Adapter;
}

/// A SQLite file of its own.
pub struct File {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// A schema of its own on a PostgreSQL server.
pub struct Schema {
    url: String,
}

/// An adapter at its place. An operator that restarts opens it again.
pub struct Stored<P: Place> {
    runtime: Arc<Runtime>,
    place: P,
    /// `None` between two processes.
    ledger: Option<P::Adapter>,
}

impl Place for File {
    type Adapter = SqliteLedger;

    async fn open(&self) -> SqliteLedger {
        SqliteLedger::open(&self.path).expect("a ledger")
    }
}

impl Place for Schema {
    type Adapter = PostgresLedger;

    async fn open(&self) -> PostgresLedger {
        PostgresLedger::open(&self.url, Options::default()).await.expect("a ledger")
    }
}

impl File {
    pub fn new() -> File {
        let directory = tempfile::tempdir().expect("a directory");
        File { path: directory.path().join("ledger.db"), _directory: directory }
    }
}

impl Schema {
    pub fn on(server: &Server, runtime: &Runtime) -> Schema {
        static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("history_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let made = async {
            let (client, connection) = tokio_postgres::connect(&server.url("public"), tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            client.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
            connection.abort();
            Ok::<_, tokio_postgres::Error>(())
        };
        runtime.block_on(made).expect("a schema");
        Schema { url: server.url(&name) }
    }
}

impl<P: Place> Stored<P> {
    pub fn at(place: P, runtime: &Arc<Runtime>) -> Stored<P> {
        Stored { ledger: Some(runtime.block_on(place.open())), runtime: Arc::clone(runtime), place }
    }

    fn ledger(&self) -> &P::Adapter {
        self.ledger.as_ref().expect("it is open but for the moment of a restart")
    }
}

impl<P: Place> Books for Stored<P> {
    fn acquire(&mut self, request: Acquire) -> Decision {
        self.runtime.block_on(self.ledger().acquire(request)).expect("an answer")
    }

    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) {
        self.runtime.block_on(self.ledger().report(holder, entries, now_ms)).expect("it is taken");
    }

    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64) {
        self.runtime.block_on(self.ledger().holder_gone(holder, now_ms)).expect("it is reconciled");
    }

    fn standing(&self, terms: &LimitTerms) -> (i128, i128) {
        let balances = self.runtime.block_on(self.ledger().balances(std::slice::from_ref(terms), 0)).expect("balances");
        balances.iter().find(|balance| balance.key == terms.key).map_or((0, 0), |balance| (balance.settled, balance.outstanding))
    }

    fn reopen(&mut self) {
        drop(self.ledger.take());
        self.ledger = Some(self.runtime.block_on(self.place.open()));
    }
}
