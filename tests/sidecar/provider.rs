//! A provider that bills by what it generated: OpenAI Chat Completions and Anthropic Messages, whole and streamed.
//!
//! What a call is to do is the text of its last message: `answer`, `slow` (streams until it may end), `cut` (breaks off in
//! mid-stream), `hang` (never answers), `error-500`, `error-429`.

use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Price of a token, input and output alike, in micro-dollars: 10 USD per million.
pub const MICRO_PER_TOKEN: i64 = 10;

/// What the provider saw.
pub struct Provider {
    pub address: String,
    /// Micro-dollars that it would bill.
    pub billed: AtomicI64,
    pub calls: AtomicUsize,
    pub requests: Mutex<Vec<(Uri, HeaderMap, Value)>>,
    /// Lets slow streams end.
    pub finish: watch::Sender<bool>,
}

impl Provider {
    pub async fn start() -> Arc<Provider> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Arc::new(Provider {
            address: format!("http://{}", listener.local_addr().unwrap()),
            billed: AtomicI64::new(0),
            calls: AtomicUsize::new(0),
            requests: Mutex::default(),
            finish: watch::channel(false).0,
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&provider));
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    pub fn billed_micro(&self) -> i64 {
        self.billed.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits until it was called so often.
    pub async fn called(&self, times: usize) {
        super::bench::until("the provider is called", || self.calls() >= times).await;
    }

    fn bill(&self, tokens: i64) {
        self.billed.fetch_add(tokens * MICRO_PER_TOKEN, Ordering::SeqCst);
    }
}

async fn answer(State(provider): State<Arc<Provider>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    provider.calls.fetch_add(1, Ordering::SeqCst);
    let anthropic = uri.path().ends_with("/messages");
    if !anthropic && !uri.path().ends_with("/chat/completions") {
        return (StatusCode::OK, "a shared service").into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    provider.requests.lock().unwrap().push((uri, headers, body.clone()));
    let text = body["messages"].as_array().and_then(|m| m.last()).and_then(|m| m["content"].as_str()).unwrap_or("").to_owned();
    let (model, input) = (body["model"].clone(), text.len() as i64);
    let cap = ["max_completion_tokens", "max_tokens"].iter().find_map(|f| body[f].as_i64()).unwrap_or(i64::MAX);
    let output = cap.min(400);
    let kind = text.split(' ').next().unwrap_or("").to_owned();
    match kind.as_str() {
        "hang" => {
            provider.bill(input);
            std::future::pending::<Infallible>().await;
        }
        "error-500" => return (StatusCode::INTERNAL_SERVER_ERROR, r#"{"error":{"message":"down"}}"#).into_response(),
        "error-429" => {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], r#"{"error":{"message":"slow down"}}"#).into_response();
        }
        _ => {}
    }
    if body["stream"] == json!(true) {
        let events = if anthropic { anthropic_events(&model, input, output) } else { openai_events(&body, &model, input, output) };
        provider.bill(input);
        return streamed(provider, events, kind, output);
    }
    provider.bill(input + output);
    let answer = if anthropic {
        json!({"id": "m", "type": "message", "role": "assistant", "model": model, "content": [{"type": "text", "text": "ok"}],
            "stop_reason": "end_turn", "usage": {"input_tokens": input, "output_tokens": output}})
    } else {
        json!({"id": "c", "object": "chat.completion", "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}})
    };
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

fn openai_events(request: &Value, model: &Value, input: i64, output: i64) -> Vec<String> {
    let chunk = |text: &str| json!({"id": "c", "object": "chat.completion.chunk", "model": model, "choices": [{"index": 0, "delta": {"content": text}}]});
    let mut events = vec![chunk("one "), chunk("two")];
    if request["stream_options"]["include_usage"] == json!(true) {
        let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
        events.push(json!({"id": "c", "object": "chat.completion.chunk", "model": model, "choices": [], "usage": usage}));
    }
    let done = std::iter::once("data: [DONE]\n\n".to_owned());
    events.iter().map(|e| format!("data: {e}\n\n")).chain(done).collect()
}

fn anthropic_events(model: &Value, input: i64, output: i64) -> Vec<String> {
    let events = [
        json!({"type": "message_start", "message": {"id": "m", "model": model, "usage": {"input_tokens": input, "output_tokens": 1}}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}}),
        json!({"type": "message_stop"}),
    ];
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap())).collect()
}

/// The first event at once; then the rest, or what the call asked for. The whole output is billed, as providers do.
fn streamed(provider: Arc<Provider>, events: Vec<String>, kind: String, output: i64) -> Response {
    let rest = rest_of(Arc::clone(&provider), kind, output, events[1..].to_vec());
    let body = stream::iter([Ok::<_, std::io::Error>(events[0].clone())]).chain(rest);
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

fn rest_of(provider: Arc<Provider>, kind: String, output: i64, events: Vec<String>) -> impl Stream<Item = Result<String, std::io::Error>> {
    stream::once(async move {
        if kind == "slow" {
            let _ = provider.finish.subscribe().wait_for(|finish| *finish).await;
        }
        provider.bill(output);
        if kind == "cut" {
            // The first event must have left before the connection breaks.
            tokio::time::sleep(Duration::from_millis(30)).await;
            return stream::iter(vec![Err(std::io::Error::other("cut"))]);
        }
        stream::iter(events.into_iter().map(Ok).collect::<Vec<_>>())
    })
    .flatten()
}
