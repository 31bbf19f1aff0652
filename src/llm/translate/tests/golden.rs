//! What becomes of requests, each as its provider gets it.

use serde_json::{Value, json};

use super::*;
use crate::llm::rewrite::Rewrite;

const PIXEL: &str = "iVBORw0KGgo=";

/// Requests to Chat Completions that all of its directions can say.
fn chat_requests() -> Vec<(&'static str, Value)> {
    let weather = json!({"type": "function", "function": {
        "name": "weather", "description": "The weather in a town.", "strict": true,
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"], "additionalProperties": false}
    }});
    let schema = json!({"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "integer"}}});
    vec![
        (
            "plain",
            json!({
                "model": "auto", "messages": [{"role": "user", "content": "Say hello."}],
                "temperature": 0.5, "top_p": 0.9, "stop": ["END", "STOP"], "max_completion_tokens": 200, "user": "u-1",
                "n": 1, "logprobs": false, "store": false, "metadata": {"a": "b"}, "service_tier": "auto", "seed": null
            }),
        ),
        (
            "system",
            json!({
                "model": "auto",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                    {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
                    {"role": "user", "content": "Three."},
                    {"role": "assistant", "content": "Four."},
                    {"role": "user", "content": "Five?"}
                ]
            }),
        ),
        (
            "tools",
            json!({
                "model": "auto", "max_tokens": 50, "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "tools": [weather, {"type": "function", "function": {"name": "now"}}],
                "messages": [
                    {"role": "user", "content": "How is it in Ulm and Bonn?"},
                    {"role": "assistant", "content": "", "refusal": null, "annotations": [], "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"town\": \"Ulm\"}"}},
                        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}}
                    ]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
                    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]},
                    {"role": "user", "content": "And?"}
                ]
            }),
        ),
        (
            "images",
            json!({
                "model": "auto",
                "messages": [{"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{PIXEL}"), "detail": "low"}},
                    {"type": "text", "text": "What is it?"}
                ]}]
            }),
        ),
        (
            "schema",
            json!({
                "model": "auto", "messages": [{"role": "user", "content": "Six times seven?"}], "reasoning_effort": "low",
                "response_format": {"type": "json_schema", "json_schema": {"name": "sum", "description": "A sum.", "strict": true, "schema": schema}}
            }),
        ),
        (
            "stream",
            json!({
                "model": "auto", "messages": [{"role": "user", "content": "Say hello."}],
                "stream": true, "stream_options": {"include_usage": true}
            }),
        ),
    ]
}

fn messages_requests() -> Vec<(&'static str, Value)> {
    let hint = json!({"type": "ephemeral"});
    vec![
        (
            "plain",
            json!({
                "model": "auto", "max_tokens": 200, "messages": [{"role": "user", "content": "Say hello."}],
                "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["END"], "metadata": {"user_id": "u-1"}, "service_tier": "standard_only"
            }),
        ),
        (
            "system",
            json!({
                "model": "auto", "max_tokens": 200,
                "system": [{"type": "text", "text": "Be brief.", "cache_control": hint}, {"type": "text", "text": "Be kind.", "citations": null}],
                "messages": [
                    {"role": "user", "content": "One."},
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Two."}, {"type": "redacted_thinking", "data": "x"}
                    ]},
                    {"role": "user", "content": [{"type": "text", "text": "Three?", "cache_control": hint}]}
                ]
            }),
        ),
        (
            "tools",
            json!({
                "model": "auto", "max_tokens": 50, "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
                "tools": [
                    {"name": "weather", "description": "The weather in a town.", "strict": true, "cache_control": hint, "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}}},
                    {"type": "custom", "name": "now", "input_schema": {"type": "object"}, "eager_input_streaming": true}
                ],
                "messages": [
                    {"role": "user", "content": "How is it in Ulm and Bonn?"},
                    {"role": "assistant", "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Ulm"}, "caller": {"type": "direct"}},
                        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}
                    ]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "no such town"}], "is_error": true},
                        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "noon", "is_error": false},
                        {"type": "text", "text": "And?"}
                    ]}
                ]
            }),
        ),
        (
            "images",
            json!({
                "model": "auto", "max_tokens": 50,
                "messages": [{"role": "user", "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    {"type": "text", "text": "What is it?"}
                ]}]
            }),
        ),
        (
            "schema",
            json!({
                "model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "Six times seven?"}],
                "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}},
                "thinking": {"type": "adaptive", "display": "summarized"}
            }),
        ),
        ("stream", json!({"model": "auto", "max_tokens": 50, "stream": true, "messages": [{"role": "user", "content": "Say hello."}]})),
    ]
}

#[test]
fn requests_say_the_same_in_the_other_format() {
    for (direction, asked, upstream) in DIRECTIONS {
        let requests = if asked == OpenAIChat { chat_requests() } else { messages_requests() };
        for (case, asked_for) in requests {
            let (_, request) = translated(asked, upstream, asked_for.to_string()).unwrap_or_else(|e| panic!("{direction} {case}: {e}"));
            let pretty = serde_json::to_string_pretty(&body(&request)).unwrap();
            insta::assert_snapshot!(format!("{direction}__request_{case}"), pretty);
        }
    }
}

#[test]
fn an_image_by_its_url_goes_over_where_the_provider_fetches_it() {
    let asked =
        json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]});
    let (_, request) = translated(OpenAIChat, AnthropicMessages, asked.to_string()).unwrap();
    let source = json!({"type": "url", "url": "https://x/y.png"});
    assert_eq!(body(&request)["messages"][0]["content"][0], json!({"type": "image", "source": source}));
}

#[test]
fn order_and_numbers_go_over_as_they_were_written() {
    let schema = r#"{"type":"object","properties":{"zeta":{"const":12345678901234567890123},"alpha":{"maximum":1.10}}}"#;
    let asked = format!(
        r#"{{"model":"m","temperature":0.70,"messages":[{{"role":"user","content":"Hi."}}],"tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]}}"#
    );
    for (direction, asked_in, upstream) in DIRECTIONS.into_iter().filter(|d| d.1 == OpenAIChat) {
        let (_, request) = translated(asked_in, upstream, asked.clone()).unwrap();
        let sent = std::str::from_utf8(request.body()).unwrap();
        assert!(sent.contains(schema) && sent.contains("0.70"), "{direction}: {sent}");
    }
}

#[test]
fn a_cap_is_always_set_and_one_that_the_caller_left_out_is_not_the_callers() {
    for (direction, asked, upstream) in DIRECTIONS {
        let plain = json!({"model": "auto", "max_tokens": 77, "messages": [{"role": "user", "content": "Hi."}]});
        let (_, request) = translated(asked, upstream, plain.to_string()).unwrap();
        assert_eq!(request.max_output(), Some(77), "{direction}");
        let sent = request.rewrite(&Rewrite { max_output: Some(33), ..Rewrite::default() });
        let sent = String::from_utf8(sent.to_vec()).unwrap();
        assert!(sent.contains(":33") && !sent.contains(":77"), "{direction}: {sent}");
        if asked == OpenAIChat {
            let uncapped = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
            let (_, request) = translated(asked, upstream, uncapped.to_string()).unwrap();
            assert_eq!(request.max_output(), None, "{direction}");
            let sent = request.rewrite(&Rewrite { max_output: Some(33), ..Rewrite::default() });
            let sent = String::from_utf8(sent.to_vec()).unwrap();
            assert!(sent.contains(":33") && !sent.contains(":4096"), "{direction}: {sent}");
        }
    }
}

#[test]
fn a_stream_is_asked_for_where_the_provider_looks_for_it() {
    for (direction, asked, upstream) in DIRECTIONS {
        for stream in [false, true] {
            let ask = json!({"model": "auto", "max_tokens": 7, "stream": stream, "messages": [{"role": "user", "content": "Hi."}]});
            let (_, request) = translated(asked, upstream, ask.to_string()).unwrap();
            assert_eq!((request.stream(), request.protocol(), request.model()), (stream, upstream, "auto"), "{direction}");
        }
    }
}

#[test]
fn headers_are_those_of_the_providers_format() {
    use http::header::HeaderMap;
    let of = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
    };
    let mut chat = of(&[("authorization", "Bearer k"), ("openai-organization", "o"), ("openai-beta", "b"), ("x-mine", "1")]);
    translation(OpenAIChat, AnthropicMessages).headers(&mut chat);
    assert_eq!(chat, of(&[("x-api-key", "k"), ("anthropic-version", "2023-06-01"), ("x-mine", "1")]));
    assert!(chat["x-api-key"].is_sensitive());
    let mut messages = of(&[("x-api-key", "k"), ("anthropic-version", "v"), ("anthropic-beta", "b"), ("x-mine", "1")]);
    translation(AnthropicMessages, OpenAIChat).headers(&mut messages);
    assert_eq!(messages, of(&[("authorization", "Bearer k"), ("x-mine", "1")]));
}
