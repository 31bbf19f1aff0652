//! OpenAI's usage figures: input includes what was read from and written to the cache, and sound; output includes reasoning,
//! rejected predictions and sound.

use std::borrow::Cow;

use serde::Deserialize;

use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;
use crate::llm::usage::ReportedUsage;

/// `usage` of Chat Completions, Completions and Embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<InputDetails>,
    completion_tokens_details: Option<OutputDetails>,
    /// DeepSeek's name for what was read from the cache.
    prompt_cache_hit_tokens: Option<u64>,
    /// Moonshot's.
    cached_tokens: Option<u64>,
}

/// `usage` of Responses, of images and of transcriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WireTotals {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    total_tokens: Option<u64>,
    /// Transcriptions have the other spelling.
    #[serde(alias = "input_token_details")]
    input_tokens_details: Option<InputDetails>,
    #[serde(alias = "output_token_details")]
    output_tokens_details: Option<OutputDetails>,
    /// Of the image tool, which has it beside the details.
    cached_tokens: Option<u64>,
    cached_tokens_details: Option<CachedDetails>,
}

/// What input tokens are of; the same names in every format of OpenAI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InputDetails {
    cached_tokens: Option<u64>,
    cached_tokens_details: Option<CachedDetails>,
    cache_write_tokens: Option<u64>,
    cache_write_tokens_details: Option<CacheWrites>,
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

/// What of the cached tokens is not text, where that is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct CachedDetails {
    audio_tokens: Option<u64>,
    #[serde(alias = "cached_image_tokens")]
    image_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct CacheWrites {
    ttl_12h_tokens: Option<u64>,
}

/// What output tokens are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct OutputDetails {
    audio_tokens: Option<u64>,
    image_tokens: Option<u64>,
}

impl WireUsage {
    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let of_input = self.prompt_tokens_details.unwrap_or_default();
        let cached_tokens = of_input.cached_tokens.or(self.prompt_cache_hit_tokens).or(self.cached_tokens);
        Some(meters(
            self.prompt_tokens?,
            InputDetails { cached_tokens, ..of_input },
            output(self.prompt_tokens?, self.completion_tokens, self.total_tokens),
            self.completion_tokens_details.unwrap_or_default(),
        ))
    }
}

impl WireTotals {
    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let of_input = self.input_tokens_details.unwrap_or_default();
        let of_input = InputDetails {
            cached_tokens: of_input.cached_tokens.or(self.cached_tokens),
            cached_tokens_details: of_input.cached_tokens_details.or(self.cached_tokens_details),
            ..of_input
        };
        Some(meters(
            self.input_tokens?,
            of_input,
            output(self.input_tokens?, self.output_tokens, self.total_tokens),
            self.output_tokens_details.unwrap_or_default(),
        ))
    }

    /// As [`WireTotals::meters`], of a service that writes nothing but images: so is output that is not told apart.
    pub fn meters_of_images(&self) -> Option<Usage> {
        let usage = self.meters()?;
        let is_split = self.output_tokens_details.is_some_and(|of| of.image_tokens.is_some());
        Some(if is_split { usage } else { Usage { output: 0, image_output: usage.total_output(), ..usage } })
    }
}

/// Output tokens. Servers that leave reasoning out of the completion (xAI, Gemini's compatible one) have it in the total.
fn output(input: u64, output: Option<u64>, total: Option<u64>) -> u64 {
    output.unwrap_or(0).max(total.unwrap_or(0).saturating_sub(input))
}

/// Meters that do not overlap, out of totals and what they are said to include. Where parts exceed their total, the total holds.
pub fn meters(input: u64, of_input: InputDetails, output: u64, of_output: OutputDetails) -> Usage {
    let mut rest = input;
    let mut take = |part: Option<u64>| {
        let taken = part.unwrap_or(0).min(rest);
        rest -= taken;
        taken
    };
    let cached_read = take(of_input.cached_tokens);
    let written = take(of_input.cache_write_tokens);
    let cache_write_long = of_input.cache_write_tokens_details.and_then(|d| d.ttl_12h_tokens).unwrap_or(0).min(written);
    // Cached sound and images are counted among the cached tokens, and again among the sound and images.
    let cached = of_input.cached_tokens_details.unwrap_or_default();
    let fresh = |part: Option<u64>, cached: Option<u64>| part.map(|part| part.saturating_sub(cached.unwrap_or(0)));
    let audio_input = take(fresh(of_input.audio_tokens, cached.audio_tokens));
    let image_input = take(fresh(of_input.image_tokens, cached.image_tokens));
    let audio_output = of_output.audio_tokens.unwrap_or(0).min(output);
    let image_output = of_output.image_tokens.unwrap_or(0).min(output - audio_output);
    Usage {
        input: rest,
        cached_read,
        cache_write: written - cache_write_long,
        cache_write_long,
        audio_input,
        image_input,
        output: output - audio_output - image_output,
        audio_output,
        image_output,
        web_searches: 0,
    }
}

/// The tier that an answer names. `scale` is prepaid capacity, which costs nothing more than the list price here; `fast` is billed as
/// priority.
pub fn billed_tier(name: Option<&str>) -> Option<ServiceTier> {
    match name? {
        "default" | "scale" => Some(ServiceTier::Standard),
        "flex" => Some(ServiceTier::Flex),
        "priority" | "fast" => Some(ServiceTier::Priority),
        "ultrafast" => Some(ServiceTier::Fast),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<WireUsage>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
}

/// Of a whole answer to Chat Completions, Completions or Embeddings.
pub fn of_chat(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let usage = answer.usage?.meters()?;
    let tier = billed_tier(answer.service_tier.as_deref());
    Some(ReportedUsage { tier, ..ReportedUsage::of(usage, answer.model.map(Cow::into_owned)) })
}
