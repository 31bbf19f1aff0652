//! The end of a call: its actual cost replaces its reservation, and one record of it is written.
//!
//! A [`Reservation`] is money that a call has drawn; an [`OpenCall`] is one that may be on its way. Both hold it exactly as long
//! as they live: a reservation that is dropped frees it, an open call that is dropped without an end is charged as reserved.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::clock::{Clock, elapsed_ms};
use super::journal::{Journal, JournalError, Line};
use super::leases::Leases;
use super::metrics::Metrics;
use super::telemetry::Attempt;
use crate::channel::message::Reported;
use crate::core::amount::Amount;
use crate::core::call::{CallOutcome, CallRecord};
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::core::policy::Provider;
use crate::core::usage::Usage;
use crate::llm::transcript::Answered;

/// Where money is drawn from and ends are written to.
pub struct Accounts {
    pub leases: Leases,
    pub journal: Arc<Journal>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

impl Accounts {
    /// Writes the record of a call that never went upstream, or that draws on nothing.
    pub fn record(&self, record: CallRecord, unleased: Vec<LimitKey>) {
        self.metrics.call_ended(&record, None);
        let line = Line::Reported(Reported::Settled { record: Arc::new(record), lease: None, unleased });
        if let Err(error) = self.journal.append(vec![line]) {
            tracing::error!(%error, "the record of a call is lost");
        }
    }
}

/// Money that a call has drawn and that nothing has been spent of yet.
pub struct Reservation {
    accounts: Arc<Accounts>,
    amount: Amount,
    /// `None` when no limit asks for a lease.
    lease: Option<LeaseId>,
    /// Limits that count the call without a lease.
    unleased: Vec<LimitKey>,
}

impl Reservation {
    pub fn new(accounts: Arc<Accounts>, amount: Amount, lease: Option<LeaseId>, unleased: Vec<LimitKey>) -> Reservation {
        Reservation { accounts, amount, lease, unleased }
    }

    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// The call is about to go upstream. `draft` says what is charged if nothing more is ever learnt.
    ///
    /// # Errors
    /// When that cannot be noted; then the call must not be made, and the money is free again.
    pub fn open(mut self, draft: CallRecord, started: Instant, tried: Tried) -> Result<OpenCall, JournalError> {
        let draft = Arc::new(draft);
        self.accounts.journal.opened(Arc::clone(&draft), self.lease.as_ref(), &self.unleased)?;
        self.accounts.metrics.calls_open.inc();
        Ok(OpenCall {
            accounts: Arc::clone(&self.accounts),
            lease: self.lease.take(),
            unleased: std::mem::take(&mut self.unleased),
            held: self.amount,
            draft: Some(draft),
            tried,
            started,
            first_byte_ms: None,
            bytes: 0,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.accounts.leases.settle(&lease, self.amount, Amount::ZERO);
        }
    }
}

/// A call that may be on its way. Dropped without an end (its task was cancelled), it is charged as reserved.
pub struct OpenCall {
    accounts: Arc<Accounts>,
    lease: Option<LeaseId>,
    unleased: Vec<LimitKey>,
    /// What of its reservation is still set aside.
    held: Amount,
    /// `None` once it is settled.
    draft: Option<Arc<CallRecord>>,
    tried: Tried,
    started: Instant,
    first_byte_ms: Option<i64>,
    bytes: u64,
}

/// What is known of a call that goes upstream, beside its record.
pub struct Tried {
    pub provider: Provider,
    pub streamed: bool,
    /// `None` where the call is not to be recorded.
    pub span: Option<Box<Attempt>>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub outcome: CallOutcome,
    /// HTTP status that the caller saw, or would have seen.
    pub status: u16,
    /// What is charged; `None` charges what was reserved.
    pub charge: Option<(Usage, PicoUsd)>,
}

impl Ending {
    /// The provider answered with an error and charged nothing.
    pub fn failed(status: u16) -> Ending {
        Ending { outcome: CallOutcome::Failed, status, charge: Some((Usage::default(), PicoUsd::ZERO)) }
    }

    /// The provider said what it used.
    pub fn completed(status: u16, usage: Usage, cost: PicoUsd) -> Ending {
        Ending { outcome: CallOutcome::Completed, status, charge: Some((usage, cost)) }
    }

    /// The end is not known well enough: charged as reserved.
    pub fn as_reserved(outcome: CallOutcome, status: u16) -> Ending {
        Ending { outcome, status, charge: None }
    }
}

impl OpenCall {
    /// The first byte of the answer has arrived.
    pub fn first_byte(&mut self) {
        self.first_byte_ms.get_or_insert(elapsed_ms(self.started));
    }

    /// Where what is answered is to be written down, if its owner asked for that.
    pub fn transcript(&self) -> Option<Arc<Mutex<Answered>>> {
        self.tried.span.as_ref()?.transcript()
    }

    /// Bytes of a body went by.
    pub fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// No more than `worst` can be charged any more, all of it for `usage`: what was set aside beyond it is free again.
    pub fn needs_no_more_than(&mut self, worst: Amount, usage: Usage) {
        let worst = worst.min(self.held);
        let (Some(lease), Some(draft)) = (&self.lease, &mut self.draft) else { return };
        if worst == self.held {
            return;
        }
        let reserved = draft.reserved;
        let mut lower = CallRecord::clone(draft);
        (lower.reserved, lower.cost, lower.usage) = (worst, worst.usd, usage);
        // What would be charged after a crash is lowered before anybody else may draw the difference.
        match self.accounts.journal.opened(Arc::new(lower.clone()), self.lease.as_ref(), &self.unleased) {
            Ok(()) => {
                self.accounts.leases.release(lease, self.held - worst);
                self.held = worst;
                lower.reserved = reserved;
                *draft = Arc::new(lower);
            }
            Err(error) => tracing::debug!(%error, "a call keeps all that it has reserved"),
        }
    }

    /// Ends the call: its cost is charged, and the rest of what it had reserved is free again.
    pub fn settle(mut self, ending: Ending) {
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        let Some(draft) = self.draft.take() else { return };
        let reserved = draft.reserved;
        let mut record = Arc::unwrap_or_clone(draft);
        record.duration_ms = elapsed_ms(self.started);
        record.time_to_first_byte_ms = self.first_byte_ms;
        record.bytes += self.bytes;
        (record.outcome, record.status) = (ending.outcome, ending.status);
        if let Some((usage, cost)) = ending.charge {
            (record.usage, record.cost) = (usage, cost);
        }
        let cost = record.amount();
        self.accounts.metrics.calls_open.dec();
        self.accounts.metrics.call_ended(&record, Some(&self.tried));
        if let Some(span) = &self.tried.span {
            span.ended(&record, ending.charge.is_some());
        }
        if !reserved.covers(&cost) && self.lease.is_some() {
            tracing::warn!(call = %record.id, model = &*record.model, ?reserved, ?cost, "a call cost more than it had reserved; all of it is charged");
            self.accounts.metrics.overruns.inc();
        }
        // After a drain that took too long the journal has settled it already.
        let (lease, unleased) = (self.lease.clone(), std::mem::take(&mut self.unleased));
        if let Err(error) = self.accounts.journal.ended(Arc::new(record), lease, unleased) {
            tracing::error!(%error, "the end of a call is not in the journal; it will be charged as reserved");
        }
        if let Some(lease) = self.lease.take() {
            self.accounts.leases.settle(&lease, self.held, cost);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.draft.is_some() {
            tracing::warn!("a call was cut off before its end was known; it is charged as reserved");
            self.end(Ending::as_reserved(CallOutcome::Unknown, 0));
        }
    }
}
