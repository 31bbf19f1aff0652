//! Converse: reading requests, writing answers whole and as events.

use axum::body::Bytes;
use axum::response::Response;
use serde_json::{Value, json};

use super::{frame, refusals, written};
use crate::answer::{Answer, End, Form, Wish};
use crate::bill::UNLABELLED;
use crate::fields::Fields;
use crate::models::Model;
use crate::pace::{Part, Piece, Usage};
use crate::prompt::{Prompt, ttl};
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};

const ROLES: [&str; 2] = ["user", "assistant"];

/// Nova's own body is the same, but for another name of the `cap`.
pub fn ask(fields: &Fields, model: &'static Model, cap: &'static str, streamed: bool) -> Result<Ask, Refusal> {
    let null = Value::Null;
    let config = fields.get("inferenceConfig").unwrap_or(&null);
    let cap = match config.get(cap).or_else(|| config.get("maxTokens")) {
        Some(asked) => asked.as_u64().filter(|asked| *asked > 0).ok_or_else(|| Refusal::BelowLeast {
            field: "maxTokens".to_owned(),
            least: 1,
            got: asked.to_string(),
        })?,
        None => model.max_output,
    };
    if cap > model.max_output {
        return Err(Refusal::OutputTooLong { field: "maxTokens", got: cap, most: model.max_output, model: model.name });
    }
    let tools = fields.get("toolConfig").and_then(|config| config["tools"].as_array()).map_or(&[][..], Vec::as_slice);
    let mut prompt = Prompt::new();
    for tool in tools {
        match tool.get("cachePoint") {
            Some(mark) => prompt.keep(ttl(mark)),
            None => prompt.push_json(tool),
        }
    }
    push(&mut prompt, "system", fields.list("system")?);
    for message in fields.messages(&ROLES)? {
        push(&mut prompt, message["role"].as_str().unwrap_or_default(), message["content"].as_array().map_or(&[], Vec::as_slice));
    }
    if prompt.tokens() > model.context_window {
        return Err(Refusal::PromptTooLong { tokens: prompt.tokens(), most: model.context_window });
    }
    let thinking = fields.get("additionalModelRequestFields").map_or(&null, |fields| &fields["thinking"]);
    let budget = thinking["budget_tokens"].as_u64().unwrap_or(0);
    let wish = Wish {
        seed: prompt.seed(),
        form: form(fields, tools, &prompt),
        reasoning_tokens: (60 + prompt.seed() % 200).min(budget) as usize,
        cap: cap as usize,
    };
    let label = fields.get("requestMetadata").and_then(|metadata| metadata["user_id"].as_str()).unwrap_or(UNLABELLED).to_owned();
    Ok(Ask { label, model, prompt, wishes: vec![wish], streamed })
}

/// Blocks as the prompt knows them: a cache point is a mark on the block before it.
fn push(prompt: &mut Prompt, role: &str, blocks: &[Value]) {
    if blocks.is_empty() {
        return;
    }
    let mut parts: Vec<Value> = Vec::new();
    for block in blocks {
        match (block.get("cachePoint"), parts.last_mut()) {
            (Some(mark), Some(last)) => last["cache_control"] = json!({"type": "ephemeral", "ttl": mark["ttl"]}),
            (Some(mark), None) => prompt.keep(ttl(mark)),
            (None, _) => parts.push(part(block)),
        }
    }
    prompt.push_message(role, &Value::Array(parts));
}

fn part(block: &Value) -> Value {
    if let Some(text) = block.get("text") {
        return json!({"type": "text", "text": text});
    }
    if let Some(call) = block.get("toolUse") {
        return json!({"type": "tool_use", "name": call["name"], "input": call["input"]});
    }
    if let Some(result) = block.get("toolResult") {
        let parts: Vec<Value> = result["content"].as_array().into_iter().flatten().map(part).collect();
        return json!({"type": "tool_result", "content": parts});
    }
    if let Some(thought) = block.get("reasoningContent") {
        return json!({"type": "thinking", "thinking": thought["reasoningText"]["text"]});
    }
    for kind in ["image", "document"] {
        if let Some(content) = block.get(kind) {
            return json!({"type": kind, "content": content});
        }
    }
    block.clone()
}

fn form(fields: &Fields, tools: &[Value], prompt: &Prompt) -> Form {
    let choice = fields.get("toolConfig").map_or(Value::Null, |config| config["toolChoice"].clone());
    let specs = || tools.iter().map(|tool| &tool["toolSpec"]).filter(|spec| spec.is_object());
    let called = match (choice.get("any"), choice.get("tool")) {
        (Some(_), _) => specs().next(),
        (None, Some(tool)) => specs().find(|spec| spec["name"] == tool["name"]),
        (None, None) => None,
    };
    if let Some(spec) = called {
        let name = spec["name"].as_str().unwrap_or("tool").to_owned();
        return Form::ToolCall { name, arguments: spec["inputSchema"]["json"].clone() };
    }
    let schema = fields.get("outputConfig").and_then(|config| config["textFormat"]["structure"]["jsonSchema"]["schema"].as_str());
    match schema.and_then(|schema| serde_json::from_str(schema).ok()) {
        Some(schema) => Form::Json { schema },
        None => Form::Prose { words: prompt.wished_words() },
    }
}

/// Writes a conversation's answer. Events are lines of a name and JSON.
pub struct Conversation {
    id: String,
    tool: Option<String>,
    open: Option<Part>,
    blocks: u64,
    hides_usage: bool,
}

impl Conversation {
    pub fn new(id: String) -> Conversation {
        Conversation { id, tool: None, open: None, blocks: 0, hides_usage: false }
    }

    fn leave(&mut self) -> String {
        let Some(_) = self.open.take() else { return String::new() };
        self.blocks += 1;
        event("contentBlockStop", &json!({"contentBlockIndex": self.blocks - 1}))
    }
}

/// The exception by which a stream says that it failed.
pub const FAILURE: &str = "modelStreamErrorException {\"message\":\"The model stream failed.\",\"originalStatusCode\":500}\n";

fn event(name: &str, data: &Value) -> String {
    let mut data = data.clone();
    // So long an event tells nobody how long its text is.
    data["p"] = json!("abcdefghijklmnopqrstuvwxyz");
    format!("{name} {data}\n")
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.end {
        End::Length => "max_tokens",
        End::Complete if answer.tool.is_some() => "tool_use",
        End::Complete => "end_turn",
    }
}

pub fn used(usage: &Usage) -> Value {
    let mut used = written(usage, "s");
    let details = [("1h", usage.input.cache_write_long), ("5m", usage.input.cache_write)];
    let details: Vec<Value> =
        details.iter().filter(|(_, tokens)| *tokens > 0).map(|(ttl, tokens)| json!({"ttl": ttl, "inputTokens": tokens})).collect();
    if !details.is_empty() {
        used["cacheDetails"] = json!(details);
    }
    used
}

impl Dialect for Conversation {
    fn refuse(&self, refusal: &Refusal) -> Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let mut content = Vec::new();
        for answer in answers {
            if answer.reasoning.tokens() > 0 {
                content.push(json!({"reasoningContent": {"reasoningText": {"text": answer.reasoning.text(), "signature": "simulated"}}}));
            }
            match &answer.tool {
                Some(name) => {
                    let input: Value = serde_json::from_str(answer.content.text()).unwrap_or_else(|_| json!({}));
                    content.push(json!({"toolUse": {"toolUseId": format!("tooluse_{}", self.id), "name": name, "input": input}}));
                }
                None => content.push(json!({"text": answer.content.text()})),
            }
        }
        let mut whole = json!({"output": {"message": {"role": "assistant", "content": content}},
            "stopReason": answers.first().map(stop_reason), "metrics": {"latencyMs": 1}});
        if !self.hides_usage {
            whole["usage"] = used(usage);
        }
        whole
    }

    fn opening(&mut self, answers: &[Answer], _: &Usage) -> String {
        self.tool = answers.first().and_then(|answer| answer.tool.clone());
        event("messageStart", &json!({"role": "assistant"}))
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let mut events = String::new();
        if self.open != Some(piece.part) {
            events = self.leave();
            self.open = Some(piece.part);
            // A block of text has no start of its own.
            if let (Part::Content, Some(name)) = (piece.part, &self.tool) {
                let start = json!({"toolUse": {"toolUseId": format!("tooluse_{}", self.id), "name": name}});
                events.push_str(&event("contentBlockStart", &json!({"contentBlockIndex": self.blocks, "start": start})));
            }
        }
        let delta = match (piece.part, &self.tool) {
            (Part::Reasoning, _) => json!({"reasoningContent": {"text": piece.text}}),
            (Part::Content, Some(_)) => json!({"toolUse": {"input": piece.text}}),
            (Part::Content, None) => json!({"text": piece.text}),
        };
        events + &event("contentBlockDelta", &json!({"contentBlockIndex": self.blocks, "delta": delta}))
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let mut events = self.leave();
        events.push_str(&event("messageStop", &json!({"stopReason": answers.first().map(stop_reason)})));
        if !self.hides_usage {
            events.push_str(&event("metadata", &json!({"usage": used(usage), "metrics": {"latencyMs": 1}})));
        }
        events
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
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
