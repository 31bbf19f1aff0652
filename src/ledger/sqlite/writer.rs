//! The thread that owns the writing connection: takes what is queued, carries it out in one transaction, then answers.

use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::{leases, settle};
use crate::ledger::{Acquire, Decision, Entry, HolderId, LedgerError, Reconciled};

/// Requests in one transaction at most, so that the first of them does not wait for ever.
const BATCH: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, LedgerError>>;

/// What the writer is asked to do.
pub enum Request {
    Acquire { request: Box<Acquire>, answer: Answer<Decision> },
    Report { holder: HolderId, entries: Vec<Entry>, now_ms: i64, answer: Answer<()> },
    HolderGone { holder: HolderId, now_ms: i64, answer: Answer<Reconciled> },
}

/// An answer that waits for its transaction to be on disk.
type Pending = Box<dyn FnOnce(Option<&LedgerError>)>;

/// Serves requests until every sender is gone.
pub fn run(mut connection: Connection, mut queue: mpsc::Receiver<Request>, changed: &watch::Sender<u64>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        let mut pending = Vec::with_capacity(batch.len());
        let committed = commit(&mut connection, batch.drain(..), &mut pending);
        for answer in pending {
            answer(committed.as_ref().err());
        }
        changed.send_modify(|count| *count += 1);
    }
    // Leaves one file behind rather than three.
    let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

fn commit(connection: &mut Connection, batch: impl Iterator<Item = Request>, pending: &mut Vec<Pending>) -> Result<(), LedgerError> {
    let mut transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for request in batch {
        pending.push(carry_out(&mut transaction, request));
    }
    Ok(transaction.commit()?)
}

fn carry_out(transaction: &mut Transaction<'_>, request: Request) -> Pending {
    match request {
        Request::Acquire { request, answer } => pend(in_savepoint(transaction, |c| leases::acquire(c, &request)), answer),
        Request::Report { holder, entries, now_ms, answer } => {
            pend(in_savepoint(transaction, |c| settle::report(c, &holder, &entries, now_ms)), answer)
        }
        Request::HolderGone { holder, now_ms, answer } => {
            pend(in_savepoint(transaction, |c| settle::holder_gone(c, &holder, now_ms)), answer)
        }
    }
}

/// One request's failure undoes that request alone, unless SQLite gave up the whole transaction (the disk is full, the file
/// cannot be read): then nothing more is done in it, and everybody is told so.
fn in_savepoint<T>(
    transaction: &mut Transaction<'_>,
    operation: impl FnOnce(&Connection) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    if transaction.is_autocommit() {
        return Err(LedgerError::Storage("the transaction was given up; see the operator's log for why".to_owned()));
    }
    let savepoint = transaction.savepoint()?;
    let result = operation(&savepoint).and_then(|result| Ok((result, savepoint.commit()?)));
    match result {
        Ok((result, ())) => Ok(result),
        Err(error) => {
            if transaction.is_autocommit() {
                tracing::error!(%error, "SQLite gave up a transaction; what was asked of the ledger in it is undone and will be asked again");
            }
            Err(error)
        }
    }
}

fn pend<T: 'static>(result: Result<T, LedgerError>, answer: Answer<T>) -> Pending {
    Box::new(move |failure| {
        let result = match failure {
            Some(error) => Err(LedgerError::Storage(error.to_string())),
            None => result,
        };
        // Whoever asked may have gone; what was done stays done, and is idempotent when asked again.
        let _ = answer.send(result);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("a count")
    }

    fn insert(connection: &Connection) -> Result<(), LedgerError> {
        connection.execute("INSERT INTO t VALUES (1)", [])?;
        Ok(())
    }

    #[test]
    fn one_failure_undoes_one_request_but_a_transaction_that_is_given_up_undoes_all() {
        let mut connection = Connection::open_in_memory().expect("a connection");
        connection.execute_batch("CREATE TABLE t (x)").expect("a table");
        let mut transaction = connection.transaction().expect("a transaction");
        in_savepoint(&mut transaction, insert).expect("done");
        let failed = in_savepoint(&mut transaction, |c| insert(c).and(Err::<(), _>(LedgerError::Stopped)));
        assert!(failed.is_err());
        transaction.commit().expect("committed");
        assert_eq!(count(&connection), 1);

        let mut transaction = connection.transaction().expect("a transaction");
        in_savepoint(&mut transaction, insert).expect("done");
        // What SQLite itself does when the disk is full.
        let given_up = in_savepoint(&mut transaction, |c| {
            c.execute_batch("ROLLBACK").map_err(LedgerError::from).and(Err::<(), _>(LedgerError::Stopped))
        });
        assert!(given_up.is_err());
        assert!(in_savepoint(&mut transaction, insert).is_err(), "nothing is done outside of a transaction");
        assert!(transaction.commit().is_err(), "nobody is told that it was done");
        assert_eq!(count(&connection), 1);
    }
}
