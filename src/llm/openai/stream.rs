//! Chunks of a streamed chat completion.

use std::borrow::Cow;

use serde::Deserialize;

use super::usage::WireUsage;

#[derive(Deserialize)]
pub struct Chunk<'a> {
    #[serde(borrow)]
    pub model: Option<Cow<'a, str>>,
    pub usage: Option<WireUsage>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    pub error: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Vec<ToolCall>,
}

#[derive(Deserialize)]
struct ToolCall {
    function: Option<Function>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Function {
    name: Option<String>,
    arguments: Option<String>,
}

impl Chunk<'_> {
    /// The chunk that only carries usage, which a caller sees only if it asked for it.
    pub fn is_usage_only(&self) -> bool {
        self.choices.is_empty() && self.usage.is_some()
    }

    /// Bytes of generated text in this chunk.
    pub fn visible_bytes(&self) -> u64 {
        let text = |t: &Option<Cow<'_, str>>| t.as_ref().map_or(0, |t| t.len());
        let function = |f: &Function| f.name.as_ref().map_or(0, String::len) + f.arguments.as_ref().map_or(0, String::len);
        let delta = |d: &Delta<'_>| {
            let called: usize = d.tool_calls.iter().filter_map(|c| c.function.as_ref()).map(function).sum();
            text(&d.content) + text(&d.reasoning_content) + text(&d.refusal) + called
        };
        self.choices.iter().filter_map(|c| c.delta.as_ref()).map(delta).sum::<usize>() as u64
    }
}
