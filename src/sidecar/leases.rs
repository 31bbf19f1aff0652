//! The lease book and the ledger behind it: calls draw from what is held here, and wait only when it runs out.
//!
//! For each set of limits one request is under way at a time; the calls that wait look again when it is answered, so that 64
//! calls at once ask the ledger a few times and not 64. A refusal answers everyone who waited for it and needs no less.
//! Before a call is refused, what this sidecar holds under the same limits and does not need goes back, and the ledger is
//! asked again; and while other sidecars hold enough, it waits a little until the operator has called that back (invariant I3).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use super::clock::Clock;
use super::journal::Journal;
use super::metrics::Metrics;
use super::reporter;
use super::source::{LeaseSource, SourceError};
use crate::channel::message::LeaseAsk;
use crate::core::amount::Amount;
use crate::core::lease::{Answer, Ask, GiveBack, LeaseBook, LeaseId, may_come_back, patience_ms};
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::money::PicoUsd;
use crate::ledger::Decision;

/// How often unneeded money is looked for.
const TICK: Duration = Duration::from_millis(250);
/// How long a refusal may wait for give-backs to arrive at the ledger.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Requests that one call sends before it gives up: each was granted and then drawn by others, or expired.
const MAX_REQUESTS: usize = 64;

/// Why a call cannot draw.
#[derive(Clone, Debug)]
pub enum Denied {
    /// These limits have less left than the call needs.
    Short(Vec<Shortfall>),
    /// The ledger did not answer.
    Unavailable(String),
}

/// Every lease of this sidecar.
pub struct Leases {
    book: Mutex<LeaseBook>,
    gates: Mutex<HashMap<Vec<LimitKey>, Arc<Gate>>>,
    source: Arc<dyn LeaseSource>,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// Where the calls under one set of limits queue for the ledger.
#[derive(Default)]
struct Gate {
    turn: tokio::sync::Mutex<()>,
    arrivals: AtomicU64,
    waiting: Mutex<Amount>,
    denial: Mutex<Option<Denial>>,
}

/// The last denial, and which calls it answers: those that had arrived by then and lacked no less.
struct Denial {
    arrived: u64,
    min: Amount,
    denied: Denied,
}

impl Leases {
    pub fn new(source: Arc<dyn LeaseSource>, journal: Arc<Journal>, metrics: Arc<Metrics>, clock: Clock) -> Leases {
        Leases { book: Mutex::default(), gates: Mutex::default(), source, journal, metrics, clock }
    }

    /// Draws `need` under `limits` (sorted), with a request to the ledger if too little is held.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn draw(&self, limits: &[LimitKey], need: Amount) -> Result<LeaseId, Denied> {
        if let Some(lease) = self.book().draw(limits, need, self.clock.monotonic_ms()) {
            return Ok(lease);
        }
        let gate = Arc::clone(lock(&self.gates).entry(limits.to_vec()).or_default());
        let arrival = gate.arrivals.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting::new(&gate, need);
        let _turn = gate.turn.lock().await;
        self.request_until_drawn(&gate, limits, need, arrival).await
    }

    async fn request_until_drawn(&self, gate: &Gate, limits: &[LimitKey], need: Amount, arrival: u64) -> Result<LeaseId, Denied> {
        let (mut recalled, mut refusals) = (false, 0);
        for _ in 0..MAX_REQUESTS {
            if let Some(lease) = self.book().draw(limits, need, self.clock.monotonic_ms()) {
                return Ok(lease);
            }
            let lacking = need.minus_floor_zero(self.free(limits));
            if let Some(denied) = gate.denied(arrival, lacking) {
                return Err(denied);
            }
            let waiting = lock(&gate.waiting).minus_floor_zero(need);
            let ask = {
                let fresh = || LeaseId(Uuid::now_v7().to_string().into());
                let mut book = self.book();
                let (ask, expired) = book.ask(limits, need, waiting, self.clock.monotonic_ms(), fresh);
                self.note(&book, expired);
                ask
            };
            let denied = match self.send(limits, &ask, need).await {
                Ok(Decision::Granted { .. } | Decision::Expired) => continue,
                Ok(Decision::Refused { shortfalls }) if !recalled && self.give_back_for(limits, &shortfalls).await => {
                    recalled = true;
                    continue;
                }
                Ok(Decision::Refused { shortfalls }) if let Some(wait) = self.patience(limits, &shortfalls, need, refusals) => {
                    // The operator calls back what others hold idle; those who wait here wait with it.
                    tokio::time::sleep(wait).await;
                    refusals += 1;
                    continue;
                }
                Ok(Decision::Refused { shortfalls }) => Denied::Short(self.with_what_is_here(limits, shortfalls)),
                Err(error) => Denied::Unavailable(error.to_string()),
            };
            gate.deny(ask.min, denied.clone());
            return Err(denied);
        }
        Err(Denied::Unavailable("leases are used up by other calls as fast as they are granted".to_owned()))
    }

    /// Sends a request and takes its answer. Without an answer the request stays in the book, to be sent again as it is.
    async fn send(&self, limits: &[LimitKey], ask: &Ask, need: Amount) -> Result<Decision, SourceError> {
        let Ask { lease, seq, min, want } = ask.clone();
        let message = LeaseAsk { lease, seq, limits: limits.to_vec(), min, want, need: need.max(min) };
        let unwritten = |e: super::journal::JournalError| SourceError::Unavailable(e.to_string());
        self.journal.asked(message.clone()).map_err(unwritten)?;
        // Counted from before the request was sent: the ledger's own count began later.
        let sent_ms = self.clock.monotonic_ms();
        let decision = self.source.acquire(message).await;
        self.metrics.lease_requests.with_label_values(&[answer_name(&decision)]).inc();
        let decision = match decision {
            Err(SourceError::Rejected(reason)) => {
                // It was not granted and never will be.
                self.answered(limits, ask, Answer::Refused, Amount::ZERO);
                return Err(SourceError::Rejected(reason));
            }
            answer => answer?,
        };
        match &decision {
            Decision::Granted { granted, valid_for_ms, left } => {
                let expires_ms = sent_ms.saturating_add(*valid_for_ms);
                self.answered(limits, ask, Answer::Granted { amount: *granted, expires_ms, left: *left }, *granted);
            }
            Decision::Refused { .. } => self.answered(limits, ask, Answer::Refused, Amount::ZERO),
            Decision::Expired => self.answered(limits, ask, Answer::Expired, Amount::ZERO),
        }
        Ok(decision)
    }

    fn answered(&self, limits: &[LimitKey], ask: &Ask, answer: Answer, granted: Amount) {
        if let Err(error) = self.journal.answered(ask.lease.clone(), granted) {
            // After a crash the request is sent again and gets the same answer.
            tracing::warn!(%error, "an answer of the ledger is not in the journal");
        }
        let mut book = self.book();
        let back = book.answered(limits, ask, answer, self.clock.monotonic_ms());
        self.note(&book, back);
    }

    /// Returns what is held under the limits that are short and is not needed here; true when the ledger has got more since
    /// the refusal and may now decide otherwise.
    async fn give_back_for(&self, limits: &[LimitKey], shortfalls: &[Shortfall]) -> bool {
        let short: Vec<LimitKey> = shortfalls.iter().map(|s| s.key.clone()).collect();
        self.give_back(|book| book.recall(&short, Some(limits), self.clock.monotonic_ms()));
        let position = self.journal.given_back();
        *self.journal.acknowledged().borrow() < position && reporter::reported(&self.journal, position, FLUSH_LIMIT).await
    }

    /// How long it is worth to wait for what others hold.
    fn patience(&self, limits: &[LimitKey], shortfalls: &[Shortfall], need: Amount, refusals: u32) -> Option<Duration> {
        let wait_ms = patience_ms(refusals).filter(|_| may_come_back(shortfalls, need, self.free(limits)))?;
        Some(Duration::from_millis(wait_ms.unsigned_abs()))
    }

    /// What a limit has left for a call is what the ledger has, and what lies here.
    fn with_what_is_here(&self, limits: &[LimitKey], mut shortfalls: Vec<Shortfall>) -> Vec<Shortfall> {
        let free = self.free(limits);
        shortfalls.iter_mut().for_each(|s| s.left = s.left.saturating_add(free.in_unit(s.unit)));
        shortfalls
    }

    /// A call that drew `reserved` has cost `cost`.
    pub fn settle(&self, lease: &LeaseId, reserved: Amount, cost: Amount) {
        self.give_back(|book| book.settle(lease, reserved, cost, self.clock.monotonic_ms()));
    }

    /// A call needs less of what it drew than it thought: `surplus` is free again.
    pub fn release(&self, lease: &LeaseId, surplus: Amount) {
        self.give_back(|book| book.release(lease, surplus));
    }

    /// What one more call under exactly these limits could draw at once.
    pub fn free(&self, limits: &[LimitKey]) -> Amount {
        self.book().free(limits, self.clock.monotonic_ms())
    }

    /// What calls under exactly these limits may still cost; see [`LeaseBook::remaining`].
    pub fn remaining(&self, limits: &[LimitKey]) -> Option<PicoUsd> {
        self.book().remaining(limits, self.clock.monotonic_ms())
    }

    /// Granted and neither settled nor given back.
    pub fn held(&self) -> Amount {
        self.book().held()
    }

    /// Somebody else needs what is unused here under these limits.
    pub fn recall(&self, limits: &[LimitKey]) {
        self.give_back(|book| book.recall(limits, None, self.clock.monotonic_ms()));
    }

    /// These limits have changed: nothing more is drawn on what was granted under the old ones. See [`LeaseBook::revoke`].
    pub fn revoke(&self, limits: &[LimitKey]) {
        self.give_back(|book| book.revoke(limits));
    }

    /// Gives back everything that no call has drawn.
    pub fn close_all(&self) {
        self.give_back(LeaseBook::close_all);
    }

    /// Returns idle money, and asks again where an answer was missed. Runs for ever.
    pub async fn keep(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.give_back(|book| book.tick(self.clock.monotonic_ms()));
            lock(&self.gates).retain(|_, gate| Arc::strong_count(gate) > 1);
            self.repeat_unanswered().await;
        }
    }

    /// Requests whose callers went away: their grants must become known, to be given back.
    async fn repeat_unanswered(&self) {
        let unanswered = self.book().unanswered();
        for (limits, ask) in unanswered {
            let gate = Arc::clone(lock(&self.gates).entry(limits.clone()).or_default());
            // Whoever has the turn is asking this very question.
            let Ok(_turn) = gate.turn.try_lock() else { continue };
            if let Err(error) = self.send(&limits, &ask, ask.min).await {
                tracing::debug!(%error, "a request for a lease is still unanswered");
            }
        }
    }

    /// Takes out of the book what is not needed there, and notes it.
    fn give_back<B: IntoIterator<Item = GiveBack>>(&self, take: impl FnOnce(&mut LeaseBook) -> B) {
        let mut book = self.book();
        let backs = take(&mut book);
        self.note(&book, backs);
    }

    /// Notes what goes back, in the order of its numbers: the ledger heeds none that comes after a later one, so that nobody may
    /// come between the book and the journal.
    fn note(&self, _: &MutexGuard<'_, LeaseBook>, backs: impl IntoIterator<Item = GiveBack>) {
        if let Err(error) = self.journal.give_back(backs) {
            tracing::error!(%error, "money that is not needed cannot go back before this pod ends");
        }
    }

    fn book(&self) -> MutexGuard<'_, LeaseBook> {
        lock(&self.book)
    }
}

impl Gate {
    fn denied(&self, arrival: u64, lacking: Amount) -> Option<Denied> {
        let denial = lock(&self.denial);
        denial.as_ref().filter(|d| arrival < d.arrived && lacking.covers(&d.min)).map(|d| d.denied.clone())
    }

    fn deny(&self, min: Amount, denied: Denied) {
        let arrived = self.arrivals.load(Ordering::Relaxed);
        *lock(&self.denial) = Some(Denial { arrived, min, denied });
    }
}

/// A call in the queue, counted in what is asked for.
struct Waiting<'a> {
    gate: &'a Gate,
    need: Amount,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, need: Amount) -> Waiting<'a> {
        *lock(&gate.waiting) += need;
        Waiting { gate, need }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *lock(&self.gate.waiting) -= self.need;
    }
}

fn answer_name(decision: &Result<Decision, SourceError>) -> &'static str {
    match decision {
        Ok(Decision::Granted { .. }) => "granted",
        Ok(Decision::Refused { .. }) => "refused",
        Ok(Decision::Expired) => "expired",
        Err(_) => "failed",
    }
}

/// What these locks guard is whole after every statement, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
