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
use tokio_postgres::Client;

use super::connect::{Database, Failure};
use super::statements::Statements;
use super::{hours, load, save};
use crate::ledger::machine::{self, Answer, Rejected, Request};
use crate::ledger::queue::{Asked, BATCH, answer_all};
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

/// A connection with its statements.
struct Session {
    client: Client,
    statements: Statements,
}

pub struct Writer {
    database: Database,
    options: Options,
    session: Option<Session>,
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
        let (mut pause, mut next_pruning) = (PAUSES.0, Instant::now());
        loop {
            if waiting.is_empty() {
                let mut batch = Vec::with_capacity(BATCH);
                if queue.recv_many(&mut batch, BATCH).await == 0 {
                    return;
                }
                waiting.extend(batch);
            }
            let batch: Vec<Asked> = waiting.drain(..waiting.len().min(BATCH)).collect();
            match self.serve(batch).await {
                Ok(()) => {
                    pause = PAUSES.0;
                    changed.send_modify(|count| *count += 1);
                    if Instant::now() >= next_pruning {
                        next_pruning = Instant::now() + until_next_pruning(self.prune().await);
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
            let attempt = timeout(ATTEMPT, self.attempt(requests)).await;
            let failure = match attempt.unwrap_or_else(|_| Err(Failure::Unreachable("the database did not answer in time".to_owned()))) {
                Ok(answers) => return Ok(answers),
                Err(failure) => failure,
            };
            match failure {
                Failure::Conflict(reason) if conflicts < CONFLICTS && self.roll_back().await => {
                    conflicts += 1;
                    tracing::debug!(%reason, conflicts, "replicas met; the batch is applied to what is there now");
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

    async fn attempt(&mut self, requests: &[&Request]) -> Result<Vec<Result<Answer, Rejected>>, Failure> {
        let session = match self.session.take_if(|session| !session.client.is_closed()) {
            Some(session) => self.session.insert(session),
            None => {
                let client = self.database.connect().await?;
                let statements = Statements::prepare(&client).await?;
                self.session.insert(Session { client, statements })
            }
        };
        let (client, statements) = (&session.client, &session.statements);
        let mut rows = load::rows(client, statements, requests, self.seen_ms).await?;
        let mut books = Vec::new();
        let answers = requests.iter().map(|request| machine::apply(&mut rows, request, &mut books)).collect();
        let tick = (rows.seen_ms >= self.written_ms.saturating_add(TICK_MS)).then_some(rows.seen_ms);
        let is_end = requests.iter().any(|request| matches!(request, Request::HolderGone { .. }));
        let forget_ms = is_end.then_some(rows.seen_ms - machine::gone::REMEMBER_MS);
        save::all(client, statements, &rows, &books, tick, forget_ms).await?;
        self.seen_ms = rows.seen_ms;
        self.written_ms = tick.unwrap_or(self.written_ms);
        Ok(answers)
    }

    /// Deletes some calls that need not be kept any more; how many. A failure is left for the next time.
    async fn prune(&mut self) -> usize {
        let (Some(before_ms), Some(session)) = (self.options.delete_before(self.seen_ms), &self.session) else { return 0 };
        match timeout(ATTEMPT, hours::prune(&session.client, before_ms, PRUNED)).await {
            Ok(Ok(deleted)) => usize::try_from(deleted).unwrap_or(usize::MAX),
            Ok(Err(failure)) => {
                let error = LedgerError::from(failure);
                tracing::warn!(%error, "calls that need not be kept any more could not be deleted");
                0
            }
            // Its answer would come while others are expected.
            Err(_) => {
                self.session = None;
                0
            }
        }
    }

    /// False when that cannot be done, so that the connection is of no use any more.
    async fn roll_back(&self) -> bool {
        let Some(session) = &self.session else { return false };
        matches!(timeout(ATTEMPT, session.client.batch_execute("ROLLBACK")).await, Ok(Ok(())))
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
