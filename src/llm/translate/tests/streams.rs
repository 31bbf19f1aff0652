//! What becomes of streamed answers.

use super::*;
use crate::llm::bedrock::eventstream;
use crate::llm::framing::Framing;
use crate::llm::stream::StreamMeter;

const THINKS: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Two towns."}}"#;

/// A stream as its provider sends it: reasoning, text, two calls one after the other, the second without arguments.
fn recorded(upstream: Protocol) -> Vec<&'static str> {
    match upstream {
        AnthropicMessages => vec![
            r#"{"type":"message_start","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-haiku-4-5","content":[],"stop_reason":null,"usage":{"input_tokens":20,"cache_read_input_tokens":300,"cache_creation_input_tokens":0,"output_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            THINKS,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"I look.\n"}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_01","name":"weather","input":{}}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"town\": "}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"\"Ulm\"}"}}"#,
            r#"{"type":"content_block_stop","index":2}"#,
            r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_02","name":"now","input":{}}}"#,
            r#"{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}"#,
            r#"{"type":"content_block_stop","index":3}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":50,"output_tokens_details":{"thinking_tokens":7}}}"#,
            r#"{"type":"message_stop"}"#,
        ],
        GeminiGenerate => vec![
            r#"{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":"Two towns.","thought":true}]}}],"usageMetadata":{"promptTokenCount":320,"totalTokenCount":327,"thoughtsTokenCount":7},"modelVersion":"gemini-2.5-flash","responseId":"r-1"}"#,
            r#"{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":"I look.\n"}]}}],"modelVersion":"gemini-2.5-flash","responseId":"r-1"}"#,
            r#"{"candidates":[{"index":0,"content":{"role":"model","parts":[{"functionCall":{"id":"fc-1","name":"weather","args":{"town":"Ulm"}},"thoughtSignature":"c2ln"},{"functionCall":{"name":"now","args":{}}}]}}]}"#,
            r#"{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":""}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":320,"cachedContentTokenCount":300,"candidatesTokenCount":43,"thoughtsTokenCount":7,"totalTokenCount":370}}"#,
        ],
        BedrockConverse => vec![
            r#"{"messageStart":{"role":"assistant"}}"#,
            r#"{"contentBlockDelta":{"contentBlockIndex":0,"delta":{"reasoningContent":{"text":"Two towns."}}}}"#,
            r#"{"contentBlockDelta":{"contentBlockIndex":0,"delta":{"reasoningContent":{"signature":"c2ln"}}}}"#,
            r#"{"contentBlockStop":{"contentBlockIndex":0}}"#,
            r#"{"contentBlockDelta":{"contentBlockIndex":1,"delta":{"text":"I look.\n"}}}"#,
            r#"{"contentBlockStop":{"contentBlockIndex":1}}"#,
            r#"{"contentBlockStart":{"contentBlockIndex":2,"start":{"toolUse":{"toolUseId":"tooluse_1","name":"weather"}}}}"#,
            r#"{"contentBlockDelta":{"contentBlockIndex":2,"delta":{"toolUse":{"input":"{\"town\": "}}}}"#,
            r#"{"contentBlockDelta":{"contentBlockIndex":2,"delta":{"toolUse":{"input":"\"Ulm\"}"}}}}"#,
            r#"{"contentBlockStop":{"contentBlockIndex":2}}"#,
            r#"{"contentBlockStart":{"contentBlockIndex":3,"start":{"toolUse":{"toolUseId":"tooluse_2","name":"now"}}}}"#,
            r#"{"contentBlockStop":{"contentBlockIndex":3}}"#,
            r#"{"messageStop":{"stopReason":"tool_use"}}"#,
            r#"{"metadata":{"usage":{"inputTokens":20,"outputTokens":50,"totalTokens":370,"cacheReadInputTokens":300},"metrics":{"latencyMs":5}}}"#,
        ],
        _ => vec![
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5-nano","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"reasoning_content":"Two towns."}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"I look.\n"}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":""}}]}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"town\": "}}]}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Ulm\"}"}}]}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"now","arguments":"{}"}}]}}]}"#,
            r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":null}"#,
            r#"{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":320,"completion_tokens":50,"total_tokens":370,"prompt_tokens_details":{"cached_tokens":300},"completion_tokens_details":{"reasoning_tokens":7}}}"#,
            "[DONE]",
        ],
    }
}

/// An error within a stream, as its provider sends it.
fn error(upstream: Protocol) -> &'static str {
    match upstream {
        AnthropicMessages => r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        GeminiGenerate => r#"{"error":{"code":503,"message":"Overloaded","status":"UNAVAILABLE"}}"#,
        BedrockConverse => r#"{"serviceUnavailableException":{"message":"Overloaded"}}"#,
        _ => r#"{"error":{"message":"Overloaded","type":"server_error","code":null}}"#,
    }
}

#[test]
fn streams_say_the_same_in_the_callers_format() {
    for (direction, asked, upstream) in DIRECTIONS {
        insta::assert_snapshot!(format!("{direction}__stream"), streamed(&translation(asked, upstream), &recorded(upstream)));
    }
}

#[test]
fn an_error_within_a_stream_is_passed_on_and_ends_it() {
    for (direction, asked, upstream) in DIRECTIONS {
        let mut sent = recorded(upstream);
        sent[2] = error(upstream);
        let shown = streamed(&translation(asked, upstream), &sent);
        insta::assert_snapshot!(format!("{direction}__stream_error"), shown);
        assert!(!shown.contains("[DONE]") && !shown.contains("message_stop"), "{direction}");
    }
}

#[test]
fn a_stream_that_breaks_off_does_not_end_as_if_it_were_whole() {
    for (direction, asked, upstream) in DIRECTIONS {
        let sent = recorded(upstream);
        // Converse's message is whole before its figures come, Gemini's with the last event.
        let whole = if upstream == BedrockConverse { sent.len() - 1 } else { sent.len() };
        for end in 0..whole {
            let shown = streamed(&translation(asked, upstream), &sent[..end]);
            assert!(!shown.contains("[DONE]") && !shown.contains("message_stop"), "{direction} {end}: {shown}");
            assert!(shown.contains("broke off before its end"), "{direction} {end}: {shown}");
        }
    }
}

#[test]
fn usage_is_shown_to_who_asked_for_it() {
    for (direction, asked, upstream) in DIRECTIONS.into_iter().filter(|d| d.1 == OpenAIChat) {
        for wants_usage in [false, true] {
            let translation = Translation { wants_usage, ..translation(asked, upstream) };
            let shown = streamed(&translation, &recorded(upstream));
            assert_eq!(shown.contains("\"usage\""), wants_usage, "{direction}");
            assert_eq!(shown.contains("prompt_tokens"), wants_usage, "{direction}");
            assert!(shown.ends_with("data: [DONE]\n\n"), "{direction}");
        }
    }
}

/// Types and indexes of the events of a message.
fn outline(stream: &str) -> Vec<String> {
    let outline = |event: &Value| match event.get("index") {
        Some(index) => format!("{} {index}", event["type"].as_str().unwrap()),
        None => event["type"].as_str().unwrap().to_owned(),
    };
    events(stream).iter().map(outline).collect()
}

fn chunk(delta: Value, finish_reason: Value) -> String {
    json!({"id": "c", "model": "g", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}).to_string()
}

fn call(index: u64, id: Value, name: Value, arguments: &str) -> String {
    chunk(json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}), json!(null))
}

#[test]
fn blocks_of_a_message_come_one_after_the_other_however_its_calls_interleave() {
    let sent = [
        chunk(json!({"content": "Well."}), json!(null)),
        call(0, json!("a"), json!("f"), "{\"x\":"),
        call(1, json!("b"), json!("g"), "{\"y\":"),
        call(0, json!(null), json!(null), "1}"),
        chunk(json!({"content": "So."}), json!(null)),
        call(1, json!(null), json!(null), "2}"),
        chunk(json!({}), json!("stop")),
        "[DONE]".to_owned(),
    ];
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    let shown = streamed(&translation(AnthropicMessages, OpenAIChat), &sent);
    let mut open = None;
    let mut parts = std::collections::BTreeMap::<u64, String>::new();
    for event in events(&shown) {
        let index = event["index"].as_u64();
        match event["type"].as_str().unwrap() {
            "content_block_start" => assert_eq!(std::mem::replace(&mut open, index), None, "{shown}"),
            "content_block_stop" => assert_eq!(open.take(), index, "{shown}"),
            "content_block_delta" => {
                assert_eq!(open, index, "{shown}");
                let delta = &event["delta"];
                let text = delta["text"].as_str().or(delta["partial_json"].as_str()).unwrap();
                parts.entry(index.unwrap()).or_default().push_str(text);
            }
            _ => {}
        }
    }
    assert_eq!(parts.into_values().collect::<Vec<_>>(), ["Well.", "{\"x\":1}", "{\"y\":2}", "So."]);
    assert!(shown.contains("\"stop_reason\":\"tool_use\""), "calls were made: {shown}");
}

#[test]
fn the_first_call_streams_and_an_id_or_a_name_that_is_missing_is_waited_for_or_made() {
    let mut translator = translation(AnthropicMessages, OpenAIChat).stream();
    let mut shown = |event: String| {
        let mut out = BytesMut::new();
        translator.event(event.as_bytes(), &mut out);
        outline(std::str::from_utf8(&out).unwrap())
    };
    assert_eq!(shown(call(0, json!(null), json!(null), "{")), ["message_start"]);
    assert_eq!(shown(call(0, json!(null), json!("f"), "")), ["content_block_start 0", "content_block_delta 0"]);
    assert_eq!(shown(call(0, json!(null), json!(null), "}")), ["content_block_delta 0"]);
    assert_eq!(shown(call(1, json!(null), json!("f"), "{}")), Vec::<String>::new());
    assert_eq!(shown(chunk(json!({}), json!("tool_calls"))), Vec::<String>::new());
    let end =
        ["content_block_stop 0", "content_block_start 1", "content_block_delta 1", "content_block_stop 1", "message_delta", "message_stop"];
    assert_eq!(shown("[DONE]".to_owned()), end);
}

#[test]
fn what_a_server_says_of_the_prompt_is_no_beginning_of_an_answer() {
    let found = r#"{"id":"","model":"","choices":[],"prompt_filter_results":[]}"#;
    let said = chunk(json!({"content": "Hi."}), json!("stop"));
    let shown = streamed(&translation(AnthropicMessages, OpenAIChat), &[found, &said, "[DONE]"]);
    let first = &events(&shown)[0];
    assert_eq!((&first["type"], &first["message"]["id"], &first["message"]["model"]), (&json!("message_start"), &json!("c"), &json!("g")));
}

/// A stream as it is on the wire.
fn framed(upstream: Protocol, events: &[&str]) -> (Framing, Vec<u8>) {
    match upstream {
        BedrockConverse => {
            let frame = |event: &&str| {
                let event: serde_json::Map<String, Value> = serde_json::from_str(event).unwrap();
                let (name, payload) = event.into_iter().next().unwrap();
                eventstream::tests::event(name.leak(), &payload.to_string())
            };
            (Framing::AmazonEvents, events.iter().flat_map(frame).collect())
        }
        AnthropicMessages => {
            let event = |event: &&str| {
                format!("event: {}\ndata: {event}\n\n", serde_json::from_str::<Value>(event).unwrap()["type"].as_str().unwrap())
            };
            (Framing::ServerSentEvents, events.iter().map(event).collect::<String>().into_bytes())
        }
        // Google ends its lines the other way.
        GeminiGenerate => (Framing::ServerSentEvents, events.iter().map(|e| format!("data: {e}\r\n\r\n")).collect::<String>().into_bytes()),
        _ => (Framing::ServerSentEvents, events.iter().map(|e| format!("data: {e}\n\n")).collect::<String>().into_bytes()),
    }
}

#[test]
fn however_the_network_cuts_a_stream_its_caller_gets_the_same_and_it_is_metered() {
    for (direction, asked, upstream) in DIRECTIONS {
        let translation = translation(asked, upstream);
        let whole = streamed(&translation, &recorded(upstream));
        let (framing, wire) = framed(upstream, &recorded(upstream));
        for length in [1, 7, 64, wire.len()] {
            let mut meter = StreamMeter::translating(upstream, framing, translation.stream());
            let mut shown = Vec::new();
            for piece in wire.chunks(length) {
                shown.extend_from_slice(&meter.push(Bytes::copy_from_slice(piece)));
            }
            shown.extend_from_slice(&meter.flush());
            assert_eq!(std::str::from_utf8(&shown).unwrap(), whole, "{direction}, {length} bytes at a time");
            let end = meter.finish();
            let usage = end.reported.expect("figures").usage;
            assert_eq!((usage.total_input(), usage.total_output(), end.failed), (320, 50, false), "{direction}");
        }
    }
}

#[test]
fn what_waits_in_a_stream_is_bounded() {
    let mut translator = translation(AnthropicMessages, OpenAIChat).stream();
    let mut out = BytesMut::new();
    let long = "x".repeat(1 << 20);
    translator.event(call(0, json!("a"), json!("f"), "{}").as_bytes(), &mut out);
    for _ in 0..32 {
        translator.event(call(1, json!("b"), json!("g"), &long).as_bytes(), &mut out);
    }
    assert!(std::str::from_utf8(&out).unwrap().contains("more calls than can be kept"));
    assert!(out.len() < 1 << 20);
}
