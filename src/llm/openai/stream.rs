//! Chunks of a streamed chat completion, and of the legacy completions.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::usage::{WireUsage, billed_tier};
use crate::core::tariff::ServiceTier;
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::ReportedUsage;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<WireUsage>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    choices: Option<Vec<IgnoredAny>>,
    /// What Azure's filters found, which the caller is to see.
    prompt_filter_results: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

pub fn chat_reader() -> Box<dyn EventReader> {
    Box::new(ChatReader::default())
}

/// How many chunks are searched for the name of the model.
const NAMELESS_CHUNKS: u32 = 4;

#[derive(Default)]
struct ChatReader {
    /// Chunks read whole: the first one names the model and the tier, except Azure's, which has only what its filters found.
    read: u32,
    tier: Option<ServiceTier>,
}

impl EventReader for ChatReader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) -> bool {
        if payload == b"[DONE]" {
            tally.complete = true;
            return false;
        }
        // Text is most of a stream, and says nothing of use: a quotation mark within it is escaped, so these are members.
        let is_known = tally.model.is_some() || self.read >= NAMELESS_CHUNKS;
        if is_known && !has_usage(payload) && memmem::find(payload, b"\"error\"").is_none() {
            return false;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(payload) else { return false };
        self.read += 1;
        tally.failed |= chunk.error.is_some();
        if tally.model.is_none() {
            tally.model = chunk.model.filter(|model| !model.is_empty()).map(Cow::into_owned);
        }
        self.tier = billed_tier(chunk.service_tier.as_deref()).or(self.tier);
        let Some(usage) = chunk.usage.and_then(|usage| usage.meters()) else { return false };
        // Servers that report usage on each chunk report it cumulatively: the last one holds.
        tally.reported = Some(ReportedUsage { tier: self.tier, ..ReportedUsage::of(usage, None) });
        chunk.choices.is_none_or(|choices| choices.is_empty()) && chunk.prompt_filter_results.is_none() && chunk.error.is_none()
    }
}

/// The event without the `"usage": null` that OpenAI's chunks have when usage was asked for, and only then. Within a text a quotation mark
/// is escaped, so it is a member.
pub fn without_null_usage(event: Bytes) -> Bytes {
    const NULL: &[u8] = b",\"usage\":null";
    match memmem::rfind(&event, NULL) {
        None => event,
        Some(at) => [&event[..at], &event[at + NULL.len()..]].concat().into(),
    }
}

/// True when the chunk's usage is more than `null`.
fn has_usage(payload: &[u8]) -> bool {
    const MEMBER: &[u8] = b"\"usage\"";
    memmem::find(payload, MEMBER).is_some_and(|at| {
        let value = payload[at + MEMBER.len()..].iter().find(|b| !matches!(b, b':' | b' ' | b'\n' | b'\r' | b'\t'));
        value != Some(&b'n')
    })
}
