//! A limit at a moment: its key, its amount with grants, and the stretch of time that it sums over.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::amount::Unit;
use super::policy::ResourceKey;

/// One limit, or one value of a split limit: `namespace/budget/limit` or `namespace/budget/limit=value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LimitKey(pub String);

impl LimitKey {
    pub fn new(budget: &ResourceKey, limit: &str) -> LimitKey {
        LimitKey(format!("{budget}/{limit}"))
    }

    /// The key of one value of this limit, when its budget is split. A call without that dimension has the value `""`.
    pub fn with_split(&self, value: &str) -> LimitKey {
        LimitKey(format!("{}={value}", self.0))
    }

    /// The limit without its split value: names of resources and limits contain no `=`, values may.
    pub fn base(&self) -> &str {
        self.0.split_once('=').map_or(self.0.as_str(), |(base, _)| base)
    }

    /// The value that a split limit is for.
    pub fn split(&self) -> Option<&str> {
        self.0.split_once('=').map(|(_, value)| value)
    }

    /// The budget that the limit belongs to.
    pub fn budget(&self) -> ResourceKey {
        ResourceKey(self.base().rsplit_once('/').map_or(String::new(), |(budget, _)| budget.to_owned()))
    }

    /// The limit's name within its budget.
    pub fn name(&self) -> &str {
        self.base().rsplit_once('/').map_or(self.base(), |(_, name)| name)
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A limit as it stands at the moment of asking; resolved by whoever knows the budgets, never by the holder of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LimitTerms {
    pub key: LimitKey,
    pub unit: Unit,
    /// The limit with its grants, in `unit`.
    pub limit: i128,
    pub span: Span,
}

/// The stretch of ledger time over which a limit sums what was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Span {
    /// A window with fixed ends, Unix milliseconds; `end_ms` is `i64::MAX` for a lifetime.
    Fixed { start_ms: i64, end_ms: i64 },
    /// The last `length_ms`, kept in buckets of `bucket_ms`: a bucket counts until all of it is older than the window.
    Rolling { length_ms: i64, bucket_ms: i64 },
}

/// Why a limit refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shortfall {
    pub key: LimitKey,
    pub unit: Unit,
    /// What was left, in `unit`: limit − settled − outstanding; negative after an overrun or a lowered limit.
    pub left: i128,
    /// What leases hold and no call is known to have reserved, in `unit`: it may come back when its holders are asked for it.
    #[serde(default)]
    pub idle: i128,
    /// When the window ends, Unix milliseconds of the ledger; `None` for rolling windows and lifetimes.
    pub resets_at_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_what_it_was_made_of_whatever_the_value() {
        let key = LimitKey::new(&ResourceKey::new("shop", "agents"), "per-session");
        assert_eq!(key.0, "shop/agents/per-session");
        assert_eq!((key.budget().0.as_str(), key.name(), key.split()), ("shop/agents", "per-session", None));
        for value in ["", "s-1", "a=b", "a/b=c/d"] {
            let split = key.with_split(value);
            assert_eq!((split.base(), split.split()), (key.0.as_str(), Some(value)));
            assert_eq!((split.budget().0.as_str(), split.name()), ("shop/agents", "per-session"));
        }
    }
}
