//! Embeddings: vectors that follow from the texts, as numbers or in base64.

use serde_json::{Value, json};

use super::{asked_model, refusals, request};
use crate::answer::Answer;
use crate::fields::Fields;
use crate::pace::{Piece, Usage};
use crate::prompt::{Fnv, Prompt};
use crate::refusal::Refusal;
use crate::reply::{Ask, Dialect};

pub struct Embeddings {
    id: String,
    model: &'static str,
    vectors: Vec<Vec<f32>>,
    in_base64: bool,
}

pub fn read(fields: &Fields, id: &str) -> Result<(Ask, Embeddings), Refusal> {
    let model = asked_model(fields)?;
    let input = fields.get("input").ok_or_else(|| Refusal::Missing("input".to_owned()))?;
    let inputs = match input.as_array() {
        Some(list) if !list.first().is_some_and(Value::is_number) => list.as_slice(),
        _ => std::slice::from_ref(input),
    };
    let mut prompt = Prompt::new();
    inputs.iter().for_each(|one| prompt.push_json(one));
    let usual = if model.name.ends_with("large") { 3_072 } else { 1_536 };
    let dimensions = fields.count("dimensions")?.unwrap_or(usual).min(usual);
    let in_base64 = fields.text("encoding_format")? == Some("base64");
    let vectors = inputs.iter().map(|one| vector(&one.to_string(), dimensions)).collect();
    let ask = Ask { label: request::label(fields)?, model, wishes: Vec::new(), streamed: false, prompt };
    Ok((ask, Embeddings { id: id.to_owned(), model: model.name, vectors, in_base64 }))
}

fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    let value = |dimension: u64| {
        let mut hash = Fnv::new();
        hash.feed(text.as_bytes());
        hash.feed(&dimension.to_le_bytes());
        (hash.0 >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    (0..dimensions).map(value).collect()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= three.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

impl Dialect for Embeddings {
    fn refuse(&self, refusal: &Refusal) -> axum::response::Response {
        refusals::refusal(refusal, &self.id)
    }

    fn whole(&self, _: &[Answer], usage: &Usage) -> Value {
        let data = self.vectors.iter().enumerate().map(|(index, vector)| {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            let embedding = if self.in_base64 { json!(base64(&bytes)) } else { json!(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        });
        let input = usage.input.tokens();
        json!({"object": "list", "data": data.collect::<Vec<_>>(), "model": self.model,
            "usage": {"prompt_tokens": input, "total_tokens": input}})
    }

    fn opening(&mut self, _: &[Answer], _: &Usage) -> String {
        String::new()
    }

    fn piece(&mut self, _: &Piece) -> String {
        String::new()
    }

    fn closing(&mut self, _: &[Answer], _: &Usage) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_its_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
