//! Ollama: models of any name, which cost nothing.

mod request;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::fields::Received;
use crate::models::{Model, Vendor};
use crate::refusal::Refusal;
use crate::reply;
use crate::server::Provider;
use request::{Asked, Kind};

/// Models that are remembered by their names; later ones share one.
const MOST_MODELS: usize = 100;
const OTHERS: &str = "(others)";

pub async fn chat(State(provider): State<Arc<Provider>>, body: Received) -> Response {
    answer(&provider, request::read(body, Kind::Chat)).await
}

pub async fn generate(State(provider): State<Arc<Provider>>, body: Received) -> Response {
    answer(&provider, request::read(body, Kind::Generate)).await
}

pub async fn embed(State(provider): State<Arc<Provider>>, body: Received) -> Response {
    answer(&provider, request::read(body, Kind::Embed)).await
}

async fn answer(provider: &Provider, asked: Result<Asked, Refusal>) -> Response {
    match asked {
        Ok(Asked::Load(answer)) => Json(answer).into_response(),
        Ok(Asked::Ask(ask, local)) => reply::answer(provider, *ask, local).await,
        Err(problem) => refusal(&problem),
    }
}

fn refusal(refusal: &Refusal) -> Response {
    let (status, message) = match refusal {
        Refusal::RateLimited | Refusal::Overloaded => (503, "server busy, please try again.  maximum pending requests exceeded".to_owned()),
        Refusal::ServerError => (500, "llama runner process has terminated: exit status 2".to_owned()),
        Refusal::Missing(field) => (400, format!("{field} is required")),
        Refusal::NotJson(problem) => (400, problem.clone()),
        other => (400, format!("{other:?}")),
    };
    // Faults are named by their number, so they have it here too.
    let status = if *refusal == Refusal::RateLimited { 429 } else { status };
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(json!({"error": message}))).into_response()
}

/// A model for whatever name; a name is remembered for as long as the process runs.
fn model(name: &str) -> &'static Model {
    static KNOWN: Mutex<Option<HashMap<String, &'static Model>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_with(HashMap::new);
    let name = if known.len() < MOST_MODELS || known.contains_key(name) { name } else { OTHERS };
    known.entry(name.to_owned()).or_insert_with(|| {
        Box::leak(Box::new(Model {
            name: Box::leak(name.to_owned().into_boxed_str()),
            vendor: Vendor::Ollama,
            input: 0,
            cached_read: 0,
            cache_write: 0,
            cache_write_long: 0,
            output: 0,
            context_window: 131_072,
            max_output: 131_072,
        }))
    })
}
