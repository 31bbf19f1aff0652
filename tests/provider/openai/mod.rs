//! OpenAI's formats: Chat Completions, Responses, the legacy Completions, Embeddings, images and transcriptions; and Azure's paths to
//! the same.

mod azure;
mod completions;
mod embeddings;
mod media;
pub mod prices;
mod refusals;
mod request;
mod responses;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fields::{Fields, Received};
use crate::models::{Model, Vendor, find, of_vendor};
use crate::refusal::Refusal;
use crate::reply;
use crate::server::{Provider, bearer, header};
use write::Chat;

pub use refusals::refusal;

/// When the models are said to have come out: 1 January 2026.
const CREATED: u64 = 1_767_225_600;
const MOST_STORED: usize = 1_000;

/// Whose endpoint was called.
pub enum Host {
    OpenAi,
    /// With the model of the deployment that the path names.
    Azure(Option<String>),
}

/// Responses that later ones may refer to: what was said until then.
#[derive(Debug, Default)]
pub struct Stored(Mutex<HashMap<String, Vec<Value>>>);

impl Stored {
    fn find(&self, id: &str) -> Option<Vec<Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn keep(&self, id: String, items: Vec<Value>) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.len() < MOST_STORED {
            stored.insert(id, items);
        }
    }
}

pub fn routes(router: Router<Arc<Provider>>) -> Router<Arc<Provider>> {
    azure::routes(router)
        .route("/v1/responses", post(responses))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/images/generations", post(media::images))
        .route("/v1/audio/transcriptions", post(media::transcriptions))
}

type Shared = State<Arc<Provider>>;

pub async fn chat(State(provider): Shared, headers: HeaderMap, body: Received) -> Response {
    answer_chat(&provider, Host::OpenAi, &headers, body).await
}

async fn responses(State(provider): Shared, headers: HeaderMap, body: Received) -> Response {
    answer_response(&provider, Host::OpenAi, &headers, body).await
}

async fn completions(State(provider): Shared, headers: HeaderMap, body: Received) -> Response {
    answer_completion(&provider, Host::OpenAi, &headers, body).await
}

async fn embeddings(State(provider): Shared, headers: HeaderMap, body: Received) -> Response {
    answer_embedding(&provider, Host::OpenAi, &headers, body).await
}

async fn answer_chat(provider: &Provider, host: Host, headers: &HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    match accepted(provider, &host, headers, body).and_then(|fields| request::read(&fields)) {
        Ok((ask, tier, wants_usage)) => {
            let chat = Chat::new(id, ask.model.name, tier, wants_usage, matches!(host, Host::Azure(_)));
            reply::answer(provider, ask, chat).await
        }
        Err(problem) => refusal(&problem, &id),
    }
}

async fn answer_response(provider: &Provider, host: Host, headers: &HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    let read = accepted(provider, &host, headers, body).and_then(|fields| responses::read(&fields, &id, &provider.stored));
    match read {
        Ok((ask, response)) => reply::answer(provider, ask, response).await,
        Err(problem) => refusal(&problem, &id),
    }
}

async fn answer_completion(provider: &Provider, host: Host, headers: &HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    match accepted(provider, &host, headers, body).and_then(|fields| completions::read(&fields, &id)) {
        Ok((ask, completion)) => reply::answer(provider, ask, completion).await,
        Err(problem) => refusal(&problem, &id),
    }
}

async fn answer_embedding(provider: &Provider, host: Host, headers: &HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    match accepted(provider, &host, headers, body).and_then(|fields| embeddings::read(&fields, &id)) {
        Ok((ask, embedding)) => reply::answer(provider, ask, embedding).await,
        Err(problem) => refusal(&problem, &id),
    }
}

/// The request's members, if its key is right; the deployment in the path is the model, whatever the body says.
fn accepted(provider: &Provider, host: &Host, headers: &HeaderMap, body: Received) -> Result<Fields, Refusal> {
    let key = match host {
        Host::OpenAi => bearer(headers),
        Host::Azure(_) => header(headers, "api-key").or(bearer(headers)),
    };
    provider.check_key(provider.openai_key.as_deref(), key)?;
    let fields = Fields::parse(body)?;
    Ok(match host {
        Host::Azure(Some(model)) => fields.with("model", json!(model)),
        Host::Azure(None) => match fields.text("model")?.map(|deployment| json!(azure::model_of(deployment))) {
            Some(model) => fields.with("model", model),
            None => fields,
        },
        Host::OpenAi => fields,
    })
}

/// The model that is asked for.
fn asked_model(fields: &Fields) -> Result<&'static Model, Refusal> {
    let name = fields.text("model")?.ok_or_else(|| Refusal::Missing("model".to_owned()))?;
    find(Vendor::OpenAi, name).ok_or_else(|| Refusal::UnknownModel(name.to_owned()))
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
