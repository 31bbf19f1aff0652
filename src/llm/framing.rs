//! How the events of a streamed answer are cut out of network chunks that may end anywhere.

use std::borrow::Cow;

use bytes::Bytes;

use super::bedrock::eventstream;
use super::split::{EndsBy, Splitter, Visible};
use super::sse;

/// How a streamed answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`.
    ServerSentEvents,
    /// One JSON object a line.
    Lines,
    /// One JSON array, an element an event.
    JsonArray,
    /// `application/vnd.amazon.eventstream`: binary frames with checksums.
    AmazonEvents,
}

impl Framing {
    /// How an answer streams, by its content type; `None` for one in one piece. JSON is an array of events only where a
    /// stream was asked for in a format that has them.
    pub fn of(content_type: &str, may_be_array: bool) -> Option<Framing> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        match kind {
            "text/event-stream" => Some(Framing::ServerSentEvents),
            "application/x-ndjson" | "application/jsonl" => Some(Framing::Lines),
            "application/vnd.amazon.eventstream" => Some(Framing::AmazonEvents),
            "application/json" if may_be_array => Some(Framing::JsonArray),
            _ => None,
        }
    }

    /// The JSON that an event carries; `None` where it carries none, or its checksum is wrong.
    pub fn payload(self, event: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Framing::ServerSentEvents => sse::data(event),
            Framing::Lines | Framing::JsonArray => Some(event.into()),
            Framing::AmazonEvents => eventstream::payload(event).map(Into::into),
        }
    }
}

/// Cuts a stream into events.
#[derive(Debug)]
pub struct Cutter {
    framing: Framing,
    events: Splitter,
    elements: super::gemini::array::Elements,
}

impl Cutter {
    pub fn new(framing: Framing) -> Cutter {
        let events = match framing {
            Framing::Lines => Splitter::new(sse::end_of_line, EndsBy::Mark(1)),
            Framing::AmazonEvents => Splitter::new(eventstream::end_of_frame, EndsBy::Length),
            _ => Splitter::new(sse::end_of_event, EndsBy::Mark(3)),
        };
        Cutter { framing, events, elements: Default::default() }
    }

    /// Shows the JSON of the events that `chunk` completes to `look`, in order, and returns what it says is visible of them. An event
    /// whose JSON is not one piece of it is visible as a whole, or not at all; an array's elements are all visible, with what is between them.
    pub fn push(&mut self, chunk: &Bytes, mut look: impl FnMut(&[u8]) -> Visible) -> Bytes {
        let framing = self.framing;
        if framing == Framing::JsonArray {
            self.elements.push(chunk).iter().for_each(|element| _ = look(element));
            return chunk.clone();
        }
        self.events.push(chunk, |event| match framing.payload(event) {
            None => Visible::All,
            Some(Cow::Borrowed(payload)) => match look(payload) {
                Visible::Without(hidden) => {
                    let begin = payload.as_ptr().addr() - event.as_ptr().addr();
                    Visible::Without(begin + hidden.start..begin + hidden.end)
                }
                visible => visible,
            },
            Some(Cow::Owned(payload)) => match look(&payload) {
                Visible::Nothing => Visible::Nothing,
                _ => Visible::All,
            },
        })
    }

    /// True when an event was too long to be read; from there on nothing is cut.
    pub fn overflowed(&self) -> bool {
        self.events.overflowed() || self.elements.overflowed()
    }

    /// What is left of a stream that ended within an event.
    pub fn take_rest(&mut self) -> Bytes {
        self.events.take_rest()
    }
}
