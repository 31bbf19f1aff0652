//! The request of InvokeModel and its stream: a body of the model's own maker, with Bedrock's wishes in headers.

use super::converse::{self, GUARDRAIL, OPTIMIZED};
use super::maker::{Shape, shape};
use super::members::{Caps, Object, Text, caps, choices, config};
use super::usage::tier_of_headers;
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::llm::address::{Addressed, decoded};
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;
use crate::llm::{anthropic, openai};

pub use super::stream::invoke as reader;
pub use super::usage::of_invoke as usage;

/// Tokens that templates put around a prompt, those for tools and documents included.
const TEMPLATE_TOKENS: u64 = 2_048;
/// Members of a plain body that are no text, or may stand for what is elsewhere.
const MEDIA: [&str; 6] = ["image", "images", "inputImage", "audio", "video", "inputs"];
/// Objects in which what is to be embedded may stand.
const EMBEDDED: [&str; 2] = ["singleEmbeddingParams", "segmentedEmbeddingParams"];

/// What the request asks for.
pub fn facts(addressed: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let object: Object<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let model = addressed.model.as_deref().and_then(decoded).unwrap_or_default();
    match shape(&model, &object) {
        Shape::Anthropic => {
            let facts = anthropic::request::facts(addressed, body)?;
            Ok(Facts { members: Members { model: None, ..facts.members }, ..facts })
        }
        Shape::Nova => converse::read(addressed, body, &["maxTokens", "max_new_tokens"]),
        Shape::Chat(names) => chat(addressed, body, &object, names),
        Shape::Prompt(name) => {
            let caps = caps(object.any(name).into_iter().collect(), &[&object], name)?;
            Ok(plain(body, &object)?.capped(body, &caps, Slot::within(body, &(0..body.len()), name)))
        }
        Shape::Titan => titan(body, &object),
        Shape::Embedding => embedding(body, &object),
        // A member that looks like a cap may be none to this model, so there is none.
        Shape::Unknown => {
            let facts = plain(body, &object)?;
            Ok(Facts { input: InputBound { opaque: true, ..facts.input }, ..facts })
        }
    }
}

/// Wishes in headers: the tier, and a guardrail.
pub fn heed_headers(facts: &mut Facts, header: &dyn Fn(&str) -> Option<String>) {
    if let Some(tier) = tier_of_headers(header) {
        facts.tier = AskedTier::Said(tier);
        facts.surcharges.extend((tier == ServiceTier::Fast).then(|| OPTIMIZED.to_owned()));
    }
    if header("x-amzn-bedrock-guardrailidentifier").is_some() {
        facts.surcharges.push(GUARDRAIL.to_owned());
    }
}

impl Facts {
    fn capped(self, body: &str, caps: &Caps<'_>, slot: Slot) -> Facts {
        let spans = caps.values.iter().filter_map(|value| span_in(body, value.get())).collect();
        Facts { max_output: caps.most, members: Members { max_output: spans, cap: Some(slot), ..Members::default() }, ..self }
    }
}

/// A body of Chat Completions.
fn chat(addressed: &Addressed, body: &str, object: &Object<'_>, names: &'static [&'static str]) -> Result<Facts, RequestError> {
    let facts = openai::chat::facts(addressed, body)?;
    let caps = caps(names.iter().filter_map(|name| object.any(name)).collect(), &[object], names[0])?;
    let tier = AskedTier::Said(ServiceTier::Standard);
    let facts = Facts { choices: facts.choices.max(choices(object)?), wants_usage: true, tier, ..facts };
    Ok(facts.capped(body, &caps, Slot::within(body, &(0..body.len()), names[0])))
}

fn titan(body: &str, object: &Object<'_>) -> Result<Facts, RequestError> {
    let config = config(object.any("textGenerationConfig"), "textGenerationConfig")?;
    let caps = caps(config.any("maxTokenCount").into_iter().collect(), &[&config, object], "textGenerationConfig.maxTokenCount")?;
    let slot = match object.get("textGenerationConfig").and_then(|config| span_in(body, config.get())) {
        Some(span) => Slot::within(body, &span, "maxTokenCount"),
        // The body has a member: its text.
        None => Slot::first(body, "\"textGenerationConfig\":{\"maxTokenCount\":", "},"),
    };
    Ok(plain(body, object)?.capped(body, &caps, slot))
}

/// Images and the like are billed by the piece.
fn embedding(body: &str, object: &Object<'_>) -> Result<Facts, RequestError> {
    let facts = plain(body, object)?;
    let surcharges = facts.media.then(|| "what is embedded beside text".to_owned());
    Ok(Facts { choices: 0, surcharges: surcharges.into_iter().collect(), ..facts })
}

/// A body whose texts are its members.
fn plain(body: &str, object: &Object<'_>) -> Result<Facts, RequestError> {
    let mut texts = Texts::default();
    for (name, value) in object.all().filter(|(_, value)| value.get().starts_with(['"', '[', '{'])) {
        match serde_json::from_str::<Text<'_>>(value.get()) {
            Ok(text) => texts.push(body, &text.0, matches!(name, "prompt" | "message" | "inputText")),
            Err(_) => texts.push(body, value.get(), false),
        }
    }
    let (single, segmented) = (object.object(EMBEDDED[0])?, object.object(EMBEDDED[1])?);
    let has_media = [object, &single, &segmented].into_iter().any(|object| MEDIA.iter().any(|name| object.has(name)));
    Ok(Facts {
        choices: choices(object)?,
        texts,
        turns: 1,
        input: InputBound { tokens: body.len() as u64 + TEMPLATE_TOKENS, opaque: has_media, passes: 1 },
        media: has_media,
        ..Facts::default()
    })
}
