//! What is fuzzed, and what must hold of it.

use bytes::Bytes;
use http::Method;
use spendkeeper::core::catalogue;
use spendkeeper::core::cel::Expression;
use spendkeeper::core::policy::{Protocol, Provider};
use spendkeeper::llm::address::{percent_decoded, recognise, upstream_path};
use spendkeeper::llm::passing::usage_of;
use spendkeeper::llm::transcript::{Answered, Asked};
use spendkeeper::llm::translate::{self, AnswerId};
use spendkeeper::llm::{Addressed, Framing, Request, Rewrite, StreamMeter, parse, usage_of_body};
use spendkeeper::sidecar::caller;
use spendkeeper::sidecar::http1::framing::{Compacted, Framing as BodyFraming};
use spendkeeper::sidecar::http1::{HEAD_LIMIT, fields};
use spendkeeper::sidecar::upstream::head;

use super::seeds;

/// Feeds a parser, and panics when a promise is broken.
type Run = Box<dyn Fn(&[u8])>;

/// A parser, and examples of what it reads.
pub struct Target {
    pub name: String,
    pub seeds: Vec<Vec<u8>>,
    pub run: Run,
}

impl Target {
    fn new(name: impl Into<String>, seeds: &[&str], run: impl Fn(&[u8]) + 'static) -> Target {
        let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
        Target { name: name.into(), seeds, run: Box::new(run) }
    }
}

const FRAMINGS: [Framing; 4] = [Framing::ServerSentEvents, Framing::Lines, Framing::JsonArray, Framing::AmazonEvents];

pub fn all() -> Vec<Target> {
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        all.push(Target::new(format!("request/{protocol:?}"), &seeds::REQUESTS, move |input| request(protocol, input)));
        all.push(Target::new(format!("usage/{protocol:?}"), &seeds::ANSWERS, move |input| drop(usage_of_body(protocol, input))));
        let mut target = Target::new(format!("stream/{protocol:?}"), &seeds::STREAMS, move |input| stream(protocol, input));
        target.seeds.push(seeds::amazon_frame(b"metadata", br#"{"usage":{"inputTokens":1,"outputTokens":2}}"#));
        all.push(target);
    }
    for (asked, upstream) in [
        (Protocol::OpenAIChat, Protocol::AnthropicMessages),
        (Protocol::OpenAIChat, Protocol::GeminiGenerate),
        (Protocol::OpenAIChat, Protocol::BedrockConverse),
        (Protocol::AnthropicMessages, Protocol::OpenAIChat),
    ] {
        let run = move |input: &[u8]| translation(asked, upstream, input);
        all.push(Target::new(
            format!("translate/{asked:?}-{upstream:?}"),
            &[&seeds::REQUESTS[..], &seeds::ANSWERS[..], &seeds::STREAMS[..]].concat(),
            run,
        ));
    }
    all.push(Target::new("amazon-events", &seeds::AMAZON, amazon_events));
    all.push(Target::new("media", &seeds::MEDIA, media));
    let texts = [&seeds::REQUESTS[..], &seeds::ANSWERS[..], &seeds::EVENTS[..]].concat();
    all.push(Target::new("transcript", &texts, transcript));
    all.push(Target::new("http1/answer", &seeds::HTTP, http_answer));
    all.push(Target::new("http1/request", &seeds::HTTP_REQUESTS, http_request));
    all.push(Target::new("path", &seeds::PATHS, path));
    all.push(Target::new("price-list/litellm", &[seeds::LITELLM], |input| drop(catalogue::from_litellm(&text(input), "2026-01-01"))));
    all.push(Target::new("price-list/own", &[seeds::PRICES], |input| drop(catalogue::from_yaml(&text(input)))));
    all.push(Target::new("cel", &["call.team == 'support' && call.model in ['a', 'b']"], |input| drop(Expression::compile(&text(input)))));
    all
}

/// Events whose frames are whole, whatever is in them.
fn amazon_events(input: &[u8]) {
    let framed = |line: &[u8]| {
        let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        seeds::amazon_frame(&line[..end], line.get(end + 1..).unwrap_or_default())
    };
    let frames: Vec<u8> = input.split(|byte| *byte == b'\n').flat_map(framed).collect();
    for protocol in [Protocol::BedrockConverse, Protocol::BedrockInvoke] {
        stream(protocol, &frames);
    }
    translation(Protocol::OpenAIChat, Protocol::BedrockConverse, &frames);
}

/// What answers to requests that pass through say of what they used.
fn media(input: &[u8]) {
    for path in ["/v1/images/generations", "/openai/deployments/d/audio/transcriptions?x=y", "/v1/responses/compact", "/v1/files"] {
        drop(usage_of(path, input));
    }
}

/// What is kept of a text is no longer than the text, however often it is read.
fn transcript(input: &[u8]) {
    let length = |messages: &[serde_json::Value]| messages.iter().map(|message| message.to_string().len()).sum::<usize>();
    let asked = Asked::of(input);
    // Names and quotes are added to each part, which is some bytes of the text.
    assert!(length(&asked.messages) + length(&asked.instructions) <= 64 * (input.len() + 64), "there is more than was asked");
    let mut answered = Answered::default();
    for _ in 0..3 {
        answered.read(input);
    }
    assert!(length(&answered.messages()) <= 64 * (3 * input.len() + 64) + (16 << 10), "there is more than was answered");
}

/// An answer is the same however it is cut into what is read at once, and never more than was sent.
fn http_answer(input: &[u8]) {
    let Ok(Some(head)) = head::read(input, &Method::POST) else { return };
    assert!(head.length <= input.len().min(HEAD_LIMIT), "the head is longer than what was read");
    framed(head.framing, &input[head.length..]);
}

/// So is a request, of which it is known where it ends.
fn http_request(input: &[u8]) {
    let Some(length) = fields::head_length(input) else { return };
    let Ok(head) = caller::head::read(&Bytes::copy_from_slice(&input[..length])) else { return };
    assert!(head.framing != BodyFraming::until_close(), "a request ends with its connection");
    framed(head.framing, &input[length..]);
}

fn framed(framing: BodyFraming, sent: &[u8]) {
    let whole = body(framing.clone(), sent.chunks(sent.len().max(1)), false);
    let bytewise = body(framing.clone(), sent.chunks(1), false);
    assert_eq!(whole, bytewise, "the body depends on how it is cut");
    let compacted = body(framing, sent.chunks(7), true);
    assert_eq!(whole, compacted, "the body depends on how it is read");
    assert!(whole.is_none_or(|(body, _)| body.len() <= sent.len()), "the body is longer than what was read");
}

/// A body, and whether that is all of it.
fn body<'a>(mut framing: BodyFraming, reads: impl Iterator<Item = &'a [u8]>, compacts: bool) -> Option<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    for read in reads {
        let mut read = read.to_vec();
        if compacts {
            let Compacted { body: length, seen } = framing.compact(&mut read);
            body.extend_from_slice(&read[..length]);
            read.drain(..seen);
        }
        let mut read = Bytes::from(read);
        while let Some(piece) = framing.take(&mut read).ok()? {
            body.extend_from_slice(&piece);
        }
    }
    Some((body, framing.is_done()))
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn read(protocol: Protocol, input: &[u8], stream: bool) -> Option<Request> {
    parse(Addressed::to(protocol, "m", stream), Bytes::copy_from_slice(input)).ok()
}

/// What is read is JSON, and what is changed in it stays so; a bound is no smaller than the texts it is of.
fn request(protocol: Protocol, input: &[u8]) {
    let Some(request) = read(protocol, input, false) else { return };
    let window = 200_000;
    let texts: usize = request.prompt().parts.iter().map(|part| part.len()).sum();
    assert!(request.billable_input(window) >= (texts as u64).min(window) || request.choices() == 0, "the bound is below the texts");
    // A closer bound takes off what each text needs less, so that each may be there once only.
    assert!(!of_openai(protocol) || texts <= input.len(), "a text was found twice");
    assert!(request.billable_by_words(window) <= request.billable_input(window), "the closer bound is none");
    let change = Rewrite { model: Some("another".into()), max_output: Some(17), include_usage: request.stream() };
    let rewritten = request.rewrite(&change);
    let was_json = serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok();
    assert!(!was_json || serde_json::from_slice::<serde::de::IgnoredAny>(&rewritten).is_ok(), "{}", String::from_utf8_lossy(&rewritten));
    // The change is read as it was meant, so that no second member says otherwise.
    if let Some(again) = read(protocol, &rewritten, false)
        && request.takes_cap()
        && request.choices() > 0
    {
        assert_eq!(again.max_output(), Some(17), "{}", String::from_utf8_lossy(&rewritten));
    }
}

fn of_openai(protocol: Protocol) -> bool {
    Provider::OpenAI.formats().contains(&protocol)
}

/// A caller gets every byte of a stream, however it is cut, unless something is hidden.
fn stream(protocol: Protocol, input: &[u8]) {
    for framing in FRAMINGS {
        for hide in [false, true] {
            for size in [1, 7, usize::MAX] {
                let mut meter = StreamMeter::new(protocol, framing, hide);
                let mut seen = Vec::new();
                for chunk in input.chunks(size.min(input.len().max(1))) {
                    seen.extend_from_slice(&meter.push(Bytes::copy_from_slice(chunk)));
                }
                seen.extend_from_slice(&meter.flush());
                assert!(hide || seen == input, "{framing:?}: a caller misses something");
                assert!(seen.len() <= input.len(), "{framing:?}: a caller gets more than there was");
                meter.finish();
            }
        }
    }
}

/// Whatever is translated is JSON of the other format, and whatever comes back is survived.
fn translation(asked: Protocol, upstream: Protocol, input: &[u8]) {
    const EXAMPLE: &[u8] = br#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi."}]}"#;
    let answer = || AnswerId { id: "1".to_owned(), unix_s: 0 };
    if let Some(call) = read(asked, input, false) {
        drop(translate::request(&call, upstream, answer()));
    }
    let call = read(asked, EXAMPLE, true).expect("the example is a call");
    let (translation, _) = translate::request(&call, upstream, answer()).expect("the example can be translated");
    drop(translation.answer(input));
    translation.error(500, input);
    let framing = if upstream == Protocol::BedrockConverse { Framing::AmazonEvents } else { Framing::ServerSentEvents };
    let mut meter = StreamMeter::translating(upstream, framing, translation.stream());
    meter.push(Bytes::copy_from_slice(input));
    meter.flush();
}

/// A path leads to the endpoint's own paths, whatever is in it.
fn path(input: &[u8]) {
    let path = text(input);
    percent_decoded(&path);
    let Some(call) = recognise(&path) else { return };
    for provider in Provider::ALL {
        let joined = upstream_path(provider, &call, call.model.as_deref().unwrap_or("m"), Some(&path));
        assert!(joined.starts_with('/') && !joined.starts_with("//"), "{joined}");
    }
}
