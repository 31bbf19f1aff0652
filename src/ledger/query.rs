//! What can be asked of the ledger: the standing of limits, and calls and outcomes summed for allocation and statuses.

use crate::core::amount::{Amount, Unit};
use crate::core::call::CallOutcome;
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::core::policy::Tier;
use crate::core::usage::Usage;
use crate::ledger::machine::Account;

/// Where a limit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitBalance {
    pub key: LimitKey,
    pub unit: Unit,
    pub limit: i128,
    /// Charged in the window, in `unit`.
    pub settled: i128,
    /// Set aside in leases, in `unit`; open calls included.
    pub outstanding: i128,
    /// The part of `outstanding` that open calls have reserved.
    pub reserved: i128,
    /// Start of the window, Unix milliseconds.
    pub window_start_ms: i64,
    /// End of the window; `None` for rolling windows and lifetimes.
    pub window_end_ms: Option<i64>,
}

impl LimitBalance {
    /// How `key`, which is the limit of `terms` or a split of it, stands at `now_ms`.
    pub fn of(terms: &LimitTerms, standing: Account, key: LimitKey, now_ms: i64) -> LimitBalance {
        let (window_start_ms, window_end_ms) = match terms.span {
            Span::Fixed { start_ms, end_ms } => (start_ms, (end_ms != i64::MAX).then_some(end_ms)),
            Span::Rolling { length_ms, .. } => (now_ms - length_ms, None),
        };
        let Account { settled, outstanding, reserved } = standing;
        LimitBalance { key, unit: terms.unit, limit: terms.limit, settled, outstanding, reserved, window_start_ms, window_end_ms }
    }

    /// What a new lease could still take; negative after an overrun.
    pub fn left(&self) -> i128 {
        self.limit - self.settled - self.outstanding
    }
}

/// Which calls to sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallQuery {
    /// Calls that ended in `from_ms ≤ t < to_ms`, by the ledger's clock.
    pub from_ms: i64,
    pub to_ms: i64,
    /// Only calls that this route served.
    pub route: Option<String>,
}

/// Calls with the same dimensions, summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTotals {
    /// `pod` and `pod_uid` are empty: calls are summed over the pods of a workload.
    pub origin: Origin,
    pub dimensions: Dimensions,
    pub route: String,
    /// The backend, or the shared service when `shared` holds.
    pub backend: String,
    pub shared: bool,
    pub requested_model: String,
    pub model: String,
    pub requested_tier: Option<Tier>,
    pub tier: Option<Tier>,
    pub needed_tier: Option<Tier>,
    pub outcome: CallOutcome,
    pub calls: u64,
    pub usage: Usage,
    pub bytes: u64,
    pub cost: PicoUsd,
    /// Sum of the calls' durations, milliseconds.
    pub duration_ms: u64,
    /// First and last call, Unix milliseconds by the ledger's clock.
    pub first_ms: i64,
    pub last_ms: i64,
}

/// Outcomes with the same name and dimensions, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeCount {
    pub outcome: String,
    pub origin: Origin,
    pub dimensions: Dimensions,
    pub count: u64,
}

impl CallTotals {
    /// What the calls weigh in each unit.
    pub fn amount(&self) -> Amount {
        let to_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Amount {
            usd: self.cost,
            tokens: to_i64(self.usage.total()),
            requests: if self.outcome.is_charged() { to_i64(self.calls) } else { 0 },
        }
    }
}
