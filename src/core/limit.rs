//! A limit at a moment: its key, its amount with grants, and the stretch of time that it sums over.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::amount::Unit;

/// One limit, or one value of a split limit: `namespace/budget/limit` or `namespace/budget/limit=value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LimitKey(pub String);

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A limit as it stands at the moment of asking; resolved by whoever knows the budgets, never by the holder of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitTerms {
    pub key: LimitKey,
    pub unit: Unit,
    /// The limit with its grants, in `unit`.
    pub limit: i128,
    pub span: Span,
}

/// The stretch of ledger time over which a limit sums what was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Span {
    /// A window with fixed ends, Unix milliseconds; `end_ms` is `i64::MAX` for a lifetime.
    Fixed { start_ms: i64, end_ms: i64 },
    /// The last `length_ms`, kept in buckets of `bucket_ms`: a bucket counts until all of it is older than the window.
    Rolling { length_ms: i64, bucket_ms: i64 },
}

/// Why a limit refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    pub key: LimitKey,
    pub unit: Unit,
    /// What was left, in `unit`: limit − settled − outstanding; negative after an overrun or a lowered limit.
    pub left: i128,
    /// When the window ends, Unix milliseconds of the ledger; `None` for rolling windows and lifetimes.
    pub resets_at_ms: Option<i64>,
}
