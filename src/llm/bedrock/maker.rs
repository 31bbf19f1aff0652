//! Whose body an InvokeModel request has: Bedrock passes it on to the model as it is.

use super::members::Object;

/// The shape of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anthropic Messages, with `anthropic_version` in place of a model.
    Anthropic,
    /// Amazon Nova, as Converse with another name or two.
    Nova,
    /// Chat Completions, and the members that cap the output.
    Chat(&'static [&'static str]),
    /// One prompt, and the member that caps the output.
    Prompt(&'static str),
    /// Amazon Titan's texts, whose cap is in an object of its own.
    Titan,
    /// What is embedded, which has no output.
    Embedding,
    /// Not known here: nothing of it can be relied on.
    Unknown,
}

const MAX_TOKENS: &[&str] = &["max_tokens"];

/// By a maker's segment of a model's name (`us.meta.llama3-3-70b-instruct-v1:0`): how bodies with `messages`, and those with a
/// prompt, call their cap.
const MAKERS: [(&str, &[&str], &str); 13] = [
    ("openai", &["max_completion_tokens", "max_tokens"], "max_completion_tokens"),
    ("meta", MAX_TOKENS, "max_gen_len"),
    ("mistral", MAX_TOKENS, "max_tokens"),
    ("deepseek", MAX_TOKENS, "max_tokens"),
    ("cohere", MAX_TOKENS, "max_tokens"),
    ("qwen", MAX_TOKENS, "max_tokens"),
    ("ai21", MAX_TOKENS, "max_tokens"),
    ("google", MAX_TOKENS, "max_tokens"),
    ("moonshot", MAX_TOKENS, "max_tokens"),
    ("moonshotai", MAX_TOKENS, "max_tokens"),
    ("minimax", MAX_TOKENS, "max_tokens"),
    ("nvidia", MAX_TOKENS, "max_tokens"),
    ("writer", MAX_TOKENS, "max_tokens"),
];
/// Makers of models that embed, whose names then say so.
const EMBEDDERS: [&str; 3] = ["amazon", "cohere", "twelvelabs"];

/// Tells a shape by the model's name, which may be that of an inference profile or an ARN that ends in one; where that says nothing
/// (an application's own profile, an alias), by what no other maker's body has.
pub fn shape(model: &str, body: &Object<'_>) -> Shape {
    let name = model.rsplit('/').next().unwrap_or_default();
    let mut segments = name.split('.');
    let is_of = |maker: &str| name.split('.').any(|segment| segment == maker);
    if name.contains("embed") && EMBEDDERS.iter().any(|maker| is_of(maker)) {
        return Shape::Embedding;
    }
    if is_of("anthropic") {
        return if body.has("anthropic_version") { Shape::Anthropic } else { Shape::Unknown };
    }
    if is_of("amazon") {
        let shapes = [("nova", Shape::Nova), ("titan-text", Shape::Titan)];
        return shapes.into_iter().find(|(family, _)| name.contains(family)).map_or(Shape::Unknown, |(_, shape)| shape);
    }
    let Some((_, chat, prompt)) = segments.find_map(|segment| MAKERS.iter().find(|(maker, _, _)| *maker == segment)) else {
        return match (body.has("anthropic_version"), body.has("messages") && body.has("inferenceConfig")) {
            (true, _) => Shape::Anthropic,
            (false, true) => Shape::Nova,
            (false, false) => Shape::Unknown,
        };
    };
    match (body.has("messages"), body.has("prompt") || body.has("message")) {
        (true, _) => Shape::Chat(chat),
        (false, true) => Shape::Prompt(prompt),
        (false, false) => Shape::Unknown,
    }
}
