//! The proxy's listener: connections on loopback, HTTP/1.1 or HTTP/2 as the caller speaks, one task each on one of the [`Workers`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::call::Sidecar;
use super::server::handle;
use super::workers::Workers;

/// How long a caller may take to say anything, and to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After this `accept` failed (too many open files), others get time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A caller that takes nothing of what it is sent for so long is gone.
const STALLED_MS: u32 = 300_000;
/// Bytes of headers at most.
const HEADER_LIMIT: u32 = 64 << 10;
/// Room for what is read ahead of a request over HTTP/1.1, its headers included.
const READ_AHEAD: usize = 256 << 10;
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
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(sidecar.settings.max_connections));
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
        let (sidecar, watcher) = (Arc::clone(&sidecar), connections.watcher());
        // The worker has a reactor of its own, which the socket moves to.
        let Ok(socket) = stream.into_std() else { continue };
        workers.spawn(async move {
            if let Ok(stream) = TcpStream::from_std(socket) {
                connection(sidecar, stream, watcher).await;
            }
            drop(place);
        });
    }
    drop(listener);
    tokio::time::timeout(drain, connections.shutdown()).await.is_ok()
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

async fn connection(sidecar: Arc<Sidecar>, stream: TcpStream, watcher: Watcher) {
    let mut first = [0; PREFACE.len()];
    let Ok(Ok(_)) = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut first)).await else { return };
    let service = service_fn(move |request| {
        let sidecar = Arc::clone(&sidecar);
        async move { Ok::<_, Infallible>(handle(sidecar, request).await) }
    });
    let served = if first == PREFACE {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_header_list_size(HEADER_LIMIT).max_concurrent_streams(STREAMS);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(READ_AHEAD);
        // Into one buffer: a stream's events are small, and the room that they were read into is free for the next ones at once.
        builder.writev(false);
        watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await
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
