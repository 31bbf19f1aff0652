//! The way to whoever writes: requests wait in line while a transaction commits, and are then carried out together in the
//! next one (group commit), so that the cost of a durable write is shared.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::machine::{Answer, Rejected, Request};
use super::{Acquire, Decision, Entry, HolderId, LedgerError, Reconciled};

/// Requests that may wait; more than this and callers wait to get in line.
const LENGTH: usize = 4_096;
/// Requests in one transaction at most, so that the first of them does not wait for ever.
pub const BATCH: usize = 256;

/// How often a writer that served several at once lets others run, so that they can ask again, before it takes who asked meanwhile:
/// otherwise the first would have a transaction to itself while all others wait for the next.
pub const GATHERINGS: usize = 4;

/// A request in line.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub since: Instant,
    answer: oneshot::Sender<Result<Answer, LedgerError>>,
}

impl Asked {
    /// A request, and where its answer will be.
    pub fn new(request: Request) -> (Asked, oneshot::Receiver<Result<Answer, LedgerError>>) {
        let (answer, answered) = oneshot::channel();
        (Asked { request, since: Instant::now(), answer }, answered)
    }

    /// Whoever asked may have gone; what was done stays done, and is idempotent when asked again.
    pub fn answer(self, answer: Result<Answer, LedgerError>) {
        let _ = self.answer.send(answer);
    }
}

/// Answers a batch that is durable, or that failed.
pub fn answer_all(batch: impl IntoIterator<Item = Asked>, answers: Result<Vec<Result<Answer, Rejected>>, LedgerError>) {
    match answers {
        Ok(answers) => batch.into_iter().zip(answers).for_each(|(asked, answer)| asked.answer(answer.map_err(LedgerError::from))),
        Err(error) => batch.into_iter().for_each(|asked| asked.answer(Err(error.clone()))),
    }
}

/// The end of the line where requests get in; `None` once it is closed.
pub struct Queue(RwLock<Option<mpsc::Sender<Asked>>>);

impl Queue {
    pub fn new() -> (Queue, mpsc::Receiver<Asked>) {
        let (requests, queue) = mpsc::channel(LENGTH);
        (Queue(RwLock::new(Some(requests))), queue)
    }

    /// Lets nobody in any more; who waits already is still served.
    pub fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn ask(&self, request: Request) -> Result<Answer, LedgerError> {
        let queue = self.0.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(LedgerError::Stopped)?;
        let (asked, answered) = Asked::new(request);
        queue.send(asked).await.map_err(|_| LedgerError::Stopped)?;
        answered.await.map_err(|_| LedgerError::Stopped)?
    }

    /// See [`super::Ledger::acquire`].
    ///
    /// # Errors
    /// As the ledger's.
    pub async fn acquire(&self, request: Acquire) -> Result<Decision, LedgerError> {
        match self.ask(Request::Acquire(request)).await? {
            Answer::Acquired(decision) => Ok(decision),
            other => Err(mismatch(&other)),
        }
    }

    /// See [`super::Ledger::report`].
    ///
    /// # Errors
    /// As the ledger's.
    pub async fn report(&self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) -> Result<Vec<bool>, LedgerError> {
        match self.ask(Request::Report { holder: holder.clone(), entries, now_ms }).await? {
            Answer::Reported(new) => Ok(new),
            other => Err(mismatch(&other)),
        }
    }

    /// See [`super::Ledger::holder_gone`].
    ///
    /// # Errors
    /// As the ledger's.
    pub async fn holder_gone(&self, holder: &HolderId, now_ms: i64) -> Result<Reconciled, LedgerError> {
        match self.ask(Request::HolderGone { holder: holder.clone(), now_ms }).await? {
            Answer::Reconciled(reconciled) => Ok(reconciled),
            other => Err(mismatch(&other)),
        }
    }
}

fn mismatch(answer: &Answer) -> LedgerError {
    LedgerError::Storage(format!("the answer is to another question: {answer:?}"))
}
