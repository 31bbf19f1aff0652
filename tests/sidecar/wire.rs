//! What callers and providers see, and what becomes of a call when one of them goes away.

use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use spendkeeper::core::call::CallOutcome;
use spendkeeper::core::dimensions::Dimension;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Answer, Bench, budget, openai, policy, policy_at, streamed, until};
use super::provider::Provider;

async fn start(limit: &str) -> (std::sync::Arc<Provider>, Bench) {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget(limit, ""))).await;
    (provider, bench)
}

#[tokio::test]
async fn both_protocols_are_answered_priced_and_attributed() {
    let (provider, bench) = start("usd: \"1\"").await;
    let answer = bench.chat("answer", 100).await;
    // 6 input and 100 output tokens at 10 USD per million.
    assert_eq!((answer.status, answer.header("x-spend-cost-usd")), (200, "0.00106"), "{}", answer.text);
    let message = json!({"model": "a-big", "max_tokens": 50, "messages": [{"role": "user", "content": "answer"}]});
    let headers = [("x-spend-feature", "chat"), ("baggage", "spend.team=red")];
    let answer = Answer::of(bench.send("/v1/messages", &headers, message).await).await;
    assert_eq!((answer.status, answer.header("x-spend-cost-usd")), (200, "0.00056"), "{}", answer.text);
    // One dollar less both calls; nothing else was drawn.
    assert_eq!(answer.header("x-spend-budget-remaining-usd"), "0.99838");
    let totals = bench.settled().await;
    let chat = totals.iter().find(|t| t.backend == "two").unwrap();
    assert_eq!((chat.dimensions.get(Dimension::Feature), chat.dimensions.get(Dimension::Team)), (Some("chat"), Some("red")));
    assert_eq!(bench.balance().await.settled, i128::from(provider.billed_micro()) * 1_000_000);
}

#[tokio::test]
async fn the_provider_gets_the_backends_credential_a_cap_and_nothing_of_ours() {
    let (provider, bench) = start("usd: \"1\"").await;
    let request = json!({"model": "o-big", "messages": [{"role": "user", "content": "answer"}], "x_unknown": 1.50});
    let headers = [("authorization", "Bearer placeholder"), ("x-spend-team", "red"), ("baggage", "a=b")];
    Answer::of(bench.send("/chat/completions?x=1", &headers, request).await).await;
    let requests = provider.requests.lock().unwrap();
    let (uri, headers, body) = &requests[0];
    assert_eq!(uri.to_string(), "/v1/chat/completions?x=1");
    assert_eq!(
        (&headers["authorization"], &headers["accept-encoding"]),
        (&"Bearer sk-real".parse().unwrap(), &"identity".parse().unwrap())
    );
    assert!(!headers.contains_key("baggage") && !headers.contains_key("x-spend-team"));
    assert_eq!((&body["max_completion_tokens"], &body["x_unknown"]), (&json!(1_000), &json!(1.5)));
}

#[tokio::test]
async fn a_stream_passes_through_without_the_usage_chunk_that_its_caller_did_not_ask_for() {
    let (provider, bench) = start("usd: \"1\"").await;
    let answer = Answer::of(bench.send("/v1/chat/completions", &[], streamed(openai("o-big", "answer", 50))).await).await;
    assert_eq!((answer.header("x-spend-model"), answer.header("x-spend-max-output-tokens")), ("o-big", ""), "its own cap is kept");
    assert!(answer.text.contains("one ") && answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
    assert!(!answer.text.contains("usage"), "{}", answer.text);
    assert_eq!(bench.ended(CallOutcome::Completed).await, 1);
    assert_eq!(bench.balance().await.settled, i128::from(provider.billed_micro()) * 1_000_000);
}

#[tokio::test]
async fn a_hung_up_stream_is_charged_for_what_was_generated() {
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let (provider, bench) = start("usd: \"1\"").await;
        let model = if path.ends_with("messages") { "a-big" } else { "o-big" };
        let request = json!({"model": model, "max_tokens": 700, "stream": true, "messages": [{"role": "user", "content": "slow"}]});
        let mut response = bench.send(path, &[], request).await;
        assert!(response.body_mut().frame().await.unwrap().is_ok());
        drop(response);
        provider.finish.send_replace(true);
        assert_eq!(bench.ended(CallOutcome::Completed).await, 1, "{path}");
        assert_eq!(bench.balance().await.settled, i128::from(provider.billed_micro()) * 1_000_000, "{path}");
        // 4 input and 400 output tokens.
        assert_eq!(provider.billed_micro(), 4_040);
    }
}

#[tokio::test]
async fn a_caller_that_hangs_up_before_the_answer_does_not_stop_the_call() {
    let (provider, bench) = start("usd: \"1\"").await;
    let hanging = Request::post(format!("{}/v1/chat/completions", bench.url));
    let hanging = hanging.body(Full::new(openai("o-big", "hang", 100).to_string().into())).unwrap();
    let call = tokio::spawn(bench.client.request(hanging));
    provider.called(1).await;
    call.abort();
    // The provider never answers; after the answer timeout nobody can know what it charged.
    until("the call has ended", || bench.sidecar.accounts.metrics.calls_open.get() == 0).await;
    assert_eq!(bench.ended(CallOutcome::Unknown).await, 1);
    assert!(bench.balance().await.settled >= i128::from(provider.billed_micro()) * 1_000_000);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_charged_as_reserved() {
    let (provider, bench) = start("usd: \"1\"").await;
    let response = bench.send("/v1/chat/completions", &[], streamed(openai("o-big", "cut", 700))).await;
    assert!(response.into_body().collect().await.is_err(), "the caller sees that it was cut");
    assert_eq!(bench.ended(CallOutcome::Interrupted).await, 1);
    let settled = bench.balance().await.settled;
    // 700 output tokens and the bound on the input.
    assert!(settled >= 7_000_000_000 && settled >= i128::from(provider.billed_micro()) * 1_000_000, "{settled}");
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_each_protocol() {
    let (_provider, bench) = start("usd: \"0.000001\"").await;
    let openai = bench.chat("answer", 100).await;
    let message = json!({"model": "a-big", "max_tokens": 50, "messages": [{"role": "user", "content": "answer"}]});
    let anthropic = Answer::of(bench.send("/v1/messages", &[], message).await).await;
    for answer in [&openai, &anthropic] {
        assert_eq!((answer.status, answer.header("x-should-retry")), (429, "false"));
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("budget default/b: limit total"));
    }
    assert_eq!(openai.json()["error"]["type"], "insufficient_quota");
    assert_eq!(anthropic.json()["type"], "error");
}

#[tokio::test]
async fn what_is_not_offered_is_refused_with_what_is() {
    let (_provider, bench) = start("usd: \"1\"").await;
    let answer = Answer::of(bench.send("/v1/chat/completions", &[], openai("made-up", "answer", 10)).await).await;
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("o-big, o-small"), "{}", answer.text);
    let answer = Answer::of(bench.send("/api/tags", &[], json!({})).await).await;
    assert!(answer.status == 404 && answer.text.contains("backend of provider Ollama"), "{}", answer.text);
    let answer = Answer::of(bench.send("/v1/chat/completions", &[], json!({"messages": []})).await).await;
    assert!(answer.status == 400 && answer.text.contains("model"), "{}", answer.text);
    let answer = Answer::of(bench.send("/v1/chat/completions", &[], openai("o-big", &"x".repeat(2 << 20), 10)).await).await;
    assert_eq!(answer.status, 413);
    let models = Request::get(format!("{}/v1/models", bench.url)).body(Full::default()).unwrap();
    let models = Answer::of(bench.client.request(models).await.unwrap()).await;
    assert_eq!(models.json()["data"].as_array().unwrap().len(), 4, "two of them by translation");
}

#[tokio::test]
async fn outcomes_are_counted_once_by_id() {
    let (_provider, bench) = start("usd: \"1\"").await;
    for _ in 0..2 {
        let outcome = json!({"outcome": "resolved-ticket", "count": 2, "id": "t-1"});
        let answer = Answer::of(bench.send("/spend/v1/outcomes", &[("x-spend-team", "red")], outcome).await).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    bench.settled().await;
    let outcomes = spendkeeper::ledger::Ledger::outcomes(bench.ledger.as_ref(), 0, i64::MAX).await.unwrap();
    assert_eq!(outcomes.iter().map(|o| (o.outcome.as_str(), o.count)).collect::<Vec<_>>(), [("resolved-ticket", 2)]);
}

#[tokio::test]
async fn what_a_provider_has_said_is_passed_on_before_it_says_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = Bench::start(&policy_at(&format!("http://{}", listener.local_addr().unwrap()), &budget("usd: \"1\"", ""), 1)).await;
    let mut caller = TcpStream::connect(bench.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = streamed(openai("o-big", "answer", 50)).to_string();
    let request = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    caller.write_all(request.as_bytes()).await.unwrap();
    let (mut provider, _) = listener.accept().await.unwrap();
    let event = |choices: &str, usage: &str| {
        let event = format!("data: {{\"model\":\"o-big\",\"choices\":{choices},\"usage\":{usage}}}\n\n");
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    let mut seen = String::new();
    for (said, heard) in [
        ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), "\r\n\r\n"),
        (event(r#"[{"delta":{"content":"one"}}]"#, "null"), r#""one"}}]}"#),
        // Two at once, and the beginning of a third.
        (event(r#"[{"delta":{"content":"two"}}]"#, "null").repeat(2) + "9\r\ndata: {\"m", r#""two"}}]}"#),
        ("\r\n3a\r\nodel\":\"o-big\",\"choices\":[{\"delta\":{\"content\":\"three\"}}]}\n\n\r\n".to_owned(), r#""three"}}]}"#),
        (event("[]", r#"{"prompt_tokens":6,"completion_tokens":4}"#) + "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", "[DONE]"),
    ] {
        provider.write_all(said.as_bytes()).await.unwrap();
        while !seen.contains(heard) {
            let mut more = [0; 4096];
            let length = caller.read(&mut more).await.unwrap();
            assert!(length > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&more[..length]).unwrap());
        }
    }
    assert!(!seen.contains("usage"), "{seen}");
    assert_eq!(bench.ended(CallOutcome::Completed).await, 1);
}
