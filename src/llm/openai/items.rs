//! The input items of a response: their texts, their images, and what of them is not in the request.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::responses::Tool;
use crate::llm::request::{RequestError, Texts};

/// What the items amount to.
#[derive(Default)]
pub struct Items<'a> {
    pub count: usize,
    pub images: u64,
    /// Bytes of the body that are images, and not text.
    pub image_bytes: usize,
    /// Some refer to what the provider has stored, or to documents and sound.
    pub opaque: bool,
    pub media: bool,
    /// One asks to shorten the conversation.
    pub compacts: bool,
    /// Tools that items bring along.
    pub tools: Vec<Tool<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    /// A message may leave it out.
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    #[serde(borrow)]
    encrypted_content: Option<&'a RawValue>,
    /// A generated image.
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
}

/// A part of a message, or of what a tool answered.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    image_url: Option<Cow<'a, str>>,
    file_id: Option<IgnoredAny>,
}

/// Reads a request's `input`: a text of the user's, or a list of items.
///
/// # Errors
/// When an item is not of the format's form.
pub fn read<'a>(texts: &mut Texts, body: &str, input: &'a RawValue) -> Result<Items<'a>, RequestError> {
    let mut items = Items::default();
    if input.get().starts_with('[') {
        for item in of_json::<Vec<&'a RawValue>>(input)? {
            items.count += 1;
            items.add(texts, body, item)?;
        }
    } else {
        items.count = 1;
        push_text(texts, body, input, true)?;
    }
    Ok(items)
}

/// A member that is a text; as JSON, where it is something else.
///
/// # Errors
/// When it is no UTF-16 within its escapes.
pub fn push_text(texts: &mut Texts, body: &str, value: &RawValue, is_user: bool) -> Result<(), RequestError> {
    match value.get().as_bytes().first() {
        Some(b'"') => texts.push(body, &of_json::<TextValue<'_>>(value)?.0, is_user),
        _ => texts.push(body, value.get(), is_user),
    }
    Ok(())
}

/// A string that borrows where nothing in it is escaped.
#[derive(Deserialize)]
struct TextValue<'a>(#[serde(borrow)] Cow<'a, str>);

fn of_json<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, RequestError> {
    serde_json::from_str(value.get()).map_err(|e| RequestError::Malformed(format!("in input: {e}")))
}

impl<'a> Items<'a> {
    fn add(&mut self, texts: &mut Texts, body: &str, raw: &'a RawValue) -> Result<(), RequestError> {
        let item: Item<'a> = of_json(raw)?;
        match item.kind.as_deref().unwrap_or("message") {
            "message" => match item.content {
                Some(content) => self.parts(texts, body, content, item.role == "user")?,
                // An identifier alone is a reference.
                None => self.opaque = true,
            },
            "function_call_output" | "custom_tool_call_output" | "computer_call_output" => {
                if let Some(output) = item.output {
                    self.parts(texts, body, output, false)?;
                }
            }
            "image_generation_call" => {
                self.media = true;
                match item.result.filter(|result| result.get() != "null") {
                    Some(image) => self.image(image.get().len()),
                    None => self.opaque = true,
                }
            }
            // What has been thought may be in the item, or only at the provider.
            "reasoning" => self.opaque |= item.encrypted_content.is_none_or(|content| content.get().len() <= 2),
            "additional_tools" => {
                if let Some(tools) = item.tools {
                    self.tools.extend(of_json::<Vec<Tool<'a>>>(tools)?);
                }
            }
            "compaction_trigger" => self.compacts = true,
            "configuration_update" => {}
            kind => {
                texts.push(body, raw.get(), false);
                self.opaque |= !is_written_out(kind);
            }
        }
        Ok(())
    }

    fn parts(&mut self, texts: &mut Texts, body: &str, content: &'a RawValue, is_user: bool) -> Result<(), RequestError> {
        let parts = match content.get().as_bytes().first() {
            Some(b'[') => of_json::<Vec<Part<'a>>>(content)?,
            Some(b'{') => vec![of_json::<Part<'a>>(content)?],
            _ => return push_text(texts, body, content, is_user),
        };
        for part in parts {
            for text in [&part.text, &part.refusal].into_iter().flatten() {
                texts.push(body, text, is_user);
            }
            match part.kind.as_ref() {
                "input_text" | "output_text" | "text" | "refusal" | "summary_text" | "reasoning_text" => {}
                "input_image" | "computer_screenshot" => {
                    self.image(part.image_url.as_ref().map_or(0, |url| url.len()));
                    // It may name anything.
                    self.opaque |= part.file_id.is_some();
                }
                // Documents, sound, and what is not known here.
                _ => {
                    self.opaque = true;
                    self.media = true;
                }
            }
        }
        Ok(())
    }

    fn image(&mut self, bytes: usize) {
        self.images += 1;
        self.image_bytes += bytes;
        self.media = true;
    }
}

/// Items that have in them all that the model reads of them. Of others (searches, containers, summaries of conversations) the provider
/// keeps a part.
fn is_written_out(kind: &str) -> bool {
    const WRITTEN_OUT: [&str; 13] = [
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
    ];
    WRITTEN_OUT.contains(&kind)
}
