//! From one format to another and back: a call's request on its way to a provider, and the answer on its way to the caller.
//!
//! What cannot be said in the other format is refused by name before anything is sent; nothing is dropped but what is known to change
//! no word of the answer, which each reader lists. Text and order stay as they were written; only the frame around them changes.
//!
//! | file | what it does |
//! |---|---|
//! | [`chat`] | reads a request to Chat Completions, for any other format |
//! | [`completion`] | writes answers to it, whole and streamed |
//! | [`chat_to_messages`], [`chat_to_gemini`], [`chat_to_converse`] | the other format of each: its request, answer and stream |
//! | [`messages_to_chat`], [`message`], [`message_stream`] | a request to Messages for Chat Completions, and its answer |
//! | [`vocabulary`], [`figures`], [`failure`] | what all share: words, usage, errors |
//! | [`json`] | reading and writing |

mod chat;
mod chat_to_converse;
mod chat_to_gemini;
mod chat_to_messages;
mod completion;
mod failure;
mod figures;
mod json;
mod message;
mod message_stream;
mod messages_to_chat;
mod vocabulary;

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use self::failure::Failure;
use self::json::Json;
use super::address::{Addressed, encoded};
use super::request::{Request, parse};
use crate::core::policy::Protocol;

/// What of a request has no equivalent in the other format, in words for its caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Untranslatable(pub String);

/// Turns the events of a provider's stream into those of the caller's format.
pub trait StreamTranslator: Send {
    /// An event's JSON; what the caller gets for it is appended to `out`, framed as its format is.
    fn event(&mut self, payload: &[u8], out: &mut BytesMut);

    /// The provider's stream has ended. One that ended before its end ends in an error for the caller.
    fn end(&mut self, out: &mut BytesMut);
}

/// What an answer is called where its provider does not name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerId {
    /// Unlike any other's.
    pub id: String,
    /// When the call began.
    pub unix_s: i64,
}

/// A request that was translated, and what is needed to translate its answer back.
#[derive(Clone, Debug)]
pub struct Translation {
    /// The format of the caller.
    pub asked: Protocol,
    /// The format of the provider.
    pub upstream: Protocol,
    /// The model, as the caller asked for it.
    pub model: String,
    /// The caller of a stream asked for usage in it.
    pub wants_usage: bool,
    pub answer: AnswerId,
}

/// The cap of a request whose caller sets none, where there must be one: the sidecar replaces it.
const PLACEHOLDER_CAP: u64 = 4096;

/// How calls of one format are made in another.
struct Direction {
    request: fn(&Request) -> Result<Json, Untranslatable>,
    answer: fn(&Translation, &[u8]) -> Result<Json, String>,
    stream: fn(&Translation) -> Box<dyn StreamTranslator>,
}

fn direction(asked: Protocol, upstream: Protocol) -> Option<&'static Direction> {
    Some(match (asked, upstream) {
        (Protocol::OpenAIChat, Protocol::AnthropicMessages) => {
            &Direction { request: chat_to_messages::request, answer: chat_to_messages::answer, stream: chat_to_messages::stream }
        }
        (Protocol::OpenAIChat, Protocol::GeminiGenerate) => {
            &Direction { request: chat_to_gemini::request, answer: chat_to_gemini::answer, stream: chat_to_gemini::stream }
        }
        (Protocol::OpenAIChat, Protocol::BedrockConverse) => {
            &Direction { request: chat_to_converse::request, answer: chat_to_converse::answer, stream: chat_to_converse::stream }
        }
        (Protocol::AnthropicMessages, Protocol::OpenAIChat) => {
            &Direction { request: messages_to_chat::request, answer: message::answer, stream: message_stream::stream }
        }
        _ => return None,
    })
}

/// Translates a request. The result has the caller's model name, which a rewrite then changes.
///
/// # Errors
/// What of it cannot be said in the other format.
pub fn request(call: &Request, upstream: Protocol, answer: AnswerId) -> Result<(Translation, Request), Untranslatable> {
    let asked = call.protocol();
    let nothing = || Untranslatable(format!("{} cannot be turned into {}", asked.path(), upstream.path()));
    let body = (direction(asked, upstream).ok_or_else(nothing)?.request)(call)?;
    let addressed = Addressed::to(upstream, &encoded(call.model()), call.stream());
    // Bounds are those of what is sent.
    let mut translated = parse(addressed, Bytes::from(body.into_string())).map_err(|e| Untranslatable(e.to_string()))?;
    translated.facts.max_output = call.max_output();
    let (model, wants_usage) = (call.model().to_owned(), call.wants_usage());
    Ok((Translation { asked, upstream, model, wants_usage, answer }, translated))
}

impl Translation {
    /// Changes the caller's headers into those of the provider's format. A key that the app itself sends, for want of one at the
    /// backend, goes where the provider looks for it.
    pub fn headers(&self, headers: &mut HeaderMap) {
        let of_the_caller: Vec<HeaderName> = headers.keys().filter(|name| is_of(self.asked, name)).cloned().collect();
        for name in of_the_caller {
            headers.remove(name);
        }
        // What the caller accepts is its own format.
        headers.remove(header::ACCEPT);
        match (self.asked, self.upstream) {
            (Protocol::OpenAIChat, Protocol::AnthropicMessages) => {
                headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
                let key = headers.remove(header::AUTHORIZATION).and_then(|bearer| without_bearer(&bearer));
                key.map(|key| headers.insert("x-api-key", key));
            }
            (Protocol::AnthropicMessages, _) => {
                let key = headers.remove("x-api-key").and_then(|key| with_bearer(&key));
                key.map(|key| headers.entry(header::AUTHORIZATION).or_insert(key));
            }
            _ => {}
        }
    }

    /// A whole answer in the caller's format.
    ///
    /// # Errors
    /// When the provider's answer is not of its format.
    pub fn answer(&self, body: &[u8]) -> Result<Bytes, String> {
        let direction = direction(self.asked, self.upstream).ok_or("there is no translation")?;
        (direction.answer)(self, body).map(|answer| Bytes::from(answer.into_string()))
    }

    /// An error of the provider's in the caller's format.
    pub fn error(&self, status: u16, body: &[u8]) -> Bytes {
        let failure = Failure::of_answer(self.upstream, status, body);
        let body = if self.asked == Protocol::AnthropicMessages { failure.anthropic() } else { failure.openai() };
        Bytes::from(body.into_string())
    }

    /// A translator of a streamed answer.
    pub fn stream(&self) -> Box<dyn StreamTranslator> {
        match direction(self.asked, self.upstream) {
            Some(direction) => (direction.stream)(self),
            None => Box::new(Nothing),
        }
    }

    /// The id of an answer to which the provider gave none.
    fn answer_id(&self) -> String {
        let prefix = if self.asked == Protocol::AnthropicMessages { "msg_" } else { "chatcmpl-" };
        format!("{prefix}{}", self.answer.id)
    }

    /// The id of a call to which the provider gave none.
    fn call_id(&self, index: u64) -> String {
        let prefix = if self.asked == Protocol::AnthropicMessages { "toolu" } else { "call" };
        format!("{prefix}_{}_{index}", self.answer.id)
    }
}

/// True for headers that mean something only to the maker of a format.
fn is_of(asked: Protocol, name: &HeaderName) -> bool {
    let prefix = if asked == Protocol::AnthropicMessages { "anthropic-" } else { "openai-" };
    name.as_str().starts_with(prefix)
}

fn without_bearer(value: &HeaderValue) -> Option<HeaderValue> {
    let key = value.to_str().ok()?.strip_prefix("Bearer ")?;
    sensitive(HeaderValue::from_str(key))
}

fn with_bearer(value: &HeaderValue) -> Option<HeaderValue> {
    sensitive(HeaderValue::from_bytes(&[b"Bearer ", value.as_bytes()].concat()))
}

fn sensitive(value: Result<HeaderValue, header::InvalidHeaderValue>) -> Option<HeaderValue> {
    let mut value = value.ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// For directions that there are not.
struct Nothing;

impl StreamTranslator for Nothing {
    fn event(&mut self, _: &[u8], _: &mut BytesMut) {}
    fn end(&mut self, _: &mut BytesMut) {}
}
