//! The legacy completions: a prompt or several, with `n` answers each, the best of more.

use serde_json::{Value, json};

use super::write::{finish_reason, now, written};
use super::{asked_model, refusals, request};
use crate::answer::{Answer, Form, Wish};
use crate::fields::Fields;
use crate::pace::{Part, Piece, Usage};
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};

const DEFAULT_MAX_TOKENS: u64 = 16;

pub struct Completion {
    id: String,
    model: &'static str,
    wants_usage: bool,
    created: u64,
    /// Answers shown of each prompt, and generated for it.
    shown: usize,
    generated: usize,
}

pub fn read(fields: &Fields, id: &str) -> Result<(Ask, Completion), Refusal> {
    let model = asked_model(fields)?;
    let prompts = prompts(fields.get("prompt").unwrap_or(&Value::Null));
    let mut prompt = Prompt::new();
    prompts.iter().for_each(|text| prompt.push_message("user", text));
    if let Some(suffix) = fields.get("suffix") {
        prompt.push_json(suffix);
    }
    let shown = fields.count("n")?.unwrap_or(1);
    let generated = fields.count("best_of")?.unwrap_or(shown);
    let streamed = fields.flag("stream")?;
    if generated < shown || (streamed && generated > shown) {
        return Err(Refusal::WrongType { field: "best_of".to_owned(), expected: "a number of at least n, and n when streaming" });
    }
    let cap = fields.count("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS);
    let wish = |index: u64| Wish {
        seed: prompt.seed().wrapping_add(index),
        form: Form::Prose { words: prompt.wished_words() },
        reasoning_tokens: 0,
        cap: cap as usize,
    };
    let wishes = (0..generated * prompts.len() as u64).map(wish).collect();
    let (shown, generated) = (shown as usize, generated as usize);
    let completion =
        Completion { id: id.to_owned(), model: model.name, wants_usage: request::wants_usage(fields), created: now(), shown, generated };
    Ok((Ask { label: request::label(fields)?, model, wishes, streamed, prompt }, completion))
}

/// A text, a list of texts, of tokens, or of lists of tokens.
fn prompts(prompt: &Value) -> Vec<Value> {
    match prompt.as_array() {
        Some(list) if list.first().is_some_and(Value::is_number) => vec![json!({"tokens": list})],
        Some(list) => list.iter().map(|one| if one.is_array() { json!({"tokens": one}) } else { one.clone() }).collect(),
        None => vec![prompt.clone()],
    }
}

impl Completion {
    fn frame(&self, choices: Value) -> Value {
        json!({"id": format!("cmpl-{}", self.id), "object": "text_completion", "created": self.created, "model": self.model, "choices": choices})
    }

    fn chunk(&self, choices: Value, usage: Option<&Usage>) -> String {
        let mut chunk = self.frame(choices);
        if self.wants_usage {
            chunk["usage"] = usage.map_or(Value::Null, written);
        }
        format!("data: {chunk}\n\n")
    }

    fn choice(index: usize, text: &str, finish: Option<&str>) -> Value {
        json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish})
    }
}

impl Dialect for Completion {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value {
        let best = answers.chunks(self.generated).flat_map(|candidates| &candidates[..self.shown]);
        let choices = best.enumerate().map(|(index, answer)| Self::choice(index, answer.content.text(), Some(finish_reason(answer))));
        let mut completion = self.frame(choices.collect());
        completion["usage"] = written(usage);
        completion
    }

    fn opening(&mut self, _: &[Answer], _: &Usage) -> String {
        String::new()
    }

    fn piece(&mut self, piece: &Piece) -> String {
        match piece.part {
            Part::Reasoning => String::new(),
            Part::Content => self.chunk(json!([Self::choice(piece.choice, &piece.text, None)]), None),
        }
    }

    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String {
        let ends = answers.iter().enumerate().map(|(index, answer)| Self::choice(index, "", Some(finish_reason(answer))));
        let mut events: String = ends.map(|end| self.chunk(json!([end]), None)).collect();
        if self.wants_usage {
            events.push_str(&self.chunk(json!([]), Some(usage)));
        }
        events + "data: [DONE]\n\n"
    }
}
