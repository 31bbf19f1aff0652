//! What a request asks for, whatever its format.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::address::{self, Addressed};
use super::content::Content;
use super::format::format;
use super::rewrite::Slot;
use super::words;
use crate::core::classify::PromptText;
use crate::core::policy::{Capability, Protocol};
use crate::core::shape::Shape;
use crate::core::tariff::{AskedTier, CacheWrites};

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
    pub(super) addressed: Addressed,
    pub(super) body: Bytes,
    pub(super) facts: Facts,
}

/// What the formats' parsers find out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As the body or the path has it; empty when neither does.
    pub model: String,
    pub stream: bool,
    pub max_output: Option<u64>,
    /// Answers asked for, each of which may use the whole output cap; none of what only takes input.
    pub choices: u64,
    /// The caller asked for usage in the stream itself, or the format always has it.
    pub wants_usage: bool,
    pub texts: Texts,
    pub turns: usize,
    pub tools: usize,
    pub required: BTreeSet<Capability>,
    /// See [`Request::surcharges`].
    pub surcharges: Vec<String>,
    pub tier: AskedTier,
    pub cache: CacheWrites,
    pub input: InputBound,
    /// Web searches at most, each of which has its fee.
    pub web_searches: u64,
    /// Sound or images may be in it, or be asked for.
    pub media: bool,
    pub members: Members,
}

/// What bounds the input tokens of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputBound {
    /// Tokens that what is in the request can make at most, by its bytes.
    pub tokens: u64,
    /// It refers to what is not in it (stored conversations, files), or to what no number of bytes bounds (documents, sound).
    pub opaque: bool,
    /// How often the model may read its input: more than once when the provider runs tools between.
    pub passes: u64,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            model: String::new(),
            stream: false,
            max_output: None,
            choices: 1,
            wants_usage: true,
            texts: Texts::default(),
            turns: 0,
            tools: 0,
            required: BTreeSet::new(),
            surcharges: Vec::new(),
            tier: AskedTier::Said(crate::core::tariff::ServiceTier::Standard),
            cache: CacheWrites::Any,
            input: InputBound { tokens: 0, opaque: false, passes: 1 },
            web_searches: 0,
            media: false,
            members: Members::default(),
        }
    }
}

/// Where the members that a rewrite changes stand in the body.
#[derive(Clone, Debug, Default)]
pub struct Members {
    pub model: Option<Range<usize>>,
    /// The model's name where it stands within longer texts (`models/…`).
    pub named: Vec<Range<usize>>,
    /// Each member that caps the output.
    pub max_output: Vec<Range<usize>>,
    /// Where a cap goes when there is none; `None` for formats without one.
    pub cap: Option<Slot>,
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

/// Parses a request; one pass over its body.
///
/// # Errors
/// When the body is not JSON of the format's form, or lacks what no provider would do without.
pub fn parse(addressed: Addressed, body: Bytes) -> Result<Request, RequestError> {
    let text = utf8(&body).map_err(|e| RequestError::Malformed(format!("it is not UTF-8 from byte {}", e.valid_up_to())))?;
    let mut facts = (format(addressed.protocol).facts)(&addressed, text)?;
    // What goes into a body goes before its first member; where the path names the model, nothing needs to.
    let may_be_empty = addressed.protocol.has_model_in_path();
    if !may_be_empty && text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '{' || c == '}').is_empty() {
        return Err(RequestError::Malformed("it is empty".to_owned()));
    }
    if let Some(segment) = &addressed.model {
        // Azure's deployment in the path wins over a name in the body, as it does there.
        facts.model = address::decoded(segment).ok_or(RequestError::Field { field: "path", problem: "the model is no UTF-8" })?;
    }
    if let Some(stream) = addressed.stream {
        facts.stream = stream;
    }
    if facts.model.is_empty() {
        return Err(RequestError::Field { field: "model", problem: "name a model, or an alias of the route such as \"auto\"" });
    }
    Ok(Request { addressed, body, facts })
}

impl Request {
    pub fn addressed(&self) -> &Addressed {
        &self.addressed
    }

    pub fn protocol(&self) -> Protocol {
        self.addressed.protocol
    }

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

    /// True when an output cap can be set in it, or changed; else a model may write as much as it can.
    pub fn takes_cap(&self) -> bool {
        self.facts.members.cap.is_some() || !self.facts.members.max_output.is_empty()
    }

    /// Takes in what its headers ask for, in formats that have wishes there.
    pub fn heed_headers(&mut self, header: &dyn Fn(&str) -> Option<String>) {
        if self.addressed.protocol == Protocol::BedrockInvoke {
            super::bedrock::invoke::heed_headers(&mut self.facts, header);
        }
    }

    /// Answers asked for (`n`), each of which may use the whole output cap; zero for embeddings.
    pub fn choices(&self) -> u64 {
        self.facts.choices
    }

    /// True when the caller asked to see usage in the stream, so that it must not be hidden.
    pub fn wants_usage(&self) -> bool {
        self.facts.wants_usage
    }

    /// An upper bound on the tokens that any tokenizer can count in this request, for choosing a model.
    ///
    /// Byte-level and byte-fallback tokenizers never make more tokens than there are UTF-8 bytes, and JSON never writes
    /// a text in fewer bytes than it has. So the bound is the body's length, where images count as their family's
    /// most expensive size instead of as base64, and each message and tool adds what providers wrap around it.
    pub fn input_bound(&self) -> u64 {
        let bound = self.facts.input;
        if bound.opaque { bound.tokens.saturating_add(OPAQUE_TOKENS) } else { bound.tokens }
    }

    /// An upper bound on the input tokens that a model can be billed for this request, which takes `window` tokens at most.
    ///
    /// What no number of bytes bounds still fits the window; where the provider may run the model several times, each pass reads
    /// as much as fits.
    pub fn billable_input(&self, window: u64) -> u64 {
        let bound = self.facts.input;
        match (bound.opaque, bound.passes) {
            (false, 1) => bound.tokens,
            (_, passes) => window.max(if bound.opaque { 0 } else { bound.tokens }).saturating_mul(passes),
        }
    }

    /// As [`Request::billable_input`], for a model whose tokenizer is public (see [`words`]): closer, and as dear to work out as all of
    /// its texts are long.
    pub fn billable_by_words(&self, window: u64) -> u64 {
        if !self.is_bounded_by_bytes() {
            return self.billable_input(window);
        }
        let spared = |text: &str| (text.len() as u64).saturating_sub(words::bound(text));
        // Each text stands in the body once, in no fewer bytes than it has.
        self.texts().fold(self.facts.input.tokens, |tokens, text| tokens.saturating_sub(spared(&text)))
    }

    /// What its text is made of, where that is all that the model reads: what is billed for it tells of others like it. `None` where
    /// images, documents or what is stored elsewhere are in it.
    pub fn shape(&self) -> Option<Shape> {
        let is_text = self.is_bounded_by_bytes() && !self.facts.media && !self.facts.required.contains(&Capability::Vision);
        let mut in_texts = 0;
        let texts = self.texts().inspect(|text| in_texts += text.len() as u64);
        let shape = is_text.then(|| Shape::of(texts, self.facts.turns))?;
        // Without tools the rest is names, braces and figures that the model never sees.
        let declared = if self.facts.tools > 0 { (self.body.len() as u64).saturating_sub(in_texts) } else { 0 };
        Some(shape.with_declarations(declared))
    }

    /// True when the model reads what is in the request, once, and nothing else.
    fn is_bounded_by_bytes(&self) -> bool {
        let InputBound { opaque, passes, .. } = self.facts.input;
        !opaque && passes == 1
    }

    /// True when its input is counted once, however long its answer takes.
    pub fn reads_input_once(&self) -> bool {
        self.facts.input.passes == 1
    }

    /// What the model must be able to do.
    pub fn required(&self) -> &BTreeSet<Capability> {
        &self.facts.required
    }

    /// What the request asks for that is billed beyond its tokens and has no price anywhere: tools that run at the provider for as
    /// often as they like.
    pub fn surcharges(&self) -> &[String] {
        &self.facts.surcharges
    }

    /// The service tier that it asks for.
    pub fn tier(&self) -> AskedTier {
        self.facts.tier
    }

    /// What of its input the provider may write to its prompt cache.
    pub fn cache_writes(&self) -> CacheWrites {
        self.facts.cache
    }

    /// Web searches that the provider may make for it at most.
    pub fn web_searches(&self) -> u64 {
        self.facts.web_searches
    }

    /// True when sound or images may be in it, or are asked for.
    pub fn has_media(&self) -> bool {
        self.facts.media
    }

    fn texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.facts.texts.texts.iter().map(|text| match text {
            // The range was cut out of this body as a whole text, so it is UTF-8 and in bounds; to see that again is many times
            // faster than to look for what has to be mended.
            Text::InBody(range) => {
                let bytes = &self.body[range.clone()];
                utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
            }
            Text::Unescaped(text) => Cow::Borrowed(text.as_str()),
        })
    }

    pub fn prompt(&self) -> PromptText<'_> {
        PromptText {
            parts: self.texts().collect(),
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

/// As the standard library has it, several times as fast for long texts, and more where they are not in English.
fn utf8(bytes: &[u8]) -> Result<&str, simdutf8::compat::Utf8Error> {
    simdutf8::basic::from_utf8(bytes).or_else(|_| simdutf8::compat::from_utf8(bytes))
}

/// Where `part` stands in `whole`, when it is a slice of it.
pub fn span_in(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// What an opaque part counts when models are compared: the largest context window in the catalogue.
const OPAQUE_TOKENS: u64 = 1_050_000;

/// The bound of a body with these contents, from its length.
pub fn input_bound(body: &str, contents: &[&Content<'_>], per_image: u64, overhead: u64) -> InputBound {
    let mut tokens = body.len() as u64 + overhead;
    let mut opaque = false;
    let mut parts: Vec<_> = contents.iter().flat_map(|c| &c.0).collect();
    while let Some(part) = parts.pop() {
        if let Some(bytes) = part.image_bytes() {
            tokens = tokens.saturating_sub(bytes as u64) + per_image;
        }
        opaque |= part.is_opaque();
        parts.extend(part.content.iter().flat_map(|c| &c.0));
    }
    InputBound { tokens, opaque, passes: 1 }
}
