//! Answers of Chat Completions for callers of Anthropic Messages, in one piece. Streamed ones are in
//! [`message_stream`](super::message_stream).
//!
//! What a model thought aloud (`reasoning_content`) becomes a thinking block, whose signature is empty: Anthropic's own models take no
//! thoughts of others, so a conversation that goes on with one of them must leave it out, as translated requests do.

use std::borrow::Cow;

use serde::Deserialize;

use super::Translation;
use super::figures::Figures;
use super::json::{Json, Written, object, object_in};
use super::vocabulary::stop_reason;
use crate::core::policy::Protocol;
use crate::llm::content::Content;

pub const FORMAT: Protocol = Protocol::OpenAIChat;

/// Under this name goes what a model wrote for arguments and is no JSON object, as Anthropic advises.
const INVALID: &str = "INVALID_JSON";

/// A whole answer, or a chunk of a streamed one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Answer<'a> {
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub choices: Option<Vec<Choice<'a>>>,
    pub usage: Option<Usage>,
    pub error: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    pub index: Option<u64>,
    #[serde(borrow, alias = "delta")]
    pub message: Option<Said<'a>>,
    #[serde(borrow)]
    pub finish_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Said<'a> {
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub reasoning_content: Option<Cow<'a, str>>,
    /// What newer servers call it.
    #[serde(borrow)]
    pub reasoning: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub tool_calls: Option<Vec<Called<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Called<'a> {
    pub index: Option<u64>,
    #[serde(borrow)]
    pub id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub function: Option<Function<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Function<'a> {
    #[serde(borrow)]
    pub name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub arguments: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    completion_tokens_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

impl<'a> Answer<'a> {
    /// The one choice that was asked for.
    pub fn choice(&self) -> Option<&Choice<'a>> {
        self.choices.iter().flatten().find(|choice| choice.index.unwrap_or(0) == 0)
    }

    pub fn reasoning(&self) -> Option<u64> {
        self.usage.as_ref()?.completion_tokens_details.as_ref()?.reasoning_tokens
    }
}

impl Said<'_> {
    pub fn thoughts(&self) -> impl Iterator<Item = &str> {
        let beside = [&self.reasoning_content, &self.reasoning].into_iter().flatten().find(|text| !text.is_empty());
        beside.map(Cow::as_ref).into_iter().chain(self.content.0.iter().filter_map(|part| part.thinking.as_deref()))
    }

    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.0.iter().filter_map(|part| part.text.as_deref()).chain(self.refusal.as_deref())
    }
}

/// A text that says something.
pub fn given(text: &Option<Cow<'_, str>>) -> Option<String> {
    text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A completion as a message.
pub fn answer(of: &Translation, body: &[u8]) -> Result<Json, String> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|e| format!("it is not a chat completion: {e}"))?;
    let choice = answer.choice().ok_or("it is not a chat completion: it has no choices")?;
    let mut blocks = Vec::new();
    let mut has_calls = false;
    if let Some(said) = &choice.message {
        let (thoughts, text) = (said.thoughts().collect::<String>(), said.texts().collect::<String>());
        if !thoughts.is_empty() {
            // Nobody signed it; it is left out again when it comes back.
            blocks.push(object().with("type", "thinking").with("thinking", thoughts.as_str()).with("signature", "").into());
        }
        if !text.is_empty() {
            blocks.push(object().with("type", "text").with("text", text.as_str()).into());
        }
        for (at, called) in said.tool_calls.iter().flatten().enumerate() {
            has_calls = true;
            let id = given(&called.id).unwrap_or_else(|| of.call_id(at as u64));
            let function = called.function.as_ref();
            let arguments = function.and_then(|f| f.arguments.as_deref()).unwrap_or_default();
            let input = object_in(arguments).unwrap_or_else(|| object().with(INVALID, arguments).into());
            blocks.push(tool_use(&id, function.and_then(|f| f.name.as_deref()).unwrap_or_default(), input).into());
        }
    }
    let reason = stop_reason(choice.finish_reason.as_deref().unwrap_or_default(), has_calls);
    let figures = Figures::of_body(FORMAT, body, answer.reasoning()).unwrap_or_default();
    let (id, model) = (given(&answer.id).unwrap_or_else(|| of.answer_id()), given(&answer.model));
    Ok(message(&id, model.as_deref().unwrap_or(&of.model), Json::list(blocks), reason.into(), figures).into())
}

pub fn message(id: &str, model: &str, content: Json, stop_reason: Json, figures: Figures) -> Written {
    object()
        .with("id", id)
        .with("type", "message")
        .with("role", "assistant")
        .with("model", model)
        .with("content", content)
        .with("stop_reason", stop_reason)
        .with("stop_sequence", Json::null())
        .with("usage", figures.anthropic())
}

pub fn tool_use(id: &str, name: &str, input: Json) -> Written {
    object().with("type", "tool_use").with("id", id).with("name", name).with("input", input)
}
