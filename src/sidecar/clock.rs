//! The sidecar's clocks. Leases run on the monotonic one; records carry the wall clock's time, which nothing depends on.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the sidecar started, never going back, and Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Milliseconds since the start.
    pub fn monotonic_ms(&self) -> i64 {
        millis(self.start.elapsed().as_millis())
    }

    /// Unix milliseconds.
    pub fn unix_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| millis(since.as_millis()))
    }
}

/// Milliseconds between an instant and now.
pub fn elapsed_ms(since: Instant) -> i64 {
    millis(since.elapsed().as_millis())
}

fn millis(millis: u128) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}
