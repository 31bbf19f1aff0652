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
use crate::{anthropic, bedrock, gemini, ollama, openai};

const MOST_BYTES: usize = 32 * 1024 * 1024;

pub struct Provider {
    pub bill: Arc<Bill>,
    pub faults: Faults,
    pub cache: PromptCache,
    pub pace: Pace,
    /// What later responses may refer to.
    pub stored: Arc<openai::Stored>,
    pub openai_key: Option<String>,
    pub anthropic_key: Option<String>,
    pub google_key: Option<String>,
    pub bedrock_key: Option<String>,
    requests: AtomicU64,
}

impl Provider {
    pub fn new(args: &Args) -> Provider {
        Provider {
            bill: Arc::default(),
            faults: Faults::default(),
            cache: PromptCache::default(),
            stored: Arc::default(),
            pace: Pace { first_token: Duration::from_millis(args.first_token_ms), tokens_per_second: args.tokens_per_second },
            openai_key: args.openai_key.clone(),
            anthropic_key: args.anthropic_key.clone(),
            google_key: args.google_key.clone(),
            bedrock_key: args.bedrock_key.clone(),
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
    openai::routes(Router::new())
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/model/{model}/converse", post(bedrock::converse))
        .route("/model/{model}/converse-stream", post(bedrock::converse_stream))
        .route("/model/{model}/invoke", post(bedrock::invoke))
        .route("/model/{model}/invoke-with-response-stream", post(bedrock::invoke_stream))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model).post(gemini::call))
        .route("/v1beta/models/{call}", post(gemini::call))
        .route("/v1alpha/models/{call}", post(gemini::call))
        .route("/{version}/projects/{project}/locations/{location}/publishers/google/models/{call}", post(gemini::call))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
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

#[cfg(test)]
mod tests {
    use axum::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
    use clap::Parser;
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    fn provider(faults: Value) -> Arc<Provider> {
        let args =
            ["provider", "--openai-key", "right", "--anthropic-key", "right", "--first-token-ms", "1", "--tokens-per-second", "50000"];
        let provider = Arc::new(Provider::new(&Args::parse_from(args)));
        provider.faults.put(faults.to_string().as_bytes()).unwrap();
        provider
    }

    fn headers(key: &str) -> HeaderMap {
        let bearer = HeaderValue::try_from(format!("Bearer {key}")).unwrap();
        HeaderMap::from_iter([
            (AUTHORIZATION, bearer),
            (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01")),
        ])
    }

    fn body(model: &str, streamed: bool) -> Bytes {
        let messages = json!([{"role": "user", "content": "Explain leases in about 50 words."}]);
        let mut body = json!({"model": model, "max_tokens": 400, "stream": streamed, "messages": messages});
        if model.starts_with("claude") {
            body["metadata"] = json!({"user_id": "bot"});
        } else {
            body["user"] = json!("bot");
            body["stream_options"] = json!({"include_usage": true});
        }
        body.to_string().into()
    }

    async fn call(provider: &Arc<Provider>, key: &str, model: &str, streamed: bool) -> Response {
        let (state, body) = (State(Arc::clone(provider)), Ok(body(model, streamed)));
        if model.starts_with("claude") {
            anthropic::messages(state, headers(key), body).await
        } else {
            openai::chat(state, headers(key), body).await
        }
    }

    async fn text(response: Response) -> Result<String, axum::Error> {
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn json_of(response: Response) -> Value {
        serde_json::from_str(&text(response).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn the_usage_that_is_reported_is_the_usage_that_is_billed_whole_or_streamed() {
        let provider = provider(json!([]));
        let whole = json_of(call(&provider, "right", "gpt-5", false).await).await;
        let events = text(call(&provider, "right", "gpt-5", true).await).await.unwrap();
        let last = events.trim_end().rsplit("data: ").nth(1).unwrap();
        let streamed: Value = serde_json::from_str(last).unwrap();
        assert_eq!(whole["usage"], streamed["usage"]);
        let line = &provider.bill.statement().by_label["bot"];
        assert_eq!(json!(line.input_tokens / 2), whole["usage"]["prompt_tokens"]);
        assert_eq!(json!(line.output_tokens / 2), whole["usage"]["completion_tokens"]);
        assert_eq!((line.calls, line.in_flight, line.max_in_flight), (2, 0, 1));
    }

    #[tokio::test]
    async fn a_wrong_key_is_counted_and_told_in_each_protocols_shape() {
        let provider = provider(json!([]));
        let openai = call(&provider, "wrong", "gpt-5", false).await;
        assert_eq!(openai.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(json_of(openai).await["error"]["code"], "invalid_api_key");
        let anthropic = call(&provider, "wrong", "claude-opus-5", false).await;
        assert_eq!(anthropic.status(), StatusCode::UNAUTHORIZED);
        let anthropic = json_of(anthropic).await;
        assert_eq!((&anthropic["type"], &anthropic["error"]["type"]), (&json!("error"), &json!("authentication_error")));
        let statement = provider.bill.statement();
        assert_eq!((statement.refused_keys, statement.total.calls), (2, 0));
    }

    #[tokio::test]
    async fn a_failed_call_costs_nothing_and_says_when_to_come_back() {
        let provider = provider(json!([{"kind": "Status429", "times": 2}, {"kind": "Status529"}]));
        for model in ["gpt-5", "claude-opus-5"] {
            let response = call(&provider, "right", model, false).await;
            assert_eq!((response.status(), header(response.headers(), "retry-after")), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
        }
        let response = call(&provider, "right", "claude-opus-5", true).await;
        assert_eq!(response.status().as_u16(), 529);
        assert_eq!(json_of(response).await["error"]["type"], "overloaded_error");
        assert_eq!(provider.bill.statement().total.usd, "0.00");
    }

    #[tokio::test]
    async fn a_cut_answer_breaks_off_and_is_billed_up_to_the_cut() {
        for (model, streamed) in [("gpt-5", true), ("gpt-5", false), ("claude-opus-5", true), ("claude-opus-5", false)] {
            let provider = provider(json!([{"kind": "CutStream", "afterTokens": 6}]));
            assert!(text(call(&provider, "right", model, streamed).await).await.is_err());
            assert_eq!(provider.bill.statement().total.output_tokens, 6);
        }
    }

    #[tokio::test]
    async fn a_hung_call_is_billed_for_its_input_until_the_caller_goes_away() {
        let provider = provider(json!([{"kind": "Hang"}]));
        let hung = tokio::time::timeout(Duration::from_millis(50), call(&provider, "right", "gpt-5", true)).await;
        assert!(hung.is_err());
        let total = provider.bill.statement().total;
        assert_eq!((total.calls, total.output_tokens, total.in_flight), (1, 0, 0));
        assert!(total.input_tokens > 0);
    }

    #[tokio::test]
    async fn a_stream_can_end_too_early_by_saying_so_or_silently_and_is_billed_up_to_there() {
        for (kind, said) in [("FailStream", true), ("EndStream", false)] {
            for model in ["gpt-5", "claude-opus-5"] {
                let provider = provider(json!([{"kind": kind, "afterTokens": 6}]));
                let events = text(call(&provider, "right", model, true).await).await.unwrap();
                assert_eq!(events.contains("\"error\""), said, "{events}");
                assert!(!events.contains("[DONE]") && !events.contains("message_stop"), "{events}");
                assert_eq!(provider.bill.statement().total.output_tokens, 6);
            }
        }
    }

    #[tokio::test]
    async fn usage_can_be_kept_silent_though_it_is_billed_and_told_as_zero_though_it_is_not() {
        for (model, streamed) in [("gpt-5", true), ("gpt-5", false), ("claude-opus-5", true), ("claude-opus-5", false)] {
            let silent = provider(json!([{"kind": "NoUsage"}]));
            let answer = text(call(&silent, "right", model, streamed).await).await.unwrap();
            assert!(!answer.contains("usage") && silent.bill.statement().total.output_tokens > 0, "{answer}");
            let free = provider(json!([{"kind": "Free"}]));
            let answer = text(call(&free, "right", model, streamed).await).await.unwrap();
            assert!(answer.contains("usage"), "{answer}");
            assert_eq!((free.bill.statement().total.usd, free.bill.statement().total.input_tokens), ("0.00".to_owned(), 0));
        }
    }

    #[tokio::test]
    async fn searches_are_billed_with_their_results_and_reported_at_the_end() {
        for streamed in [false, true] {
            let provider = provider(json!([]));
            let tools = json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]);
            let body = json!({"model": "claude-opus-5", "max_tokens": 50, "stream": streamed, "tools": tools,
                "messages": [{"role": "user", "content": "Look it up."}]});
            let body = Ok(body.to_string().into());
            let answer = text(anthropic::messages(State(Arc::clone(&provider)), headers("right"), body).await).await.unwrap();
            let total = provider.bill.statement().total;
            assert!(answer.contains(&format!("\"input_tokens\":{}", total.input_tokens)), "{answer}");
            assert!(answer.contains("\"web_search_requests\":1"), "{answer}");
            let tokens = u128::from(total.input_tokens) * 5_000_000 + u128::from(total.output_tokens) * 25_000_000;
            assert_eq!(total.pico_usd, (tokens + 10_000_000_000).to_string());
        }
    }

    #[tokio::test]
    async fn a_dropped_stream_stops_generating_and_billing() {
        let provider = provider(json!([]));
        let mut body = call(&provider, "right", "gpt-5", true).await.into_body();
        for _ in 0..3 {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
        let total = provider.bill.statement().total;
        assert_eq!((total.output_tokens, total.in_flight), (8, 0));
    }
}
