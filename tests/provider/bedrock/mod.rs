//! Amazon Bedrock: Converse, InvokeModel with bodies of Anthropic, Nova and Mistral, embeddings of Titan, and their streams.

mod converse;
mod embed;
mod frame;
mod invoke;
mod refusals;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;

use crate::anthropic;
use crate::fields::{Fields, Received};
use crate::models::{Model, Vendor, find};
use crate::pace::Usage;
use crate::refusal::Refusal;
use crate::reply;
use crate::server::{Provider, bearer, header};

type Shared = State<Arc<Provider>>;

pub async fn converse(provider: Shared, model: Path<String>, headers: HeaderMap, body: Received) -> Response {
    conversed(provider, model, headers, body, false).await
}

pub async fn converse_stream(provider: Shared, model: Path<String>, headers: HeaderMap, body: Received) -> Response {
    conversed(provider, model, headers, body, true).await
}

pub async fn invoke(provider: Shared, model: Path<String>, headers: HeaderMap, body: Received) -> Response {
    invoked(provider, model, headers, body, false).await
}

pub async fn invoke_stream(provider: Shared, model: Path<String>, headers: HeaderMap, body: Received) -> Response {
    invoked(provider, model, headers, body, true).await
}

async fn conversed(State(provider): Shared, Path(name): Path<String>, headers: HeaderMap, body: Received, streamed: bool) -> Response {
    let id = provider.next_id();
    let asked = model(&provider, &name, &headers).and_then(|model| converse::ask(&Fields::parse(body)?, model, "maxTokens", streamed));
    match asked {
        Ok(ask) => reply::answer(&provider, ask, converse::Conversation::new(id)).await,
        Err(problem) => refusals::refusal(&problem, &id),
    }
}

async fn invoked(State(provider): Shared, Path(name): Path<String>, headers: HeaderMap, body: Received, streamed: bool) -> Response {
    let id = provider.next_id();
    let asked = model(&provider, &name, &headers).and_then(|model| Ok((model, Fields::parse(body)?)));
    let (model, fields) = match asked {
        Ok(asked) => asked,
        Err(problem) => return refusals::refusal(&problem, &id),
    };
    let answer = if model.name.contains("embed") {
        return embed::answer(&provider, model, &fields).unwrap_or_else(|problem| refusals::refusal(&problem, &id));
    } else if model.name.contains("nova") {
        converse::ask(&fields, model, "max_new_tokens", streamed)
            .map(|ask| (ask, invoke::Shape::Nova(converse::Conversation::new(id.clone()))))
    } else if model.name.contains("mistral") {
        invoke::mistral(&fields, model, streamed).map(|ask| (ask, invoke::Shape::Mistral))
    } else {
        let version = fields.text("anthropic_version").and_then(|version| version.ok_or(Refusal::NoVersion));
        let ask = version.and_then(|_| anthropic::request::ask(&fields, model, streamed));
        ask.map(|ask| (ask, invoke::Shape::Anthropic(anthropic::write::Messages::new(id.clone(), model.name, 0))))
    };
    match answer {
        Ok((ask, shape)) => reply::answer(&provider, ask, invoke::Invocation::new(id, shape)).await,
        Err(problem) => refusals::refusal(&problem, &id),
    }
}

/// The key first: an API key, or a signature by the key of that name. An ARN ends in the model's name.
fn model(provider: &Provider, name: &str, headers: &HeaderMap) -> Result<&'static Model, Refusal> {
    let signed_by = || header(headers, "authorization")?.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split('/').next();
    provider.check_key(provider.bedrock_key.as_deref(), bearer(headers).or_else(signed_by))?;
    let last = name.rsplit('/').next().unwrap_or_default();
    find(Vendor::Amazon, last).ok_or_else(|| Refusal::UnknownModel(name.to_owned()))
}

/// What a call used, in the names of Converse or, with `Count` at their ends, of Nova.
fn written(usage: &Usage, ending: &str) -> Value {
    let input = usage.input;
    let written = input.cache_write + input.cache_write_long;
    let total = input.tokens() + usage.output;
    let mut used = serde_json::json!({"inputTokens": input.fresh, "outputTokens": usage.output, "totalTokens": total});
    used[format!("cacheReadInputToken{ending}")] = input.cached_read.into();
    used[format!("cacheWriteInputToken{ending}")] = written.into();
    used
}
