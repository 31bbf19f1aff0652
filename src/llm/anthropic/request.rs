//! The request of `POST /v1/messages`.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::content::Content;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, input_bound, span_in};

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
    /// How often a tool of the provider's may be used.
    max_uses: Option<u64>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
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
    let (web_searches, surcharges) = server_tools(&request);
    let bound = input_bound(body, &contents, IMAGE_TOKENS, overhead);
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
        surcharges,
        tier: AskedTier::Said(if request.speed.as_deref() == Some("fast") { ServiceTier::Fast } else { ServiceTier::Standard }),
        cache: cache_writes(body),
        // Each use of a tool at the provider is followed by another pass over everything so far.
        input: InputBound { passes: web_searches.saturating_add(1), ..bound },
        web_searches,
        media: false,
        members: Members { model: span(request.model), max_output: span(request.max_tokens).into_iter().collect(), ..Members::default() },
    })
}

fn required(request: &MessagesRequest<'_>, tools: usize) -> std::collections::BTreeSet<Capability> {
    let has_image = request.messages.iter().flat_map(|m| &m.content.0).any(|p| p.image_bytes().is_some());
    let thinks = request.thinking.as_ref().is_some_and(|t| t.kind != "disabled");
    let needs = [(tools > 0, Capability::Tools), (has_image, Capability::Vision), (thinks, Capability::Reasoning)];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect()
}

/// What the request lets be cached: it has to say so, somewhere. A name that may be written with escapes is not looked for.
fn cache_writes(body: &str) -> CacheWrites {
    let has = |text: &str| memmem::find(body.as_bytes(), text.as_bytes()).is_some();
    match (has("cache_control"), has("\"1h\""), has("\\u00")) {
        (_, _, true) | (true, true, _) => CacheWrites::Any,
        (true, false, _) => CacheWrites::Short,
        (false, _, _) => CacheWrites::Never,
    }
}

/// Tools that run at the provider (they have a dated type, such as `web_search_20250305`): how many searches they may make, and those
/// whose number nothing bounds.
fn server_tools(request: &MessagesRequest<'_>) -> (u64, Vec<String>) {
    const AT_THE_PROVIDER: [&str; 4] = ["web_search", "web_fetch", "code_execution", "advisor"];
    let mut searches = 0_u64;
    let mut unbounded = Vec::new();
    for tool in request.tools.iter().flatten() {
        let kind = tool.kind.as_deref().unwrap_or_default();
        match (AT_THE_PROVIDER.iter().any(|known| kind.starts_with(known)), tool.max_uses) {
            (true, Some(uses)) if kind.starts_with("web_") => searches = searches.saturating_add(uses),
            (true, _) => unbounded.push(kind.to_owned()),
            (false, _) => {}
        }
    }
    (searches, unbounded)
}
