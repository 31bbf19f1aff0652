//! A provider that keeps count of what it would bill: OpenAI Chat Completions, whole answers, 10 USD per million tokens.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const MICRO_PER_TOKEN: i64 = 10;
/// What is never answered, though it is billed.
pub const UNANSWERED: &str = "say nothing";

pub struct Provider {
    pub address: String,
    billed_micro: AtomicI64,
    /// The `authorization` of the calls so far.
    authorizations: Mutex<Vec<String>>,
}

impl Provider {
    pub async fn start() -> Arc<Provider> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let provider = Arc::new(Provider { address, billed_micro: AtomicI64::new(0), authorizations: Mutex::default() });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&provider));
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    /// Millionths of a dollar.
    pub fn billed_micro(&self) -> i64 {
        self.billed_micro.load(Ordering::SeqCst)
    }

    /// What it has billed, as an error while that is less.
    pub fn has_billed(&self, micro: i64) -> Result<(), i64> {
        let billed = self.billed_micro();
        if billed >= micro { Ok(()) } else { Err(billed) }
    }

    pub fn authorizations(&self) -> Vec<String> {
        self.authorizations.lock().unwrap().clone()
    }
}

async fn answer(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: String) -> axum::Json<Value> {
    let authorization = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    provider.authorizations.lock().unwrap().push(authorization);
    let request: Value = serde_json::from_str(&body).unwrap();
    let input = i64::try_from(request["messages"][0]["content"].as_str().unwrap().len()).unwrap();
    let output = request["max_completion_tokens"].as_i64().unwrap().min(400);
    provider.billed_micro.fetch_add((input + output) * MICRO_PER_TOKEN, Ordering::SeqCst);
    if request["messages"][0]["content"] == UNANSWERED {
        std::future::pending::<()>().await;
    }
    axum::Json(json!({
        "id": "c",
        "object": "chat.completion",
        "model": request["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output},
    }))
}
