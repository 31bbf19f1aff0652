//! Metering a streamed answer while it passes through, and translating it where its caller speaks another format.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::format::format;
use super::framing::{Cutter, Framing};
use super::split::Visible;
use super::transcript::Answered;
use super::translate::StreamTranslator;
use super::usage::ReportedUsage;
use crate::core::policy::Protocol;
use crate::core::usage::Usage;

/// Reads the events of a stream, in order.
pub trait EventReader: Send {
    /// Reads an event's JSON.
    fn read(&mut self, payload: &[u8], tally: &mut Tally);

    /// Reads an event's JSON, and says what of it is for a caller that did not ask for usage.
    fn read_unasked(&mut self, payload: &[u8], tally: &mut Tally) -> Visible {
        self.read(payload, tally);
        Visible::All
    }
}

/// What a stream has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The last figures, which are cumulative.
    pub reported: Option<ReportedUsage>,
    /// The figures hold even if nothing more comes.
    pub is_final: bool,
    /// The input tokens that the provider counted, as soon as it says so: no more will be charged for input.
    pub input: Option<Usage>,
    /// The model that answers, by the provider's name for it.
    pub model: Option<String>,
    /// The format's end was seen.
    pub complete: bool,
    /// The provider reported an error within the stream.
    pub failed: bool,
}

/// What is known once a stream has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The provider's own final figures; `None` when the stream broke off before them.
    pub reported: Option<ReportedUsage>,
    /// True when the format's end was seen.
    pub complete: bool,
    /// True when the provider reported an error within the stream.
    pub failed: bool,
}

/// Reads events twice: for what they charge, and for what they say.
struct Transcribing {
    reader: Box<dyn EventReader>,
    transcript: Arc<Mutex<Answered>>,
}

impl Transcribing {
    fn transcribe(&self, payload: &[u8]) {
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner).read(payload);
    }
}

impl EventReader for Transcribing {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        self.transcribe(payload);
        self.reader.read(payload, tally);
    }

    fn read_unasked(&mut self, payload: &[u8], tally: &mut Tally) -> Visible {
        self.transcribe(payload);
        self.reader.read_unasked(payload, tally)
    }
}

/// Reads a stream as it passes: what the provider says it used, and whether it came to its end.
pub struct StreamMeter {
    cutter: Cutter,
    reader: Box<dyn EventReader>,
    tally: Tally,
    shown: Shown,
}

/// What the caller gets of it.
enum Shown {
    /// Every byte as it came.
    AsItCame,
    /// Whole events, but for those that tell usage that the caller did not ask for, and for the null that holds its place in others.
    WithoutUsage,
    /// Events of another format.
    Translated(Box<dyn StreamTranslator>),
}

impl StreamMeter {
    pub fn new(protocol: Protocol, framing: Framing, hide_usage: bool) -> StreamMeter {
        let shown = if hide_usage { Shown::WithoutUsage } else { Shown::AsItCame };
        StreamMeter { cutter: Cutter::new(framing), reader: (format(protocol).reader)(), tally: Tally::default(), shown }
    }

    /// Of a stream that is translated for its caller.
    pub fn translating(protocol: Protocol, framing: Framing, translator: Box<dyn StreamTranslator>) -> StreamMeter {
        StreamMeter { shown: Shown::Translated(translator), ..StreamMeter::new(protocol, framing, false) }
    }

    /// Has each event read for `transcript`, too.
    pub fn transcribed(self, transcript: Arc<Mutex<Answered>>) -> StreamMeter {
        StreamMeter { reader: Box::new(Transcribing { reader: self.reader, transcript }), ..self }
    }

    /// Takes a chunk from the provider and returns what the caller gets: the chunk itself, unless something is hidden or
    /// translated; then whole events.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        let StreamMeter { cutter, reader, tally, shown } = self;
        match shown {
            Shown::AsItCame => {
                cutter.push(&chunk, |payload| {
                    reader.read(payload, tally);
                    Visible::Nothing
                });
                if cutter.overflowed() {
                    // It went through; nobody needs what was kept of it.
                    cutter.take_rest();
                }
                chunk
            }
            Shown::WithoutUsage => {
                let visible = cutter.push(&chunk, |payload| reader.read_unasked(payload, tally));
                if !cutter.overflowed() {
                    return visible;
                }
                // Too long to be an event of ours: let it through from here on, unread.
                *shown = Shown::AsItCame;
                [visible, cutter.take_rest()].concat().into()
            }
            Shown::Translated(translator) => {
                let mut out = BytesMut::new();
                cutter.push(&chunk, |payload| {
                    reader.read(payload, tally);
                    translator.event(payload, &mut out);
                    Visible::Nothing
                });
                out.freeze()
            }
        }
    }

    /// What is held back of an event that never ended, or what a translation ends with; for the caller, after the last chunk.
    pub fn flush(&mut self) -> Bytes {
        match &mut self.shown {
            Shown::AsItCame => Bytes::new(),
            Shown::WithoutUsage => self.cutter.take_rest(),
            Shown::Translated(translator) => {
                let mut out = BytesMut::new();
                translator.end(&mut out);
                out.freeze()
            }
        }
    }

    /// What the stream has said so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn finish(self) -> StreamEnd {
        let Tally { reported, is_final, complete, failed, model, .. } = self.tally;
        let mut reported = reported.filter(|_| is_final || complete);
        if let Some(reported) = &mut reported {
            reported.model = reported.model.take().or(model);
        }
        StreamEnd { reported, complete, failed }
    }
}
