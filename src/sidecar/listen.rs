//! The proxy's listener: connections on loopback, [HTTP/1.1](super::caller) or HTTP/2 as the caller speaks, one task each on one of the
//! [`Workers`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::admit::detach;
use super::call::Sidecar;
use super::caller::{self, CallerBody, HEADER_TIMEOUT};
use super::server::handle;
use super::workers::Workers;

/// After this `accept` failed (too many open files), others get time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A caller that takes nothing of what it is sent for so long is gone.
const STALLED_MS: u32 = 300_000;
/// Bytes of headers at most.
const HEADER_LIMIT: u32 = 64 << 10;
/// Calls at once on one HTTP/2 connection.
const STREAMS: u32 = 1_024;
/// How a client of HTTP/2 that knows its server begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI ";

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\nretry-after: 1\r\n\
content-length: 107\r\n\r\n{\"error\":{\"code\":\"spendkeeper_busy\",\"message\":\"Spendkeeper: too many connections; see --max-connections\"}}\n";

/// Serves until `stop` resolves, then waits for the calls under way for at most `drain`. True when all of them ended.
pub async fn serve(
    sidecar: Arc<Sidecar>,
    workers: &Workers,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    drain: Duration,
) -> bool {
    let stopping = CancellationToken::new();
    let most = sidecar.settings.max_connections.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        set_up(&stream);
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            sidecar.accounts.metrics.refusals.with_label_values(&[crate::llm::ErrorKind::Busy.code()]).inc();
            tokio::spawn(turn_away(stream));
            continue;
        };
        let (sidecar, stopping) = (Arc::clone(&sidecar), stopping.clone());
        // The worker has a reactor of its own, which the socket moves to.
        let Ok(socket) = stream.into_std() else { continue };
        workers.spawn(async move {
            if let Ok(stream) = TcpStream::from_std(socket) {
                connection(sidecar, stream, stopping).await;
            }
            drop(place);
        });
    }
    drop(listener);
    stopping.cancel();
    // Whoever has all places waits for nobody.
    let all = places.acquire_many(u32::try_from(most).unwrap_or(u32::MAX));
    tokio::time::timeout(drain, all).await.is_ok()
}

fn set_up(stream: &TcpStream) {
    // A streamed token is a small packet, which must not wait for the next one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a caller was gone at once");
    }
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, STALLED_MS) {
        tracing::debug!(%error, "a caller that stalls will not be noticed");
    }
}

async fn turn_away(mut stream: TcpStream) {
    if let Err(error) = stream.write_all(TOO_MANY).await {
        tracing::debug!(%error, "a caller that was turned away was gone");
    }
}

async fn connection(sidecar: Arc<Sidecar>, stream: TcpStream, stopping: CancellationToken) {
    let mut first = [0; PREFACE.len()];
    let Ok(Ok(_)) = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut first)).await else { return };
    if first == PREFACE {
        // Boxed, so that the others do not have room for its state.
        Box::pin(multiplexed(sidecar, stream, stopping)).await;
    } else {
        let served = caller::serve(stream, &stopping, |request| handle(Arc::clone(&sidecar), request)).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a caller's connection broke off");
        }
    }
}

/// Serves a connection over HTTP/2.
async fn multiplexed(sidecar: Arc<Sidecar>, stream: TcpStream, stopping: CancellationToken) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        let sidecar = Arc::clone(&sidecar);
        detach(request.headers_mut());
        async move { Ok::<_, Infallible>(handle(sidecar, request.map(CallerBody::Multiplexed)).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_header_list_size(HEADER_LIMIT).max_concurrent_streams(STREAMS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a caller's connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_a_caller_too_many_is_http() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length.parse(), Ok(body.len()));
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
