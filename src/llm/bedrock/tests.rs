//! Wire examples as Bedrock sends them, and properties that hold for any bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::eventstream::tests::{event, frame};
use super::usage::{of_headers, tier_of_headers};
use crate::core::policy::{Capability, Protocol};
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::core::usage::Usage;
use crate::llm::{Addressed, Framing, Request, RequestError, Rewrite, StreamEnd, StreamMeter, parse, usage_of_body};

use Protocol::{BedrockConverse, BedrockInvoke};

const CLAUDE: &str = "us.anthropic.claude-haiku-4-5-20251001-v1%3A0";

fn read(protocol: Protocol, model: &str, body: &Value) -> Result<Request, RequestError> {
    parse(Addressed::to(protocol, model, false), Bytes::from(body.to_string()))
}

fn converse(body: &Value) -> Request {
    read(BedrockConverse, CLAUDE, body).unwrap()
}

fn invoke(model: &str, body: &Value) -> Request {
    read(BedrockInvoke, model, body).unwrap()
}

fn capped(request: &Request, cap: u64) -> Value {
    serde_json::from_slice(&request.rewrite(&Rewrite { max_output: Some(cap), model: Some("other".into()), include_usage: false })).unwrap()
}

// ---- Converse ----

#[test]
fn a_converse_request_says_what_it_asks_for() {
    let r = converse(&json!({
        "system": [{"text": "Be kind."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": [{"text": "What is\nthis?"}, {"image": {"format": "png", "source": {"bytes": "A".repeat(4_000)}}}]},
            {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
                {"toolUse": {"toolUseId": "t", "name": "f", "input": {"q": "secret"}}}]},
            {"role": "user", "content": [
                {"toolResult": {"toolUseId": "t", "content": [{"text": "found"}, {"json": {"n": 1}}]}},
                {"guardContent": {"text": {"text": "guarded"}}}]}
        ],
        "inferenceConfig": {"maxTokens": 700, "temperature": 0.1},
        "toolConfig": {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}, {"cachePoint": {"type": "default"}}]},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "serviceTier": {"type": "flex"}
    }));
    assert_eq!(
        (r.model(), r.max_output(), r.choices(), r.wants_usage()),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", Some(700), 1, true)
    );
    assert_eq!(r.required().iter().copied().collect::<Vec<_>>(), [Capability::Tools, Capability::Vision, Capability::Reasoning]);
    assert_eq!((r.tier(), r.surcharges().len(), r.has_media()), (AskedTier::Said(ServiceTier::Flex), 0, true));
    let prompt = r.prompt();
    assert_eq!((prompt.turns, prompt.tools, prompt.parts[prompt.last_user].as_ref()), (3, 1, "guarded"));
    for text in ["Be kind.", "What is\nthis?", "Hm.", r#"{"q":"secret"}"#, "found", r#"{"n":1}"#] {
        assert!(prompt.parts.iter().any(|part| part == text), "{text} in {:?}", prompt.parts);
    }
    let bytes = r.body().len() as u64;
    assert!(r.billable_input(200_000) > 36_000 && r.billable_input(200_000) < 36_000 + bytes, "an image is not read as base64");
}

#[test]
fn what_no_number_of_bytes_bounds_reserves_the_window() {
    let block =
        |block: Value| converse(&json!({"messages": [{"role": "user", "content": [{"text": "?"}, block]}]})).billable_input(200_000);
    for opaque in [
        json!({"document": {"format": "pdf", "name": "d", "source": {"s3Location": {"uri": "s3://b/k"}}}}),
        json!({"video": {"format": "mp4", "source": {"bytes": "AAAA"}}}),
        json!({"audio": {"format": "mp3", "source": {"bytes": "AAAA"}}}),
        json!({"text": "?", "document": {}}),
        json!({"hologram": {}}),
        json!({"toolResult": {"toolUseId": "t", "content": [{"document": {"name": "d"}}]}}),
    ] {
        assert_eq!(block(opaque.clone()), 200_000, "{opaque}");
    }
    assert!(block(json!({"searchResult": {"source": "s", "title": "t", "content": [{"text": "x"}]}})) < 2_000);
    let stored =
        read(BedrockConverse, "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aprompt%2FABC", &json!({"promptVariables": {"v": {"text": "x"}}}));
    let stored = stored.unwrap();
    assert_eq!((stored.billable_input(200_000), stored.takes_cap()), (200_000, false), "a stored prompt has caps of its own");
}

#[test]
fn what_is_billed_beyond_the_tokens_is_named() {
    let body = |member: &str, value: Value| {
        let mut body = json!({"messages": []});
        body[member] = value;
        converse(&body)
    };
    let guarded = body("guardrailConfig", json!({"guardrailIdentifier": "g", "guardrailVersion": "1"}));
    assert_eq!(guarded.surcharges(), ["a guardrail"]);
    let grounded = body("toolConfig", json!({"tools": [{"systemTool": {"name": "nova_grounding"}}]}));
    assert_eq!(grounded.surcharges(), [r#"the system tool "nova_grounding""#]);
    let optimized = body("performanceConfig", json!({"latency": "optimized"}));
    assert_eq!(
        (optimized.tier(), optimized.surcharges()),
        (AskedTier::Said(ServiceTier::Fast), &["latency-optimized inference".to_owned()][..])
    );
    assert_eq!(body("performanceConfig", json!({"latency": "standard"})).surcharges().len(), 0);
    assert_eq!(body("serviceTier", json!({"type": "priority"})).tier(), AskedTier::Said(ServiceTier::Priority));
    assert_eq!(body("serviceTier", json!({"type": "default"})).tier(), AskedTier::Said(ServiceTier::Standard));
    assert_eq!(body("additionalModelRequestFields", json!({"n": 3})).choices(), 3);
}

#[test]
fn what_may_be_cached_is_what_the_request_marks() {
    let marked = |ttl: Value| {
        let point = json!({"cachePoint": {"type": "default", "ttl": ttl}});
        converse(&json!({"messages": [{"role": "user", "content": [{"text": "x"}, point]}]})).cache_writes()
    };
    assert_eq!((marked(json!("1h")), marked(json!("5m"))), (CacheWrites::Any, CacheWrites::Short));
    assert_eq!(converse(&json!({"messages": []})).cache_writes(), CacheWrites::Never);
}

#[test]
fn a_cap_goes_where_bedrock_reads_it_and_nothing_else_changes() {
    for (body, expected) in [
        (json!({}), json!({"inferenceConfig": {"maxTokens": 9}})),
        (json!({"messages": []}), json!({"inferenceConfig": {"maxTokens": 9}, "messages": []})),
        (json!({"inferenceConfig": {}}), json!({"inferenceConfig": {"maxTokens": 9}})),
        (json!({"inferenceConfig": {"topP": 1}}), json!({"inferenceConfig": {"maxTokens": 9, "topP": 1}})),
        (json!({"inferenceConfig": {"maxTokens": null}}), json!({"inferenceConfig": {"maxTokens": 9}})),
        (json!({"inferenceConfig": {"maxTokens": 50}, "x": 1}), json!({"inferenceConfig": {"maxTokens": 9}, "x": 1})),
        (
            json!({"inferenceConfig": {"maxTokens": 50}, "additionalModelRequestFields": {"max_tokens": 64_000, "top_k": 1}}),
            json!({"inferenceConfig": {"maxTokens": 9}, "additionalModelRequestFields": {"max_tokens": 9, "top_k": 1}}),
        ),
    ] {
        assert_eq!(capped(&converse(&body), 9), expected, "{body}");
    }
}

#[test]
fn a_cap_that_may_not_hold_is_refused() {
    for (body, says) in [
        (r#"{"additionalModelRequestFields": {"max_tokens": 9}}"#, "inferenceConfig.maxTokens: is missing"),
        (r#"{"additionalModelRequestFields": {"inferenceConfig": {"max_new_tokens": 9}}}"#, "is missing"),
        (r#"{"inferenceConfig": {"max_new_tokens": 9}, "additionalModelRequestFields": {"max_tokens": 9}}"#, "is missing"),
        (r#"{"inferenceConfig": null}"#, "must be an object"),
        (r#"{"inferenceConfig": {"maxTokens": -1}}"#, "positive whole number"),
        (r#"{"inferenceConfig": {"maxTokens": 1, "maxTokens": 2}}"#, "duplicate member"),
        (r#"{"inferenceConfig": {"maxTokens": 1}, "inferenceConfig": {"maxTokens": 2}}"#, "duplicate field"),
        (r#"{"additionalModelRequestFields": {"max_tokens": 1, "max_\u0074okens": 2}}"#, "duplicate member"),
        ("[]", "not a valid request"),
    ] {
        let error = parse(Addressed::to(BedrockConverse, CLAUDE, false), Bytes::from(body)).unwrap_err().to_string();
        assert!(error.contains(says), "{body}: {error}");
    }
    let large = converse(&json!({"inferenceConfig": {"maxTokens": 5}, "additionalModelRequestFields": {"max_tokens": 64_000}}));
    assert_eq!(large.max_output(), Some(64_000), "the largest counts");
}

// ---- InvokeModel ----

#[test]
fn each_makers_body_is_read_and_capped_in_its_own_words() {
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]);
    let nova = json!([{"role": "user", "content": [{"text": "Hi."}]}]);
    for (model, body, cap, expected) in [
        (
            CLAUDE,
            json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": messages}),
            Some(50),
            json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": messages}),
        ),
        (
            "amazon.nova-lite-v1:0",
            json!({"messages": nova, "inferenceConfig": {"max_new_tokens": 50}}),
            Some(50),
            json!({"messages": nova, "inferenceConfig": {"max_new_tokens": 9}}),
        ),
        ("amazon.nova-lite-v1:0", json!({"messages": nova}), None, json!({"messages": nova, "inferenceConfig": {"maxTokens": 9}})),
        ("us.meta.llama3-3-70b-instruct-v1:0", json!({"prompt": "Hi."}), None, json!({"prompt": "Hi.", "max_gen_len": 9})),
        (
            "mistral.mistral-7b-instruct-v0:2",
            json!({"prompt": "Hi.", "max_tokens": 50}),
            Some(50),
            json!({"prompt": "Hi.", "max_tokens": 9}),
        ),
        ("cohere.command-r-v1:0", json!({"message": "Hi."}), None, json!({"message": "Hi.", "max_tokens": 9})),
        (
            "openai.gpt-oss-120b-1:0",
            json!({"messages": messages, "max_tokens": 50}),
            Some(50),
            json!({"messages": messages, "max_tokens": 9}),
        ),
        (
            "qwen.qwen3-32b-v1:0",
            json!({"messages": messages, "max_tokens": 50, "max_completion_tokens": 9_000}),
            Some(9_000),
            json!({"messages": messages, "max_tokens": 9, "max_completion_tokens": 9}),
        ),
        (
            "amazon.titan-text-express-v1",
            json!({"inputText": "Hi."}),
            None,
            json!({"inputText": "Hi.", "textGenerationConfig": {"maxTokenCount": 9}}),
        ),
        (
            "amazon.titan-text-express-v1",
            json!({"inputText": "Hi.", "textGenerationConfig": {"topP": 1}}),
            None,
            json!({"inputText": "Hi.", "textGenerationConfig": {"topP": 1, "maxTokenCount": 9}}),
        ),
    ] {
        let request = invoke(model, &body);
        assert_eq!((request.max_output(), request.takes_cap(), request.choices()), (cap, true, 1), "{model}: {body}");
        assert_eq!(capped(&request, 9), expected, "{model}");
        let prompt = request.prompt();
        assert!(prompt.parts.iter().any(|part| part == "Hi."), "{model}: {:?}", prompt.parts);
        assert!(request.billable_input(1_000_000) < 4_000, "{model}");
    }
}

#[test]
fn a_body_that_is_not_known_reserves_all_that_its_model_can_do() {
    let profile = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fabc";
    for (model, body) in [
        (profile, json!({"prompt": "Hi.", "max_tokens": 1})),
        ("stability.sd3-5-large-v1:0", json!({"prompt": "A cat."})),
        ("anthropic.claude-v2", json!({"prompt": "Hi.", "max_tokens_to_sample": 1})),
        ("meta.llama3-8b-instruct-v1:0", json!({"anthropic_version": "x", "max_tokens": 1})),
    ] {
        let request = invoke(model, &body);
        assert_eq!((request.max_output(), request.takes_cap(), request.billable_input(8_000)), (None, false, 8_000), "{model}");
    }
    let claude = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": []});
    assert_eq!(invoke(profile, &claude).max_output(), Some(50), "no other maker's body says so");
}

#[test]
fn an_embedding_has_no_output_and_pictures_in_it_are_named() {
    for (model, body) in [
        ("amazon.titan-embed-text-v2:0", json!({"inputText": "Hi."})),
        ("cohere.embed-english-v3", json!({"texts": ["Hi."], "input_type": "search_query"})),
        ("amazon.nova-2-multimodal-embeddings-v1:0", json!({"singleEmbeddingParams": {"text": {"value": "Hi."}}})),
    ] {
        let request = invoke(model, &body);
        assert_eq!((request.choices(), request.surcharges().len()), (0, 0), "{model}");
        assert_eq!(capped(&request, 9), body);
    }
    let picture = invoke("amazon.titan-embed-image-v1", &json!({"inputImage": "AAAA"}));
    assert_eq!((picture.surcharges().len(), picture.billable_input(8_000)), (1, 8_000));
}

#[test]
fn wishes_in_headers_are_heeded() {
    let mut request = invoke("meta.llama3-8b-instruct-v1:0", &json!({"prompt": "Hi."}));
    let header = |name: &str| match name {
        "x-amzn-bedrock-service-tier" => Some("priority".to_owned()),
        "x-amzn-bedrock-guardrailidentifier" => Some("g".to_owned()),
        _ => None,
    };
    request.heed_headers(&header);
    assert_eq!((request.tier(), request.surcharges()), (AskedTier::Said(ServiceTier::Priority), &["a guardrail".to_owned()][..]));
    let mut converse = converse(&json!({}));
    converse.heed_headers(&header);
    assert_eq!(converse.tier(), AskedTier::Said(ServiceTier::Standard), "Converse has them in its body");
}

// ---- usage ----

fn usage(input: u64, cached_read: u64, cache_write: u64, cache_write_long: u64, output: u64) -> Usage {
    Usage { input, cached_read, cache_write, cache_write_long, output, ..Usage::default() }
}

#[test]
fn a_cached_prompt_is_counted_once() {
    for (told, expected) in [
        (json!({"inputTokens": 4, "outputTokens": 92, "totalTokens": 96}), usage(4, 0, 0, 0, 92)),
        (
            json!({"inputTokens": 4, "outputTokens": 92, "cacheReadInputTokens": 1522, "cacheWriteInputTokens": 0, "totalTokens": 1618}),
            usage(4, 1522, 0, 0, 92),
        ),
        (json!({"inputTokens": 4, "outputTokens": 9, "cacheWriteInputTokens": 1500}), usage(4, 0, 1500, 0, 9)),
        (
            json!({"inputTokens": 4, "outputTokens": 9, "cacheWriteInputTokens": 1500,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 1000}, {"ttl": "5m", "inputTokens": 500}]}),
            usage(4, 0, 500, 1000, 9),
        ),
        // What the parts leave out costs as the dearer one.
        (
            json!({"inputTokens": 4, "outputTokens": 9, "cacheWriteInputTokens": 1500, "cacheDetails": [{"ttl": "5m", "inputTokens": 500}]}),
            usage(4, 0, 500, 1000, 9),
        ),
        // Nova's names, and both at once.
        (
            json!({"inputTokens": 4, "outputTokens": 9, "cacheReadInputTokenCount": 7, "cacheReadInputTokens": 7, "cacheWriteInputTokenCount": 0}),
            usage(4, 7, 0, 0, 9),
        ),
    ] {
        let body = json!({"output": {}, "stopReason": "end_turn", "usage": told, "metrics": {"latencyMs": 1}}).to_string();
        let reported = usage_of_body(BedrockConverse, body.as_bytes()).unwrap();
        assert_eq!((reported.usage, reported.tier), (expected, None), "{told}");
    }
    for without in [json!({}), json!({"usage": {"inputTokens": 4}}), json!({"usage": null}), json!([])] {
        assert_eq!(usage_of_body(BedrockConverse, without.to_string().as_bytes()), None, "{without}");
    }
}

#[test]
fn the_tier_and_the_model_that_answered_are_read() {
    let body = json!({"usage": {"inputTokens": 1, "outputTokens": 2}, "serviceTier": {"type": "priority"},
        "trace": {"promptRouter": {"invokedModelId": "amazon.nova-pro-v1:0"}, "guardrail": {}}});
    let reported = usage_of_body(BedrockConverse, body.to_string().as_bytes()).unwrap();
    assert_eq!((reported.tier, reported.model.as_deref()), (Some(ServiceTier::Priority), Some("amazon.nova-pro-v1:0")));
}

#[test]
fn each_makers_own_figures_are_read() {
    for (maker, body, expected) in [
        (
            "anthropic",
            json!({"type": "message", "usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7,
                "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}, "output_tokens": 9}}),
            Some(usage(3, 5, 3, 4, 9)),
        ),
        ("nova", json!({"usage": {"inputTokens": 3, "outputTokens": 9, "cacheReadInputTokenCount": 5}}), Some(usage(3, 5, 0, 0, 9))),
        (
            "meta",
            json!({"generation": "x", "prompt_token_count": 3, "generation_token_count": 9, "stop_reason": "stop"}),
            Some(usage(3, 0, 0, 0, 9)),
        ),
        (
            "openai",
            json!({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}}),
            Some(usage(3, 5, 0, 0, 9)),
        ),
        ("titan", json!({"inputTextTokenCount": 3, "results": [{"tokenCount": 4}, {"tokenCount": 5}]}), Some(usage(3, 0, 0, 0, 9))),
        ("titan embeddings", json!({"embedding": [0.1], "inputTextTokenCount": 3}), Some(usage(3, 0, 0, 0, 0))),
        ("mistral", json!({"outputs": [{"text": "x"}]}), None),
        ("cohere embeddings", json!({"embeddings": [[0.1]], "texts": ["x"]}), None),
    ] {
        let reported = usage_of_body(BedrockInvoke, body.to_string().as_bytes());
        assert_eq!(reported.as_ref().map(|r| r.usage), expected, "{maker}");
        assert!(reported.is_none_or(|r| r.tier.is_none()), "{maker}: the tier is Bedrock's to tell");
    }
}

#[test]
fn figures_in_headers_are_read_where_the_body_has_none() {
    let headers = |pairs: &'static [(&str, &str)]| move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let both = headers(&[
        ("x-amzn-bedrock-input-token-count", "3"),
        ("x-amzn-bedrock-output-token-count", "9"),
        ("x-amzn-bedrock-cache-read-input-token-count", "5"),
    ]);
    assert_eq!(of_headers(1, &both).map(|r| r.usage), Some(usage(3, 5, 0, 0, 9)));
    let input = headers(&[("x-amzn-bedrock-input-token-count", "3")]);
    assert_eq!(of_headers(1, &input), None, "output that is not told is not zero");
    assert_eq!(of_headers(0, &input).map(|r| r.usage), Some(usage(3, 0, 0, 0, 0)));
    assert_eq!(of_headers(1, &headers(&[])), None);
    assert_eq!(tier_of_headers(&headers(&[("x-amzn-bedrock-service-tier", "default")])), Some(ServiceTier::Standard));
    assert_eq!(tier_of_headers(&headers(&[])), None);
}

// ---- streams ----

fn chunk(event_of_maker: &Value) -> Vec<u8> {
    event("chunk", &json!({"bytes": STANDARD.encode(event_of_maker.to_string()), "p": "abcd"}).to_string())
}

fn meter(protocol: Protocol, wire: &[u8], cut: usize) -> StreamEnd {
    let mut meter = StreamMeter::new(protocol, Framing::AmazonEvents, false);
    let mut passed = Vec::new();
    for part in wire.chunks(cut.max(1)) {
        passed.extend_from_slice(&meter.push(Bytes::copy_from_slice(part)));
    }
    passed.extend_from_slice(&meter.flush());
    assert_eq!(passed, wire, "every byte goes through as it came");
    meter.finish()
}

fn converse_stream() -> Vec<Vec<u8>> {
    vec![
        event("messageStart", r#"{"role":"assistant"}"#),
        event("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"a \"metadata\": {\"usage\": {}}"}}"#),
        event("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        event("messageStop", r#"{"stopReason":"end_turn"}"#),
        event(
            "metadata",
            r#"{"usage":{"inputTokens":3,"outputTokens":9,"cacheReadInputTokens":5},"metrics":{"latencyMs":1},"serviceTier":{"type":"flex"}}"#,
        ),
    ]
}

fn claude_stream() -> Vec<Vec<u8>> {
    let started = json!({"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_1h_input_tokens": 7}, "output_tokens": 1});
    let metrics = json!({"inputTokenCount": 3, "outputTokenCount": 9, "invocationLatency": 1, "firstByteLatency": 1,
        "cacheReadInputTokenCount": 5, "cacheWriteInputTokenCount": 7});
    vec![
        chunk(&json!({"type": "message_start", "message": {"model": "claude", "usage": started}})),
        chunk(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}})),
        chunk(&json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}})),
        chunk(&json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})),
    ]
}

#[test]
fn a_stream_is_metered_by_its_last_event() {
    let end = meter(BedrockConverse, &converse_stream().concat(), 1 << 20);
    let reported = end.reported.unwrap();
    assert_eq!((reported.usage, reported.tier, end.complete, end.failed), (usage(3, 5, 0, 0, 9), Some(ServiceTier::Flex), true, false));
    let cut = meter(BedrockConverse, &converse_stream()[..4].concat(), 1 << 20);
    assert_eq!((cut.reported, cut.complete), (None, false));
}

#[test]
fn a_failure_within_a_stream_is_seen() {
    let exception = frame(&[(":exception-type", "modelStreamErrorException"), (":message-type", "exception")], r#"{"message":"m"}"#);
    for (protocol, start) in [(BedrockConverse, converse_stream()), (BedrockInvoke, claude_stream())] {
        let end = meter(protocol, &[&start[..2].concat(), &exception[..]].concat(), 1 << 20);
        assert_eq!((end.reported, end.complete, end.failed), (None, false, true), "{protocol:?}");
    }
}

#[test]
fn the_makers_figures_and_bedrocks_are_never_added() {
    let end = meter(BedrockInvoke, &claude_stream().concat(), 1 << 20);
    let reported = end.reported.unwrap();
    assert_eq!(
        (reported.usage, reported.tier, end.complete),
        (usage(3, 5, 0, 7, 9), None, true),
        "only the maker tells cache writes apart"
    );
    let metrics = |more: Value| {
        let mut last =
            json!({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 9, "cacheReadInputTokenCount": 5}});
        last.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        last
    };
    for (maker, events) in [
        (
            "meta",
            vec![
                json!({"generation": "x", "prompt_token_count": 3, "generation_token_count": 1}),
                metrics(json!({"generation_token_count": 9})),
            ],
        ),
        ("mistral", vec![json!({"outputs": [{"text": "x"}]}), metrics(json!({"outputs": []}))]),
        (
            "nova",
            vec![
                json!({"contentBlockDelta": {}}),
                metrics(json!({"metadata": {"usage": {"inputTokens": 3, "outputTokens": 9, "cacheReadInputTokenCount": 5}, "trace": {}}})),
            ],
        ),
        (
            "openai",
            vec![
                json!({"choices": [{}]}),
                metrics(
                    json!({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}}),
                ),
            ],
        ),
    ] {
        let end = meter(BedrockInvoke, &events.iter().map(chunk).collect::<Vec<_>>().concat(), 1 << 20);
        assert_eq!((end.reported.map(|r| r.usage), end.complete), (Some(usage(3, 5, 0, 0, 9)), true), "{maker}");
    }
}

#[test]
fn bytes_that_are_no_frames_go_through_and_are_charged_as_reserved() {
    let mut broken = converse_stream();
    broken[1][8] ^= 1;
    let end = meter(BedrockConverse, &broken.concat(), 1 << 20);
    assert_eq!((end.reported, end.complete), (None, false));
}

proptest! {
    #[test]
    fn how_the_network_cuts_a_stream_changes_nothing(cut in 1_usize..300) {
        for (protocol, wire) in [(BedrockConverse, converse_stream().concat()), (BedrockInvoke, claude_stream().concat())] {
            prop_assert_eq!(meter(protocol, &wire, cut), meter(protocol, &wire, 1 << 20));
        }
    }

    #[test]
    fn the_meters_add_up_to_what_the_provider_counts(input in 0_u64..9_999, read in 0_u64..9_999, short in 0_u64..9_999, long in 0_u64..9_999, rest in 0_u64..9, output in 0_u64..9_999) {
        let details = json!([{"ttl": "1h", "inputTokens": long}, {"ttl": "5m", "inputTokens": short}]);
        let told = json!({"usage": {"inputTokens": input, "outputTokens": output, "cacheReadInputTokens": read,
            "cacheWriteInputTokens": short + long + rest, "cacheDetails": details}});
        let reported = usage_of_body(BedrockConverse, told.to_string().as_bytes()).unwrap();
        prop_assert_eq!(reported.usage.total(), input + read + short + long + rest + output);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}:,\"a-z0-9]{0,60}") {
        for protocol in [BedrockConverse, BedrockInvoke] {
            let _ = usage_of_body(protocol, &bytes);
            let _ = usage_of_body(protocol, text.as_bytes());
            let _ = meter(protocol, &bytes, 7);
            let _ = meter(protocol, &event("chunk", &text), 1 << 20);
            let _ = meter(protocol, &event("metadata", &text), 1 << 20);
            for model in [CLAUDE, "amazon.nova-lite-v1:0", "amazon.titan-text-lite-v1", "meta.llama3-8b", "cohere.embed-v4:0", "%ff"] {
                let _ = parse(Addressed::to(protocol, model, true), Bytes::from(text.clone()));
            }
        }
    }
}
