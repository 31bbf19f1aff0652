//! Waiting for conditions, never for luck.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// What any wait may take: far longer than anything takes, even on a machine that is busy.
pub const LONG: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// The first `Ok` of `look`; panics with the last `Err` when there is none in time.
pub async fn until<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(last) => assert!(start.elapsed() < LONG, "waited too long until {what}; at last: {last:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// As [`until`], for what does not need a runtime.
pub fn until_blocking<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) => assert!(start.elapsed() < LONG, "waited too long until {what}; at last: {last:?}"),
        }
        std::thread::sleep(PAUSE);
    }
}
