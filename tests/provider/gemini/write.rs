//! Writing answers, whole, as server-sent events and as an array.

use serde_json::{Value, json};

use super::request::Asked;
use super::{Place, prices, refusals};
use crate::answer::{Answer, End};
use crate::models::{Input, Model, Rates};
use crate::pace::{Part, Piece, Usage};
use crate::refusal::Refusal;
use crate::reply::Dialect;

/// How a stream is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Events,
    Array,
}

pub struct Generate {
    id: String,
    model: &'static Model,
    place: Place,
    framing: Framing,
    image_tokens: u64,
    stored_tokens: u64,
    shows_thoughts: bool,
    grounded: bool,
    page_tokens: u64,
    hides_usage: bool,
    /// For each candidate, whether it calls a function, which comes in one piece.
    calls_function: Vec<bool>,
    /// Something of the array was written.
    begun: bool,
}

impl Generate {
    pub fn new(id: String, model: &'static Model, place: Place, framing: Framing, asked: &Asked) -> Generate {
        let Asked { image_tokens, stored_tokens, shows_thoughts, grounded, page_tokens, .. } = *asked;
        Generate {
            id,
            model,
            place,
            framing,
            image_tokens,
            stored_tokens,
            shows_thoughts,
            grounded,
            page_tokens,
            hides_usage: false,
            calls_function: Vec::new(),
            begun: false,
        }
    }

    /// Candidates, with what was used so far; Vertex AI tells it only at the end of a stream.
    fn answer(&self, candidates: Value, usage: &Usage, at_end: bool) -> Value {
        let usage = if at_end || self.place == Place::GoogleAi { self.written(usage) } else { json!({"trafficType": "ON_DEMAND"}) };
        let mut answer = json!({"candidates": candidates, "modelVersion": self.model.name, "responseId": self.id});
        if !self.hides_usage {
            answer["usageMetadata"] = usage;
        }
        answer
    }

    /// The prompt includes what was cached, candidates exclude thoughts, and zeros are left out.
    fn written(&self, usage: &Usage) -> Value {
        let input = usage.input.tokens();
        let pages = self.page_tokens.min(input);
        let prompt = input - pages;
        let images = self.image_tokens.min(prompt);
        let mut written = json!({"promptTokenCount": prompt, "totalTokenCount": input + usage.output});
        let mut details = vec![json!({"modality": "TEXT", "tokenCount": prompt - images})];
        if images > 0 {
            details.push(json!({"modality": "IMAGE", "tokenCount": images}));
        }
        written["promptTokensDetails"] = Value::Array(details);
        for (field, count) in [
            ("cachedContentTokenCount", usage.input.cached_read),
            ("candidatesTokenCount", usage.output - usage.reasoning),
            ("thoughtsTokenCount", usage.reasoning),
            ("toolUsePromptTokenCount", pages),
        ] {
            if count > 0 {
                written[field] = json!(count);
            }
        }
        if self.place == Place::VertexAi {
            written["trafficType"] = json!("ON_DEMAND");
        }
        written
    }

    /// The end of a candidate, with the searches that it was made from; what is empty among them costs nothing.
    fn last(&self, index: usize, parts: Value, answer: &Answer) -> Value {
        let mut candidate = candidate(index, parts);
        candidate["finishReason"] = json!(if answer.end == End::Length { "MAX_TOKENS" } else { "STOP" });
        if self.grounded {
            let chunk = json!({"web": {"uri": "https://example.com/leases", "title": "example.com"}});
            candidate["groundingMetadata"] =
                json!({"webSearchQueries": ["what is a lease", "", "who holds a lease"], "groundingChunks": [chunk]});
        }
        candidate
    }

    fn event(&mut self, candidate: Value, usage: &Usage, at_end: bool) -> String {
        let answer = self.answer(json!([candidate]), usage, at_end);
        match self.framing {
            Framing::Events => format!("data: {answer}\r\n\r\n"),
            Framing::Array => {
                let before = if std::mem::replace(&mut self.begun, true) { ",\r\n" } else { "" };
                format!("{before}{answer:#}")
            }
        }
    }
}

fn candidate(index: usize, parts: Value) -> Value {
    json!({"content": {"parts": parts, "role": "model"}, "index": index})
}

/// A function's arguments are JSON, unless the cap cut them short.
fn called(answer: &Answer) -> Option<Value> {
    let name = answer.tool.as_ref()?;
    let args: Value = serde_json::from_str(answer.content.text()).unwrap_or_default();
    Some(json!({"functionCall": {"name": name, "args": args}}))
}

impl Dialect for Generate {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal)
    }

    fn content_type(&self) -> &'static str {
        if self.framing == Framing::Events { "text/event-stream" } else { "application/json; charset=UTF-8" }
    }

    /// What is stored is read from the cache; pages are read anew.
    fn all_input(&self, prompt: Input) -> Input {
        Input { fresh: prompt.fresh + self.page_tokens, cached_read: prompt.cached_read + self.stored_tokens, ..prompt }
    }

    fn fees(&self) -> u128 {
        if self.grounded { prices::GROUNDED_PROMPT } else { 0 }
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    fn failure(&mut self) -> String {
        let error = json!({"error": {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}});
        match self.framing {
            Framing::Events => format!("data: {error}\r\n\r\n"),
            Framing::Array => format!("{}{error:#}]\n", if self.begun { ",\r\n" } else { "" }),
        }
    }

    fn rates(&self, model: &Model, input: &Input) -> Rates {
        prices::rates(model, input.tokens())
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let candidates = answers.iter().enumerate().map(|(index, answer)| {
            let thought =
                (self.shows_thoughts && answer.reasoning.tokens() > 0).then(|| json!({"text": answer.reasoning.text(), "thought": true}));
            let content = called(answer).unwrap_or_else(|| json!({"text": answer.content.text()}));
            self.last(index, thought.into_iter().chain([content]).collect(), answer)
        });
        self.answer(candidates.collect(), usage, true)
    }

    fn opening(&mut self, answers: &[Answer], _: &Usage) -> String {
        self.calls_function = answers.iter().map(|answer| answer.tool.is_some()).collect();
        if self.framing == Framing::Array { "[".to_owned() } else { String::new() }
    }

    fn piece(&mut self, _: &Piece) -> String {
        String::new()
    }

    fn piece_and_usage(&mut self, piece: &Piece, usage: &Usage) -> String {
        let part = match piece.part {
            Part::Reasoning if self.shows_thoughts => json!({"text": piece.text, "thought": true}),
            Part::Content if !self.calls_function[piece.choice] => json!({"text": piece.text}),
            _ => return String::new(),
        };
        self.event(candidate(piece.choice, json!([part])), usage, false)
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let mut events = String::new();
        for (index, answer) in answers.iter().enumerate() {
            let part = called(answer).unwrap_or_else(|| json!({"text": ""}));
            let last = self.last(index, json!([part]), answer);
            events.push_str(&self.event(last, usage, index + 1 == answers.len()));
        }
        if self.framing == Framing::Array { events + "]\n" } else { events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Form, Wish};
    use crate::gemini::request::read;
    use crate::models::{Vendor, find};

    const USAGE: Usage =
        Usage { input: Input { fresh: 100, cached_read: 128, cache_write: 0, cache_write_long: 0 }, output: 7, reasoning: 2 };

    fn events(place: Place, framing: Framing) -> String {
        let model = find(Vendor::Google, "gemini-2.5-pro").unwrap();
        let body = json!({"contents": [{"parts": [{"text": "Hi."}]}]}).to_string();
        let asked = read(Ok(body.into()), model, true).unwrap();
        let answers = [Wish { seed: 1, form: Form::Prose { words: Some(3) }, reasoning_tokens: 0, cap: 50 }.answer()];
        let mut generate = Generate::new("1".to_owned(), model, place, framing, &asked);
        let mut all = generate.opening(&answers, &USAGE);
        for part in [Part::Reasoning, Part::Content] {
            all += &generate.piece_and_usage(&Piece { choice: 0, part, text: "Hello".to_owned() }, &USAGE);
        }
        all + &generate.closing(&answers, &USAGE)
    }

    #[test]
    fn an_array_and_events_have_the_same_answers() {
        let array: Vec<Value> = serde_json::from_str(&events(Place::GoogleAi, Framing::Array)).unwrap();
        let text = events(Place::GoogleAi, Framing::Events);
        let events = text.split_terminator("\r\n\r\n").map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap());
        assert_eq!(array, events.collect::<Vec<Value>>());
        assert_eq!(array.len(), 2);
        assert_eq!(array[0]["candidates"][0]["content"]["parts"], json!([{"text": "Hello"}]));
        assert_eq!(array[1]["candidates"][0]["finishReason"], "STOP");
        let usage = json!({"promptTokenCount": 228, "cachedContentTokenCount": 128, "candidatesTokenCount": 5, "thoughtsTokenCount": 2,
            "totalTokenCount": 235, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 228}]});
        assert_eq!((&array[0]["usageMetadata"], &array[1]["usageMetadata"]), (&usage, &usage));
    }

    #[test]
    fn vertex_tells_what_was_used_at_the_end() {
        let array: Vec<Value> = serde_json::from_str(&events(Place::VertexAi, Framing::Array)).unwrap();
        assert_eq!(array[0]["usageMetadata"], json!({"trafficType": "ON_DEMAND"}));
        assert_eq!(array[1]["usageMetadata"]["totalTokenCount"], 235);
    }
}
