//! InvokeModel: what makers write, with Bedrock's figures in headers, and in the last event of a stream.

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::converse::{Conversation, FAILURE};
use super::{frame, refusals, written};
use crate::answer::{Answer, End, Form, Wish};
use crate::anthropic::write::Messages;
use crate::bill::UNLABELLED;
use crate::fields::Fields;
use crate::models::Model;
use crate::pace::{Piece, Usage};
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};

/// Whose body it is.
pub enum Shape {
    Anthropic(Messages),
    Nova(Conversation),
    /// Has no figures in it.
    Mistral,
}

pub struct Invocation {
    id: String,
    shape: Shape,
    hides_usage: bool,
}

impl Invocation {
    pub fn new(id: String, shape: Shape) -> Invocation {
        Invocation { id, shape, hides_usage: false }
    }

    /// The maker's events as chunks. The last one of a stream has Bedrock's figures too.
    fn chunks(&self, events: &str, last: Option<&Usage>) -> String {
        let mut events: Vec<Value> = match self.shape {
            Shape::Anthropic(_) => {
                let data = events.lines().filter_map(|line| line.strip_prefix("data: ")).filter_map(|data| serde_json::from_str(data).ok());
                data.filter(|event: &Value| event["type"] != "ping").collect()
            }
            Shape::Nova(_) => events.lines().filter_map(|line| line.split_once(' ')).map(|(name, data)| nova(name, data)).collect(),
            Shape::Mistral => events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
        };
        if let (Some(usage), Some(event)) = (last.filter(|_| !self.hides_usage), events.last_mut()) {
            if event.get("metadata").is_some() {
                event["metadata"]["usage"] = written(usage, "Count");
            }
            let mut metrics = json!({"inputTokenCount": usage.input.fresh, "outputTokenCount": usage.output, "invocationLatency": 1, "firstByteLatency": 1});
            if usage.input.tokens() > usage.input.fresh {
                metrics["cacheReadInputTokenCount"] = usage.input.cached_read.into();
                metrics["cacheWriteInputTokenCount"] = (usage.input.cache_write + usage.input.cache_write_long).into();
            }
            event["amazon-bedrock-invocationMetrics"] = metrics;
        }
        events.iter().map(|event| format!("chunk {}\n", json!({"bytes": STANDARD.encode(event.to_string()), "p": "abcdefgh"}))).collect()
    }
}

fn nova(name: &str, data: &str) -> Value {
    let mut data: Value = serde_json::from_str(data).unwrap_or_default();
    if let Some(members) = data.as_object_mut() {
        members.remove("p");
    }
    json!({name: data})
}

/// `<s>[INST] … [/INST]`
pub fn mistral(fields: &Fields, model: &'static Model, streamed: bool) -> Result<Ask, Refusal> {
    let text = fields.text("prompt")?.ok_or_else(|| Refusal::Missing("prompt".to_owned()))?;
    let cap = fields.count("max_tokens")?.unwrap_or(512);
    if cap > model.max_output {
        return Err(Refusal::OutputTooLong { field: "max_tokens", got: cap, most: model.max_output, model: model.name });
    }
    let mut prompt = Prompt::new();
    prompt.push_message("user", &json!(text));
    let form = Form::Prose { words: prompt.wished_words() };
    let wish = Wish { seed: prompt.seed(), form, reasoning_tokens: 0, cap: cap as usize };
    Ok(Ask { label: UNLABELLED.to_owned(), model, prompt, wishes: vec![wish], streamed })
}

fn mistral_stop(answer: &Answer) -> &'static str {
    if answer.end == End::Length { "length" } else { "stop" }
}

impl Dialect for Invocation {
    fn refuse(&self, refusal: &Refusal) -> Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        match &self.shape {
            Shape::Anthropic(messages) => messages.whole(answers, usage),
            Shape::Nova(conversation) => {
                let mut whole = conversation.whole(answers, usage);
                if !self.hides_usage {
                    whole["usage"] = written(usage, "Count");
                }
                whole
            }
            Shape::Mistral => {
                let output = |answer: &Answer| json!({"text": answer.content.text(), "stop_reason": mistral_stop(answer)});
                json!({"outputs": answers.iter().map(output).collect::<Vec<_>>()})
            }
        }
    }

    fn opening(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let events = match &mut self.shape {
            Shape::Anthropic(messages) => messages.opening(answers, usage),
            Shape::Nova(conversation) => conversation.opening(answers, usage),
            Shape::Mistral => String::new(),
        };
        self.chunks(&events, None)
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let events = match &mut self.shape {
            Shape::Anthropic(messages) => messages.piece(piece),
            Shape::Nova(conversation) => conversation.piece(piece),
            Shape::Mistral => json!({"outputs": [{"text": piece.text, "stop_reason": null}]}).to_string(),
        };
        self.chunks(&events, None)
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let events = match &mut self.shape {
            Shape::Anthropic(messages) => messages.closing(answers, usage),
            Shape::Nova(conversation) => conversation.closing(answers, usage),
            Shape::Mistral => json!({"outputs": [{"text": "", "stop_reason": answers.first().map(mistral_stop)}]}).to_string(),
        };
        self.chunks(&events, Some(usage))
    }

    fn metered(&self, usage: &Usage) -> HeaderMap {
        let input = usage.input;
        let counts = [
            ("x-amzn-bedrock-input-token-count", input.fresh),
            ("x-amzn-bedrock-output-token-count", usage.output),
            ("x-amzn-bedrock-cache-read-input-token-count", input.cached_read),
            ("x-amzn-bedrock-cache-write-input-token-count", input.cache_write + input.cache_write_long),
        ];
        counts
            .into_iter()
            .filter(|_| !self.hides_usage)
            .map(|(name, count)| (axum::http::HeaderName::from_static(name), HeaderValue::from(count)))
            .collect()
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
        match &mut self.shape {
            Shape::Anthropic(messages) => messages.hide_usage(),
            Shape::Nova(conversation) => conversation.hide_usage(),
            Shape::Mistral => {}
        }
    }

    fn failure(&mut self) -> String {
        FAILURE.to_owned()
    }

    fn content_type(&self) -> &'static str {
        "application/vnd.amazon.eventstream"
    }

    fn framed(&self, events: String) -> Bytes {
        frame::framed(&events)
    }
}
