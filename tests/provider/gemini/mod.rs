//! Google's Gemini, on Google AI and on Vertex AI.

mod embed;
pub mod prices;
mod refusals;
mod request;
mod write;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use crate::fields::Received;
use crate::models::{Model, Vendor, find};
use crate::refusal::Refusal;
use crate::reply;
use crate::server::{Provider, bearer, header};
use refusals::refusal;
use write::{Framing, Generate};

/// Where a call came in, which decides what an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    GoogleAi,
    VertexAi,
}

/// `…/models/<model>:<verb>`, whatever is in front.
pub async fn call(State(provider): State<Arc<Provider>>, uri: Uri, headers: HeaderMap, body: Received) -> Response {
    let id = provider.next_id();
    let (before, call) = uri.path().rsplit_once("/models/").unwrap_or_default();
    let (name, verb) = call.split_once(':').unwrap_or((call, ""));
    let place = if before.ends_with("/publishers/google") { Place::VertexAi } else { Place::GoogleAi };
    let known = check_key(&provider, &headers)
        .and_then(|()| find(Vendor::Google, name).ok_or_else(|| Refusal::UnknownModel(name.to_owned())))
        .and_then(|model| is_offered(model, verb, place).then_some(model).ok_or_else(|| Refusal::NotFound(uri.path().to_owned())));
    let model = match known {
        Ok(model) => model,
        Err(problem) => return refusal(&problem),
    };
    let events = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
    match verb {
        "generateContent" | "streamGenerateContent" => match request::read(body, model, verb == "streamGenerateContent") {
            Ok(asked) => {
                let framing = if events { Framing::Events } else { Framing::Array };
                let dialect = Generate::new(id, model, place, framing, &asked);
                reply::answer(&provider, asked.ask, dialect).await
            }
            Err(problem) => refusal(&problem),
        },
        _ => match embed::read(body, model, verb) {
            Ok((ask, embed)) => reply::answer(&provider, ask, embed).await,
            Err(problem) => refusal(&problem),
        },
    }
}

fn is_offered(model: &Model, verb: &str, place: Place) -> bool {
    match (model.max_output, verb) {
        (1, "embedContent") => true,
        (1, "batchEmbedContents") => place == Place::GoogleAi,
        (1, "predict") => place == Place::VertexAi,
        (_, "generateContent" | "streamGenerateContent") => model.max_output > 1,
        _ => false,
    }
}

/// Google AI takes a key, Vertex AI a token.
fn check_key(provider: &Provider, headers: &HeaderMap) -> Result<(), Refusal> {
    let presented = header(headers, "x-goog-api-key").or_else(|| bearer(headers));
    provider.check_key(provider.google_key.as_deref(), presented)
}
