//! A request on its way into a connection.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Method, Request, request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::UpstreamBody;
use super::head::{self, Length};
use crate::llm::Pieces;
use crate::sidecar::caller::CallerBody;

/// Room for the head of a call.
const HEAD: usize = 1 << 10;
/// Room for a head and a body that go together, which a thread keeps for the next request.
const KEPT: usize = 4 << 10;
/// Where a connection takes one buffer at a time, a head and a body that is no longer than this go in one.
const TOGETHER: usize = 16 << 10;
/// A body that is no longer than this is copied behind its head: less than what several pieces cost the kernel.
const SMALL: usize = 2 << 10;
/// Pieces that are written at once.
const PIECES: usize = 8;

thread_local! {
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is written; its room is for the thread's next request when it is done with.
struct Text(Vec<u8>);

impl Text {
    fn new() -> Text {
        let mut text = ROOM.take();
        text.clear();
        text.reserve(HEAD);
        Text(text)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if self.0.capacity() <= KEPT {
            ROOM.set(std::mem::take(&mut self.0));
        }
    }
}

/// A request of which some may be written.
pub struct Sending {
    parts: request::Parts,
    body: UpstreamBody,
    /// What is being written: the head, or what goes before a chunk; and after it, some of the body.
    text: Text,
    text_written: usize,
    data: Pieces,
    rest: Rest,
    begun: bool,
}

/// What of the body is not yet in `data`.
enum Rest {
    Nothing,
    /// So many bytes of a stream.
    Known(u64),
    /// The rest of a stream in chunks; whether there was one before.
    Chunks {
        begun: bool,
    },
}

impl Sending {
    pub fn new(request: Request<UpstreamBody>, host: &str) -> Sending {
        let (parts, body) = request.into_parts();
        let (data, rest, length) = match &body {
            UpstreamBody::Whole(body) => (body.clone(), Rest::Nothing, Length::Known(body.remaining() as u64)),
            UpstreamBody::Streamed(body) => match body.size_hint().exact() {
                Some(0) => (Pieces::default(), Rest::Nothing, Length::Known(0)),
                Some(bytes) => (Pieces::default(), Rest::Known(bytes), Length::Known(bytes)),
                None => (Pieces::default(), Rest::Chunks { begun: false }, Length::Chunked),
            },
        };
        let mut text = Text::new();
        head::write(&parts, host, length, &mut text.0);
        Sending { parts, body, text, text_written: 0, data, rest, begun: false }
    }

    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The request, if nothing of it has left this process.
    pub fn unsent(self) -> Option<Request<UpstreamBody>> {
        (!self.begun).then(|| Request::from_parts(self.parts, self.body))
    }

    /// Writes what can be written; ready when that is all.
    ///
    /// # Errors
    /// When the connection takes no more, or the body that streams through breaks off.
    pub fn poll<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.write(socket, context))?;
            let UpstreamBody::Streamed(stream) = &mut self.body else { break };
            if matches!(self.rest, Rest::Nothing) {
                break;
            }
            // What was written must not wait for what comes.
            ready!(Pin::new(&mut *socket).poll_flush(context))?;
            let next = ready!(next_piece(stream, context))?;
            self.take(next)?;
        }
        Pin::new(socket).poll_flush(context)
    }

    fn write<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let together = if socket.is_write_vectored() { SMALL } else { TOGETHER };
        if self.text_written < self.text.0.len() && self.data.remaining() <= together {
            while let Some(piece) = self.data.pop() {
                self.text.0.extend_from_slice(&piece);
            }
        }
        while self.text_written < self.text.0.len() || self.data.has_remaining() {
            let text = &self.text.0[self.text_written..];
            let mut pieces = [IoSlice::new(text); PIECES];
            let of_data = self.data.chunks_vectored(&mut pieces[usize::from(!text.is_empty())..]);
            let pieces = &pieces[..usize::from(!text.is_empty()) + of_data];
            let written = match pieces {
                [one] => Pin::new(&mut *socket).poll_write(context, one),
                several => Pin::new(&mut *socket).poll_write_vectored(context, several),
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            let of_text = written.min(text.len());
            self.text_written += of_text;
            self.data.advance(written - of_text);
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece of a body that streams through, or its end, is what is written next.
    fn take(&mut self, piece: Option<Bytes>) -> io::Result<()> {
        self.text.0.clear();
        self.text_written = 0;
        match (&mut self.rest, piece) {
            (Rest::Nothing, _) => {}
            (Rest::Known(left), Some(piece)) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(|| broken("is longer than it was said to be"))?;
                self.data = piece.into();
            }
            (Rest::Known(0), None) => self.rest = Rest::Nothing,
            (Rest::Known(_), None) => return Err(broken("is shorter than it was said to be")),
            (Rest::Chunks { begun }, Some(piece)) => {
                let before = if std::mem::replace(begun, true) { "\r\n" } else { "" };
                self.text.0.extend_from_slice(format!("{before}{:x}\r\n", piece.len()).as_bytes());
                self.data = piece.into();
            }
            (Rest::Chunks { begun }, None) => {
                let end: &[u8] = if *begun { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                self.text.0.extend_from_slice(end);
                self.rest = Rest::Nothing;
            }
        }
        Ok(())
    }
}

/// Trailers, which nobody asked for, are left out.
fn next_piece(body: &mut CallerBody, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
    loop {
        let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(context)) else { return Poll::Ready(Ok(None)) };
        let frame = frame.map_err(io::Error::other)?;
        match frame.into_data() {
            // A chunk of no bytes would be the last.
            Ok(data) if !data.is_empty() => return Poll::Ready(Ok(Some(data))),
            _ => {}
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("the request's body {what}"))
}
