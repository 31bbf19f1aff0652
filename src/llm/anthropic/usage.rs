//! Anthropic's usage figures: input excludes what was read from and written to the cache; output includes thinking.

use std::borrow::Cow;

use serde::Deserialize;

use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;
use crate::llm::usage::{Beyond, ReportedUsage};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    server_tool_use: Option<ServerToolUse>,
    service_tier: Option<String>,
    speed: Option<String>,
    inference_geo: Option<String>,
    iterations: Option<Vec<Iteration>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct ServerToolUse {
    web_search_requests: Option<u64>,
}

/// A pass of the model's, or of another's, within the call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Iteration {
    #[serde(rename = "type")]
    kind: String,
    model: Option<String>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

/// Cache writes by their time to live.
///
/// The final report of a stream has the total but not the split. With server tools the total exceeds the split that came first; the
/// part of unknown time to live is charged as the dearer one.
fn cache_writes(total: Option<u64>, split: Option<CacheCreation>) -> (u64, u64) {
    let Some(split) = split else { return (total.unwrap_or(0), 0) };
    let (short, long) = (split.ephemeral_5m_input_tokens.unwrap_or(0), split.ephemeral_1h_input_tokens.unwrap_or(0));
    let written = total.unwrap_or_else(|| short.saturating_add(long));
    (short, long.saturating_add(written.saturating_sub(short.saturating_add(long))))
}

impl Iteration {
    /// Its usage, when the call's own figures leave it out: summaries of a conversation, and passes of other models.
    fn beyond(&self) -> Option<Beyond> {
        if self.kind != "compaction" && self.model.is_none() {
            return None;
        }
        let (cache_write, cache_write_long) = cache_writes(self.cache_creation_input_tokens, self.cache_creation);
        let usage = Usage {
            input: self.input_tokens.unwrap_or(0),
            cached_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write,
            cache_write_long,
            output: self.output_tokens.unwrap_or(0),
            ..Usage::default()
        };
        Some(Beyond { model: self.model.clone(), usage })
    }
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
            server_tool_use: later.server_tool_use.or(self.server_tool_use),
            service_tier: later.service_tier.or(self.service_tier),
            speed: later.speed.or(self.speed),
            inference_geo: later.inference_geo.or(self.inference_geo),
            iterations: later.iterations.or(self.iterations),
        }
    }

    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let (cache_write, cache_write_long) = cache_writes(self.cache_creation_input_tokens, self.cache_creation);
        Some(Usage {
            input: self.input_tokens?,
            cached_read: self.cache_read_input_tokens.unwrap_or(0),
            cache_write,
            cache_write_long,
            output: self.output_tokens?,
            web_searches: self.server_tool_use.and_then(|used| used.web_search_requests).unwrap_or(0),
            ..Usage::default()
        })
    }

    pub fn reported(&self, model: Option<String>) -> Option<ReportedUsage> {
        let tier = match (self.speed.as_deref(), self.service_tier.as_deref()) {
            (Some("fast"), _) => Some(ServiceTier::Fast),
            (_, Some("batch")) => Some(ServiceTier::Batch),
            // Priority capacity is bought ahead, and costs nothing more by the token.
            _ => Some(ServiceTier::Standard),
        };
        let regional = self.inference_geo.as_deref().map(|geo| !matches!(geo, "global" | "not_available" | ""));
        let beyond = self.iterations.iter().flatten().filter_map(Iteration::beyond).collect();
        Some(ReportedUsage { usage: self.meters()?, model, tier, regional, beyond, ..ReportedUsage::default() })
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<WireUsage>,
}

/// Of a whole message.
pub fn of_body(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    answer.usage?.reported(answer.model.map(Cow::into_owned))
}
