//! From one format to another and back: a call's request on its way to a provider, and the answer on its way to the caller.
//!
//! What cannot be said in the other format is refused by name before anything is sent; nothing is dropped.

use bytes::{Bytes, BytesMut};

use super::request::Request;
use crate::core::policy::Protocol;

/// What of a request has no equivalent in the other format, in words for its caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Untranslatable(pub String);

/// Turns the events of a provider's stream into those of the caller's format.
pub trait StreamTranslator: Send {
    /// An event's JSON; what the caller gets for it is appended to `out`, framed as its format is.
    fn event(&mut self, payload: &[u8], out: &mut BytesMut);

    /// The provider's stream has ended.
    fn end(&mut self, out: &mut BytesMut);
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
}

/// Translates a request. The result has the caller's model name, which a rewrite then changes.
///
/// # Errors
/// What of it cannot be said in the other format.
pub fn request(call: &Request, upstream: Protocol) -> Result<(Translation, Request), Untranslatable> {
    Err(Untranslatable(format!("{} cannot be turned into {}", call.protocol().path(), upstream.path())))
}

impl Translation {
    /// Changes the caller's headers into those of the provider's format.
    pub fn headers(&self, _headers: &mut http::HeaderMap) {}

    /// A whole answer in the caller's format.
    ///
    /// # Errors
    /// When the provider's answer is not of its format.
    pub fn answer(&self, _body: &[u8]) -> Result<Bytes, String> {
        Err("there is no translation".to_owned())
    }

    /// An error of the provider's in the caller's format.
    pub fn error(&self, _status: u16, body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    /// A translator of a streamed answer.
    pub fn stream(&self) -> Box<dyn StreamTranslator> {
        Box::new(Nothing)
    }
}

struct Nothing;

impl StreamTranslator for Nothing {
    fn event(&mut self, _: &[u8], _: &mut BytesMut) {}
    fn end(&mut self, _: &mut BytesMut) {}
}
