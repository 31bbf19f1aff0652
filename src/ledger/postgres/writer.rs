//! The task that writes: takes what is queued, carries it out in one transaction, then answers.
//!
//! ```text
//!   batch ──▶ transaction ──ok──▶ answers
//!     ▲           ├── conflict: again at once, on what is there now
//!     │           ├── connection lost: connect again, after a pause that grows, and again: whether it was committed or not
//!     └───────────┘   does not matter, since every request is idempotent. Who has waited for [`PATIENCE`] is told "unreachable"
//!                 └── a row that cannot be read: each request alone
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::connect::{Database, Failure};
use super::line::Line;
use super::session::Session;
use super::{hours, load, save};
use crate::ledger::machine::forget::{Needed, before_ms};
use crate::ledger::machine::{self, Answer, Rejected, Request};
use crate::ledger::queue::{Asked, BATCH, GATHERINGS, answer_all};
use crate::ledger::usage::HOUR_MS;
use crate::ledger::{LedgerError, Options, PRUNED, until_next_pruning};

/// Whoever has waited for so long without the database is told so: short enough for `onLedgerUnavailable` to decide in time.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// One attempt takes no longer; the session's statement time-out is shorter, so that it is the server that gives up.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect: each twice as long as the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Replicas that change the same rows wait for each other's locks; only rows that come into being collide, and each does so once.
const CONFLICTS: u32 = 20;
/// The clock is written down when it is so much ahead of what is written: one row for all replicas must not be in every transaction.
const TICK_MS: i64 = 1_000;

pub struct Writer {
    database: Database,
    options: Options,
    session: Option<(Session, Line)>,
    /// Ledger time as this replica has seen it, and as it last wrote it down.
    seen_ms: i64,
    written_ms: i64,
}

impl Writer {
    pub fn new(database: Database, options: Options) -> Writer {
        Writer { database, options, session: None, seen_ms: i64::MIN, written_ms: i64::MIN }
    }

    /// Serves requests until every sender is gone.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Asked>, changed: watch::Sender<u64>) {
        let mut waiting: VecDeque<Asked> = VecDeque::new();
        let (mut pause, mut next_pruning, mut served) = (PAUSES.0, Instant::now(), 0);
        loop {
            if waiting.is_empty() {
                let mut batch = Vec::with_capacity(BATCH);
                if queue.recv_many(&mut batch, BATCH).await == 0 {
                    return self.hang_up().await;
                }
                gather(&mut queue, &mut batch, served).await;
                waiting.extend(batch);
            }
            let batch: Vec<Asked> = waiting.drain(..waiting.len().min(BATCH)).collect();
            served = batch.len();
            match self.serve(batch).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    changed.send_modify(|count| *count += 1);
                    if Instant::now() >= next_pruning {
                        next_pruning = Instant::now() + until_next_pruning(self.tidy().await);
                    }
                }
                Err((batch, reason)) => {
                    batch.into_iter().rev().for_each(|asked| waiting.push_front(asked));
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                    while let Ok(asked) = queue.try_recv() {
                        waiting.push_back(asked);
                    }
                    give_up_on(&mut waiting, &reason);
                }
            }
        }
    }

    /// Carries out a batch and answers it; gives it back when the database is out of reach.
    async fn serve(&mut self, batch: Vec<Asked>) -> Result<(), (Vec<Asked>, String)> {
        let requests: Vec<&Request> = batch.iter().map(|asked| &asked.request).collect();
        match self.carry_out(&requests).await {
            Err(Failure::Unreachable(reason)) => Err((batch, reason)),
            Err(Failure::Fatal(LedgerError::Corrupt(_))) if batch.len() > 1 => {
                for asked in batch {
                    let answers = self.carry_out(&[&asked.request]).await;
                    answer_all([asked], answers.map_err(LedgerError::from));
                }
                Ok(())
            }
            answers => {
                answer_all(batch, answers.map_err(LedgerError::from));
                Ok(())
            }
        }
    }

    async fn carry_out(&mut self, requests: &[&Request]) -> Result<Vec<Result<Answer, Rejected>>, Failure> {
        let mut conflicts = 0;
        loop {
            let attempt = timeout(ATTEMPT, self.attempt(requests, conflicts == 0)).await;
            let failure = match attempt.unwrap_or_else(|_| Err(Failure::Unreachable("the database did not answer in time".to_owned()))) {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            };
            match failure {
                Failure::Conflict(reason) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    tracing::debug!(%reason, conflicts, "replicas met; the batch is applied to what is there now");
                    if !self.roll_back().await {
                        self.session = None;
                        return Err(Failure::Unreachable(format!("the connection was lost after a conflict: {reason}")));
                    }
                }
                failure => {
                    let is_elsewhere = matches!(failure, Failure::Unreachable(_) | Failure::Fatal(LedgerError::ReadOnly(_)));
                    // A server that only reads has been replaced by another.
                    if is_elsewhere || !self.roll_back().await {
                        self.session = None;
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// One transaction, on a new connection where there is none.
    async fn attempt(&mut self, requests: &[&Request], opened_is_new: bool) -> Result<Vec<Result<Answer, Rejected>>, Failure> {
        let there = self.session.take().and_then(|(session, mut line)| (!line.is_lost()).then_some((session, line)));
        let (session, line) = match there {
            Some(there) => self.session.insert(there),
            None => self.session.insert(Session::open(&self.database).await?),
        };
        let (seen_ms, written_ms) = (self.seen_ms, self.written_ms);
        let done = line.during(transaction(session, requests, seen_ms, written_ms, opened_is_new)).await?;
        (self.seen_ms, self.written_ms) = (done.seen_ms, done.written_ms);
        Ok(done.answers)
    }

    /// Deletes some calls and accounts that need not be kept any more, and sums a part of a day that is over; [`PRUNED`] when there may be more of it
    /// to do, or else fewer. A failure is left for the next time.
    async fn tidy(&mut self) -> usize {
        let (calls_ms, accounts_ms) = (self.options.delete_before(self.seen_ms), before_ms(self.seen_ms));
        let over_ms = self.seen_ms.saturating_sub(HOUR_MS);
        let Some((session, line)) = &mut self.session else { return 0 };
        let some = async {
            let calls = match calls_ms {
                Some(before_ms) => hours::prune(&session.client, before_ms, PRUNED).await?,
                None => 0,
            };
            let deleted = session.forget_accounts(accounts_ms, PRUNED).await?.max(calls);
            let is_summed = session.sum_a_part(over_ms).await?;
            Ok::<_, Failure>(if is_summed { PRUNED.unsigned_abs() } else { deleted })
        };
        match timeout(ATTEMPT, line.during(some)).await {
            Ok(Ok(deleted)) => usize::try_from(deleted).unwrap_or(usize::MAX),
            Ok(Err(failure)) => {
                let error = LedgerError::from(failure);
                tracing::warn!(%error, "what need not be kept could not be deleted, or a day not be summed");
                if !self.roll_back().await {
                    self.session = None;
                }
                0
            }
            // Its answer would come while others are expected.
            Err(_) => {
                self.session = None;
                0
            }
        }
    }

    /// Ends a transaction that failed; false when that cannot be done, so that the connection is of no use any more.
    async fn roll_back(&mut self) -> bool {
        let Some((session, line)) = &mut self.session else { return false };
        let ended = async { session.roll_back().await && session.settle().await.is_ok() };
        matches!(timeout(ATTEMPT, line.during(ended)).await, Ok(true))
    }

    /// Takes leave of the server.
    async fn hang_up(self) {
        if let Some((session, line)) = self.session {
            drop(session);
            // One that does not answer is left.
            let _ = timeout(ATTEMPT, line.end()).await;
        }
    }
}

/// What a transaction did, and ledger time afterwards: as seen, and as written down.
struct Done {
    answers: Vec<Result<Answer, Rejected>>,
    seen_ms: i64,
    written_ms: i64,
}

/// Carries out `requests`. `opened_is_new` as [`Known::fill`] has it.
///
/// [`Known::fill`]: crate::ledger::known::Known::fill
async fn transaction(
    session: &mut Session,
    requests: &[&Request],
    seen_ms: i64,
    written_ms: i64,
    opened_is_new: bool,
) -> Result<Done, Failure> {
    let seen_ms = seen_ms.max(session.look_around().await?);
    let (mut rows, is_begun) = load::rows(session, requests, seen_ms, opened_is_new).await?;
    let mut books = Vec::new();
    let answers = requests.iter().map(|request| machine::apply(&mut rows, request, &mut books)).collect();
    let tick = (rows.seen_ms >= written_ms.saturating_add(TICK_MS)).then_some(rows.seen_ms);
    let is_end = requests.iter().any(|request| matches!(request, Request::HolderGone { .. }));
    let forget_ms = is_end.then_some(rows.seen_ms - machine::gone::REMEMBER_MS);
    let needed = Needed::by(&rows, requests.iter().copied());
    save::all(session, is_begun, &rows, &needed, &books, tick, forget_ms).await?;
    let done = Done { answers, seen_ms: rows.seen_ms, written_ms: tick.unwrap_or(written_ms) };
    if !session.is_alone || is_end {
        session.known.forget();
    } else {
        session.known.learn(rows);
    }
    Ok(done)
}

/// Takes who asks again, where the last batch served so many.
async fn gather(queue: &mut mpsc::Receiver<Asked>, batch: &mut Vec<Asked>, served: usize) {
    for _ in 0..GATHERINGS {
        if batch.len() >= served.min(BATCH) {
            return;
        }
        tokio::task::yield_now().await;
        while let Some(asked) = (batch.len() < BATCH).then(|| queue.try_recv().ok()).flatten() {
            batch.push(asked);
        }
    }
}

/// Answers those who have waited for long enough.
fn give_up_on(waiting: &mut VecDeque<Asked>, reason: &str) {
    let now = Instant::now();
    let (lost, kept): (VecDeque<Asked>, VecDeque<Asked>) = waiting.drain(..).partition(|asked| now.duration_since(asked.since) >= PATIENCE);
    *waiting = kept;
    if !lost.is_empty() {
        tracing::error!(requests = lost.len(), reason, "the ledger's database is out of reach");
    }
    answer_all(lost, Err(LedgerError::Unreachable(reason.to_owned())));
}
