//! The promises of the port, kept on a file.

use super::*;
use crate::ledger::conformance::{Home, keeps_promises};

struct Directory(tempfile::TempDir);

#[async_trait]
impl Home for Directory {
    async fn new() -> Directory {
        Directory(tempfile::tempdir().expect("a directory"))
    }

    async fn open(&self) -> Arc<dyn Ledger> {
        Arc::new(SqliteLedger::open(&self.0.path().join("ledger.db")).expect("a ledger"))
    }
}

keeps_promises!(Directory, cfg(test));

#[tokio::test]
async fn a_file_from_a_newer_release_is_refused() {
    let home = Directory::new().await;
    home.open().await.close().await;
    let path = home.0.path().join("ledger.db");
    Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("a version");
    assert!(matches!(SqliteLedger::open(&path), Err(LedgerError::NewerSchema { found: 99, .. })));
}
