//! What a call consumed, in meters that do not overlap.
//!
//! Providers disagree on what includes what (OpenAI's input includes cached tokens, Anthropic's does not). The wire
//! formats in `llm` translate each provider's semantics into this one, in which every token is counted exactly once.

use serde::{Deserialize, Serialize};

/// Tokens by meter; every token of a call is in exactly one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    /// Input tokens that were neither read from nor written to a cache.
    pub input: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cached_read: u64,
    /// Input tokens written to the cache with the short time to live (Anthropic: five minutes; OpenAI: the only one).
    pub cache_write: u64,
    /// Input tokens written to the cache with a long time to live (Anthropic: one hour).
    pub cache_write_long: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
}

impl Usage {
    /// Input tokens of every kind: what context thresholds look at.
    pub fn total_input(&self) -> u64 {
        self.input.saturating_add(self.cached_read).saturating_add(self.cache_write).saturating_add(self.cache_write_long)
    }

    /// Tokens of every meter.
    pub fn total(&self) -> u64 {
        self.total_input().saturating_add(self.output)
    }
}
