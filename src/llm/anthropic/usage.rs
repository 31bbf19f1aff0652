//! Anthropic's usage figures: input excludes what was read from and written to the cache; output includes thinking.

use serde::Deserialize;

use crate::core::usage::Usage;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

impl WireUsage {
    /// The figures after a later report: each is cumulative, so the last one holds; what it leaves out, it leaves alone.
    pub fn updated_by(self, later: WireUsage) -> WireUsage {
        WireUsage {
            input_tokens: later.input_tokens.or(self.input_tokens),
            output_tokens: later.output_tokens.or(self.output_tokens),
            cache_read_input_tokens: later.cache_read_input_tokens.or(self.cache_read_input_tokens),
            cache_creation_input_tokens: later.cache_creation_input_tokens.or(self.cache_creation_input_tokens),
            cache_creation: later.cache_creation.or(self.cache_creation),
        }
    }

    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let split = self.cache_creation.unwrap_or_default();
        let (short, long) = (split.ephemeral_5m_input_tokens.unwrap_or(0), split.ephemeral_1h_input_tokens.unwrap_or(0));
        let written = self.cache_creation_input_tokens.unwrap_or(short.saturating_add(long));
        // The final report of a stream has the total but not the split. With server tools the total exceeds the split
        // that came first; the part of unknown time to live is charged as the dearer one.
        let unsplit = if self.cache_creation.is_some() { written.saturating_sub(short.saturating_add(long)) } else { 0 };
        let cache_write = if self.cache_creation.is_some() { short } else { written };
        Some(Usage {
            input: self.input_tokens?,
            cached_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write,
            cache_write_long: long.saturating_add(unsplit),
            output: self.output_tokens?,
        })
    }
}
