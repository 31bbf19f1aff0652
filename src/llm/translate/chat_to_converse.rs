//! Chat Completions, answered by Bedrock's Converse.
//!
//! | Chat Completions | Converse |
//! |---|---|
//! | `system` and `developer` messages at the beginning | `system` |
//! | later ones | messages of role `system`, which newer models take |
//! | `user`, `assistant` | the same; neighbours of one role become one message |
//! | `tool` messages | `toolResult` blocks of a user's message |
//! | `tool_calls` | `toolUse` blocks; arguments are objects there |
//! | `image_url` with a data URI of PNG, JPEG, GIF or WebP | `image` |
//! | `tools`, `strict` | `toolConfig.tools` |
//! | `tool_choice`: `auto`, `required`, a name | `auto`, `any`, `tool` |
//! | `response_format`: `json_schema` | `outputConfig.textFormat` |
//! | `reasoning_effort` | `outputConfig.effort` |
//! | `stop`, `top_p`, `temperature` up to 1 | `inferenceConfig` |
//! | `user` | left out: there is no place for it |
//! | refused | images by URL, `tool_choice: none` with tools, `parallel_tool_calls: false`, `response_format: json_object`, `temperature` above 1, `reasoning_effort: none` and `minimal`, `seed`, penalties |

use std::borrow::Cow;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat::{self, Chat, Format, Part, Says, ToolChoice};
use super::completion::{Call, Chunks, Completion};
use super::failure::Failure;
use super::figures::{Figures, Running};
use super::json::{Json, Written, object};
use super::vocabulary::{EFFORTS, Image, finish_reason};
use super::{PLACEHOLDER_CAP, StreamTranslator, Translation, Untranslatable};
use crate::core::policy::Protocol;
use crate::llm::request::Request;

const FORMAT: Protocol = Protocol::BedrockConverse;

/// Media types of images, and Converse's names for them.
const IMAGES: [(&str, &str); 5] =
    [("image/png", "png"), ("image/jpeg", "jpeg"), ("image/jpg", "jpeg"), ("image/gif", "gif"), ("image/webp", "webp")];

/// The body of the request.
pub fn request(call: &Request) -> Result<Json, Untranslatable> {
    let chat = chat::read(call.body())?;
    for (name, value) in [("seed", chat.seed), ("frequency_penalty", chat.frequency_penalty), ("presence_penalty", chat.presence_penalty)] {
        if value.is_some() {
            return Err(Untranslatable(format!("`{name}`")));
        }
    }
    if chat.parallel_tool_calls == Some(false) && !chat.tools.is_empty() {
        return Err(Untranslatable("`parallel_tool_calls: false`".to_owned()));
    }
    if let Some((written, _)) = chat.temperature.filter(|(_, value)| !(0.0..=1.0).contains(value)) {
        return Err(Untranslatable(format!("`temperature: {written}` (Converse takes up to 1)")));
    }
    let preamble = chat.preamble();
    let mut system = Vec::new();
    for message in &chat.messages[..preamble] {
        if let Says::System(parts) = &message.says {
            system.extend(blocks(parts, &message.path)?);
        }
    }
    Ok(object()
        .maybe("system", (!system.is_empty()).then(|| Json::list(system)))
        .with("messages", messages(&chat, preamble)?)
        .with("inferenceConfig", inference_config(&chat, call.max_output()))
        .maybe("toolConfig", tool_config(&chat)?)
        .maybe("outputConfig", output_config(&chat)?.unless_empty())
        .into())
}

fn messages(chat: &Chat<'_>, preamble: usize) -> Result<Json, Untranslatable> {
    let mut turns: Vec<(&str, Vec<Json>)> = Vec::new();
    for message in &chat.messages[preamble..] {
        let (role, blocks) = match &message.says {
            Says::System(parts) => ("system", blocks(parts, &message.path)?),
            Says::User(parts) => ("user", blocks(parts, &message.path)?),
            Says::Assistant { parts, calls } => {
                let mut blocks = blocks(parts, &message.path)?;
                blocks.extend(calls.iter().map(tool_use));
                ("assistant", blocks)
            }
            Says::Tool { id, parts } => {
                let result = object().with("toolUseId", id.as_ref()).with("content", Json::list(blocks(parts, &message.path)?));
                ("user", vec![object().with("toolResult", result).into()])
            }
        };
        match turns.last_mut() {
            Some((last, joined)) if *last == role => joined.extend(blocks),
            _ => turns.push((role, blocks)),
        }
    }
    Ok(Json::list(turns.into_iter().map(|(role, blocks)| object().with("role", role).with("content", Json::list(blocks)).into())))
}

fn blocks(parts: &[Part<'_>], path: &str) -> Result<Vec<Json>, Untranslatable> {
    let block = |part: &Part<'_>| match part {
        Part::Text(text) => Ok(object().with("text", text.as_ref()).into()),
        Part::Image(Image::Inline { media_type, base64 }) => {
            let known = IMAGES.iter().find(|(known, _)| known == media_type);
            let unknown = || Untranslatable(format!("an image of type {} (`{path}`)", media_type.chars().take(64).collect::<String>()));
            let (_, format) = known.ok_or_else(unknown)?;
            let source = object().with("bytes", base64.as_ref());
            Ok(object().with("image", object().with("format", *format).with("source", source)).into())
        }
        Part::Image(Image::At(_)) => Err(Untranslatable(format!("an image by its URL (`{path}`; give it as a data URI)"))),
    };
    parts.iter().map(block).collect()
}

fn tool_use(call: &chat::Call<'_>) -> Json {
    let used = object().with("toolUseId", call.id.as_ref()).with("name", call.name.as_ref()).with("input", call.arguments.clone());
    object().with("toolUse", used).into()
}

fn inference_config(chat: &Chat<'_>, cap: Option<u64>) -> Written {
    let stop = (!chat.stop.is_empty()).then(|| Json::list(chat.stop.iter().map(|stop| stop.as_ref().into())));
    object()
        .with("maxTokens", cap.unwrap_or(PLACEHOLDER_CAP))
        .maybe("temperature", chat.temperature.map(|(written, _)| written))
        .maybe("topP", chat.top_p)
        .maybe("stopSequences", stop)
}

fn tool_config(chat: &Chat<'_>) -> Result<Option<Written>, Untranslatable> {
    let choice = match &chat.tool_choice {
        _ if chat.tools.is_empty() => return Ok(None),
        None => None,
        Some(ToolChoice::None) => return Err(Untranslatable("`tool_choice: none` (leave the tools out)".to_owned())),
        Some(ToolChoice::Auto) => Some(object().with("auto", object())),
        Some(ToolChoice::Required) => Some(object().with("any", object())),
        Some(ToolChoice::Named(name)) => Some(object().with("tool", object().with("name", name.as_ref()))),
    };
    Ok(Some(object().with("tools", Json::list(chat.tools.iter().map(tool))).maybe("toolChoice", choice)))
}

fn tool(tool: &chat::Tool<'_>) -> Json {
    let schema = tool.parameters.map_or_else(|| object().with("type", "object").with("properties", object()).into(), Json::from);
    let specification = object()
        .with("name", tool.name.as_ref())
        .maybe("description", tool.description.as_deref())
        .with("inputSchema", object().with("json", schema))
        .maybe("strict", tool.strict.then_some(true));
    object().with("toolSpec", specification).into()
}

fn output_config(chat: &Chat<'_>) -> Result<Written, Untranslatable> {
    let effort = match chat.effort.as_deref() {
        None => None,
        Some(effort) if EFFORTS.contains(&effort) => Some(effort),
        Some(other) => return Err(Untranslatable(format!("`reasoning_effort: {}`", other.chars().take(64).collect::<String>()))),
    };
    let format = match &chat.format {
        Format::Text => None,
        Format::JsonObject => return Err(Untranslatable("`response_format: json_object` (give a schema)".to_owned())),
        Format::Schema { name, description, schema } => {
            let schema = object().with("schema", schema.get()).maybe("name", name.as_deref()).maybe("description", description.as_deref());
            Some(object().with("type", "json_schema").with("structure", object().with("jsonSchema", schema)))
        }
    };
    Ok(object().maybe("textFormat", format).maybe("effort", effort))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    output: Output<'a>,
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
}

/// A block, or what a block's delta adds to it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Block<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_use: Option<ToolUse<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Reasoning<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ToolUse<'a> {
    #[serde(borrow)]
    tool_use_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    /// An object; in a stream, a piece of its text.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reasoning<'a> {
    #[serde(borrow)]
    reasoning_text: Option<ReasoningText<'a>>,
    /// In a stream.
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReasoningText<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

impl Reasoning<'_> {
    fn says(&self) -> &str {
        self.text.as_deref().or(self.reasoning_text.as_ref().and_then(|r| r.text.as_deref())).unwrap_or_default()
    }
}

/// An answer as a completion.
pub fn answer(of: &Translation, body: &[u8]) -> Result<Json, String> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| format!("it is not an answer of Converse's: {e}"))?;
    let mut completion = Completion::default();
    for block in &answer.output.message.content {
        completion.text.push_str(block.text.as_deref().unwrap_or_default());
        completion.reasoning.push_str(block.reasoning_content.as_ref().map_or("", Reasoning::says));
        if let Some(used) = &block.tool_use {
            let arguments = used.input.map_or("{}", RawValue::get).to_owned();
            completion.calls.push(Call { arguments, ..call_of(used, of, completion.calls.len() as u64) });
        }
    }
    completion.finish_reason = finish_reason(answer.stop_reason.as_deref().unwrap_or_default(), !completion.calls.is_empty());
    completion.figures = Figures::of_body(FORMAT, body, None);
    Ok(completion.write(of))
}

fn call_of(used: &ToolUse<'_>, of: &Translation, index: u64) -> Call {
    Call {
        id: used.tool_use_id.as_deref().map_or_else(|| of.call_id(index), str::to_owned),
        name: used.name.as_deref().unwrap_or_default().to_owned(),
        ..Call::default()
    }
}

pub fn stream(of: &Translation) -> Box<dyn StreamTranslator> {
    Box::new(Stream { chunks: Chunks::new(of), running: Running::new(FORMAT), of: of.clone(), open_call: None, calls: 0 })
}

struct Stream {
    chunks: Chunks,
    running: Running,
    of: Translation,
    /// The call whose arguments are arriving, by its place among the calls, and whether any have.
    open_call: Option<(u64, bool)>,
    calls: u64,
}

/// One of these, named for itself.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event<'a> {
    message_start: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    content_block_start: Option<Started<'a>>,
    #[serde(borrow)]
    content_block_delta: Option<Delta<'a>>,
    content_block_stop: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    message_stop: Option<Stopped<'a>>,
    metadata: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Started<'a> {
    #[serde(borrow)]
    start: Option<Block<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    delta: Option<Block<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Stopped<'a> {
    #[serde(borrow)]
    stop_reason: Option<Cow<'a, str>>,
}

impl StreamTranslator for Stream {
    fn event(&mut self, payload: &[u8], out: &mut BytesMut) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(payload) else {
            return self.chunks.fail(&Failure::unreadable(), out);
        };
        self.running.read(payload);
        if event.message_start.is_some() {
            self.chunks.begin(None, None, out);
        } else if let Some(used) = event.content_block_start.and_then(|started| started.start).and_then(|start| start.tool_use) {
            let call = call_of(&used, &self.of, self.calls);
            self.calls += 1;
            self.open_call = Some((self.chunks.call(&call, out), false));
        } else if let Some(delta) = event.content_block_delta.and_then(|delta| delta.delta) {
            self.delta(&delta, out);
        } else if event.content_block_stop.is_some() {
            // A call without arguments has an empty object of them, which callers parse.
            if let Some((index, false)) = self.open_call.take() {
                self.chunks.arguments(index, "{}", out);
            }
        } else if let Some(stopped) = event.message_stop {
            let reason = stopped.stop_reason.unwrap_or_default();
            self.chunks.finish(finish_reason(&reason, self.chunks.has_calls()), out);
        } else if event.metadata.is_some() {
            self.chunks.done(self.running.figures(), out);
        } else if let Some(failure) = Failure::of_event(FORMAT, payload) {
            self.chunks.fail(&failure, out);
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        // The message has ended when it says why, whatever becomes of the figures after it.
        self.chunks.done(self.running.figures(), out);
        self.chunks.fail(&Failure::broken_off(), out);
    }
}

impl Stream {
    fn delta(&mut self, delta: &Block<'_>, out: &mut BytesMut) {
        self.chunks.text(delta.text.as_deref().unwrap_or_default(), out);
        self.chunks.reasoning(delta.reasoning_content.as_ref().map_or("", Reasoning::says), out);
        let more = delta.tool_use.as_ref().and_then(|used| used.input).and_then(super::json::text);
        if let (Some((index, has_arguments)), Some(more)) = (&mut self.open_call, more) {
            *has_arguments |= !more.is_empty();
            self.chunks.arguments(*index, &more, out);
        }
    }
}
