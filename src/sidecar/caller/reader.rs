//! What a caller sends over HTTP/1.1: heads one after the other, and after each its body.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::net::tcp::OwnedReadHalf;

use super::head::{self, Head, HeadError};
use crate::sidecar::body::BodyError;
use crate::sidecar::http1::framing::{Framing, Malformed};
use crate::sidecar::http1::{HEAD_LIMIT, buffer, fields};

/// Why a request has no whole body.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the caller hung up")]
    HungUp,
    #[error(transparent)]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Why there is no next request.
#[derive(Debug)]
pub enum Ended {
    /// The caller closed the connection, or it broke off.
    Closed,
    Refused(HeadError),
}

/// The half of a connection that is read. The connection and the body of its request share it, one of which reads at a time.
pub struct Reader {
    socket: OwnedReadHalf,
    /// What was read and is not yet looked at.
    rest: Bytes,
    /// What is left of the body.
    framing: Framing,
    /// The caller waits to be asked for its body.
    awaits_word: bool,
    /// Somebody wants the body that the caller waits to be asked for.
    is_wanted: bool,
    /// Nothing more can be understood of what comes.
    is_cut: bool,
}

/// A reader with its lock, which only one task ever takes.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Reader>>);

impl Shared {
    pub fn new(socket: OwnedReadHalf) -> Shared {
        let (rest, framing) = (Bytes::new(), Framing::length(0));
        Shared(Arc::new(Mutex::new(Reader { socket, rest, framing, awaits_word: false, is_wanted: false, is_cut: false })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Reader> {
        // Whatever a panic left, the connection ends with it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the request whose head was read last.
    pub fn body(&self) -> CallerBody {
        CallerBody::Own(self.clone())
    }
}

impl Reader {
    /// The head of the next request, once the body of the last one is read.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, Ended>> {
        loop {
            // Empty lines before a request are some old client's (RFC 9112, section 2.2).
            let empty = self.rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let _ = self.rest.split_to(empty);
            if let Some(length) = fields::head_length(&self.rest).filter(|length| *length <= HEAD_LIMIT) {
                let head = head::read(&self.rest.split_to(length)).map_err(Ended::Refused)?;
                (self.framing, self.awaits_word) = (head.framing.clone(), head.awaits_word);
                return Poll::Ready(Ok(head));
            }
            if self.rest.len() > HEAD_LIMIT {
                return Poll::Ready(Err(Ended::Refused(HeadError::TooLarge)));
            }
            if ready!(self.poll_more(context)).unwrap_or(true) {
                return Poll::Ready(Err(Ended::Closed));
            }
        }
    }

    /// Reads what comes next, behind what is here; true at the end of the connection.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let rest = &mut self.rest;
        buffer::lend(&mut self.socket, context, |read| {
            *rest = if rest.is_empty() { Bytes::copy_from_slice(read) } else { [rest, read].concat().into() };
            read.is_empty()
        })
    }

    /// True when nothing has come of the next request yet.
    pub fn is_between(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece of the body; `None` at its end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Cut>> {
        loop {
            if let Some(piece) = self.framing.take(&mut self.rest).inspect_err(|_| self.is_cut = true)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.framing.is_done() {
                return Poll::Ready(Ok(None));
            }
            if std::mem::take(&mut self.awaits_word) {
                self.is_wanted = true;
            }
            let read = ready!(buffer::read(&mut self.socket, context)).inspect_err(|_| self.is_cut = true)?;
            if read.is_empty() {
                self.is_cut = true;
                return Poll::Ready(Err(Cut::HungUp));
            }
            self.rest = read;
        }
    }

    /// True, once, when the caller is to be told to go on with its body.
    pub fn wants_word(&mut self) -> bool {
        std::mem::take(&mut self.is_wanted)
    }

    /// True when all of the request was read, so that what comes next is another one.
    pub fn is_done(&self) -> bool {
        self.framing.is_done() && !self.is_cut
    }

    /// Ready when the caller hung up. Of a caller that says more meanwhile that is not known.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_done() || !self.rest.is_empty() {
            return if self.is_cut { Poll::Ready(()) } else { Poll::Pending };
        }
        match ready!(self.poll_more(context)) {
            Ok(false) => Poll::Pending,
            Ok(true) | Err(_) => {
                self.is_cut = true;
                Poll::Ready(())
            }
        }
    }

    /// Reads and throws away; ready with the number of bytes, which is zero at the end of the connection.
    pub fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.rest = Bytes::new();
        buffer::lend(&mut self.socket, context, <[u8]>::len)
    }
}

/// The body of a caller's request.
pub enum CallerBody {
    /// Over HTTP/1.1, on a connection of our own.
    Own(Shared),
    /// Over HTTP/2.
    Multiplexed(Incoming),
}

impl Body for CallerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            CallerBody::Own(reader) => {
                let piece = ready!(reader.lock().poll_piece(context));
                Poll::Ready(piece.map_err(Into::into).transpose().map(|piece| piece.map(Frame::data)))
            }
            CallerBody::Multiplexed(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            CallerBody::Own(reader) => reader.lock().framing.is_done(),
            CallerBody::Multiplexed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            CallerBody::Own(reader) => reader.lock().framing.exact().map_or_else(SizeHint::default, SizeHint::with_exact),
            CallerBody::Multiplexed(body) => body.size_hint(),
        }
    }
}
