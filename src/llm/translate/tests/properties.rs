//! Properties that hold for any conversation, and for any bytes.

use proptest::prelude::*;

use super::*;

/// A turn of a conversation, as Chat Completions writes it.
fn turn() -> impl Strategy<Value = Vec<Value>> {
    let text = "[a-zA-Z0-9 \"\\\\\n{}é😀]{1,12}";
    let user = text.prop_map(|text| vec![json!({"role": "user", "content": text})]);
    let image = "[A-Za-z0-9+/]{4,8}".prop_map(|data| {
        let image = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}});
        vec![json!({"role": "user", "content": [image, {"type": "text", "text": "?"}]})]
    });
    let said = text.prop_map(|text| vec![json!({"role": "assistant", "content": text})]);
    let called = (text, 1_usize..4, text).prop_map(|(key, count, answer)| {
        let arguments = json!({key: [1, null, "x"]}).to_string();
        let call = |at| json!({"id": format!("call_{at}"), "type": "function", "function": {"name": "f", "arguments": arguments}});
        let calls: Vec<Value> = (0..count).map(call).collect();
        let answers = (0..count).map(|at| json!({"role": "tool", "tool_call_id": format!("call_{at}"), "content": answer}));
        std::iter::once(json!({"role": "assistant", "content": null, "tool_calls": calls})).chain(answers).collect()
    });
    prop_oneof![user, image, said, called]
}

/// Who says what in a conversation, however it is cut into messages.
fn said(messages: &Value) -> Vec<(String, Value)> {
    let mut said: Vec<(String, Value)> = Vec::new();
    for message in messages.as_array().unwrap() {
        let role = message["role"].as_str().unwrap().to_owned();
        match &message["content"] {
            Value::String(text) if message.get("tool_call_id").is_some() => said.push((role, json!([message["tool_call_id"], text]))),
            Value::String(text) => said.push((role, json!({"type": "text", "text": text}))),
            Value::Array(parts) => said.extend(parts.iter().map(|part| (role.clone(), part.clone()))),
            _ => {}
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            said.push(("call".to_owned(), json!([call["id"], call["function"]["name"], arguments])));
        }
    }
    said
}

proptest! {
    #[test]
    fn a_conversation_that_goes_over_and_back_says_the_same(turns in prop::collection::vec(turn(), 0..8), system in "[a-z]{1,9}") {
        let mut messages = vec![json!({"role": "system", "content": system})];
        messages.extend(turns.into_iter().flatten());
        messages.push(json!({"role": "user", "content": "And?"}));
        let asked = json!({"model": "m", "max_tokens": 9, "messages": messages});
        let (_, there) = translated(OpenAIChat, AnthropicMessages, asked.to_string()).unwrap();
        let (_, back) = translated(AnthropicMessages, OpenAIChat, there.body().clone()).unwrap();
        prop_assert_eq!(said(&body(&back)["messages"]), said(&asked["messages"]));
    }

    #[test]
    fn no_bytes_of_a_provider_make_it_panic(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        for (_, asked, upstream) in DIRECTIONS {
            let translation = translation(asked, upstream);
            let (mut translator, mut out) = (translation.stream(), BytesMut::new());
            for payload in &payloads {
                let _ = translation.answer(payload);
                let _ = translation.error(500, payload);
                translator.event(payload, &mut out);
            }
            translator.end(&mut out);
        }
    }

    #[test]
    fn no_shape_of_an_event_makes_it_panic(event in event(), position in 0_usize..6) {
        for (_, asked, upstream) in DIRECTIONS {
            let translation = translation(asked, upstream);
            let (mut translator, mut out) = (translation.stream(), BytesMut::new());
            for payload in position_of(&event, position) {
                let _ = translation.answer(payload.as_bytes());
                let _ = translation.error(500, payload.as_bytes());
                translator.event(payload.as_bytes(), &mut out);
            }
            translator.end(&mut out);
            prop_assert!(std::str::from_utf8(&out).is_ok());
            prop_assert!(events(std::str::from_utf8(&out).unwrap()).len() < 32);
        }
    }

    #[test]
    fn no_request_makes_it_panic(member in "[a-z_]{1,12}", value in event()) {
        for (_, asked, upstream) in DIRECTIONS {
            let mut ask = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi."}]});
            for member in [member.as_str(), "messages", "tools", "tool_choice", "response_format", "output_config", "stop", "system"] {
                let before = ask[member].take();
                ask[member] = value.clone();
                if let Ok(call) = parse(Addressed::plain(asked), Bytes::from(ask.to_string())) {
                    let _ = request(&call, upstream, AnswerId::default());
                }
                ask[member] = before;
            }
        }
    }
}

/// JSON out of the words that the formats know.
fn event() -> impl Strategy<Value = Value> {
    let words = "type|content_block_start|content_block_delta|tool_use|message_start|delta|text|input|usage|choices|tool_calls|index|id|name|\
                 function|arguments|finish_reason|candidates|content|parts|functionCall|finishReason|messageStart|contentBlockStart|start|\
                 toolUse|messageStop|stopReason|metadata|error|message|role|user|assistant|image_url|url|schema|json_schema";
    let words: Vec<&'static str> = words.split('|').collect();
    let word = prop::sample::select(words);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|members| members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

/// The event alone, and among others that let a stream begin.
fn position_of(event: &Value, position: usize) -> Vec<String> {
    let mut events = vec![
        r#"{"type":"message_start","message":{"id":"m"}}"#.to_owned(),
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#.to_owned(),
        r#"{"messageStart":{}}"#.to_owned(),
        r#"{"candidates":[{"content":{"parts":[{"text":"x"}]}}]}"#.to_owned(),
        "[DONE]".to_owned(),
    ];
    events.insert(position.min(events.len()), event.to_string());
    events
}
