//! Connections that wait for the next call.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use tokio::time::Instant;

use super::link::Link;
use crate::sidecar::workers::this_thread;

/// Shorter than servers usually keep idle connections, so that a call is seldom sent on one that is just being closed.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Threads that carry calls do not wait for each other here, unless there are more of them.
const SHARDS: usize = 4;

/// Where a connection leads, and the thread whose calls it carries: only there is it waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    thread: usize,
    pub scheme: Scheme,
    pub authority: Authority,
}

impl Place {
    /// For calls of this thread.
    pub fn here(scheme: Scheme, authority: Authority) -> Place {
        Place { thread: this_thread(), scheme, authority }
    }

    /// The host, and its port where it is not the scheme's own.
    pub fn host(&self) -> Cow<'_, str> {
        let own = if self.scheme == Scheme::HTTPS { 443 } else { 80 };
        let (host, port) = (self.authority.host(), self.authority.port_u16().filter(|port| *port != own));
        match port {
            None => host.into(),
            // Nobody is told of a user's name.
            Some(port) if self.authority.as_str().contains('@') => format!("{host}:{port}").into(),
            Some(_) => self.authority.as_str().into(),
        }
    }
}

/// Connections by where they lead, each with when it was last used.
type Links = HashMap<Place, Vec<(Instant, Box<Link>)>>;

/// Idle connections by where they lead, the one that was used last at the end.
#[derive(Default)]
pub struct Idle([Mutex<Links>; SHARDS]);

impl Idle {
    /// The connection that was used last, if its server has not closed it.
    pub fn take(&self, place: &Place) -> Option<Box<Link>> {
        let mut links = self.lock(place.thread);
        let links = links.get_mut(place)?;
        while let Some((since, mut link)) = links.pop() {
            if since.elapsed() < TIMEOUT && link.is_idle() {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection for the next call, unless it cannot carry one.
    pub fn put(self: &Arc<Self>, place: &Place, mut link: Box<Link>) {
        // Without a runtime the process is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !link.is_idle() {
            return;
        }
        let mut links = self.lock(place.thread);
        if links.is_empty() {
            runtime.spawn(Arc::clone(self).sweep(place.thread));
        }
        match links.get_mut(place) {
            Some(links) => links.push((Instant::now(), link)),
            None => {
                links.insert(place.clone(), vec![(Instant::now(), link)]);
            }
        }
    }

    /// Closes connections of a shard that have waited for too long, until there is none.
    async fn sweep(self: Arc<Self>, thread: usize) {
        loop {
            tokio::time::sleep(TIMEOUT).await;
            let mut places = self.lock(thread);
            places.retain(|_, links| {
                links.retain_mut(|(since, link)| since.elapsed() < TIMEOUT && link.is_idle());
                !links.is_empty()
            });
            if places.is_empty() {
                return;
            }
        }
    }

    fn lock(&self, thread: usize) -> MutexGuard<'_, Links> {
        // Whole after every statement.
        self.0[thread % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
