//! What a caller is sent over HTTP/1.1: the head of an answer, and its body as it comes.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Version, response};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::sidecar::http1::fields;

/// A piece of a body that is larger is written from where it is; a smaller one is copied, so that several go in one write.
const LARGE: usize = 4 << 10;
/// What is gathered before it is written, whatever else is there.
const FULL: usize = 16 << 10;
/// Room that a connection keeps between its answers.
const KEPT: usize = 2 << 10;

/// Whom an answer is for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub version: Version,
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delimited {
    /// There is none, whatever its head says.
    Absent,
    /// So many bytes are still to come.
    Length(u64),
    Chunks,
    /// By the end of the connection.
    End,
}

/// Bytes on their way to a caller, in order: `text`, `data`, and what follows data.
pub struct Writer {
    text: Vec<u8>,
    /// Bytes of `text` that are written.
    written: usize,
    data: Bytes,
    after: &'static [u8],
    delimited: Delimited,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer { text: Vec::new(), written: 0, data: Bytes::new(), after: &[], delimited: Delimited::Absent }
    }
}

impl Writer {
    /// Text that is no answer's.
    pub fn word(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
    }

    /// Begins an answer of which `exact` bytes follow, where that is known. `keeps_alive` says whether another may follow it; the
    /// result, whether it then can.
    pub fn begin(&mut self, asked: &Asked, parts: &response::Parts, exact: Option<u64>, keeps_alive: bool) -> bool {
        let without_body = parts.status.is_informational() || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.delimited = match exact {
            _ if without_body || asked.method == Method::HEAD => Delimited::Absent,
            Some(bytes) => Delimited::Length(bytes),
            None if asked.version == Version::HTTP_10 => Delimited::End,
            None => Delimited::Chunks,
        };
        let keeps_alive = keeps_alive && self.delimited != Delimited::End;
        let text = &mut self.text;
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(parts.status.as_str().as_bytes());
        text.push(b' ');
        text.extend_from_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes());
        text.extend_from_slice(b"\r\n");
        write_headers(&parts.headers, self.delimited == Delimited::Absent && !without_body, text);
        match self.delimited {
            Delimited::Length(bytes) => {
                text.extend_from_slice(b"content-length: ");
                fields::write_number(bytes, text);
                text.extend_from_slice(b"\r\n");
            }
            Delimited::Chunks => text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Delimited::Absent | Delimited::End => {}
        }
        match (keeps_alive, asked.version) {
            (false, _) => text.extend_from_slice(b"connection: close\r\n"),
            (true, Version::HTTP_10) => text.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, _) => {}
        }
        if !parts.headers.contains_key(header::DATE) {
            write_date(text);
        }
        text.extend_from_slice(b"\r\n");
        keeps_alive
    }

    /// True when the answer that has begun has a body, which is to be asked for.
    pub fn takes_body(&self) -> bool {
        self.delimited != Delimited::Absent
    }

    /// True when what is here should be written before more is added.
    pub fn is_full(&self) -> bool {
        !self.data.is_empty() || !self.after.is_empty() || self.text.len() >= FULL
    }

    /// Adds a piece of the body to what is not full.
    ///
    /// # Errors
    /// When the body is longer than it was said to be.
    pub fn push(&mut self, piece: Bytes) -> io::Result<()> {
        if piece.is_empty() {
            // A chunk of no bytes would be the last.
            return Ok(());
        }
        let mut after: &[u8] = &[];
        match &mut self.delimited {
            Delimited::Absent | Delimited::End => {}
            Delimited::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(|| io::Error::other("a body is longer than it was said to be"))?;
            }
            Delimited::Chunks => {
                write_hexadecimal(piece.len(), &mut self.text);
                self.text.extend_from_slice(b"\r\n");
                after = b"\r\n";
            }
        }
        if piece.len() > LARGE {
            (self.data, self.after) = (piece, after);
        } else {
            self.text.extend_from_slice(&piece);
            self.text.extend_from_slice(after);
        }
        Ok(())
    }

    /// Adds the end of the body to what is not full.
    ///
    /// # Errors
    /// When it is shorter than it was said to be.
    pub fn end(&mut self) -> io::Result<()> {
        match self.delimited {
            Delimited::Length(left @ 1..) => {
                return Err(io::Error::other(format!("a body lacks {left} bytes of what it was said to have")));
            }
            Delimited::Chunks => self.text.extend_from_slice(b"0\r\n\r\n"),
            Delimited::Absent | Delimited::Length(_) | Delimited::End => {}
        }
        self.delimited = Delimited::Absent;
        Ok(())
    }

    /// Writes all that is here.
    ///
    /// # Errors
    /// When the caller takes no more.
    pub fn poll_written<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.text.len() || !self.data.is_empty() || !self.after.is_empty() {
            let text = &self.text[self.written..];
            let written = if self.data.is_empty() && self.after.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(context, text))?
            } else {
                let pieces = [IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(self.after)];
                ready!(Pin::new(&mut *socket).poll_write_vectored(context, &pieces))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let (of_text, rest) = (written.min(text.len()), written.saturating_sub(text.len()));
            let of_data = rest.min(self.data.len());
            self.written += of_text;
            self.data.advance(of_data);
            self.after = &self.after[rest - of_data..];
        }
        // What was large gives its memory back.
        self.data = Bytes::new();
        self.written = 0;
        self.text.clear();
        self.text.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }
}

/// Headers that say nothing of this connection; of an answer to `HEAD`, with the length that its body would have.
fn write_headers(headers: &HeaderMap, with_length: bool, text: &mut Vec<u8>) {
    for (name, value) in headers {
        let is_framing = matches!(*name, header::TRANSFER_ENCODING | header::CONNECTION) || !with_length && *name == header::CONTENT_LENGTH;
        if !is_framing {
            fields::write(name.as_str(), value.as_bytes(), text);
        }
    }
}

fn write_hexadecimal(number: usize, text: &mut Vec<u8>) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    text.extend((0..digits).rev().map(|digit| b"0123456789abcdef"[number >> (4 * digit) & 15]));
}

thread_local! {
    /// The date as it was last written, and when it was.
    static DATE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
}

/// The date of an answer that has none, which is right within a second (RFC 9110, section 6.6.1).
fn write_date(text: &mut Vec<u8>) {
    DATE.with_borrow_mut(|date| {
        let now = Instant::now();
        if date.as_ref().is_none_or(|(since, _)| now.duration_since(*since) >= Duration::from_millis(500)) {
            *date = Some((now, httpdate::fmt_http_date(SystemTime::now())));
        }
        if let Some((_, date)) = date {
            fields::write(header::DATE.as_str(), date.as_bytes(), text);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};
    use proptest::prelude::*;

    use super::*;

    /// A socket that takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            let all = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>();
            self.poll_write(context, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(writer: &mut Writer, most: usize) -> Vec<u8> {
        let mut socket = Slow(Vec::new(), most);
        let polled = writer.poll_written(&mut socket, &mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
        socket.0
    }

    /// The text of an answer with these pieces, without its date, and whether another may follow.
    fn answer(asked: (Method, Version), status: u16, exact: Option<u64>, pieces: &[&'static str], keeps_alive: bool) -> (String, bool) {
        let mut writer = Writer::default();
        let parts = Response::builder()
            .status(status)
            .header("content-type", "text/plain")
            .header("content-length", "7")
            .header("transfer-encoding", "gzip")
            .header("connection", "upgrade")
            .header("date", "today");
        let (parts, ()) = parts.body(()).unwrap().into_parts();
        let asked = Asked { method: asked.0, version: asked.1 };
        let keeps_alive = writer.begin(&asked, &parts, exact, keeps_alive);
        if writer.takes_body() {
            pieces.iter().for_each(|piece| writer.push(Bytes::from_static(piece.as_bytes())).unwrap());
        }
        writer.end().unwrap();
        (String::from_utf8(written(&mut writer, usize::MAX)).unwrap(), keeps_alive)
    }

    #[test]
    fn an_answer_says_once_where_it_ends() {
        const HEAD: &str = "content-type: text/plain\r\ndate: today\r\n";
        let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
        for (asked, status, exact, keeps_alive, expected) in [
            ((Method::GET, v11), 200, Some(5), true, (format!("200 OK\r\n{HEAD}content-length: 5\r\n\r\nhello"), true)),
            (
                (Method::GET, v11),
                200,
                Some(5),
                false,
                (format!("200 OK\r\n{HEAD}content-length: 5\r\nconnection: close\r\n\r\nhello"), false),
            ),
            (
                (Method::GET, v11),
                200,
                None,
                true,
                (format!("200 OK\r\n{HEAD}transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), true),
            ),
            ((Method::GET, v10), 200, None, true, (format!("200 OK\r\n{HEAD}connection: close\r\n\r\nhello"), false)),
            (
                (Method::GET, v10),
                200,
                Some(5),
                true,
                (format!("200 OK\r\n{HEAD}content-length: 5\r\nconnection: keep-alive\r\n\r\nhello"), true),
            ),
            ((Method::GET, v11), 204, Some(0), true, (format!("204 No Content\r\n{HEAD}\r\n"), true)),
            ((Method::GET, v11), 599, Some(5), true, (format!("599 \r\n{HEAD}content-length: 5\r\n\r\nhello"), true)),
        ] {
            let found = answer(asked.clone(), status, exact, &["hel", "", "lo"], keeps_alive);
            assert_eq!(found, (format!("HTTP/1.1 {}", expected.0), expected.1), "{asked:?}");
        }
        let (to_head, keeps_alive) = answer((Method::HEAD, v11), 200, None, &["x"], true);
        assert_eq!(to_head, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 7\r\ndate: today\r\n\r\n");
        assert!(keeps_alive);
    }

    #[test]
    fn an_answer_without_a_date_gets_one() {
        let mut writer = Writer::default();
        let (parts, ()) = Response::builder().header("x", HeaderValue::from_static("y")).body(()).unwrap().into_parts();
        writer.begin(&Asked { method: Method::GET, version: Version::HTTP_11 }, &parts, Some(0), true);
        let text = String::from_utf8(written(&mut writer, 3)).unwrap();
        let date = text.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
    }

    #[test]
    fn a_body_of_another_length_than_its_head_says_is_an_error() {
        let begun = |exact| {
            let mut writer = Writer::default();
            let (parts, ()) = Response::new(()).into_parts();
            writer.begin(&Asked { method: Method::GET, version: Version::HTTP_11 }, &parts, Some(exact), true);
            writer
        };
        assert!(begun(4).push("hello".into()).is_err());
        let mut short = begun(6);
        short.push("hello".into()).unwrap();
        assert!(short.end().is_err());
    }

    proptest! {
        #[test]
        fn whatever_its_pieces_and_however_slow_its_caller_a_body_arrives_whole(
            sizes in proptest::collection::vec(0_usize..9_000, 0..8),
            most in 1_usize..20_000,
        ) {
            let mut writer = Writer { delimited: Delimited::Chunks, ..Writer::default() };
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for (number, size) in sizes.iter().enumerate() {
                let piece = vec![b'a' + number as u8; *size];
                if *size > 0 {
                    expected.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                    expected.extend_from_slice(&piece);
                    expected.extend_from_slice(b"\r\n");
                }
                writer.push(piece.into()).unwrap();
                if writer.is_full() {
                    sent.extend(written(&mut writer, most));
                    assert!(!writer.is_full());
                }
            }
            writer.end().unwrap();
            expected.extend_from_slice(b"0\r\n\r\n");
            sent.extend(written(&mut writer, most));
            prop_assert!(sent == expected);
        }
    }
}
