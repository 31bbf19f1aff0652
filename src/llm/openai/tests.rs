//! Requests, answers and streams of OpenAI's formats, as the SDKs and the providers write them.

mod properties;
mod requests;
mod streams;
mod usage;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::media::usage_of_passthrough;
use crate::core::policy::{Capability, Protocol};
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::core::usage::Usage;
use crate::llm::address::{Addressed, recognise};
use crate::llm::{Framing, ReportedUsage, Request, Rewrite, StreamEnd, StreamMeter, parse, usage_of_body};

use Protocol::{OpenAIChat, OpenAICompletions, OpenAIEmbeddings, OpenAIResponses};

fn request(protocol: Protocol, body: &Value) -> Request {
    parse(Addressed::plain(protocol), Bytes::from(body.to_string())).expect("a valid request")
}

/// A request with some more members.
fn with(protocol: Protocol, more: Value) -> Request {
    let mut body = match protocol {
        OpenAIChat => json!({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}),
        OpenAICompletions => json!({"model": "m", "prompt": "Hi."}),
        _ => json!({"model": "m", "input": "Hi."}),
    };
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    request(protocol, &body)
}

fn rewritten(request: &Request, model: &str, cap: u64) -> Value {
    let change = Rewrite { model: Some(model.into()), max_output: Some(cap), include_usage: false };
    let text = request.rewrite(&change);
    // A member that is there twice would not survive this.
    serde_json::from_slice(&text).expect("JSON")
}

fn reported(protocol: Protocol, body: &Value) -> ReportedUsage {
    usage_of_body(protocol, body.to_string().as_bytes()).expect("figures")
}

fn chat_usage(usage: Value) -> Usage {
    reported(OpenAIChat, &json!({"model": "m", "usage": usage})).usage
}

fn through(protocol: Protocol, hide: bool, chunks: &[&[u8]]) -> (String, StreamEnd) {
    let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, hide);
    let mut seen = Vec::new();
    for chunk in chunks {
        seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
    }
    seen.extend_from_slice(&meter.flush());
    (String::from_utf8(seen).expect("text"), meter.finish())
}

fn events(payloads: &[Value]) -> String {
    payloads.iter().map(|p| format!("event: {}\ndata: {p}\n\n", p["type"].as_str().unwrap_or("x"))).collect()
}

fn chunks(payloads: &[Value]) -> String {
    payloads.iter().map(|p| format!("data: {p}\n\n")).collect::<String>() + "data: [DONE]\n\n"
}

fn response_stream(last: &str, usage: Value) -> Vec<Value> {
    let response = |status: &str, usage: Value| json!({"id": "resp_1", "object": "response", "model": "gpt-5-2025-08-07", "status": status, "service_tier": "default", "output": [], "usage": usage});
    vec![
        json!({"type": "response.created", "sequence_number": 0, "response": response("in_progress", Value::Null)}),
        json!({"type": "response.in_progress", "sequence_number": 1, "response": response("in_progress", Value::Null)}),
        json!({"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": {"type": "message", "content": []}}),
        json!({"type": "response.output_text.delta", "sequence_number": 3, "delta": "Say \"response\" and \"error\".", "obfuscation": "xx"}),
        json!({"type": "response.output_text.done", "sequence_number": 4, "text": "{\"type\":\"response.completed\",\"response\":{}}"}),
        json!({"type": format!("response.{last}"), "sequence_number": 5, "response": response(last, usage)}),
    ]
}
