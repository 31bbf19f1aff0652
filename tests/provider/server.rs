//! The provider's endpoints: two protocols, and an administration that tests and the demo use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use crate::args::Args;
use crate::bill::{Bill, Statement};
use crate::cache::PromptCache;
use crate::faults::{Faults, Rule};
use crate::pace::Pace;
use crate::refusal::Refusal;
use crate::{anthropic, openai};

const MOST_BYTES: usize = 32 * 1024 * 1024;

pub struct Provider {
    pub bill: Arc<Bill>,
    pub faults: Faults,
    pub cache: PromptCache,
    pub pace: Pace,
    pub openai_key: Option<String>,
    pub anthropic_key: Option<String>,
    requests: AtomicU64,
}

impl Provider {
    pub fn new(args: &Args) -> Provider {
        Provider {
            bill: Arc::default(),
            faults: Faults::default(),
            cache: PromptCache::default(),
            pace: Pace { first_token: Duration::from_millis(args.first_token_ms), tokens_per_second: args.tokens_per_second },
            openai_key: args.openai_key.clone(),
            anthropic_key: args.anthropic_key.clone(),
            requests: AtomicU64::new(1),
        }
    }

    /// What tells a request from others, as the end of an identifier.
    pub fn next_id(&self) -> String {
        format!("{:024x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Compares a key with the one that is right, and counts it when it is not.
    pub fn check_key(&self, right: Option<&str>, presented: Option<&str>) -> Result<(), Refusal> {
        match (right, presented) {
            (None, _) => Ok(()),
            (Some(right), Some(presented)) if right == presented => Ok(()),
            (Some(_), presented) => {
                self.bill.count_refused_key();
                Err(if presented.is_some() { Refusal::WrongKey } else { Refusal::NoKey })
            }
        }
    }
}

/// The value of a header, if it is text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The key of `Authorization: Bearer KEY`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    header(headers, "authorization")?.strip_prefix("Bearer ")
}

pub fn router(args: &Args) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(openai::completions))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/admin/bill", get(bill).delete(reset_bill))
        .route("/admin/faults", get(faults).put(put_faults).delete(clear_faults))
        .route("/healthz", get(|| async { "ok" }))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(Arc::new(Provider::new(args)))
}

type Shared = State<Arc<Provider>>;

/// Anthropic's clients always say which version of the protocol they speak; OpenAI's never do.
fn speaks_anthropic(headers: &HeaderMap) -> bool {
    headers.contains_key("anthropic-version")
}

async fn models(State(provider): Shared, headers: HeaderMap) -> Response {
    if speaks_anthropic(&headers) { anthropic::models(&provider, &headers) } else { openai::models(&provider, &headers) }
}

async fn model(State(provider): Shared, Path(name): Path<String>, headers: HeaderMap) -> Response {
    if speaks_anthropic(&headers) { anthropic::model(&provider, &headers, &name) } else { openai::model(&provider, &headers, &name) }
}

async fn not_found(State(provider): Shared, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let refusal = Refusal::NotFound(format!("{method} {}", uri.path()));
    if speaks_anthropic(&headers) {
        anthropic::refusal(&refusal, &provider.next_id())
    } else {
        openai::refusal(&refusal, &provider.next_id())
    }
}

async fn bill(State(provider): Shared) -> Json<Statement> {
    Json(provider.bill.statement())
}

async fn reset_bill(State(provider): Shared) -> StatusCode {
    provider.bill.reset();
    StatusCode::NO_CONTENT
}

async fn faults(State(provider): Shared) -> Json<Vec<Rule>> {
    Json(provider.faults.list())
}

async fn put_faults(State(provider): Shared, body: Bytes) -> Response {
    match provider.faults.put(&body) {
        Ok(()) => {
            tracing::info!(rules = %String::from_utf8_lossy(&body), "faults switched");
            Json(provider.faults.list()).into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, Json(json!({"error": problem}))).into_response(),
    }
}

async fn clear_faults(State(provider): Shared) -> StatusCode {
    provider.faults.clear();
    StatusCode::NO_CONTENT
}
