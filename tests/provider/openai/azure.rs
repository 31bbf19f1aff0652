//! Azure OpenAI: the same formats behind other paths, another header for the key, and what its filters found in front of a stream.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;

use super::{Host, answer_chat, answer_completion, answer_embedding, answer_response};
use crate::fields::Received;
use crate::refusal::Refusal;
use crate::server::Provider;

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "api-version")]
    version: Option<String>,
}

type Shared = State<Arc<Provider>>;

/// A deployment has the name of its model, with `dep-` in front or not.
pub fn model_of(deployment: &str) -> &str {
    deployment.strip_prefix("dep-").unwrap_or(deployment)
}

/// The older paths need a dated version; the newer ones take none.
pub fn routes(router: Router<Arc<Provider>>) -> Router<Arc<Provider>> {
    router
        .route("/openai/deployments/{deployment}/{*operation}", post(deployed))
        .route("/openai/responses", post(older_response))
        .route(
            "/openai/v1/chat/completions",
            post(|s: Shared, h: HeaderMap, b: Received| async move { answer_chat(&s, Host::Azure(None), &h, b).await }),
        )
        .route(
            "/openai/v1/completions",
            post(|s: Shared, h: HeaderMap, b: Received| async move { answer_completion(&s, Host::Azure(None), &h, b).await }),
        )
        .route(
            "/openai/v1/embeddings",
            post(|s: Shared, h: HeaderMap, b: Received| async move { answer_embedding(&s, Host::Azure(None), &h, b).await }),
        )
        .route(
            "/openai/v1/responses",
            post(|s: Shared, h: HeaderMap, b: Received| async move { answer_response(&s, Host::Azure(None), &h, b).await }),
        )
}

async fn deployed(
    State(provider): Shared,
    Path((deployment, operation)): Path<(String, String)>,
    Query(Version { version }): Query<Version>,
    headers: HeaderMap,
    body: Received,
) -> Response {
    if !is_dated(version.as_deref()) {
        return missing_version(&provider);
    }
    let host = Host::Azure(Some(model_of(&deployment).to_owned()));
    match operation.as_str() {
        "chat/completions" => answer_chat(&provider, host, &headers, body).await,
        "completions" => answer_completion(&provider, host, &headers, body).await,
        "embeddings" => answer_embedding(&provider, host, &headers, body).await,
        _ => missing_version(&provider),
    }
}

async fn older_response(
    State(provider): Shared,
    Query(Version { version }): Query<Version>,
    headers: HeaderMap,
    body: Received,
) -> Response {
    if !is_dated(version.as_deref()) {
        return missing_version(&provider);
    }
    answer_response(&provider, Host::Azure(None), &headers, body).await
}

fn is_dated(version: Option<&str>) -> bool {
    version.is_some_and(|version| version.starts_with("20"))
}

/// Azure's whole answer to a wrong version is "Resource not found".
fn missing_version(provider: &Provider) -> Response {
    super::refusal(&Refusal::NotFound("Resource not found".to_owned()), &provider.next_id()).into_response()
}
