//! The operator's own certificate authority, and the certificate with which webhook and control channel are served.
//!
//! The CA lives in the Secret `spendkeeper-ca`; the serving certificate and its key only in this process's memory.
//! Both are renewed while the operator runs, and no connection breaks: see [`ca_step`] and [`serving_is_due`].
//!
//! ```text
//!   CA:       |───── signs ──────────────┬ next one announced ┬ next one signs ──┐
//!             0                        1 year           2 years − 60 days     2 years
//!   serving:  |──── in use ──── renewed at day 20 ────┐
//!             0                                     30 days
//! ```
//!
//! A sidecar trusts the bundle that was current when its pod was made, so the next CA is in the bundle for ten months
//! before it signs anything: only a pod that runs longer than that loses the channel, and says so.

mod authority;
mod store;

use std::time::Duration;

pub use authority::{Authority, CertificateError};
pub use store::{CertificateKeeper, Settings};

/// How long a CA is valid.
pub const CA_LIFE: Duration = Duration::from_secs(730 * 86_400);
/// How long before its end a CA stops signing.
pub const CA_HANDOVER: Duration = Duration::from_secs(60 * 86_400);
/// How long a serving certificate is valid.
pub const SERVING_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// Certificates are valid from a little before they are made, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(3_600);

/// From when to when a certificate is valid, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    /// Valid for `life` from `now` on.
    pub fn starting(now: i64, life: Duration) -> Validity {
        Validity { not_before: now - seconds(BACKDATE), not_after: now + seconds(life) }
    }

    fn holds(&self, now: i64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    fn halfway(&self) -> i64 {
        self.not_before + (self.not_after - self.not_before) / 2
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// What to do about the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaStep {
    Keep,
    /// Make the next CA and let everybody know it; the current one goes on signing.
    Announce,
    /// From now on the next CA signs.
    HandOver,
    /// None is usable: begin anew. Sidecars that run lose the channel until their pods are replaced.
    Replace,
}

/// What to do at `now` about a CA and, once announced, its successor.
pub fn ca_step(now: i64, current: Option<Validity>, next: Option<Validity>) -> CaStep {
    let next = next.filter(|next| next.holds(now));
    let Some(current) = current.filter(|current| current.holds(now)) else {
        return if next.is_some() { CaStep::HandOver } else { CaStep::Replace };
    };
    let handover = current.not_after - seconds(CA_HANDOVER);
    match next {
        Some(_) if now >= handover => CaStep::HandOver,
        None if now >= current.halfway() => CaStep::Announce,
        _ => CaStep::Keep,
    }
}

/// True once two thirds of a serving certificate's life are over, or it is not valid at all.
pub fn serving_is_due(now: i64, validity: Validity) -> bool {
    let life = validity.not_after - validity.not_before;
    !validity.holds(now) || now >= validity.not_before + life / 3 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_800_000_000;

    fn day(n: i64) -> i64 {
        T0 + n * 86_400
    }

    #[test]
    fn a_ca_is_announced_at_half_its_life_and_signs_before_its_forerunner_ends() {
        let current = Some(Validity::starting(T0, CA_LIFE));
        let next = Some(Validity::starting(day(365), CA_LIFE));
        let table = [
            (0, None, CaStep::Keep),
            (364, None, CaStep::Keep),
            (365, None, CaStep::Announce),
            (365, next, CaStep::Keep),
            (669, next, CaStep::Keep),
            (670, next, CaStep::HandOver),
            (730, next, CaStep::HandOver),
            (730, None, CaStep::Replace),
            (2000, next, CaStep::Replace),
        ];
        for (at, next, expected) in table {
            assert_eq!(ca_step(day(at), current, next), expected, "day {at}");
        }
        assert_eq!(ca_step(T0, None, None), CaStep::Replace, "there is none at the start");
        assert_eq!(ca_step(day(-1), current, None), CaStep::Replace, "one from the future is of no use");
    }

    #[test]
    fn a_serving_certificate_is_renewed_at_two_thirds_of_its_life() {
        let validity = Validity::starting(T0, SERVING_LIFE);
        for (at, due) in [(0, false), (19, false), (20, true), (30, true), (-1, true)] {
            assert_eq!(serving_is_due(day(at), validity), due, "day {at}");
        }
    }

    #[test]
    fn a_serving_certificate_never_outlives_the_ca_that_signed_it() {
        assert!(SERVING_LIFE < CA_HANDOVER);
    }
}
