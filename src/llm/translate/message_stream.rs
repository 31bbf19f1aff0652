//! Streamed answers of Chat Completions for callers of Anthropic Messages.
//!
//! Blocks of a message come one after the other, each with its start and its stop, and SDKs count on that. Chat Completions says of
//! no call that it is complete before the whole answer is. So the first call streams, and what comes after it is kept until the end.
//! What the answer read is known at its end too: `message_start` has zeros, `message_delta` the figures, which are cumulative there.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;

use super::failure::Failure;
use super::figures::{Figures, Running};
use super::json::{Json, Written, object};
use super::message::{Answer, Called, FORMAT, given, message, tool_use};
use super::vocabulary::stop_reason;
use super::{StreamTranslator, Translation};

/// What is kept of a stream at most, in bytes.
const MOST_KEPT: usize = 16 << 20;
/// What a block counts beside its text.
const BLOCK_BYTES: usize = 128;
/// Calls of one answer at most.
const MOST_CALLS: usize = 1024;
pub fn stream(of: &Translation) -> Box<dyn StreamTranslator> {
    Box::new(Stream {
        of: of.clone(),
        running: Running::new(FORMAT),
        phase: Phase::Waiting,
        blocks: VecDeque::new(),
        closed: 0,
        calls: HashMap::new(),
        kept: 0,
        finish_reason: None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Begun,
    Over,
}

struct Stream {
    of: Translation,
    running: Running,
    phase: Phase,
    /// In the order in which they began; only the first may have started for the caller.
    blocks: VecDeque<Block>,
    /// Blocks that have stopped for the caller.
    closed: usize,
    /// Blocks of calls, counted from the first of all, by the provider's index of the call.
    calls: HashMap<u64, usize>,
    /// Bytes that wait in blocks.
    kept: usize,
    finish_reason: Option<String>,
}

struct Block {
    kind: Kind,
    started: bool,
    /// What has not gone to the caller.
    waiting: String,
}

enum Kind {
    Text,
    Thinking,
    Call { id: Option<String>, name: Option<String> },
}

impl StreamTranslator for Stream {
    fn event(&mut self, payload: &[u8], out: &mut BytesMut) {
        if self.phase == Phase::Over {
            return;
        }
        self.running.read(payload);
        if payload == b"[DONE]" {
            return self.done(out);
        }
        let Ok(chunk) = serde_json::from_slice::<Answer<'_>>(payload) else {
            return self.fail(&Failure::unreadable(), out);
        };
        if chunk.error.is_some() || chunk.choices.is_none() {
            if let Some(failure) = Failure::of_event(FORMAT, payload) {
                self.fail(&failure, out);
            }
            return;
        }
        self.running.reasoning = chunk.reasoning().or(self.running.reasoning);
        // Some servers begin with what they found in the prompt, and end with usage; neither is of the answer.
        let Some(choice) = chunk.choice() else { return };
        if self.phase == Phase::Waiting {
            self.phase = Phase::Begun;
            let (id, model) = (given(&chunk.id).unwrap_or_else(|| self.of.answer_id()), given(&chunk.model));
            let model = model.as_deref().unwrap_or(&self.of.model);
            let message = message(&id, model, Json::list([]), Json::null(), Figures::default());
            event("message_start", |event| event.with("message", message), out);
        }
        if let Some(said) = &choice.message {
            said.thoughts().for_each(|text| self.say(text, true));
            said.texts().for_each(|text| self.say(text, false));
            for (at, called) in said.tool_calls.iter().flatten().enumerate() {
                self.call(called, at as u64);
            }
        }
        if let Some(reason) = &choice.finish_reason {
            self.finish_reason = Some(reason.chars().take(64).collect());
        }
        self.show(out);
        if self.kept > MOST_KEPT || self.calls.len() > MOST_CALLS {
            self.fail(&Failure::of("the provider's answer has more calls than can be kept"), out);
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        self.fail(&Failure::broken_off(), out);
    }
}

impl Stream {
    fn begin(&mut self, kind: Kind) {
        self.blocks.push_back(Block { kind, started: false, waiting: String::new() });
        self.kept += BLOCK_BYTES;
    }

    /// More text of the answer, or of the thoughts before it.
    fn say(&mut self, text: &str, is_thought: bool) {
        if text.is_empty() {
            return;
        }
        let goes_on = |block: &Block| if is_thought { matches!(block.kind, Kind::Thinking) } else { matches!(block.kind, Kind::Text) };
        if !self.blocks.back().is_some_and(goes_on) {
            self.begin(if is_thought { Kind::Thinking } else { Kind::Text });
        }
        if let Some(block) = self.blocks.back_mut() {
            block.waiting.push_str(text);
            self.kept += text.len();
        }
    }

    fn call(&mut self, called: &Called<'_>, at: u64) {
        let next = self.closed + self.blocks.len();
        let known = *self.calls.entry(called.index.unwrap_or(at)).or_insert(next);
        if known == next {
            self.begin(Kind::Call { id: None, name: None });
        }
        let block = known.checked_sub(self.closed).and_then(|at| self.blocks.get_mut(at));
        let Some(Block { kind: Kind::Call { id, name }, waiting, .. }) = block else { return };
        let Some(function) = &called.function else { return };
        let more = function.arguments.as_deref().unwrap_or_default();
        waiting.push_str(more);
        self.kept += more.len();
        for (known, said) in [(id, &called.id), (name, &function.name)] {
            if known.is_none() {
                *known = given(said);
                self.kept += known.as_ref().map_or(0, String::len);
            }
        }
    }

    /// Gives the caller what may go: the first block, and the next when that one has ended.
    fn show(&mut self, out: &mut BytesMut) {
        while let Some(first) = self.blocks.front() {
            let is_call = matches!(first.kind, Kind::Call { .. });
            if matches!(first.kind, Kind::Call { name: None, .. }) {
                return;
            }
            self.show_first(out);
            if is_call || self.blocks.len() == 1 {
                return;
            }
            self.close_first(out);
        }
    }

    fn show_first(&mut self, out: &mut BytesMut) {
        let index = self.closed as u64;
        let Some(block) = self.blocks.front_mut() else { return };
        if !block.started {
            block.started = true;
            let started = match &block.kind {
                Kind::Text => object().with("type", "text").with("text", ""),
                Kind::Thinking => object().with("type", "thinking").with("thinking", "").with("signature", ""),
                Kind::Call { id, name } => {
                    let id = id.clone().unwrap_or_else(|| self.of.call_id(index));
                    tool_use(&id, name.as_deref().unwrap_or_default(), object().into())
                }
            };
            event("content_block_start", |event| event.with("index", index).with("content_block", started), out);
        }
        if block.waiting.is_empty() {
            return;
        }
        let more = std::mem::take(&mut block.waiting);
        self.kept = self.kept.saturating_sub(more.len());
        let (kind, member) = match block.kind {
            Kind::Text => ("text_delta", "text"),
            Kind::Thinking => ("thinking_delta", "thinking"),
            Kind::Call { .. } => ("input_json_delta", "partial_json"),
        };
        let delta = object().with("type", kind).with(member, more.as_str());
        event("content_block_delta", |event| event.with("index", index).with("delta", delta), out);
    }

    fn close_first(&mut self, out: &mut BytesMut) {
        let index = self.closed as u64;
        if self.blocks.pop_front().is_some() {
            self.closed += 1;
            self.kept = self.kept.saturating_sub(BLOCK_BYTES);
            event("content_block_stop", |event| event.with("index", index), out);
        }
    }

    fn done(&mut self, out: &mut BytesMut) {
        let (Phase::Begun, Some(reason)) = (self.phase, self.finish_reason.take()) else {
            return self.fail(&Failure::broken_off(), out);
        };
        while !self.blocks.is_empty() {
            self.show_first(out);
            self.close_first(out);
        }
        let delta = object().with("stop_reason", stop_reason(&reason, !self.calls.is_empty())).with("stop_sequence", Json::null());
        let figures = self.running.figures().unwrap_or_default();
        event("message_delta", |event| event.with("delta", delta).with("usage", figures.anthropic()), out);
        event("message_stop", |event| event, out);
        self.phase = Phase::Over;
    }

    fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        if self.phase != Phase::Over {
            out.extend_from_slice(b"event: error\ndata: ");
            out.extend_from_slice(failure.anthropic().as_str().as_bytes());
            out.extend_from_slice(b"\n\n");
            self.phase = Phase::Over;
            self.blocks.clear();
        }
    }
}

/// An event, which has its name twice.
fn event(name: &str, members: impl FnOnce(Written) -> Written, out: &mut BytesMut) {
    let data = Json::from(members(object().with("type", name)));
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data.as_str().as_bytes());
    out.extend_from_slice(b"\n\n");
}
