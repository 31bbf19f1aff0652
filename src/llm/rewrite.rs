//! Changes to a request, spliced into its bytes: order, number texts and unknown members stay as the caller wrote them.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::request::Request;
use crate::core::policy::Protocol;

/// What to change; `None` and `false` leave a member alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub model: Option<String>,
    /// Cap on output tokens.
    pub max_output: Option<u64>,
    /// Ask for usage in the stream (OpenAI; Anthropic always sends it).
    pub include_usage: bool,
}

impl Request {
    /// The body with `change` applied; the same bytes when nothing changes.
    pub fn rewrite(&self, change: &Rewrite) -> Bytes {
        let mut splices: Vec<(Range<usize>, String)> = Vec::new();
        let mut added = String::new();
        let members = &self.facts.members;
        if let (Some(model), Some(span)) = (&change.model, &members.model)
            && *model != self.facts.model
        {
            splices.push((span.clone(), json_string(model)));
        }
        if let Some(cap) = change.max_output.filter(|cap| self.facts.max_output != Some(*cap)) {
            if members.max_output.is_empty() {
                let name = match self.protocol {
                    Protocol::OpenAIChat => "max_completion_tokens",
                    Protocol::AnthropicMessages => "max_tokens",
                };
                added.push_str(&format!("\"{name}\":{cap},"));
            }
            splices.extend(members.max_output.iter().map(|span| (span.clone(), cap.to_string())));
        }
        if change.include_usage && !self.facts.wants_usage && self.protocol == Protocol::OpenAIChat {
            match &members.stream_options {
                Some(span) => splices.push((span.clone(), with_usage(&self.body[span.clone()]))),
                None => added.push_str("\"stream_options\":{\"include_usage\":true},"),
            }
        }
        if !added.is_empty() {
            let start = self.body.iter().position(|b| *b == b'{').map_or(0, |at| at + 1);
            splices.push((start..start, added));
        }
        if splices.is_empty() { self.body.clone() } else { splice(&self.body, splices) }
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

fn splice(body: &[u8], mut splices: Vec<(Range<usize>, String)>) -> Bytes {
    splices.sort_by_key(|(span, _)| span.start);
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
