//! Chunks of a streamed chat completion, and of the legacy completions.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::usage::{WireUsage, billed_tier};
use crate::core::tariff::ServiceTier;
use crate::llm::split::Visible;
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
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        self.read_unasked(payload, tally);
    }

    fn read_unasked(&mut self, payload: &[u8], tally: &mut Tally) -> Visible {
        if payload == b"[DONE]" {
            tally.complete = true;
            return Visible::All;
        }
        let told = Told::of(payload);
        let visible = told.null.map_or(Visible::All, Visible::Without);
        // Text is most of a stream, and says nothing of use: a quotation mark within it is escaped, so what is looked for are members.
        let is_known = tally.model.is_some() || self.read >= NAMELESS_CHUNKS;
        if is_known && !told.figures && ERROR.find(payload).is_none() {
            return visible;
        }
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(payload) else { return visible };
        self.read += 1;
        tally.failed |= chunk.error.is_some();
        if tally.model.is_none() {
            tally.model = chunk.model.filter(|model| !model.is_empty()).map(Cow::into_owned);
        }
        self.tier = billed_tier(chunk.service_tier.as_deref()).or(self.tier);
        let Some(usage) = chunk.usage.and_then(|usage| usage.meters()) else { return visible };
        // Servers that report usage on each chunk report it cumulatively: the last one holds.
        tally.reported = Some(ReportedUsage { tier: self.tier, ..ReportedUsage::of(usage, None) });
        let has_more = chunk.choices.is_some_and(|choices| !choices.is_empty());
        if has_more || chunk.prompt_filter_results.is_some() || chunk.error.is_some() { visible } else { Visible::Nothing }
    }
}

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What a chunk says of usage, as far as can be seen without reading it. Within a text a quotation mark is escaped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// There may be figures.
    figures: bool,
    /// The `,"usage":null` that OpenAI's chunks have when usage was asked for, and only then.
    null: Option<Range<usize>>,
}

impl Told {
    fn of(chunk: &[u8]) -> Told {
        let mut told = Told::default();
        let mut from = 0;
        while let Some(at) = USAGE.find(&chunk[from..]) {
            let name = from + at..from + at + USAGE.needle().len();
            from = name.end;
            match null_after(&chunk[name.end..]) {
                None => told.figures = true,
                Some(length) => {
                    let before = chunk[..name.start].trim_ascii_end();
                    if before.ends_with(b",") {
                        told.null = Some(before.len() - 1..name.end + length);
                    }
                }
            }
        }
        told
    }
}

/// How many bytes after a member's name say that it is null.
fn null_after(bytes: &[u8]) -> Option<usize> {
    let value = bytes.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    Some(bytes.len() - value.strip_prefix(b"null")?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_chunk_says_of_usage_is_seen_without_reading_it() {
        for (chunk, figures, without_null) in [
            (r#"{"choices":[],"usage":null}"#, false, Some(r#"{"choices":[]}"#)),
            (r#"{"choices":[],"usage":null,"obfuscation":"x"}"#, false, Some(r#"{"choices":[],"obfuscation":"x"}"#)),
            ("{\"choices\": [] , \"usage\" :\n null }", false, Some(r#"{"choices": []  }"#)),
            (r#"{"usage":null,"choices":[]}"#, false, None),
            (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, true, None),
            (r#"{"usage":{"prompt_tokens":1},"x":{"y":1,"usage":null}}"#, true, Some(r#"{"usage":{"prompt_tokens":1},"x":{"y":1}}"#)),
            (r#"{"x":{"y":1,"usage":null},"usage":{"prompt_tokens":1}}"#, true, Some(r#"{"x":{"y":1},"usage":{"prompt_tokens":1}}"#)),
            (r#"{"content":"\",\"usage\":null"}"#, false, None),
            (r#"{"content":"usage"}"#, true, None),
            (r#"{"content":","}"#, false, None),
            (r#"{"a":1,"usage"#, false, None),
            (r#"{"a":1,"usage""#, true, None),
            (r#"{"a":1,"usage":nul"#, true, None),
        ] {
            let told = Told::of(chunk.as_bytes());
            let without = told.null.clone().map(|null| [&chunk[..null.start], &chunk[null.end..]].concat());
            assert_eq!((told.figures, without.as_deref()), (figures, without_null), "{chunk}");
        }
    }
}
