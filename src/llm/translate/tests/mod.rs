//! Golden files for what goes over and what comes back, a table of what is refused, and properties that hold for anything.

mod answers;
mod golden;
mod properties;
mod refusals;
mod streams;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::{AnswerId, Translation, Untranslatable, request};
use crate::core::policy::Protocol;
use crate::llm::address::Addressed;
use crate::llm::request::{Request, parse};

use Protocol::{AnthropicMessages, BedrockConverse, GeminiGenerate, OpenAIChat};

/// The directions, by their names in golden files.
const DIRECTIONS: [(&str, Protocol, Protocol); 4] = [
    ("chat_to_messages", OpenAIChat, AnthropicMessages),
    ("chat_to_gemini", OpenAIChat, GeminiGenerate),
    ("chat_to_converse", OpenAIChat, BedrockConverse),
    ("messages_to_chat", AnthropicMessages, OpenAIChat),
];

fn translated(asked: Protocol, upstream: Protocol, body: impl Into<Bytes>) -> Result<(Translation, Request), Untranslatable> {
    let call = parse(Addressed::plain(asked), body.into()).expect("a valid request");
    request(&call, upstream, AnswerId { id: "0001".to_owned(), unix_s: 1_700_000_000 })
}

/// The translation of a call that says nothing special.
fn translation(asked: Protocol, upstream: Protocol) -> Translation {
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}],
    });
    let (translation, _) = translated(asked, upstream, body.to_string()).expect("a plain request goes anywhere");
    Translation { wants_usage: true, ..translation }
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(request.body()).expect("JSON")
}

/// What a caller gets for a stream's events.
fn streamed(translation: &Translation, events: &[&str]) -> String {
    let mut translator = translation.stream();
    let mut out = BytesMut::new();
    events.iter().for_each(|event| translator.event(event.as_bytes(), &mut out));
    translator.end(&mut out);
    String::from_utf8(out.to_vec()).expect("text")
}

/// The JSON of the events in a stream for a caller; `[DONE]` is none.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).expect("an event is JSON")).collect()
}
