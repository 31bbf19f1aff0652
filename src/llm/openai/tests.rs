//! Requests, answers and streams of OpenAI's formats, as the SDKs and the providers write them.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::media::usage_of_passthrough;
use crate::core::policy::{Capability, Protocol};
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::core::usage::Usage;
use crate::llm::address::{Addressed, recognise};
use crate::llm::{Framing, ReportedUsage, Request, Rewrite, StreamEnd, StreamMeter, parse, usage_of_body};

use Protocol::{OpenAIChat, OpenAICompletions, OpenAIEmbeddings, OpenAIResponses};

fn request(protocol: Protocol, body: &Value) -> Request {
    parse(Addressed::plain(protocol), Bytes::from(body.to_string())).expect("a valid request")
}

/// A request with some more members.
fn with(protocol: Protocol, more: Value) -> Request {
    let mut body = match protocol {
        OpenAIChat => json!({"model": "m", "messages": [{"role": "user", "content": "Hi."}]}),
        OpenAICompletions => json!({"model": "m", "prompt": "Hi."}),
        _ => json!({"model": "m", "input": "Hi."}),
    };
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    request(protocol, &body)
}

fn rewritten(request: &Request, model: &str, cap: u64) -> Value {
    let change = Rewrite { model: Some(model.into()), max_output: Some(cap), include_usage: false };
    let text = request.rewrite(&change);
    // A member that is there twice would not survive this.
    serde_json::from_slice(&text).expect("JSON")
}

fn reported(protocol: Protocol, body: &Value) -> ReportedUsage {
    usage_of_body(protocol, body.to_string().as_bytes()).expect("figures")
}

fn through(protocol: Protocol, hide: bool, chunks: &[&[u8]]) -> (String, StreamEnd) {
    let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, hide);
    let mut seen = Vec::new();
    for chunk in chunks {
        seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
    }
    seen.extend_from_slice(&meter.flush());
    (String::from_utf8(seen).expect("text"), meter.finish())
}

fn events(payloads: &[Value]) -> String {
    payloads.iter().map(|p| format!("event: {}\ndata: {p}\n\n", p["type"].as_str().unwrap_or("x"))).collect()
}

fn chunks(payloads: &[Value]) -> String {
    payloads.iter().map(|p| format!("data: {p}\n\n")).collect::<String>() + "data: [DONE]\n\n"
}

const WINDOW: u64 = 200_000;

// ---- requests: Responses ----

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

// ---- requests: Completions and Embeddings ----

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

// ---- requests: Chat Completions ----

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

// ---- usage ----

fn chat_usage(usage: Value) -> Usage {
    reported(OpenAIChat, &json!({"model": "m", "usage": usage})).usage
}

#[test]
fn rejected_predictions_are_billed_within_the_completion() {
    let usage = chat_usage(json!({"prompt_tokens": 10, "completion_tokens": 50, "total_tokens": 60,
        "completion_tokens_details": {"accepted_prediction_tokens": 20, "rejected_prediction_tokens": 15, "reasoning_tokens": 0}}));
    assert_eq!(usage, Usage { input: 10, output: 50, ..Usage::default() });
}

#[test]
fn sound_is_told_apart_in_both_directions() {
    let usage = chat_usage(json!({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"audio_tokens": 60, "cached_tokens": 30, "text_tokens": 40, "cached_tokens_details": {"audio_tokens": 20, "text_tokens": 10}},
        "completion_tokens_details": {"audio_tokens": 45, "text_tokens": 5}}));
    assert_eq!(usage, Usage { input: 30, cached_read: 30, audio_input: 40, output: 5, audio_output: 45, ..Usage::default() });
}

#[test]
fn cache_writes_of_twelve_hours_are_told_apart() {
    let details =
        json!({"cached_tokens": 5, "cache_write_tokens": 60, "cache_write_tokens_details": {"ttl_30m_tokens": 20, "ttl_12h_tokens": 40}});
    let expected = Usage { input: 35, cached_read: 5, cache_write: 20, cache_write_long: 40, output: 1, ..Usage::default() };
    assert_eq!(chat_usage(json!({"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": details})), expected);
    let response = json!({"status": "completed", "usage": {"input_tokens": 100, "output_tokens": 1, "input_tokens_details": details}});
    assert_eq!(reported(OpenAIResponses, &response).usage, expected);
}

#[test]
fn more_cached_than_there_was_is_no_more_than_there_was() {
    let details =
        json!({"cached_tokens": 1_000, "cache_write_tokens": 9, "audio_tokens": u64::MAX, "cached_tokens_details": {"audio_tokens": 5}});
    let usage = chat_usage(json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": details,
        "completion_tokens_details": {"audio_tokens": 7, "image_tokens": 7}}));
    assert_eq!(usage, Usage { cached_read: 10, audio_output: 2, ..Usage::default() });
}

#[test]
fn an_explicit_zero_is_not_missing() {
    assert_eq!(chat_usage(json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})), Usage::default());
    let response = json!({"status": "completed", "usage": {"input_tokens": 0, "output_tokens": 0}});
    assert_eq!(reported(OpenAIResponses, &response).usage, Usage::default());
    for missing in [json!({"usage": {}}), json!({"usage": null}), json!({"usage": {"output_tokens": 3}}), json!({})] {
        assert_eq!(usage_of_body(OpenAIResponses, missing.to_string().as_bytes()), None, "{missing}");
    }
}

#[test]
fn reasoning_that_is_only_in_the_total_is_output() {
    let xai =
        json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 30}});
    assert_eq!(chat_usage(xai).output, 35);
    let openai =
        json!({"prompt_tokens": 10, "completion_tokens": 35, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 30}});
    assert_eq!(chat_usage(openai).output, 35);
}

#[test]
fn other_names_of_what_was_cached_are_known() {
    for (name, value) in [("prompt_cache_hit_tokens", 6), ("cached_tokens", 6)] {
        let mut usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
        usage[name] = json!(value);
        assert_eq!(chat_usage(usage), Usage { input: 4, cached_read: 6, output: 5, ..Usage::default() }, "{name}");
    }
}

#[test]
fn the_tier_is_the_answers_and_not_the_requests() {
    for (name, tier) in [
        ("default", Some(ServiceTier::Standard)),
        ("scale", Some(ServiceTier::Standard)),
        ("flex", Some(ServiceTier::Flex)),
        ("priority", Some(ServiceTier::Priority)),
        ("ultrafast", Some(ServiceTier::Fast)),
        ("auto", None),
        ("of_next_year", None),
    ] {
        let chat = json!({"service_tier": name, "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
        assert_eq!(reported(OpenAIChat, &chat).tier, tier, "{name}");
        let response = json!({"service_tier": name, "usage": {"input_tokens": 1, "output_tokens": 1}});
        assert_eq!(reported(OpenAIResponses, &response).tier, tier, "{name}");
    }
}

#[test]
fn searches_are_counted_by_the_provider_and_else_by_the_output() {
    let item = |action: Value| json!({"type": "web_search_call", "id": "ws", "status": "completed", "action": action});
    let output = json!([
        item(json!({"type": "search", "query": "q"})), item(json!({"type": "open_page", "url": "u"})),
        item(json!({"type": "find_in_page", "url": "u", "pattern": "p"})), item(Value::Null),
        {"type": "local_shell_call", "action": {"type": "exec", "command": []}},
        {"type": "message", "content": [{"type": "output_text", "text": "\"usage\": {\"input_tokens\": 9}"}]}
    ]);
    let mut response =
        json!({"model": "gpt-5", "status": "completed", "output": output, "usage": {"input_tokens": 10, "output_tokens": 5}});
    assert_eq!(reported(OpenAIResponses, &response).usage, Usage { input: 10, output: 5, web_searches: 2, ..Usage::default() });
    response["tool_usage"] =
        json!({"web_search": {"num_requests": 1}, "image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}});
    let reported = reported(OpenAIResponses, &response);
    assert_eq!((reported.usage.web_searches, reported.beyond.len()), (1, 0));
}

#[test]
fn images_that_a_response_made_are_another_models_usage() {
    let response = json!({"model": "gpt-5", "status": "completed", "output": [], "usage": {"input_tokens": 10, "output_tokens": 5},
        "tools": [{"type": "web_search"}, {"type": "image_generation", "model": "gpt-image-2"}],
        "tool_usage": {"web_search": {"num_requests": 0}, "image_gen": {"input_tokens": 50, "output_tokens": 1_000, "total_tokens": 1_050,
            "input_tokens_details": {"text_tokens": 20, "image_tokens": 30}, "cached_tokens": 12,
            "cached_tokens_details": {"cached_image_tokens": 10, "cached_text_tokens": 2}}}});
    let beyond = reported(OpenAIResponses, &response).beyond;
    let expected = Usage { input: 18, cached_read: 12, image_input: 20, image_output: 1_000, ..Usage::default() };
    assert_eq!((beyond[0].model.as_deref(), beyond[0].usage), (Some("gpt-image-2"), expected));
}

#[test]
fn a_response_in_the_background_says_no_usage_before_it_is_done() {
    for status in ["queued", "in_progress"] {
        let response = json!({"status": status, "usage": {"input_tokens": 0, "output_tokens": 0}});
        assert_eq!(usage_of_body(OpenAIResponses, response.to_string().as_bytes()), None);
    }
}

#[test]
fn embeddings_have_no_output() {
    let answer = json!({"object": "list", "data": [{"embedding": "AAAA"}], "model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}});
    let reported = reported(OpenAIEmbeddings, &answer);
    assert_eq!((reported.usage, reported.model.as_deref()), (Usage { input: 8, ..Usage::default() }, Some("text-embedding-3-small")));
}

// ---- streams ----

fn response_stream(last: &str, usage: Value) -> Vec<Value> {
    let response = |status: &str, usage: Value| json!({"id": "resp_1", "object": "response", "model": "gpt-5-2025-08-07", "status": status, "service_tier": "default", "output": [], "usage": usage});
    vec![
        json!({"type": "response.created", "sequence_number": 0, "response": response("in_progress", Value::Null)}),
        json!({"type": "response.in_progress", "sequence_number": 1, "response": response("in_progress", Value::Null)}),
        json!({"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": {"type": "message", "content": []}}),
        json!({"type": "response.output_text.delta", "sequence_number": 3, "delta": "Say \"response\" and \"error\".", "obfuscation": "xx"}),
        json!({"type": "response.output_text.done", "sequence_number": 4, "text": "{\"type\":\"response.completed\",\"response\":{}}"}),
        json!({"type": format!("response.{last}"), "sequence_number": 5, "response": response(last, usage)}),
    ]
}

#[test]
fn the_last_event_of_a_streamed_response_has_the_figures() {
    let usage = json!({"input_tokens": 30, "input_tokens_details": {"cached_tokens": 10}, "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 37});
    for (last, failed) in [("completed", false), ("incomplete", false), ("failed", true)] {
        let text = events(&response_stream(last, usage.clone()));
        let (seen, end) = through(OpenAIResponses, false, &[text.as_bytes()]);
        assert_eq!(seen, text);
        let reported = end.reported.expect("figures");
        assert_eq!(reported.usage, Usage { input: 20, cached_read: 10, output: 7, ..Usage::default() });
        assert_eq!((reported.model.as_deref(), reported.tier), (Some("gpt-5-2025-08-07"), Some(ServiceTier::Standard)));
        assert_eq!((end.complete, end.failed), (true, failed), "{last}");
    }
    let (_, end) = through(OpenAIResponses, false, &[events(&response_stream("failed", Value::Null)).as_bytes()]);
    assert_eq!((end.reported, end.failed), (None, true));
}

#[test]
fn a_streamed_response_that_breaks_off_or_fails_has_no_figures() {
    let mut all = response_stream("completed", json!({"input_tokens": 1, "output_tokens": 1}));
    all.pop();
    let (_, end) = through(OpenAIResponses, false, &[events(&all).as_bytes()]);
    assert_eq!(end, StreamEnd::default());
    all.push(json!({"type": "error", "sequence_number": 5, "code": "server_error", "message": "sorry", "param": null}));
    let (_, end) = through(OpenAIResponses, false, &[events(&all).as_bytes()]);
    assert_eq!((end.reported, end.complete, end.failed), (None, false, true));
}

#[test]
fn the_last_event_may_be_megabytes_and_come_in_many_chunks() {
    let mut last = response_stream("completed", json!({"input_tokens": 30, "output_tokens": 7})).pop().expect("an event");
    last["response"]["output"] =
        json!([{"type": "image_generation_call", "id": "ig", "status": "completed", "result": "A".repeat(6 << 20)}]);
    let text = events(&[last]);
    let chunks: Vec<&[u8]> = text.as_bytes().chunks(16 << 10).collect();
    let (seen, end) = through(OpenAIResponses, false, &chunks);
    assert_eq!((seen.len(), end.reported.map(|r| r.usage.total())), (text.len(), Some(37)));
    // The same where whole events are held back.
    let (seen, _) = through(OpenAIChat, true, &chunks);
    assert_eq!(seen.len(), text.len());
}

#[test]
fn usage_on_every_chunk_is_the_callers_and_the_last_one_holds() {
    let chunk = |output: u64, choices: Value| json!({"model": "m", "choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}});
    let delta = json!([{"index": 0, "delta": {"content": "x"}}]);
    let all = [chunk(1, delta.clone()), chunk(2, delta), chunk(2, json!([]))];
    let (seen, end) = through(OpenAIChat, true, &[chunks(&all).as_bytes()]);
    assert_eq!(seen, chunks(&all[..2]));
    assert_eq!(end.reported.expect("figures").usage, Usage { input: 9, output: 2, ..Usage::default() });
    // Broken off, the server may have gone on: the figures are not final.
    let broken = format!("data: {}\n\n", all[0]);
    assert_eq!(through(OpenAIChat, true, &[broken.as_bytes()]).1, StreamEnd::default());
}

#[test]
fn an_empty_chunk_without_usage_is_not_hidden() {
    let all = [json!({"model": "m", "choices": []}), json!({"choices": [], "usage": null}), json!({"choices": [], "usage": {}})];
    let (seen, end) = through(OpenAIChat, true, &[chunks(&all).as_bytes()]);
    assert_eq!((seen, end.reported, end.complete), (chunks(&all).replace(",\"usage\":null", ""), None, true));
}

#[test]
fn a_server_that_ignores_stream_options_has_no_figures_at_its_end() {
    let all =
        [json!({"model": "m", "choices": [{"delta": {"content": "Hi"}}]}), json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})];
    let (_, end) = through(OpenAIChat, true, &[chunks(&all).as_bytes()]);
    assert_eq!(end, StreamEnd { reported: None, complete: true, failed: false });
}

#[test]
fn an_error_in_the_middle_of_a_stream_is_seen_and_shown() {
    let all = [
        json!({"model": "m", "choices": [{"delta": {"content": "Say \"error\""}}]}),
        json!({"error": {"message": "overloaded", "type": "server_error"}}),
    ];
    for hide in [true, false] {
        let text = chunks(&all);
        let (seen, end) = through(OpenAIChat, hide, &[text.as_bytes()]);
        assert_eq!((seen, end), (text, StreamEnd { reported: None, complete: true, failed: true }));
    }
}

#[test]
fn the_tier_of_a_stream_is_the_last_one_it_names() {
    let all = [
        json!({"model": "m", "service_tier": "priority", "choices": [{"delta": {"content": "x"}}]}),
        json!({"service_tier": "default", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    ];
    let tier = |all: &[Value]| through(OpenAIChat, true, &[chunks(all).as_bytes()]).1.reported.expect("figures").tier;
    assert_eq!(tier(&all), Some(ServiceTier::Standard));
    let silent = [all[0].clone(), json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})];
    assert_eq!(tier(&silent), Some(ServiceTier::Priority));
}

// ---- media ----

#[test]
fn images_and_sound_say_what_they_used_whole_or_streamed() {
    let image = json!({"input_tokens": 50, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}, "output_tokens": 1_056, "total_tokens": 1_106});
    let spoken = json!({"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 4, "audio_tokens": 10}, "output_tokens": 45, "total_tokens": 59});
    let of_image = Usage { input: 10, image_input: 40, image_output: 1_056, ..Usage::default() };
    let of_sound = Usage { input: 4, audio_input: 10, output: 45, ..Usage::default() };
    let mut split = image.clone();
    split["output_tokens_details"] = json!({"image_tokens": 1_000, "text_tokens": 56});
    let done = |kind: &str, usage: &Value| {
        events(&[json!({"type": format!("{kind}.partial_image"), "b64_json": "AA"}), json!({"type": kind, "usage": usage})])
    };
    for (path, body, expected) in [
        ("/v1/images/generations", json!({"created": 1, "data": [{"b64_json": "AAAA"}], "usage": image}).to_string(), Some(of_image)),
        ("/openai/deployments/d/images/edits", json!({"usage": image}).to_string(), Some(of_image)),
        ("/v1/images/generations", json!({"usage": split}).to_string(), Some(Usage { output: 56, image_output: 1_000, ..of_image })),
        ("/v1/images/generations", done("image_generation.completed", &image), Some(of_image)),
        ("/images/edits", done("image_edit.completed", &image), Some(of_image)),
        ("/v1/images/generations", json!({"created": 1, "data": [{"url": "https://x"}]}).to_string(), None),
        ("/v1/audio/transcriptions", json!({"text": "Hi", "usage": spoken}).to_string(), Some(of_sound)),
        ("/v1/audio/transcriptions?x=1", done("transcript.text.done", &spoken), Some(of_sound)),
        ("/v1/audio/transcriptions", json!({"text": "Hi", "usage": {"type": "duration", "seconds": 9}}).to_string(), None),
        ("/v1/audio/transcriptions", "Hi.".to_owned(), None),
        (
            "/v1/audio/speech",
            done("speech.audio.done", &json!({"input_tokens": 4, "output_tokens": 9})),
            Some(Usage { input: 4, output: 9, ..Usage::default() }),
        ),
        ("/v1/audio/speech", "\u{0}ID3".to_owned(), None),
        (
            "/v1/responses/compact",
            json!({"object": "response.compaction", "output": [], "usage": {"input_tokens": 9, "output_tokens": 3}}).to_string(),
            Some(Usage { input: 9, output: 3, ..Usage::default() }),
        ),
        ("/v1/responses/resp_1", json!({"usage": {"input_tokens": 9, "output_tokens": 3}}).to_string(), None),
        ("/v1/files", json!({"id": "file-1", "usage": {"input_tokens": 9, "output_tokens": 3}}).to_string(), None),
        ("/v1/moderations", json!({"results": []}).to_string(), None),
    ] {
        assert_eq!(usage_of_passthrough(path, body.as_bytes()).map(|r| r.usage), expected, "{path} {body}");
    }
    let drawn = json!({"usage": image, "svg_usage": {"model": "gpt-5.6-sol", "input_tokens": 7, "output_tokens": 8, "reasoning_tokens": 1, "total_tokens": 15}});
    let beyond = usage_of_passthrough("/v1/images/generations", drawn.to_string().as_bytes()).expect("figures").beyond;
    assert_eq!((beyond[0].model.as_deref(), beyond[0].usage.total()), (Some("gpt-5.6-sol"), 15));
}

// ---- properties ----

proptest! {
    #[test]
    fn the_meters_add_up_to_the_providers_total(input in 0..1u64 << 40, output in 0..1u64 << 40, parts in proptest::array::uniform6(0..1u64 << 41)) {
        let [cached, written, long, audio, image, spoken] = parts;
        let details = json!({"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": audio, "image_tokens": image,
            "cache_write_tokens_details": {"ttl_12h_tokens": long}, "cached_tokens_details": {"image_tokens": spoken}});
        let of_output = json!({"audio_tokens": spoken, "image_tokens": image});
        let usage = chat_usage(json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": details, "completion_tokens_details": of_output}));
        prop_assert_eq!((usage.total_input(), usage.total_output()), (input, output));
        let response = json!({"usage": {"input_tokens": input, "output_tokens": output, "input_tokens_details": details, "output_tokens_details": of_output}});
        prop_assert_eq!(reported(OpenAIResponses, &response).usage, usage);
    }

    #[test]
    fn no_text_of_a_response_has_more_bytes_than_the_bound(texts in proptest::collection::vec(".{0,60}", 1..5)) {
        let items: Vec<_> = texts.iter().map(|t| json!({"role": "user", "content": t})).collect();
        let r = with(OpenAIResponses, json!({"input": items}));
        let bytes: usize = r.prompt().parts.iter().map(|p| p.len()).sum();
        prop_assert!(r.input_bound() >= bytes as u64);
        prop_assert_eq!(r.prompt().parts.iter().map(|p| p.to_string()).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for protocol in [OpenAIResponses, OpenAICompletions, OpenAIEmbeddings] {
            let _ = parse(Addressed::plain(protocol), body.clone().into());
            let _ = usage_of_body(protocol, &body);
            let mut meter = StreamMeter::new(protocol, Framing::ServerSentEvents, false);
            prop_assert_eq!(meter.push(Bytes::from(body.clone())), body.clone());
        }
        let _ = usage_of_passthrough("/v1/images/edits", &body);
    }

    #[test]
    fn members_of_any_kind_never_panic(members in proptest::collection::btree_map(
        prop_oneof![Just("model"), Just("input"), Just("prompt"), Just("messages"), Just("tools"), Just("max_output_tokens"), Just("tool_choice")],
        prop_oneof![Just(json!(null)), Just(json!("x")), Just(json!(7)), Just(json!([])), Just(json!([null])), Just(json!([{"type": "message"}])),
            Just(json!([{"type": "message", "content": [null]}])), Just(json!({})), Just(json!([[1], "a", {}, 2.5, -1]))], 0..5)) {
        let body = json!(members).to_string();
        for protocol in [OpenAIChat, OpenAIResponses, OpenAICompletions, OpenAIEmbeddings] {
            if let Ok(request) = parse(Addressed::plain(protocol), body.clone().into()) {
                let change = Rewrite { model: Some("new".into()), max_output: Some(7), include_usage: true };
                let changed: Value = serde_json::from_slice(&request.rewrite(&change)).expect("JSON");
                prop_assert_eq!(&changed["model"], &json!("new"));
            }
        }
    }

    #[test]
    fn how_the_network_cuts_a_streamed_response_changes_nothing(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12), crlf in any::<bool>()) {
        let text = events(&response_stream("completed", json!({"input_tokens": 3, "output_tokens": 4})));
        let text = if crlf { text.replace('\n', "\r\n") } else { text };
        let mut at: Vec<_> = cuts.iter().map(|i| i.index(text.len())).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
        let (seen, end) = through(OpenAIResponses, false, &pieces);
        prop_assert_eq!(seen, text);
        prop_assert_eq!(end.reported.map(|r| r.usage.total()), Some(7));
    }
}
