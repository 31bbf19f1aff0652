//! The request of `POST /v1/chat/completions`.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::content::Content;
use crate::llm::request::{Facts, Members, RequestError, Texts, input_bound, span_in};
use crate::llm::rewrite::Slot;

/// Tokens of one image at most: 30,000 patches of 32 pixels at 1.2 tokens each, the largest that any family reads.
const IMAGE_TOKENS: u64 = 36_000;
/// Tokens that a message adds to its text: three, one for a name, and room for role names.
const MESSAGE_TOKENS: u64 = 8;
/// Tokens of the reply's primer, of the tool preamble and of a tool choice.
const REQUEST_TOKENS: u64 = 32;

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow)]
    tools: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    functions: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    response_format: Option<Kind<'a>>,
    reasoning_effort: Option<IgnoredAny>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    web_search_options: Option<IgnoredAny>,
    /// Parameters of spoken output.
    audio: Option<IgnoredAny>,
    stream: Option<bool>,
    #[serde(borrow)]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    max_completion_tokens: Option<&'a RawValue>,
    n: Option<u64>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Content<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: ChatRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let mut texts = Texts::default();
    for message in &request.messages {
        texts.push_content(body, &message.content, message.role == "user");
        for call in message.tool_calls.iter().flatten() {
            texts.push(body, call.get(), false);
        }
    }
    let tools = request.tools.as_ref().map_or(0, Vec::len) + request.functions.as_ref().map_or(0, Vec::len);
    let contents: Vec<_> = request.messages.iter().map(|m| &m.content).collect();
    let overhead = REQUEST_TOKENS + MESSAGE_TOKENS * (request.messages.len() as u64) + 16 * tools as u64;
    let choices = request.n.unwrap_or(1);
    if choices == 0 || choices > 128 {
        return Err(RequestError::Field { field: "n", problem: "must be between 1 and 128" });
    }
    let max_completion_tokens = cap(request.max_completion_tokens, "max_completion_tokens")?;
    let max_tokens = cap(request.max_tokens, "max_tokens")?;
    let options: StreamOptions = request.stream_options.and_then(|o| serde_json::from_str(o.get()).ok()).unwrap_or_default();
    Ok(Facts {
        model: request.model.and_then(|m| serde_json::from_str(m.get()).ok()).unwrap_or_default(),
        stream: request.stream.unwrap_or(false),
        max_output: max_completion_tokens.or(max_tokens),
        choices,
        wants_usage: options.include_usage.unwrap_or(false),
        texts,
        turns: request.messages.len(),
        tools,
        required: required(&request, tools),
        surcharges: Vec::new(),
        tier: asked_tier(request.service_tier.as_deref()),
        input: input_bound(body, &contents, IMAGE_TOKENS, overhead),
        cache: CacheWrites::Any,
        // A search model searches once.
        web_searches: u64::from(request.web_search_options.is_some()),
        media: request.audio.is_some() || contents.iter().flat_map(|c| &c.0).any(|part| part.kind != "text"),
        members: members(body, &request),
    })
}

pub fn cap(value: Option<&RawValue>, field: &'static str) -> Result<Option<u64>, RequestError> {
    let Some(value) = value.filter(|v| v.get() != "null") else { return Ok(None) };
    match value.get().parse() {
        Ok(cap) if cap > 0 => Ok(Some(cap)),
        _ => Err(RequestError::Field { field, problem: "must be a positive whole number" }),
    }
}

fn required(request: &ChatRequest<'_>, tools: usize) -> std::collections::BTreeSet<Capability> {
    let has_image = request.messages.iter().flat_map(|m| &m.content.0).any(|p| p.image_bytes().is_some());
    let wants_schema = request.response_format.as_ref().is_some_and(|f| f.kind == "json_schema");
    let needs = [
        (tools > 0, Capability::Tools),
        (has_image, Capability::Vision),
        (wants_schema, Capability::JsonSchema),
        (request.reasoning_effort.is_some(), Capability::Reasoning),
    ];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect()
}

/// The service tier that a request asks for; without one, or with `auto`, the project's settings decide.
pub fn asked_tier(name: Option<&str>) -> AskedTier {
    match name {
        Some("default") => AskedTier::Said(ServiceTier::Standard),
        Some("flex") => AskedTier::Said(ServiceTier::Flex),
        Some("priority" | "fast") => AskedTier::Said(ServiceTier::Priority),
        _ => AskedTier::Unsaid,
    }
}

fn members(body: &str, request: &ChatRequest<'_>) -> Members {
    let span = |value: Option<&RawValue>| value.and_then(|v| span_in(body, v.get()));
    Members {
        model: span(request.model),
        max_output: [request.max_tokens, request.max_completion_tokens].into_iter().filter_map(span).collect(),
        cap: Some(Slot::first(body, "\"max_completion_tokens\":", ",")),
        stream_options: span(request.stream_options),
    }
}
