//! What answers about images and sound say that they used. Their requests pass through unread; these are the figures that come back.

use std::borrow::Cow;

use serde::Deserialize;

use super::responses_usage;
use super::usage::WireTotals;
use crate::core::usage::Usage;
use crate::llm::framing::{Cutter, Framing};
use crate::llm::split::Visible;
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::{Beyond, ReportedUsage};

/// A service whose answers may have usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// Generations and edits.
    Images,
    /// Transcriptions, translations and speech.
    Sound,
    /// The summary of a conversation, which is a response's.
    Compaction,
}

impl Service {
    /// By the end of the path, which is the same with `/v1`, without it, and behind a deployment of Azure's.
    fn of(path: &str) -> Option<Service> {
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        let ends = |with: &[&str]| with.iter().any(|end| path.ends_with(end));
        if ends(&["/images/generations", "/images/edits", "/images/variations"]) {
            Some(Service::Images)
        } else if ends(&["/audio/transcriptions", "/audio/translations", "/audio/speech"]) {
            Some(Service::Sound)
        } else {
            ends(&["/responses/compact"]).then_some(Service::Compaction)
        }
    }
}

/// `usage` of an answer, or of the last event of a stream.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    usage: Option<WireTotals>,
    #[serde(borrow)]
    svg_usage: Option<SvgUsage<'a>>,
}

/// What another model used to write an image as text.
#[derive(Deserialize)]
struct SvgUsage<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl Answer<'_> {
    fn reported(self, service: Service) -> Option<ReportedUsage> {
        let usage = match service {
            Service::Images => self.usage?.meters_of_images()?,
            _ => self.usage?.meters()?,
        };
        let svg = self.svg_usage.map(|svg| Beyond {
            model: svg.model.map(Cow::into_owned),
            usage: Usage { input: svg.input_tokens.unwrap_or(0), output: svg.output_tokens.unwrap_or(0), ..Usage::default() },
        });
        Some(ReportedUsage { beyond: svg.into_iter().collect(), ..ReportedUsage::of(usage, self.model.map(Cow::into_owned)) })
    }
}

/// What an answer to a request that passed through says it used: of `/v1/images/…`, `/v1/audio/…` and `/v1/responses/compact`, whole or
/// as the events of a stream. `None` when it does not say in tokens: other paths, sound itself, and what is billed by its duration
/// (`whisper-1`). Nor for `GET /v1/responses/<id>`, which repeats what its `POST` was charged for.
pub fn usage_of_passthrough(path: &str, body: &[u8]) -> Option<ReportedUsage> {
    let service = Service::of(path)?;
    if !is_events(body) {
        return of_payload(service, body);
    }
    let mut tally = Tally::default();
    let mut reader = reader(path)?;
    let mut cutter = Cutter::new(Framing::ServerSentEvents);
    cutter.push(&bytes::Bytes::copy_from_slice(body), |payload| {
        reader.read(payload, &mut tally);
        Visible::Nothing
    });
    if let Some(payload) = Framing::ServerSentEvents.payload(&cutter.take_rest()) {
        reader.read(&payload, &mut tally);
    }
    tally.reported
}

/// A reader of a streamed answer at `path`, for who reads it as it passes; `None` where no event has usage.
pub fn reader(path: &str) -> Option<Box<dyn EventReader>> {
    Some(Box::new(Reader { service: Service::of(path)? }))
}

fn of_payload(service: Service, body: &[u8]) -> Option<ReportedUsage> {
    match service {
        Service::Compaction => responses_usage::of_body(body),
        _ => serde_json::from_slice::<Answer<'_>>(body).ok()?.reported(service),
    }
}

/// Server-sent events begin with a field's name, and JSON does not.
fn is_events(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    [&b"event:"[..], b"data:", b"id:", b":"].iter().any(|field| body.starts_with(field))
}

struct Reader {
    service: Service,
}

impl EventReader for Reader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        // The last event has it; partial images and pieces of text have none.
        if payload != b"[DONE]"
            && memchr::memmem::find(payload, b"\"usage\"").is_some()
            && let Some(reported) = of_payload(self.service, payload)
        {
            // Each of several images has an event of its own, with its own figures.
            let usage = match &tally.reported {
                Some(earlier) if self.service == Service::Images => earlier.usage.saturating_add(&reported.usage),
                _ => reported.usage,
            };
            tally.reported = Some(ReportedUsage { usage, ..reported });
            tally.is_final = true;
            tally.complete = true;
        }
    }
}
