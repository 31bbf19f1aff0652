//! The request of `POST /v1/responses`.
//!
//! The provider may run the model many times for one request: each use of a tool that it runs itself is followed by another pass over
//! everything so far. Only `max_tool_calls` bounds that. It may also read what the request merely names (an earlier response, a
//! conversation, a template, a file): then the model's window is the bound.
//!
//! With `background: true` the answer comes before the response is done and says no usage. Such a call is held to its budgets like
//! any other and stays charged as reserved; streamed, it is charged by its own figures.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::chat::{IMAGE_TOKENS, Kind, MESSAGE_TOKENS, REQUEST_TOKENS, TOOL_TOKENS, asked_tier, cap, name, text, unpriced_tier, written};
use super::items::{self, Items};
use crate::core::policy::Capability;
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;

pub use super::responses_usage::{of_body as usage, reader};

#[derive(Deserialize)]
struct ResponsesRequest<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    max_tool_calls: Option<u64>,
    #[serde(borrow, default, deserialize_with = "written")]
    max_output_tokens: Option<&'a RawValue>,
    previous_response_id: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    context_management: Option<IgnoredAny>,
    #[serde(borrow)]
    reasoning: Option<Reasoning<'a>>,
    #[serde(borrow)]
    text: Option<TextOptions<'a>>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct Reasoning<'a> {
    #[serde(borrow)]
    effort: Option<Cow<'a, str>>,
    #[serde(borrow)]
    summary: Option<Cow<'a, str>>,
    #[serde(borrow)]
    mode: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct TextOptions<'a> {
    #[serde(borrow)]
    format: Option<Kind<'a>>,
}

/// A tool's declaration.
#[derive(Deserialize)]
pub struct Tool<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    /// Of a tool search: who runs it.
    #[serde(borrow)]
    execution: Option<Cow<'a, str>>,
    /// Of a shell: where it runs.
    #[serde(borrow)]
    environment: Option<Kind<'a>>,
}

/// Who runs a tool, and what for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RunBy {
    /// The caller, in another call.
    Caller,
    /// The provider, for the tokens of another pass, and a web search's fee.
    Provider,
    /// The provider, at a price of its own; or it is not known here.
    ProviderAtAPrice,
}

impl Tool<'_> {
    fn run_by(&self) -> RunBy {
        let is_local = self.environment.as_ref().is_some_and(|e| e.kind == "local");
        match self.kind.as_ref() {
            "function" | "custom" | "namespace" | "apply_patch" | "local_shell" => RunBy::Caller,
            "shell" if is_local => RunBy::Caller,
            "tool_search" if self.execution.as_deref() == Some("client") => RunBy::Caller,
            // The model says what to click, and the caller clicks.
            kind if kind.starts_with("computer") => RunBy::Caller,
            "mcp" | "tool_search" => RunBy::Provider,
            kind if kind.starts_with("web_search") => RunBy::Provider,
            _ => RunBy::ProviderAtAPrice,
        }
    }
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: ResponsesRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let mut texts = Texts::default();
    if let Some(instructions) = request.instructions {
        items::push_text(&mut texts, body, instructions, false)?;
    }
    let input = match request.input {
        Some(input) => items::read(&mut texts, body, input)?,
        None => Items::default(),
    };
    let tools: Vec<&Tool<'_>> = request.tools.iter().flatten().chain(&input.tools).collect();
    let provider = at_the_provider(&request, &tools);
    let overhead = REQUEST_TOKENS + MESSAGE_TOKENS * input.count as u64 + TOOL_TOKENS * tools.len() as u64;
    let stored = [&request.previous_response_id, &request.conversation, &request.prompt].into_iter().any(Option::is_some);
    let opaque = input.opaque || stored;
    // A conversation that is to be shortened on the way is read once more for that.
    let shortens = request.context_management.is_some() || input.compacts;
    let span = |value: Option<&RawValue>| value.and_then(|v| span_in(body, v.get()));
    Ok(Facts {
        model: text(request.model),
        stream: request.stream.unwrap_or(false),
        max_output: cap(request.max_output_tokens, "max_output_tokens")?,
        choices: 1,
        // The last event always has it.
        wants_usage: true,
        texts,
        turns: input.count,
        tools: tools.len(),
        required: required(&request, &input, tools.len()),
        surcharges: provider.surcharges,
        tier: asked_tier(request.service_tier.as_deref()),
        input: InputBound {
            tokens: body.len().saturating_sub(input.image_bytes) as u64 + IMAGE_TOKENS * input.images + overhead,
            opaque,
            passes: provider.passes.saturating_mul(1 + u64::from(shortens)),
        },
        web_searches: provider.web_searches,
        media: input.media || opaque || provider.makes_images,
        members: Members {
            model: span(request.model),
            max_output: span(request.max_output_tokens).into_iter().collect(),
            cap: Some(Slot::first(body, "\"max_output_tokens\":", ",")),
            stream_options: None,
            ..Members::default()
        },
        ..Facts::default()
    })
}

/// What the provider may do between reading the request and answering it.
struct AtTheProvider {
    /// How often the model reads its input at most.
    passes: u64,
    web_searches: u64,
    makes_images: bool,
    /// What has a price of its own, or may go on for as long as it likes.
    surcharges: Vec<String>,
}

fn at_the_provider(request: &ResponsesRequest<'_>, tools: &[&Tool<'_>]) -> AtTheProvider {
    let may_use_tools = request.tool_choice.is_none_or(|choice| choice.get() != "\"none\"");
    let mut surcharges: Vec<String> = unpriced_tier(request.service_tier.as_deref()).into_iter().collect();
    if let Some(mode) = request.reasoning.as_ref().and_then(|r| r.mode.as_deref()).filter(|mode| *mode != "standard") {
        surcharges.push(format!("reasoning.mode: {}", name(mode)));
    }
    let (mut passes, mut web_searches, mut makes_images) = (1, 0, false);
    let mut may_run = |named: &str, at_a_price: bool| {
        // Without a bound this is no bound either, but there is more than one pass.
        passes = request.max_tool_calls.map_or(2, |calls| calls.saturating_add(1));
        if at_a_price || request.max_tool_calls.is_none() {
            surcharges.push(name(named));
        }
    };
    for tool in tools.iter().filter(|_| may_use_tools) {
        match tool.run_by() {
            RunBy::Caller => {}
            RunBy::Provider => {
                if tool.kind.starts_with("web_search") {
                    web_searches = request.max_tool_calls.unwrap_or(0);
                }
                may_run(&tool.kind, false);
            }
            RunBy::ProviderAtAPrice => {
                makes_images |= tool.kind == "image_generation";
                may_run(&tool.kind, true);
            }
        }
    }
    // A template brings its own tools, unless the request says which.
    if request.prompt.is_some() && may_use_tools && request.tools.is_none() {
        may_run("prompt (a stored template)", true);
    }
    surcharges.sort();
    surcharges.dedup();
    AtTheProvider { passes, web_searches, makes_images, surcharges }
}

fn required(request: &ResponsesRequest<'_>, input: &Items<'_>, tools: usize) -> BTreeSet<Capability> {
    let format = request.text.as_ref().and_then(|text| text.format.as_ref());
    let effort = |r: &Reasoning<'_>| r.effort.as_deref().is_some_and(|effort| effort != "none");
    let needs = [
        (tools > 0, Capability::Tools),
        (input.images > 0, Capability::Vision),
        (format.is_some_and(|format| format.kind == "json_schema"), Capability::JsonSchema),
        (request.reasoning.as_ref().is_some_and(|r| effort(r) || r.summary.is_some()), Capability::Reasoning),
    ];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect()
}
