//! Contents and their parts: what a model reads.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::llm::object::{Many, Text};
use crate::llm::request::Texts;

/// Tokens of one image at most.
///
/// Models before Gemini 3 scale an image down to 3,072 pixels on its long side and cut it into tiles of 256 to 768 pixels, two thirds
/// of its short side where that lies between: 2 × 12 tiles at most, and room for the whole, at 258 tokens each. Later ones read 2,240
/// tokens at most (`MEDIA_RESOLUTION_ULTRA_HIGH`).
const IMAGE_TOKENS: u64 = 25 * 258;

/// A turn, or the instructions.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Content<'a> {
    #[serde(borrow)]
    role: Option<Text<'a>>,
    #[serde(borrow)]
    pub parts: Many<Part<'a>>,
}

/// One part; members that say nothing of its size are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Part<'a> {
    #[serde(borrow)]
    pub text: Option<Text<'a>>,
    #[serde(borrow, alias = "inline_data")]
    inline_data: Option<Blob<'a>>,
    #[serde(alias = "file_data")]
    file_data: Option<IgnoredAny>,
    #[serde(borrow, alias = "function_call")]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, alias = "function_response")]
    function_response: Option<ToolAnswer<'a>>,
    #[serde(borrow, alias = "executable_code")]
    executable_code: Option<&'a RawValue>,
    #[serde(borrow, alias = "code_execution_result")]
    code_execution_result: Option<&'a RawValue>,
    #[serde(borrow, alias = "tool_call")]
    tool_call: Option<&'a RawValue>,
    #[serde(borrow, alias = "tool_response")]
    tool_response: Option<ToolAnswer<'a>>,
    /// What the model thought before, sealed: no fewer bytes than tokens.
    #[serde(alias = "thought_signature")]
    thought_signature: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Blob<'a> {
    #[serde(borrow, alias = "mime_type")]
    mime_type: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
}

/// What a tool answered, in JSON and in parts of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolAnswer<'a> {
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    parts: Many<Part<'a>>,
}

/// What is known of the size of some contents.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes that the provider reads as images, and not as text.
    pub image_bytes: u64,
    pub image_tokens: u64,
    pub opaque: bool,
    /// Images or sound may be in it.
    pub media: bool,
}

impl Content<'_> {
    /// A turn without a role is the user's.
    fn is_users(&self) -> bool {
        self.role.as_deref().is_none_or(|role| role.is_empty() || role == "user")
    }

    /// All texts, tools' arguments and answers included.
    pub fn texts(&self, body: &str, texts: &mut Texts) {
        push(body, &self.parts.0, self.is_users(), texts);
    }

    /// Of the texts alone.
    pub fn text_bytes(&self) -> u64 {
        self.parts.0.iter().filter_map(|part| part.text.as_ref()).map(|text| text.len() as u64).sum()
    }

    pub fn size(&self, size: &mut Size) {
        self.parts.0.iter().for_each(|part| part.size(size));
    }
}

fn push(body: &str, parts: &[Part<'_>], is_user: bool, texts: &mut Texts) {
    for part in parts {
        if let Some(text) = &part.text {
            texts.push(body, text, is_user);
        }
        for json in [part.function_call, part.executable_code, part.code_execution_result, part.tool_call].into_iter().flatten() {
            texts.push(body, json.get(), false);
        }
        for answer in part.answers() {
            if let Some(json) = answer.response {
                texts.push(body, json.get(), false);
            }
            push(body, &answer.parts.0, false, texts);
        }
    }
}

impl<'a> Part<'a> {
    fn answers(&self) -> impl Iterator<Item = &ToolAnswer<'a>> {
        self.function_response.iter().chain(&self.tool_response)
    }

    fn size(&self, size: &mut Size) {
        if let Some(blob) = &self.inline_data {
            size.media = true;
            let kind = blob.mime_type.as_deref().unwrap_or_default();
            if kind.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("image/")) {
                size.image_bytes = size.image_bytes.saturating_add(blob.data.as_ref().map_or(0, |data| data.len() as u64));
                size.image_tokens = size.image_tokens.saturating_add(IMAGE_TOKENS);
            } else {
                size.opaque = true;
            }
        }
        if self.file_data.is_some() || !self.is_known() {
            (size.media, size.opaque) = (true, true);
        }
        for answer in self.answers() {
            answer.parts.0.iter().for_each(|part| part.size(size));
        }
    }

    /// Of a kind that came later than this was written, nothing is known.
    fn is_known(&self) -> bool {
        let written = [self.function_call, self.executable_code, self.code_execution_result, self.tool_call];
        self.text.is_some()
            || self.inline_data.is_some()
            || self.file_data.is_some()
            || self.thought_signature.is_some()
            || written.iter().any(Option::is_some)
            || self.answers().next().is_some()
    }
}
