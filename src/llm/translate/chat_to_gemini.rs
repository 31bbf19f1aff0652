//! Chat Completions, answered by Gemini's `generateContent`.
//!
//! | Chat Completions | generateContent |
//! |---|---|
//! | `system` and `developer` messages at the beginning | `systemInstruction` |
//! | `user`, `assistant` | contents of `user` and `model`; neighbours of one role become one |
//! | `tool` messages | `functionResponse` of the call's function, with the text as its `output` |
//! | `tool_calls` | `functionCall`; arguments are objects there |
//! | `image_url` with a data URI | `inlineData` |
//! | `tools` | `functionDeclarations` with `parametersJsonSchema`; `strict` is mode `VALIDATED` for all |
//! | `tool_choice` | `functionCallingConfig`: `AUTO`, `NONE`, `ANY` |
//! | `response_format` | `responseMimeType`, `responseJsonSchema` |
//! | `reasoning_effort` | `thinkingLevel`; `none` is a `thinkingBudget` of 0 |
//! | `temperature`, `top_p`, `stop`, `seed`, penalties | the same |
//! | `user` | left out: there is no place for it |
//! | refused | later system messages, images by URL, `parallel_tool_calls: false`, `reasoning_effort: max` |
//!
//! Gemini signs its calls and newer models want the signature back with them. It travels in `extra_content.google.thought_signature` of
//! a call, where Google's own translation puts it; for calls that come back without, Google names a word that stands for it.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chat::{self, Chat, Format, Part, Says, ToolChoice};
use super::completion::{Call, Chunks, Completion};
use super::failure::Failure;
use super::figures::{Figures, Running};
use super::json::{Json, Written, described, object};
use super::vocabulary::{Image, finish_reason};
use super::{PLACEHOLDER_CAP, StreamTranslator, Translation, Untranslatable};
use crate::core::policy::Protocol;
use crate::llm::request::Request;

const FORMAT: Protocol = Protocol::GeminiGenerate;

/// Stands for the signature of a call that another model made (<https://ai.google.dev/gemini-api/docs/thought-signatures>).
const UNSIGNED: &str = "skip_thought_signature_validator";

/// The body of the request.
pub fn request(call: &Request) -> Result<Json, Untranslatable> {
    let chat = chat::read(call.body())?;
    if chat.parallel_tool_calls == Some(false) && !chat.tools.is_empty() {
        return Err(Untranslatable("`parallel_tool_calls: false`".to_owned()));
    }
    let preamble = chat.preamble();
    let mut system = Vec::new();
    for message in &chat.messages[..preamble] {
        if let Says::System(parts) = &message.says {
            system.extend(content_parts(parts, &message.path)?);
        }
    }
    let system = (!system.is_empty()).then(|| object().with("parts", Json::list(system)));
    let tools = object().with("functionDeclarations", Json::list(chat.tools.iter().map(tool)));
    Ok(object()
        .maybe("systemInstruction", system)
        .with("contents", contents(&chat, preamble)?)
        .maybe("tools", (!chat.tools.is_empty()).then(|| Json::list([tools.into()])))
        .maybe("toolConfig", calling(&chat).map(|calling| object().with("functionCallingConfig", calling)))
        .with("generationConfig", generation_config(&chat, call.max_output())?)
        .into())
}

fn contents(chat: &Chat<'_>, preamble: usize) -> Result<Json, Untranslatable> {
    // Answers name the function; in Chat Completions only its call does.
    let mut functions: HashMap<&str, &str> = HashMap::new();
    let mut turns: Vec<(&str, Vec<Json>)> = Vec::new();
    for message in &chat.messages[preamble..] {
        let (role, parts) = match &message.says {
            Says::System(_) => return Err(Untranslatable(format!("a system message later than the first ones (`{}`)", message.path))),
            Says::User(parts) => ("user", content_parts(parts, &message.path)?),
            Says::Assistant { parts, calls } => {
                functions.extend(calls.iter().map(|call| (call.id.as_ref(), call.name.as_ref())));
                let mut parts = content_parts(parts, &message.path)?;
                parts.extend(calls.iter().enumerate().map(|(at, call)| function_call(call, at == 0)));
                ("model", parts)
            }
            Says::Tool { id, parts } => {
                let nobodys = || Untranslatable(format!("an answer to a call that nobody made (`{}`)", message.path));
                let name = functions.get(id.as_ref()).ok_or_else(nobodys)?;
                ("user", vec![function_response(id, name, parts, &message.path)?])
            }
        };
        match turns.last_mut() {
            Some((last, joined)) if *last == role => joined.extend(parts),
            _ => turns.push((role, parts)),
        }
    }
    Ok(Json::list(turns.into_iter().map(|(role, parts)| object().with("role", role).with("parts", Json::list(parts)).into())))
}

fn content_parts(parts: &[Part<'_>], path: &str) -> Result<Vec<Json>, Untranslatable> {
    let part = |part: &Part<'_>| match part {
        Part::Text(text) => Ok(object().with("text", text.as_ref()).into()),
        Part::Image(Image::Inline { media_type, base64 }) => {
            let data = object().with("mimeType", media_type.as_ref()).with("data", base64.as_ref());
            Ok(object().with("inlineData", data).into())
        }
        Part::Image(Image::At(_)) => Err(Untranslatable(format!("an image by its URL (`{path}`; give it as a data URI)"))),
    };
    parts.iter().map(part).collect()
}

/// Of the calls of one turn, the first is the signed one.
fn function_call(call: &chat::Call<'_>, is_first: bool) -> Json {
    let signature = call.signature.as_deref().or(is_first.then_some(UNSIGNED));
    let function = object().with("id", call.id.as_ref()).with("name", call.name.as_ref()).with("args", call.arguments.clone());
    object().with("functionCall", function).maybe("thoughtSignature", signature).into()
}

fn function_response(id: &str, name: &str, parts: &[Part<'_>], path: &str) -> Result<Json, Untranslatable> {
    let mut output = String::new();
    for part in parts {
        match part {
            Part::Text(text) => output.push_str(text),
            Part::Image(_) => return Err(Untranslatable(format!("an image in a tool's answer (`{path}`)"))),
        }
    }
    let response = object().with("output", output.as_str());
    Ok(object().with("functionResponse", object().with("id", id).with("name", name).with("response", response)).into())
}

fn tool(tool: &chat::Tool<'_>) -> Json {
    object()
        .with("name", tool.name.as_ref())
        .maybe("description", tool.description.as_deref())
        .maybe("parametersJsonSchema", tool.parameters)
        .into()
}

fn calling(chat: &Chat<'_>) -> Option<Written> {
    let validated = chat.tools.iter().any(|tool| tool.strict);
    let mode = match &chat.tool_choice {
        _ if chat.tools.is_empty() => return None,
        None if !validated => return None,
        None | Some(ToolChoice::Auto) => object().with("mode", if validated { "VALIDATED" } else { "AUTO" }),
        Some(ToolChoice::None) => object().with("mode", "NONE"),
        // What it must call, it calls by its schema.
        Some(ToolChoice::Required) => object().with("mode", "ANY"),
        Some(ToolChoice::Named(name)) => object().with("mode", "ANY").with("allowedFunctionNames", Json::list([name.as_ref().into()])),
    };
    Some(mode)
}

fn generation_config(chat: &Chat<'_>, cap: Option<u64>) -> Result<Written, Untranslatable> {
    let (media_type, schema) = match &chat.format {
        Format::Text => (None, None),
        Format::JsonObject => (Some("application/json"), None),
        Format::Schema { description, schema, .. } => (Some("application/json"), Some(described(schema, description.as_deref())?)),
    };
    let thinking = match chat.effort.as_deref() {
        None => None,
        Some("none") => Some(object().with("thinkingBudget", 0_u64)),
        Some(effort @ ("minimal" | "low" | "medium" | "high" | "xhigh")) => {
            Some(object().with("thinkingLevel", effort.to_ascii_uppercase().as_str()))
        }
        Some(other) => return Err(Untranslatable(format!("`reasoning_effort: {}`", other.chars().take(64).collect::<String>()))),
    };
    let stop = (!chat.stop.is_empty()).then(|| Json::list(chat.stop.iter().map(|stop| stop.as_ref().into())));
    Ok(object()
        .with("maxOutputTokens", cap.unwrap_or(PLACEHOLDER_CAP))
        .maybe("temperature", chat.temperature.map(|(written, _)| written))
        .maybe("topP", chat.top_p)
        .maybe("stopSequences", stop)
        .maybe("seed", chat.seed)
        .maybe("presencePenalty", chat.presence_penalty)
        .maybe("frequencyPenalty", chat.frequency_penalty)
        .maybe("responseMimeType", media_type)
        .maybe("responseJsonSchema", schema)
        .maybe("thinkingConfig", thinking))
}

/// An answer, or an event of a streamed one, which has the same form.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    candidates: Option<Vec<Candidate<'a>>>,
    #[serde(borrow)]
    prompt_feedback: Option<Feedback<'a>>,
    usage_metadata: Option<Metadata>,
    #[serde(borrow)]
    model_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response_id: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
    index: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<AnswerPart<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AnswerPart<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    thought: Option<bool>,
    #[serde(borrow)]
    thought_signature: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function_call: Option<FunctionCall<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FunctionCall<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Feedback<'a> {
    #[serde(borrow)]
    block_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    thoughts_token_count: Option<u64>,
}

impl<'a> Answer<'a> {
    /// The one candidate that was asked for.
    fn candidate(&self) -> Option<&Candidate<'a>> {
        self.candidates.iter().flatten().find(|candidate| candidate.index.unwrap_or(0) == 0)
    }

    fn parts(&self) -> impl Iterator<Item = &AnswerPart<'a>> {
        self.candidate().and_then(|c| c.content.as_ref()).and_then(|c| c.parts.as_ref()).into_iter().flatten()
    }

    /// Why it stopped, if it has: a prompt that was blocked has no candidates.
    fn stopped(&self) -> Option<&str> {
        let reason = self.candidate().and_then(|candidate| candidate.finish_reason.as_deref());
        let blocked = || self.prompt_feedback.as_ref().and_then(|feedback| feedback.block_reason.as_ref()).map(|_| "SAFETY");
        reason.filter(|reason| *reason != "FINISH_REASON_UNSPECIFIED").or_else(blocked)
    }

    fn thoughts(&self) -> Option<u64> {
        self.usage_metadata.as_ref()?.thoughts_token_count
    }
}

fn call_of(part: &AnswerPart<'_>, function: &FunctionCall<'_>, of: &Translation, index: u64) -> Call {
    Call {
        id: function.id.as_deref().filter(|id| !id.is_empty()).map_or_else(|| of.call_id(index), str::to_owned),
        name: function.name.as_deref().unwrap_or_default().to_owned(),
        arguments: function.args.map_or("{}", RawValue::get).to_owned(),
        signature: part.thought_signature.as_deref().map(str::to_owned),
    }
}

/// An answer as a completion.
pub fn answer(of: &Translation, body: &[u8]) -> Result<Json, String> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| format!("it is not an answer of Gemini's: {e}"))?;
    let stopped = answer.stopped().ok_or("it is not an answer of Gemini's: it does not say why it stopped")?;
    let mut completion = Completion::default();
    for part in answer.parts() {
        match (&part.function_call, &part.text) {
            (Some(function), _) => completion.calls.push(call_of(part, function, of, completion.calls.len() as u64)),
            (None, Some(text)) if part.thought == Some(true) => completion.reasoning.push_str(text),
            (None, Some(text)) => completion.text.push_str(text),
            (None, None) => {}
        }
    }
    completion.finish_reason = finish_reason(stopped, !completion.calls.is_empty());
    completion.figures = Figures::of_body(FORMAT, body, answer.thoughts());
    completion.id = answer.response_id.map(Cow::into_owned);
    completion.model = answer.model_version.map(Cow::into_owned);
    Ok(completion.write(of))
}

pub fn stream(of: &Translation) -> Box<dyn StreamTranslator> {
    Box::new(Stream { chunks: Chunks::new(of), running: Running::new(FORMAT), of: of.clone(), calls: 0, stopped: None })
}

/// Each event is an answer with what is new in it. Nothing but the stream's own end says that there are no more.
struct Stream {
    chunks: Chunks,
    running: Running,
    of: Translation,
    calls: u64,
    stopped: Option<String>,
}

impl StreamTranslator for Stream {
    fn event(&mut self, payload: &[u8], out: &mut BytesMut) {
        let Ok(event) = serde_json::from_slice::<Answer<'_>>(payload) else {
            return self.chunks.fail(&Failure::unreadable(), out);
        };
        if event.candidates.is_none()
            && event.usage_metadata.is_none()
            && let Some(failure) = Failure::of_event(FORMAT, payload)
        {
            return self.chunks.fail(&failure, out);
        }
        self.running.read(payload);
        self.running.reasoning = event.thoughts().or(self.running.reasoning);
        let (id, model) = (event.response_id.as_deref().map(str::to_owned), event.model_version.as_deref().map(str::to_owned));
        self.chunks.begin(id, model, out);
        for part in event.parts() {
            match (&part.function_call, part.text.as_deref()) {
                (Some(function), _) => {
                    self.chunks.call(&call_of(part, function, &self.of, self.calls), out);
                    self.calls += 1;
                }
                (None, Some(text)) if part.thought == Some(true) => self.chunks.reasoning(text, out),
                (None, Some(text)) => self.chunks.text(text, out),
                (None, None) => {}
            }
        }
        if let Some(reason) = event.stopped() {
            self.stopped = Some(reason.to_owned());
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        match &self.stopped {
            Some(reason) => {
                self.chunks.finish(finish_reason(reason, self.chunks.has_calls()), out);
                self.chunks.done(self.running.figures(), out);
            }
            None => self.chunks.fail(&Failure::broken_off(), out),
        }
    }
}
