//! The thread that owns the writing connection: takes what is queued, carries it out in one transaction, then answers.

use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, watch};

use super::{hours, load, save};
use crate::ledger::known::Known;
use crate::ledger::machine::forget::{Needed, before_ms};
use crate::ledger::machine::{self, Answer, Rejected, Request};
use crate::ledger::queue::{Asked, BATCH, answer_all};
use crate::ledger::usage::{GROUPS_OF_A_PART, HOUR_MS};
use crate::ledger::{LedgerError, Options, PRUNED, until_next_pruning};

/// The connection that writes, and the rows that it knows without reading them.
pub struct Writer {
    connection: Connection,
    known: Known,
    /// Of the file, as [`load::version`] has it: with another, somebody else has written, and nothing is known.
    version: i64,
}

/// Serves requests until every sender is gone.
pub fn run(connection: Connection, mut queue: mpsc::Receiver<Asked>, changed: &watch::Sender<u64>, options: &Options) {
    let mut writer = Writer::on(connection);
    let mut batch = Vec::with_capacity(BATCH);
    let mut next_pruning = Instant::now();
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        writer.serve(std::mem::take(&mut batch));
        changed.send_modify(|count| *count += 1);
        if Instant::now() >= next_pruning {
            next_pruning = Instant::now() + until_next_pruning(writer.tidy(options));
        }
    }
    // Leaves one file behind rather than three.
    let _ = writer.connection.pragma_update(None, "wal_checkpoint", "TRUNCATE");
}

impl Writer {
    pub fn on(connection: Connection) -> Writer {
        Writer { connection, known: Known::default(), version: 0 }
    }

    /// A row that cannot be read fails those who need it, not whoever shares their transaction: nothing of the batch is done then,
    /// and each request is carried out alone.
    fn serve(&mut self, batch: Vec<Asked>) {
        match self.carry_out(batch.iter().map(|asked| &asked.request)) {
            Err(LedgerError::Corrupt(_)) if batch.len() > 1 => {
                for asked in batch {
                    let answers = self.carry_out(std::iter::once(&asked.request));
                    answer_all([asked], answers);
                }
            }
            answers => answer_all(batch, answers),
        }
    }

    /// Deletes some calls and accounts that need not be kept any more, and sums a part of a day that is over; [`PRUNED`] when there may be more of it
    /// to do, or else fewer. A failure is left for the next time.
    fn tidy(&mut self, options: &Options) -> usize {
        let mut some = || -> Result<usize, LedgerError> {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let now_ms = load::clock(&transaction)?;
            let calls = match options.delete_before(now_ms) {
                Some(before_ms) => hours::prune(&transaction, before_ms, PRUNED)?,
                None => 0,
            };
            let accounts = save::forget_accounts(&transaction, before_ms(now_ms), PRUNED)?;
            let is_summed = hours::sum_a_part(&transaction, now_ms.saturating_sub(HOUR_MS), GROUPS_OF_A_PART)?;
            transaction.commit()?;
            if accounts > 0 {
                self.known.forget();
            }
            Ok(if is_summed { PRUNED as usize } else { calls.max(accounts) })
        };
        some().unwrap_or_else(|error| {
            tracing::warn!(%error, "what need not be kept could not be deleted, or a day not be summed");
            0
        })
    }

    fn carry_out<'a>(&mut self, requests: impl Iterator<Item = &'a Request> + Clone) -> Result<Vec<Result<Answer, Rejected>>, LedgerError> {
        let done = self.attempt(requests);
        if done.is_err() {
            self.known.forget();
        }
        done
    }

    fn attempt<'a>(&mut self, requests: impl Iterator<Item = &'a Request> + Clone) -> Result<Vec<Result<Answer, Rejected>>, LedgerError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = load::version(&transaction)?;
        if std::mem::replace(&mut self.version, version) != version {
            self.known.forget();
        }
        let mut rows = load::rows(&transaction, &self.known, requests.clone())?;
        let loaded_ms = rows.seen_ms;
        let mut books = Vec::new();
        let answers = requests.clone().map(|request| machine::apply(&mut rows, request, &mut books)).collect();
        if rows.seen_ms != loaded_ms {
            save::clock(&transaction, rows.seen_ms)?;
        }
        save::rows(&transaction, &rows, &Needed::by(&rows, requests.clone()))?;
        save::bookings(&transaction, &books)?;
        let is_end = requests.clone().any(|request| matches!(request, Request::HolderGone { .. }));
        if is_end {
            save::forget(&transaction, rows.seen_ms - machine::gone::REMEMBER_MS)?;
        }
        transaction.commit()?;
        if is_end {
            self.known.forget();
        } else {
            self.known.learn(rows);
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::CallOutcome;
    use crate::ledger::conformance::{acquire, holder, limit, record};
    use crate::ledger::sqlite::schema;
    use crate::ledger::{Decision, Entry};

    fn ledger() -> Writer {
        let mut connection = Connection::open_in_memory().expect("a connection");
        schema::prepare(&mut connection, "memory").expect("a schema");
        Writer::on(connection)
    }

    fn queued(requests: &[Request]) -> (Vec<Asked>, Vec<tokio::sync::oneshot::Receiver<Result<Answer, LedgerError>>>) {
        requests.iter().cloned().map(Asked::new).unzip()
    }

    fn granted(answer: &Result<Answer, LedgerError>) -> bool {
        matches!(answer, Ok(Answer::Acquired(Decision::Granted { .. })))
    }

    #[test]
    fn a_row_that_cannot_be_read_fails_only_those_who_need_it() {
        let mut writer = ledger();
        let ask = |lease: &str, seq| Request::Acquire(acquire(lease, seq, &[limit(&format!("shop/{lease}/l"), 100)], 10, 10));
        writer.serve(queued(&[ask("a", 1)]).0);
        writer.connection.execute("UPDATE leases SET usd = 'ten'", []).expect("changed");
        writer.known.forget();
        let (batch, answers) = queued(&[ask("b", 1), ask("a", 2), ask("c", 1)]);
        writer.serve(batch);
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().expect("an answer")).collect();
        assert!(granted(&answers[0]) && granted(&answers[2]), "{answers:?}");
        assert!(matches!(answers[1], Err(LedgerError::Corrupt(_))), "{answers:?}");
    }

    #[test]
    fn a_full_disk_undoes_all_of_a_transaction_and_tells_everybody() {
        let mut writer = ledger();
        let pages: i64 = writer.connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a count");
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
        writer.connection.pragma_update(None, "max_page_count", pages + 2).expect("a limit");
        let full = writer.carry_out(requests.iter());
        assert!(matches!(full, Err(LedgerError::NoSpace(_))), "{full:?}");
        writer.connection.pragma_update(None, "max_page_count", 1_000_000).expect("a limit");
        assert_eq!(writer.carry_out(requests.iter()).expect("done").len(), 2);
        let settled: String = writer.connection.query_row("SELECT settled FROM accounts", [], |row| row.get(0)).expect("an account");
        assert_eq!(settled, "200", "each call once");
    }

    #[test]
    fn a_disk_that_became_read_only_fails_what_writes_and_loses_nothing() {
        let mut writer = ledger();
        let ask = |seq| Request::Acquire(acquire("a", seq, &[limit("shop/b/l", 100)], 10, 10));
        writer.carry_out([ask(1)].iter()).expect("written");
        writer.connection.pragma_update(None, "query_only", true).expect("read-only");
        let failed = writer.carry_out([ask(2)].iter());
        assert!(matches!(failed, Err(LedgerError::ReadOnly(_))), "{failed:?}");
        writer.connection.pragma_update(None, "query_only", false).expect("writable");
        let again = writer.carry_out([ask(1), ask(2)].iter()).expect("written");
        assert!(again.iter().all(|answer| matches!(answer, Ok(Answer::Acquired(Decision::Granted { .. })))), "{again:?}");
        let held: String = writer.connection.query_row("SELECT outstanding FROM accounts", [], |row| row.get(0)).expect("an account");
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
        let mut writer = Writer::on(Connection::open(&path).expect("it opens"));
        let failed = writer.carry_out([Request::Acquire(acquire("a", 1, &[limit("shop/b/l", 100)], 10, 10))].iter());
        assert!(matches!(failed, Err(LedgerError::Corrupt(_))), "{failed:?}");
    }
}
