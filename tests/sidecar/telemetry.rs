//! What an OpenTelemetry collector is told of calls, and what it never is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use serde_json::json;
use spendkeeper::sidecar::telemetry::{Settings, Wire};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::bench::{Answer, Bench, budget, openai, policy, policy_at, streamed, until};
use super::provider::Provider;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const PROMPT: &str = "answer me: what is the patient's secret-diagnosis?";

/// Keeps what it is sent, as it came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if request.metadata().get("x-key").is_none() {
            return Err(Status::unauthenticated("no key"));
        }
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn grpc() -> (Collector, Settings) {
        let (collector, listener) = (Collector::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let serve = tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        (collector, settings(&endpoint, Wire::Grpc))
    }

    async fn http() -> (Collector, Settings) {
        let (collector, listener) = (Collector::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let kept = collector.clone();
        let take = move |headers: http::HeaderMap, body: axum::body::Bytes| async move {
            assert_eq!((&headers["content-type"], &headers["x-key"]), (&"application/x-protobuf".parse().unwrap(), &"k".parse().unwrap()));
            kept.0.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
        };
        let app = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (collector, settings(&endpoint, Wire::HttpProtobuf))
    }

    /// Every span, once there are so many; none of them holds any text of a call.
    async fn spans(&self, count: usize) -> Vec<Told> {
        until("the spans are there", || self.told().len() >= count).await;
        let told = self.told();
        assert_eq!(told.len(), count, "{told:#?}");
        let bytes: Vec<u8> = self.0.lock().unwrap().iter().flat_map(Message::encode_to_vec).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for secret in ["secret-diagnosis", "one two", "sk-real", "\"ok\""] {
            assert!(!text.contains(secret), "{secret}");
        }
        told
    }

    fn told(&self) -> Vec<Told> {
        let requests = self.0.lock().unwrap();
        let scopes = requests.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
        scopes.flat_map(|s| &s.spans).map(Told::of).collect()
    }
}

fn settings(endpoint: &str, wire: Wire) -> Settings {
    let headers = vec![("x-key".parse().unwrap(), "k".parse().unwrap())];
    Settings { endpoint: endpoint.to_owned(), wire, headers, sample_ratio: 1.0, extra_ca: None, capture_content: false }
}

/// A span and its attributes.
#[derive(Debug)]
struct Told {
    span: Span,
    attributes: BTreeMap<String, String>,
}

impl Told {
    fn of(span: &Span) -> Told {
        let text = |value: &Value| match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        let attributes = span.attributes.iter().map(|a| (a.key.clone(), a.value.iter().flat_map(|v| &v.value).map(text).collect()));
        Told { span: span.clone(), attributes: attributes.collect() }
    }

    fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2 && status.message.is_empty())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn start(limit: &str, settings: Settings) -> (Arc<Provider>, Bench) {
    let provider = Provider::start().await;
    let bench = Bench::telling(&policy(&provider, &budget(limit, "")), Some(settings)).await;
    (provider, bench)
}

#[tokio::test]
async fn a_call_is_a_span_under_its_callers_and_the_provider_is_called_from_that_span() {
    for wire in [Wire::Grpc, Wire::HttpProtobuf] {
        let (collector, settings) = if wire == Wire::Grpc { Collector::grpc().await } else { Collector::http().await };
        let (provider, bench) = start("usd: \"1\"", settings).await;
        let headers = [("traceparent", CALLER), ("tracestate", "a=1"), ("x-spend-session", "s-1"), ("x-spend-feature", "search")];
        let answer = Answer::of(bench.send("/v1/chat/completions", &headers, openai("o-big", PROMPT, 100)).await).await;
        assert_eq!(answer.status, 200);
        let told = collector.spans(1).await.remove(0);
        assert_eq!((told.span.name.as_str(), told.span.kind()), ("chat o-big", SpanKind::Client));
        assert_eq!((hex(&told.span.trace_id).as_str(), hex(&told.span.parent_span_id).as_str()), (TRACE, "00f067aa0ba902b7"));
        assert!(told.span.start_time_unix_nano < told.span.end_time_unix_nano && told.span.trace_state == "a=1");
        for (key, value) in [
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.max_tokens", "100"),
            ("gen_ai.response.model", "o-big"),
            ("gen_ai.usage.input_tokens", &PROMPT.len().to_string()),
            ("gen_ai.usage.output_tokens", "100"),
            ("gen_ai.conversation.id", "s-1"),
            ("server.address", "127.0.0.1"),
            ("spendkeeper.feature", "search"),
            ("spendkeeper.route", "default/r"),
            ("spendkeeper.backend", "one"),
            ("spendkeeper.cost_usd", answer.header("x-spend-cost-usd")),
            ("error.type", ""),
        ] {
            assert_eq!(told.get(key), value, "{key}");
        }
        let seen = provider.requests.lock().unwrap()[0].1.clone();
        assert_eq!(seen["traceparent"], format!("00-{TRACE}-{}-01", hex(&told.span.span_id)));
        assert_eq!(seen["tracestate"], "a=1");
        let rendered = || String::from_utf8(bench.sidecar.accounts.metrics.render()).unwrap();
        until("the collector has answered", || rendered().contains("spendkeeper_sidecar_spans_exported_total 1")).await;
        let metrics = rendered();
        assert!(metrics.contains(r#"gen_ai_provider_name="openai""#) && metrics.contains(r#"spendkeeper_backend="one""#), "{metrics}");
    }
}

#[tokio::test]
async fn a_stream_is_told_of_when_it_has_ended_or_broken_off() {
    let (collector, settings) = Collector::grpc().await;
    let (_provider, bench) = start("usd: \"1\"", settings).await;
    Answer::of(bench.send("/v1/chat/completions", &[], streamed(openai("o-big", PROMPT, 50))).await).await;
    let told = collector.spans(1).await.remove(0);
    assert_eq!((told.get("gen_ai.usage.output_tokens"), told.is_error(), told.span.parent_span_id.len()), ("50", false, 0));
    assert!(told.get("gen_ai.response.time_to_first_chunk").parse::<f64>().unwrap() < 1.0);
    let cut = bench.send("/v1/chat/completions", &[], streamed(openai("o-big", "cut secret-diagnosis", 50))).await;
    assert!(cut.into_body().collect().await.is_err());
    let told = collector.spans(2).await.remove(1);
    assert_eq!((told.get("error.type"), told.get("spendkeeper.charged_by"), told.is_error()), ("interrupted", "reservation", true));
    assert_eq!(told.get("gen_ai.usage.output_tokens"), "", "what was reserved is no usage");
}

#[tokio::test]
async fn a_refusal_is_a_span_that_says_why_and_quotes_nothing() {
    let (collector, settings) = Collector::grpc().await;
    let (provider, bench) = start("usd: \"0.000001\"", settings).await;
    assert_eq!(bench.chat(PROMPT, 100).await.status, 429);
    // The caller is told what cannot be understood, in words that quote the request.
    let wrong = json!({"model": "o-big", "max_completion_tokens": "secret-diagnosis", "messages": []});
    assert_eq!(Answer::of(bench.send("/v1/chat/completions", &[("traceparent", CALLER)], wrong).await).await.status, 400);
    let mut told = collector.spans(2).await;
    told.sort_by_key(|told| told.span.name.clone());
    let errors: Vec<_> = told.iter().map(|t| (t.span.name.as_str(), t.get("error.type"), t.get("spendkeeper.outcome"))).collect();
    let expected = [("chat", "spendkeeper_invalid_request", "refused"), ("chat o-big", "spendkeeper_budget_exceeded", "refused")];
    assert_eq!(errors, expected);
    assert!(told.iter().all(|t| t.is_error() && t.get("gen_ai.provider.name") == "openai"));
    assert_eq!((hex(&told[0].span.trace_id).as_str(), provider.calls()), (TRACE, 0));
}

#[tokio::test]
async fn each_attempt_is_a_span_under_the_caller_and_the_second_is_linked_to_the_first() {
    let (collector, settings) = Collector::grpc().await;
    let provider = Provider::start().await;
    let bench = Bench::telling(&policy_at(&provider.address, &budget("usd: \"1\"", ""), 1), Some(settings)).await;
    let request = openai("o-big", "error-500", 100);
    Answer::of(bench.send("/v1/chat/completions", &[("traceparent", CALLER)], request).await).await;
    let told = collector.spans(2).await;
    for (index, told) in told.iter().enumerate() {
        assert_eq!((told.get("error.type"), told.get("http.response.status_code"), told.is_error()), ("500", "500", true));
        assert_eq!(told.get("spendkeeper.attempt"), (index + 1).to_string());
        assert_eq!(hex(&told.span.parent_span_id), "00f067aa0ba902b7");
    }
    assert!(told[0].span.links.is_empty());
    assert_eq!(told[1].span.links[0].span_id, told[0].span.span_id);
    assert!(told[1].span.start_time_unix_nano >= told[0].span.end_time_unix_nano.saturating_sub(50_000_000));
    assert_ne!(told[0].get("spendkeeper.call.id"), told[1].get("spendkeeper.call.id"));
}

#[tokio::test]
async fn a_caller_that_does_not_record_is_not_recorded_and_its_headers_pass_as_they_came() {
    let unsampled = CALLER.replace("-01", "-00");
    let (collector, settings) = Collector::grpc().await;
    let (provider, bench) = start("usd: \"1\"", settings).await;
    Answer::of(bench.send("/v1/chat/completions", &[("traceparent", &unsampled)], openai("o-big", "answer", 9)).await).await;
    Answer::of(bench.send("/v1/chat/completions", &[("traceparent", CALLER)], openai("o-big", "answer", 9)).await).await;
    assert_eq!(hex(&collector.spans(1).await[0].span.trace_id), TRACE);
    assert_eq!(provider.requests.lock().unwrap()[0].1["traceparent"], unsampled);
    // Without a collector nothing is touched at all.
    let quiet = Bench::start(&policy(&provider, &budget("usd: \"1\"", ""))).await;
    Answer::of(quiet.send("/v1/chat/completions", &[("traceparent", CALLER)], openai("o-big", "answer", 9)).await).await;
    Answer::of(quiet.send("/v1/chat/completions", &[], openai("o-big", "answer", 9)).await).await;
    let requests = provider.requests.lock().unwrap();
    assert_eq!(requests[2].1["traceparent"], CALLER);
    assert!(!requests[3].1.contains_key("traceparent"));
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_neither_slows_nor_breaks_calls() {
    // One refuses connections; the other takes them and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in ["127.0.0.1:9".to_owned(), silent.local_addr().unwrap().to_string()] {
        for wire in [Wire::Grpc, Wire::HttpProtobuf] {
            let (_provider, bench) = start("usd: \"100\"", settings(&format!("http://{address}"), wire)).await;
            let began = Instant::now();
            for _ in 0..50 {
                assert_eq!(bench.chat("answer", 10).await.status, 200);
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{address} {wire:?}: {:?}", began.elapsed());
            let stopping = Instant::now();
            bench.stop().await;
            assert!(stopping.elapsed() < Duration::from_secs(8), "{address} {wire:?}: {:?}", stopping.elapsed());
        }
    }
}

#[tokio::test]
async fn the_last_spans_are_sent_before_a_sidecar_ends() {
    let (collector, settings) = Collector::grpc().await;
    let (_provider, bench) = start("usd: \"1\"", settings).await;
    assert_eq!(bench.chat("answer", 10).await.status, 200);
    bench.stop().await;
    assert_eq!(collector.told().len(), 1);
}

#[tokio::test]
async fn what_was_asked_and_answered_is_in_a_span_where_its_owner_wants_that() {
    let (collector, settings) = Collector::grpc().await;
    let (_provider, bench) = start("usd: \"1\"", Settings { capture_content: true, ..settings }).await;
    for streamed in [false, true] {
        let mut body = openai("o-big", PROMPT, 100);
        body["stream"] = streamed.into();
        assert_eq!(Answer::of(bench.send("/v1/chat/completions", &[], body).await).await.status, 200);
    }
    until("the spans are there", || collector.told().len() >= 2).await;
    for told in collector.told() {
        let list = |key: &str| serde_json::from_str::<serde_json::Value>(told.get(key)).unwrap();
        let asked = list("gen_ai.input.messages");
        assert!(asked[0]["role"] == "user" && asked[0]["parts"][0]["content"] == PROMPT, "{asked}");
        let answered = list("gen_ai.output.messages");
        assert!(answered[0]["role"] == "assistant" && answered[0]["parts"][0]["type"] == "text", "{answered}");
        assert!(!answered[0]["parts"][0]["content"].as_str().unwrap().is_empty(), "{answered}");
    }
}
