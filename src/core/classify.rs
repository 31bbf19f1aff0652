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

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(parts: &[&'static str], last_user: usize) -> Classification {
        let parts = parts.iter().map(|part| Cow::Borrowed(*part)).collect();
        let prompt = PromptText { parts, last_user, turns: 2, tools: 0 };
        classify(&prompt, ComplexityThresholds::default(), &BTreeSet::from(Detector::ALL))
    }

    #[test]
    fn a_system_prompt_does_not_make_a_trivial_question_hard() {
        let system = "Prove, derive, design and refactor; explain why. Every answer must be optimal.";
        assert_eq!(classified(&[system, "Hello!"], 1).complexity, classified(&["", "Hello!"], 1).complexity);
        assert_eq!(classified(&[system, "Hello!"], 1).needed_tier, Tier::Economy);
        assert!(classified(&[system, "Hello!"], 0).needed_tier > Tier::Economy);
    }

    #[test]
    fn sensitive_text_is_found_wherever_it_stands() {
        let found = classified(&["Be kind to ada@example.com.", "Hello!", "pay with 4111 1111 1111 1111"], 1).sensitive;
        assert_eq!(found, BTreeSet::from([Detector::Email, Detector::PaymentCard]));
    }

    #[test]
    fn a_request_without_text_is_trivial() {
        let nothing = classify(&PromptText::default(), ComplexityThresholds::default(), &BTreeSet::new());
        assert_eq!((nothing.complexity, nothing.needed_tier), (0, Tier::Economy));
    }

    #[test]
    fn a_threshold_is_the_first_score_that_needs_its_tier() {
        let thresholds = ComplexityThresholds { standard: 35, frontier: 65 };
        for (score, tier) in [
            (0, Tier::Economy),
            (34, Tier::Economy),
            (35, Tier::Standard),
            (64, Tier::Standard),
            (65, Tier::Frontier),
            (100, Tier::Frontier),
        ] {
            assert_eq!(needed_tier(score, thresholds), tier, "{score}");
        }
    }
}
