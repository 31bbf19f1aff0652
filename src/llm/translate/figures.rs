//! What an answer used, in the caller's semantics: the figures are the meter's own, so that a caller adds up what it is charged for.

use super::json::{Json, object};
use crate::core::policy::Protocol;
use crate::core::usage::Usage;
use crate::llm::format::format;
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::usage_of_body;

/// What an answer used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub usage: Usage,
    /// Output tokens that were reasoning, where the provider says so.
    pub reasoning: Option<u64>,
}

impl Figures {
    /// Of a whole answer.
    pub fn of_body(protocol: Protocol, body: &[u8], reasoning: Option<u64>) -> Option<Figures> {
        usage_of_body(protocol, body).map(|reported| Figures { usage: reported.usage, reasoning })
    }

    /// As OpenAI counts: input includes what was read from the cache and written to it.
    pub fn openai(&self) -> Json {
        let used = &self.usage;
        let of_input = object()
            .with("cached_tokens", used.cached_read)
            .with("cache_write_tokens", used.cache_write.saturating_add(used.cache_write_long))
            .maybe("audio_tokens", above_zero(used.audio_input))
            .maybe("image_tokens", above_zero(used.image_input));
        let of_output = object()
            .with("reasoning_tokens", self.reasoning.unwrap_or(0).min(used.total_output()))
            .maybe("audio_tokens", above_zero(used.audio_output))
            .maybe("image_tokens", above_zero(used.image_output));
        object()
            .with("prompt_tokens", used.total_input())
            .with("completion_tokens", used.total_output())
            .with("total_tokens", used.total())
            .with("prompt_tokens_details", of_input)
            .with("completion_tokens_details", of_output)
            .into()
    }

    /// As Anthropic counts: input excludes what was read from the cache and written to it.
    pub fn anthropic(&self) -> Json {
        let used = &self.usage;
        let written = used.cache_write.saturating_add(used.cache_write_long);
        let input = used.total_input() - used.cached_read.saturating_add(written).min(used.total_input());
        let thinking = self.reasoning.map(|tokens| object().with("thinking_tokens", tokens.min(used.total_output())));
        object()
            .with("input_tokens", input)
            .with("cache_creation_input_tokens", written)
            .with("cache_read_input_tokens", used.cached_read)
            .with("output_tokens", used.total_output())
            .maybe("output_tokens_details", thinking)
            .into()
    }
}

fn above_zero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

/// The figures of a stream so far.
pub struct Running {
    reader: Box<dyn EventReader>,
    tally: Tally,
    pub reasoning: Option<u64>,
}

impl Running {
    pub fn new(protocol: Protocol) -> Running {
        Running { reader: (format(protocol).reader)(), tally: Tally::default(), reasoning: None }
    }

    pub fn read(&mut self, payload: &[u8]) {
        self.reader.read(payload, &mut self.tally);
    }

    pub fn figures(&self) -> Option<Figures> {
        self.tally.reported.as_ref().map(|reported| Figures { usage: reported.usage, reasoning: self.reasoning })
    }
}
