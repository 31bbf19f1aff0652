//! What a request asks for, whatever its protocol.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::content::Content;
use super::{anthropic, openai};
use crate::core::classify::PromptText;
use crate::core::policy::{Capability, Protocol};

/// Why a request cannot be understood, in words for its caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the body is not a valid request: {0}")]
    Malformed(String),
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: &'static str },
}

/// A parsed request. Texts point into the body wherever JSON did not escape them.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) protocol: Protocol,
    pub(super) body: Bytes,
    pub(super) facts: Facts,
}

/// What the protocols' parsers find out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub model: String,
    pub stream: bool,
    pub max_output: Option<u64>,
    pub choices: u64,
    /// The caller asked for usage in the stream itself.
    pub wants_usage: bool,
    pub texts: Texts,
    pub turns: usize,
    pub tools: usize,
    pub required: BTreeSet<Capability>,
    /// See [`Request::surcharges`].
    pub surcharges: Vec<String>,
    /// See [`Request::input_bound`].
    pub input_bound: u64,
    pub members: Members,
}

/// Where the members that a rewrite changes stand in the body.
#[derive(Clone, Debug, Default)]
pub struct Members {
    pub model: Option<Range<usize>>,
    /// Each member that caps the output.
    pub max_output: Vec<Range<usize>>,
    pub stream_options: Option<Range<usize>>,
}

/// The texts of a request in order.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    texts: Vec<Text>,
    last_user: usize,
}

#[derive(Clone, Debug)]
enum Text {
    InBody(Range<usize>),
    Unescaped(String),
}

/// Parses a request body; one pass.
///
/// # Errors
/// When the body is not JSON of the protocol's form, or lacks what no provider would do without.
pub fn parse(protocol: Protocol, body: Bytes) -> Result<Request, RequestError> {
    let text = std::str::from_utf8(&body).map_err(|e| RequestError::Malformed(format!("it is not UTF-8 from byte {}", e.valid_up_to())))?;
    let facts = match protocol {
        Protocol::OpenAIChat => openai::request::facts(text)?,
        Protocol::AnthropicMessages => anthropic::request::facts(text)?,
    };
    if facts.model.is_empty() {
        return Err(RequestError::Field { field: "model", problem: "name a model, or an alias of the route such as \"auto\"" });
    }
    Ok(Request { protocol, body, facts })
}

impl Request {
    pub fn model(&self) -> &str {
        &self.facts.model
    }

    pub fn stream(&self) -> bool {
        self.facts.stream
    }

    /// The caller's cap on output tokens of one choice.
    pub fn max_output(&self) -> Option<u64> {
        self.facts.max_output
    }

    /// Answers asked for (`n`), each of which may use the whole output cap.
    pub fn choices(&self) -> u64 {
        self.facts.choices
    }

    /// True when the caller asked to see usage in the stream, so that it must not be hidden.
    pub fn wants_usage(&self) -> bool {
        self.facts.wants_usage
    }

    /// An upper bound on the input tokens that any tokenizer can count for this request.
    ///
    /// Byte-level and byte-fallback tokenizers never make more tokens than there are UTF-8 bytes, and JSON never writes
    /// a text in fewer bytes than it has. So the bound is the body's length, where images count as their family's
    /// most expensive size instead of as base64, and each message and tool adds what providers wrap around it.
    pub fn input_bound(&self) -> u64 {
        self.facts.input_bound
    }

    /// What the model must be able to do.
    pub fn required(&self) -> &BTreeSet<Capability> {
        &self.facts.required
    }

    /// What the request asks for that is billed beyond its tokens at list price: tools that run at the provider, a dearer
    /// service tier, spoken output.
    pub fn surcharges(&self) -> &[String] {
        &self.facts.surcharges
    }

    pub fn prompt(&self) -> PromptText<'_> {
        let part = |text: &'_ Text| -> Cow<'_, str> {
            match text {
                // The range was cut out of this body as a whole text, so it is UTF-8 and in bounds; to see that again is many times
                // faster than to look for what has to be mended.
                Text::InBody(range) => {
                    let bytes = &self.body[range.clone()];
                    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
                }
                Text::Unescaped(text) => Cow::Owned(text.clone()),
            }
        };
        PromptText {
            parts: self.facts.texts.texts.iter().map(part).collect(),
            last_user: self.facts.texts.last_user,
            turns: self.facts.turns,
            tools: self.facts.tools,
        }
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl Texts {
    pub fn push(&mut self, body: &str, text: &str, is_user: bool) {
        if is_user {
            self.last_user = self.texts.len();
        }
        self.texts.push(match span_in(body, text) {
            Some(range) => Text::InBody(range),
            None => Text::Unescaped(text.to_owned()),
        });
    }

    /// All texts of a message's content, nested tool results included.
    pub fn push_content(&mut self, body: &str, content: &Content<'_>, is_user: bool) {
        for part in &content.0 {
            for text in [&part.text, &part.thinking, &part.refusal].into_iter().flatten() {
                self.push(body, text, is_user);
            }
            if let Some(input) = part.input {
                self.push(body, input.get(), false);
            }
            if let Some(nested) = &part.content {
                self.push_content(body, nested, false);
            }
        }
    }
}

/// Where `part` stands in `whole`, when it is a slice of it.
pub fn span_in(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// Tokens for content that no length of the request bounds (documents, audio, files by reference): the largest context
/// window in the catalogue, so that only a budget with room for the worst lets it through.
pub const OPAQUE_TOKENS: u64 = 1_050_000;

/// The bound of [`Request::input_bound`], from what the parsers counted.
pub fn input_bound(body: &str, contents: &[&Content<'_>], per_image: u64, overhead: u64) -> u64 {
    let mut bound = body.len() as u64 + overhead;
    let mut parts: Vec<_> = contents.iter().flat_map(|c| &c.0).collect();
    while let Some(part) = parts.pop() {
        if let Some(bytes) = part.image_bytes() {
            bound = bound.saturating_sub(bytes as u64) + per_image;
        }
        if part.is_opaque() {
            bound += OPAQUE_TOKENS;
        }
        parts.extend(part.content.iter().flat_map(|c| &c.0));
    }
    bound
}
