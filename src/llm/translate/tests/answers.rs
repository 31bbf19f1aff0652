//! What becomes of whole answers and of errors.

use super::*;
use crate::llm::usage::usage_of_body;

fn answered(asked: Protocol, upstream: Protocol, answer: &Value) -> Value {
    let body = translation(asked, upstream).answer(answer.to_string().as_bytes()).expect("an answer");
    serde_json::from_slice(&body).expect("JSON")
}

/// Answers as their providers write them, with text, reasoning, two calls and usage.
fn recorded(upstream: Protocol) -> Value {
    match upstream {
        AnthropicMessages => json!({
            "id": "msg_01", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [
                {"type": "thinking", "thinking": "Two towns.", "signature": "c2ln"},
                {"type": "text", "text": "I look. "},
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"town": "Ulm", "days": 1.50}},
                {"type": "tool_use", "id": "toolu_02", "name": "now", "input": {}}
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 20, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 40, "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 10}, "output_tokens": 50, "output_tokens_details": {"thinking_tokens": 7}, "service_tier": "standard"}
        }),
        GeminiGenerate => json!({
            "candidates": [{"index": 0, "finishReason": "STOP", "content": {"role": "model", "parts": [
                {"text": "Two towns.", "thought": true},
                {"text": "I look. "},
                {"functionCall": {"id": "fc-1", "name": "weather", "args": {"town": "Ulm"}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "now"}}
            ]}}],
            "usageMetadata": {"promptTokenCount": 360, "cachedContentTokenCount": 300, "candidatesTokenCount": 43, "thoughtsTokenCount": 7, "totalTokenCount": 410},
            "modelVersion": "gemini-2.5-flash", "responseId": "r-1"
        }),
        BedrockConverse => json!({
            "output": {"message": {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "Two towns.", "signature": "c2ln"}}},
                {"text": "I look."},
                {"toolUse": {"toolUseId": "tooluse_1", "name": "weather", "input": {"town": "Ulm"}}},
                {"toolUse": {"toolUseId": "tooluse_2", "name": "now", "input": {}}}
            ]}},
            "stopReason": "tool_use", "metrics": {"latencyMs": 5},
            "usage": {"inputTokens": 20, "outputTokens": 50, "totalTokens": 410, "cacheReadInputTokens": 300, "cacheWriteInputTokens": 40}
        }),
        _ => json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5-nano",
            "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                "role": "assistant", "content": "I look.", "reasoning_content": "Two towns.", "refusal": null,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"town\": \"Ulm\"}"}},
                    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
                    {"id": "call_3", "type": "function", "function": {"name": "now", "arguments": "{\"half"}}
                ]
            }}],
            "usage": {"prompt_tokens": 360, "completion_tokens": 50, "total_tokens": 410, "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 7}}
        }),
    }
}

#[test]
fn answers_say_the_same_in_the_callers_format() {
    for (direction, asked, upstream) in DIRECTIONS {
        let answer = answered(asked, upstream, &recorded(upstream));
        insta::assert_snapshot!(format!("{direction}__answer"), serde_json::to_string_pretty(&answer).unwrap());
    }
}

#[test]
fn a_caller_adds_up_what_it_is_charged_for() {
    for (direction, asked, upstream) in DIRECTIONS {
        let provider = recorded(upstream);
        let charged = usage_of_body(upstream, provider.to_string().as_bytes()).expect(direction).usage;
        let told = usage_of_body(asked, answered(asked, upstream, &provider).to_string().as_bytes()).expect(direction).usage;
        assert_eq!((told.total_input(), told.total_output()), (charged.total_input(), charged.total_output()), "{direction}");
        assert_eq!((told.cached_read, told.input), (charged.cached_read, charged.input), "{direction}");
        assert_eq!(told.cache_write + told.cache_write_long, charged.cache_write + charged.cache_write_long, "{direction}");
    }
}

#[test]
fn why_an_answer_stopped_is_said_in_the_callers_words() {
    for (reason, expected) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "stop"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
        ("something_new", "stop"),
    ] {
        let message =
            json!({"id": "m", "type": "message", "model": "c", "content": [{"type": "text", "text": "x"}], "stop_reason": reason});
        assert_eq!(answered(OpenAIChat, AnthropicMessages, &message)["choices"][0]["finish_reason"], expected, "{reason}");
    }
    for (reason, expected) in [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("tool_calls", "tool_use"),
        ("something_new", "end_turn"),
    ] {
        let completion = json!({"id": "c", "model": "g", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": reason}]});
        assert_eq!(answered(AnthropicMessages, OpenAIChat, &completion)["stop_reason"], expected, "{reason}");
    }
    for (candidate, expected) in [
        (json!({"candidates": [{"finishReason": "MAX_TOKENS"}]}), "length"),
        (json!({"candidates": [{"finishReason": "SAFETY", "content": {}}]}), "content_filter"),
        (json!({"promptFeedback": {"blockReason": "OTHER"}}), "content_filter"),
        (json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}), "stop"),
    ] {
        assert_eq!(answered(OpenAIChat, GeminiGenerate, &candidate)["choices"][0]["finish_reason"], expected, "{candidate}");
    }
}

#[test]
fn what_is_no_answer_of_the_providers_is_not_passed_off_as_one() {
    for (direction, asked, upstream) in DIRECTIONS {
        for body in ["", "null", "[]", "{}", "<html>", "{\"choices\": []}", "{\"candidates\": []}", "\u{0}"] {
            assert!(translation(asked, upstream).answer(body.as_bytes()).is_err(), "{direction} {body}");
        }
    }
}

#[test]
fn errors_come_in_the_callers_shape_with_the_providers_words() {
    let anthropic = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"});
    let google = json!({"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}});
    let amazon = json!({"message": "Too many requests"});
    let openai = json!({"error": {"message": "No quota", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}});
    let error = |kind: &str, message: &str, code: Value| json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
    let said = |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}});
    let table = [
        (OpenAIChat, AnthropicMessages, 529, anthropic.to_string(), error("server_error", "Overloaded", json!("overloaded_error"))),
        (OpenAIChat, GeminiGenerate, 429, google.to_string(), error("rate_limit_error", "Quota", json!("RESOURCE_EXHAUSTED"))),
        (OpenAIChat, GeminiGenerate, 429, format!("[{google}]"), error("rate_limit_error", "Quota", json!("RESOURCE_EXHAUSTED"))),
        (OpenAIChat, BedrockConverse, 429, amazon.to_string(), error("rate_limit_error", "Too many requests", json!(null))),
        (AnthropicMessages, OpenAIChat, 429, openai.to_string(), said("rate_limit_error", "No quota")),
        (AnthropicMessages, OpenAIChat, 401, openai.to_string(), said("authentication_error", "No quota")),
        (AnthropicMessages, OpenAIChat, 404, r#"{"error":"model not found"}"#.to_owned(), said("not_found_error", "model not found")),
        (AnthropicMessages, OpenAIChat, 418, r#"{"object":"error","message":"no"}"#.to_owned(), said("invalid_request_error", "no")),
        (AnthropicMessages, OpenAIChat, 503, "upstream connect error".to_owned(), said("overloaded_error", "upstream connect error")),
        (AnthropicMessages, OpenAIChat, 502, String::new(), said("api_error", "the provider answered with status 502")),
    ];
    for (asked, upstream, status, body, expected) in table {
        let error = translation(asked, upstream).error(status, body.as_bytes());
        assert_eq!(serde_json::from_slice::<Value>(&error).unwrap(), expected, "{status} {body}");
    }
}
