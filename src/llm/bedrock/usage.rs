//! Bedrock's usage figures: input excludes what was read from and written to the cache.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::converse::tier;
use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;
use crate::llm::usage::ReportedUsage;
use crate::llm::{anthropic, openai};

/// `usage` of Converse and of Nova. Nova has other names for what the cache did, and some answers have both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WireUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_read_input_token_count: Option<u64>,
    cache_write_input_tokens: Option<u64>,
    cache_write_input_token_count: Option<u64>,
    cache_details: Option<Vec<CacheDetail>>,
}

/// Tokens that were written to the cache for a time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CacheDetail {
    ttl: Option<String>,
    input_tokens: Option<u64>,
}

impl WireUsage {
    /// `None` when the figures that a charge needs are missing; an explicit zero is a figure.
    pub fn meters(&self) -> Option<Usage> {
        let (cache_write, cache_write_long) = self.cache_writes();
        Some(Usage {
            input: self.input_tokens?,
            cached_read: self.cache_read_input_tokens.or(self.cache_read_input_token_count).unwrap_or(0),
            cache_write,
            cache_write_long,
            output: self.output_tokens?,
            ..Usage::default()
        })
    }

    /// Cache writes by their time to live: short, long. What the total has beyond its parts, and a time that is not known here, is
    /// charged as the dearer one.
    fn cache_writes(&self) -> (u64, u64) {
        let total = self.cache_write_input_tokens.or(self.cache_write_input_token_count);
        let Some(details) = self.cache_details.as_deref().filter(|details| !details.is_empty()) else { return (total.unwrap_or(0), 0) };
        let (mut short, mut long) = (0_u64, 0_u64);
        for detail in details {
            let time = if detail.ttl.as_deref() == Some("5m") { &mut short } else { &mut long };
            *time = time.saturating_add(detail.input_tokens.unwrap_or(0));
        }
        let rest = total.unwrap_or(0).saturating_sub(short.saturating_add(long));
        (short, long.saturating_add(rest))
    }
}

/// What an answer and the last event of a stream say, in the same members.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Told {
    usage: Option<WireUsage>,
    service_tier: Option<Tier>,
    performance_config: Option<Performance>,
    trace: Option<Trace>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Tier {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Performance {
    latency: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Trace {
    prompt_router: Option<Router>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Router {
    invoked_model_id: Option<String>,
}

impl Told {
    pub fn reported(self) -> Option<ReportedUsage> {
        let usage = self.usage?.meters()?;
        let service = self.service_tier.and_then(|tier| tier.kind);
        let latency = self.performance_config.and_then(|performance| performance.latency);
        let says_tier = service.is_some() || latency.is_some();
        let model = self.trace.and_then(|trace| trace.prompt_router?.invoked_model_id);
        let tier = says_tier.then(|| tier(service.as_deref(), latency.as_deref()));
        Some(ReportedUsage { tier, ..ReportedUsage::of(usage, model) })
    }
}

/// Of a whole answer of Converse's.
pub fn of_converse(body: &[u8]) -> Option<ReportedUsage> {
    serde_json::from_slice::<Told>(body).ok()?.reported()
}

/// Where makers have their figures in a whole answer of InvokeModel's, which Bedrock leaves as they wrote it.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    prompt_token_count: Option<u64>,
    generation_token_count: Option<u64>,
    #[serde(rename = "inputTextTokenCount")]
    input_text_token_count: Option<u64>,
    results: Option<Vec<TitanResult>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TitanResult {
    token_count: Option<u64>,
}

/// Of a whole answer of InvokeModel's; `None` where its maker says nothing in it.
///
/// The tier is never in it: only Bedrock knows that, and says it in a header.
pub fn of_invoke(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    if let Some(reported) = answer.usage.and_then(|usage| of_makers_usage(usage.get())) {
        return Some(reported);
    }
    let plain = |input, output| ReportedUsage::of(Usage { input, output, ..Usage::default() }, None);
    if let (Some(input), Some(output)) = (answer.prompt_token_count, answer.generation_token_count) {
        // Llama.
        return Some(plain(input, output));
    }
    // Titan: an embedding has no results.
    let output = answer.results.iter().flatten().map(|result| result.token_count);
    let output = output.sum::<Option<u64>>()?;
    Some(plain(answer.input_text_token_count?, output))
}

/// A member `usage` in any maker's names.
pub fn of_makers_usage(usage: &str) -> Option<ReportedUsage> {
    let of_anthropic = || serde_json::from_str::<anthropic::usage::WireUsage>(usage).ok()?.reported(None);
    let of_nova = || Some(ReportedUsage::of(serde_json::from_str::<WireUsage>(usage).ok()?.meters()?, None));
    let of_openai = || Some(ReportedUsage::of(serde_json::from_str::<openai::usage::WireUsage>(usage).ok()?.meters()?, None));
    let reported = of_anthropic().or_else(of_nova).or_else(of_openai)?;
    Some(ReportedUsage { tier: None, ..reported })
}

/// `amazon-bedrock-invocationMetrics`, which Bedrock adds to the last event of a stream, whoever made the model.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InvocationMetrics {
    input_token_count: Option<u64>,
    output_token_count: Option<u64>,
    cache_read_input_token_count: Option<u64>,
    cache_write_input_token_count: Option<u64>,
}

impl InvocationMetrics {
    pub fn meters(&self) -> Option<Usage> {
        Some(Usage {
            input: self.input_token_count?,
            cached_read: self.cache_read_input_token_count.unwrap_or(0),
            cache_write: self.cache_write_input_token_count.unwrap_or(0),
            output: self.output_token_count?,
            ..Usage::default()
        })
    }
}

/// The same figures in the headers of a whole answer. What only takes input (no `choices`) has none for output.
pub fn of_headers(choices: u64, header: &dyn Fn(&str) -> Option<String>) -> Option<ReportedUsage> {
    let count = |name: &str| header(&format!("x-amzn-bedrock-{name}-token-count"))?.trim().parse().ok();
    let metrics = InvocationMetrics {
        input_token_count: count("input"),
        output_token_count: count("output").or((choices == 0).then_some(0)),
        cache_read_input_token_count: count("cache-read-input"),
        cache_write_input_token_count: count("cache-write-input"),
    };
    Some(ReportedUsage::of(metrics.meters()?, None))
}

/// The service tier that headers of InvokeModel ask for, or say that a call was served in; `None` where they say nothing.
pub fn tier_of_headers(header: &dyn Fn(&str) -> Option<String>) -> Option<ServiceTier> {
    let (service, latency) = (header("x-amzn-bedrock-service-tier"), header("x-amzn-bedrock-performanceconfig-latency"));
    (service.is_some() || latency.is_some()).then(|| tier(service.as_deref(), latency.as_deref()))
}
