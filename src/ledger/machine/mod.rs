//! The ledger's rules, pure: what becomes of rows when a request is applied to them. No I/O, no clock, no async; adapters
//! read the rows that a batch touches ([`touch`]), apply the requests in order, and write what changed.
//!
//! ```text
//!   requests ──touch──▶ keys ──adapter reads──▶ Rows ──apply, apply, …──▶ changes and bookings ──adapter writes, commits──▶ answers
//! ```
//!
//! A request that is rejected leaves the rows as they were, so that one of a batch fails alone.

pub mod forget;
pub mod gone;
pub mod grant;
pub mod report;
pub mod rows;
pub mod table;
#[cfg(test)]
mod tests;
pub mod touch;

use std::sync::Arc;

pub use rows::{Account, AccountKey, Charge, Ended, Lease, LeaseLimit, OpenCall, Rows};
pub use table::{Change, Table};

use super::{Acquire, Decision, Entry, HolderId, LeaseId, Reconciled};
use crate::core::call::CallRecord;
use crate::core::dimensions::{Dimensions, Origin};

/// What a ledger is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Acquire(Acquire),
    Report { holder: HolderId, entries: Vec<Entry>, now_ms: i64 },
    HolderGone { holder: HolderId, now_ms: i64 },
}

/// What it answers, once what it did is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Acquired(Decision),
    /// Of each entry, whether it told of an end or an outcome that was not known before.
    Reported(Vec<bool>),
    Reconciled(Reconciled),
}

/// What is written down of a request beside the rows, and only ever read by queries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Booking {
    /// `replaces` what was booked of the same call before, when that was charged as reserved; else it is the first.
    Call {
        record: Arc<CallRecord>,
        holder: HolderId,
        at_ms: i64,
        replaces: bool,
    },
    Outcome {
        id: String,
        outcome: String,
        count: u64,
        origin: Origin,
        dimensions: Dimensions,
        at_ms: i64,
    },
}

/// A request that asks for what it must not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("lease {} belongs to another holder", .0.0)]
    ForeignLease(LeaseId),
}

/// Carries out `request`: changes `rows`, appends to `books`, and says what to answer.
///
/// # Errors
/// When a lease belongs to another holder; then nothing was changed.
pub fn apply(rows: &mut Rows, request: &Request, books: &mut Vec<Booking>) -> Result<Answer, Rejected> {
    match request {
        Request::Acquire(acquire) => grant::acquire(rows, acquire).map(Answer::Acquired),
        Request::Report { holder, entries, now_ms } => report::report(rows, holder, entries, *now_ms, books).map(Answer::Reported),
        Request::HolderGone { holder, now_ms } => Ok(Answer::Reconciled(gone::holder_gone(rows, holder, *now_ms, books))),
    }
}

impl Request {
    pub fn now_ms(&self) -> i64 {
        match self {
            Request::Acquire(acquire) => acquire.now_ms,
            Request::Report { now_ms, .. } | Request::HolderGone { now_ms, .. } => *now_ms,
        }
    }
}
