//! What a call consumed, in meters that do not overlap.
//!
//! Providers disagree on what includes what (OpenAI's input includes cached tokens, Anthropic's does not). The wire
//! formats in `llm` translate each provider's semantics into this one, in which every token is counted exactly once.

use serde::{Deserialize, Serialize};

/// A call's consumption by meter; every token of it is in exactly one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    /// Input tokens of text that were neither read from nor written to a cache; of images and audio too, where the provider
    /// does not tell them apart.
    pub input: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cached_read: u64,
    /// Input tokens written to the cache with the short time to live (Anthropic: five minutes; OpenAI: half an hour).
    pub cache_write: u64,
    /// Input tokens written to the cache with a long time to live (Anthropic: one hour; OpenAI: twelve).
    pub cache_write_long: u64,
    /// Input tokens of sound that were not read from a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_input: u64,
    /// Input tokens of images, where the provider tells them apart and that were not read from a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_input: u64,
    /// Output tokens of text, reasoning included.
    pub output: u64,
    /// Output tokens of sound.
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_output: u64,
    /// Output tokens of images.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_output: u64,
    /// Web searches that the provider made for the call, each at a fee; no tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub web_searches: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Usage {
    /// How many meters there are.
    pub const METERS: usize = 10;

    /// The meters, in their order.
    pub fn meters(&self) -> [u64; Usage::METERS] {
        let Usage {
            input,
            cached_read,
            cache_write,
            cache_write_long,
            audio_input,
            image_input,
            output,
            audio_output,
            image_output,
            web_searches,
        } = *self;
        [input, cached_read, cache_write, cache_write_long, audio_input, image_input, output, audio_output, image_output, web_searches]
    }

    /// What these meters say, in their order.
    pub fn of_meters(meters: [u64; Usage::METERS]) -> Usage {
        let [input, cached_read, cache_write, cache_write_long, audio_input, image_input, output, audio_output, image_output, web_searches] =
            meters;
        Usage {
            input,
            cached_read,
            cache_write,
            cache_write_long,
            audio_input,
            image_input,
            output,
            audio_output,
            image_output,
            web_searches,
        }
    }

    /// Input tokens of every kind: what context thresholds look at.
    pub fn total_input(&self) -> u64 {
        [self.input, self.cached_read, self.cache_write, self.cache_write_long, self.audio_input, self.image_input]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Output tokens of every kind.
    pub fn total_output(&self) -> u64 {
        self.output.saturating_add(self.audio_output).saturating_add(self.image_output)
    }

    /// Tokens of every meter.
    pub fn total(&self) -> u64 {
        self.total_input().saturating_add(self.total_output())
    }

    /// Meter by meter, as a second call's would be added.
    pub fn saturating_add(&self, other: &Usage) -> Usage {
        let (one, other) = (self.meters(), other.meters());
        Usage::of_meters(std::array::from_fn(|meter| one[meter].saturating_add(other[meter])))
    }
}
