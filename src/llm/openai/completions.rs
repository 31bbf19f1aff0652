//! The request of the legacy `POST /v1/completions`, and the prompts that embeddings take as well.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::chat::{REQUEST_TOKENS, asked_tier, choices, text, unpriced_tier, wants_usage, written};
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;

/// What a request that says nothing may write. It is written into the request, which changes nothing where the format's default
/// holds, and bounds servers that have another (llama.cpp and Ollama write until they are done).
const DEFAULT_MAX_TOKENS: u64 = 16;
/// Tokens that one prompt adds to its own.
pub const PROMPT_TOKENS: u64 = 4;

#[derive(Deserialize)]
struct CompletionRequest<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt: Prompts<'a>,
    #[serde(borrow, default, deserialize_with = "written")]
    max_tokens: Option<&'a RawValue>,
    n: Option<u64>,
    best_of: Option<u64>,
    #[serde(borrow)]
    suffix: Option<Cow<'a, str>>,
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "written")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: CompletionRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    // Of `best_of` candidates every one is billed, and each prompt has its own.
    let candidates = choices(request.n, "n")?.max(choices(request.best_of, "best_of")?);
    let mut texts = Texts::default();
    request.prompt.push_to(&mut texts, body);
    if let Some(suffix) = &request.suffix {
        texts.push(body, suffix, false);
    }
    let span = |value: Option<&RawValue>| value.and_then(|v| span_in(body, v.get()));
    Ok(Facts {
        model: text(request.model),
        stream: request.stream.unwrap_or(false),
        max_output: Some(max_tokens(request.max_tokens)?),
        choices: candidates.saturating_mul(request.prompt.count.max(1)),
        wants_usage: wants_usage(request.stream_options),
        texts,
        turns: 1,
        surcharges: unpriced_tier(request.service_tier.as_deref()).into_iter().collect(),
        tier: asked_tier(request.service_tier.as_deref()),
        input: request.prompt.bound(body),
        members: Members {
            model: span(request.model),
            max_output: span(request.max_tokens).into_iter().collect(),
            cap: Some(Slot::first(body, "\"max_tokens\":", ",")),
            stream_options: span(request.stream_options),
            ..Members::default()
        },
        ..Facts::default()
    })
}

/// Zero is a cap here: with `echo` it asks for nothing but the prompt's probabilities.
fn max_tokens(value: Option<&RawValue>) -> Result<u64, RequestError> {
    let Some(value) = value.filter(|v| v.get() != "null") else { return Ok(DEFAULT_MAX_TOKENS) };
    value.get().parse().map_err(|_| RequestError::Field { field: "max_tokens", problem: "must be a whole number" })
}

/// One prompt or several, each a text or a list of tokens.
#[derive(Debug, Default)]
pub struct Prompts<'a> {
    pub texts: Vec<Cow<'a, str>>,
    /// Prompts of either kind.
    pub count: u64,
    /// Some are neither (images, in some servers), so that their bytes do not bound them.
    pub opaque: bool,
}

impl Prompts<'_> {
    pub fn push_to(&self, texts: &mut Texts, body: &str) {
        self.texts.iter().for_each(|text| texts.push(body, text, true));
    }

    /// A text has no more tokens than bytes, and a token that is written as a number has a byte at least. Of prompts that their bytes
    /// do not bound, each may fill the window.
    pub fn bound(&self, body: &str) -> InputBound {
        let overhead = REQUEST_TOKENS + PROMPT_TOKENS * self.count;
        let passes = if self.opaque { self.count.max(1) } else { 1 };
        InputBound { tokens: body.len() as u64 + overhead, opaque: self.opaque, passes }
    }
}

/// An element of a list of prompts.
enum Element<'a> {
    Text(Cow<'a, str>),
    Token,
    Tokens,
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Prompts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prompts<'a>, D::Error> {
        deserializer.deserialize_any(PromptsVisitor(std::marker::PhantomData))
    }
}

struct PromptsVisitor<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for PromptsVisitor<'a> {
    type Value = Prompts<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or a list of strings or of tokens")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Prompts<'a>, E> {
        Ok(Prompts { texts: vec![Cow::Borrowed(text)], count: 1, opaque: false })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompts<'a>, E> {
        Ok(Prompts { texts: vec![Cow::Owned(text.to_owned())], count: 1, opaque: false })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Prompts<'a>, E> {
        Ok(Prompts::default())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut members: A) -> Result<Prompts<'a>, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Prompts { texts: Vec::new(), count: 1, opaque: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts<'a>, A::Error> {
        let mut prompts = Prompts::default();
        let mut is_one = false;
        while let Some(element) = list.next_element()? {
            match element {
                Element::Text(text) => prompts.texts.push(text),
                Element::Tokens => {}
                // The list itself is the prompt.
                Element::Token => {
                    is_one = true;
                    continue;
                }
                Element::Other => prompts.opaque = true,
            }
            prompts.count += 1;
        }
        prompts.count += u64::from(is_one);
        Ok(prompts)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Element<'a>, D::Error> {
        deserializer.deserialize_any(ElementVisitor(std::marker::PhantomData))
    }
}

struct ElementVisitor<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ElementVisitor<'a> {
    type Value = Element<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token or a list of tokens")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Element<'a>, E> {
        Ok(Element::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Element<'a>, E> {
        Ok(Element::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Element<'a>, E> {
        Ok(Element::Token)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element<'a>, A::Error> {
        let mut is_tokens = true;
        while let Some(element) = list.next_element::<Element<'_>>()? {
            is_tokens &= matches!(element, Element::Token);
        }
        Ok(if is_tokens { Element::Tokens } else { Element::Other })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut members: A) -> Result<Element<'a>, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Element::Other)
    }
}
