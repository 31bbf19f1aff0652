//! Anthropic Messages, answered by Chat Completions: the request. Its answer is in [`message`](super::message).
//!
//! | Messages | Chat Completions |
//! |---|---|
//! | `system`, messages of role `system` | messages of role `system`, in their place |
//! | `user`, `assistant` | the same |
//! | `image` blocks | `image_url`, `base64` as a data URI |
//! | `tool_use` blocks | `tool_calls` |
//! | `tool_result` blocks | messages of role `tool`; one with `is_error` begins with `Error:`, since no member says so |
//! | `tools` of the caller's own, `strict` | `tools` |
//! | `tool_choice`: `any`, `tool`; `disable_parallel_tool_use` | `required`, a name; `parallel_tool_calls: false` |
//! | `output_config.format`, `output_config.effort` | `response_format`, `reasoning_effort` |
//! | `thinking`: `disabled`, `adaptive` | `reasoning_effort: none`; nothing, which leaves it to the model too |
//! | `stop_sequences` up to four, `temperature`, `top_p`, `metadata.user_id` | `stop`, `temperature`, `top_p`, `user` |
//! | `max_tokens` | `max_completion_tokens` |
//! | `service_tier: standard_only` | `service_tier: default` |
//! | `thinking` and `redacted_thinking` blocks | left out: only the model that thought them can read them, and Anthropic itself leaves out those of earlier turns |
//! | `cache_control`, `eager_input_streaming`, `thinking.display` | left out: they change no word of the answer |
//! | anything else | refused by name: tools at the provider, documents, `top_k`, a thinking budget, an answer begun by the caller … |

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Untranslatable;
use super::json::{Json, Object, Written, object, text};
use super::vocabulary::EFFORTS;
use crate::llm::request::Request;

/// Stop sequences that Chat Completions takes.
const MOST_STOPS: usize = 4;
/// The name that a schema must have.
const SCHEMA_NAME: &str = "answer";

/// The body of the request.
pub fn request(call: &Request) -> Result<Json, Untranslatable> {
    let mut request = Object::of_body(call.body())?;
    // Read when the request was admitted.
    request.leave_out(&["model", "max_tokens", "stream", "cache_control"]);
    let mut messages = Vec::new();
    let system = blocks(&mut request, "system")?.into_iter().map(text_block).collect::<Result<Vec<_>, _>>()?;
    if !system.is_empty() {
        messages.push(message("system", content(system)));
    }
    let turns = request.objects("messages")?;
    let last = turns.len().saturating_sub(1);
    for (at, turn) in turns.into_iter().enumerate() {
        self::turn(turn, at == last, &mut messages)?;
    }
    let tools: Vec<Json> = request.objects("tools")?.into_iter().map(tool).collect::<Result<_, _>>()?;
    let (tool_choice, one_at_a_time) = tool_choice(&mut request)?;
    let has_tools = !tools.is_empty();
    let (format, effort) = output_config(&mut request)?;
    let stop = stop_sequences(&mut request)?;
    let written = object()
        .with("model", call.model())
        .maybe("stream", call.stream().then_some(true))
        .with("messages", Json::list(messages))
        .maybe("max_completion_tokens", call.max_output())
        .maybe("tools", has_tools.then(|| Json::list(tools)))
        .maybe("tool_choice", tool_choice.filter(|_| has_tools))
        .maybe("parallel_tool_calls", (one_at_a_time && has_tools).then_some(false))
        .maybe("response_format", format)
        .maybe("reasoning_effort", effort.as_deref())
        .maybe("stop", stop)
        .maybe("temperature", request.number("temperature")?.map(|(written, _)| written))
        .maybe("top_p", request.number("top_p")?.map(|(written, _)| written))
        .maybe("user", user(&mut request)?.as_deref())
        .maybe("service_tier", service_tier(&mut request)?);
    match request.text("speed")?.as_deref() {
        None | Some("standard") => {}
        Some(other) => return Err(request.refuse_value("speed", other)),
    }
    request.refuse_rest()?;
    Ok(written.into())
}

fn message(role: &str, content: Json) -> Json {
    object().with("role", role).with("content", content).into()
}

/// A content of one text is that text; servers that are only compatible take this best.
fn content(mut parts: Vec<Content<'_>>) -> Json {
    match parts.as_mut_slice() {
        [] => "".into(),
        [Content::Text(text)] => text.as_ref().into(),
        _ => Json::list(parts.into_iter().map(|part| match part {
            Content::Text(text) => object().with("type", "text").with("text", text.as_ref()).into(),
            Content::Image(url) => object().with("type", "image_url").with("image_url", object().with("url", url.as_str())).into(),
        })),
    }
}

enum Content<'a> {
    Text(Cow<'a, str>),
    /// By its URL.
    Image(String),
}

/// Content that is a text or a list of blocks.
fn blocks<'a>(of: &mut Object<'a>, name: &str) -> Result<Vec<Block<'a>>, Untranslatable> {
    if let Some(text) = of.peek(name).and_then(text) {
        of.leave_out(&[name]);
        return Ok(if text.is_empty() { Vec::new() } else { vec![Block::Text(text)] });
    }
    of.objects(name)?
        .into_iter()
        .map(|mut block| {
            block.leave_out(&["cache_control"]);
            let kind = block.needed_text("type")?;
            Ok(Block::Other(kind, block))
        })
        .collect()
}

enum Block<'a> {
    Text(Cow<'a, str>),
    /// By its type.
    Other(Cow<'a, str>, Object<'a>),
}

fn text_block(block: Block<'_>) -> Result<Content<'_>, Untranslatable> {
    match block {
        Block::Text(text) => Ok(Content::Text(text)),
        Block::Other(kind, mut block) if kind == "text" => {
            let text = block.needed_text("text")?;
            if block.peek("citations").is_some_and(|citations| citations.get() == "[]") {
                block.leave_out(&["citations"]);
            }
            block.refuse_rest()?;
            Ok(Content::Text(text))
        }
        Block::Other(kind, block) => Err(block.refuse_value("type", &kind)),
    }
}

/// Text or an image.
fn seen_block(block: Block<'_>) -> Result<Content<'_>, Untranslatable> {
    match block {
        Block::Other(kind, mut block) if kind == "image" => {
            let mut source = block.object("source")?.ok_or_else(|| block.refuse("source"))?;
            let kind = source.needed_text("type")?;
            let url = match kind.as_ref() {
                "base64" => format!("data:{};base64,{}", source.needed_text("media_type")?, source.needed_text("data")?),
                "url" => source.needed_text("url")?.into_owned(),
                other => return Err(source.refuse_value("type", other)),
            };
            source.refuse_rest()?;
            block.refuse_rest()?;
            Ok(Content::Image(url))
        }
        block => text_block(block),
    }
}

/// One message becomes several where tools have answered.
fn turn(mut turn: Object<'_>, is_last: bool, messages: &mut Vec<Json>) -> Result<(), Untranslatable> {
    let role = turn.needed_text("role")?;
    let blocks = blocks(&mut turn, "content")?;
    match role.as_ref() {
        "system" => {
            let parts = blocks.into_iter().map(text_block).collect::<Result<Vec<_>, _>>()?;
            messages.push(message("system", content(parts)));
        }
        "user" => user_turn(blocks, messages)?,
        // There the model goes on with it; here it would answer anew.
        "assistant" if is_last => return Err(Untranslatable("an assistant's message at the end of `messages`".to_owned())),
        "assistant" => messages.push(assistant_turn(blocks)?),
        other => return Err(turn.refuse_value("role", other)),
    }
    turn.refuse_rest()
}

fn user_turn(blocks: Vec<Block<'_>>, messages: &mut Vec<Json>) -> Result<(), Untranslatable> {
    let mut parts = Vec::new();
    let mut has_results = false;
    for block in blocks {
        match block {
            Block::Other(kind, block) if kind == "tool_result" => {
                if !parts.is_empty() {
                    return Err(Untranslatable(format!("a `tool_result` after other content (`{}`)", block.path("type"))));
                }
                has_results = true;
                messages.push(tool_result(block)?);
            }
            block => parts.push(seen_block(block)?),
        }
    }
    if !parts.is_empty() || !has_results {
        messages.push(message("user", content(parts)));
    }
    Ok(())
}

fn tool_result(mut block: Object<'_>) -> Result<Json, Untranslatable> {
    let id = block.needed_text("tool_use_id")?;
    let failed = block.flag("is_error")?.unwrap_or(false);
    let mut parts = blocks(&mut block, "content")?.into_iter().map(text_block).collect::<Result<Vec<_>, _>>()?;
    if failed {
        match parts.first_mut() {
            Some(Content::Text(text)) => *text = Cow::Owned(format!("Error: {text}")),
            _ => parts.push(Content::Text("Error".into())),
        }
    }
    block.refuse_rest()?;
    Ok(object().with("role", "tool").with("tool_call_id", id.as_ref()).with("content", content(parts)).into())
}

fn assistant_turn(blocks: Vec<Block<'_>>) -> Result<Json, Untranslatable> {
    let (mut parts, mut calls) = (Vec::new(), Vec::new());
    for block in blocks {
        match block {
            Block::Other(kind, _) if kind == "thinking" || kind == "redacted_thinking" => {}
            Block::Other(kind, block) if kind == "tool_use" => calls.push(tool_use(block)?),
            block => parts.push(text_block(block)?),
        }
    }
    let said = if parts.is_empty() && !calls.is_empty() { Json::null() } else { content(parts) };
    let calls = (!calls.is_empty()).then(|| Json::list(calls));
    Ok(object().with("role", "assistant").with("content", said).maybe("tool_calls", calls).into())
}

fn tool_use(mut block: Object<'_>) -> Result<Json, Untranslatable> {
    let (id, name) = (block.needed_text("id")?, block.needed_text("name")?);
    let input = block.take("input").map_or("{}", RawValue::get);
    if let Some(mut caller) = block.object("caller")? {
        let kind = caller.needed_text("type")?;
        if kind != "direct" {
            return Err(caller.refuse_value("type", &kind));
        }
        caller.refuse_rest()?;
    }
    block.refuse_rest()?;
    let function = object().with("name", name.as_ref()).with("arguments", input);
    Ok(object().with("id", id.as_ref()).with("type", "function").with("function", function).into())
}

fn tool(mut tool: Object<'_>) -> Result<Json, Untranslatable> {
    if let Some(kind) = tool.text("type")?.filter(|kind| kind != "custom") {
        // It runs at the provider, or is known to its models only.
        return Err(tool.refuse_value("type", &kind));
    }
    tool.leave_out(&["cache_control", "eager_input_streaming"]);
    for (name, default) in [("defer_loading", "false"), ("input_examples", "[]"), ("allowed_callers", "[\"direct\"]")] {
        if tool.peek(name).is_some_and(|value| value.get() == default) {
            tool.leave_out(&[name]);
        }
    }
    let function = object()
        .with("name", tool.needed_text("name")?.as_ref())
        .maybe("description", tool.text("description")?.as_deref())
        .maybe("parameters", tool.take("input_schema"))
        .maybe("strict", tool.flag("strict")?);
    tool.refuse_rest()?;
    Ok(object().with("type", "function").with("function", function).into())
}

/// The choice, and whether the model may make one call only.
fn tool_choice(request: &mut Object<'_>) -> Result<(Option<Json>, bool), Untranslatable> {
    let Some(mut choice) = request.object("tool_choice")? else { return Ok((None, false)) };
    let kind = choice.needed_text("type")?;
    let written = match kind.as_ref() {
        "auto" => "auto".into(),
        "none" => "none".into(),
        "any" => "required".into(),
        "tool" => {
            let name = choice.needed_text("name")?;
            object().with("type", "function").with("function", object().with("name", name.as_ref())).into()
        }
        other => return Err(choice.refuse_value("type", other)),
    };
    let one_at_a_time = choice.flag("disable_parallel_tool_use")?.unwrap_or(false);
    choice.refuse_rest()?;
    Ok((Some(written), one_at_a_time))
}

/// The form of the answer, and the effort that it is worth.
fn output_config<'a>(request: &mut Object<'a>) -> Result<(Option<Written>, Option<Cow<'a, str>>), Untranslatable> {
    let (mut format, mut effort) = (None, None);
    if let Some(mut config) = request.object("output_config")? {
        effort = config.text("effort")?;
        if let Some(other) = effort.as_deref().filter(|effort| !EFFORTS.contains(effort)) {
            return Err(config.refuse_value("effort", other));
        }
        if let Some(mut wanted) = config.object("format")? {
            let kind = wanted.needed_text("type")?;
            if kind != "json_schema" {
                return Err(wanted.refuse_value("type", &kind));
            }
            let schema = wanted.take("schema").ok_or_else(|| wanted.refuse("schema"))?;
            wanted.refuse_rest()?;
            let schema = object().with("name", SCHEMA_NAME).with("schema", schema).with("strict", true);
            format = Some(object().with("type", "json_schema").with("json_schema", schema));
        }
        config.refuse_rest()?;
    }
    if let Some(mut thinking) = request.object("thinking")? {
        thinking.leave_out(&["display"]);
        match thinking.needed_text("type")?.as_ref() {
            "disabled" => effort = Some("none".into()),
            "adaptive" => {}
            other => {
                return Err(Untranslatable(format!(
                    "`thinking: {}` (say `output_config.effort`)",
                    other.chars().take(64).collect::<String>()
                )));
            }
        }
        thinking.refuse_rest()?;
    }
    Ok((format, effort))
}

fn stop_sequences(request: &mut Object<'_>) -> Result<Option<Json>, Untranslatable> {
    let Some(all) = request.list("stop_sequences")?.filter(|all| !all.is_empty()) else { return Ok(None) };
    if all.len() > MOST_STOPS {
        return Err(Untranslatable(format!("more than {MOST_STOPS} `stop_sequences`")));
    }
    Ok(Some(Json::list(all.into_iter().map(Json::from))))
}

fn user<'a>(request: &mut Object<'a>) -> Result<Option<Cow<'a, str>>, Untranslatable> {
    let Some(mut metadata) = request.object("metadata")? else { return Ok(None) };
    let user = metadata.text("user_id")?;
    metadata.refuse_rest()?;
    Ok(user)
}

fn service_tier(request: &mut Object<'_>) -> Result<Option<&'static str>, Untranslatable> {
    match request.text("service_tier")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some("standard_only") => Ok(Some("default")),
        Some(other) => Err(request.refuse_value("service_tier", other)),
    }
}
