//! OpenAI's usage figures: input includes what was read from and written to the cache; output includes reasoning.

use serde::Deserialize;

use crate::core::usage::Usage;

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

impl WireUsage {
    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let input = self.prompt_tokens?;
        let details = self.prompt_tokens_details.unwrap_or_default();
        let cached_read = details.cached_tokens.unwrap_or(0).min(input);
        let cache_write = details.cache_write_tokens.unwrap_or(0).min(input - cached_read);
        Some(Usage {
            input: input - cached_read - cache_write,
            cached_read,
            cache_write,
            cache_write_long: 0,
            output: self.completion_tokens.unwrap_or(0),
        })
    }
}
