//! Sends the journal to the ledger, in order, until it is taken.
//!
//! What is written waits for [`GATHER`], so that calls that follow each other go in one report: with a report for each, waking tasks and
//! writing the ledger cost more than the calls themselves. Whoever waits for the ledger (a call that is about to be refused, a
//! process that ends) has it sent at once. Should the machine die, what was gathered dies with it: a call that began and ended
//! within that time is known to its provider alone.

use std::sync::Arc;
use std::time::Duration;

use super::journal::{Batch, Journal, Position};
use super::source::{LeaseSource, SourceError};
use crate::channel::convert::MAX_BRIEF_ENTRIES;

/// Lines of one report. Some more may belong together, for which the channel has room.
const BATCH: usize = MAX_BRIEF_ENTRIES / 2;
/// How long lines are gathered for one report.
const GATHER: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Reports for ever. Does not lose an entry: what the ledger does not answer is sent again.
pub async fn run(journal: Arc<Journal>, source: Arc<dyn LeaseSource>) {
    let mut position = *journal.acknowledged().borrow();
    let mut limit = BATCH;
    let mut pause = FIRST_PAUSE;
    loop {
        let batch = match journal.read(position, limit) {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(%error, "nothing can be reported");
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        if batch.end == position {
            journal.written().await;
            let _ = tokio::time::timeout(GATHER, journal.hurried()).await;
            continue;
        }
        let Batch { entries, end } = batch;
        let is_something = !entries.is_empty();
        let sent = if is_something { source.report(entries).await } else { Ok(()) };
        match sent {
            Ok(()) => {
                position = end;
                acknowledge(&journal, position, is_something);
                (limit, pause) = (BATCH, FIRST_PAUSE);
            }
            Err(SourceError::Rejected(_)) if limit > 1 => limit = 1,
            Err(SourceError::Rejected(reason)) => {
                let entries = journal.read(position, limit).map(|batch| batch.entries);
                tracing::error!(%reason, ?entries, "the ledger will never take this entry, so it is left out");
                position = end;
                journal.acknowledge(position);
            }
            Err(SourceError::Unavailable(reason)) => {
                tracing::warn!(%reason, backlog_bytes = journal.backlog(), "a report was not taken; it will be sent again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Notes how far the ledger is. Lines that are only for this process are not worth a note, which would be another such line.
fn acknowledge(journal: &Journal, position: Position, reported: bool) {
    if reported || *journal.acknowledged().borrow() + 4096 < position {
        journal.acknowledge(position);
    } else {
        journal.reached(position);
    }
}

/// Waits until everything up to `position` was reported; false when that takes longer than `limit`.
pub async fn reported(journal: &Journal, position: Position, limit: Duration) -> bool {
    let mut acknowledged = journal.acknowledged();
    journal.hurry();
    let reached = acknowledged.wait_for(|reached| *reached >= position);
    matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
}
