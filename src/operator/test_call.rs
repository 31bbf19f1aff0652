//! `helm test`: one call through the sidecar of this process's own pod, to a model that this process plays itself.
//!
//! It shows that the webhook injected the sidecar, that the sidecar reached the operator and got its policy, and that a
//! call is forwarded, priced and charged. Nothing leaves the pod.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Where the webhook tells SDKs to send their calls.
const BASE_URL: &str = "OPENAI_BASE_URL";
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: usize = 1 << 20;
/// Tokens that the played model says it used.
const INPUT_TOKENS: u64 = 7;
const OUTPUT_TOKENS: u64 = 2;
const ANSWER: &str = "spendkeeper works";

/// Why the test failed.
#[derive(Debug, thiserror::Error)]
pub enum TestCallError {
    #[error("{BASE_URL} is not set: the pod has no sidecar; look at the events of the pod and the logs of the operator's webhook")]
    NoSidecar,
    #[error("cannot play the model on {address}: {reason}")]
    Upstream { address: SocketAddr, reason: String },
    #[error("no answer through the sidecar at {url}: {reason}; read its log (container spendkeeper-sidecar)")]
    NoAnswer { url: String, reason: String },
    #[error("the sidecar answered {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the sidecar's answer is not what the model said: {0}")]
    Different(String),
}

/// Calls `model` once and returns what the call cost, as the sidecar said it.
///
/// # Errors
/// When a part of the way does not work; the message says which.
pub async fn run(model: &str, upstream: SocketAddr) -> Result<String, TestCallError> {
    let base = std::env::var(BASE_URL).map_err(|_| TestCallError::NoSidecar)?;
    let listener = TcpListener::bind(upstream).await;
    let listener = listener.map_err(|e| TestCallError::Upstream { address: upstream, reason: e.to_string() })?;
    let played = axum::Router::new().route("/v1/chat/completions", post(answer));
    let player = tokio::spawn(async move { axum::serve(listener, played).await });
    let url = format!("{}/chat/completions", base.trim_end_matches('/'));
    let result = call(&url, model).await;
    player.abort();
    let (status, headers, body) = result.map_err(|reason| TestCallError::NoAnswer { url, reason })?;
    check(status, &headers, &body)
}

/// The model.
async fn answer(Json(request): Json<Value>) -> Json<Value> {
    Json(json!({
        "id": "chatcmpl-test", "object": "chat.completion", "created": 0, "model": request["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS},
    }))
}

async fn call(url: &str, model: &str) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let body = json!({"model": model, "max_completion_tokens": 16, "messages": [{"role": "user", "content": "Does it work?"}]});
    let request = Request::post(url)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|e| e.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let answered = async {
        let (head, body) = client.request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok((head.status, head.headers, body))
    };
    tokio::time::timeout(PATIENCE, answered).await.map_err(|_| format!("none within {PATIENCE:?}"))?
}

/// The cost, if the answer is the model's own and says what it cost.
fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<String, TestCallError> {
    if !status.is_success() {
        return Err(TestCallError::Refused { status, body: String::from_utf8_lossy(body).into_owned() });
    }
    let answer: Value = serde_json::from_slice(body).map_err(|e| TestCallError::Different(e.to_string()))?;
    if answer["choices"][0]["message"]["content"] != ANSWER {
        return Err(TestCallError::Different(answer.to_string()));
    }
    let cost = headers.get("x-spend-cost-usd").and_then(|value| value.to_str().ok());
    let cost = cost.ok_or_else(|| TestCallError::Different("it has no header x-spend-cost-usd, so the call was not metered".to_owned()))?;
    Ok(cost.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_models_own_answer_with_a_price_on_it_passes() {
        let said = json!({"choices": [{"message": {"content": ANSWER}}]}).to_string();
        let priced: HeaderMap = [("x-spend-cost-usd".parse().expect("a name"), "0.000011".parse().expect("a value"))].into_iter().collect();
        assert_eq!(check(StatusCode::OK, &priced, said.as_bytes()).expect("passes"), "0.000011");
        let told = |result: Result<String, TestCallError>| result.expect_err("fails").to_string();
        assert!(told(check(StatusCode::OK, &HeaderMap::new(), said.as_bytes())).contains("not metered"));
        assert!(told(check(StatusCode::OK, &priced, b"{}")).contains("not what the model said"));
        assert!(told(check(StatusCode::TOO_MANY_REQUESTS, &priced, b"no budget")).contains("429 Too Many Requests: no budget"));
    }
}
