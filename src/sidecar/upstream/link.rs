//! One connection to a server over HTTP/1.1, driven by the call that uses it.
//!
//! It has no task of its own: whoever waits for an answer, or for the next piece of one, also reads the socket. A call so costs no
//! hops between tasks and threads, and events that arrive together leave together. While nobody polls an answer, nothing of
//! its connection moves, the rest of the request's body included.
//!
//! Nor has it a [buffer] of its own. A stream that waits for its next event holds a socket, and a few words of where it is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::UpstreamBody;
use super::connect::Socket;
use super::head::{self, Head, HeadError};
use super::idle::{Idle, Place};
use super::sending::Sending;
use crate::sidecar::body::BodyError;
use crate::sidecar::http1::buffer;
use crate::sidecar::http1::framing::{Compacted, Framing, Malformed};

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("the server closed it")]
    Closed,
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Chunks(#[from] Malformed),
}

/// Why a request was not answered. It comes back if nothing of it was sent.
pub struct Unanswered {
    pub error: BodyError,
    pub unsent: Option<Request<UpstreamBody>>,
}

/// A connection.
pub struct Link {
    socket: TokioIo<Socket>,
}

impl Link {
    pub fn new(socket: Socket) -> Link {
        Link { socket: TokioIo::new(socket) }
    }

    /// Sends a request to `host`; ready when the answer's head is there.
    ///
    /// # Errors
    /// When it does not come, or cannot be understood.
    pub async fn send(mut self: Box<Self>, request: Request<UpstreamBody>, host: &str) -> Result<(Response<()>, Carried), Unanswered> {
        let mut sending = Some(Sending::new(request, host));
        let mut unsent = None;
        let mut not_written = None;
        let mut read = BytesMut::new();
        let method = sending.as_ref().map(|sending| sending.method().clone()).unwrap_or_default();
        let head = std::future::poll_fn(|context| {
            if let Some(request) = &mut sending {
                match request.poll(&mut self.socket, context) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => sending = None,
                    // A server that does not want all of a request may have said so before it closed the connection.
                    Poll::Ready(Err(error)) => {
                        unsent = sending.take().and_then(Sending::unsent);
                        not_written = Some(error);
                    }
                }
            }
            self.poll_head(&mut read, &method, context)
        });
        match head.await {
            Ok((Head { response, framing, keeps_alive, .. }, rest)) => {
                let keeps_alive = keeps_alive && not_written.is_none();
                Ok((response, Carried { link: self, sending: sending.map(Box::new), rest, framing, keeps_alive }))
            }
            Err(error) => Err(Unanswered { error: not_written.map_or(error, LinkError::Broken).into(), unsent }),
        }
    }

    /// The head of the answer, and what was read after it.
    fn poll_head(
        &mut self,
        read: &mut BytesMut,
        method: &http::Method,
        context: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), LinkError>> {
        loop {
            let more = ready!(self.poll_read(context))?;
            if more.is_empty() {
                return Poll::Ready(Err(LinkError::Closed));
            }
            // Almost always it comes whole.
            let mut all = if read.is_empty() {
                more
            } else {
                read.extend_from_slice(&more);
                read.split().freeze()
            };
            if let Some(head) = head::read(&all, method)? {
                let _ = all.split_to(head.length);
                return Poll::Ready(Ok((head, all)));
            }
            *read = BytesMut::from(all);
        }
    }

    /// What the server sent; nothing when it closed the connection.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        buffer::read(&mut self.socket, context)
    }

    /// True when the server has neither closed it nor said anything unasked. Nobody is woken for it from here on.
    pub fn is_idle(&mut self) -> bool {
        self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// A connection with the answer that is on it.
pub struct Carried {
    link: Box<Link>,
    /// The rest of the request, where the answer began before its end.
    sending: Option<Box<Sending>>,
    /// What was read and is not yet looked at.
    rest: Bytes,
    framing: Framing,
    keeps_alive: bool,
}

impl Carried {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        if let Some(sending) = &mut self.sending {
            match sending.poll(&mut self.link.socket, context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.sending = None,
                // The answer that has begun is what counts.
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a server answers without having taken all of the request");
                    (self.sending, self.keeps_alive) = (None, false);
                }
            }
        }
        loop {
            if let Some(piece) = self.framing.take(&mut self.rest)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.framing.is_done() {
                return Poll::Ready(Ok(None));
            }
            let (read, piece) = ready!(self.poll_pieces(context))?;
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
            if read == 0 {
                let whole = self.framing == Framing::until_close();
                self.framing = Framing::length(0);
                self.keeps_alive = false;
                return Poll::Ready(if whole { Ok(None) } else { Err(LinkError::Closed) });
            }
        }
    }

    /// How many bytes the server sent, and the pieces of the body that are in them as one, where they are small; else they are all in `rest`.
    fn poll_pieces(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(usize, Bytes)>> {
        let Carried { link, rest, framing, .. } = self;
        buffer::filled(&mut link.socket, context, |buffer| {
            let read = buffer.len();
            if read >= buffer::LARGE {
                *rest = buffer.split().freeze();
                return (read, Bytes::new());
            }
            let Compacted { body, seen } = framing.compact(buffer);
            *rest = Bytes::copy_from_slice(&buffer[seen..]);
            (read, Bytes::copy_from_slice(&buffer[..body]))
        })
    }

    /// The connection, if nothing more comes of its answer and another call can use it.
    fn into_free(self) -> Option<Box<Link>> {
        let is_free = self.keeps_alive && self.framing.is_done() && self.rest.is_empty() && self.sending.is_none();
        is_free.then_some(self.link)
    }
}

/// The body of an answer. When all of it was read, its connection is free for the next call.
pub struct Answer(Kind);

enum Kind {
    /// On a connection of its own, until that is given back.
    Own { carried: Option<Carried>, idle: Arc<Idle>, place: Place },
    /// On a connection that is shared, with its place there.
    Shared { body: Incoming, _place_taken: Arc<()> },
}

impl Answer {
    pub fn own(carried: Carried, idle: Arc<Idle>, place: Place) -> Answer {
        Answer(Kind::Own { carried: Some(carried), idle, place })
    }

    pub fn shared(body: Incoming, place_taken: Arc<()>) -> Answer {
        Answer(Kind::Shared { body, _place_taken: place_taken })
    }
}

impl Kind {
    fn give_back(&mut self) {
        if let Kind::Own { carried, idle, place } = self
            && let Some(link) = carried.take().and_then(Carried::into_free)
        {
            idle.put(place, link);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Shared { body, .. } => Pin::new(body).poll_frame(context).map_err(Into::into),
            Kind::Own { carried: None, .. } => Poll::Ready(None),
            Kind::Own { carried: Some(carried), .. } => match ready!(carried.poll(context)) {
                Ok(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(None) => {
                    self.0.give_back();
                    Poll::Ready(None)
                }
                Err(error) => {
                    if let Kind::Own { carried, .. } = &mut self.0 {
                        *carried = None;
                    }
                    Poll::Ready(Some(Err(error.into())))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Shared { body, .. } => body.is_end_stream(),
            Kind::Own { carried, .. } => carried.as_ref().is_none_or(|carried| carried.framing.is_done()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Shared { body, .. } => body.size_hint(),
            Kind::Own { carried, .. } => {
                let exact = carried.as_ref().map_or(Some(0), |carried| carried.framing.exact());
                exact.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Where the length is known, nobody asks for what comes after the last byte.
        self.0.give_back();
    }
}
