//! Answers to callers of Chat Completions, whole and streamed, whoever gave them.
//!
//! What a model thought aloud goes into `reasoning_content`, where other servers of this format put it: its caller pays for it.

use bytes::BytesMut;

use super::Translation;
use super::failure::Failure;
use super::figures::Figures;
use super::json::{Json, Written, object};

/// A call of a tool's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
    /// What Gemini wants back with the call; it goes where Google's own translation puts it.
    pub signature: Option<String>,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    pub id: Option<String>,
    pub model: Option<String>,
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<Call>,
    pub finish_reason: &'static str,
    pub figures: Option<Figures>,
}

impl Completion {
    pub fn write(&self, of: &Translation) -> Json {
        let content = if self.text.is_empty() && !self.calls.is_empty() { Json::null() } else { self.text.as_str().into() };
        let reasoning = (!self.reasoning.is_empty()).then_some(self.reasoning.as_str());
        let calls = (!self.calls.is_empty()).then(|| Json::list(self.calls.iter().map(|call| call_of(call, None).into())));
        let message = object()
            .with("role", "assistant")
            .with("content", content)
            .maybe("reasoning_content", reasoning)
            .with("refusal", Json::null())
            .maybe("tool_calls", calls);
        let choice =
            object().with("index", 0_u64).with("message", message).with("logprobs", Json::null()).with("finish_reason", self.finish_reason);
        let id = self.id.clone().unwrap_or_else(|| of.answer_id());
        head("chat.completion", &id, self.model.as_deref().unwrap_or(&of.model), of)
            .with("choices", Json::list([choice.into()]))
            .maybe("usage", self.figures.map(|figures| figures.openai()))
            .into()
    }
}

fn head(kind: &str, id: &str, model: &str, of: &Translation) -> Written {
    object().with("id", id).with("object", kind).with("created", of.answer.unix_s).with("model", model)
}

/// A call; in a stream, with its place among the calls.
fn call_of(call: &Call, index: Option<u64>) -> Written {
    let function = object().with("name", call.name.as_str()).with("arguments", call.arguments.as_str());
    let signature = call.signature.as_deref().map(|signature| {
        let google = object().with("thought_signature", signature);
        object().with("google", google)
    });
    object()
        .maybe("index", index)
        .with("id", call.id.as_str())
        .with("type", "function")
        .with("function", function)
        .maybe("extra_content", signature)
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Begun,
    Finished,
    /// Nothing more may follow.
    Over,
}

/// Chunks of a streamed answer: the role, then text and calls, then why it stopped, then its usage if the caller asked for that.
pub struct Chunks {
    of: Translation,
    id: String,
    model: String,
    phase: Phase,
    calls: u64,
}

impl Chunks {
    pub fn new(of: &Translation) -> Chunks {
        Chunks { of: of.clone(), id: of.answer_id(), model: of.model.clone(), phase: Phase::Waiting, calls: 0 }
    }

    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// Begins the answer, with the provider's names for it.
    pub fn begin(&mut self, id: Option<String>, model: Option<String>, out: &mut BytesMut) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Begun;
            self.id = id.unwrap_or_else(|| std::mem::take(&mut self.id));
            self.model = model.unwrap_or_else(|| std::mem::take(&mut self.model));
            self.delta(object().with("role", "assistant").with("content", ""), out);
        }
    }

    pub fn text(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() {
            self.delta(object().with("content", text), out);
        }
    }

    pub fn reasoning(&mut self, text: &str, out: &mut BytesMut) {
        if !text.is_empty() {
            self.delta(object().with("reasoning_content", text), out);
        }
    }

    /// A call, with as much of its arguments as is known; its place among the calls comes back.
    pub fn call(&mut self, call: &Call, out: &mut BytesMut) -> u64 {
        let index = self.calls;
        self.calls += 1;
        self.delta(object().with("tool_calls", Json::list([call_of(call, Some(index)).into()])), out);
        index
    }

    /// More of a call's arguments.
    pub fn arguments(&mut self, index: u64, more: &str, out: &mut BytesMut) {
        if !more.is_empty() {
            let call = object().with("index", index).with("function", object().with("arguments", more));
            self.delta(object().with("tool_calls", Json::list([call.into()])), out);
        }
    }

    pub fn finish(&mut self, reason: &str, out: &mut BytesMut) {
        if self.phase == Phase::Begun {
            self.choice(object(), reason.into(), out);
            self.phase = Phase::Finished;
        }
    }

    /// The end, with what the answer used.
    pub fn done(&mut self, figures: Option<Figures>, out: &mut BytesMut) {
        if self.phase != Phase::Finished {
            return;
        }
        if let Some(figures) = figures.filter(|_| self.of.wants_usage) {
            self.event(self.head().with("choices", Json::list([])).with("usage", figures.openai()).into(), out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
        self.phase = Phase::Over;
    }

    /// The provider has failed within its answer.
    pub fn fail(&mut self, failure: &Failure, out: &mut BytesMut) {
        if self.phase != Phase::Over {
            self.event(failure.openai(), out);
            self.phase = Phase::Over;
        }
    }

    fn delta(&mut self, delta: Written, out: &mut BytesMut) {
        if self.phase == Phase::Begun {
            self.choice(delta, Json::null(), out);
        }
    }

    fn choice(&self, delta: Written, finish_reason: Json, out: &mut BytesMut) {
        let choice = object().with("index", 0_u64).with("delta", delta).with("logprobs", Json::null()).with("finish_reason", finish_reason);
        let chunk = self.head().with("choices", Json::list([choice.into()]));
        let chunk = if self.of.wants_usage { chunk.with("usage", Json::null()) } else { chunk };
        self.event(chunk.into(), out);
    }

    fn head(&self) -> Written {
        head("chat.completion.chunk", &self.id, &self.model, &self.of)
    }

    fn event(&self, chunk: Json, out: &mut BytesMut) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(chunk.as_str().as_bytes());
        out.extend_from_slice(b"\n\n");
    }
}
