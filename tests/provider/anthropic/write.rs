//! Writing messages, whole and as events of a stream.

use serde_json::{Value, json};

use super::refusals;
use crate::answer::{Answer, End};
use crate::pace::{Part, Piece, Usage};
use crate::refusal::Refusal;
use crate::reply::Dialect;

pub struct Messages {
    id: String,
    model: &'static str,
    /// The tool that is called instead of an answer in words.
    tool: Option<String>,
    /// The content block that is being written.
    open: Option<Part>,
    blocks: u64,
    searches: u64,
    hides_usage: bool,
}

impl Messages {
    pub fn new(id: String, model: &'static str, searches: u64) -> Messages {
        Messages { id, model, tool: None, open: None, blocks: 0, searches, hides_usage: false }
    }

    fn frame(&self, content: Value, stop_reason: Option<&str>, usage: &Usage) -> Value {
        let mut usage_written = written(usage);
        usage_written["cache_creation"] = json!({
            "ephemeral_5m_input_tokens": usage.input.cache_write, "ephemeral_1h_input_tokens": usage.input.cache_write_long});
        usage_written["service_tier"] = json!("standard");
        usage_written["inference_geo"] = json!("global");
        // The first event of a stream comes before any search.
        if self.searches > 0 && stop_reason.is_some() {
            usage_written["server_tool_use"] = self.searches_written();
        }
        let mut frame = json!({"id": format!("msg_{}", self.id), "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null});
        if !self.hides_usage {
            frame["usage"] = usage_written;
        }
        frame
    }

    fn searches_written(&self) -> Value {
        json!({"web_search_requests": self.searches, "web_fetch_requests": 0})
    }

    fn block(&self, part: Part, text: &str) -> Value {
        match (part, &self.tool) {
            (Part::Reasoning, _) => json!({"type": "thinking", "thinking": text, "signature": ""}),
            (Part::Content, Some(name)) => json!({"type": "tool_use", "id": format!("toolu_{}", self.id), "name": name, "input": {}}),
            (Part::Content, None) => json!({"type": "text", "text": text}),
        }
    }

    /// Opens the block of this part, after closing the one before.
    fn enter(&mut self, part: Part) -> String {
        if self.open == Some(part) {
            return String::new();
        }
        let mut events = self.leave();
        self.open = Some(part);
        events.push_str(&event(json!({"type": "content_block_start", "index": self.blocks, "content_block": self.block(part, "")})));
        if self.blocks == 0 {
            events.push_str(&event(json!({"type": "ping"})));
        }
        events
    }

    fn leave(&mut self) -> String {
        let Some(part) = self.open.take() else { return String::new() };
        let index = self.blocks;
        self.blocks += 1;
        let signature =
            json!({"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": self.signature()}});
        let signed = if part == Part::Reasoning { event(signature) } else { String::new() };
        signed + &event(json!({"type": "content_block_stop", "index": index}))
    }

    fn signature(&self) -> String {
        format!("simulated-{}", self.id)
    }
}

impl Dialect for Messages {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let mut content = Vec::new();
        for answer in answers {
            if answer.reasoning.tokens() > 0 {
                content.push(json!({"type": "thinking", "thinking": answer.reasoning.text(), "signature": self.signature()}));
            }
            match &answer.tool {
                Some(name) => {
                    // Arguments that the cap cut short are no JSON; the real one leaves them out too.
                    let input: Value = serde_json::from_str(answer.content.text()).unwrap_or_else(|_| json!({}));
                    content.push(json!({"type": "tool_use", "id": format!("toolu_{}", self.id), "name": name, "input": input}));
                }
                None if answer.content.tokens() > 0 => content.push(json!({"type": "text", "text": answer.content.text()})),
                None => {}
            }
        }
        self.frame(Value::Array(content), answers.first().map(stop_reason), usage)
    }

    /// The output so far is said to be one token, as the real one says with its first.
    fn opening(&mut self, answers: &[Answer], usage: &Usage) -> String {
        self.tool = answers.first().and_then(|answer| answer.tool.clone());
        let begun = Usage { output: 1, ..*usage };
        event(json!({"type": "message_start", "message": self.frame(json!([]), None, &begun)}))
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let events = self.enter(piece.part);
        let delta = match (piece.part, &self.tool) {
            (Part::Reasoning, _) => json!({"type": "thinking_delta", "thinking": piece.text}),
            (Part::Content, Some(_)) => json!({"type": "input_json_delta", "partial_json": piece.text}),
            (Part::Content, None) => json!({"type": "text_delta", "text": piece.text}),
        };
        events + &event(json!({"type": "content_block_delta", "index": self.blocks, "delta": delta}))
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let mut events = self.leave();
        let delta = json!({"stop_reason": answers.first().map(stop_reason), "stop_sequence": null});
        let mut message_delta = json!({"type": "message_delta", "delta": delta});
        if !self.hides_usage {
            message_delta["usage"] = written(usage);
            if self.searches > 0 {
                message_delta["usage"]["server_tool_use"] = self.searches_written();
            }
        }
        events.push_str(&event(message_delta));
        events.push_str(&event(json!({"type": "message_stop"})));
        events
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    fn failure(&mut self) -> String {
        event(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}))
    }
}

fn event(data: Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.end {
        End::Length => "max_tokens",
        End::Complete if answer.tool.is_some() => "tool_use",
        End::Complete => "end_turn",
    }
}

/// Input excludes what was read from and written to the cache; output includes thinking. Cumulative in a stream.
fn written(usage: &Usage) -> Value {
    json!({"input_tokens": usage.input.fresh, "cache_creation_input_tokens": usage.input.cache_write + usage.input.cache_write_long,
        "cache_read_input_tokens": usage.input.cached_read, "output_tokens": usage.output})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Form, Wish};
    use crate::models::Input;

    const USAGE: Usage =
        Usage { input: Input { fresh: 5, cached_read: 2_000, cache_write: 30, cache_write_long: 400 }, output: 9, reasoning: 0 };

    fn answer(form: Form) -> [Answer; 1] {
        [Wish { seed: 1, form, reasoning_tokens: 0, cap: 50 }.answer()]
    }

    fn events(form: Form, parts: &[Part]) -> Vec<Value> {
        let (answers, mut messages) = (answer(form), Messages::new("1".to_owned(), "claude-opus-5", 0));
        let mut all = messages.opening(&answers, &Usage { output: 0, ..USAGE });
        for part in parts {
            all.push_str(&messages.piece(&Piece { choice: 0, part: *part, text: "Hi".to_owned() }));
        }
        all.push_str(&messages.closing(&answers, &USAGE));
        let parse = |event: &str| {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
            data
        };
        all.split_terminator("\n\n").map(parse).collect()
    }

    fn kinds(events: &[Value]) -> Vec<&str> {
        events.iter().map(|event| event["type"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_stream_has_the_events_of_the_protocol_in_order() {
        let events = events(Form::Prose { words: Some(3) }, &[Part::Content, Part::Content]);
        let expected = [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ];
        assert_eq!(kinds(&events), expected);
        assert_eq!(
            events[0]["message"]["usage"]["cache_creation"],
            json!({"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 400})
        );
        assert_eq!(events[0]["message"]["content"], json!([]));
        assert_eq!(events[3]["delta"], json!({"type": "text_delta", "text": "Hi"}));
        assert_eq!(events[6]["delta"]["stop_reason"], "end_turn");
        let usage = json!({"input_tokens": 5, "cache_creation_input_tokens": 430, "cache_read_input_tokens": 2_000, "output_tokens": 9});
        assert_eq!(events[6]["usage"], usage);
    }

    #[test]
    fn thinking_is_a_signed_block_before_the_text() {
        let events = events(Form::Prose { words: Some(500) }, &[Part::Reasoning, Part::Content]);
        let expected = [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ];
        assert_eq!(kinds(&events), expected);
        assert_eq!((&events[3]["delta"]["type"], &events[4]["delta"]["type"]), (&json!("thinking_delta"), &json!("signature_delta")));
        assert_eq!((&events[6]["index"], &events[7]["index"]), (&json!(1), &json!(1)));
        assert_eq!(events[9]["delta"]["stop_reason"], "max_tokens");
    }

    #[test]
    fn a_tool_call_is_a_block_of_its_own_kind() {
        let form = || Form::ToolCall { name: "grep".to_owned(), arguments: json!({"properties": {"path": {"type": "string"}}}) };
        let events = events(form(), &[Part::Content]);
        assert_eq!(events[1]["content_block"]["name"], "grep");
        assert_eq!(events[3]["delta"]["type"], "input_json_delta");
        let whole = Messages::new("1".to_owned(), "claude-opus-5", 0).whole(&answer(form()), &USAGE);
        assert!(whole["content"][0]["input"]["path"].is_string());
        assert_eq!(whole["stop_reason"], "tool_use");
    }
}
