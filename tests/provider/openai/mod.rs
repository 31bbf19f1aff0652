//! OpenAI Chat Completions.

mod refusals;
mod request;
mod write;

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
use crate::server::{Provider, bearer};
use write::Chat;

pub use refusals::refusal;

/// When the models are said to have come out: 1 January 2026.
const CREATED: u64 = 1_767_225_600;

pub async fn completions(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    let accepted = check_key(&provider, &headers).and_then(|()| request::read(body));
    match accepted {
        Ok((ask, wants_usage)) => {
            let chat = Chat::new(id, ask.model.name, wants_usage);
            reply::answer(&provider, ask, chat).await
        }
        Err(problem) => refusal(&problem, &id),
    }
}

pub fn models(provider: &Provider, headers: &HeaderMap) -> Response {
    let list = || json!({"object": "list", "data": of_vendor(Vendor::OpenAi).map(described).collect::<Vec<_>>()});
    match check_key(provider, headers) {
        Ok(()) => Json(list()).into_response(),
        Err(problem) => refusal(&problem, &provider.next_id()),
    }
}

pub fn model(provider: &Provider, headers: &HeaderMap, name: &str) -> Response {
    let found = check_key(provider, headers).and_then(|()| find(Vendor::OpenAi, name).ok_or(Refusal::UnknownModel(name.to_owned())));
    match found {
        Ok(model) => Json(described(model)).into_response(),
        Err(problem) => refusal(&problem, &provider.next_id()),
    }
}

fn described(model: &Model) -> Value {
    json!({"id": model.name, "object": "model", "created": CREATED, "owned_by": "system"})
}

fn check_key(provider: &Provider, headers: &HeaderMap) -> Result<(), Refusal> {
    provider.check_key(provider.openai_key.as_deref(), bearer(headers))
}
