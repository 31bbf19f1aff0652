//! Writing completions, whole and as chunks of a stream.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::refusals;
use crate::answer::{Answer, End};
use crate::pace::{Part, Piece, Usage};
use crate::refusal::Refusal;
use crate::reply::Dialect;

pub struct Chat {
    id: String,
    model: &'static str,
    wants_usage: bool,
    hides_usage: bool,
    created: u64,
    /// For each choice, whether what is streamed are a tool's arguments.
    calls_tool: Vec<bool>,
}

impl Chat {
    pub fn new(id: String, model: &'static str, wants_usage: bool) -> Chat {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Chat { id, model, wants_usage, hides_usage: false, created, calls_tool: Vec::new() }
    }

    fn frame(&self, object: &str, choices: Value) -> Value {
        json!({"id": format!("chatcmpl-{}", self.id), "object": object, "created": self.created, "model": self.model,
            "service_tier": "default", "system_fingerprint": null, "choices": choices})
    }

    /// Every chunk says null where the last one has the usage, if that was asked for.
    fn chunk(&self, choices: Value, usage: Option<&Usage>) -> String {
        let mut chunk = self.frame("chat.completion.chunk", choices);
        if self.wants_usage {
            chunk["usage"] = usage.map_or(Value::Null, written);
        }
        format!("data: {chunk}\n\n")
    }

    fn delta(&self, choice: usize, delta: Value, finish: Option<&str>) -> String {
        self.chunk(json!([{"index": choice, "delta": delta, "logprobs": null, "finish_reason": finish}]), None)
    }

    fn tool_call_id(&self, choice: usize) -> String {
        format!("call_{}{choice}", self.id)
    }
}

impl Dialect for Chat {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let choices = answers.iter().enumerate().map(|(index, answer)| {
            let mut message = json!({"role": "assistant", "content": answer.content.text(), "refusal": null, "annotations": []});
            if let Some(name) = &answer.tool {
                let function = json!({"name": name, "arguments": answer.content.text()});
                message["content"] = Value::Null;
                message["tool_calls"] = json!([{"id": self.tool_call_id(index), "type": "function", "function": function}]);
            }
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish_reason(answer)})
        });
        let mut completion = self.frame("chat.completion", choices.collect());
        if !self.hides_usage {
            completion["usage"] = written(usage);
        }
        completion
    }

    fn opening(&mut self, answers: &[Answer], _: &Usage) -> String {
        self.calls_tool = answers.iter().map(|answer| answer.tool.is_some()).collect();
        let first = answers.iter().enumerate().map(|(index, answer)| {
            let mut delta = json!({"role": "assistant", "content": "", "refusal": null});
            if let Some(name) = &answer.tool {
                let function = json!({"name": name, "arguments": ""});
                delta["content"] = Value::Null;
                delta["tool_calls"] = json!([{"index": 0, "id": self.tool_call_id(index), "type": "function", "function": function}]);
            }
            self.delta(index, delta, None)
        });
        first.collect()
    }

    /// Reasoning is paid for and not shown.
    fn piece(&mut self, piece: &Piece) -> String {
        match piece.part {
            Part::Reasoning => String::new(),
            Part::Content if self.calls_tool[piece.choice] => {
                self.delta(piece.choice, json!({"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}), None)
            }
            Part::Content => self.delta(piece.choice, json!({"content": piece.text}), None),
        }
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let mut events: String =
            answers.iter().enumerate().map(|(index, answer)| self.delta(index, json!({}), Some(finish_reason(answer)))).collect();
        if self.wants_usage {
            events.push_str(&self.chunk(json!([]), Some(usage)));
        }
        events.push_str("data: [DONE]\n\n");
        events
    }

    /// As servers do that do not know the option: they ignore it.
    fn hide_usage(&mut self) {
        (self.wants_usage, self.hides_usage) = (false, true);
    }

    /// As the real one does, without a `[DONE]`.
    fn failure(&mut self) -> String {
        let error = json!({"message": "The server had an error while processing your request. Sorry about that!", "type": "server_error",
            "param": null, "code": null});
        format!("data: {}\n\n", json!({"error": error}))
    }
}

fn finish_reason(answer: &Answer) -> &'static str {
    match answer.end {
        End::Length => "length",
        End::Complete if answer.tool.is_some() => "tool_calls",
        End::Complete => "stop",
    }
}

/// Input includes what was cached, output includes reasoning.
fn written(usage: &Usage) -> Value {
    let input = usage.input.tokens();
    json!({"prompt_tokens": input, "completion_tokens": usage.output, "total_tokens": input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.input.cached_read, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Form, Wish};
    use crate::models::Input;

    const USAGE: Usage =
        Usage { input: Input { fresh: 100, cached_read: 128, cache_write: 0, cache_write_long: 0 }, output: 7, reasoning: 2 };

    fn events(wants_usage: bool, form: Form) -> Vec<Value> {
        let answers = [Wish { seed: 1, form, reasoning_tokens: 0, cap: 50 }.answer()];
        let mut chat = Chat::new("1".to_owned(), "gpt-5", wants_usage);
        let mut all = chat.opening(&answers, &USAGE);
        for part in [Part::Reasoning, Part::Content] {
            all.push_str(&chat.piece(&Piece { choice: 0, part, text: "Hello".to_owned() }));
        }
        all.push_str(&chat.closing(&answers, &USAGE));
        let (chunks, done) = all.rsplit_once("data: [DONE]\n\n").unwrap();
        assert_eq!(done, "");
        chunks.split_terminator("\n\n").map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    #[test]
    fn a_stream_opens_with_the_role_and_ends_with_the_reason_the_usage_and_done() {
        let chunks = events(true, Form::Prose { words: Some(3) });
        assert_eq!(chunks.len(), 4);
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "Hello"}));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "stop");
        assert!(chunks[..3].iter().all(|chunk| chunk["usage"].is_null() && chunk["object"] == "chat.completion.chunk"));
        assert_eq!(chunks[3]["choices"], json!([]));
        assert_eq!(chunks[3]["usage"]["prompt_tokens"], 228);
        assert_eq!(chunks[3]["usage"]["total_tokens"], 235);
        assert_eq!(chunks[3]["usage"]["prompt_tokens_details"]["cached_tokens"], 128);
        assert_eq!(chunks[3]["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
    }

    #[test]
    fn a_stream_without_the_option_says_nothing_of_usage() {
        let chunks = events(false, Form::Prose { words: Some(500) });
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn a_streamed_tool_call_has_its_name_first_and_arguments_after() {
        let chunks = events(false, Form::ToolCall { name: "lookup".to_owned(), arguments: json!({"type": "object"}) });
        assert_eq!(chunks[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], "lookup");
        assert_eq!(chunks[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], "Hello");
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "tool_calls");
    }
}
