//! OpenAI's usage figures: input includes what was read from and written to the cache, and sound; output includes reasoning,
//! rejected predictions and sound.

use serde::Deserialize;

use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;
use crate::llm::usage::ReportedUsage;

/// `usage` of Chat Completions, Completions and Embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<InputDetails>,
    #[serde(default)]
    completion_tokens_details: Option<OutputDetails>,
}

/// What input tokens are of; the same names in every format of OpenAI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    cache_write_tokens_details: Option<CacheWrites>,
    audio_tokens: Option<u64>,
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
        let input = self.prompt_tokens?;
        Some(meters(
            input,
            self.prompt_tokens_details.unwrap_or_default(),
            self.completion_tokens.unwrap_or(0),
            self.completion_tokens_details.unwrap_or_default(),
        ))
    }
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
    // Cached sound and images are counted among the cached tokens.
    let (audio_input, image_input) = (take(of_input.audio_tokens), take(of_input.image_tokens));
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
        _ => None,
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<std::borrow::Cow<'a, str>>,
    usage: Option<WireUsage>,
    #[serde(borrow)]
    service_tier: Option<std::borrow::Cow<'a, str>>,
}

/// Of a whole answer to Chat Completions, Completions or Embeddings.
pub fn of_chat(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let usage = answer.usage?.meters()?;
    let tier = billed_tier(answer.service_tier.as_deref());
    Some(ReportedUsage { tier, ..ReportedUsage::of(usage, answer.model.map(std::borrow::Cow::into_owned)) })
}
