//! One caller's connection over HTTP/1.1, driven by its own task: request after request, each answered before the next one is read.
//!
//! It is our own for what it costs (`docs/decisions/0026`): a request that fits a read is copied once, its headers and its body are parts of that
//! copy, and a connection that waits holds a socket and little else. It reads and writes in the task that makes the call, so that an event of
//! a stream goes on when it arrives, and those that arrive together go together.

pub mod head;
mod reader;
mod writer;

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{MaybeDone, maybe_done};
use http::{Request, Response};
use http_body::Body;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use reader::CallerBody;

use super::alarm::Alarm;
use super::body::ProxyBody;
use super::server::plain_error;
use head::{Head, HeadError};
use reader::{Ended, Shared};
use writer::{Asked, Writer};

/// How long a caller may take to say anything at first, and to send a request's head once that has begun.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be idle between requests: longer than SDKs keep theirs, so that it is seldom closed under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Before a connection is closed on a caller that may still be sending, what it sends is read for so long, and up to so many bytes: else the
/// answer may be lost on its way.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_BYTES: usize = 64 << 20;

/// Answers each request of a connection by `handle`, until it ends; once `stop` is cancelled, until the request under way is answered.
///
/// # Errors
/// When the connection breaks off, or an answer does.
pub async fn serve<F>(stream: TcpStream, stop: &CancellationToken, handle: impl Fn(Request<CallerBody>) -> F) -> io::Result<()>
where
    F: Future<Output = Response<ProxyBody>>,
{
    let (read, write) = stream.into_split();
    let mut caller = Caller { reader: Shared::new(read), socket: write, writer: Writer::default() };
    caller.serve(stop, handle).await
}

struct Caller {
    reader: Shared,
    socket: OwnedWriteHalf,
    writer: Writer,
}

/// What became of a request.
enum Answered {
    /// The next one may come.
    Whole,
    /// The connection ends with it.
    Last,
    /// The connection ends with it, and the caller may still be sending.
    Early,
    /// There is nobody any more whom to answer.
    Gone,
}

impl Caller {
    async fn serve<F>(&mut self, stop: &CancellationToken, handle: impl Fn(Request<CallerBody>) -> F) -> io::Result<()>
    where
        F: Future<Output = Response<ProxyBody>>,
    {
        let mut stopped = pin!(stop.cancelled());
        let mut alarm = Alarm::default();
        let mut until = Instant::now() + HEADER_TIMEOUT;
        loop {
            let mut has_begun = false;
            let head = std::future::poll_fn(|context| {
                let mut reader = self.reader.lock();
                if let Poll::Ready(head) = reader.poll_head(context) {
                    return Poll::Ready(Some(head));
                }
                if !reader.is_between() && !std::mem::replace(&mut has_begun, true) {
                    until = Instant::now() + HEADER_TIMEOUT;
                }
                // One that has begun to ask is answered, whoever wants to stop.
                let over = alarm.poll(until, context).is_ready() || !has_begun && stopped.as_mut().poll(context).is_ready();
                if over { Poll::Ready(None) } else { Poll::Pending }
            });
            match head.await {
                None | Some(Err(Ended::Closed)) => return Ok(()),
                Some(Err(Ended::Refused(error))) => return self.refuse(&error).await,
                Some(Ok(head)) => match self.answer(stop, head, &handle).await? {
                    Answered::Whole => until = Instant::now() + IDLE_TIMEOUT,
                    Answered::Early => return self.linger().await,
                    Answered::Last | Answered::Gone => return Ok(()),
                },
            }
        }
    }

    async fn answer<F>(&mut self, stop: &CancellationToken, head: Head, handle: impl Fn(Request<CallerBody>) -> F) -> io::Result<Answered>
    where
        F: Future<Output = Response<ProxyBody>>,
    {
        let Head { request, keeps_alive, .. } = head;
        let asked = Asked { method: request.method().clone(), version: request.version() };
        let request = request.map(|()| self.reader.body());
        let response = {
            // Where it is made, so that the connection's task has room for it once.
            let mut call = pin!(handle(request));
            self.response(call.as_mut()).await?
        };
        let Some(response) = response else { return Ok(Answered::Gone) };
        let (parts, mut body) = response.into_parts();
        // What is left of the request is not worth reading for the sake of the connection.
        let is_read = self.reader.lock().is_done();
        let keeps_alive = self.writer.begin(&asked, &parts, body.size_hint().exact(), keeps_alive && is_read && !stop.is_cancelled());
        drop(parts);
        // A provider's first event is often right behind its head. Both go together if they are here once the sockets were looked at.
        let mut look = pin!(maybe_done(tokio::task::yield_now()));
        std::future::poll_fn(|context| self.poll_send(&mut body, look.as_mut(), context)).await?;
        Ok(match (keeps_alive, is_read) {
            (true, _) => Answered::Whole,
            (false, true) => Answered::Last,
            (false, false) => Answered::Early,
        })
    }

    /// What the request is answered with; `None` when the caller hung up before.
    async fn response(&mut self, mut call: Pin<&mut impl Future<Output = Response<ProxyBody>>>) -> io::Result<Option<Response<ProxyBody>>> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(response) = call.as_mut().poll(context) {
                return Poll::Ready(Ok(Some(response)));
            }
            let mut reader = self.reader.lock();
            if reader.wants_word() {
                self.writer.word(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if let Poll::Ready(Err(error)) = self.writer.poll_written(&mut self.socket, context) {
                return Poll::Ready(Err(error));
            }
            reader.poll_gone(context).map(|()| Ok(None))
        })
        .await
    }

    /// Sends the answer that was begun. What is there after `look` is written before more is waited for.
    fn poll_send(
        &mut self,
        body: &mut ProxyBody,
        mut look: Pin<&mut MaybeDone<impl Future<Output = ()>>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.writer.takes_body() {
            *body = ProxyBody::whole("");
        }
        loop {
            let mut is_waiting = false;
            while !self.writer.is_full() && self.writer.takes_body() {
                match Pin::new(&mut *body).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(piece) = frame.into_data() {
                            self.writer.push(piece)?;
                        }
                    }
                    Poll::Ready(None) => {
                        self.writer.end()?;
                        // Whoever counts what went by is done before what is left is written.
                        *body = ProxyBody::whole("");
                    }
                    Poll::Ready(Some(Err(error))) => {
                        // The caller gets what there is, and sees that the rest is missing.
                        let _ = self.writer.poll_written(&mut self.socket, context)?;
                        return Poll::Ready(Err(io::Error::other(error)));
                    }
                    Poll::Pending => {
                        is_waiting = true;
                        break;
                    }
                }
            }
            if is_waiting {
                ready!(look.as_mut().poll(context));
            }
            let written = self.writer.poll_written(&mut self.socket, context)?;
            if written.is_ready() && !self.writer.takes_body() {
                return Poll::Ready(Ok(()));
            }
            if written.is_pending() || is_waiting {
                ready!(self.reader.lock().poll_gone(context));
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
    }

    /// Says why a request cannot be understood, and ends the connection.
    async fn refuse(&mut self, error: &HeadError) -> io::Result<()> {
        let (parts, mut body) = plain_error(error.status(), "bad_request", &error.to_string()).into_parts();
        let asked = Asked { method: http::Method::GET, version: http::Version::HTTP_11 };
        self.writer.begin(&asked, &parts, body.size_hint().exact(), false);
        let mut look = pin!(maybe_done(std::future::ready(())));
        std::future::poll_fn(|context| self.poll_send(&mut body, look.as_mut(), context)).await?;
        self.linger().await
    }

    /// Closes the connection, but not before the caller had time to read the answer.
    async fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown().await?;
        let mut left = LINGER_BYTES;
        let discarded = std::future::poll_fn(|context| {
            loop {
                match ready!(self.reader.lock().poll_discard(context)) {
                    Ok(bytes @ 1..) if bytes < left => left -= bytes,
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, discarded).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
