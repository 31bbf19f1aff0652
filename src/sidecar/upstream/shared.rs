//! Connections that many calls share: HTTP/2, one task a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::UpstreamBody;
use super::connect::Socket;
use super::idle::Place;

/// Calls on one connection at once. Servers commonly allow 100 to 250; beyond this another connection is made.
const CALLS: usize = 100;
/// A connection without a call is closed after this.
const TIMEOUT: Duration = Duration::from_secs(60);
/// With calls under way a server is asked this often whether it is still there, and has so long to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Room for what is received and not read: for a connection, and for a call on it.
const CONNECTION_WINDOW: u32 = 1 << 20;
const CALL_WINDOW: u32 = 256 << 10;

/// One call's part of a connection.
pub struct Lane {
    pub sender: SendRequest<UpstreamBody>,
    /// Held as long as the call lasts.
    pub place_taken: Arc<()>,
}

struct Channel {
    sender: SendRequest<UpstreamBody>,
    /// As many as calls, and one.
    calls: Arc<()>,
    used: Instant,
}

/// Shared connections by where they lead.
#[derive(Default)]
pub struct Shared(Mutex<HashMap<Place, Vec<Channel>>>);

impl Shared {
    /// A place on a connection that has one left.
    pub fn take(&self, place: &Place) -> Option<Lane> {
        let mut channels = self.lock();
        let channels = channels.get_mut(place)?;
        channels.retain(|channel| !channel.sender.is_closed());
        let channel = channels.iter_mut().find(|channel| Arc::strong_count(&channel.calls) <= CALLS)?;
        channel.used = Instant::now();
        Some(Lane { sender: channel.sender.clone(), place_taken: Arc::clone(&channel.calls) })
    }

    /// Begins to use a connection, and takes a place on it.
    pub async fn add(self: &Arc<Self>, place: &Place, socket: Socket) -> Result<Lane, hyper::Error> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(CALL_WINDOW);
        let (sender, connection) = builder.handshake(socket).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a shared connection broke off");
            }
        });
        let channel = Channel { sender, calls: Arc::new(()), used: Instant::now() };
        let lane = Lane { sender: channel.sender.clone(), place_taken: Arc::clone(&channel.calls) };
        let mut channels = self.lock();
        if channels.is_empty() {
            tokio::spawn(Arc::clone(self).sweep());
        }
        channels.entry(place.clone()).or_default().push(channel);
        Ok(lane)
    }

    /// Closes connections without calls, until there is none.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIMEOUT).await;
            let mut places = self.lock();
            places.retain(|_, channels| {
                let in_use = |c: &Channel| Arc::strong_count(&c.calls) > 1 || c.used.elapsed() < TIMEOUT;
                channels.retain(|channel| !channel.sender.is_closed() && in_use(channel));
                !channels.is_empty()
            });
            if places.is_empty() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Vec<Channel>>> {
        // Whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
