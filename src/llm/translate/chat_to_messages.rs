//! Chat Completions, answered by Anthropic Messages.
//!
//! | Chat Completions | Messages |
//! |---|---|
//! | `system` and `developer` messages at the beginning | `system` |
//! | later ones | messages of role `system`, which newer models take |
//! | `user`, `assistant` | the same; neighbours of one role become one message |
//! | `tool` messages | `tool_result` blocks of a user's message |
//! | `tool_calls` | `tool_use` blocks; arguments are objects there |
//! | `image_url` | `image` with a `base64` or `url` source |
//! | `tools`, `strict` | the same |
//! | `tool_choice`: `required`, a name; `parallel_tool_calls: false` | `any`, `tool`; `disable_parallel_tool_use` |
//! | `response_format`: `json_schema` | `output_config.format` |
//! | `reasoning_effort` | `output_config.effort`; `none` is `thinking: disabled` |
//! | `stop`, `top_p`, `user` | `stop_sequences`, `top_p`, `metadata.user_id` |
//! | `temperature` up to 1 | the same |
//! | refused | `temperature` above 1, `reasoning_effort: minimal`, `response_format: json_object`, `seed`, penalties |
//!
//! Of the answer, thinking becomes `reasoning_content`; its signature, and thinking that the provider hides, have no place.

use std::borrow::Cow;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat::{self, Chat, Format, Part, Says, ToolChoice};
use super::completion::{Call, Chunks, Completion};
use super::failure::Failure;
use super::figures::{Figures, Running};
use super::json::{Json, Written, described, object};
use super::vocabulary::{EFFORTS, Image, finish_reason};
use super::{PLACEHOLDER_CAP, StreamTranslator, Translation, Untranslatable};
use crate::core::policy::Protocol;
use crate::llm::request::Request;

const FORMAT: Protocol = Protocol::AnthropicMessages;

/// The body of the request.
pub fn request(call: &Request) -> Result<Json, Untranslatable> {
    let chat = chat::read(call.body())?;
    for (name, value) in [("seed", chat.seed), ("frequency_penalty", chat.frequency_penalty), ("presence_penalty", chat.presence_penalty)] {
        if value.is_some() {
            return Err(Untranslatable(format!("`{name}`")));
        }
    }
    if let Some((written, _)) = chat.temperature.filter(|(_, value)| !(0.0..=1.0).contains(value)) {
        return Err(Untranslatable(format!("`temperature: {written}` (Messages takes up to 1)")));
    }
    let preamble = chat.preamble();
    let system = chat.messages[..preamble].iter().flat_map(|message| match &message.says {
        Says::System(parts) => parts.as_slice(),
        _ => &[],
    });
    let system: Vec<Json> = system.map(block).collect();
    let user = chat.user.as_deref().map(|user| object().with("user_id", user));
    let stop = (!chat.stop.is_empty()).then(|| Json::list(chat.stop.iter().map(|stop| stop.as_ref().into())));
    Ok(object()
        .with("model", call.model())
        .with("max_tokens", call.max_output().unwrap_or(PLACEHOLDER_CAP))
        .maybe("stream", call.stream().then_some(true))
        .maybe("system", (!system.is_empty()).then(|| Json::list(system)))
        .with("messages", messages(&chat, preamble))
        .maybe("tools", (!chat.tools.is_empty()).then(|| Json::list(chat.tools.iter().map(tool))))
        .maybe("tool_choice", tool_choice(&chat))
        .maybe("output_config", output_config(&chat)?.unless_empty())
        .maybe("thinking", (chat.effort.as_deref() == Some("none")).then(|| object().with("type", "disabled")))
        .maybe("temperature", chat.temperature.map(|(written, _)| written))
        .maybe("top_p", chat.top_p)
        .maybe("stop_sequences", stop)
        .maybe("metadata", user)
        .into())
}

/// The messages after the preamble. All results of one turn's calls must stand in one message, so neighbours of a role are joined.
fn messages(chat: &Chat<'_>, preamble: usize) -> Json {
    let mut turns: Vec<(&str, Vec<Json>)> = Vec::new();
    for message in &chat.messages[preamble..] {
        let (role, blocks) = match &message.says {
            Says::System(parts) => ("system", parts.iter().map(block).collect()),
            Says::User(parts) => ("user", parts.iter().map(block).collect()),
            Says::Assistant { parts, calls } => ("assistant", parts.iter().map(block).chain(calls.iter().map(tool_use)).collect()),
            Says::Tool { id, parts } => ("user", vec![tool_result(id, parts)]),
        };
        match turns.last_mut() {
            Some((last, joined)) if *last == role => joined.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    let turns = turns.into_iter().map(|(role, blocks)| object().with("role", role).with("content", Json::list(blocks)).into());
    Json::list(turns)
}

fn block(part: &Part<'_>) -> Json {
    let source = match part {
        Part::Text(text) => return object().with("type", "text").with("text", text.as_ref()).into(),
        Part::Image(Image::Inline { media_type, base64 }) => {
            object().with("type", "base64").with("media_type", media_type.as_ref()).with("data", base64.as_ref())
        }
        Part::Image(Image::At(url)) => object().with("type", "url").with("url", url.as_ref()),
    };
    object().with("type", "image").with("source", source).into()
}

fn tool_use(call: &chat::Call<'_>) -> Json {
    let (id, name) = (call.id.as_ref(), call.name.as_ref());
    object().with("type", "tool_use").with("id", id).with("name", name).with("input", call.arguments.clone()).into()
}

fn tool_result(id: &str, parts: &[Part<'_>]) -> Json {
    let content = match parts {
        [Part::Text(text)] => text.as_ref().into(),
        parts => Json::list(parts.iter().map(block)),
    };
    object().with("type", "tool_result").with("tool_use_id", id).with("content", content).into()
}

fn tool(tool: &chat::Tool<'_>) -> Json {
    let schema = tool.parameters.map_or_else(|| object().with("type", "object").with("properties", object()).into(), Json::from);
    object()
        .with("name", tool.name.as_ref())
        .maybe("description", tool.description.as_deref())
        .with("input_schema", schema)
        .maybe("strict", tool.strict.then_some(true))
        .into()
}

fn tool_choice(chat: &Chat<'_>) -> Option<Json> {
    let one_at_a_time = (chat.parallel_tool_calls == Some(false)).then_some(true);
    let (kind, name) = match &chat.tool_choice {
        // Without tools these say what is so anyway, and Messages does not take them.
        None | Some(ToolChoice::Auto | ToolChoice::None) if chat.tools.is_empty() => return None,
        None if one_at_a_time.is_none() => return None,
        None | Some(ToolChoice::Auto) => ("auto", None),
        Some(ToolChoice::None) => return Some(object().with("type", "none").into()),
        Some(ToolChoice::Required) => ("any", None),
        Some(ToolChoice::Named(name)) => ("tool", Some(name.as_ref())),
    };
    Some(object().with("type", kind).maybe("name", name).maybe("disable_parallel_tool_use", one_at_a_time).into())
}

fn output_config(chat: &Chat<'_>) -> Result<Written, Untranslatable> {
    let effort = match chat.effort.as_deref() {
        None | Some("none") => None,
        Some(effort) if EFFORTS.contains(&effort) => Some(effort),
        Some(other) => return Err(Untranslatable(format!("`reasoning_effort: {}`", other.chars().take(64).collect::<String>()))),
    };
    let format = match &chat.format {
        Format::Text => None,
        Format::JsonObject => return Err(Untranslatable("`response_format: json_object` (give a schema)".to_owned())),
        Format::Schema { description, schema, .. } => {
            Some(object().with("type", "json_schema").with("schema", described(schema, description.as_deref())?))
        }
    };
    Ok(object().maybe("effort", effort).maybe("format", format))
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Vec<Block<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
    usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Block<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl Usage {
    fn thinking(&self) -> Option<u64> {
        self.output_tokens_details.as_ref()?.thinking_tokens
    }
}

/// A message as a completion.
pub fn answer(of: &Translation, body: &[u8]) -> Result<Json, String> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| format!("it is not a message: {e}"))?;
    let mut completion =
        Completion { id: answer.id.map(Cow::into_owned), model: answer.model.map(Cow::into_owned), ..Completion::default() };
    for block in &answer.content {
        match block.kind.as_ref() {
            "text" => completion.text.push_str(block.text.as_deref().unwrap_or_default()),
            "thinking" => completion.reasoning.push_str(block.thinking.as_deref().unwrap_or_default()),
            "tool_use" => completion.calls.push(call_of(block, of, completion.calls.len() as u64)),
            // Only tools at the provider make others, and none was asked for.
            _ => {}
        }
    }
    completion.finish_reason = finish_reason(answer.stop_reason.as_deref().unwrap_or_default(), !completion.calls.is_empty());
    completion.figures = Figures::of_body(FORMAT, body, answer.usage.as_ref().and_then(Usage::thinking));
    Ok(completion.write(of))
}

fn call_of(block: &Block<'_>, of: &Translation, index: u64) -> Call {
    Call {
        id: block.id.as_deref().map_or_else(|| of.call_id(index), str::to_owned),
        name: block.name.as_deref().unwrap_or_default().to_owned(),
        arguments: block.input.map_or("{}", RawValue::get).to_owned(),
        signature: None,
    }
}

pub fn stream(of: &Translation) -> Box<dyn StreamTranslator> {
    Box::new(Stream { chunks: Chunks::new(of), running: Running::new(FORMAT), of: of.clone(), open_call: None, calls: 0 })
}

struct Stream {
    chunks: Chunks,
    running: Running,
    of: Translation,
    /// The call whose arguments are arriving: blocks come one after the other.
    open_call: Option<OpenCall>,
    calls: u64,
}

struct OpenCall {
    /// Its place among the calls.
    index: u64,
    has_arguments: bool,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Option<Started<'a>>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Block<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Started<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
}

impl StreamTranslator for Stream {
    fn event(&mut self, payload: &[u8], out: &mut BytesMut) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(payload) else {
            return self.chunks.fail(&Failure::unreadable(), out);
        };
        match (event.kind.as_ref(), event.message, event.content_block, event.delta) {
            ("message_start", Some(message), _, _) => {
                self.running.read(payload);
                self.chunks.begin(message.id.map(Cow::into_owned), message.model.map(Cow::into_owned), out);
            }
            ("content_block_start", _, Some(block), _) => self.start(&block, out),
            ("content_block_delta", _, _, Some(delta)) => self.delta(&delta, out),
            ("content_block_stop", _, _, _) => {
                // A call without arguments has an empty object of them, which callers parse.
                if let Some(call) = self.open_call.take().filter(|call| !call.has_arguments) {
                    self.chunks.arguments(call.index, "{}", out);
                }
            }
            ("message_delta", _, _, Some(delta)) => {
                self.running.read(payload);
                if let Some(usage) = &event.usage {
                    self.running.reasoning = usage.thinking().or(self.running.reasoning);
                }
                if let Some(reason) = &delta.stop_reason {
                    self.chunks.finish(finish_reason(reason, self.chunks.has_calls()), out);
                }
            }
            ("message_stop", _, _, _) => self.chunks.done(self.running.figures(), out),
            ("error", _, _, _) => {
                let failure = Failure::of_event(FORMAT, payload).unwrap_or_else(Failure::broken_off);
                self.chunks.fail(&failure, out);
            }
            _ => {}
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.chunks.fail(&Failure::broken_off(), out);
    }
}

impl Stream {
    fn start(&mut self, block: &Block<'_>, out: &mut BytesMut) {
        self.open_call = None;
        match block.kind.as_ref() {
            "tool_use" => {
                let input = block.input.map_or("", RawValue::get);
                // The empty object stands for arguments that are to come.
                let has_arguments = !matches!(input.replace(char::is_whitespace, "").as_str(), "" | "{}");
                let mut call = call_of(block, &self.of, self.calls);
                call.arguments = if has_arguments { call.arguments } else { String::new() };
                self.calls += 1;
                let index = self.chunks.call(&call, out);
                self.open_call = Some(OpenCall { index, has_arguments });
            }
            _ => self.delta(block, out),
        }
    }

    fn delta(&mut self, delta: &Block<'_>, out: &mut BytesMut) {
        self.chunks.text(delta.text.as_deref().unwrap_or_default(), out);
        self.chunks.reasoning(delta.thinking.as_deref().unwrap_or_default(), out);
        if let (Some(call), Some(more)) = (&mut self.open_call, delta.partial_json.as_deref()) {
            call.has_arguments |= !more.is_empty();
            self.chunks.arguments(call.index, more, out);
        }
    }
}
