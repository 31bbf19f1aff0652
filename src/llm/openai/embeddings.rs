//! The request of `POST /v1/embeddings`. Its answer says usage as a completion's does, whatever the vectors are encoded in.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::chat::{asked_tier, text, unpriced_tier, written};
use super::completions::Prompts;
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};

#[derive(Deserialize)]
struct EmbeddingRequest<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Prompts<'a>,
    /// What vLLM embeds instead, images included.
    messages: Option<IgnoredAny>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: EmbeddingRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let mut texts = Texts::default();
    request.input.push_to(&mut texts, body);
    let bound = request.input.bound(body);
    let opaque = bound.opaque || request.messages.is_some();
    Ok(Facts {
        model: text(request.model),
        // There is no output to cap.
        choices: 0,
        texts,
        turns: 1,
        surcharges: unpriced_tier(request.service_tier.as_deref()).into_iter().collect(),
        tier: asked_tier(request.service_tier.as_deref()),
        input: InputBound { opaque, ..bound },
        media: opaque,
        members: Members { model: request.model.and_then(|m| span_in(body, m.get())), ..Members::default() },
        ..Facts::default()
    })
}
