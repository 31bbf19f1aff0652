//! What a budget counts: money, tokens and requests, side by side.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use serde::{Deserialize, Serialize};

use super::money::PicoUsd;

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unit {
    /// Pico-dollars.
    Usd,
    /// Tokens of every meter, input and output alike.
    Tokens,
    /// Calls.
    Requests,
}

/// A call's weight in each unit: what it reserves, or what it cost. A limit looks at its own unit's component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amount {
    pub usd: PicoUsd,
    pub tokens: i64,
    pub requests: i64,
}

impl Amount {
    pub const ZERO: Amount = Amount { usd: PicoUsd::ZERO, tokens: 0, requests: 0 };

    /// The component that a limit in `unit` counts; pico-dollars for [`Unit::Usd`].
    pub fn in_unit(&self, unit: Unit) -> i128 {
        match unit {
            Unit::Usd => self.usd.0,
            Unit::Tokens => self.tokens.into(),
            Unit::Requests => self.requests.into(),
        }
    }

    /// True when every component is at least `other`'s.
    pub fn covers(&self, other: &Amount) -> bool {
        self.usd >= other.usd && self.tokens >= other.tokens && self.requests >= other.requests
    }

    pub fn max(self, other: Amount) -> Amount {
        Amount { usd: self.usd.max(other.usd), tokens: self.tokens.max(other.tokens), requests: self.requests.max(other.requests) }
    }

    pub fn min(self, other: Amount) -> Amount {
        Amount { usd: self.usd.min(other.usd), tokens: self.tokens.min(other.tokens), requests: self.requests.min(other.requests) }
    }

    /// `self - other`, each component no lower than zero.
    pub fn minus_floor_zero(self, other: Amount) -> Amount {
        (self - other).max(Amount::ZERO)
    }

    /// The sum, each component no higher than its type goes.
    pub fn saturating_add(self, other: Amount) -> Amount {
        Amount {
            usd: PicoUsd(self.usd.0.saturating_add(other.usd.0)),
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    /// `times` as much, each component no higher than its type goes.
    pub fn saturating_mul(self, times: i64) -> Amount {
        Amount {
            usd: PicoUsd(self.usd.0.saturating_mul(times.into())),
            tokens: self.tokens.saturating_mul(times),
            requests: self.requests.saturating_mul(times),
        }
    }

    pub fn is_zero(&self) -> bool {
        *self == Amount::ZERO
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount { usd: self.usd + other.usd, tokens: self.tokens + other.tokens, requests: self.requests + other.requests }
    }
}
impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount { usd: self.usd - other.usd, tokens: self.tokens - other.tokens, requests: self.requests - other.requests }
    }
}
impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}
impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}
