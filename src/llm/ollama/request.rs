//! Requests of `/api/chat`, `/api/generate` and `/api/embed`.
//!
//! Ollama is written in Go, whose parser takes `"OPTIONS"` for `options`, and the last of several. A member that could be taken for one
//! that counts here, but is not written as it is documented, is refused: two readings of one request are one too many.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::object::{Object, Text};
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;

/// Tokens of one image at most: a Qwen-VL reads up to 16,384 patches of 28 pixels; others read fewer.
const IMAGE_TOKENS: u64 = 16_384;
/// Tokens that a message adds to its texts: role names and separators of the model's template.
const MESSAGE_TOKENS: u64 = 16;
/// Tokens that the model's own file puts around a request: its template, the words with which it explains tools, and its system text
/// where the request has none. The file is the operator's, and may have more; then give the model a price, and the system text here.
const MODEL_FILE_TOKENS: u64 = 2_048;

/// A kind of request: its members that count here.
type Known = &'static [&'static str];

const CHAT: Known = &["model", "messages", "tools", "stream", "options", "format", "think"];
const GENERATE: Known =
    &["model", "prompt", "suffix", "system", "template", "images", "context", "stream", "options", "format", "think", "width", "height"];
const EMBED: Known = &["model", "input", "options", "stream"];
const MESSAGE: Known = &["role", "content", "thinking", "images", "tool_calls"];

/// An object of whose known members each is there at most once.
struct Read<'a>(Object<'a>);

impl<'a> Read<'a> {
    fn of(json: &'a str, known: Known) -> Result<Read<'a>, RequestError> {
        let object: Object<'a> = parsed(json)?;
        let mut seen: Vec<&str> = Vec::new();
        for (name, _) in &object.0 {
            let Some(meant) = known.iter().copied().find(|known| **known == folded(name)) else { continue };
            if meant != name || seen.contains(&meant) {
                return Err(RequestError::Malformed(format!("{name:?}: write {meant:?}, and once")));
            }
            seen.push(meant);
        }
        Ok(Read(object))
    }

    /// A member as it was written, a null included.
    fn written(&self, name: &str) -> Option<&'a RawValue> {
        self.0.0.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// A member that says something.
    fn said(&self, name: &str) -> Option<&'a RawValue> {
        self.written(name).filter(|value| value.get() != "null")
    }

    fn value<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, RequestError> {
        self.said(name).map(|value| parsed(value.get())).transpose()
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, RequestError> {
        Ok(self.value::<Text<'a>>(name)?.map(|text| text.0))
    }
}

/// As Go compares names: without regard to case, where the long s and the sign of the kelvin are letters too.
fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, RequestError> {
    serde_json::from_str(json).map_err(|e| RequestError::Malformed(e.to_string()))
}

/// What a chat asks for.
///
/// # Errors
/// When it is not of the format's form.
pub fn chat(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request = Read::of(body, CHAT)?;
    let messages: Vec<&RawValue> = request.value("messages")?.unwrap_or_default();
    let mut asked = Asked::default();
    for message in &messages {
        let message = Read::of(message.get(), MESSAGE)?;
        let is_user = message.text("role")?.is_some_and(|role| role == "user");
        for (name, is_user) in [("content", is_user), ("thinking", false)] {
            asked.text(body, message.text(name)?, is_user);
        }
        if let Some(calls) = message.said("tool_calls") {
            asked.texts.push(body, calls.get(), false);
        }
        asked.images(message.value("images")?)?;
    }
    let tools: Vec<&RawValue> = request.value("tools")?.unwrap_or_default();
    asked.generation(body, &request, messages.len(), tools.len())
}

/// What a completion asks for. Without a prompt it loads the model, or unloads it.
///
/// # Errors
/// When it is not of the format's form.
pub fn generate(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request = Read::of(body, GENERATE)?;
    let mut asked = Asked::default();
    for (name, is_user) in [("system", false), ("template", false), ("suffix", false), ("prompt", true)] {
        asked.text(body, request.text(name)?, is_user);
    }
    asked.images(request.value("images")?)?;
    // A conversation as the server numbered it.
    asked.opaque = request.said("context").is_some();
    let draws = ["width", "height"].into_iter().any(|side| request.said(side).is_some());
    let facts = asked.generation(body, &request, 1, 0)?;
    let surcharges = if draws { vec!["image generation (width, height)".to_owned()] } else { Vec::new() };
    Ok(Facts { surcharges, ..facts })
}

/// What embeddings are asked of.
///
/// # Errors
/// When it is not of the format's form.
pub fn embed(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request = Read::of(body, EMBED)?;
    let mut texts = Texts::default();
    let inputs: Vec<Text<'_>> = match request.said("input") {
        Some(one) if one.get().starts_with('"') => vec![parsed(one.get())?],
        Some(several) => parsed(several.get())?,
        None => Vec::new(),
    };
    inputs.iter().for_each(|input| texts.push(body, &input.0, true));
    let bytes: u64 = inputs.iter().map(|input| input.0.len() as u64).sum();
    Ok(Facts {
        model: model(&request)?,
        choices: 0,
        turns: inputs.len(),
        texts,
        tier: AskedTier::Said(ServiceTier::Standard),
        input: InputBound { tokens: bytes.saturating_add(MESSAGE_TOKENS * inputs.len() as u64), opaque: false, passes: 1 },
        members: Members { model: span(body, request.written("model")), ..Members::default() },
        ..Facts::default()
    })
}

fn model(request: &Read<'_>) -> Result<String, RequestError> {
    Ok(request.text("model")?.map(Cow::into_owned).unwrap_or_default())
}

fn span(body: &str, value: Option<&RawValue>) -> Option<Range<usize>> {
    value.and_then(|value| span_in(body, value.get()))
}

/// What is read of a request, message by message.
#[derive(Default)]
struct Asked {
    texts: Texts,
    image_bytes: u64,
    images: u64,
    opaque: bool,
}

impl Asked {
    fn text(&mut self, body: &str, text: Option<Cow<'_, str>>, is_user: bool) {
        if let Some(text) = text {
            self.texts.push(body, &text, is_user);
        }
    }

    fn images(&mut self, images: Option<Vec<Text<'_>>>) -> Result<(), RequestError> {
        for image in images.iter().flatten() {
            self.images += 1;
            self.image_bytes = self.image_bytes.saturating_add(image.0.len() as u64);
        }
        Ok(())
    }

    /// What chats and completions have in common.
    fn generation(self, body: &str, request: &Read<'_>, turns: usize, tools: usize) -> Result<Facts, RequestError> {
        let options: Option<Object<'_>> = request.value("options")?;
        // A map, of which Go takes names as they are and the last of several.
        let caps = options.iter().flat_map(|options| &options.0).filter(|(name, _)| name == "num_predict").map(|(_, value)| *value);
        let caps: Vec<&RawValue> = caps.collect();
        let values = caps.iter().map(|cap| output_cap(cap)).collect::<Result<Vec<_>, _>>()?;
        // One that is unlimited makes all of them be replaced.
        let max_output = values.iter().copied().collect::<Option<Vec<_>>>().and_then(|caps| caps.into_iter().max());
        let images = self.images.saturating_mul(IMAGE_TOKENS);
        let framed = MODEL_FILE_TOKENS + MESSAGE_TOKENS * (turns as u64 + tools as u64);
        let tokens = (body.len() as u64).saturating_sub(self.image_bytes).saturating_add(framed).saturating_add(images);
        let members = Members {
            model: span(body, request.written("model")),
            max_output: caps.iter().filter_map(|cap| span(body, Some(cap))).collect(),
            cap: Some(cap_slot(body, request)),
            ..Members::default()
        };
        let schema = request.said("format").is_some_and(|format| format.get().starts_with('{'));
        let thinks = request.said("think").is_some_and(|think| think.get() != "false");
        let needs = [
            (tools > 0, Capability::Tools),
            (self.images > 0, Capability::Vision),
            (schema, Capability::JsonSchema),
            (thinks, Capability::Reasoning),
        ];
        Ok(Facts {
            model: model(request)?,
            // Streamed unless the caller says otherwise.
            stream: request.value("stream")?.unwrap_or(true),
            max_output,
            turns,
            tools,
            required: needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect(),
            tier: AskedTier::Said(ServiceTier::Standard),
            input: InputBound { tokens, opaque: self.opaque, passes: 1 },
            media: self.images > 0,
            texts: self.texts,
            members,
            ..Facts::default()
        })
    }
}

fn cap_slot(body: &str, request: &Read<'_>) -> Slot {
    match span(body, request.written("options")) {
        Some(options) if body[options.clone()].starts_with('{') => Slot::within(body, &options, "num_predict"),
        Some(null) => Slot::instead(&null, "{\"num_predict\":", "}"),
        None => Slot::first(body, "\"options\":{\"num_predict\":", "},"),
    }
}

/// Tokens of output at most; `None` for a number that means no limit (-1), or what the context still holds (-2), or nothing at all.
fn output_cap(value: &RawValue) -> Result<Option<u64>, RequestError> {
    let text = value.get();
    match text.parse::<f64>() {
        // As Go does, what is behind the point is cut off.
        Ok(number) if number >= 1.0 => Ok(Some(number as u64)),
        Ok(_) => Ok(None),
        Err(_) if text == "null" => Ok(None),
        Err(_) => Err(RequestError::Field { field: "options.num_predict", problem: "must be a number" }),
    }
}
