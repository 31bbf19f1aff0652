//! Ledgers that store what they know, under the same histories.

use std::path::PathBuf;
use std::sync::Arc;

use spendkeeper::core::limit::LimitTerms;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger};

use crate::world::ledger::Books;

/// The SQLite adapter, on a file of its own. An operator that restarts opens it again.
pub struct Sqlite {
    runtime: Arc<tokio::runtime::Runtime>,
    path: PathBuf,
    /// `None` between two processes.
    ledger: Option<SqliteLedger>,
    _directory: tempfile::TempDir,
}

impl Sqlite {
    pub fn new(runtime: &Arc<tokio::runtime::Runtime>) -> Sqlite {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        Sqlite { runtime: Arc::clone(runtime), ledger: Some(open(&path)), path, _directory: directory }
    }

    fn ledger(&self) -> &SqliteLedger {
        self.ledger.as_ref().expect("it is open but for the moment of a restart")
    }
}

fn open(path: &std::path::Path) -> SqliteLedger {
    SqliteLedger::open(path).expect("a ledger")
}

impl Books for Sqlite {
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
        self.ledger = Some(open(&self.path));
    }
}
