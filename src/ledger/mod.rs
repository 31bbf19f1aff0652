//! The ledger: who may spend how much, and what was spent. A port; the rules of the ledger ([`machine`], pure); adapters that keep
//! its rows, held to the same promises by one conformance suite.
//!
//! A sidecar spends from *leases*. A lease is an amount set aside under a set of limits at once; at every instant
//! `settled + outstanding leases ≤ limit` for each limit that a lease was ever granted under (invariant I1). Every
//! operation is idempotent: leases by id and sequence, charges by call id, so a caller that got no answer asks again.
//!
//! ```text
//!   acquire ──▶ outstanding ──settle(actual)──▶ settled
//!                   │  ▲                            actual may exceed what is outstanding: all of it is charged
//!                   │  └─ acquire again (top up)
//!                   ├──give back──▶ free again
//!                   └──holder gone──▶ open calls charged as reserved, the rest free again
//! ```

pub mod calls;
pub mod columns;
mod encoded;
mod known;
pub mod machine;
pub mod postgres;
pub mod query;
mod queue;
pub mod sqlite;
pub mod usage;

#[cfg(test)]
pub(crate) mod conformance;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

use crate::core::amount::Amount;
use crate::core::call::{CallId, CallRecord};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitTerms, Shortfall};
use crate::core::money::PicoUsd;
use machine::Rejected;
use query::{CallQuery, CallTotals, LimitBalance, OutcomeCount};

/// Who holds a lease: the pod's UID, or a fixed name for a sidecar that runs without a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HolderId(pub String);

pub use crate::core::lease::LeaseId;

/// A request for a lease, or for more of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acquire {
    pub lease: LeaseId,
    /// Grows with each request for this lease; a repeated number gets the first answer again.
    pub seq: u64,
    pub holder: HolderId,
    /// The whole set; the amount is granted under all of them or none.
    pub limits: Vec<LimitTerms>,
    /// What one call needs: the grant is at least this.
    pub min: Amount,
    /// What the holder would like, to be spared further requests.
    pub want: Amount,
    pub now_ms: i64,
}

/// The ledger's answer to [`Acquire`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// `granted` was added to the lease. New calls may draw on it for `valid_for_ms`, counted from before the request was sent.
    /// `left` is what the tightest limit in US dollars has left for everybody after it; `None` when no limit is in dollars.
    Granted {
        granted: Amount,
        valid_for_ms: i64,
        #[serde(default)]
        left: Option<PicoUsd>,
    },
    /// The limits that had less left than `min`; nothing was set aside.
    Refused { shortfalls: Vec<Shortfall> },
    /// A window of the lease has ended: give it back and ask for a new one.
    Expired,
}

/// What a holder reports; applied in order, each at most once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A call is about to go upstream and may cost up to `reserved`, out of `lease`. Should its end never be learnt, it is
    /// charged so much to the lease's limits and to `unleased` ones, and `draft` is its record.
    Opened { call: CallId, lease: Option<LeaseId>, reserved: Amount, draft: Option<Arc<CallRecord>>, unleased: Vec<LimitTerms> },
    /// A call has ended. Its cost leaves `lease` for the settled side of every limit of the lease, and is charged to
    /// `unleased` limits too (those that only warn, or that were unreachable and fail open). A refused or failed call
    /// has no cost and only closes its reservation.
    Settled { record: Arc<CallRecord>, lease: Option<LeaseId>, unleased: Vec<LimitTerms> },
    /// Part of a lease is not needed. `seq` is of the same sequence as [`Acquire::seq`].
    GivenBack { lease: LeaseId, seq: u64, amount: Amount },
    /// `count` outcomes happened; idempotent by `id`.
    Outcome { id: String, outcome: String, count: u64, origin: Origin, dimensions: Dimensions, at_ms: i64 },
}

/// What became of the leases of a holder that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Open calls that were charged as reserved, because whether the provider charged cannot be known.
    pub unknown_calls: u64,
    pub charged: Amount,
    pub freed: Amount,
}

/// The port. Answers only once what it did is durable.
#[async_trait]
pub trait Ledger: Send + Sync {
    async fn acquire(&self, request: Acquire) -> Result<Decision, LedgerError>;

    /// Applies `entries` of one holder, all of them or none. Says of each whether it told of an end or an outcome that was not known
    /// before: what is reported again is false. After a lost connection to the database the first answer may be lost, and then nobody
    /// is told.
    async fn report(&self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) -> Result<Vec<bool>, LedgerError>;

    /// Charges the holder's open calls as reserved and frees the rest of its leases.
    async fn holder_gone(&self, holder: &HolderId, now_ms: i64) -> Result<Reconciled, LedgerError>;

    /// Holders with a lease that is not empty or with open calls.
    async fn holders(&self) -> Result<Vec<HolderId>, LedgerError>;

    /// The standing of every limit whose key is one of, or a split of, the given terms' keys.
    async fn balances(&self, terms: &[LimitTerms], now_ms: i64) -> Result<Vec<LimitBalance>, LedgerError>;

    /// Calls summed by their dimensions.
    async fn totals(&self, query: &CallQuery) -> Result<Vec<CallTotals>, LedgerError>;

    /// Outcomes counted by name and dimensions, `from_ms ≤ at < to_ms`.
    async fn outcomes(&self, from_ms: i64, to_ms: i64) -> Result<Vec<OutcomeCount>, LedgerError>;

    /// Grows whenever something was written here; what other replicas write is seen when it is asked for.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Leaves a note for the other replicas, for a minute; the same note again is no other. With one writer there is nobody to read it.
    async fn tell(&self, _: &Note) -> Result<(), LedgerError> {
        Ok(())
    }

    /// The notes of other replicas than `reader` that come after those that are known, by the last number of each writer; in order, with
    /// how long ago each was written, in milliseconds of the database's clock.
    async fn told(&self, _reader: &str, _known: &BTreeMap<String, i64>) -> Result<Vec<(Note, i64)>, LedgerError> {
        Ok(Vec::new())
    }

    /// Finishes what is queued. Afterwards every request answers [`LedgerError::Stopped`].
    async fn close(&self);
}

/// What one replica of the operator tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A name that no other process has or had.
    pub writer: String,
    /// Grows by one with each note of a writer.
    pub number: i64,
    pub text: String,
}

/// What is settled for a ledger when it is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A file (PEM) of the authorities that may vouch for the database's certificate; without it, the machine's.
    pub ca: Option<PathBuf>,
    /// How long single calls are kept; without it, for ever. Their sums by hour always are.
    pub keep_calls: Option<Duration>,
}

impl Options {
    /// Calls from before may be deleted: whole hours, so that what their sums hold is not summed anew from a part of them.
    fn delete_before(&self, now_ms: i64) -> Option<i64> {
        let keep_ms = i64::try_from(self.keep_calls?.as_millis()).unwrap_or(i64::MAX);
        Some(usage::hour_of(now_ms.saturating_sub(keep_ms)))
    }
}

/// Calls that a writer deletes in one transaction at most, so that nobody waits for long.
const PRUNED: i64 = 1_000;

/// When a writer that works looks for calls to delete again, after it deleted so many: soon, while there are more, so that it keeps up
/// with any number of calls.
fn until_next_pruning(deleted: usize) -> Duration {
    if deleted < PRUNED as usize { Duration::from_secs(10) } else { Duration::from_millis(100) }
}

/// Whether several replicas may write the ledger at `address`: a database, not a file.
pub fn is_shared(address: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| address.starts_with(scheme))
}

/// Opens the ledger at `address`: a `postgres://` URL, or the path of an SQLite file.
///
/// # Errors
/// When it cannot be used, or was written by a newer release.
pub async fn open(address: &str, options: Options) -> Result<Arc<dyn Ledger>, LedgerError> {
    if is_shared(address) {
        return Ok(Arc::new(postgres::PostgresLedger::open(address, options).await?));
    }
    Ok(Arc::new(sqlite::SqliteLedger::open_with(Path::new(address), options)?))
}

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("the ledger at {path} cannot be opened: {reason}; check that the volume is writable and has space")]
    Open { path: String, reason: String },
    #[error("the ledger failed: {0}")]
    Storage(String),
    #[error("the ledger's volume is full: {0}; enlarge it, and what waits is asked again")]
    NoSpace(String),
    #[error("the ledger cannot be written: {0}; check the volume's mount and its permissions")]
    ReadOnly(String),
    #[error("the ledger's database is out of reach: {0}")]
    Unreachable(String),
    #[error("the ledger holds what it did not write: {0}; restore it from a backup")]
    Corrupt(String),
    #[error("the ledger at {path} has schema version {found}, newer than {known}: run at least the release that wrote it")]
    NewerSchema { path: String, found: i64, known: i64 },
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("the ledger has stopped")]
    Stopped,
}

impl LedgerError {
    /// What is wrong with the ledger, as the reason of a condition; `None` where it is the request, or the ledger was told to end.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            LedgerError::NoSpace(_) => Some("NoSpace"),
            LedgerError::ReadOnly(_) => Some("ReadOnly"),
            LedgerError::Corrupt(_) => Some("Corrupt"),
            LedgerError::Unreachable(_) => Some("Unreachable"),
            LedgerError::Open { .. } | LedgerError::Storage(_) | LedgerError::NewerSchema { .. } => Some("Failing"),
            LedgerError::Rejected(_) | LedgerError::Stopped => None,
        }
    }
}
