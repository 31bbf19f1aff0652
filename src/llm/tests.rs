//! Wire examples as the providers send them, and properties that hold for any bytes.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::core::policy::{Capability, Protocol};
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::core::usage::Usage;

use Protocol::{AnthropicMessages, OpenAIChat};

fn request(protocol: Protocol, body: &Value) -> Request {
    read(protocol, Bytes::from(body.to_string())).expect("a valid request")
}

fn read(protocol: Protocol, body: impl Into<Bytes>) -> Result<Request, RequestError> {
    parse(Addressed::plain(protocol), body.into())
}

// ---- requests ----

#[test]
fn an_openai_request_says_what_it_asks_for() {
    let r = request(
        OpenAIChat,
        &json!({
            "model": "gpt-5.4", "n": 2, "stream": true, "max_tokens": 7, "max_completion_tokens": 9,
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "What is\nthis?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "42"}
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "response_format": {"type": "json_schema", "json_schema": {}}
        }),
    );
    assert_eq!((r.model(), r.stream(), r.max_output(), r.choices(), r.wants_usage()), ("gpt-5.4", true, Some(9), 2, false));
    assert_eq!(r.required().iter().copied().collect::<Vec<_>>(), [Capability::Tools, Capability::Vision, Capability::JsonSchema]);
    let prompt = r.prompt();
    assert_eq!(prompt.parts[prompt.last_user], "What is\nthis?");
    assert_eq!((prompt.turns, prompt.tools), (4, 1));
    assert!(prompt.parts.iter().any(|p| p == "42"));
}

#[test]
fn what_decides_the_price_beside_the_tokens_is_read() {
    let asked = |protocol, member: &str, value: serde_json::Value| {
        let mut body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]});
        body[member] = value;
        let request = request(protocol, &body);
        (request.tier(), request.web_searches(), request.has_media())
    };
    let said = AskedTier::Said;
    let table = [
        (OpenAIChat, "service_tier", json!("priority"), (said(ServiceTier::Priority), 0, false)),
        (OpenAIChat, "service_tier", json!("flex"), (said(ServiceTier::Flex), 0, false)),
        (OpenAIChat, "service_tier", json!("default"), (said(ServiceTier::Standard), 0, false)),
        (OpenAIChat, "service_tier", json!("auto"), (AskedTier::Unsaid, 0, false)),
        (OpenAIChat, "web_search_options", json!({}), (AskedTier::Unsaid, 1, false)),
        (OpenAIChat, "web_search_options", json!(null), (AskedTier::Unsaid, 0, false)),
        (OpenAIChat, "audio", json!({"voice": "alloy"}), (AskedTier::Unsaid, 0, true)),
        (AnthropicMessages, "speed", json!("fast"), (said(ServiceTier::Fast), 0, false)),
        (AnthropicMessages, "speed", json!("standard"), (said(ServiceTier::Standard), 0, false)),
        (
            AnthropicMessages,
            "tools",
            json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]),
            (said(ServiceTier::Standard), 3, false),
        ),
    ];
    for (protocol, member, value, expected) in table {
        assert_eq!(asked(protocol, member, value.clone()), expected, "{member}: {value}");
    }
}

#[test]
fn a_cache_is_paid_for_where_a_request_may_ask_for_it() {
    for (content, expected) in [
        (r#""Hi.""#, CacheWrites::Never),
        (r#"[{"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}}]"#, CacheWrites::Short),
        (r#"[{"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]"#, CacheWrites::Any),
        (r#"[{"type": "text", "text": "Hi.", "cache\u005fcontrol": {"type": "ephemeral"}}]"#, CacheWrites::Any),
    ] {
        let body = format!(r#"{{"model": "m", "max_tokens": 9, "messages": [{{"role": "user", "content": {content}}}]}}"#);
        assert_eq!(read(AnthropicMessages, body).expect("a valid request").cache_writes(), expected, "{content}");
    }
}

#[test]
fn a_tool_at_the_provider_reads_the_window_once_more_for_each_use() {
    let tools = json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]);
    let searching = request(AnthropicMessages, &json!({"model": "m", "max_tokens": 9, "messages": [], "tools": tools}));
    assert_eq!(searching.billable_input(200_000), 4 * 200_000);
    let document = json!([{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}]}]);
    let opaque = request(AnthropicMessages, &json!({"model": "m", "max_tokens": 9, "messages": document}));
    assert_eq!(opaque.billable_input(200_000), 200_000);
}

#[test]
fn an_anthropic_request_says_what_it_asks_for() {
    let r = request(
        AnthropicMessages,
        &json!({
            "model": "claude-opus-5", "max_tokens": 100, "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "Look it up."},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "tool_use", "id": "t", "name": "f", "input": {"q": "secret"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "found"}]}]}
            ],
            "tools": [{"type": "web_search_20250305", "name": "web_search"}], "thinking": {"type": "enabled", "budget_tokens": 50}
        }),
    );
    assert_eq!((r.model(), r.max_output(), r.stream()), ("claude-opus-5", Some(100), false));
    assert_eq!(r.surcharges(), ["web_search_20250305"]);
    assert!(r.required().contains(&Capability::Reasoning));
    let prompt = r.prompt();
    assert_eq!(prompt.parts[prompt.last_user], "Look it up.");
    for text in ["Be kind.", "Hm.", "found", "{\"q\":\"secret\"}"] {
        assert!(prompt.parts.iter().any(|p| p == text), "{text} in {:?}", prompt.parts);
    }
}

#[test]
fn a_bad_request_says_what_is_wrong() {
    for (protocol, body, says) in [
        (OpenAIChat, "[]", "not a valid request"),
        (OpenAIChat, "{\"model\": \"m\", \"messages\": 5}", "messages"),
        (OpenAIChat, "{\"messages\": []}", "model"),
        (OpenAIChat, "{\"model\": \"m\", \"model\": \"dearer\"}", "duplicate"),
        (OpenAIChat, "{\"model\": \"m\", \"max_tokens\": -1}", "max_tokens"),
        (OpenAIChat, "{\"model\": \"m\", \"n\": 0}", "n: "),
        (AnthropicMessages, "{\"model\": \"m\", \"messages\": []}", "max_tokens"),
    ] {
        let error = read(protocol, body).expect_err(body).to_string();
        assert!(error.contains(says) || says == "messages" && error.contains("invalid type"), "{body}: {error}");
    }
    assert!(read(OpenAIChat, &b"{\"model\": \"\xff\"}"[..]).is_err());
}

#[test]
fn an_image_counts_as_an_image_and_a_document_as_the_worst() {
    let data = "A".repeat(400_000);
    let image = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": data}}]}]});
    let bound = request(AnthropicMessages, &image).input_bound();
    assert!((4_784..10_000).contains(&bound), "{bound}");
    let document = json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}]}]});
    assert!(request(AnthropicMessages, &document).input_bound() >= 1_000_000);
}

#[test]
fn a_rewrite_that_changes_nothing_is_the_same_memory() {
    let r = request(OpenAIChat, &json!({"model": "m", "max_tokens": 5, "messages": []}));
    let same = r.rewrite(&Rewrite { model: Some("m".into()), max_output: Some(5), include_usage: false });
    assert_eq!(same.as_ptr(), r.body().as_ptr());
}

#[test]
fn a_rewrite_leaves_everything_else_as_it_was_written() {
    let body = "{ \"temperature\" : 1.50e0, \"model\":\"a\\u0062\",\"messages\":[ ], \"x\":{\"model\":\"z\"} }";
    let r = read(OpenAIChat, body).expect("a valid request");
    assert_eq!(r.model(), "ab");
    let changed = r.rewrite(&Rewrite { model: Some("\"q\"".into()), max_output: Some(3), include_usage: true });
    let expected = "{\"max_completion_tokens\":3,\"stream_options\":{\"include_usage\":true}, \"temperature\" : 1.50e0, \"model\":\"\\\"q\\\"\",\"messages\":[ ], \"x\":{\"model\":\"z\"} }";
    assert_eq!(std::str::from_utf8(&changed), Ok(expected));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
        ]
    })
}

proptest! {
    #[test]
    fn a_rewrite_changes_only_its_members(extra in proptest::collection::btree_map("x_[a-z]{1,6}", any_json(), 0..5), text in ".{0,40}", cap in 1..1_000_u64) {
        let mut body = json!({"model": "m", "max_tokens": 50, "stream_options": {"other": 1}, "messages": [{"role": "user", "content": text}]});
        for (key, value) in extra {
            body[key] = value;
        }
        let r = request(OpenAIChat, &body);
        let changed = r.rewrite(&Rewrite { model: Some("new".into()), max_output: Some(cap), include_usage: true });
        let mut expected = body;
        expected["model"] = json!("new");
        expected["max_tokens"] = json!(cap);
        expected["stream_options"] = json!({"other": 1, "include_usage": true});
        prop_assert_eq!(serde_json::from_slice::<Value>(&changed).expect("JSON"), expected);
    }

    #[test]
    fn no_text_has_more_bytes_than_the_bound(texts in proptest::collection::vec(".{0,60}", 1..5)) {
        let messages: Vec<_> = texts.iter().map(|t| json!({"role": "user", "content": t})).collect();
        let r = request(OpenAIChat, &json!({"model": "m", "messages": messages}));
        let bytes: usize = r.prompt().parts.iter().map(|p| p.len()).sum();
        prop_assert!(r.input_bound() >= bytes as u64);
        prop_assert_eq!(r.prompt().parts.iter().map(|p| p.to_string()).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for protocol in [OpenAIChat, AnthropicMessages] {
            let _ = read(protocol, body.clone());
            let _ = usage_of_body(protocol, &body);
            let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, false);
            prop_assert_eq!(meter.push(Bytes::from(body.clone())), body.clone());
            let mut hiding = StreamMeter::new(protocol, Framing::ServerSentEvents, true);
            let mut seen = hiding.push(Bytes::from(body.clone())).to_vec();
            seen.extend_from_slice(&hiding.flush());
            prop_assert_eq!(seen, body.clone());
        }
    }
}

// ---- usage ----

#[test]
fn openai_input_includes_the_cache_and_anthropic_input_does_not() {
    let openai = json!({"model": "gpt-5.4-2026-03-05", "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10}, "completion_tokens_details": {"reasoning_tokens": 15}}});
    let reported = usage_of_body(OpenAIChat, openai.to_string().as_bytes()).expect("usage");
    assert_eq!(reported.usage, Usage { input: 30, cached_read: 60, cache_write: 10, cache_write_long: 0, output: 20, ..Usage::default() });
    assert_eq!(reported.model.as_deref(), Some("gpt-5.4-2026-03-05"));

    let anthropic = json!({"usage": {"input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6}, "output_tokens": 20}});
    let reported = usage_of_body(AnthropicMessages, anthropic.to_string().as_bytes()).expect("usage");
    assert_eq!(reported.usage, Usage { input: 30, cached_read: 60, cache_write: 4, cache_write_long: 6, output: 20, ..Usage::default() });
}

#[test]
fn missing_usage_is_not_zero_usage() {
    assert_eq!(usage_of_body(OpenAIChat, b"{}"), None);
    assert_eq!(usage_of_body(OpenAIChat, br#"{"usage": {}}"#), None);
    assert_eq!(usage_of_body(AnthropicMessages, br#"{"usage": {"input_tokens": 3}}"#), None);
    assert_eq!(
        usage_of_body(OpenAIChat, br#"{"usage": {"prompt_tokens": 0, "completion_tokens": 0}}"#).map(|r| r.usage),
        Some(Usage::default())
    );
}

// ---- streams ----

const OPENAI_STREAM: &str = "data: {\"id\":\"c\",\"model\":\"gpt-5.4\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüezi\"}}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n\
data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":3,\"total_tokens\":14}}\n\n\
data: [DONE]\n\n";

const ANTHROPIC_STREAM: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-5\",\"usage\":{\"input_tokens\":9,\"cache_creation_input_tokens\":5,\"cache_creation\":{\"ephemeral_5m_input_tokens\":5,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":1}}}\n\n\
event: ping\ndata: {\"type\":\"ping\"}\n\n\
event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n\
event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":8,\"output_tokens\":40}}\n\n\
event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn through(protocol: Protocol, hide: bool, chunks: &[&[u8]]) -> (Vec<u8>, StreamEnd) {
    let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, hide);
    let mut seen = Vec::new();
    for chunk in chunks {
        seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
    }
    seen.extend_from_slice(&meter.flush());
    (seen, meter.finish())
}

#[test]
fn a_caller_that_did_not_ask_for_usage_does_not_see_it() {
    let (seen, end) = through(OpenAIChat, true, &[OPENAI_STREAM.as_bytes()]);
    let seen = String::from_utf8(seen).expect("text");
    assert!(!seen.contains("prompt_tokens") && seen.contains("Grüezi") && seen.ends_with("data: [DONE]\n\n"), "{seen}");
    assert!(!seen.contains("usage"), "nor the null that holds its place: {seen}");
    let reported = end.reported.expect("figures");
    assert_eq!(reported.usage, Usage { input: 11, output: 3, ..Usage::default() });
    assert_eq!((end.complete, reported.model.as_deref()), (true, Some("gpt-5.4")));
    let (asked, _) = through(OpenAIChat, false, &[OPENAI_STREAM.as_bytes()]);
    assert_eq!(asked, OPENAI_STREAM.as_bytes());
}

#[test]
fn anthropics_last_figures_hold_and_unsplit_cache_writes_cost_the_dearer_price() {
    let (_, end) = through(AnthropicMessages, false, &[ANTHROPIC_STREAM.as_bytes()]);
    let usage = end.reported.expect("figures").usage;
    assert_eq!(usage, Usage { input: 12, cache_write: 5, cache_write_long: 3, output: 40, ..Usage::default() });
    assert!(end.complete);
}

#[test]
fn a_stream_that_breaks_off_has_no_final_usage() {
    let cut = OPENAI_STREAM.find("data: {\"id\":\"c\",\"choices\":[],").expect("the usage chunk");
    let (_, end) = through(OpenAIChat, true, &[&OPENAI_STREAM.as_bytes()[..cut + 20]]);
    assert_eq!((end.reported, end.complete), (None, false));
    let cut = ANTHROPIC_STREAM.find("event: message_delta").expect("the last figures");
    let (_, end) = through(AnthropicMessages, false, &[&ANTHROPIC_STREAM.as_bytes()[..cut]]);
    assert_eq!((end.reported, end.complete), (None, false));
}

proptest! {
    #[test]
    fn how_the_network_cuts_a_stream_changes_nothing(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12), crlf in any::<bool>()) {
        for (protocol, text, hide) in [(OpenAIChat, OPENAI_STREAM, true), (OpenAIChat, OPENAI_STREAM, false), (AnthropicMessages, ANTHROPIC_STREAM, false)] {
            let text = if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
            let whole = through(protocol, hide, &[text.as_bytes()]);
            let mut at: Vec<_> = cuts.iter().map(|i| i.index(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(through(protocol, hide, &chunks), whole);
        }
    }
}

#[test]
fn an_endless_event_passes_through_unread() {
    let line = vec![b'x'; 3 << 20];
    let (seen, end) = through(OpenAIChat, true, &[b"data: ", &line[..2 << 20], &line[2 << 20..], b"\n\ndata: [DONE]\n\n"]);
    assert_eq!(seen.len(), 6 + line.len() + 16);
    assert_eq!(end.reported, None);
}

// ---- errors ----

#[test]
fn an_error_has_the_providers_shape() {
    let of =
        |protocol| serde_json::from_slice::<Value>(&error_answer(protocol, ErrorKind::BudgetExceeded, "no \"money\"").body).expect("JSON");
    assert_eq!(
        of(OpenAIChat),
        json!({"error": {"message": "no \"money\"", "type": "insufficient_quota", "param": null, "code": "spendkeeper_budget_exceeded"}})
    );
    assert_eq!(of(AnthropicMessages), json!({"type": "error", "error": {"type": "rate_limit_error", "message": "no \"money\""}}));
}
