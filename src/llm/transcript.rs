//! What was asked and what was answered, as messages after OpenTelemetry's conventions for generative AI, whatever the provider's format.
//!
//! It is for owners who ask for it, and nothing is metered by it: what it does not know it leaves out or names, and images, sounds and files are
//! only named. Formats are told by their members, of which no two mean different things.

use serde_json::{Map, Value, json};

/// Bytes of text that are kept of all that was asked, and of all that was answered.
const LIMIT: usize = 64 << 10;
/// Messages, and parts of one, that are kept.
const MOST: usize = 1_024;
/// Choices that are kept: as many as may be asked for.
const CHOICES: usize = 128;

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// What the model was told beside the messages: parts.
    pub instructions: Vec<Value>,
    pub messages: Vec<Value>,
    /// Something is missing because there was too much of it.
    pub truncated: bool,
}

impl Asked {
    /// Of a request's body.
    pub fn of(body: &[u8]) -> Asked {
        let Ok(request) = serde_json::from_slice::<Value>(body) else { return Asked::default() };
        let mut room = Room::default();
        let mut instructions = Vec::new();
        for name in ["system", "systemInstruction", "system_instruction", "instructions"] {
            instructions.extend(parts(&request[name], &mut room));
        }
        let mut messages = Vec::new();
        for name in ["messages", "contents", "input", "prompt", "content", "inputText"] {
            match &request[name] {
                Value::Array(list) => messages.extend(list.iter().take(MOST).map(|item| message(item, "user", &mut room))),
                Value::Null => {}
                one => messages.push(message(one, "user", &mut room)),
            }
        }
        for one in request["requests"].as_array().into_iter().flatten().take(MOST) {
            messages.push(message(&one["content"], "user", &mut room));
        }
        Asked { instructions, messages, truncated: room.exceeded }
    }
}

/// What is left of [`LIMIT`].
struct Room {
    left: usize,
    exceeded: bool,
}

impl Default for Room {
    fn default() -> Room {
        Room { left: LIMIT, exceeded: false }
    }
}

impl Room {
    /// As much of a text as there is room for.
    fn cut<'a>(&mut self, text: &'a str) -> &'a str {
        let kept = &text[..text.floor_char_boundary(self.left.min(text.len()))];
        self.left -= kept.len();
        self.exceeded |= kept.len() < text.len();
        kept
    }
}

fn message(item: &Value, by: &str, room: &mut Room) -> Value {
    let role = match item["role"].as_str() {
        Some("model") => "assistant",
        Some(role) => role,
        None => by,
    };
    let mut all = match item["tool_call_id"].as_str() {
        // What a tool answered is a message in one format and a part in others.
        Some(id) => vec![tool_answer(id, &item["content"], room)],
        None => parts(item, room),
    };
    for call in item["tool_calls"].as_array().into_iter().flatten().take(MOST) {
        all.push(tool_call(&call["id"], &call["function"]["name"], &call["function"]["arguments"], room));
    }
    json!({ "role": role, "parts": all })
}

/// The parts of a message, or of anything that holds or is one.
fn parts(content: &Value, room: &mut Room) -> Vec<Value> {
    match content {
        Value::String(text) => vec![text_part("text", text, room)],
        Value::Array(list) => list.iter().take(MOST).flat_map(|item| parts(item, room)).collect(),
        Value::Object(object) => match part(object, room) {
            Some(part) => vec![part],
            None => ["content", "parts"].into_iter().find_map(|name| object.get(name)).map_or_else(Vec::new, |inner| parts(inner, room)),
        },
        _ => Vec::new(),
    }
}

fn part(object: &Map<String, Value>, room: &mut Room) -> Option<Value> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    if let Some(reasoning) = text("thinking").or_else(|| object.get("reasoningContent")?["reasoningText"]["text"].as_str()) {
        return Some(text_part("reasoning", reasoning, room));
    }
    if let Some(said) = text("text").or_else(|| text("refusal")) {
        let is_thought = object.get("thought").and_then(Value::as_bool) == Some(true);
        return Some(text_part(if is_thought { "reasoning" } else { "text" }, said, room));
    }
    let null = Value::Null;
    let member = |name: &str| object.get(name).unwrap_or(&null);
    let calls = [("tool_use", "id", "input"), ("server_tool_use", "id", "input"), ("function_call", "call_id", "arguments")];
    if let Some((_, id, arguments)) = calls.into_iter().find(|(name, ..)| *name == kind) {
        return Some(tool_call(member(id), member("name"), member(arguments), room));
    }
    match (member("toolUse"), member("functionCall")) {
        (Value::Object(_), _) => {
            let call = member("toolUse");
            return Some(tool_call(&call["toolUseId"], &call["name"], &call["input"], room));
        }
        (_, Value::Object(_)) => {
            let call = member("functionCall");
            return Some(tool_call(&call["id"], &call["name"], &call["args"], room));
        }
        _ => {}
    }
    let answers = [("tool_result", "tool_use_id", "content"), ("function_call_output", "call_id", "output")];
    if let Some((_, id, answer)) = answers.into_iter().find(|(name, ..)| *name == kind) {
        return Some(tool_answer(text(id).unwrap_or_default(), member(answer), room));
    }
    for (name, id, answer) in [("toolResult", "toolUseId", "content"), ("functionResponse", "name", "response")] {
        if let Value::Object(_) = member(name) {
            return Some(tool_answer(member(name)[id].as_str().unwrap_or_default(), &member(name)[answer], room));
        }
    }
    // An image, a sound, a file: that it is there, and nothing of it.
    let holds_parts = object.contains_key("content") || object.contains_key("parts");
    let named = if kind.is_empty() { object.keys().next().map(String::as_str)? } else { kind };
    (!holds_parts && kind != "message").then(|| json!({ "type": named }))
}

fn text_part(kind: &str, text: &str, room: &mut Room) -> Value {
    json!({ "type": kind, "content": room.cut(text) })
}

fn tool_call(id: &Value, name: &Value, arguments: &Value, room: &mut Room) -> Value {
    json!({ "type": "tool_call", "id": id, "name": name, "arguments": whole_or_cut(arguments, room) })
}

fn tool_answer(id: &str, answer: &Value, room: &mut Room) -> Value {
    json!({ "type": "tool_call_response", "id": id, "response": whole_or_cut(answer, room) })
}

/// A value as it is where there is room for it, else the beginning of its text.
fn whole_or_cut(value: &Value, room: &mut Room) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => return Value::Null,
        other => other.to_string(),
    };
    if text.len() > room.left {
        return Value::from(room.cut(&text));
    }
    room.left -= text.len();
    serde_json::from_str(&text).ok().filter(Value::is_object).unwrap_or_else(|| value.clone())
}

/// What was answered, whole or event by event.
#[derive(Debug, Default)]
pub struct Answered {
    choices: Vec<Choice>,
    room: Room,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes left", self.left)
    }
}

#[derive(Debug, Default)]
struct Choice {
    parts: Vec<Piece>,
    finish_reason: Option<String>,
}

/// A part that may still grow: its place in the format, what it is, and its text (a tool's arguments).
#[derive(Debug)]
struct Piece {
    place: u64,
    kind: Kind,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Call { id: String, name: String },
}

impl Answered {
    /// Takes an answer in one piece, or an event's JSON.
    pub fn read(&mut self, payload: &[u8]) {
        let Ok(said) = serde_json::from_slice::<Value>(payload) else { return };
        // What a response of OpenAI's was is said whole at its end; the pieces before are for one that does not come to it.
        match said["type"].as_str() {
            Some("response.completed" | "response.incomplete") => {
                (self.choices, self.room) = (Vec::new(), Room::default());
                return self.whole(0, &said["response"]["output"], &said["response"]["status"]);
            }
            Some("response.output_text.delta") => return self.grow(0, 0, Kind::Text, &said["delta"]),
            Some("content_block_start") => return self.block(&said["index"], &said["content_block"]),
            Some("content_block_delta") => return self.delta(&said["index"], &said["delta"]),
            Some("message_delta") => return self.finished(0, &said["delta"]["stop_reason"]),
            _ => {}
        }
        for choice in said["choices"].as_array().into_iter().flatten().take(MOST) {
            let index = choice["index"].as_u64().unwrap_or_default();
            let message = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
            self.chat(index, message);
            self.grow(index, 0, Kind::Text, &choice["text"]);
            self.finished(index, &choice["finish_reason"]);
        }
        for candidate in said["candidates"].as_array().into_iter().flatten().take(MOST) {
            self.whole(candidate["index"].as_u64().unwrap_or_default(), &candidate["content"], &candidate["finishReason"]);
        }
        // Amazon's events hold what they are in a member of that name, or are it.
        self.block(&said["contentBlockStart"]["contentBlockIndex"], &said["contentBlockStart"]["start"]);
        self.delta(&said["contentBlockDelta"]["contentBlockIndex"], &said["contentBlockDelta"]["delta"]);
        self.finished(0, &said["messageStop"]["stopReason"]);
        self.whole(0, &said["output"]["message"], &said["stopReason"]);
        if said["output"].is_array() {
            self.whole(0, &said["output"], &said["status"]);
        }
        if said["role"] == "assistant" && said["content"].is_array() {
            self.whole(0, &said["content"], &said["stop_reason"]);
        }
        // Ollama's.
        self.chat(0, &said["message"]);
        self.grow(0, 0, Kind::Text, &said["response"]);
        self.finished(0, &said["done_reason"]);
    }

    /// A message of chat completions, or what is new of one.
    fn chat(&mut self, choice: u64, message: &Value) {
        for reasoning in ["reasoning_content", "thinking"] {
            self.grow(choice, 0, Kind::Reasoning, &message[reasoning]);
        }
        self.grow(choice, 1, Kind::Text, &message["content"]);
        self.grow(choice, 1, Kind::Text, &message["refusal"]);
        for (number, call) in message["tool_calls"].as_array().into_iter().flatten().take(MOST).enumerate() {
            let place = call["index"].as_u64().unwrap_or(number as u64).saturating_add(2);
            self.call(choice, place, &call["id"], &call["function"]["name"], &call["function"]["arguments"]);
        }
    }

    /// Content that is there at once: parts that are no piece of another.
    fn whole(&mut self, choice: u64, content: &Value, reason: &Value) {
        let mut room = Room::default();
        for part in parts(content, &mut room) {
            let text = |name: &str| part[name].as_str().unwrap_or_default().to_owned();
            match part["type"].as_str() {
                Some("tool_call") => {
                    let place = self.next_place(choice);
                    self.call(choice, place, &part["id"], &part["name"], &part["arguments"]);
                }
                // Gemini's stream has the next piece of a text in each event, and nothing that says so.
                Some("reasoning") => self.append(choice, Kind::Reasoning, &text("content")),
                Some("text") => self.append(choice, Kind::Text, &text("content")),
                _ => {}
            }
        }
        self.room.exceeded |= room.exceeded;
        self.finished(choice, reason);
    }

    fn block(&mut self, index: &Value, block: &Value) {
        let Some(place) = index.as_u64() else { return };
        let (call, id) = if block["toolUse"].is_object() { (&block["toolUse"], "toolUseId") } else { (block, "id") };
        if call["name"].is_string() {
            self.call(0, place, &call[id], &call["name"], &Value::Null);
        }
    }

    fn delta(&mut self, index: &Value, delta: &Value) {
        let Some(place) = index.as_u64() else { return };
        self.grow(0, place, Kind::Text, &delta["text"]);
        self.grow(0, place, Kind::Reasoning, &delta["thinking"]);
        self.grow(0, place, Kind::Reasoning, &delta["reasoningContent"]["text"]);
        for arguments in [&delta["partial_json"], &delta["toolUse"]["input"]] {
            self.call(0, place, &Value::Null, &Value::Null, arguments);
        }
    }

    fn call(&mut self, choice: u64, place: u64, id: &Value, name: &Value, arguments: &Value) {
        if !name.is_string() && !arguments.is_string() {
            return;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let arguments = match arguments {
            Value::Object(_) => Value::from(arguments.to_string()),
            Value::String(_) => arguments.clone(),
            _ => Value::from(""),
        };
        self.grow(choice, place, Kind::Call { id: text(id), name: text(name) }, &arguments);
    }

    /// More of a part.
    fn grow(&mut self, choice: u64, place: u64, kind: Kind, more: &Value) {
        let Some(more) = more.as_str() else { return };
        let more = self.room.cut(more).to_owned();
        let is_call = matches!(kind, Kind::Call { .. });
        let Some(choice) = self.choice(choice) else { return };
        let same =
            |piece: &&mut Piece| piece.place == place && (piece.kind == kind || (is_call && matches!(piece.kind, Kind::Call { .. })));
        if let Some(piece) = choice.parts.iter_mut().find(same) {
            piece.text.push_str(&more);
        } else if choice.parts.len() < MOST {
            choice.parts.push(Piece { place, kind, text: more });
        } else {
            self.room.exceeded = true;
        }
    }

    /// More of the last part, if it is of this kind.
    fn append(&mut self, choice: u64, kind: Kind, more: &str) {
        let last = self.choice(choice).and_then(|choice| choice.parts.last()).filter(|last| last.kind == kind).map(|last| last.place);
        let place = last.unwrap_or_else(|| self.next_place(choice));
        self.grow(choice, place, kind, &Value::from(more));
    }

    fn next_place(&mut self, choice: u64) -> u64 {
        self.choice(choice).map_or(0, |choice| choice.parts.iter().map(|piece| piece.place.saturating_add(1)).max().unwrap_or_default())
    }

    fn finished(&mut self, choice: u64, reason: &Value) {
        if let Some(reason) = reason.as_str()
            && let Some(choice) = self.choice(choice)
        {
            choice.finish_reason = Some(reason.to_lowercase());
        }
    }

    fn choice(&mut self, index: u64) -> Option<&mut Choice> {
        let index = usize::try_from(index).ok().filter(|index| *index < CHOICES)?;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        self.choices.get_mut(index)
    }

    /// The messages.
    pub fn messages(&self) -> Vec<Value> {
        let part = |piece: &Piece| match &piece.kind {
            Kind::Text => json!({ "type": "text", "content": piece.text }),
            Kind::Reasoning => json!({ "type": "reasoning", "content": piece.text }),
            Kind::Call { id, name } => {
                let arguments = serde_json::from_str::<Value>(&piece.text).unwrap_or_else(|_| Value::from(piece.text.as_str()));
                json!({ "type": "tool_call", "id": id, "name": name, "arguments": arguments })
            }
        };
        let message = |choice: &Choice| {
            let mut pieces: Vec<&Piece> =
                choice.parts.iter().filter(|p| !p.text.is_empty() || matches!(p.kind, Kind::Call { .. })).collect();
            pieces.sort_by_key(|piece| piece.place);
            let parts: Vec<Value> = pieces.into_iter().map(part).collect();
            let mut message = json!({ "role": "assistant", "parts": parts });
            if let Some(reason) = &choice.finish_reason {
                message["finish_reason"] = Value::from(reason.as_str());
            }
            message
        };
        self.choices.iter().map(message).collect()
    }

    /// Something is missing because there was too much of it.
    pub fn is_truncated(&self) -> bool {
        self.room.exceeded
    }
}

#[cfg(test)]
mod tests;
