//! Events of a streamed answer, each of which is an answer of its own with the figures so far.

use std::collections::BTreeMap;

use super::usage::{Answer, Searches};
use crate::llm::stream::{EventReader, Tally};

/// Candidates that are told apart; nobody offers so many.
const MOST_CANDIDATES: usize = 128;

pub fn reader() -> Box<dyn EventReader> {
    Box::new(Reader::default())
}

#[derive(Default)]
struct Reader {
    /// Every candidate that was seen, and whether it has ended.
    ended: BTreeMap<u64, bool>,
    searches: Searches,
}

impl Reader {
    /// There is no last event: the stream is at its end when every candidate has said why it ended, or the prompt was refused.
    fn follow(&mut self, answer: &Answer<'_>) -> bool {
        for candidate in &answer.candidates.0 {
            let has_reason = candidate.finish_reason.as_deref().is_some_and(|reason| reason != "FINISH_REASON_UNSPECIFIED");
            if self.ended.len() < MOST_CANDIDATES || self.ended.contains_key(&candidate.index) {
                *self.ended.entry(candidate.index).or_default() |= has_reason;
            }
            if let Some(found) = &candidate.grounding_metadata {
                self.searches.add(found);
            }
        }
        let refused = answer.prompt_feedback.as_ref().is_some_and(|feedback| feedback.block_reason.is_some());
        refused || (!self.ended.is_empty() && self.ended.values().all(|ended| *ended))
    }
}

impl EventReader for Reader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        let Some(answer) = Answer::read(payload) else { return };
        if answer.error.is_some() {
            tally.failed = true;
            return;
        }
        tally.complete = self.follow(&answer);
        if tally.model.is_none() {
            tally.model = answer.model_version.map(|name| name.0.into_owned());
        }
        let Some(usage) = answer.usage_metadata else { return };
        if tally.input.is_none() {
            tally.input = usage.input_at_most();
        }
        // Figures that came before the end are too low, should the stream break off between.
        if tally.complete {
            tally.reported = usage.reported(&self.searches, tally.model.as_deref());
        }
    }
}
