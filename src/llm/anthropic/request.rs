//! The request of `POST /v1/messages`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::core::policy::Capability;
use crate::llm::content::Content;
use crate::llm::request::{Facts, Members, RequestError, Texts, input_bound, span_in};

/// Tokens of one image at most (models since Claude 4.7: 2,576 pixels on the long edge).
const IMAGE_TOKENS: u64 = 4_784;
/// Tokens that a message adds to its text.
const MESSAGE_TOKENS: u64 = 8;
/// Tokens of the request's own frame.
const REQUEST_TOKENS: u64 = 32;
/// Tokens of the system prompt that tool use adds (346 at the time of writing), rounded up.
const TOOL_PROMPT_TOKENS: u64 = 512;

#[derive(Deserialize)]
struct MessagesRequest<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    system: Content<'a>,
    #[serde(borrow, default)]
    messages: Vec<Message<'a>>,
    #[serde(borrow)]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow)]
    thinking: Option<Kind<'a>>,
    stream: Option<bool>,
    #[serde(borrow)]
    speed: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inference_geo: Option<Cow<'a, str>>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Content<'a>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    /// Absent, or `custom`, for the caller's own tools.
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

/// What the request asks for.
pub fn facts(body: &str) -> Result<Facts, RequestError> {
    let request: MessagesRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let mut texts = Texts::default();
    texts.push_content(body, &request.system, false);
    for message in &request.messages {
        texts.push_content(body, &message.content, message.role == "user");
    }
    let tools = request.tools.as_ref().map_or(0, Vec::len);
    let mut contents: Vec<_> = request.messages.iter().map(|m| &m.content).collect();
    contents.push(&request.system);
    let tool_prompt = if tools > 0 { TOOL_PROMPT_TOKENS } else { 0 };
    let overhead = REQUEST_TOKENS + tool_prompt + MESSAGE_TOKENS * (request.messages.len() as u64);
    let max_tokens = request.max_tokens.and_then(|m| m.get().parse().ok()).filter(|cap| *cap > 0);
    if max_tokens.is_none() {
        return Err(RequestError::Field { field: "max_tokens", problem: "is required and must be a positive whole number" });
    }
    let span = |value: Option<&RawValue>| value.and_then(|v| span_in(body, v.get()));
    Ok(Facts {
        model: request.model.and_then(|m| serde_json::from_str(m.get()).ok()).unwrap_or_default(),
        stream: request.stream.unwrap_or(false),
        max_output: max_tokens,
        choices: 1,
        wants_usage: true,
        texts,
        turns: request.messages.len(),
        tools,
        required: required(&request, tools),
        surcharges: surcharges(&request),
        input_bound: input_bound(body, &contents, IMAGE_TOKENS, overhead),
        members: Members { model: span(request.model), max_output: span(request.max_tokens).into_iter().collect(), stream_options: None },
    })
}

fn required(request: &MessagesRequest<'_>, tools: usize) -> std::collections::BTreeSet<Capability> {
    let has_image = request.messages.iter().flat_map(|m| &m.content.0).any(|p| p.image_bytes().is_some());
    let thinks = request.thinking.as_ref().is_some_and(|t| t.kind != "disabled");
    let needs = [(tools > 0, Capability::Tools), (has_image, Capability::Vision), (thinks, Capability::Reasoning)];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect()
}

/// What makes a call dearer than its tokens at list price: tools that run at the provider (they have a dated type, such as
/// `web_search_20250305`), fast mode, and a guaranteed place of inference.
fn surcharges(request: &MessagesRequest<'_>) -> Vec<String> {
    const AT_THE_PROVIDER: [&str; 3] = ["web_search", "web_fetch", "code_execution"];
    let kinds = request.tools.iter().flatten().filter_map(|t| t.kind.as_deref());
    let tools = kinds.filter(|kind| AT_THE_PROVIDER.iter().any(|t| kind.starts_with(t))).map(str::to_owned);
    let fast = request.speed.as_deref().filter(|speed| *speed != "standard").map(|speed| format!("speed: {speed}"));
    let placed = request.inference_geo.as_deref().filter(|geo| *geo != "global").map(|geo| format!("inference_geo: {geo}"));
    tools.chain(fast).chain(placed).collect()
}
