//! What a response says that it used, whole or in the last event of its stream.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::usage::{WireTotals, billed_tier};
use crate::llm::stream::{EventReader, Tally};
use crate::llm::usage::{Beyond, ReportedUsage};

/// A response, whole or as events repeat it. Of its output, which may be megabytes, only what has a fee is kept.
#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    usage: Option<WireTotals>,
    #[serde(borrow)]
    service_tier: Option<Cow<'a, str>>,
    output: Option<Vec<Item<'a>>>,
    tool_usage: Option<ToolUsage>,
    tools: Option<Vec<Tool<'a>>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    action: Option<Action<'a>>,
}

#[derive(Deserialize)]
struct Action<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
}

/// What tools at the provider used, beside the model's own tokens.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct ToolUsage {
    image_gen: Option<WireTotals>,
    web_search: Option<WebSearches>,
}

#[derive(Clone, Copy, Deserialize)]
struct WebSearches {
    num_requests: Option<u64>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
}

impl Item<'_> {
    /// A search has its fee; opening a page that was found, or looking for something in it, has none.
    fn is_web_search(&self) -> bool {
        let action = self.action.as_ref().and_then(|action| action.kind.as_deref());
        self.kind == "web_search_call" && action.is_none_or(|action| action == "search")
    }
}

impl Response<'_> {
    /// `None` while it is not done, or when it does not say.
    fn reported(self) -> Option<ReportedUsage> {
        if matches!(self.status.as_deref(), Some("queued" | "in_progress")) {
            return None;
        }
        let mut usage = self.usage?.meters()?;
        let tools = self.tool_usage.unwrap_or_default();
        let searched = || self.output.iter().flatten().filter(|item| item.is_web_search()).count() as u64;
        usage.web_searches = tools.web_search.and_then(|searches| searches.num_requests).unwrap_or_else(searched);
        let painted = tools.image_gen.and_then(|images| images.meters_of_images()).filter(|usage| usage.total() > 0);
        let painter = self.tools.iter().flatten().find(|tool| tool.kind == "image_generation");
        let painter = painter.and_then(|tool| tool.model.as_deref()).map(str::to_owned);
        Some(ReportedUsage {
            tier: billed_tier(self.service_tier.as_deref()),
            beyond: painted.map(|usage| Beyond { model: painter, usage }).into_iter().collect(),
            ..ReportedUsage::of(usage, self.model.map(Cow::into_owned))
        })
    }
}

/// Of a whole response.
pub fn of_body(body: &[u8]) -> Option<ReportedUsage> {
    serde_json::from_slice::<Response<'_>>(body).ok()?.reported()
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    error: Option<IgnoredAny>,
}

pub fn reader() -> Box<dyn EventReader> {
    Box::new(Reader)
}

struct Reader;

impl EventReader for Reader {
    fn read(&mut self, payload: &[u8], tally: &mut Tally) {
        if payload == b"[DONE]" {
            tally.complete = true;
            return;
        }
        // Most events are deltas, which have neither member. A quotation mark within a text is escaped, so these are no texts.
        if memmem::find(payload, b"\"response\"").is_none() && memmem::find(payload, b"\"error\"").is_none() {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(payload) else { return };
        tally.failed |= matches!(event.kind.as_ref(), "error" | "response.failed") || event.error.is_some();
        let Some(response) = event.response else { return };
        if let Some(model) = response.model.as_deref().filter(|model| !model.is_empty()) {
            tally.model = Some(model.to_owned());
        }
        if matches!(event.kind.as_ref(), "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled") {
            tally.reported = response.reported();
            tally.complete = true;
        }
    }
}
