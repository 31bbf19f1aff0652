//! Events of the streams of Converse and InvokeModel.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::members::Object;
use super::usage::{InvocationMetrics, Told, of_makers_usage};
use crate::llm::anthropic;
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::ReportedUsage;

/// Most events are text, whose figures nobody has to look for.
const TEXT: &[u8] = b"{\"contentBlockDelta\":";

pub fn converse() -> Box<dyn EventReader> {
    Box::new(Converse)
}

/// Reads `messageStart`, content blocks, `messageStop` and, as the last of all, `metadata` with the figures.
struct Converse;

impl EventReader for Converse {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        if payload.starts_with(TEXT) {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Object<'_>>(payload) else { return };
        for (name, value) in event.all() {
            if name == "metadata" {
                tally.reported = serde_json::from_str::<Told>(value.get()).ok().and_then(Told::reported);
                tally.is_final = true;
                tally.complete = true;
            }
            tally.failed |= name.ends_with("Exception");
        }
    }
}

pub fn invoke() -> Box<dyn EventReader> {
    Box::new(Invoke { anthropic: anthropic::stream::reader(), native: None })
}

/// Reads events of the model's own maker, each in a `chunk` as base64. The last one has Bedrock's figures too: those of the maker
/// say more (how long a cache keeps what was written) and hold, where there are any; never both.
struct Invoke {
    anthropic: Box<dyn EventReader>,
    /// The maker's figures.
    native: Option<ReportedUsage>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: std::borrow::Cow<'a, str>,
}

/// What makers and Bedrock have in an event beside its text.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: Option<IgnoredAny>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    /// Nova's.
    metadata: Option<Told>,
    #[serde(rename = "amazon-bedrock-invocationMetrics")]
    metrics: Option<InvocationMetrics>,
}

impl EventReader for Invoke {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        let Ok(event) = serde_json::from_slice::<Object<'_>>(payload) else { return };
        for (name, value) in event.all() {
            tally.failed |= name.ends_with("Exception");
            let chunk = serde_json::from_str::<Chunk<'_>>(value.get()).ok().filter(|_| name == "chunk");
            if let Some(event) = chunk.and_then(|chunk| STANDARD.decode(chunk.bytes.as_bytes()).ok()) {
                self.event(&event, tally);
            }
        }
    }
}

impl Invoke {
    fn event(&mut self, event: &[u8], tally: &mut Tally) {
        let Ok(Event { kind, usage, metadata, metrics }) = serde_json::from_slice(event) else { return };
        if kind.is_some() {
            self.anthropic.read(event, tally);
            // A tier is never in it; Bedrock alone knows that.
            self.native = tally.reported.take().map(|reported| ReportedUsage { tier: None, ..reported }).or(self.native.take());
        } else {
            let native = usage.and_then(|usage| of_makers_usage(usage.get())).or_else(|| metadata.clone()?.reported());
            self.native = native.or(self.native.take());
        }
        // Each of both is in the last event only.
        let is_last = metrics.is_some() || metadata.is_some();
        let metered = metrics.and_then(|metrics| Some(ReportedUsage::of(metrics.meters()?, None)));
        if is_last {
            tally.is_final = true;
            tally.complete = true;
        }
        tally.reported = self.native.clone().or(metered).or(tally.reported.take());
    }
}
