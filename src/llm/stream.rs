//! Metering a streamed answer while it passes through.

use bytes::{Bytes, BytesMut};

use super::sse::{self, Splitter};
use super::{anthropic, openai};
use crate::core::policy::Protocol;
use crate::core::usage::Usage;

/// Reads a stream as it passes: what the provider says it used, and whether it came to its end.
#[derive(Debug)]
pub struct StreamMeter {
    protocol: Protocol,
    /// Keep the usage chunk from a caller that did not ask for it (OpenAI).
    hide_usage_chunk: bool,
    splitter: Splitter,
    model: Option<String>,
    openai_usage: Option<openai::usage::WireUsage>,
    anthropic_usage: Option<anthropic::usage::WireUsage>,
    /// Anthropic: the final, cumulative figures have arrived.
    usage_is_final: bool,
    visible_output_bytes: u64,
    complete: bool,
    failed: bool,
}

/// What is known once a stream has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// The provider's own final figures; `None` when the stream broke off before them.
    pub usage: Option<Usage>,
    pub model: Option<String>,
    /// Bytes of generated text that arrived. Hidden reasoning is generated, and billed, beyond it.
    pub visible_output_bytes: u64,
    /// True when the protocol's end was seen.
    pub complete: bool,
    /// True when the provider reported an error within the stream.
    pub failed: bool,
}

impl StreamMeter {
    pub fn new(protocol: Protocol, hide_usage_chunk: bool) -> StreamMeter {
        StreamMeter {
            protocol,
            hide_usage_chunk: hide_usage_chunk && protocol == Protocol::OpenAIChat,
            splitter: Splitter::default(),
            model: None,
            openai_usage: None,
            anthropic_usage: None,
            usage_is_final: false,
            visible_output_bytes: 0,
            complete: false,
            failed: false,
        }
    }

    /// Takes a chunk from the provider and returns what the caller gets: the chunk itself, unless something is hidden;
    /// then whole events, those that are hidden left out.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if !self.hide_usage_chunk {
            for event in self.splitter.push(&chunk) {
                self.read(&event);
            }
            return chunk;
        }
        let held = self.splitter.take_rest();
        let whole = if held.is_empty() { chunk } else { [held, chunk].concat().into() };
        let events = self.splitter.push(&whole);
        let done: usize = events.iter().map(Bytes::len).sum();
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            if !self.read(&event) {
                shown.push(event);
            }
        }
        if self.splitter.overflowed() {
            // Too long to be an event of ours: let it through from here on, unread.
            self.hide_usage_chunk = false;
            shown.push(whole.slice(done..));
        }
        join(shown)
    }

    /// What was held back of an event that never ended; for the caller, after the last chunk.
    pub fn flush(&mut self) -> Bytes {
        if self.hide_usage_chunk { self.splitter.take_rest() } else { Bytes::new() }
    }

    pub fn finish(self) -> StreamEnd {
        let usage = match self.protocol {
            Protocol::OpenAIChat => self.openai_usage.and_then(|u| u.meters()),
            Protocol::AnthropicMessages => self.anthropic_usage.filter(|_| self.usage_is_final).and_then(|u| u.meters()),
        };
        StreamEnd {
            usage,
            model: self.model,
            visible_output_bytes: self.visible_output_bytes,
            complete: self.complete,
            failed: self.failed,
        }
    }

    /// Reads one event; true when the caller must not see it.
    fn read(&mut self, event: &[u8]) -> bool {
        let Some(data) = sse::data(event) else { return false };
        match self.protocol {
            Protocol::OpenAIChat => self.read_openai(&data),
            Protocol::AnthropicMessages => {
                self.read_anthropic(&data);
                false
            }
        }
    }

    fn read_openai(&mut self, data: &[u8]) -> bool {
        if data == b"[DONE]" {
            self.complete = true;
            return false;
        }
        let Ok(chunk) = serde_json::from_slice::<openai::stream::Chunk<'_>>(data) else { return false };
        self.failed |= chunk.error.is_some();
        self.visible_output_bytes += chunk.visible_bytes();
        if let Some(model) = &chunk.model
            && self.model.is_none()
        {
            self.model = Some(model.clone().into_owned());
        }
        if chunk.usage.is_some() {
            // Servers that report usage on each chunk report it cumulatively: the last one holds.
            self.openai_usage = chunk.usage;
        }
        self.hide_usage_chunk && chunk.is_usage_only()
    }

    fn read_anthropic(&mut self, data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<anthropic::stream::Event<'_>>(data) else { return };
        self.visible_output_bytes += event.visible_bytes();
        match event.kind.as_ref() {
            "message_start" => {
                if let Some(message) = event.message {
                    self.model = message.model.map(std::borrow::Cow::into_owned);
                    self.anthropic_usage = message.usage;
                }
            }
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.anthropic_usage = Some(self.anthropic_usage.unwrap_or_default().updated_by(usage));
                    self.usage_is_final = true;
                }
            }
            "message_stop" => self.complete = true,
            "error" => self.failed = true,
            _ => {}
        }
    }
}

/// One piece of memory for the caller; a single event, or events that lie side by side, are not copied twice.
fn join(mut events: Vec<Bytes>) -> Bytes {
    match events.len() {
        0 => Bytes::new(),
        1 => events.swap_remove(0),
        _ => {
            let mut joined = BytesMut::with_capacity(events.iter().map(Bytes::len).sum());
            events.iter().for_each(|event| joined.extend_from_slice(event));
            joined.freeze()
        }
    }
}
