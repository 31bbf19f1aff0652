//! The request of `POST /v1/chat/completions`.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::content::Content;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, input_bound, span_in};
use crate::llm::rewrite::Slot;

/// Tokens of one image at most: 30,000 patches of 32 pixels at 1.2 tokens each, the largest that any family reads.
pub const IMAGE_TOKENS: u64 = 36_000;
/// Tokens that a message adds to its text: three, one for a name, and room for role names.
pub const MESSAGE_TOKENS: u64 = 8;
/// Tokens of the reply's primer, of the tool preamble and of a tool choice.
pub const REQUEST_TOKENS: u64 = 32;
/// Tokens that a tool's declaration adds to its text.
pub const TOOL_TOKENS: u64 = 16;
/// Answers to one request at most.
const MOST_CHOICES: u64 = 128;

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow)]
    tools: Option<Vec<Kind<'a>>>,
    functions: Option<Vec<IgnoredAny>>,
    #[serde(borrow)]
    response_format: Option<Kind<'a>>,
    reasoning_effort: Option<IgnoredAny>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    web_search_options: Option<IgnoredAny>,
    /// xAI's search, and OpenRouter's plugins: both are billed beside the tokens.
    search_parameters: Option<IgnoredAny>,
    plugins: Option<Vec<IgnoredAny>>,
    /// Parameters of spoken output.
    audio: Option<IgnoredAny>,
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "written")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
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
    /// An earlier spoken answer, by its identifier.
    audio: Option<IgnoredAny>,
}

/// The type of something whose other members do not matter here.
#[derive(Deserialize)]
pub struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    pub kind: Cow<'a, str>,
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
    let overhead = REQUEST_TOKENS + MESSAGE_TOKENS * (request.messages.len() as u64) + TOOL_TOKENS * tools as u64;
    let max_completion_tokens = cap(request.max_completion_tokens, "max_completion_tokens")?;
    let max_tokens = cap(request.max_tokens, "max_tokens")?;
    let searches = u64::from(request.web_search_options.is_some());
    let bound = input_bound(body, &contents, IMAGE_TOKENS, overhead);
    Ok(Facts {
        model: text(request.model),
        stream: request.stream.unwrap_or(false),
        max_output: max_completion_tokens.or(max_tokens),
        choices: choices(request.n, "n")?,
        wants_usage: wants_usage(request.stream_options),
        texts,
        turns: request.messages.len(),
        tools,
        required: required(&request, tools),
        surcharges: surcharges(&request),
        tier: asked_tier(request.service_tier.as_deref()),
        // What a search finds is read in a pass of its own.
        input: InputBound { opaque: bound.opaque || has_unbounded(&request), passes: 1 + searches, ..bound },
        cache: CacheWrites::Any,
        // A search model searches once.
        web_searches: searches,
        media: request.audio.is_some() || contents.iter().flat_map(|c| &c.0).any(|part| part.kind != "text"),
        members: members(body, &request),
    })
}

/// A member as it is written; a `null` is one, and not the same as none: what is spliced in beside it would be there twice.
pub fn written<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A member's text; empty when it is none.
pub fn text(value: Option<&RawValue>) -> String {
    value.and_then(|v| serde_json::from_str(v.get()).ok()).unwrap_or_default()
}

pub fn cap(value: Option<&RawValue>, field: &'static str) -> Result<Option<u64>, RequestError> {
    let Some(value) = value.filter(|v| v.get() != "null") else { return Ok(None) };
    match value.get().parse() {
        Ok(cap) if cap > 0 => Ok(Some(cap)),
        _ => Err(RequestError::Field { field, problem: "must be a positive whole number" }),
    }
}

/// How many answers a member asks for; one when it is absent.
pub fn choices(value: Option<u64>, field: &'static str) -> Result<u64, RequestError> {
    match value.unwrap_or(1) {
        choices @ 1..=MOST_CHOICES => Ok(choices),
        _ => Err(RequestError::Field { field, problem: "must be between 1 and 128" }),
    }
}

/// True when the caller of a stream asked to see usage in it.
pub fn wants_usage(stream_options: Option<&RawValue>) -> bool {
    let options: StreamOptions = stream_options.and_then(|o| serde_json::from_str(o.get()).ok()).unwrap_or_default();
    options.include_usage.unwrap_or(false)
}

/// Parts of kinds that are not known here (video, in some servers), and references to earlier sound.
fn has_unbounded(request: &ChatRequest<'_>) -> bool {
    const BOUNDED: [&str; 4] = ["text", "refusal", "image_url", "thinking"];
    let is_unbounded =
        |message: &Message<'_>| message.audio.is_some() || message.content.0.iter().any(|part| !BOUNDED.contains(&part.kind.as_ref()));
    request.messages.iter().any(is_unbounded)
}

/// What compatible providers bill beside the tokens: tools that they run themselves, searches, plugins.
fn surcharges(request: &ChatRequest<'_>) -> Vec<String> {
    let tools = request.tools.iter().flatten().map(|tool| tool.kind.as_ref());
    let mut found: Vec<String> = tools.filter(|kind| !matches!(*kind, "function" | "custom" | "")).map(name).collect();
    found.extend(request.search_parameters.map(|_| "search_parameters".to_owned()));
    found.extend(request.plugins.as_ref().filter(|plugins| !plugins.is_empty()).map(|_| "plugins".to_owned()));
    found.extend(unpriced_tier(request.service_tier.as_deref()));
    found.sort();
    found.dedup();
    found
}

/// The name of something that the caller named, for a message.
pub fn name(kind: &str) -> String {
    kind.chars().take(64).collect()
}

/// A tier that not every price list has, so that the standard price is no bound.
pub fn unpriced_tier(name: Option<&str>) -> Option<String> {
    name.filter(|name| *name == "ultrafast").map(|name| format!("service_tier: {name}"))
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
        Some("ultrafast") => AskedTier::Said(ServiceTier::Fast),
        _ => AskedTier::Unsaid,
    }
}

fn members(body: &str, request: &ChatRequest<'_>) -> Members {
    let span = |value: Option<&RawValue>| value.and_then(|v| span_in(body, v.get()));
    // Models that know only the newer name refuse the older one, unless it is null.
    let max_tokens = request.max_tokens.filter(|v| v.get() != "null");
    Members {
        model: span(request.model),
        max_output: [max_tokens, request.max_completion_tokens].into_iter().filter_map(span).collect(),
        cap: Some(Slot::first(body, "\"max_completion_tokens\":", ",")),
        stream_options: span(request.stream_options),
        ..Members::default()
    }
}
