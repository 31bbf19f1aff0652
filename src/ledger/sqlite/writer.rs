//! The thread that owns the writing connection: takes what is queued, carries it out in one transaction, then answers.

use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, watch};

use super::{hours, load, save};
use crate::ledger::machine::{self, Answer, Rejected, Request};
use crate::ledger::queue::{Asked, BATCH, answer_all};
use crate::ledger::{LedgerError, Options, PRUNED, until_next_pruning};

/// Serves requests until every sender is gone.
pub fn run(mut connection: Connection, mut queue: mpsc::Receiver<Asked>, changed: &watch::Sender<u64>, options: &Options) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut next_pruning = Instant::now();
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        serve(&mut connection, std::mem::take(&mut batch));
        changed.send_modify(|count| *count += 1);
        if Instant::now() >= next_pruning {
            next_pruning = Instant::now() + until_next_pruning(prune(&mut connection, options));
        }
    }
    // Leaves one file behind rather than three.
    let _ = connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

/// A row that cannot be read fails those who need it, not whoever shares their transaction: nothing of the batch is done then,
/// and each request is carried out alone.
fn serve(connection: &mut Connection, batch: Vec<Asked>) {
    match carry_out(connection, batch.iter().map(|asked| &asked.request)) {
        Err(LedgerError::Corrupt(_)) if batch.len() > 1 => {
            for asked in batch {
                let answers = carry_out(connection, std::iter::once(&asked.request));
                answer_all([asked], answers);
            }
        }
        answers => answer_all(batch, answers),
    }
}

/// Deletes some calls that need not be kept any more; how many. A failure is left for the next time.
fn prune(connection: &mut Connection, options: &Options) -> usize {
    let mut some = || -> Result<usize, LedgerError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(before_ms) = options.delete_before(load::clock(&transaction)?) else { return Ok(0) };
        let deleted = hours::prune(&transaction, before_ms, PRUNED)?;
        transaction.commit()?;
        Ok(deleted)
    };
    some().unwrap_or_else(|error| {
        tracing::warn!(%error, "calls that need not be kept any more could not be deleted");
        0
    })
}

fn carry_out<'a>(
    connection: &mut Connection,
    requests: impl Iterator<Item = &'a Request> + Clone,
) -> Result<Vec<Result<Answer, Rejected>>, LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut rows = load::rows(&transaction, requests.clone())?;
    let loaded_ms = rows.seen_ms;
    let mut books = Vec::new();
    let answers = requests.clone().map(|request| machine::apply(&mut rows, request, &mut books)).collect();
    if rows.seen_ms != loaded_ms {
        save::clock(&transaction, rows.seen_ms)?;
    }
    save::rows(&transaction, &rows)?;
    save::bookings(&transaction, &books)?;
    if requests.clone().any(|request| matches!(request, Request::HolderGone { .. })) {
        save::forget(&transaction, rows.seen_ms - machine::gone::REMEMBER_MS)?;
    }
    transaction.commit()?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::CallOutcome;
    use crate::ledger::conformance::{acquire, holder, limit, record};
    use crate::ledger::sqlite::schema;
    use crate::ledger::{Decision, Entry};

    fn ledger() -> Connection {
        let mut connection = Connection::open_in_memory().expect("a connection");
        schema::prepare(&mut connection, "memory").expect("a schema");
        connection
    }

    fn queued(requests: &[Request]) -> (Vec<Asked>, Vec<tokio::sync::oneshot::Receiver<Result<Answer, LedgerError>>>) {
        requests.iter().cloned().map(Asked::new).unzip()
    }

    fn granted(answer: &Result<Answer, LedgerError>) -> bool {
        matches!(answer, Ok(Answer::Acquired(Decision::Granted { .. })))
    }

    #[test]
    fn a_row_that_cannot_be_read_fails_only_those_who_need_it() {
        let mut connection = ledger();
        let ask = |lease: &str, seq| Request::Acquire(acquire(lease, seq, &[limit(&format!("shop/{lease}/l"), 100)], 10, 10));
        serve(&mut connection, queued(&[ask("a", 1)]).0);
        connection.execute("UPDATE leases SET usd = 'ten'", []).expect("changed");
        let (batch, answers) = queued(&[ask("b", 1), ask("a", 2), ask("c", 1)]);
        serve(&mut connection, batch);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().expect("an answer")).collect();
        assert!(granted(&answers[0]) && granted(&answers[2]), "{answers:?}");
        assert!(matches!(answers[1], Err(LedgerError::Corrupt(_))), "{answers:?}");
    }

    #[test]
    fn a_full_disk_undoes_all_of_a_transaction_and_tells_everybody() {
        let mut connection = ledger();
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a count");
        let report = |from: usize| Request::Report {
            holder: holder("pod"),
            entries: (from..from + 100)
                .map(|n| Entry::Settled {
                    record: record(&format!("c{n}"), 1, CallOutcome::Completed),
                    lease: None,
                    unleased: vec![limit("shop/b/l", 9)],
                })
                .collect(),
            now_ms: 1,
        };
        let requests = [report(0), report(100)];
        connection.pragma_update(None, "max_page_count", pages + 2).expect("a limit");
        let full = carry_out(&mut connection, requests.iter());
        assert!(matches!(full, Err(LedgerError::NoSpace(_))), "{full:?}");
        connection.pragma_update(None, "max_page_count", 1_000_000).expect("a limit");
        assert_eq!(carry_out(&mut connection, requests.iter()).expect("done").len(), 2);
        let settled: String = connection.query_row("SELECT settled FROM accounts", [], |row| row.get(0)).expect("an account");
        assert_eq!(settled, "200", "each call once");
    }

    #[test]
    fn a_disk_that_became_read_only_fails_what_writes_and_loses_nothing() {
        let mut connection = ledger();
        let ask = |seq| Request::Acquire(acquire("a", seq, &[limit("shop/b/l", 100)], 10, 10));
        carry_out(&mut connection, [ask(1)].iter()).expect("written");
        connection.pragma_update(None, "query_only", true).expect("read-only");
        let failed = carry_out(&mut connection, [ask(2)].iter());
        assert!(matches!(failed, Err(LedgerError::ReadOnly(_))), "{failed:?}");
        connection.pragma_update(None, "query_only", false).expect("writable");
        let again = carry_out(&mut connection, [ask(1), ask(2)].iter()).expect("written");
        assert!(again.iter().all(|answer| matches!(answer, Ok(Answer::Acquired(Decision::Granted { .. })))), "{again:?}");
        let held: String = connection.query_row("SELECT outstanding FROM accounts", [], |row| row.get(0)).expect("an account");
        assert_eq!(held, "20", "the first request counts once");
    }

    #[test]
    fn a_file_that_is_no_database_any_more_is_named_corrupt() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("ledger.db");
        let mut connection = Connection::open(&path).expect("a file");
        schema::prepare(&mut connection, "file").expect("a schema");
        connection.pragma_update(None, "wal_checkpoint", "TRUNCATE").expect("all of it in one file");
        drop(connection);
        let whole = std::fs::read(&path).expect("a file");
        // The header stays, so that it opens; what the tables are made of does not.
        let broken: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| if at < 4_096 { *byte } else { 0x5a }).collect();
        std::fs::write(&path, broken).expect("written");
        let mut connection = Connection::open(&path).expect("it opens");
        let failed = carry_out(&mut connection, [Request::Acquire(acquire("a", 1, &[limit("shop/b/l", 100)], 10, 10))].iter());
        assert!(matches!(failed, Err(LedgerError::Corrupt(_))), "{failed:?}");
    }
}
