//! The request of `generateContent` and `streamGenerateContent`.
//!
//! # What runs at the provider
//!
//! Searches, maps, code and pages that the model reads by itself are asked for as tools, and nothing in a request bounds how often
//! they run: since Gemini 3 each search that the model makes has a fee, and what code or a page returns is input again. So they are
//! named as surcharges, which a budget that denies what has no price refuses. Where a budget allows them, two windows of input are
//! reserved – the prompt's, and one for all that the tools return, which the model has to read together with it – and what the answer
//! reports is charged: its tokens, and the fees of its searches (see [`usage`](super::usage)).

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::parts::{Content, Size};
use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::object::{Many, Object, written};
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;

/// Tokens that a turn adds to its parts.
const CONTENT_TOKENS: u64 = 8;
/// Tokens of the request's own frame.
const REQUEST_TOKENS: u64 = 32;
/// Tokens that a function's declaration adds to its JSON.
const FUNCTION_TOKENS: u64 = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GenerateRequest<'a> {
    #[serde(borrow)]
    contents: Option<Many<Content<'a>>>,
    #[serde(borrow, alias = "system_instruction")]
    system_instruction: Option<Content<'a>>,
    #[serde(borrow)]
    tools: Option<Many<Object<'a>>>,
    /// A prefix that is stored at the provider.
    #[serde(alias = "cached_content")]
    cached_content: Option<IgnoredAny>,
    /// A conversation that goes on where the provider left it.
    #[serde(alias = "continuation_token")]
    continuation_token: Option<IgnoredAny>,
    #[serde(borrow, default, alias = "generation_config", deserialize_with = "written")]
    generation_config: Option<&'a RawValue>,
    #[serde(borrow, alias = "service_tier")]
    service_tier: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(borrow, alias = "max_output_tokens", deserialize_with = "written")]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow, alias = "candidate_count")]
    candidate_count: Option<&'a RawValue>,
    #[serde(alias = "response_schema")]
    response_schema: Option<IgnoredAny>,
    #[serde(alias = "response_json_schema")]
    response_json_schema: Option<IgnoredAny>,
    #[serde(borrow, alias = "response_modalities")]
    response_modalities: Option<&'a RawValue>,
    #[serde(borrow, alias = "response_format")]
    response_format: Option<&'a RawValue>,
    #[serde(alias = "speech_config")]
    speech_config: Option<IgnoredAny>,
    #[serde(alias = "image_config")]
    image_config: Option<IgnoredAny>,
    #[serde(borrow, alias = "thinking_config")]
    thinking_config: Option<ThinkingConfig<'a>>,
    #[serde(alias = "routing_config")]
    routing_config: Option<IgnoredAny>,
    #[serde(alias = "model_selection_config")]
    model_selection_config: Option<IgnoredAny>,
}

/// Thoughts count within the output cap, whatever their own budget is.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ThinkingConfig<'a> {
    #[serde(borrow, alias = "thinking_budget")]
    thinking_budget: Option<&'a RawValue>,
}

/// What the request asks for.
pub fn facts(_: &Addressed, body: &str) -> Result<Facts, RequestError> {
    let request: GenerateRequest<'_> = object(body)?;
    let Some(Many(contents)) = &request.contents else {
        return Err(RequestError::Field { field: "contents", problem: "is required" });
    };
    let config: GenerationConfig<'_> = match request.generation_config {
        Some(config) if config.get() != "null" => object(config.get())?,
        _ => GenerationConfig::default(),
    };
    let tools = tools(&request)?;
    let mut texts = Texts::default();
    let mut size = Size::default();
    for content in request.system_instruction.iter().chain(contents) {
        content.texts(body, &mut texts);
        content.size(&mut size);
    }
    let stored = request.cached_content.is_some() || request.continuation_token.is_some();
    let framed = REQUEST_TOKENS + CONTENT_TOKENS * (contents.len() as u64 + 1) + FUNCTION_TOKENS * tools.functions;
    let tokens = (body.len() as u64 + framed + size.image_tokens).saturating_sub(size.image_bytes);
    let (members, max_output) = output(body, &request, &config)?;
    let runs_tools = !tools.at_the_provider.is_empty();
    Ok(Facts {
        max_output,
        choices: choices(&config)?,
        turns: contents.len(),
        tools: usize::try_from(tools.functions).unwrap_or(usize::MAX).saturating_add(tools.at_the_provider.len()),
        required: required(&config, tools.functions > 0, size.image_tokens > 0).collect(),
        tier: asked_tier(request.service_tier),
        input: InputBound { tokens, opaque: size.opaque || stored || tools.computer, passes: if runs_tools { 2 } else { 1 } },
        media: size.media || stored || runs_tools || tools.computer || wants_media(&config),
        surcharges: surcharges(tools.at_the_provider, &config),
        texts,
        members,
        ..Facts::default()
    })
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, RequestError> {
    serde_json::from_str(json).map_err(|e| RequestError::Malformed(e.to_string()))
}

/// An object; the members of a type could otherwise be listed by position, which no provider takes.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, RequestError> {
    if json.trim_start().starts_with('{') { parsed(json) } else { Err(RequestError::Malformed("it is no object".to_owned())) }
}

/// The cap, and where it stands or would stand.
fn output(body: &str, request: &GenerateRequest<'_>, config: &GenerationConfig<'_>) -> Result<(Members, Option<u64>), RequestError> {
    const PROBLEM: &str = "must be a positive whole number";
    let max_output = match config.max_output_tokens.map(number) {
        None | Some(Number::Null) => None,
        Some(Number::Whole(cap)) if cap > 0 => Some(cap),
        Some(_) => return Err(RequestError::Field { field: "generationConfig.maxOutputTokens", problem: PROBLEM }),
    };
    let span = |value: Option<&RawValue>| value.and_then(|value| span_in(body, value.get()));
    let cap = match span(request.generation_config) {
        Some(config) if body[config.clone()].starts_with('{') => Slot::within(body, &config, "maxOutputTokens"),
        Some(null) => Slot::instead(&null, "{\"maxOutputTokens\":", "}"),
        None => Slot::first(body, "\"generationConfig\":{\"maxOutputTokens\":", "},"),
    };
    Ok((Members { max_output: span(config.max_output_tokens).into_iter().collect(), cap: Some(cap), ..Members::default() }, max_output))
}

fn choices(config: &GenerationConfig<'_>) -> Result<u64, RequestError> {
    match config.candidate_count.map(number) {
        // Zero is what Google's messages have where nothing is said.
        None | Some(Number::Null | Number::Whole(0)) => Ok(1),
        Some(Number::Whole(count)) if count <= 128 => Ok(count),
        Some(_) => Err(RequestError::Field { field: "generationConfig.candidateCount", problem: "must be between 1 and 128" }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Null,
    Whole(u64),
    Other,
}

/// A whole number as Google's parser takes it: also in quotes, and as `1e3`.
fn number(value: &RawValue) -> Number {
    let text = value.get();
    if text == "null" {
        return Number::Null;
    }
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let float = || bare.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number));
    match bare.parse() {
        Ok(whole) => Number::Whole(whole),
        Err(_) => float().map_or(Number::Other, |number| Number::Whole(number as u64)),
    }
}

#[derive(Default)]
struct Tools {
    /// The caller's own functions.
    functions: u64,
    at_the_provider: Vec<String>,
    /// Functions that the provider adds by itself, for the caller to run.
    computer: bool,
}

/// Whatever is no declaration of a function runs at the provider, also what came later than this was written.
fn tools(request: &GenerateRequest<'_>) -> Result<Tools, RequestError> {
    let mut tools = Tools::default();
    for (name, value) in request.tools.iter().flat_map(|tools| &tools.0).flat_map(|tool| &tool.0) {
        match (name.as_ref(), value.get()) {
            (_, "null") => {}
            ("functionDeclarations" | "function_declarations", functions) => {
                let functions: Many<IgnoredAny> = parsed(functions)?;
                tools.functions = tools.functions.saturating_add(functions.0.len() as u64);
            }
            ("computerUse" | "computer_use", _) => tools.computer = true,
            (name, _) => tools.at_the_provider.push(name.to_owned()),
        }
    }
    Ok(tools)
}

/// A router at the provider may have another model answer, at its own price.
fn surcharges(at_the_provider: Vec<String>, config: &GenerationConfig<'_>) -> Vec<String> {
    let routed = [(config.routing_config.is_some(), "routingConfig"), (config.model_selection_config.is_some(), "modelSelectionConfig")];
    let routed = routed.into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name.to_owned());
    at_the_provider.into_iter().chain(routed).collect()
}

fn required(config: &GenerationConfig<'_>, functions: bool, images: bool) -> impl Iterator<Item = Capability> {
    let schema = config.response_schema.is_some() || config.response_json_schema.is_some();
    let thinks = config.thinking_config.as_ref().is_some_and(|t| t.thinking_budget.is_none_or(|budget| number(budget) != Number::Whole(0)));
    let needs =
        [(functions, Capability::Tools), (images, Capability::Vision), (schema, Capability::JsonSchema), (thinks, Capability::Reasoning)];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability))
}

/// Anything but text may be asked for; a modality can be written as a number, which is no word of these.
fn wants_media(config: &GenerationConfig<'_>) -> bool {
    let only_text = |json: &RawValue| {
        let words = json.get().split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        words.into_iter().all(|word| matches!(word, "TEXT" | "MODALITY_UNSPECIFIED"))
    };
    config.speech_config.is_some()
        || config.image_config.is_some()
        || config.response_format.is_some()
        || config.response_modalities.is_some_and(|modalities| !only_text(modalities))
}

/// On Vertex AI a header can ask for a tier, and a project be set to one; so a request that names none says nothing.
fn asked_tier(value: Option<&RawValue>) -> AskedTier {
    let name = value.map(|value| value.get().trim_matches('"').to_ascii_lowercase()).unwrap_or_default();
    match name.strip_prefix("service_tier_").unwrap_or(&name) {
        "standard" => AskedTier::Said(ServiceTier::Standard),
        "flex" => AskedTier::Said(ServiceTier::Flex),
        "priority" => AskedTier::Said(ServiceTier::Priority),
        _ => AskedTier::Unsaid,
    }
}
