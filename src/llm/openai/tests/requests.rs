//! What a request says of what it asks for, and what becomes of it on its way to a provider.

use super::*;

const WINDOW: u64 = 200_000;

// ---- Responses ----

#[test]
fn a_response_says_what_it_asks_for() {
    let r = request(
        OpenAIResponses,
        &json!({
            "model": "gpt-5.4", "stream": true, "max_output_tokens": 9, "instructions": "Be kind.", "service_tier": "flex",
            "input": [
                {"role": "user", "content": "What is\nthis?"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And this?"}, {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"q\":1}"},
                {"type": "function_call_output", "call_id": "1", "output": "42"},
                {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "43"}]}
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "custom", "name": "c"}, {"type": "computer_use_preview"}],
            "reasoning": {"effort": "low"}, "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}}
        }),
    );
    assert_eq!((r.model(), r.stream(), r.max_output(), r.choices(), r.wants_usage()), ("gpt-5.4", true, Some(9), 1, true));
    let required: Vec<_> = r.required().iter().copied().collect();
    assert_eq!(required, [Capability::Tools, Capability::Vision, Capability::JsonSchema, Capability::Reasoning]);
    assert_eq!((r.tier(), r.has_media(), r.surcharges().len()), (AskedTier::Said(ServiceTier::Flex), true, 0));
    assert!(r.reads_input_once() && r.billable_input(WINDOW) < WINDOW);
    let prompt = r.prompt();
    assert_eq!(prompt.parts[prompt.last_user], "And this?");
    assert_eq!((prompt.turns, prompt.tools), (6, 3));
    for text in ["Be kind.", "What is\nthis?", "42", "43"] {
        assert!(prompt.parts.iter().any(|p| p == text), "{text}");
    }
    let text = request(OpenAIResponses, &json!({"model": "m", "input": "Grüezi \"you\""}));
    assert_eq!(text.prompt().parts, ["Grüezi \"you\""]);
}

#[test]
fn what_is_stored_at_the_provider_may_fill_the_window() {
    let opaque = |more: Value| {
        let r = with(OpenAIResponses, more);
        (r.billable_input(WINDOW) == WINDOW, r.has_media())
    };
    for more in [
        json!({"previous_response_id": "resp_1"}),
        json!({"conversation": "conv_1"}),
        json!({"conversation": {"id": "conv_1"}}),
        json!({"prompt": {"id": "pmpt_1"}, "tools": []}),
        json!({"input": [{"type": "item_reference", "id": "msg_1"}]}),
        json!({"input": [{"id": "msg_1"}]}),
        json!({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}),
        json!({"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": null}]}),
        json!({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}),
        json!({"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]}),
        json!({"input": [{"type": "of_next_year"}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "data:application/pdf;base64,AAAA"}]}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1", "detail": "auto"}]}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}}]}]}),
    ] {
        assert_eq!(opaque(more.clone()), (true, true), "{more}");
    }
    for more in [json!({"previous_response_id": null, "conversation": null, "prompt": null}), json!({"store": true, "background": true})] {
        assert_eq!(opaque(more.clone()), (false, false), "{more}");
    }
}

#[test]
fn an_image_of_a_response_counts_as_an_image_and_not_by_its_bytes() {
    let data = format!("data:image/png;base64,{}", "A".repeat(400_000));
    for input in [
        json!([{"role": "user", "content": [{"type": "input_image", "image_url": data, "detail": "high"}]}]),
        json!([{"type": "computer_call_output", "call_id": "1", "output": {"type": "computer_screenshot", "image_url": data}}]),
        json!([{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image", "image_url": data}]}]),
        json!([{"type": "image_generation_call", "id": "1", "status": "completed", "result": data}]),
    ] {
        let bound = with(OpenAIResponses, json!({"input": input})).input_bound();
        assert!((36_000..37_000).contains(&bound), "{bound}");
    }
}

#[test]
fn tools_at_the_provider_are_bounded_by_max_tool_calls_and_else_named() {
    let asked = |tools: Value, more: Value| {
        let mut more = more;
        more["tools"] = tools;
        let r = with(OpenAIResponses, more);
        (r.billable_input(WINDOW) / WINDOW, r.web_searches(), r.surcharges().join(","))
    };
    let three = || json!({"max_tool_calls": 3});
    let none = || json!({});
    for (tools, more, passes, searches, surcharges) in [
        (json!([{"type": "function", "name": "f"}]), none(), 0, 0, ""),
        (json!([{"type": "web_search"}]), three(), 4, 3, ""),
        (json!([{"type": "web_search_2025_08_26"}, {"type": "web_search_preview"}]), three(), 4, 3, ""),
        (json!([{"type": "web_search"}]), none(), 2, 0, "web_search"),
        (json!([{"type": "web_search"}]), json!({"tool_choice": "none"}), 0, 0, ""),
        (json!([{"type": "mcp", "server_label": "s", "server_url": "https://x"}]), three(), 4, 0, ""),
        (json!([{"type": "mcp", "server_label": "s", "server_url": "https://x"}]), none(), 2, 0, "mcp"),
        (json!([{"type": "file_search", "vector_store_ids": ["v"]}]), three(), 4, 0, "file_search"),
        (json!([{"type": "code_interpreter", "container": {"type": "auto"}}]), three(), 4, 0, "code_interpreter"),
        (json!([{"type": "image_generation"}]), three(), 4, 0, "image_generation"),
        (json!([{"type": "shell", "environment": {"type": "local"}}]), none(), 0, 0, ""),
        (json!([{"type": "shell", "environment": {"type": "container_auto"}}]), three(), 4, 0, "shell"),
        (json!([{"type": "shell"}]), none(), 2, 0, "shell"),
        (json!([{"type": "tool_search"}]), three(), 4, 0, ""),
        (json!([{"type": "tool_search", "execution": "client"}]), none(), 0, 0, ""),
        (json!([{"type": "of_next_year"}, {"type": "of_next_year"}]), three(), 4, 0, "of_next_year"),
    ] {
        assert_eq!(asked(tools.clone(), more.clone()), (passes, searches, surcharges.to_owned()), "{tools} {more}");
    }
    let brought = with(OpenAIResponses, json!({"input": [{"type": "additional_tools", "role": "developer", "tools": [{"type": "mcp"}]}]}));
    assert_eq!(brought.surcharges(), ["mcp"]);
    let template = with(OpenAIResponses, json!({"prompt": {"id": "pmpt_1"}}));
    assert_eq!(template.surcharges(), ["prompt (a stored template)"]);
    let shortened = with(OpenAIResponses, json!({"context_management": [{"type": "compaction"}]}));
    assert_eq!(shortened.billable_input(WINDOW), 2 * WINDOW);
}

#[test]
fn a_tier_or_mode_that_not_every_price_list_has_is_named() {
    for (more, named) in [
        (json!({"service_tier": "ultrafast"}), "service_tier: ultrafast"),
        (json!({"reasoning": {"mode": "pro"}}), "reasoning.mode: pro"),
        (json!({"reasoning": {"mode": "standard"}}), ""),
    ] {
        assert_eq!(with(OpenAIResponses, more.clone()).surcharges().join(","), named, "{more}");
    }
}

#[test]
fn a_response_gets_a_cap_where_it_has_none_and_never_two() {
    for (more, cap) in [(json!({}), 77), (json!({"max_output_tokens": null}), 77), (json!({"max_output_tokens": 500}), 77)] {
        let changed = rewritten(&with(OpenAIResponses, more), "gpt-5", cap);
        assert_eq!((&changed["max_output_tokens"], &changed["model"]), (&json!(cap), &json!("gpt-5")));
    }
    for bad in [json!(0), json!(-1), json!(1.5), json!("9")] {
        let body = json!({"model": "m", "input": "x", "max_output_tokens": bad}).to_string();
        assert!(parse(Addressed::plain(OpenAIResponses), body.into()).is_err());
    }
}

// ---- Completions and Embeddings ----

#[test]
fn a_completion_writes_sixteen_tokens_unless_it_says_otherwise() {
    let capped = |more: Value| with(OpenAICompletions, more).max_output();
    assert_eq!(capped(json!({})), Some(16));
    assert_eq!(capped(json!({"max_tokens": null})), Some(16));
    assert_eq!(capped(json!({"max_tokens": 0, "echo": true})), Some(0));
    assert_eq!(capped(json!({"max_tokens": 40})), Some(40));
    // Servers have other defaults: what was reserved for is written out.
    for more in [json!({}), json!({"max_tokens": null}), json!({"max_tokens": 16})] {
        assert_eq!(rewritten(&with(OpenAICompletions, more), "m", 16)["max_tokens"], json!(16));
    }
}

#[test]
fn each_prompt_and_each_candidate_of_best_of_is_billed() {
    let choices = |more: Value| with(OpenAICompletions, more).choices();
    for (more, expected) in [
        (json!({}), 1),
        (json!({"prompt": null}), 1),
        (json!({"n": 2}), 2),
        (json!({"n": 2, "best_of": 5}), 5),
        (json!({"prompt": ["a", "b", "c"], "n": 2, "best_of": 5}), 15),
        (json!({"prompt": [1, 2, 3]}), 1),
        (json!({"prompt": [[1, 2, 3], [4]]}), 2),
    ] {
        assert_eq!(choices(more.clone()), expected, "{more}");
    }
    for more in [json!({"n": 0}), json!({"best_of": 129})] {
        let mut body = json!({"model": "m", "prompt": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert!(parse(Addressed::plain(OpenAICompletions), body.to_string().into()).is_err());
    }
}

#[test]
fn an_embedding_has_input_only() {
    for input in [json!("Hi."), json!(["Hi.", "there"]), json!([1, 2, 3]), json!([[1, 2], [3]])] {
        let r = with(OpenAIEmbeddings, json!({"input": input, "encoding_format": "base64", "dimensions": 64}));
        assert_eq!((r.choices(), r.max_output(), r.stream(), r.has_media()), (0, None, false, false));
        let changed = rewritten(&r, "text-embedding-3-large", 4_096);
        assert_eq!((&changed["model"], &changed["input"]), (&json!("text-embedding-3-large"), &input));
        assert_eq!(changed.as_object().map(serde_json::Map::len), Some(4));
    }
    assert_eq!(with(OpenAIEmbeddings, json!({"input": ["a", "b\n"]})).prompt().parts, ["a", "b\n"]);
    // Some servers embed images, each of which may fill their window.
    let images = with(OpenAIEmbeddings, json!({"input": [{"image": "https://x"}, {"image": "https://y"}]}));
    assert_eq!(images.billable_input(8_192), 2 * 8_192);
    assert_eq!(with(OpenAIEmbeddings, json!({"messages": []})).billable_input(8_192), 8_192);
}

// ---- Chat Completions ----

#[test]
fn a_null_is_replaced_and_not_written_twice() {
    let r = with(OpenAIChat, json!({"max_completion_tokens": null, "max_tokens": null, "stream_options": null, "stream": true}));
    let change = Rewrite { model: None, max_output: Some(50), include_usage: true };
    let changed: Value = serde_json::from_slice(&r.rewrite(&change)).expect("JSON");
    let text = String::from_utf8(r.rewrite(&change).to_vec()).expect("text");
    assert_eq!((&changed["max_completion_tokens"], &changed["max_tokens"]), (&json!(50), &Value::Null));
    assert_eq!(changed["stream_options"], json!({"include_usage": true}));
    assert_eq!((text.matches("max_completion_tokens").count(), text.matches("stream_options").count()), (1, 1));
    let older = with(OpenAIChat, json!({"max_tokens": null}));
    assert_eq!(rewritten(&older, "m", 50)["max_completion_tokens"], json!(50));
}

#[test]
fn what_a_compatible_provider_bills_beside_the_tokens_is_named() {
    for (more, named) in [
        (json!({"tools": [{"type": "browser_search"}, {"type": "function", "function": {"name": "f"}}]}), "browser_search"),
        (json!({"search_parameters": {"mode": "auto"}}), "search_parameters"),
        (json!({"plugins": [{"id": "web"}]}), "plugins"),
        (json!({"plugins": [], "search_parameters": null}), ""),
        (json!({"service_tier": "ultrafast"}), "service_tier: ultrafast"),
    ] {
        assert_eq!(with(OpenAIChat, more.clone()).surcharges().join(","), named, "{more}");
    }
}

#[test]
fn what_a_search_finds_is_read_again_and_earlier_sound_and_video_may_fill_the_window() {
    assert_eq!(with(OpenAIChat, json!({"web_search_options": {}})).billable_input(WINDOW), 2 * WINDOW);
    for message in [
        json!({"role": "assistant", "audio": {"id": "audio_1"}}),
        json!({"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x"}}]}),
    ] {
        assert_eq!(with(OpenAIChat, json!({"messages": [message]})).billable_input(WINDOW), WINDOW);
    }
}

// ---- Azure ----

#[test]
fn the_deployment_in_the_path_wins_and_the_body_says_the_same_afterwards() {
    let addressed = |path: &str| recognise(path).expect("a call");
    let chat = "/openai/deployments/my%20gpt/chat/completions";
    for body in [r#"{"model": "other", "messages": []}"#, r#"{"messages": []}"#, r#"{"model": null, "messages": []}"#] {
        let r = parse(addressed(chat), Bytes::from_static(body.as_bytes())).expect("a request");
        assert_eq!(r.model(), "my gpt");
        for model in ["my gpt", "gpt-5"] {
            assert_eq!(rewritten(&r, model, 9)["model"], json!(model), "{body}");
        }
    }
    let same = parse(addressed(chat), Bytes::from_static(br#"{"model": "my gpt", "max_tokens": 9, "messages": []}"#)).expect("a request");
    let change = Rewrite { model: Some("my gpt".into()), max_output: Some(9), include_usage: false };
    assert_eq!(same.rewrite(&change).as_ptr(), same.body().as_ptr());
    let bare = parse(addressed("/openai/deployments/e/embeddings"), Bytes::from_static(br#"{"input": "x"}"#)).expect("a request");
    assert_eq!(rewritten(&bare, "e", 9), json!({"model": "e", "input": "x"}));
    assert!(parse(addressed(chat), Bytes::from_static(b"{ }")).is_err());
}

#[test]
fn what_azures_filters_found_reaches_a_caller_that_did_not_ask_for_usage() {
    let filters =
        json!({"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]});
    let filtered = json!({"id": "", "choices": [], "prompt_filter_results": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}});
    let text = json!({"id": "c", "model": "gpt-5-2025-08-07", "choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": null});
    let usage = json!({"id": "c", "model": "gpt-5-2025-08-07", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    let (seen, end) = through(OpenAIChat, true, &[chunks(&[filters.clone(), text.clone(), usage]).as_bytes()]);
    assert_eq!(seen, chunks(&[filters, text]).replace(",\"usage\":null", ""));
    let reported = end.reported.expect("figures");
    assert_eq!((reported.usage.output, reported.model.as_deref()), (2, Some("gpt-5-2025-08-07")));
    let (seen, _) = through(OpenAIChat, true, &[chunks(std::slice::from_ref(&filtered)).as_bytes()]);
    assert_eq!(seen, chunks(&[filtered]));
}
