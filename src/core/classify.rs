//! What a call is like, seen from its text: how hard it is and whether it holds something sensitive.
//!
//! Nothing of the text is kept; a [`Classification`] holds a figure, a tier and the names of detectors.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::call::Classification;
use super::complexity;
use super::policy::{ComplexityThresholds, Detector, Tier};
use super::sensitive;

/// The text of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptText<'a> {
    /// Every text of the request, in order: system prompts, messages of all roles, tool arguments and results.
    pub parts: Vec<Cow<'a, str>>,
    /// Index into `parts` of the last text that the user wrote.
    pub last_user: usize,
    /// Messages of the conversation.
    pub turns: usize,
    /// Tools that the model may call.
    pub tools: usize,
}

/// Classifies a prompt. Complexity looks at the last user message, so that a long system prompt does not make a trivial
/// question hard; the detectors in `wanted` look at every part. Linear in the length of the text.
pub fn classify(prompt: &PromptText<'_>, thresholds: ComplexityThresholds, wanted: &BTreeSet<Detector>) -> Classification {
    let question = prompt.parts.get(prompt.last_user).map_or("", |part| part.as_ref());
    let complexity = complexity::score(question, prompt.turns, prompt.tools);
    let mut sensitive = BTreeSet::new();
    for part in &prompt.parts {
        sensitive::detect(part, wanted, &mut sensitive);
    }
    Classification { complexity, needed_tier: needed_tier(complexity, thresholds), sensitive }
}

/// The tier that a score asks for.
pub fn needed_tier(complexity: u8, thresholds: ComplexityThresholds) -> Tier {
    match complexity {
        score if score >= thresholds.frontier => Tier::Frontier,
        score if score >= thresholds.standard => Tier::Standard,
        _ => Tier::Economy,
    }
}
