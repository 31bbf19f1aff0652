//! What an answer says that was used.

use super::*;

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
