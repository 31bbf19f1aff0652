//! What is known of backends: a circuit breaker for each.
//!
//! ```text
//!   closed ──FAILURES in a row──▶ open ──PAUSE_MS passed──▶ half open: one call tries
//!     ▲                            ▲                          │       │
//!     └────────success─────────────┼──────────────────────────┘       │
//!                                  └────────────failure───────────────┘
//! ```
//!
//! An unhealthy backend is only less preferred: when no other can answer, it is called all the same.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures in a row that open a breaker.
const FAILURES: u32 = 5;
/// How long an open breaker keeps calls away.
const PAUSE_MS: i64 = 10_000;

/// One backend's breaker. Pure: time comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    /// When the next call may try; meaningful while open.
    retry_at_ms: i64,
}

impl Breaker {
    pub fn is_healthy(&self, now_ms: i64) -> bool {
        self.failures < FAILURES || now_ms >= self.retry_at_ms
    }

    /// A call is about to try. Of an open breaker whose pause has passed, only this one does.
    pub fn trying(&mut self, now_ms: i64) {
        if self.failures >= FAILURES && now_ms >= self.retry_at_ms {
            self.retry_at_ms = now_ms + PAUSE_MS;
        }
    }

    pub fn ended(&mut self, success: bool, now_ms: i64) {
        if success {
            *self = Breaker::default();
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= FAILURES {
                self.retry_at_ms = now_ms + PAUSE_MS;
            }
        }
    }
}

/// The breakers of all backends, by `namespace/route/backend`. A backend without an entry never failed lately.
#[derive(Debug, Default)]
pub struct Health(Mutex<HashMap<String, Breaker>>);

impl Health {
    pub fn is_healthy(&self, backend: &str, now_ms: i64) -> bool {
        self.breakers().get(backend).is_none_or(|b| b.is_healthy(now_ms))
    }

    pub fn trying(&self, backend: &str, now_ms: i64) {
        if let Some(breaker) = self.breakers().get_mut(backend) {
            breaker.trying(now_ms);
        }
    }

    pub fn succeeded(&self, backend: &str) {
        self.breakers().remove(backend);
    }

    pub fn failed(&self, backend: &str, now_ms: i64) {
        let mut breakers = self.breakers();
        match breakers.get_mut(backend) {
            Some(breaker) => breaker.ended(false, now_ms),
            None => {
                let mut breaker = Breaker::default();
                breaker.ended(false, now_ms);
                breakers.insert(backend.to_owned(), breaker);
            }
        }
    }

    fn breakers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Breaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(now_ms: i64) -> Breaker {
        let mut breaker = Breaker::default();
        (0..FAILURES).for_each(|_| breaker.ended(false, now_ms));
        breaker
    }

    #[test]
    fn a_few_failures_are_forgiven_and_a_success_forgets_them() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            (1..FAILURES).for_each(|_| breaker.ended(false, 0));
            assert!(breaker.is_healthy(0));
            breaker.ended(true, 0);
        }
    }

    #[test]
    fn after_the_pause_one_call_tries_and_its_end_decides() {
        let mut breaker = broken(0);
        assert!(!breaker.is_healthy(PAUSE_MS - 1));
        assert!(breaker.is_healthy(PAUSE_MS));
        breaker.trying(PAUSE_MS);
        assert!(!breaker.is_healthy(PAUSE_MS + 1));
        let (mut failed, mut succeeded) = (breaker, breaker);
        failed.ended(false, PAUSE_MS + 1);
        succeeded.ended(true, PAUSE_MS + 1);
        assert!(!failed.is_healthy(2 * PAUSE_MS) && failed.is_healthy(2 * PAUSE_MS + 1));
        assert!(succeeded.is_healthy(PAUSE_MS + 1));
    }
}
