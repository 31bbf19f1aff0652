//! Changes to a request, spliced into its bytes: order, number texts and unknown members stay as the caller wrote them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::pieces::Pieces;
use super::request::Request;

/// A body that is smaller is copied: several pieces cost more.
const LARGE: usize = 8 << 10;

/// What to change; `None` and `false` leave a member alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub model: Option<Arc<str>>,
    /// Cap on output tokens.
    pub max_output: Option<u64>,
    /// Ask for usage in the stream (OpenAI's formats; the others always send it).
    pub include_usage: bool,
}

/// Where a member goes that the caller did not write: `before`, the value, `after`, at a byte of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub at: usize,
    /// Bytes whose place it takes: a null, where the caller wrote one instead of an object.
    pub over: usize,
    pub before: Cow<'static, str>,
    pub after: Cow<'static, str>,
}

impl Slot {
    /// As the first member of the object that is the whole body. The object must have a member already.
    pub fn first(body: &str, before: &'static str, after: &'static str) -> Slot {
        Slot { at: body.find('{').map_or(0, |at| at + 1), over: 0, before: before.into(), after: after.into() }
    }

    /// In the place of a value.
    pub fn instead(value: &Range<usize>, before: &'static str, after: &'static str) -> Slot {
        Slot { at: value.start, over: value.len(), before: before.into(), after: after.into() }
    }

    /// As the first member, called `name`, of an object within the body.
    pub fn within(body: &str, object: &Range<usize>, name: &str) -> Slot {
        let text = &body[object.clone()];
        let open = text.find('{').map_or(0, |at| at + 1);
        let is_empty = text[open..].trim_start().starts_with('}');
        let after = if is_empty { "" } else { "," };
        Slot { at: object.start + open, over: 0, before: format!("\"{name}\":").into(), after: after.into() }
    }
}

impl Request {
    /// The body with `change` applied; the same bytes when nothing changes.
    pub fn rewrite(&self, change: &Rewrite) -> Bytes {
        self.spliced(change).into_whole()
    }

    /// As [`Request::rewrite`], without a copy of a body that is large.
    pub fn spliced(&self, change: &Rewrite) -> Pieces {
        let mut splices: Vec<(Range<usize>, String)> = Vec::new();
        let members = &self.facts.members;
        if let Some(model) = &change.model {
            match &members.model {
                // Where the path names the model, what the body says may be another: it must not go to who reads the body.
                Some(span) if serde_json::from_slice::<Cow<str>>(&self.body[span.clone()]).ok().as_deref() != Some(&**model) => {
                    splices.push((span.clone(), json_string(model)));
                }
                None if !self.addressed.protocol.has_model_in_path() => {
                    let start = self.start();
                    splices.push((start..start, format!("\"model\":{},", json_string(model))));
                }
                _ => {}
            }
        }
        if let Some(model) = change.model.as_ref().filter(|model| ***model != *self.facts.model) {
            let text = json_string(model);
            splices.extend(members.named.iter().map(|span| (span.clone(), text[1..text.len() - 1].to_owned())));
        }
        if let Some(cap) = change.max_output {
            match &members.cap {
                // A default that servers do not agree on is written out as well.
                Some(slot) if members.max_output.is_empty() => {
                    splices.push((slot.at..slot.at + slot.over, format!("{}{cap}{}", slot.before, slot.after)));
                }
                _ => {
                    let holds = self.facts.max_output == Some(cap);
                    let spans = members.max_output.iter().filter(|span| !holds || self.body[(*span).clone()] == *b"null");
                    splices.extend(spans.map(|span| (span.clone(), cap.to_string())));
                }
            }
        }
        if change.include_usage && !self.facts.wants_usage {
            match &members.stream_options {
                Some(span) => splices.push((span.clone(), with_usage(&self.body[span.clone()]))),
                None => {
                    let start = self.start();
                    splices.push((start..start, "\"stream_options\":{\"include_usage\":true},".to_owned()));
                }
            }
        }
        if splices.is_empty() { self.body.clone().into() } else { splice(&self.body, splices) }
    }

    /// Where the first member of the body stands.
    fn start(&self) -> usize {
        self.body.iter().position(|b| *b == b'{').map_or(0, |at| at + 1)
    }
}

fn json_string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// The caller's `stream_options` with `include_usage` on; what is no object (null) is replaced.
fn with_usage(options: &[u8]) -> String {
    let mut options: Map<String, Value> = serde_json::from_slice(options).unwrap_or_default();
    options.insert("include_usage".to_owned(), Value::Bool(true));
    Value::Object(options).to_string()
}

fn splice(body: &Bytes, mut splices: Vec<(Range<usize>, String)>) -> Pieces {
    splices.sort_by_key(|(span, _)| span.start);
    if body.len() < LARGE {
        return copied(body, &splices).into();
    }
    let mut pieces = Vec::with_capacity(2 * splices.len() + 1);
    let mut done = 0;
    for (span, text) in splices {
        pieces.push(body.slice(done..span.start));
        pieces.push(Bytes::from(text));
        done = span.end;
    }
    pieces.push(body.slice(done..));
    pieces.into_iter().collect()
}

fn copied(body: &[u8], splices: &[(Range<usize>, String)]) -> Bytes {
    let grown: usize = splices.iter().map(|(_, text)| text.len()).sum();
    let mut result = Vec::with_capacity(body.len() + grown);
    let mut done = 0;
    for (span, text) in splices {
        result.extend_from_slice(&body[done..span.start]);
        result.extend_from_slice(text.as_bytes());
        done = span.end;
    }
    result.extend_from_slice(&body[done..]);
    Bytes::from(result)
}
