//! Who lacks what others may hold unused: each connected sidecar hears of it, and gives back what it does not need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::core::limit::LimitKey;

/// Shortest time between two recalls of one limit.
const PAUSE: Duration = Duration::from_millis(250);
/// Recalls that a slow stream may be behind.
const BACKLOG: usize = 256;

/// Somebody lacks what others may hold unused.
#[derive(Clone, Debug)]
pub struct Recall {
    /// UID of the pod that lacks it; `None` when another replica serves that.
    pub by: Option<String>,
    pub limits: Arc<[LimitKey]>,
}

/// Recalls to the sidecars that are connected here.
pub struct Recalls {
    sender: broadcast::Sender<Recall>,
    last: Mutex<HashMap<LimitKey, Instant>>,
}

impl Default for Recalls {
    fn default() -> Recalls {
        Recalls { sender: broadcast::Sender::new(BACKLOG), last: Mutex::default() }
    }
}

impl Recalls {
    pub fn subscribe(&self) -> broadcast::Receiver<Recall> {
        self.sender.subscribe()
    }

    /// Asks everybody else for what they hold of `limits` and do not need, unless they were asked just now.
    pub fn ask(&self, by: Option<&str>, mut limits: Vec<LimitKey>) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, at| now - *at < PAUSE);
        limits.retain(|key| last.insert(key.clone(), now).is_none());
        drop(last);
        if !limits.is_empty() {
            // An error means that no sidecar is connected.
            let _ = self.sender.send(Recall { by: by.map(str::to_owned), limits: limits.into() });
        }
    }
}
