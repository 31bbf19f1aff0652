//! Ollama's usage figures: the prompt includes what was read from the cache. Zeros are left out.
//!
//! Older versions leave the prompt's tokens out when all of it was cached. They are not zero, so such a call is charged as reserved; only
//! a call that says that it did nothing but load or unload the model used nothing.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::core::usage::Usage;
use crate::llm::object::Text;
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::ReportedUsage;

/// An answer, or a line of a streamed one.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    /// Embeddings say nothing of it.
    done: Option<bool>,
    #[serde(borrow)]
    done_reason: Option<Text<'a>>,
    prompt_eval_count: Option<u64>,
    prompt_eval_cached_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<IgnoredAny>,
}

impl Answer<'_> {
    fn meters(&self) -> Option<Usage> {
        if matches!(self.done_reason.as_deref(), Some("load" | "unload")) && self.eval_count.is_none() {
            return Some(Usage::default());
        }
        let prompt = self.prompt_eval_count?;
        let cached_read = self.prompt_eval_cached_count.unwrap_or(0).min(prompt);
        Some(Usage { input: prompt - cached_read, cached_read, output: self.eval_count.unwrap_or(0), ..Usage::default() })
    }
}

/// Of a whole answer.
pub fn of_body(body: &[u8]) -> Option<ReportedUsage> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let usage = answer.meters().filter(|_| answer.done != Some(false))?;
    Some(ReportedUsage::of(usage, answer.model.map(|name| name.0.into_owned())))
}

pub fn reader() -> Box<dyn EventReader> {
    Box::new(Reader)
}

struct Reader;

impl EventReader for Reader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        let Ok(line) = serde_json::from_slice::<Answer<'_>>(payload) else { return };
        tally.failed |= line.error.is_some();
        if line.done == Some(true) {
            tally.complete = true;
            tally.reported = line.meters().map(|usage| ReportedUsage::of(usage, None));
        }
        if tally.model.is_none() {
            tally.model = line.model.map(|name| name.0.into_owned());
        }
    }
}
