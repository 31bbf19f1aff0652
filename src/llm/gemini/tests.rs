//! Wire examples as Google sends them, and properties that hold for any bytes.

use std::borrow::Cow;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::array::Elements;
use crate::core::policy::{Capability, Protocol};
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::core::usage::Usage;
use crate::llm::address::recognise;
use crate::llm::{Framing, Request, RequestError, Rewrite, StreamEnd, StreamMeter, parse, usage_of_body};

const WINDOW: u64 = 1_048_576;

fn read(path: &str, body: impl Into<Bytes>) -> Result<Request, RequestError> {
    parse(recognise(path).expect("a call"), body.into())
}

fn generate(body: &Value) -> Request {
    read("/v1beta/models/gemini-2.5-flash:generateContent", body.to_string()).expect("a valid request")
}

/// A request of one short turn, with one more member.
fn with(name: &str, value: Value) -> Value {
    let mut body = json!({"contents": [{"role": "user", "parts": [{"text": "Hi."}]}]});
    body[name] = value;
    body
}

// ---- requests ----

#[test]
fn a_request_says_what_it_asks_for_in_either_spelling() {
    let camel = json!({
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "What is\nthis?"}, {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
            {"role": "model", "parts": [{"text": "Hm.", "thought": true}, {"functionCall": {"name": "f", "args": {"q": "secret"}}, "thoughtSignature": "AA=="}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"answer": "found"}}}]}
        ],
        "tools": [{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}],
        "serviceTier": "flex",
        "generationConfig": {"maxOutputTokens": 100, "candidateCount": 2, "responseMimeType": "application/json", "responseJsonSchema": {}, "thinkingConfig": {"thinkingBudget": 50}}
    });
    let snake = json!({
        "system_instruction": {"parts": {"text": "Be kind."}},
        "contents": [
            {"parts": [{"text": "What is\nthis?"}, {"inline_data": {"mime_type": "image/png", "data": "AAAA"}}]},
            {"role": "model", "parts": [{"text": "Hm.", "thought": true}, {"function_call": {"name": "f", "args": {"q": "secret"}}, "thought_signature": "AA=="}]},
            {"role": "function", "parts": {"function_response": {"name": "f", "response": {"answer": "found"}}}}
        ],
        "tools": {"function_declarations": [{"name": "f"}, {"name": "g"}]},
        "service_tier": "FLEX",
        "generation_config": {"max_output_tokens": "100", "candidate_count": 2.0, "response_mime_type": "application/json", "response_json_schema": {}, "thinking_config": {"thinking_budget": 50}}
    });
    for body in [camel, snake] {
        let r = generate(&body);
        assert_eq!((r.model(), r.stream(), r.max_output(), r.choices()), ("gemini-2.5-flash", false, Some(100), 2));
        let needs = [Capability::Tools, Capability::Vision, Capability::JsonSchema, Capability::Reasoning];
        assert_eq!(r.required().iter().copied().collect::<Vec<_>>(), needs);
        assert_eq!((r.tier(), r.has_media(), r.surcharges()), (AskedTier::Said(ServiceTier::Flex), true, &[][..]));
        let prompt = r.prompt();
        assert_eq!((prompt.turns, prompt.tools, prompt.parts[prompt.last_user].as_ref()), (3, 2, "What is\nthis?"));
        for text in ["Be kind.", "Hm."] {
            // Nothing in it is escaped, so it is not copied.
            assert!(prompt.parts.iter().any(|part| matches!(part, Cow::Borrowed(part) if *part == text)), "{text} in {:?}", prompt.parts);
        }
        for text in ["secret", "found"] {
            assert!(prompt.parts.iter().any(|part| part.contains(text)), "{text} in {:?}", prompt.parts);
        }
        assert!(r.billable_input(WINDOW) < 10_000);
    }
}

#[test]
fn what_no_bytes_bound_counts_as_the_window() {
    let part = |part: Value| with("contents", json!([{"parts": [part]}]));
    let nested = json!({"functionResponse": {"name": "f", "response": {}, "parts": [{"fileData": {"fileUri": "gs://x"}}]}});
    for body in [
        part(json!({"fileData": {"mimeType": "image/png", "fileUri": "gs://x"}})),
        part(json!({"file_data": {"file_uri": "https://x"}})),
        part(json!({"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}})),
        part(json!({"inline_data": {"mime_type": "video/mp4", "data": "AAAA"}})),
        part(json!({"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}})),
        part(json!({"inlineData": {"data": "AAAA"}})),
        part(json!({"somethingNew": {"uri": "gs://x"}})),
        part(nested),
        with("cachedContent", json!("cachedContents/x")),
        with("cached_content", json!("cachedContents/x")),
        with("continuationToken", json!("AAAA")),
    ] {
        let r = generate(&body);
        assert_eq!((r.billable_input(WINDOW), r.has_media()), (WINDOW, true), "{body}");
    }
    assert!(!generate(&with("labels", json!({}))).has_media());
}

#[test]
fn an_image_counts_as_the_largest_that_any_model_reads_and_not_by_its_bytes() {
    let image = |data: &str| with("contents", json!([{"parts": [{"inlineData": {"mimeType": "Image/JPEG", "data": data}}]}]));
    let (small, large) = (generate(&image("AAAA")).billable_input(WINDOW), generate(&image(&"A".repeat(400_000))).billable_input(WINDOW));
    assert_eq!(small, large);
    assert!((6_450..7_000).contains(&small), "{small}");
}

#[test]
fn what_runs_at_the_provider_is_named_and_reads_a_window_more() {
    for (tools, named) in [
        (json!([{"googleSearch": {}}]), vec!["googleSearch"]),
        (json!([{"google_search_retrieval": {}}, {"code_execution": {}}]), vec!["google_search_retrieval", "code_execution"]),
        (json!({"urlContext": {}, "googleMaps": {}, "functionDeclarations": [{"name": "f"}]}), vec!["googleMaps", "urlContext"]),
        (json!([{"toolOfTomorrow": {}}]), vec!["toolOfTomorrow"]),
        (json!([{"googleSearch": null, "functionDeclarations": []}]), vec![]),
    ] {
        let r = generate(&with("tools", tools));
        let mut surcharges = r.surcharges().to_vec();
        surcharges.sort();
        let mut named: Vec<String> = named.into_iter().map(str::to_owned).collect();
        named.sort();
        assert_eq!(surcharges, named);
        let once = named.is_empty();
        assert_eq!((r.reads_input_once(), r.billable_input(WINDOW) == 2 * WINDOW), (once, !once));
    }
    let routed = generate(&with("generationConfig", json!({"routingConfig": {"autoMode": {}}})));
    assert_eq!(routed.surcharges(), ["routingConfig"]);
}

#[test]
fn sound_and_images_may_be_asked_for() {
    let media = |config: Value| generate(&with("generationConfig", config)).has_media();
    for config in [
        json!({"responseModalities": ["TEXT", "IMAGE"]}),
        json!({"response_modalities": ["AUDIO"]}),
        json!({"responseModalities": [2]}),
        json!({"speechConfig": {}}),
    ] {
        assert!(media(config.clone()), "{config}");
    }
    for config in [json!({"responseModalities": ["TEXT"]}), json!({"responseModalities": []}), json!({})] {
        assert!(!media(config.clone()), "{config}");
    }
}

#[test]
fn a_bad_request_says_what_is_wrong() {
    for (body, says) in [
        ("[]".to_owned(), "not a valid request"),
        ("{}".to_owned(), "contents"),
        (r#"{"contents": [], "generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}}"#.to_owned(), "duplicate"),
        (r#"{"contents": [], "generationConfig": {"maxOutputTokens": 1, "max\u004futputTokens": 9}}"#.to_owned(), "duplicate"),
        (r#"{"contents": [], "generationConfig": {"maxOutputTokens": 1}, "generation_config": {}}"#.to_owned(), "duplicate"),
        (with("generationConfig", json!({"maxOutputTokens": 0})).to_string(), "maxOutputTokens"),
        (with("generationConfig", json!({"maxOutputTokens": -1})).to_string(), "maxOutputTokens"),
        (with("generationConfig", json!({"maxOutputTokens": "many"})).to_string(), "maxOutputTokens"),
        (with("generationConfig", json!({"candidateCount": 129})).to_string(), "candidateCount"),
        (with("generationConfig", json!({"candidateCount": -1})).to_string(), "candidateCount"),
        (with("generationConfig", json!([])).to_string(), "not a valid request"),
    ] {
        let error = read("/v1beta/models/g:generateContent", body.clone()).expect_err(&body).to_string();
        assert!(error.contains(says), "{body}: {error}");
    }
}

#[test]
fn the_cap_goes_where_the_caller_has_one_or_would() {
    let cap = |body: &str| {
        let r = read("/v1beta/models/g:generateContent", body.to_owned()).expect("a valid request");
        let changed = r.rewrite(&Rewrite { model: Some("other".into()), max_output: Some(7), include_usage: true });
        String::from_utf8(changed.to_vec()).expect("text")
    };
    for (body, expected) in [
        (r#"{ "contents":[]}"#, r#"{"generationConfig":{"maxOutputTokens":7}, "contents":[]}"#),
        (r#"{"contents":[], "generationConfig": null }"#, r#"{"contents":[], "generationConfig": {"maxOutputTokens":7} }"#),
        (r#"{"contents":[],"generation_config":{ }}"#, r#"{"contents":[],"generation_config":{"maxOutputTokens":7 }}"#),
        (r#"{"contents":[],"generationConfig":{"topK":1}}"#, r#"{"contents":[],"generationConfig":{"maxOutputTokens":7,"topK":1}}"#),
        (r#"{"contents":[],"generationConfig":{"maxOutputTokens":null}}"#, r#"{"contents":[],"generationConfig":{"maxOutputTokens":7}}"#),
        (
            r#"{"contents":[],"generationConfig":{"max_output_tokens":"99"}}"#,
            r#"{"contents":[],"generationConfig":{"max_output_tokens":7}}"#,
        ),
        (
            r#"{"contents":[],"generationConfig":{"max_output_tokens":"7"}}"#,
            r#"{"contents":[],"generationConfig":{"max_output_tokens":"7"}}"#,
        ),
    ] {
        assert_eq!(cap(body), expected);
    }
}

#[test]
fn embeddings_have_no_output_and_are_bounded_by_their_texts() {
    let one = json!({"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "Grüezi"}]}, "title": "T", "taskType": "RETRIEVAL_DOCUMENT"});
    let batch = json!({"requests": [one, {"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "b"}]}}]});
    let predict = json!({"instances": [{"content": "Grüezi", "title": "T", "task_type": "X"}], "parameters": {"outputDimensionality": 9}});
    for (verb, body, bound) in [("embedContent", &one, 8 + 32), ("batchEmbedContents", &batch, 9 + 64), ("predict", &predict, 8 + 32)] {
        let r = read(&format!("/v1beta/models/e:{verb}"), body.to_string()).expect("a valid request");
        assert_eq!((r.choices(), r.max_output(), r.billable_input(2_048)), (0, None, bound), "{verb}");
        let changed = r.rewrite(&Rewrite { model: Some("x\"y".into()), max_output: Some(7), include_usage: false });
        let expected = body.to_string().replace("models/gemini-embedding-001", "models/x\\\"y");
        assert_eq!(std::str::from_utf8(&changed), Ok(expected.as_str()));
    }
    for (verb, body) in [("predict", json!({"instances": [{"prompt": "a cat"}]})), ("embedContent", json!({})), ("predict", one)] {
        assert!(read(&format!("/v1beta/models/imagen:{verb}"), body.to_string()).is_err(), "{body}");
    }
}

// ---- usage ----

fn figures(usage: Value) -> Option<Usage> {
    let answer = json!({"candidates": [], "modelVersion": "gemini-2.5-pro", "usageMetadata": usage});
    usage_of_body(Protocol::GeminiGenerate, answer.to_string().as_bytes()).map(|reported| reported.usage)
}

#[test]
fn a_cached_prompt_is_counted_once_and_thoughts_and_tools_are_added() {
    let usage =
        figures(json!({"promptTokenCount": 100, "cachedContentTokenCount": 60, "candidatesTokenCount": 20, "thoughtsTokenCount": 15,
        "toolUsePromptTokenCount": 7, "totalTokenCount": 142}));
    assert_eq!(usage, Some(Usage { input: 47, cached_read: 60, output: 35, ..Usage::default() }));
}

#[test]
fn sound_and_images_are_told_apart_and_what_was_cached_of_them_is_not_counted_again() {
    let details = |text: u64, image: u64, audio: u64| json!([{"modality": "TEXT", "tokenCount": text}, {"modality": "IMAGE", "tokenCount": image}, {"modality": "AUDIO", "tokenCount": audio}]);
    let usage = figures(json!({"promptTokenCount": 100, "promptTokensDetails": details(50, 30, 20), "cachedContentTokenCount": 40,
        "cacheTokensDetails": details(25, 0, 15), "candidatesTokenCount": 50, "candidatesTokensDetails": details(10, 40, 0),
        "toolUsePromptTokenCount": 9, "toolUsePromptTokensDetails": details(5, 4, 0), "totalTokenCount": 159}));
    let expected = Usage { input: 30, cached_read: 40, audio_input: 5, image_input: 34, output: 10, image_output: 40, ..Usage::default() };
    assert_eq!(usage, Some(expected));
}

#[test]
fn the_total_says_what_the_parts_include() {
    for (usage, output, input) in [
        // Thoughts among the candidates.
        (json!({"promptTokenCount": 10, "candidatesTokenCount": 20, "thoughtsTokenCount": 5, "totalTokenCount": 30}), 20, 10),
        // What tools returned within the prompt.
        (json!({"promptTokenCount": 10, "candidatesTokenCount": 20, "toolUsePromptTokenCount": 4, "totalTokenCount": 30}), 20, 10),
        // Thoughts that nothing else tells.
        (json!({"promptTokenCount": 10, "candidatesTokenCount": 20, "totalTokenCount": 95}), 85, 10),
        // Figures that contradict each other.
        (json!({"promptTokenCount": 10, "candidatesTokenCount": 20, "thoughtsTokenCount": 5, "totalTokenCount": 3}), 25, 10),
        // All of it was thought.
        (json!({"promptTokenCount": 10, "thoughtsTokenCount": 5, "totalTokenCount": 15}), 5, 10),
    ] {
        assert_eq!(figures(usage.clone()), Some(Usage { input, output, ..Usage::default() }), "{usage}");
    }
}

#[test]
fn missing_figures_are_not_zero() {
    assert_eq!(figures(json!({})), None);
    assert_eq!(figures(json!({"trafficType": "ON_DEMAND"})), None);
    assert_eq!(figures(json!({"candidatesTokenCount": 5})), None);
    assert_eq!(usage_of_body(Protocol::GeminiGenerate, b"{}"), None);
    assert_eq!(figures(json!({"promptTokenCount": 0})), Some(Usage::default()));
}

#[test]
fn an_answer_says_how_it_was_served() {
    let of = |member: &str, value: &str| {
        let usage = json!({"promptTokenCount": 1, member: value});
        let answer = json!({"response": {"modelVersion": "g", "usageMetadata": usage}});
        let reported = usage_of_body(Protocol::GeminiGenerate, answer.to_string().as_bytes()).expect("usage");
        assert_eq!(reported.model.as_deref(), Some("g"));
        (reported.tier, reported.prepaid)
    };
    for (member, value, expected) in [
        ("trafficType", "ON_DEMAND", (Some(ServiceTier::Standard), false)),
        ("trafficType", "ON_DEMAND_PRIORITY", (Some(ServiceTier::Priority), false)),
        ("trafficType", "ON_DEMAND_FLEX", (Some(ServiceTier::Flex), false)),
        ("trafficType", "PROVISIONED_THROUGHPUT", (None, true)),
        ("serviceTier", "flex", (Some(ServiceTier::Flex), false)),
        ("serviceTier", "standard", (Some(ServiceTier::Standard), false)),
    ] {
        assert_eq!(of(member, value), expected, "{member}: {value}");
    }
}

#[test]
fn searches_are_charged_as_the_model_charges_them() {
    let fees = |model: &str, grounding: Value| {
        let answer =
            json!({"candidates": [{"groundingMetadata": grounding}], "modelVersion": model, "usageMetadata": {"promptTokenCount": 1}});
        usage_of_body(Protocol::GeminiGenerate, answer.to_string().as_bytes()).expect("usage").usage.web_searches
    };
    let four = json!({"webSearchQueries": ["", "a", "b", "", "a"], "imageSearchQueries": ["a", "c"]});
    let only_results = json!({"groundingChunks": [{"web": {"uri": "https://x"}}]});
    assert_eq!((fees("gemini-3.5-flash", four.clone()), fees("gemini-2.5-flash", four)), (4, 1));
    assert_eq!((fees("gemini-3.5-flash", only_results.clone()), fees("gemini-2.0-flash", only_results)), (1, 1));
    assert_eq!(fees("gemini-3.5-flash", json!({"webSearchQueries": [], "groundingChunks": [{"maps": {}}]})), 0);
}

#[test]
fn embeddings_say_what_they_used_where_they_do() {
    let of = |answer: Value| usage_of_body(Protocol::GeminiEmbed, answer.to_string().as_bytes()).map(|reported| reported.usage);
    let prediction = |count: Value| json!({"embeddings": {"values": [0.1], "statistics": {"token_count": count, "truncated": false}}});
    let input = |input| Some(Usage { input, ..Usage::default() });
    assert_eq!(of(json!({"embedding": {"values": [0.1]}})), None);
    assert_eq!(of(json!({"embeddings": [], "usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}})), input(8));
    assert_eq!(of(json!({"predictions": [prediction(json!(3.0)), prediction(json!(4))]})), input(7));
    assert_eq!(of(json!({"predictions": [prediction(json!(3.0)), {"embeddings": {"values": []}}]})), None);
    assert_eq!(of(json!({"predictions": []})), None);
}

proptest! {
    #[test]
    fn the_meters_sum_to_the_providers_total(prompt in 0..10_000_u64, cached in 0..12_000_u64, candidates in 0..5_000_u64, thoughts in 0..5_000_u64,
                                             tools in 0..5_000_u64, image in 0..12_000_u64, audio in 0..12_000_u64) {
        let details = json!([{"modality": "IMAGE", "tokenCount": image}, {"modality": "AUDIO", "tokenCount": audio}]);
        let total = prompt + candidates + thoughts + tools;
        let usage = figures(json!({"promptTokenCount": prompt, "cachedContentTokenCount": cached, "candidatesTokenCount": candidates,
            "thoughtsTokenCount": thoughts, "toolUsePromptTokenCount": tools, "totalTokenCount": total, "promptTokensDetails": details,
            "candidatesTokensDetails": details, "toolUsePromptTokensDetails": details})).expect("usage");
        prop_assert_eq!((usage.total(), usage.total_output()), (total, candidates + thoughts));
        prop_assert_eq!(usage.cached_read, cached.min(prompt));
    }
}

// ---- streams ----

const EVENTS: [&str; 4] = [
    r#"{"candidates":[{"content":{"parts":[{"text":"\"]}[{ "}],"role":"model"}}],"usageMetadata":{"trafficType":"ON_DEMAND"},"modelVersion":"gemini-2.5-pro"}"#,
    r#"{"candidates":[{"content":{"parts":[{"text":"Grüezi","thought":true}]}}],"usageMetadata":{"promptTokenCount":9,"thoughtsTokenCount":3,"totalTokenCount":12,"promptTokensDetails":[{"modality":"TEXT","tokenCount":9}]}}"#,
    r#"{"candidates":[{"content":{"parts":[{"text":" x"}]},"groundingMetadata":{"webSearchQueries":["a"]}}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":1,"thoughtsTokenCount":3,"totalTokenCount":13}}"#,
    r#"{"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"STOP","groundingMetadata":{"webSearchQueries":["b"]}}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4,"thoughtsTokenCount":3,"totalTokenCount":16}}"#,
];

fn framed(framing: Framing, events: &[&str]) -> String {
    match framing {
        Framing::JsonArray => format!("[{}\n]\n", events.join(",\r\n")),
        _ => events.iter().map(|event| format!("data: {event}\r\n\r\n")).collect(),
    }
}

fn through(framing: Framing, chunks: &[&[u8]]) -> (Vec<u8>, StreamEnd, Option<Usage>) {
    let mut meter = StreamMeter::new(Protocol::GeminiGenerate, framing, false);
    let mut seen = Vec::new();
    for chunk in chunks {
        seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
    }
    seen.extend_from_slice(&meter.flush());
    let input = meter.tally().input;
    (seen, meter.finish(), input)
}

#[test]
fn the_last_figures_of_a_stream_hold_and_come_with_its_end() {
    for framing in [Framing::ServerSentEvents, Framing::JsonArray] {
        let text = framed(framing, &EVENTS);
        let (seen, end, input) = through(framing, &[text.as_bytes()]);
        assert_eq!(seen, text.as_bytes());
        let reported = end.reported.expect("figures");
        assert_eq!(reported.usage, Usage { input: 9, output: 7, web_searches: 1, ..Usage::default() });
        assert_eq!((end.complete, end.failed, reported.model.as_deref()), (true, false, Some("gemini-2.5-pro")));
        assert_eq!(input, Some(Usage { input: 9, ..Usage::default() }));
    }
}

#[test]
fn a_stream_that_breaks_off_has_no_final_usage() {
    for framing in [Framing::ServerSentEvents, Framing::JsonArray] {
        let text = framed(framing, &EVENTS);
        let cut = text.find("finishReason").expect("the last event");
        let (_, end, _) = through(framing, &[&text.as_bytes()[..cut]]);
        assert_eq!(end, StreamEnd::default());
    }
}

#[test]
fn a_stream_ends_when_all_its_candidates_do() {
    let event = |index: u64, reason: Value, output: u64| {
        json!({"candidates": [{"index": index, "finishReason": reason}], "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": output}}).to_string()
    };
    let events = [event(0, Value::Null, 1), event(1, Value::Null, 2), event(0, json!("STOP"), 3), event(1, json!("MAX_TOKENS"), 4)];
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let output = |events: &[&str]| {
        let (_, end, _) = through(Framing::ServerSentEvents, &[framed(Framing::ServerSentEvents, events).as_bytes()]);
        end.reported.map(|reported| reported.usage.output)
    };
    assert_eq!((output(&events[..3]), output(&events)), (None, Some(4)));
}

#[test]
fn figures_that_come_after_the_end_are_waited_for() {
    let ended = r#"{"candidates":[{"finishReason":"STOP"}]}"#;
    let late = r#"{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4}}"#;
    let end = |events: &[&str]| through(Framing::ServerSentEvents, &[framed(Framing::ServerSentEvents, events).as_bytes()]).1;
    assert_eq!(end(&[EVENTS[1], ended]).reported, None);
    assert_eq!(end(&[EVENTS[1], ended, late]).reported.map(|reported| reported.usage.output), Some(4));
}

#[test]
fn a_refused_prompt_and_an_error_end_a_stream() {
    let refused = r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#;
    let error = r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#;
    for framing in [Framing::ServerSentEvents, Framing::JsonArray] {
        let (_, end, _) = through(framing, &[framed(framing, &[refused]).as_bytes()]);
        assert_eq!((end.complete, end.reported.map(|reported| reported.usage.input)), (true, Some(9)));
        let (_, end, _) = through(framing, &[framed(framing, &[EVENTS[1], error]).as_bytes()]);
        assert_eq!(end, StreamEnd { failed: true, ..StreamEnd::default() });
    }
    let (_, end, _) = through(Framing::JsonArray, &[error.as_bytes()]);
    assert!(end.failed);
}

#[test]
fn the_input_is_only_known_once_it_is_told_of_what_it_is() {
    let event = |details: Value| {
        json!({"usageMetadata": {"promptTokenCount": 9, "cachedContentTokenCount": 5, "promptTokensDetails": details}}).to_string()
    };
    let input = |details| through(Framing::ServerSentEvents, &[framed(Framing::ServerSentEvents, &[&event(details)]).as_bytes()]).2;
    assert_eq!(input(json!([])), None);
    assert_eq!(input(json!([{"modality": "TEXT", "tokenCount": 4}])), None);
    let told = json!([{"modality": "TEXT", "tokenCount": 4}, {"modality": "AUDIO", "tokenCount": 5}]);
    assert_eq!(input(told), Some(Usage { input: 4, audio_input: 5, ..Usage::default() }));
}

// ---- arrays ----

fn cut(text: &[u8], at: &[usize]) -> Vec<Bytes> {
    let mut elements = Elements::default();
    let mut ends = at.to_vec();
    ends.extend([0, text.len()]);
    ends.sort_unstable();
    ends.windows(2).flat_map(|ends| elements.push(&Bytes::copy_from_slice(&text[ends[0]..ends[1]]))).collect()
}

#[test]
fn an_array_is_cut_into_its_elements() {
    for (text, expected) in [
        (r#"[{"a":1},{"b":[2,"]"]}]"#, vec![r#"{"a":1}"#, r#"{"b":[2,"]"]}"#]),
        ("\u{feff} [\n{\"a\":\"\\\"}\\\\\"}\r\n,\r\n[1]\n] {\"late\":1}", vec!["{\"a\":\"\\\"}\\\\\"}", "[1]"]),
        (r#"["},{", 5, null, {}]"#, vec![r#""},{""#, "{}"]),
        (r#"{"error":{"code":500}} []"#, vec![r#"{"error":{"code":500}}"#]),
        ("[]", vec![]),
        (r#"[{"unfinished":"#, vec![]),
        (r#"]}[{}"#, vec!["{}"]),
    ] {
        assert_eq!(cut(text.as_bytes(), &[]), expected, "{text}");
        let all: Vec<usize> = (0..text.len()).collect();
        assert_eq!(cut(text.as_bytes(), &all), expected, "{text}, byte by byte");
    }
}

#[test]
fn an_endless_element_is_passed_over_and_not_kept() {
    let mut elements = Elements::default();
    let chunk = Bytes::from(vec![b'x'; 1 << 19]);
    assert_eq!(elements.push(&Bytes::from_static(b"[{\"a\":\"")).len(), 0);
    elements.push(&chunk);
    assert!(!elements.overflowed());
    elements.push(&chunk);
    assert!(elements.overflowed());
    assert_eq!(elements.push(&Bytes::from_static(b"\"},{}]")).len(), 0);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), r#"[a-z\[\]{}",\\é]{0,12}"#.prop_map(Value::from)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(r#"[a-z"\\\]]{1,6}"#, inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
        ]
    })
}

proptest! {
    #[test]
    fn any_array_comes_out_element_by_element(items in proptest::collection::vec(any_json(), 0..6), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12), pretty in any::<bool>()) {
        let items: Vec<Value> = items.into_iter().filter(|item| !item.is_null() && !item.is_number()).collect();
        let text = if pretty { serde_json::to_string_pretty(&items) } else { serde_json::to_string(&items) }.expect("JSON");
        let at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        let found: Vec<Value> = cut(text.as_bytes(), &at).iter().map(|element| serde_json::from_slice(element).expect("JSON")).collect();
        prop_assert_eq!(found, items);
    }

    #[test]
    fn how_the_network_cuts_a_stream_changes_nothing(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        for framing in [Framing::ServerSentEvents, Framing::JsonArray] {
            let text = framed(framing, &EVENTS);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            at.extend([0, text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|at| &text.as_bytes()[at[0]..at[1]]).collect();
            prop_assert_eq!(through(framing, &chunks), through(framing, &[text.as_bytes()]));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"[]{}\",\\: ".to_vec())], 0..200)) {
        for path in ["/v1beta/models/g:generateContent", "/v1beta/models/g:embedContent", "/v1beta/models/g:predict"] {
            let _ = read(path, body.clone());
        }
        for protocol in [Protocol::GeminiGenerate, Protocol::GeminiEmbed] {
            let _ = usage_of_body(protocol, &body);
        }
        for framing in [Framing::ServerSentEvents, Framing::JsonArray] {
            prop_assert_eq!(&through(framing, &[&body]).0, &body);
        }
    }

    #[test]
    fn a_cap_is_all_that_a_rewrite_changes(extra in proptest::collection::btree_map("x[a-z]{1,6}", any_json(), 0..5), config in proptest::option::of(proptest::collection::btree_map("y[a-z]{1,6}", any_json(), 0..3)), cap in 1..1_000_u64) {
        let mut body = with("generationConfig", json!(config));
        if config.is_none() && extra.len() % 2 == 0 {
            body.as_object_mut().expect("an object").remove("generationConfig");
        }
        for (key, value) in extra {
            body[key] = value;
        }
        let changed = generate(&body).rewrite(&Rewrite { max_output: Some(cap), ..Rewrite::default() });
        if !body["generationConfig"].is_object() {
            body["generationConfig"] = json!({});
        }
        body["generationConfig"]["maxOutputTokens"] = json!(cap);
        prop_assert_eq!(serde_json::from_slice::<Value>(&changed).expect("JSON"), body);
    }

    #[test]
    fn no_text_has_more_bytes_than_the_bound(texts in proptest::collection::vec(".{0,60}", 1..5)) {
        let parts: Vec<_> = texts.iter().map(|text| json!({"text": text})).collect();
        let r = generate(&json!({"contents": [{"role": "user", "parts": parts}]}));
        let bytes: usize = texts.iter().map(String::len).sum();
        prop_assert!(r.billable_input(WINDOW) >= bytes as u64);
        prop_assert_eq!(r.prompt().parts.iter().map(|part| part.to_string()).collect::<Vec<_>>(), texts);
    }
}
