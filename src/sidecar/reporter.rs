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
use crate::channel::convert::MAX_ENTRIES;

/// Lines of one report. Some more may belong together, for which the channel has room.
const BATCH: usize = MAX_ENTRIES / 2;
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
            gather(&journal).await;
            continue;
        }
        let Batch { entries, end, is_all } = batch;
        let is_something = !entries.is_empty();
        let sent = if is_something { source.report(entries).await } else { Ok(()) };
        match sent {
            Ok(()) => {
                position = end;
                acknowledge(&journal, position, is_something);
                (limit, pause) = (BATCH, FIRST_PAUSE);
                if is_all {
                    gather(&journal).await;
                }
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

/// Lets calls write more, unless somebody waits for what is written.
async fn gather(journal: &Journal) {
    let _ = tokio::time::timeout(GATHER, journal.hurried()).await;
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use async_trait::async_trait;

    use super::*;
    use crate::channel::message::{LeaseAsk, Reported};
    use crate::core::amount::Amount;
    use crate::core::lease::{GiveBack, LeaseId};
    use crate::ledger::Decision;

    /// Takes every report, and keeps what was in each.
    #[derive(Default)]
    struct Taker(Mutex<Vec<Vec<Reported>>>);

    #[async_trait]
    impl LeaseSource for Taker {
        async fn acquire(&self, _: LeaseAsk) -> Result<Decision, SourceError> {
            Ok(Decision::Expired)
        }

        async fn report(&self, entries: Vec<Reported>) -> Result<(), SourceError> {
            self.0.lock().unwrap().push(entries);
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_written_all_the_time_is_gathered_and_who_waits_for_it_does_not_wait_for_that() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(directory.path()).unwrap());
        let taker = Arc::new(Taker::default());
        tokio::spawn(run(Arc::clone(&journal), taker.clone()));
        let began = Instant::now();
        for seq in 0..150 {
            journal.give_back([GiveBack { lease: LeaseId("l".into()), seq, amount: Amount::ZERO }]).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let at_most = began.elapsed().as_millis() / GATHER.as_millis() + 2;
        assert!((2..=at_most).contains(&(taker.0.lock().unwrap().len() as u128)), "{}", taker.0.lock().unwrap().len());
        assert!(reported(&journal, journal.end(), Duration::from_secs(10)).await);
        let told = taker.0.lock().unwrap().concat();
        let seqs = told.into_iter().map(|entry| if let Reported::GivenBack { seq, .. } = entry { seq } else { u64::MAX });
        assert_eq!(seqs.collect::<Vec<_>>(), (0..150).collect::<Vec<_>>());
    }
}
