//! Titan's embeddings.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::bill::UNLABELLED;
use crate::fields::Fields;
use crate::models::{Input, Model};
use crate::prompt::Fnv;
use crate::refusal::Refusal;
use crate::server::Provider;
use crate::tokens;

const DIMENSIONS: u64 = 1_024;

pub fn answer(provider: &Arc<Provider>, model: &'static Model, fields: &Fields) -> Result<Response, Refusal> {
    let text = fields.text("inputText")?.ok_or_else(|| Refusal::Missing("inputText".to_owned()))?;
    let dimensions = fields.count("dimensions")?.unwrap_or(DIMENSIONS).min(DIMENSIONS);
    let tokens = tokens::count(text).max(1);
    if tokens > model.context_window {
        return Err(Refusal::PromptTooLong { tokens, most: model.context_window });
    }
    let call = provider.bill.open(UNLABELLED, model);
    call.bill_input(Input { fresh: tokens, ..Input::default() });
    let mut hash = Fnv::new();
    let embedding: Vec<Value> = (0..dimensions)
        .map(|_| {
            hash.feed(text.as_bytes());
            json!(((hash.0 >> 40) as f64) / f64::from(1 << 24) - 0.5)
        })
        .collect();
    let headers = [("x-amzn-bedrock-input-token-count", tokens.to_string())];
    let body = json!({"embedding": embedding, "embeddingsByType": {"float": embedding}, "inputTextTokenCount": tokens});
    Ok((headers, Json(body)).into_response())
}
