//! Events of a streamed message.

use std::borrow::Cow;

use serde::Deserialize;

use super::usage::WireUsage;

#[derive(Deserialize)]
pub struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub message: Option<Message<'a>>,
    pub usage: Option<WireUsage>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
pub struct Message<'a> {
    #[serde(borrow)]
    pub model: Option<Cow<'a, str>>,
    pub usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// Bytes of generated text in this event.
    pub fn visible_bytes(&self) -> u64 {
        let texts = self.delta.iter().flat_map(|d| [&d.text, &d.thinking, &d.partial_json]).flatten();
        texts.map(|t| t.len() as u64).sum()
    }
}
