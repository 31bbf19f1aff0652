use super::*;

fn asked(body: &Value) -> (Vec<Value>, Vec<Value>) {
    let asked = Asked::of(body.to_string().as_bytes());
    assert!(!asked.truncated);
    (asked.instructions, asked.messages)
}

fn answered(payloads: &[Value]) -> Vec<Value> {
    let mut answered = Answered::default();
    payloads.iter().for_each(|payload| answered.read(payload.to_string().as_bytes()));
    assert!(!answered.is_truncated());
    answered.messages()
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "content": text })
}

fn said(role: &str, parts: &[Value]) -> Value {
    json!({ "role": role, "parts": parts })
}

fn call(id: &Value) -> Value {
    json!({ "type": "tool_call", "id": id, "name": "f", "arguments": { "x": 1 } })
}

#[test]
fn a_request_of_any_format_becomes_the_same_messages() {
    let answer = |id: &str, response: Value| json!({ "type": "tool_call_response", "id": id, "response": response });
    let chat = json!({"messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:secret"}}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]});
    let expected = [
        said("system", &[text("Be kind.")]),
        said("user", &[text("Hi"), json!({ "type": "image_url" })]),
        said("assistant", &[call(&json!("1"))]),
        said("tool", &[answer("1", json!("42"))]),
    ];
    assert_eq!(asked(&chat), (vec![], expected.to_vec()));

    let messages = json!({"system": [{"type": "text", "text": "Be kind."}], "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]},
    ]});
    let thought = json!({ "type": "reasoning", "content": "hm" });
    let expected =
        [said("user", &[text("Hi")]), said("assistant", &[thought, call(&json!("1"))]), said("user", &[answer("1", json!("42"))])];
    assert_eq!(asked(&messages), (vec![text("Be kind.")], expected.to_vec()));

    let responses = json!({"instructions": "Be kind.", "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"},
        {"type": "function_call_output", "call_id": "1", "output": "42"},
    ]});
    let expected = [said("user", &[text("Hi")]), said("user", &[call(&json!("1"))]), said("user", &[answer("1", json!("42"))])];
    assert_eq!(asked(&responses), (vec![text("Be kind.")], expected.to_vec()));

    let gemini = json!({"systemInstruction": {"parts": [{"text": "Be kind."}]}, "contents": [
        {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "secret"}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"a": 42}}}]},
    ]});
    let expected = [
        said("user", &[text("Hi"), json!({ "type": "inlineData" })]),
        said("assistant", &[call(&Value::Null)]),
        said("user", &[answer("f", json!({ "a": 42 }))]),
    ];
    assert_eq!(asked(&gemini), (vec![text("Be kind.")], expected.to_vec()));

    let converse = json!({"system": [{"text": "Be kind."}], "messages": [
        {"role": "user", "content": [{"text": "Hi"}, {"image": {"source": {"bytes": "secret"}}}]},
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "f", "input": {"x": 1}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "42"}]}}]},
    ]});
    let expected = [
        said("user", &[text("Hi"), json!({ "type": "image" })]),
        said("assistant", &[call(&json!("1"))]),
        said("user", &[answer("1", json!([{ "text": "42" }]))]),
    ];
    assert_eq!(asked(&converse), (vec![text("Be kind.")], expected.to_vec()));

    assert_eq!(asked(&json!({"prompt": ["one", "two"]})).1, [said("user", &[text("one")]), said("user", &[text("two")])]);
    assert_eq!(asked(&json!({"input": "one"})).1, [said("user", &[text("one")])]);
    assert_eq!(Asked::of(b"no JSON"), Asked::default());
}

#[test]
fn an_answer_of_any_format_whole_or_in_events_becomes_the_same_message() {
    let done =
        |reason: &str, id: Value| vec![json!({ "role": "assistant", "parts": [text("Hi you"), call(&id)], "finish_reason": reason })];
    let arguments = |text: &str| json!({"function": {"arguments": text}, "index": 0});
    for (name, payloads, expected) in [
        (
            "chat",
            vec![json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": "Hi you",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{\"x\":1}"}}]}}]})],
            done("tool_calls", json!("1")),
        ),
        (
            "chat's stream",
            vec![
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi "}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": "you"}}]}),
                json!({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]}}]}),
                json!({"choices": [{"index": 0, "delta": {"tool_calls": [arguments("{\"x\"")]}}]}),
                json!({"choices": [{"index": 0, "delta": {"tool_calls": [arguments(":1}")]}}]}),
                json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
                json!({"choices": [], "usage": {"prompt_tokens": 1}}),
            ],
            done("tool_calls", json!("1")),
        ),
        (
            "messages",
            vec![json!({"type": "message", "role": "assistant", "stop_reason": "tool_use",
                "content": [{"type": "text", "text": "Hi you"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]})],
            done("tool_use", json!("1")),
        ),
        (
            "messages' stream",
            vec![
                json!({"type": "message_start", "message": {"role": "assistant", "content": []}}),
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi "}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "you"}}),
                json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "1", "name": "f", "input": {}}}),
                json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"x\":1}"}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
            ],
            done("tool_use", json!("1")),
        ),
        (
            "responses",
            vec![json!({"object": "response", "status": "completed", "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi you"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"}]})],
            done("completed", json!("1")),
        ),
        (
            "responses' stream",
            vec![
                json!({"type": "response.output_text.delta", "delta": "Hi "}),
                json!({"type": "response.output_text.delta", "delta": "you"}),
                json!({"type": "response.completed", "response": {"status": "completed", "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "Hi you"}]},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"}]}}),
            ],
            done("completed", json!("1")),
        ),
        (
            "gemini's stream",
            vec![
                json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi "}]}}]}),
                json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "you"}]}}]}),
                json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"x": 1}}}]}, "finishReason": "STOP"}]}),
            ],
            done("stop", json!("")),
        ),
        (
            "converse",
            vec![json!({"output": {"message": {"role": "assistant", "content": [
                {"text": "Hi you"}, {"toolUse": {"toolUseId": "1", "name": "f", "input": {"x": 1}}}]}}, "stopReason": "tool_use"})],
            done("tool_use", json!("1")),
        ),
        (
            "converse's stream",
            vec![
                json!({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hi "}}}),
                json!({"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "you"}}}),
                json!({"contentBlockStart": {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "1", "name": "f"}}}}),
                json!({"contentBlockDelta": {"contentBlockIndex": 1, "delta": {"toolUse": {"input": "{\"x\":1}"}}}}),
                json!({"messageStop": {"stopReason": "tool_use"}}),
            ],
            done("tool_use", json!("1")),
        ),
    ] {
        assert_eq!(answered(&payloads), expected, "{name}");
    }
    let ollama = [
        json!({"message": {"role": "assistant", "content": "Hi "}, "done": false}),
        json!({"message": {"content": "you"}, "done_reason": "stop"}),
    ];
    assert_eq!(answered(&ollama), [json!({ "role": "assistant", "parts": [text("Hi you")], "finish_reason": "stop" })]);
    let cut_off = [json!({"type": "response.output_text.delta", "delta": "Hi"})];
    assert_eq!(answered(&cut_off), [said("assistant", &[text("Hi")])]);
    let choices = json!({"choices": [{"index": 1, "text": "b"}, {"index": 0, "text": "a"}]});
    assert_eq!(answered(&[choices]), [said("assistant", &[text("a")]), said("assistant", &[text("b")])]);
    assert!(answered(&[json!({"data": [{"embedding": [0.1]}]})]).is_empty(), "an answer without words");
}

#[test]
fn there_is_an_end_to_what_is_kept_of_a_text() {
    let long = "ä".repeat(LIMIT);
    let asked =
        Asked::of(json!({"messages": [{"role": "user", "content": long}, {"role": "user", "content": "more"}]}).to_string().as_bytes());
    assert!(asked.truncated && asked.messages[0]["parts"][0]["content"].as_str().unwrap().len() == LIMIT);
    assert_eq!(asked.messages[1], said("user", &[text("")]));
    // What a tool answered takes its room once.
    let answer = json!({"messages": [{"content": [{"type": "tool_result", "tool_use_id": "1", "content": "x".repeat(LIMIT * 2 / 3)}]}]});
    assert!(!Asked::of(answer.to_string().as_bytes()).truncated);
    let mut answered = Answered::default();
    for _ in 0..3 {
        answered.read(json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(LIMIT / 2)}}]}).to_string().as_bytes());
    }
    assert!(answered.is_truncated());
    assert_eq!(answered.messages()[0]["parts"][0]["content"].as_str().unwrap().len(), LIMIT);
    answered.read(json!({"choices": [{"index": u64::MAX, "delta": {"content": "x"}}]}).to_string().as_bytes());
    assert_eq!(answered.messages().len(), 1);
}
