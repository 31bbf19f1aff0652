//! Embeddings: `embedContent`, `batchEmbedContents`, and `predict`, by which Vertex AI takes texts for its older embedding models.
//!
//! Google AI seldom says what an embedding used; such a call is charged as reserved. So the bound looks at nothing but what is read:
//! the texts and titles, a token for each byte at most.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::parts::{Content, Size};
use super::usage::WireUsage;
use crate::core::usage::Usage;
use crate::llm::address::Addressed;
use crate::llm::object::{Many, Text};
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::usage::ReportedUsage;

/// Tokens that a content adds to its texts: its frame, and what a model puts in front to say what the embedding is for.
const CONTENT_TOKENS: u64 = 32;

/// The body of any of the three.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmbedRequest<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    title: Option<Text<'a>>,
    #[serde(borrow, alias = "embed_content_config")]
    embed_content_config: Option<Config<'a>>,
    #[serde(borrow)]
    requests: Option<Many<EmbedRequest<'a>>>,
    #[serde(borrow)]
    instances: Option<Many<Instance<'a>>>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    title: Option<Text<'a>>,
}

/// A text that `predict` embeds. Other models than those of texts have other instances, at prices that are not by the token.
#[derive(Deserialize)]
struct Instance<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    title: Option<Text<'a>>,
}

/// What the request asks for.
pub fn facts(call: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: EmbedRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let mut found = Found::default();
    match call.verb {
        "predict" => found.instances(body, request.instances.unwrap_or_default())?,
        _ => found.contents(body, &request),
    }
    if found.contents == 0 {
        return Err(RequestError::Field { field: "content", problem: "there is nothing to embed" });
    }
    let tokens = found.text_bytes.saturating_add(found.size.image_tokens).saturating_add(CONTENT_TOKENS * found.contents);
    Ok(Facts {
        choices: 0,
        turns: usize::try_from(found.contents).unwrap_or(usize::MAX),
        texts: found.texts,
        input: InputBound { tokens, opaque: found.size.opaque, passes: 1 },
        media: found.size.media,
        members: Members { named: found.named, ..Members::default() },
        ..Facts::default()
    })
}

#[derive(Default)]
struct Found {
    contents: u64,
    text_bytes: u64,
    size: Size,
    texts: Texts,
    named: Vec<Range<usize>>,
}

impl Found {
    /// The content of the request itself, and those of its batch, which has no batches of its own.
    fn contents(&mut self, body: &str, request: &EmbedRequest<'_>) {
        for one in std::iter::once(request).chain(request.requests.iter().flat_map(|requests| &requests.0)) {
            self.named.extend(one.model.and_then(|model| name_within(body, model)));
            let title = one.title.as_ref().or(one.embed_content_config.as_ref().and_then(|config| config.title.as_ref()));
            let Some(content) = &one.content else { continue };
            self.contents += 1;
            self.text_bytes += title.map_or(0, |title| title.len() as u64) + content.text_bytes();
            title.into_iter().for_each(|title| self.texts.push(body, title, false));
            content.texts(body, &mut self.texts);
            content.size(&mut self.size);
        }
    }

    fn instances(&mut self, body: &str, instances: Many<Instance<'_>>) -> Result<(), RequestError> {
        const PROBLEM: &str = "only texts are embedded here (\"content\"): what other models predict has no price by the token";
        for instance in instances.0 {
            let Some(text) = instance.content else { return Err(RequestError::Field { field: "instances", problem: PROBLEM }) };
            let texts = [instance.title, Some(text)];
            self.contents += 1;
            for text in texts.iter().flatten() {
                self.text_bytes += text.len() as u64;
                self.texts.push(body, text, true);
            }
        }
        Ok(())
    }
}

/// Where a model's name stands in `"models/<name>"`; `None` where it is escaped, and no name of a model is.
fn name_within(body: &str, value: &RawValue) -> Option<Range<usize>> {
    let name = value.get().strip_prefix('"')?.strip_suffix('"')?;
    let name = &name[name.rfind('/').map_or(0, |slash| slash + 1)..];
    (!name.contains('\\')).then(|| span_in(body, name)).flatten()
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    usage_metadata: Option<WireUsage<'a>>,
    predictions: Many<Prediction>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Prediction {
    embeddings: Option<Embeddings>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Embeddings {
    statistics: Option<Statistics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    /// A whole number, which Vertex AI writes as a float.
    token_count: Option<f64>,
}

/// Of a whole answer: the call's own figures, or what each prediction says, if every one does.
pub fn usage(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    if let Some(usage) = &answer.usage_metadata {
        return usage.reported(&Default::default(), None);
    }
    let counts = answer.predictions.0.iter().map(|prediction| prediction.embeddings.as_ref()?.statistics.as_ref()?.token_count);
    let counts: Vec<f64> = counts.collect::<Option<_>>()?;
    let input = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(count.ceil() as u64));
    (!counts.is_empty()).then(|| ReportedUsage::of(Usage { input, ..Usage::default() }, None))
}
