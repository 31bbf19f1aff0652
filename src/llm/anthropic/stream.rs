//! Events of a streamed message.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;

use super::usage::WireUsage;
use crate::core::usage::Usage;
use crate::llm::stream::{EventReader, Tally};

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Option<Message<'a>>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<WireUsage>,
}

pub fn reader() -> Box<dyn EventReader> {
    Box::new(Reader::default())
}

#[derive(Default)]
struct Reader {
    usage: Option<WireUsage>,
}

impl EventReader for Reader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        // Most events are text. A quotation mark within it is escaped, so this is a member's value.
        if memmem::find(payload, b"\"content_block_delta\"").is_some() {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(payload) else { return };
        match event.kind.as_ref() {
            "message_start" => {
                if let Some(message) = event.message {
                    tally.model = message.model.map(Cow::into_owned);
                    tally.input = message.usage.as_ref().and_then(WireUsage::meters).map(|usage| Usage { output: 0, ..usage });
                    self.usage = message.usage;
                }
            }
            "message_delta" => {
                if let Some(usage) = event.usage {
                    let usage = self.usage.take().unwrap_or_default().updated_by(usage);
                    tally.reported = usage.reported(None);
                    tally.is_final = true;
                    self.usage = Some(usage);
                }
            }
            "message_stop" => tally.complete = true,
            "error" => tally.failed = true,
            _ => {}
        }
    }
}
