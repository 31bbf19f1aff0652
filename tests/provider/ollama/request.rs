//! Reading requests: chats, completions and embeddings.

use serde_json::{Value, json};

use super::write::Local;
use crate::answer::{Form, Wish};
use crate::bill::UNLABELLED;
use crate::fields::{Fields, Received};
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::reply::Ask;
use crate::tokens;

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Chat,
    Generate,
    Embed,
}

pub enum Asked {
    /// Nothing but to load the model, or to unload it; the answer.
    Load(Value),
    Ask(Box<Ask>, Local),
}

pub fn read(body: Received, kind: Kind) -> Result<Asked, Refusal> {
    let fields = Fields::parse(body)?;
    let name = fields.text("model")?.ok_or_else(|| Refusal::Missing("model".to_owned()))?;
    let mut prompt = Prompt::new();
    let inputs = match kind {
        Kind::Chat => chat(&fields, &mut prompt)?,
        Kind::Generate => generate(&fields, &mut prompt)?,
        Kind::Embed => embed(&fields, &mut prompt)?,
    };
    if kind != Kind::Embed && inputs == 0 {
        let reason = if fields.get("keep_alive").and_then(Value::as_f64) == Some(0.0) { "unload" } else { "load" };
        let answer = json!({"model": name, "created_at": super::write::CREATED, "done": true, "done_reason": reason,
            "message": {"role": "assistant", "content": ""}, "response": ""});
        return Ok(Asked::Load(answer));
    }
    let model = super::model(name);
    let options = fields.get("options").cloned().unwrap_or_default();
    // What is not positive is no limit.
    let cap = options["num_predict"].as_i64().and_then(|cap| u64::try_from(cap).ok()).filter(|cap| *cap > 0).unwrap_or(model.max_output);
    let thinks = fields.get("think").is_some_and(|think| *think != json!(false));
    let reasoning_tokens = if thinks { 40 + (prompt.seed() % 64) as usize } else { 0 };
    let wish = Wish { seed: prompt.seed(), form: form(&fields, &prompt)?, reasoning_tokens, cap: cap as usize };
    let wishes = if kind == Kind::Embed { Vec::new() } else { vec![wish] };
    let streamed = kind != Kind::Embed && (fields.get("stream").is_none() || fields.flag("stream")?);
    let embedded = (kind == Kind::Embed).then(|| fields.get("input").map_or(0, embedded));
    let local = Local::new(name.to_owned(), kind, inputs, prompt.seed(), embedded);
    Ok(Asked::Ask(Box::new(Ask { label: UNLABELLED.to_owned(), model, prompt, wishes, streamed }), local))
}

/// How many messages there are.
fn chat(fields: &Fields, prompt: &mut Prompt) -> Result<u64, Refusal> {
    if fields.list("messages")?.is_empty() {
        return Ok(0);
    }
    let messages = fields.messages(&ROLES)?;
    fields.list("tools")?.iter().for_each(|tool| prompt.push_json(tool));
    for message in messages {
        let images = message["images"].as_array().into_iter().flatten().map(|image| json!({"type": "image", "data": image}));
        let text = json!({"type": "text", "text": message["content"]});
        let parts: Vec<Value> = std::iter::once(text).chain(images).collect();
        prompt.push_message(message["role"].as_str().unwrap_or_default(), &Value::Array(parts));
        message["tool_calls"].as_array().into_iter().flatten().for_each(|call| prompt.push_json(call));
    }
    Ok(messages.len() as u64)
}

/// Whether there is a prompt.
fn generate(fields: &Fields, prompt: &mut Prompt) -> Result<u64, Refusal> {
    let Some(text) = fields.text("prompt")?.filter(|text| !text.is_empty()) else { return Ok(0) };
    for (role, text) in [("system", fields.text("system")?), ("user", Some(text)), ("suffix", fields.text("suffix")?)] {
        text.into_iter().for_each(|text| prompt.push_message(role, &json!(text)));
    }
    let images: Vec<Value> = fields.list("images")?.iter().map(|image| json!({"type": "image", "data": image})).collect();
    if !images.is_empty() {
        prompt.push_message("images", &Value::Array(images));
    }
    Ok(1)
}

/// How many texts there are.
fn embed(fields: &Fields, prompt: &mut Prompt) -> Result<u64, Refusal> {
    let input = fields.get("input");
    input.into_iter().for_each(|input| prompt.push_json(input));
    match input {
        Some(Value::String(_)) => Ok(1),
        Some(Value::Array(texts)) => Ok(texts.len() as u64),
        _ => Err(Refusal::Missing("input".to_owned())),
    }
}

/// Tokens of the texts to embed, and nothing around them.
fn embedded(input: &Value) -> u64 {
    let several = input.as_array().map_or(std::slice::from_ref(input), Vec::as_slice);
    several.iter().filter_map(Value::as_str).map(tokens::count).sum()
}

/// There is no way to demand a tool, so one is called by whoever says so.
fn form(fields: &Fields, prompt: &Prompt) -> Result<Form, Refusal> {
    let last = fields.list("messages")?.last();
    let asks =
        last.is_some_and(|message| message["role"] == "user" && message["content"].as_str().is_some_and(|text| text.contains("tool")));
    if let Some(tool) = fields.list("tools")?.first().filter(|_| asks) {
        let name = tool["function"]["name"].as_str().unwrap_or("tool").to_owned();
        return Ok(Form::ToolCall { name, arguments: tool["function"]["parameters"].clone() });
    }
    Ok(match fields.get("format") {
        Some(Value::Object(schema)) => Form::Json { schema: Value::Object(schema.clone()) },
        Some(_) => Form::Json { schema: json!({"properties": {"answer": {"type": "string"}}}) },
        None => Form::Prose { words: prompt.wished_words() },
    })
}
