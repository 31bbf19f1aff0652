//! Google's usage figures: the prompt includes what was read from the cache; candidates exclude thoughts; what tools at the provider
//! returned is input of its own. Zeros are left out.
//!
//! # What searches cost
//!
//! Up to Gemini 2.5 a prompt that was answered from searches has one fee, however many there were; since Gemini 3 each different
//! search has. An answer names the model and the searches, empty ones among them, which are free. So a model's price of a web search
//! is its fee of either kind, and [`Usage::web_searches`] counts the fees.
//!
//! # What has no price by the token
//!
//! Throughput that was bought ahead on Vertex AI (`PROVISIONED_THROUGHPUT`) is reported as prepaid: the tokens are counted, and cost
//! nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::core::tariff::ServiceTier;
use crate::core::usage::Usage;
use crate::llm::object::{Many, Text};
use crate::llm::usage::ReportedUsage;

/// Different searches that are told apart; more than that is counted as that many.
const MOST_SEARCHES: usize = 10_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WireUsage<'a> {
    prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    total_token_count: Option<u64>,
    #[serde(borrow)]
    prompt_tokens_details: Many<Modality<'a>>,
    #[serde(borrow)]
    cache_tokens_details: Many<Modality<'a>>,
    #[serde(borrow)]
    candidates_tokens_details: Many<Modality<'a>>,
    #[serde(borrow)]
    tool_use_prompt_tokens_details: Many<Modality<'a>>,
    #[serde(borrow)]
    traffic_type: Option<Text<'a>>,
    #[serde(borrow)]
    service_tier: Option<Text<'a>>,
}

/// Tokens of one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modality<'a> {
    #[serde(borrow)]
    modality: Cow<'a, str>,
    token_count: u64,
}

fn of_kind(details: &Many<Modality<'_>>, kind: &str) -> u64 {
    details.0.iter().filter(|part| part.modality == kind).fold(0, |sum, part| sum.saturating_add(part.token_count))
}

impl WireUsage<'_> {
    /// `None` without the prompt's tokens, which are never none: the first events of a stream may tell the traffic's type only.
    pub fn meters(&self) -> Option<Usage> {
        let prompt = self.prompt_token_count?;
        let (tools, output) = self.beside(prompt);
        let cached_read = self.cached_content_token_count.unwrap_or(0).min(prompt);
        // What was cached of sound and images is not read anew.
        let fresh = |kind| of_kind(&self.prompt_tokens_details, kind).saturating_sub(of_kind(&self.cache_tokens_details, kind));
        let returned = |kind| of_kind(&self.tool_use_prompt_tokens_details, kind);
        let mut rest = prompt - cached_read;
        let mut rest_of_tools = tools;
        let mut take = |kind| {
            let (of_prompt, of_tools) = (fresh(kind).min(rest), returned(kind).min(rest_of_tools));
            rest -= of_prompt;
            rest_of_tools -= of_tools;
            of_prompt.saturating_add(of_tools)
        };
        let (audio_input, image_input) = (take("AUDIO"), take("IMAGE"));
        let audio_output = of_kind(&self.candidates_tokens_details, "AUDIO").min(output);
        let image_output = of_kind(&self.candidates_tokens_details, "IMAGE").min(output - audio_output);
        Some(Usage {
            input: rest.saturating_add(rest_of_tools),
            cached_read,
            audio_input,
            image_input,
            output: output - audio_output - image_output,
            audio_output,
            image_output,
            ..Usage::default()
        })
    }

    /// Tokens that tools returned, and of the output.
    ///
    /// The total is the sum of all four figures. Where it is less by exactly the thoughts, or by what tools returned, those were counted
    /// among the candidates, or in the prompt; where it is more, the model thought and the answer does not say how much.
    fn beside(&self, prompt: u64) -> (u64, u64) {
        let [candidates, thoughts, tools] =
            [self.candidates_token_count, self.thoughts_token_count, self.tool_use_prompt_token_count].map(Option::unwrap_or_default);
        let output = candidates.saturating_add(thoughts);
        let sum = prompt.saturating_add(tools).saturating_add(output);
        let Some(total) = self.total_token_count else { return (tools, output) };
        match sum.checked_sub(total) {
            None => (tools, output.saturating_add(total - sum)),
            Some(0) => (tools, output),
            Some(over) if over == thoughts => (tools, candidates),
            Some(over) if over == tools => (0, output),
            // The figures contradict each other; the larger hold.
            Some(_) => (tools, output),
        }
    }

    /// The input as if nothing of it had been cached, once it is told of what it is: the final figures cost no more.
    pub fn input_at_most(&self) -> Option<Usage> {
        let prompt = self.prompt_token_count?;
        let details = &self.prompt_tokens_details;
        let told = details.0.iter().fold(0_u64, |sum, part| sum.saturating_add(part.token_count));
        let (audio_input, image_input) = (of_kind(details, "AUDIO"), of_kind(details, "IMAGE"));
        (told == prompt).then(|| Usage { input: prompt - audio_input - image_input, audio_input, image_input, ..Usage::default() })
    }

    fn tier(&self) -> Option<ServiceTier> {
        match (self.traffic_type.as_deref(), self.service_tier.as_deref()) {
            (Some("ON_DEMAND"), _) | (_, Some("standard" | "STANDARD")) => Some(ServiceTier::Standard),
            (Some("ON_DEMAND_PRIORITY"), _) | (_, Some("priority" | "PRIORITY")) => Some(ServiceTier::Priority),
            (Some("ON_DEMAND_FLEX"), _) | (_, Some("flex" | "FLEX")) => Some(ServiceTier::Flex),
            _ => None,
        }
    }

    /// With the searches that the answer names, and the model.
    pub fn reported(&self, searches: &Searches, model: Option<&str>) -> Option<ReportedUsage> {
        let usage = Usage { web_searches: searches.fees(model), ..self.meters()? };
        let prepaid = self.traffic_type.as_deref() == Some("PROVISIONED_THROUGHPUT");
        Some(ReportedUsage { tier: self.tier(), prepaid, ..ReportedUsage::of(usage, model.map(str::to_owned)) })
    }
}

/// What an answer says of the searches that it was made from.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Grounding<'a> {
    #[serde(borrow)]
    web_search_queries: Many<Text<'a>>,
    #[serde(borrow)]
    image_search_queries: Many<Text<'a>>,
    grounding_chunks: Many<Chunk>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    web: Option<IgnoredAny>,
}

/// The different searches of an answer, which a stream may tell more than once.
#[derive(Debug, Default)]
pub struct Searches {
    seen: BTreeSet<u64>,
    /// There are results, if not searches.
    has_results: bool,
}

impl Searches {
    pub fn add(&mut self, grounding: &Grounding<'_>) {
        let of_kind = |kind: u8, queries: &Many<Text<'_>>, seen: &mut BTreeSet<u64>| {
            for query in queries.0.iter().filter(|query| !query.is_empty()) {
                let mut hasher = DefaultHasher::new();
                (kind, &**query).hash(&mut hasher);
                if seen.len() < MOST_SEARCHES {
                    seen.insert(hasher.finish());
                }
            }
        };
        of_kind(0, &grounding.web_search_queries, &mut self.seen);
        of_kind(1, &grounding.image_search_queries, &mut self.seen);
        self.has_results |= grounding.grounding_chunks.0.iter().any(|chunk| chunk.web.is_some());
    }

    /// A model that is not named is taken for one that charges each search.
    fn fees(&self, model: Option<&str>) -> u64 {
        let searches = (self.seen.len() as u64).max(u64::from(self.has_results));
        let once = model.is_some_and(|model| model.starts_with("gemini-1") || model.starts_with("gemini-2"));
        if once { searches.min(1) } else { searches }
    }
}

/// A candidate of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Candidate<'a> {
    pub index: u64,
    #[serde(borrow)]
    pub finish_reason: Option<Text<'a>>,
    #[serde(borrow)]
    pub grounding_metadata: Option<Grounding<'a>>,
}

/// An answer, or an event of a streamed one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Answer<'a> {
    #[serde(borrow)]
    pub candidates: Many<Candidate<'a>>,
    #[serde(borrow)]
    pub prompt_feedback: Option<PromptFeedback<'a>>,
    #[serde(borrow)]
    pub usage_metadata: Option<WireUsage<'a>>,
    #[serde(borrow)]
    pub model_version: Option<Text<'a>>,
    pub error: Option<IgnoredAny>,
    /// Some of Google's services wrap the answer.
    #[serde(borrow)]
    response: Option<Box<Answer<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PromptFeedback<'a> {
    #[serde(borrow)]
    pub block_reason: Option<Text<'a>>,
}

impl Answer<'_> {
    pub fn read(json: &[u8]) -> Option<Answer<'_>> {
        let answer: Answer<'_> = serde_json::from_slice(json).ok()?;
        Some(match answer.response {
            Some(inner) => *inner,
            None => answer,
        })
    }
}

/// Of a whole answer.
pub fn of_body(body: &[u8]) -> Option<ReportedUsage> {
    let answer = Answer::read(body)?;
    let mut searches = Searches::default();
    answer.candidates.0.iter().filter_map(|candidate| candidate.grounding_metadata.as_ref()).for_each(|found| searches.add(found));
    answer.usage_metadata?.reported(&searches, answer.model_version.as_deref())
}
