//! Anthropic Messages.

mod refusals;
pub mod request;
pub mod write;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::fields::Received;
use crate::models::{Model, Vendor, find, of_vendor};
use crate::refusal::Refusal;
use crate::reply;
use crate::server::{Provider, bearer, header};
use write::Messages;

pub use refusals::refusal;

pub async fn messages(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    let accepted = check(&provider, &headers).and_then(|()| request::read(body));
    match accepted {
        Ok(ask) => {
            let messages = Messages::new(id, ask.model.name, ask.prompt.searches);
            reply::answer(&provider, ask, messages).await
        }
        Err(problem) => refusal(&problem, &id),
    }
}

/// Free of charge, and not on the bill.
pub async fn count_tokens(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Received) -> Response {
    match check(&provider, &headers).and_then(|()| request::count(body)) {
        Ok(tokens) => Json(json!({"input_tokens": tokens})).into_response(),
        Err(problem) => refusal(&problem, &provider.next_id()),
    }
}

pub fn models(provider: &Provider, headers: &HeaderMap) -> Response {
    let data: Vec<Value> = of_vendor(Vendor::Anthropic).map(described).collect();
    let (first, last) = (data.first().map(|model| &model["id"]), data.last().map(|model| &model["id"]));
    match check(provider, headers) {
        Ok(()) => Json(json!({"data": data, "has_more": false, "first_id": first, "last_id": last})).into_response(),
        Err(problem) => refusal(&problem, &provider.next_id()),
    }
}

pub fn model(provider: &Provider, headers: &HeaderMap, name: &str) -> Response {
    let found = check(provider, headers).and_then(|()| find(Vendor::Anthropic, name).ok_or(Refusal::UnknownModel(name.to_owned())));
    match found {
        Ok(model) => Json(described(model)).into_response(),
        Err(problem) => refusal(&problem, &provider.next_id()),
    }
}

fn described(model: &Model) -> Value {
    json!({"type": "model", "id": model.name, "display_name": model.name, "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active",
        "max_input_tokens": model.context_window, "max_tokens": model.max_output})
}

/// The key first, then the version, as the real one does. SDKs since 2026 send the key as a bearer token, older ones in a header
/// of its own; the real one takes either.
fn check(provider: &Provider, headers: &HeaderMap) -> Result<(), Refusal> {
    let presented = header(headers, "x-api-key").or_else(|| bearer(headers));
    provider.check_key(provider.anthropic_key.as_deref(), presented)?;
    header(headers, "anthropic-version").map(|_| ()).ok_or(Refusal::NoVersion)
}
