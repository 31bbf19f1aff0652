//! What a stream says at its end, and what a caller gets of it; sound and images whole, too.

use super::*;

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
