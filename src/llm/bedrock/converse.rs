//! The request of Converse and ConverseStream, and what InvokeModel's body for Amazon Nova shares with it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use memchr::memmem;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::members::{Object, caps, choices, config, object};
use crate::core::policy::Capability;
use crate::core::tariff::{AskedTier, CacheWrites, ServiceTier};
use crate::llm::address::Addressed;
use crate::llm::request::{Facts, InputBound, Members, RequestError, Texts, span_in};
use crate::llm::rewrite::Slot;

pub use super::stream::converse as reader;
pub use super::usage::of_converse as usage;

/// Tokens of one image at most: room for the largest of any family that Bedrock offers (Qwen's 16,384 patches), as for OpenAI's.
const IMAGE_TOKENS: u64 = 36_000;
/// Tokens that a message adds to its text.
const MESSAGE_TOKENS: u64 = 16;
/// Tokens of the request's own frame.
const REQUEST_TOKENS: u64 = 64;
/// Tokens of the system prompts that makers add for tools, and for answers of a schema.
const TOOL_PROMPT_TOKENS: u64 = 1_024;

/// Objects of `additionalModelRequestFields` that have members by which a maker caps the output.
const OTHER_CONFIGS: [&str; 2] = ["inferenceConfig", "textGenerationConfig"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConverseRequest<'a> {
    #[serde(borrow)]
    messages: Option<Vec<Message<'a>>>,
    #[serde(borrow)]
    system: Option<Vec<Block<'a>>>,
    /// Also where it is null.
    #[serde(borrow, default, deserialize_with = "raw")]
    inference_config: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(borrow)]
    additional_model_request_fields: Option<&'a RawValue>,
    guardrail_config: Option<IgnoredAny>,
    prompt_variables: Option<IgnoredAny>,
    #[serde(borrow)]
    service_tier: Option<Kind<'a>>,
    #[serde(borrow)]
    performance_config: Option<Performance<'a>>,
    output_config: Option<IgnoredAny>,
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
}

/// A content block, which has one of these members.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image: Option<Image<'a>>,
    #[serde(borrow)]
    tool_use: Option<ToolUse<'a>>,
    #[serde(borrow)]
    tool_result: Option<Parts<'a>>,
    /// Within a tool's result.
    #[serde(borrow)]
    json: Option<&'a RawValue>,
    #[serde(borrow)]
    guard_content: Option<Guarded<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Reasoning<'a>>,
    #[serde(borrow)]
    search_result: Option<Parts<'a>>,
    #[serde(borrow)]
    citations_content: Option<Parts<'a>>,
    cache_point: Option<IgnoredAny>,
    document: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    video: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    content: Option<Vec<Block<'a>>>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow)]
    source: Option<Source<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    /// Base64; absent for an object in S3.
    #[serde(borrow)]
    bytes: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ToolUse<'a> {
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Guarded<'a> {
    #[serde(borrow)]
    text: Option<Worded<'a>>,
    #[serde(borrow)]
    image: Option<Image<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reasoning<'a> {
    #[serde(borrow)]
    reasoning_text: Option<Worded<'a>>,
}

#[derive(Deserialize)]
struct Worded<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct ToolConfig<'a> {
    #[serde(borrow)]
    tools: Option<Vec<Tool<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool<'a> {
    #[serde(borrow)]
    system_tool: Option<Named<'a>>,
    cache_point: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Performance<'a> {
    #[serde(borrow, default)]
    latency: Cow<'a, str>,
}

/// What the request asks for.
pub fn facts(addressed: &Addressed, body: &str) -> Result<Facts, RequestError> {
    read(addressed, body, &["maxTokens"])
}

/// As [`facts`], where the members of `inferenceConfig` in `caps` cap the output; the first is the one that is written.
pub fn read(addressed: &Addressed, body: &str, caps: &'static [&'static str]) -> Result<Facts, RequestError> {
    let request: ConverseRequest<'_> = serde_json::from_str(body).map_err(|e| RequestError::Malformed(e.to_string()))?;
    let messages = request.messages.as_deref().unwrap_or_default();
    let tools = request.tool_config.as_ref().and_then(|config| config.tools.as_deref()).unwrap_or_default();
    let mut seen = Seen::default();
    seen.blocks(body, request.system.as_deref().unwrap_or_default(), false);
    for message in messages {
        seen.blocks(body, message.content.as_deref().unwrap_or_default(), message.role == "user");
    }
    // What a stored prompt says is not in the request, and what caps its output neither.
    let stored = request.prompt_variables.is_some() || addressed.model.as_deref().is_some_and(is_prompt);
    let (max_output, members) = caps_of(body, &request, caps, stored)?;
    let tool_count = tools.iter().filter(|tool| tool.cache_point.is_none()).count();
    let has_prompt = tool_count > 0 || request.output_config.is_some();
    let overhead = REQUEST_TOKENS + MESSAGE_TOKENS * (messages.len() as u64) + if has_prompt { TOOL_PROMPT_TOKENS } else { 0 };
    let at_the_provider = tools.iter().filter_map(|tool| tool.system_tool.as_ref());
    let other = object(request.additional_model_request_fields)?;
    let mut surcharges: Vec<String> = at_the_provider.map(|tool| format!("the system tool {:?}", tool.name)).collect();
    let unbounded = seen.unbounded || stored || !surcharges.is_empty();
    surcharges.extend(request.guardrail_config.is_some().then(|| GUARDRAIL.to_owned()));
    let tier = tier(
        request.service_tier.as_ref().map(|tier| tier.kind.as_ref()),
        request.performance_config.as_ref().map(|performance| performance.latency.as_ref()),
    );
    surcharges.extend((tier == ServiceTier::Fast).then(|| OPTIMIZED.to_owned()));
    Ok(Facts {
        max_output,
        choices: choices(&other)?,
        turns: messages.len(),
        tools: tool_count,
        required: required(&request, &other, &seen, tool_count),
        surcharges,
        tier: AskedTier::Said(tier),
        cache: if stored { CacheWrites::Any } else { cache_writes(body) },
        input: InputBound {
            tokens: (body.len() as u64).saturating_sub(seen.image_bytes) + IMAGE_TOKENS * seen.images + overhead,
            opaque: unbounded,
            passes: 1,
        },
        media: seen.images > 0 || seen.unbounded,
        texts: seen.texts,
        members,
        ..Facts::default()
    })
}

/// What a guardrail is called in a refusal: its fee is by the length of the text that it looks at.
pub const GUARDRAIL: &str = "a guardrail";
/// What inference at a lower latency is called there: it has prices of its own, which no list has.
pub const OPTIMIZED: &str = "latency-optimized inference";

/// What the request lets be cached: it has to say so, somewhere. A name that may be written with escapes is not looked for.
fn cache_writes(body: &str) -> CacheWrites {
    let has = |text: &str| memmem::find(body.as_bytes(), text.as_bytes()).is_some();
    match (has("cachePoint") || has("cache_control"), has("\"1h\""), has("\\u00")) {
        (_, _, true) | (true, true, _) => CacheWrites::Any,
        (true, false, _) => CacheWrites::Short,
        (false, _, _) => CacheWrites::Never,
    }
}

/// What the contents of a request are.
#[derive(Default)]
struct Seen {
    texts: Texts,
    images: u64,
    /// Bytes of base64 that are read as images, not as text.
    image_bytes: u64,
    /// Documents, sound, film, and kinds of content that are not known here.
    unbounded: bool,
}

impl Seen {
    /// Nesting is as deep as the JSON parser lets it be.
    fn blocks(&mut self, body: &str, blocks: &[Block<'_>], is_user: bool) {
        for block in blocks {
            self.block(body, block, is_user);
        }
    }

    fn block(&mut self, body: &str, block: &Block<'_>, is_user: bool) {
        let guarded = block.guard_content.as_ref();
        let guarded_text = guarded.and_then(|guarded| guarded.text.as_ref()?.text.as_ref());
        for text in [block.text.as_ref(), guarded_text].into_iter().flatten() {
            self.texts.push(body, text, is_user);
        }
        let thought = block.reasoning_content.as_ref().and_then(|thought| thought.reasoning_text.as_ref()?.text.as_deref());
        let input = block.tool_use.as_ref().and_then(|call| Some(call.input?.get()));
        for text in [thought, input, block.json.map(RawValue::get)].into_iter().flatten() {
            self.texts.push(body, text, false);
        }
        for image in [block.image.as_ref(), guarded.and_then(|guarded| guarded.image.as_ref())].into_iter().flatten() {
            self.images += 1;
            self.image_bytes += image.source.as_ref().and_then(|source| source.bytes.as_ref()).map_or(0, |bytes| bytes.len() as u64);
        }
        let nested = [&block.tool_result, &block.search_result, &block.citations_content];
        for parts in nested.into_iter().flatten() {
            self.blocks(body, parts.content.as_deref().unwrap_or_default(), false);
        }
        let is_known = block.text.is_some()
            || block.image.is_some()
            || block.tool_use.is_some()
            || block.json.is_some()
            || guarded.is_some()
            || block.reasoning_content.is_some()
            || block.cache_point.is_some()
            || nested.into_iter().any(Option::is_some);
        self.unbounded |= !is_known || block.document.is_some() || block.audio.is_some() || block.video.is_some();
    }
}

/// An ARN of Bedrock's prompt management in place of a model.
fn is_prompt(model: &str) -> bool {
    let model = crate::llm::address::decoded(model).unwrap_or_default();
    model.starts_with("arn:") && model.contains(":prompt/")
}

/// The output cap, and where its members stand. Bedrock passes `additionalModelRequestFields` on to the model as they are, so that a
/// cap in them may stand against the one of `inferenceConfig`.
fn caps_of(
    body: &str,
    request: &ConverseRequest<'_>,
    names: &'static [&'static str],
    stored: bool,
) -> Result<(Option<u64>, Members), RequestError> {
    let config = config(request.inference_config, "inferenceConfig")?;
    let other = object(request.additional_model_request_fields)?;
    let (first, second) = (other.object(OTHER_CONFIGS[0])?, other.object(OTHER_CONFIGS[1])?);
    let known = names.iter().filter_map(|name| config.any(name)).collect();
    let caps = caps(known, &[&other, &first, &second], "inferenceConfig.maxTokens")?;
    let spans = caps.values.iter().filter_map(|value| span_in(body, value.get())).collect();
    let slot = (!stored).then(|| match request.inference_config.and_then(|config| span_in(body, config.get())) {
        Some(span) => Slot::within(body, &span, names[0]),
        None => slot_of_config(body, names[0]),
    });
    Ok((caps.most, Members { max_output: spans, cap: slot, ..Members::default() }))
}

/// As the one member of an `inferenceConfig` that the request has not.
fn slot_of_config(body: &str, name: &str) -> Slot {
    let open = body.find('{').map_or(0, |at| at + 1);
    let is_empty = body[open..].trim_start().starts_with('}');
    let after = if is_empty { "}" } else { "}," };
    Slot { before: format!("\"inferenceConfig\":{{\"{name}\":").into(), ..Slot::first(body, "", after) }
}

fn required(request: &ConverseRequest<'_>, fields: &Object<'_>, seen: &Seen, tools: usize) -> BTreeSet<Capability> {
    const THINKING: [&str; 4] = ["thinking", "reasoning_config", "reasoningConfig", "reasoning_effort"];
    let thinks = THINKING.iter().filter_map(|name| fields.get(name)).any(|value| !value.get().contains("disabled"));
    let needs = [
        (tools > 0, Capability::Tools),
        (seen.images > 0, Capability::Vision),
        (request.output_config.is_some(), Capability::JsonSchema),
        (thinks, Capability::Reasoning),
    ];
    needs.into_iter().filter_map(|(needed, capability)| needed.then_some(capability)).collect()
}

/// The tier of a service tier and a latency, as requests ask for them and answers name them. Reserved capacity is bought ahead, and
/// has no price by the token.
pub fn tier(service: Option<&str>, latency: Option<&str>) -> ServiceTier {
    match (latency, service) {
        (Some("optimized"), _) => ServiceTier::Fast,
        (_, Some("priority")) => ServiceTier::Priority,
        (_, Some("flex")) => ServiceTier::Flex,
        _ => ServiceTier::Standard,
    }
}
