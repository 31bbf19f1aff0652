//! Events out of network chunks that may end anywhere; what ends one is up to the framing. Server-sent events themselves.

use bytes::{Bytes, BytesMut};

/// An event longer than this is passed on unread. The last event of a streamed response repeats the whole answer, images included.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// Finds the end of the first event in some bytes.
pub type End = fn(&[u8]) -> Option<usize>;

/// What has to be looked at to find an event's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsBy {
    /// The event's beginning, which says how long it is.
    Length,
    /// So many bytes at most, wherever they stand.
    Mark(usize),
}

/// Cuts a stream into events, each with what ends it.
#[derive(Debug)]
pub struct Splitter {
    end: End,
    by: EndsBy,
    /// The beginning of an event whose end has not arrived.
    begun: BytesMut,
    /// Set once an event was too long: from there on nothing is cut any more.
    overflowed: bool,
}

impl Splitter {
    pub fn new(end: End, by: EndsBy) -> Splitter {
        Splitter { end, by, begun: BytesMut::new(), overflowed: false }
    }

    /// The events that `chunk` completes, in order. They share the chunk's memory where they lie in it whole.
    ///
    /// What has begun is neither copied nor searched again, so that a long event takes no longer for coming in many chunks.
    pub fn push(&mut self, chunk: &Bytes) -> Vec<Bytes> {
        if self.overflowed {
            return Vec::new();
        }
        let mut rest = chunk.clone();
        if !self.begun.is_empty() {
            let unsearched = match self.by {
                EndsBy::Length => 0,
                EndsBy::Mark(bytes) => self.begun.len().saturating_sub(bytes - 1),
            };
            self.begun.extend_from_slice(chunk);
            if (self.end)(&self.begun[unsearched..]).is_none() {
                self.overflowed = self.begun.len() > MAX_EVENT_BYTES;
                return Vec::new();
            }
            rest = self.begun.split().freeze();
        }
        let mut events = Vec::new();
        while let Some(end) = (self.end)(&rest) {
            events.push(rest.split_to(end));
        }
        self.overflowed = rest.len() > MAX_EVENT_BYTES;
        self.begun.extend_from_slice(&rest);
        events
    }

    /// True when an event was too long to be read.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// What is left of a stream that ended within an event, or of an event that was too long.
    pub fn take_rest(&mut self) -> Bytes {
        self.begun.split().freeze()
    }
}

/// Where the first event ends: after an empty line, with either line ending.
pub fn end_of_event(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = memchr::memchr(b'\n', &bytes[from..]) {
        let next = from + found + 1;
        match bytes.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

/// Where the first line ends.
pub fn end_of_line(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes).map(|at| at + 1)
}

/// The payload of an event's `data:` lines; those of several lines are rare and are joined by a newline.
pub fn data(event: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    let mut payload: Option<std::borrow::Cow<'_, [u8]>> = None;
    for line in event.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(value) = line.strip_prefix(b"data:") else { continue };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        payload = Some(match payload {
            None => std::borrow::Cow::Borrowed(value),
            Some(first) => {
                let mut joined = first.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                std::borrow::Cow::Owned(joined)
            }
        });
    }
    payload
}
