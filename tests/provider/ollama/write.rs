//! Writing answers, whole and line by line.

use serde_json::{Value, json};

use super::request::Kind;
use crate::answer::{Answer, End};
use crate::models::Input;
use crate::pace::{Part, Piece, Usage};
use crate::prose::Rng;
use crate::refusal::Refusal;
use crate::reply::Dialect;

pub const CREATED: &str = "2026-11-24T12:00:00Z";
const DIMENSIONS: usize = 384;

pub struct Local {
    model: String,
    kind: Kind,
    /// Texts to embed.
    inputs: u64,
    seed: u64,
    /// Tokens of the texts to embed, for embeddings.
    embedded: Option<u64>,
    calls_tool: bool,
    hides_usage: bool,
}

impl Local {
    pub fn new(model: String, kind: Kind, inputs: u64, seed: u64, embedded: Option<u64>) -> Local {
        Local { model, kind, inputs, seed, embedded, calls_tool: false, hides_usage: false }
    }

    fn frame(&self, text: &str, thinking: &str, tools: Option<Value>) -> Value {
        let mut frame = json!({"model": self.model, "created_at": CREATED, "done": false});
        let mut said = json!({});
        if !thinking.is_empty() {
            said["thinking"] = json!(thinking);
        }
        if self.kind == Kind::Generate {
            frame["response"] = json!(text);
            frame["thinking"] = said["thinking"].clone();
        } else {
            said["role"] = json!("assistant");
            said["content"] = json!(text);
            if let Some(tools) = tools {
                said["tool_calls"] = tools;
            }
            frame["message"] = said;
        }
        frame
    }

    /// The last line: zeros are left out.
    fn done(&self, mut frame: Value, answer: &Answer, usage: &Usage) -> Value {
        frame["done"] = json!(true);
        frame["done_reason"] = json!(if answer.end == End::Length { "length" } else { "stop" });
        for (field, count) in [
            ("prompt_eval_count", usage.input.tokens()),
            ("prompt_eval_cached_count", usage.input.cached_read),
            ("eval_count", usage.output),
            ("total_duration", 5_000_000),
        ] {
            if count > 0 && !self.hides_usage {
                frame[field] = json!(count);
            }
        }
        frame
    }

    fn embeddings(&self, usage: &Usage) -> Value {
        let values = |index: u64| -> Value {
            let mut rng = Rng::new(self.seed.wrapping_add(index));
            (0..DIMENSIONS).map(|_| json!(rng.below(2_001) as f64 / 1_000.0 - 1.0)).collect()
        };
        let embeddings: Vec<Value> = (0..self.inputs).map(values).collect();
        let mut answer = json!({"model": self.model, "embeddings": embeddings, "total_duration": 5_000_000});
        if !self.hides_usage {
            answer["prompt_eval_count"] = json!(usage.input.tokens());
        }
        answer
    }
}

fn called(answer: &Answer) -> Option<Value> {
    let arguments: Value = serde_json::from_str(answer.content.text()).unwrap_or_default();
    answer.tool.as_ref().map(|name| json!([{"function": {"name": name, "arguments": arguments}}]))
}

impl Dialect for Local {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        super::refusal(refusal)
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn all_input(&self, prompt: Input) -> Input {
        self.embedded.map_or(prompt, |fresh| Input { fresh, ..Input::default() })
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let Some(answer) = answers.first() else { return self.embeddings(usage) };
        let tools = called(answer);
        let text = if tools.is_some() { "" } else { answer.content.text() };
        self.done(self.frame(text, answer.reasoning.text(), tools), answer, usage)
    }

    fn hide_usage(&mut self) {
        self.hides_usage = true;
    }

    fn failure(&mut self) -> String {
        format!("{}\n", json!({"error": "an error was encountered while running the model: unexpected EOF"}))
    }

    fn opening(&mut self, answers: &[Answer], _: &Usage) -> String {
        self.calls_tool = answers.iter().any(|answer| answer.tool.is_some());
        String::new()
    }

    fn piece(&mut self, piece: &Piece) -> String {
        match piece.part {
            Part::Reasoning => format!("{}\n", self.frame("", &piece.text, None)),
            Part::Content if self.calls_tool => String::new(),
            Part::Content => format!("{}\n", self.frame(&piece.text, "", None)),
        }
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let last = |answer: &Answer| {
            let tools = called(answer).map(|tools| format!("{}\n", self.frame("", "", Some(tools)))).unwrap_or_default();
            format!("{tools}{}\n", self.done(self.frame("", "", None), answer, usage))
        };
        answers.iter().map(last).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Form, Wish};

    const USAGE: Usage =
        Usage { input: Input { fresh: 100, cached_read: 0, cache_write: 0, cache_write_long: 0 }, output: 7, reasoning: 0 };

    fn lines(kind: Kind, form: Form) -> Vec<Value> {
        let answers = [Wish { seed: 1, form, reasoning_tokens: 0, cap: 500 }.answer()];
        let mut local = Local::new("qwen3".to_owned(), kind, 1, 1, None);
        let piece = Piece { choice: 0, part: Part::Content, text: "Hello".to_owned() };
        let text = local.opening(&answers, &USAGE) + &local.piece(&piece) + &local.closing(&answers, &USAGE);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_last_line_says_what_was_used() {
        let chat = lines(Kind::Chat, Form::Prose { words: Some(3) });
        assert_eq!((chat.len(), &chat[0]["message"]["content"], &chat[0]["done"]), (2, &json!("Hello"), &json!(false)));
        assert_eq!((&chat[1]["done"], &chat[1]["prompt_eval_count"], &chat[1]["eval_count"]), (&json!(true), &json!(100), &json!(7)));
        assert!(chat[1].get("prompt_eval_cached_count").is_none());
        assert_eq!(lines(Kind::Generate, Form::Prose { words: Some(3) })[0]["response"], "Hello");
    }

    #[test]
    fn a_tool_is_called_in_one_line() {
        let lines = lines(Kind::Chat, Form::ToolCall { name: "lookup".to_owned(), arguments: json!({"type": "object"}) });
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"]["tool_calls"][0]["function"]["name"], "lookup");
    }
}
