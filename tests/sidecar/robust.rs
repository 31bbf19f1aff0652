//! Callers and providers that are slow, many, hostile, or want something that is no model call.

use std::time::Duration;

use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use spendkeeper::core::call::CallOutcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bench::{Answer, Bench, MAX_CONNECTIONS, budget, openai, policy, streamed, until};
use super::provider::Provider;

async fn start(more: &str) -> (std::sync::Arc<Provider>, Bench) {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"1\"", more))).await;
    (provider, bench)
}

async fn connect(bench: &Bench) -> TcpStream {
    TcpStream::connect(bench.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// What comes back for raw bytes, until the other side closes.
async fn raw(bench: &Bench, request: &[u8]) -> String {
    let mut stream = connect(bench).await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_caller_may_speak_http2() {
    let (_provider, bench) = start("").await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = |body: serde_json::Value| {
        Request::post(format!("{}/v1/chat/completions", bench.url)).body(Full::new(bytes::Bytes::from(body.to_string()))).unwrap()
    };
    let answer = client.request(request(openai("o-big", "answer", 10))).await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    let events = client.request(request(streamed(openai("o-big", "answer", 10)))).await.unwrap();
    let text = events.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(bench.ended(CallOutcome::Completed).await, 2);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (provider, bench) = start("").await;
    let head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"model\"";
    let answer = raw(&bench, head).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("spendkeeper_request_too_slow"), "{answer}");
    assert_eq!(provider.calls(), 0);
}

#[tokio::test]
async fn a_provider_that_goes_silent_is_given_up_and_the_call_is_charged_as_reserved() {
    let (_provider, bench) = start("").await;
    let answer = bench.send("/v1/chat/completions", &[], streamed(openai("o-big", "slow", 100))).await;
    assert!(answer.into_body().collect().await.is_err(), "the caller is told that this is not the end");
    let totals = bench.settled().await;
    let call = totals.iter().find(|t| t.outcome == CallOutcome::Interrupted).unwrap();
    assert!(call.usage.output == 100 && call.cost.0 > 0, "{call:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (_provider, bench) = start("").await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(connect(&bench).await);
    }
    let answer = raw(&bench, b"").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("--max-connections"), "{answer}");
    drop(held);
    let mut answered = String::new();
    while !answered.starts_with("HTTP/1.1 200") {
        answered = raw(&bench, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    }
}

#[tokio::test]
async fn what_the_provider_says_of_the_input_frees_the_rest_of_its_reservation() {
    let (provider, bench) = start("").await;
    let text = format!("slow {}", "x".repeat(20_000));
    let message = json!({"model": "a-big", "max_tokens": 50, "stream": true, "messages": [{"role": "user", "content": text}]});
    let answer = bench.send("/v1/messages", &[], message).await;
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    // The prompt's 20,005 tokens, of which the provider says that they are all; reserved was a byte's worth each and the frame around.
    let held = bench.sidecar.accounts.leases.held().usd.0;
    until("the surplus is free", || {
        bench.sidecar.accounts.leases.free(&[spendkeeper::core::limit::LimitKey("default/b/total".into())]).usd.0 > 0
    })
    .await;
    assert_eq!(bench.sidecar.accounts.leases.held().usd.0, held, "it is still this sidecar's");
    provider.finish.send_replace(true);
    body.collect().await.unwrap();
    bench.settled().await;
    assert_eq!(bench.balance().await.settled, i128::from(provider.billed_micro()) * 1_000_000);
}

#[tokio::test]
async fn what_is_no_model_call_passes_with_the_backends_credential_and_is_counted() {
    let (provider, bench) = start("").await;
    let request = |method: Method, path: &str| {
        Request::builder().method(method).uri(format!("{}{path}", bench.url)).body(Full::new(bytes::Bytes::from("{}"))).unwrap()
    };
    let answer = Answer::of(bench.client.request(request(Method::GET, "/v1/files?limit=2")).await.unwrap()).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "a shared service"));
    assert_eq!(provider.calls(), 1);
    let text = String::from_utf8(bench.sidecar.accounts.metrics.render()).unwrap();
    let counted = r#"spendkeeper_sidecar_unmetered_requests_total{charge="known",spendkeeper_backend="one"} 1"#;
    assert!(text.contains(counted), "{text}");
    // A batch may cost anything, and this budget lets nothing through that has no price.
    let answer = Answer::of(bench.client.request(request(Method::POST, "/v1/batches")).await.unwrap()).await;
    assert_eq!((answer.status, provider.calls()), (403, 1), "{}", answer.text);
    assert!(answer.text.contains("unpricedModels: Allow"), "{}", answer.text);
}

#[tokio::test]
async fn a_budget_that_allows_what_has_no_price_lets_it_through_and_says_so() {
    let (provider, bench) = start("  unpricedModels: Allow\n").await;
    let answer = Answer::of(bench.send("/v1/batches", &[], json!({})).await).await;
    assert_eq!((answer.status, provider.calls()), (200, 1), "{}", answer.text);
    let text = String::from_utf8(bench.sidecar.accounts.metrics.render()).unwrap();
    assert!(text.contains(r#"charge="unknown",spendkeeper_backend="one"} 1"#), "{text}");
}

#[tokio::test]
async fn a_request_cannot_steer_the_sidecar_elsewhere_nor_see_its_credential() {
    let (provider, bench) = start("").await;
    for request in [
        "GET http://169.254.169.254/v1/latest HTTP/1.1\r\nhost: 169.254.169.254\r\nconnection: close\r\n\r\n",
        "GET //169.254.169.254/latest HTTP/1.1\r\nhost: 169.254.169.254\r\nx-forwarded-host: evil\r\nconnection: close\r\n\r\n",
        "GET /v1/@169.254.169.254/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ] {
        let answer = raw(&bench, request.as_bytes()).await;
        assert!(answer.contains("a shared service"), "it went to the backend and nowhere else: {request} {answer}");
    }
    for request in [
        "TRACE /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ] {
        let answer = raw(&bench, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{request} {answer}");
    }
    assert_eq!(provider.calls(), 3);
}

#[tokio::test]
async fn a_second_request_cannot_be_smuggled_in_the_first() {
    let (provider, bench) = start("").await;
    let body = r#"{"model":"o-big","max_tokens":1,"messages":[]}"#;
    for framing in [
        // Both ways to say where the body ends, one of them said twice or wrongly.
        format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", body.len()),
        format!("content-length: {}\r\ncontent-length: {}\r\n", body.len(), body.len() - 1),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        format!("content-length: +{}\r\n", body.len()),
    ] {
        let request =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{framing}\r\n{body}GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut stream = connect(&bench).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("\"object\":\"list\""), "{framing}: the second request was answered: {answer}");
    }
    assert_eq!(provider.calls(), 0);
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let (_provider, bench) = start("").await;
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = raw(&bench, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{}", &answer[..answer.len().min(200)]);
}
