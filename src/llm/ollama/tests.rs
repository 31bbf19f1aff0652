//! Wire examples as Ollama sends them, and properties that hold for any bytes.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::core::policy::{Capability, Protocol};
use crate::core::usage::Usage;
use crate::llm::{Addressed, Framing, Request, RequestError, Rewrite, StreamEnd, StreamMeter, parse, usage_of_body};

use Protocol::{OllamaChat, OllamaEmbed, OllamaGenerate};

fn read(protocol: Protocol, body: impl Into<Bytes>) -> Result<Request, RequestError> {
    parse(Addressed::plain(protocol), body.into())
}

fn request(protocol: Protocol, body: &Value) -> Request {
    read(protocol, body.to_string()).expect("a valid request")
}

#[test]
fn a_chat_says_what_it_asks_for_and_streams_unless_it_says_no() {
    let body = json!({
        "model": "qwen3:8b", "think": "high", "format": {"type": "object"}, "options": {"num_predict": 50, "num_ctx": 4096},
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "What is\nthis?", "images": ["AAAA"]},
            {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [{"function": {"name": "f", "arguments": {"q": "secret"}}}]},
            {"role": "tool", "content": "found", "tool_name": "f"}
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}]
    });
    let r = request(OllamaChat, &body);
    assert_eq!((r.model(), r.stream(), r.max_output(), r.choices(), r.wants_usage()), ("qwen3:8b", true, Some(50), 1, true));
    let needs = [Capability::Tools, Capability::Vision, Capability::JsonSchema, Capability::Reasoning];
    assert_eq!(r.required().iter().copied().collect::<Vec<_>>(), needs);
    let prompt = r.prompt();
    assert_eq!((prompt.turns, prompt.tools, prompt.parts[prompt.last_user].as_ref()), (4, 1, "What is\nthis?"));
    for text in ["Be kind.", "Hm.", "found"] {
        assert!(prompt.parts.iter().any(|part| part == text), "{text} in {:?}", prompt.parts);
    }
    assert!(prompt.parts.iter().any(|part| part.contains("secret")));
    let mut still = body;
    still["stream"] = json!(false);
    assert!(!request(OllamaChat, &still).stream());
    still["stream"] = json!(null);
    assert!(request(OllamaChat, &still).stream());
}

#[test]
fn a_completion_and_embeddings_say_what_they_ask_for() {
    let r = request(OllamaGenerate, &json!({"model": "m", "prompt": "Why?", "system": "Be kind.", "raw": true, "stream": false}));
    assert_eq!((r.stream(), r.max_output(), r.prompt().parts.len()), (false, None, 2));
    assert_eq!(r.billable_input(8_192), r.billable_input(1));
    let going_on = request(OllamaGenerate, &json!({"model": "m", "prompt": "Why?", "context": [1, 2, 3]}));
    assert_eq!(going_on.billable_input(131_072), 131_072);
    assert!(read(OllamaGenerate, r#"{"model": "m"}"#).is_ok(), "this loads the model");
    for (input, bound) in [(json!("Grüezi"), 7 + 16), (json!(["a", "bc"]), 3 + 32), (json!(null), 0)] {
        let r = request(OllamaEmbed, &json!({"model": "m", "input": input}));
        assert_eq!((r.choices(), r.stream(), r.billable_input(512)), (0, false, bound));
    }
}

#[test]
fn an_image_counts_as_an_image_and_not_by_its_bytes() {
    let bound = |data: String| {
        let chat = json!({"model": "m", "messages": [{"role": "user", "content": "", "images": [data]}]});
        request(OllamaChat, &chat).billable_input(131_072)
    };
    assert_eq!(bound("AAAA".to_owned()), bound("A".repeat(400_000)));
    assert!((16_384..20_000).contains(&bound(String::new())));
}

#[test]
fn the_cap_goes_where_the_caller_has_one_or_would_and_unlimited_is_none() {
    for (options, expected) in [
        ("", r#"{"options":{"num_predict":7},"model":"m"}"#),
        (r#","options":null"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{ }"#, r#"{"model":"m","options":{"num_predict":7 }}"#),
        (r#","options":{"seed":1}"#, r#"{"model":"m","options":{"num_predict":7,"seed":1}}"#),
        (r#","options":{"num_predict":-1}"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{"num_predict":-2.0}"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{"num_predict":0}"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{"num_predict":null}"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{"num_predict":1e3}"#, r#"{"model":"m","options":{"num_predict":7}}"#),
        (r#","options":{"num_predict":7.9}"#, r#"{"model":"m","options":{"num_predict":7.9}}"#),
        (r#","options":{"num_predict":7,"num_predict":-1}"#, r#"{"model":"m","options":{"num_predict":7,"num_predict":7}}"#),
        (r#","options":{"num_predict":3,"num_predict":9}"#, r#"{"model":"m","options":{"num_predict":7,"num_predict":7}}"#),
    ] {
        let body = format!(r#"{{"model":"m"{options}}}"#);
        let r = read(OllamaGenerate, body.clone()).expect(&body);
        let changed = r.rewrite(&Rewrite { max_output: Some(7), ..Rewrite::default() });
        assert_eq!(std::str::from_utf8(&changed), Ok(expected), "{body}");
    }
}

#[test]
fn a_member_that_ollama_would_take_for_another_is_refused() {
    for body in [
        r#"{"model": "m", "Options": {"num_predict": -1}}"#,
        r#"{"model": "m", "options": {"num_predict": 5}, "OPTIONS": {"num_predict": -1}}"#,
        r#"{"model": "m", "option\u017f": {"num_predict": -1}}"#,
        r#"{"model": "m", "Model": "dearer"}"#,
        r#"{"model": "m", "model": "dearer"}"#,
        r#"{"model": "m", "thin\u212a": true}"#,
        r#"{"model": "m", "messages": [{"role": "user", "Images": ["AAAA"]}]}"#,
    ] {
        let error = read(OllamaChat, body).expect_err(body).to_string();
        assert!(error.contains("once"), "{body}: {error}");
    }
    for (body, says) in [("[]", "object"), ("{}", "empty"), (r#"{"model": "m", "options": {"num_predict": "9"}}"#, "num_predict")] {
        assert!(read(OllamaChat, body).expect_err(body).to_string().contains(says), "{body}");
    }
    assert!(read(OllamaChat, r#"{"model": "m", "Keep_Alive": 5}"#).is_ok());
}

#[test]
fn the_prompt_includes_what_was_cached_and_missing_is_not_zero() {
    let of = |answer: Value| usage_of_body(OllamaChat, answer.to_string().as_bytes()).map(|reported| reported.usage);
    let whole = json!({"model": "m", "done": true, "done_reason": "stop", "prompt_eval_count": 26, "prompt_eval_cached_count": 20, "eval_count": 9});
    assert_eq!(of(whole), Some(Usage { input: 6, cached_read: 20, output: 9, ..Usage::default() }));
    assert_eq!(of(json!({"done": true, "prompt_eval_count": 26})), Some(Usage { input: 26, ..Usage::default() }));
    assert_eq!(of(json!({"done": true, "done_reason": "stop", "eval_count": 9})), None);
    assert_eq!(of(json!({"done": false, "prompt_eval_count": 26})), None);
    assert_eq!(of(json!({"done": true, "done_reason": "load"})), Some(Usage::default()));
    assert_eq!(of(json!({"done": true, "done_reason": "unload"})), Some(Usage::default()));
    let embedding = json!({"model": "m", "embeddings": [[0.1]], "prompt_eval_count": 4});
    assert_eq!(of(embedding), Some(Usage { input: 4, ..Usage::default() }));
}

const STREAM: &str = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"Grüezi \\\"done\\\":true\"},\"done\":false}\n\
{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":9}\n";

fn through(chunks: &[&[u8]]) -> (Vec<u8>, StreamEnd) {
    let mut meter = StreamMeter::new(OllamaChat, Framing::of("application/x-ndjson", true).expect("a stream"), false);
    let mut seen = Vec::new();
    for chunk in chunks {
        seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
    }
    seen.extend_from_slice(&meter.flush());
    (seen, meter.finish())
}

#[test]
fn the_last_line_of_a_stream_has_its_figures() {
    let (seen, end) = through(&[STREAM.as_bytes()]);
    assert_eq!((seen.as_slice(), end.complete), (STREAM.as_bytes(), true));
    let reported = end.reported.expect("figures");
    assert_eq!((reported.usage, reported.model.as_deref()), (Usage { input: 26, output: 9, ..Usage::default() }, Some("m")));
    let (_, broken) = through(&[&STREAM.as_bytes()[..STREAM.len() - 1]]);
    assert_eq!(broken, StreamEnd::default());
    let (_, failed) = through(&[b"{\"error\":\"out of memory\"}\n"]);
    assert_eq!(failed, StreamEnd { failed: true, ..StreamEnd::default() });
}

proptest! {
    #[test]
    fn how_the_network_cuts_a_stream_changes_nothing(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(STREAM.len())).collect();
        at.extend([0, STREAM.len()]);
        at.sort_unstable();
        let chunks: Vec<&[u8]> = at.windows(2).map(|at| &STREAM.as_bytes()[at[0]..at[1]]).collect();
        prop_assert_eq!(through(&chunks), through(&[STREAM.as_bytes()]));
    }

    #[test]
    fn hostile_bytes_never_panic(body in proptest::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"[]{}\",\\: ".to_vec())], 0..200)) {
        for protocol in [OllamaChat, OllamaGenerate, OllamaEmbed] {
            let _ = read(protocol, body.clone());
            let _ = usage_of_body(protocol, &body);
        }
        prop_assert_eq!(&through(&[&body]).0, &body);
    }

    #[test]
    fn no_text_has_more_bytes_than_the_bound(texts in proptest::collection::vec(".{0,60}", 1..5)) {
        let messages: Vec<_> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let r = request(OllamaChat, &json!({"model": "m", "messages": messages}));
        let bytes: usize = texts.iter().map(String::len).sum();
        prop_assert!(r.billable_input(0) >= bytes as u64);
        prop_assert_eq!(r.prompt().parts.iter().map(|part| part.to_string()).collect::<Vec<_>>(), texts);
    }
}
