//! Images and transcriptions, whose answers say what they used in tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::prices::AUDIO_INPUT;
use super::write::now;
use super::{Host, accepted, asked_model, check_key, refusal, request};
use crate::bill::UNLABELLED;
use crate::faults::Fault;
use crate::fields::Received;
use crate::models::{Input, Vendor, find};
use crate::refusal::Refusal;
use crate::server::Provider;
use crate::tokens;

/// Tokens of a square image of medium quality.
const IMAGE_TOKENS: u64 = 1_056;
/// A pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

pub async fn images(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    let read = || {
        let fields = accepted(&provider, &Host::OpenAi, &headers, body)?;
        let prompt = fields.text("prompt")?.ok_or_else(|| Refusal::Missing("prompt".to_owned()))?;
        Ok((
            request::label(&fields)?,
            asked_model(&fields)?,
            tokens::count(prompt),
            fields.count("n")?.unwrap_or(1),
            fields.flag("stream")?,
        ))
    };
    let (label, model, text, images, streamed) = match read() {
        Ok(asked) => asked,
        Err(problem) => return refusal(&problem, &id),
    };
    let call = provider.bill.open(&label, model);
    if let Some(Fault::Status(problem)) = provider.faults.next(&label, model.name) {
        return refusal(&problem, &id);
    }
    let output = images * IMAGE_TOKENS;
    call.bill_input(Input { fresh: text, ..Input::default() });
    call.bill_output(output);
    let usage = json!({"input_tokens": text, "input_tokens_details": {"text_tokens": text, "image_tokens": 0}, "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output}, "total_tokens": text + output});
    if streamed {
        let event = |kind: &str, more: serde_json::Value| {
            let mut event = json!({"type": kind, "b64_json": PNG, "created_at": now(), "size": "1024x1024", "quality": "medium",
                "background": "opaque", "output_format": "png"});
            event.as_object_mut().into_iter().for_each(|members| members.extend(more.as_object().cloned().unwrap_or_default()));
            format!("event: {kind}\ndata: {event}\n\n")
        };
        let events = event("image_generation.partial_image", json!({"partial_image_index": 0}))
            + &event("image_generation.completed", json!({"usage": usage}));
        return ([(CONTENT_TYPE, "text/event-stream")], events).into_response();
    }
    let data: Vec<_> = (0..images).map(|_| json!({"b64_json": PNG})).collect();
    Json(json!({"created": now(), "background": "opaque", "output_format": "png", "quality": "medium", "size": "1024x1024",
        "data": data, "usage": usage}))
    .into_response()
}

/// Of a form with a file; so many bytes of it count as a token of sound.
pub async fn transcriptions(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Received) -> Response {
    const BYTES_PER_TOKEN: u64 = 64;
    let id = provider.next_id();
    let form = match check_key(&provider, &headers).and_then(|()| body.map_err(|_| Refusal::TooLarge)) {
        Ok(form) => form,
        Err(problem) => return refusal(&problem, &id),
    };
    let text = String::from_utf8_lossy(&form);
    let field = |name: &str| {
        let start = text.split_once(&format!("name=\"{name}\"\r\n\r\n"))?.1;
        Some(start.split_once("\r\n")?.0.to_owned())
    };
    let name = field("model").unwrap_or_default();
    if name == "whisper-1" {
        return Json(json!({"text": "Hello there.", "usage": {"type": "duration", "seconds": 3}})).into_response();
    }
    let Some(model) = find(Vendor::OpenAi, &name) else { return refusal(&Refusal::UnknownModel(name), &id) };
    let (sound, said) = (form.len() as u64 / BYTES_PER_TOKEN, "Hello there, this is what was said.");
    let prompt = field("prompt").map_or(0, |prompt| tokens::count(&prompt));
    let call = provider.bill.open(UNLABELLED, model);
    call.bill_input(Input { fresh: prompt, ..Input::default() });
    call.bill_fee(u128::from(sound) * u128::from(AUDIO_INPUT));
    call.bill_output(tokens::count(said));
    let usage = json!({"type": "tokens", "input_tokens": prompt + sound, "input_token_details": {"text_tokens": prompt, "audio_tokens": sound},
        "output_tokens": tokens::count(said), "total_tokens": prompt + sound + tokens::count(said)});
    if field("stream").as_deref() == Some("true") {
        let delta = json!({"type": "transcript.text.delta", "delta": said});
        let done = json!({"type": "transcript.text.done", "text": said, "usage": usage});
        return ([(CONTENT_TYPE, "text/event-stream")], format!("data: {delta}\n\ndata: {done}\n\n")).into_response();
    }
    Json(json!({"text": said, "usage": usage})).into_response()
}
