//! What cannot be said in the other format, and what the caller is told.

use super::*;

/// A request with a member more, or another one.
fn with(asked: Protocol, member: &str, value: Value) -> Value {
    let mut body = match asked {
        OpenAIChat => json!({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}),
        _ => json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]}),
    };
    body[member] = value;
    body
}

fn refusal(asked: Protocol, upstream: Protocol, body: &Value) -> Option<String> {
    translated(asked, upstream, body.to_string()).err().map(|error| error.to_string())
}

#[test]
fn what_no_other_format_has_is_refused_by_name() {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let called = |arguments: &str| {
        json!([
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "1", "content": "x"}
        ])
    };
    let table = [
        ("n", json!(2), "`n`"),
        ("logprobs", json!(true), "`logprobs`"),
        ("top_logprobs", json!(3), "`top_logprobs`"),
        ("logit_bias", json!({"50256": -100}), "`logit_bias`"),
        ("store", json!(true), "`store`"),
        ("service_tier", json!("priority"), "`service_tier`"),
        ("service_tier", json!("flex"), "`service_tier`"),
        ("verbosity", json!("high"), "`verbosity`"),
        ("modalities", json!(["text", "audio"]), "`modalities`"),
        ("audio", json!({"voice": "alloy", "format": "wav"}), "`audio`"),
        ("prediction", json!({"type": "content", "content": "x"}), "`prediction`"),
        ("web_search_options", json!({}), "`web_search_options`"),
        ("functions", json!([]), "`functions`"),
        ("function_call", json!("auto"), "`function_call`"),
        ("moderation", json!({"model": "m"}), "`moderation`"),
        ("something_new", json!(1), "`something_new`"),
        ("stream_options", json!({"continuous_usage_stats": true}), "`stream_options.continuous_usage_stats`"),
        ("response_format", json!({"type": "grammar"}), "`response_format.type: grammar`"),
        ("tools", json!([{"type": "custom", "custom": {"name": "x"}}]), "`tools[0].type: custom`"),
        ("tools", json!([{"type": "function", "function": {"name": "x", "y": 1}}]), "`tools[0].function.y`"),
        ("tool_choice", json!({"type": "allowed_tools", "allowed_tools": {}}), "`tool_choice.type: allowed_tools`"),
        ("reasoning_effort", json!("utmost"), "`reasoning_effort: utmost`"),
        ("temperature", json!("warm"), "`temperature`, which is not a number"),
        ("messages", json!([{"role": "user", "name": "Ann", "content": "Hi."}]), "`messages[0].name`"),
        ("messages", json!([{"role": "function", "name": "f", "content": "x"}]), "`messages[0].role: function`"),
        ("messages", user(json!([{"type": "input_audio", "input_audio": {}}])), "`messages[0].content[0].type: input_audio`"),
        ("messages", user(json!([{"type": "file", "file": {"file_id": "f"}}])), "`messages[0].content[0].type: file`"),
        ("messages", user(json!([{"type": "image_url", "image_url": {"url": "gs://b/o"}}])), "`messages[0].content[0].image_url.url`"),
        ("messages", user(json!([{"type": "text", "text": "x", "y": 1}])), "`messages[0].content[0].y`"),
        (
            "messages",
            json!([{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "I"}]),
            "an assistant's message at the end of `messages`",
        ),
        ("messages", called("{\"half"), "`messages[0].tool_calls[0].function.arguments`, which is not a JSON object"),
        ("messages", called("[1]"), "`messages[0].tool_calls[0].function.arguments`, which is not a JSON object"),
    ];
    for (direction, asked, upstream) in DIRECTIONS.into_iter().filter(|d| d.1 == OpenAIChat) {
        for (member, value, expected) in &table {
            let found = refusal(asked, upstream, &with(asked, member, value.clone()));
            assert_eq!(found.as_deref(), Some(*expected), "{direction} {member}: {value}");
        }
    }
}

#[test]
fn what_one_format_lacks_is_refused_there_alone() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let url = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]);
    let bitmap = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AA"}}]}]);
    let later = json!([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]);
    let nobodys = json!([{"role": "tool", "tool_call_id": "1", "content": "x"}]);
    let seen = json!([
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}
    ]);
    let (messages, gemini, converse) = (Some(AnthropicMessages), Some(GeminiGenerate), Some(BedrockConverse));
    let no = None;
    let table: Vec<(Value, [Option<Protocol>; 3], &str)> = vec![
        (with(OpenAIChat, "seed", json!(1)), [messages, no, converse], "`seed`"),
        (with(OpenAIChat, "presence_penalty", json!(0.5)), [messages, no, converse], "`presence_penalty`"),
        (with(OpenAIChat, "temperature", json!(1.5)), [messages, no, converse], "`temperature: 1.5`"),
        (with(OpenAIChat, "response_format", json!({"type": "json_object"})), [messages, no, converse], "`response_format: json_object`"),
        (with(OpenAIChat, "reasoning_effort", json!("minimal")), [messages, no, converse], "`reasoning_effort: minimal`"),
        (with(OpenAIChat, "reasoning_effort", json!("none")), [no, no, converse], "`reasoning_effort: none`"),
        (with(OpenAIChat, "reasoning_effort", json!("max")), [no, gemini, no], "`reasoning_effort: max`"),
        (with(OpenAIChat, "messages", url), [no, gemini, converse], "an image by its URL (`messages[0].content`"),
        (with(OpenAIChat, "messages", bitmap), [no, no, converse], "an image of type image/bmp (`messages[0].content`"),
        (with(OpenAIChat, "messages", later), [no, gemini, no], "a system message later than the first ones (`messages[1].content`)"),
        (with(OpenAIChat, "messages", nobodys), [no, gemini, no], "an answer to a call that nobody made (`messages[0].content`)"),
        (with(OpenAIChat, "messages", seen), [no, gemini, no], "an image in a tool's answer (`messages[1].content`)"),
        (
            json!({"model": "m", "messages": [], "tools": tools, "parallel_tool_calls": false}),
            [no, gemini, converse],
            "`parallel_tool_calls: false`",
        ),
        (json!({"model": "m", "messages": [], "tools": tools, "tool_choice": "none"}), [no, no, converse], "`tool_choice: none`"),
    ];
    for (body, refusing, expected) in table {
        for upstream in [AnthropicMessages, GeminiGenerate, BedrockConverse] {
            let found = refusal(OpenAIChat, upstream, &body);
            match refusing.contains(&Some(upstream)) {
                true => assert!(found.as_ref().is_some_and(|says| says.starts_with(expected)), "{upstream:?} {body}: {found:?}"),
                false => assert_eq!(found, None, "{upstream:?} {body}"),
            }
        }
    }
}

#[test]
fn what_of_messages_chat_completions_lacks_is_refused_by_name() {
    let user = |block: Value| json!([{"role": "user", "content": [block]}]);
    let table = [
        ("top_k", json!(5), "`top_k`"),
        ("thinking", json!({"type": "enabled", "budget_tokens": 2048}), "`thinking: enabled` (say `output_config.effort`)"),
        ("stop_sequences", json!(["a", "b", "c", "d", "e"]), "more than 4 `stop_sequences`"),
        ("tools", json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]), "`tools[0].type: web_search_20250305`"),
        ("tools", json!([{"name": "f", "input_schema": {}, "defer_loading": true}]), "`tools[0].defer_loading`"),
        ("tools", json!([{"name": "f", "input_schema": {}, "input_examples": [{}]}]), "`tools[0].input_examples`"),
        ("container", json!("c"), "`container`"),
        ("mcp_servers", json!([]), "`mcp_servers`"),
        ("context_management", json!({}), "`context_management`"),
        ("inference_geo", json!("us"), "`inference_geo`"),
        ("speed", json!("fast"), "`speed: fast`"),
        ("something_new", json!(1), "`something_new`"),
        ("metadata", json!({"user_id": "u", "x": 1}), "`metadata.x`"),
        ("output_config", json!({"effort": "utmost"}), "`output_config.effort: utmost`"),
        ("system", json!([{"type": "text", "text": "x", "y": 1}]), "`system[0].y`"),
        ("messages", user(json!({"type": "document", "source": {"type": "text", "data": "x"}})), "`messages[0].content[0].type: document`"),
        ("messages", user(json!({"type": "search_result", "content": []})), "`messages[0].content[0].type: search_result`"),
        (
            "messages",
            user(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "`messages[0].content[0].source.type: file`",
        ),
        (
            "messages",
            user(json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {}}]})),
            "`messages[0].content[0].content[0].type: image`",
        ),
        (
            "messages",
            json!([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "tool_result", "tool_use_id": "t"}]}]),
            "a `tool_result` after other content (`messages[0].content[1].type`)",
        ),
        (
            "messages",
            json!([{"role": "assistant", "content": [{"type": "server_tool_use", "id": "s"}]}, {"role": "user", "content": "x"}]),
            "`messages[0].content[0].type: server_tool_use`",
        ),
        ("messages", json!([{"role": "assistant", "content": "I"}]), "an assistant's message at the end of `messages`"),
    ];
    for (member, value, expected) in table {
        let found = refusal(AnthropicMessages, OpenAIChat, &with(AnthropicMessages, member, value.clone()));
        assert_eq!(found.as_deref(), Some(expected), "{member}: {value}");
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"a","content":"b"}]}"#;
    let call = parse(Addressed::plain(OpenAIChat), Bytes::from_static(body.as_bytes()));
    // The reader of bounds refuses it first; a translation would too.
    assert!(call.is_err());
    let body = r#"{"model":"m","messages":[],"x":1,"x":2}"#;
    let error = translated(OpenAIChat, AnthropicMessages, body).unwrap_err();
    assert!(error.to_string().contains("duplicate member `x`"), "{error}");
}

#[test]
fn directions_that_there_are_not_are_refused() {
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]});
    let error = translated(AnthropicMessages, GeminiGenerate, body.to_string()).unwrap_err();
    assert!(error.to_string().contains("/v1/messages cannot be turned into"), "{error}");
}
