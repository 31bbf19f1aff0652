//! A request is told apart by its path, and answered.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::json;

use super::admit::{Admitted, Target, admit, target};
use super::body::ProxyBody;
use super::call::{Sidecar, make};
use super::caller::CallerBody;
use super::config::Snapshot;
use super::refusal::Refusal;
use super::route::offered;
use super::{outcomes, passthrough, shared};
use crate::core::policy::Protocol;
use crate::llm::ErrorKind;

/// Answers one request.
pub async fn handle(sidecar: Arc<Sidecar>, request: Request<CallerBody>) -> Response<ProxyBody> {
    // Its bytes are shared, not copied.
    let uri = request.uri().clone();
    let target = target(request.method(), uri.path());
    let Some(snapshot) = sidecar.in_force.load_full() else { return not_ready(&target) };
    match target {
        Target::Model(addressed) => {
            let protocol = addressed.protocol;
            let now_ms = sidecar.accounts.clock.unix_ms();
            let trace = sidecar.telemetry.arrived(request.headers());
            match admit(addressed, request, &snapshot.policy.dimensions, &sidecar.settings, now_ms).await {
                Ok(call) => make(sidecar, snapshot, Admitted { trace, ..call }).await,
                Err(refusal) => {
                    if let Some(trace) = trace {
                        trace.unread(protocol, refusal.kind, &snapshot.policy.origin);
                    }
                    sidecar.accounts.metrics.refusals.with_label_values(&[refusal.kind.code()]).inc();
                    refusal.into_response(protocol)
                }
            }
        }
        Target::Models => models(&snapshot, &request),
        // Boxed, so that a call to a model does not have room for what is none.
        Target::Shared { name, path } => Box::pin(shared::pass(sidecar, snapshot, request, name, path)).await,
        Target::Outcomes => Box::pin(outcomes::take(&sidecar, &snapshot, request)).await,
        Target::Other => Box::pin(passthrough::pass(sidecar, snapshot, request)).await,
    }
}

fn not_ready(target: &Target<'_>) -> Response<ProxyBody> {
    const MESSAGE: &str = "the sidecar has no policy yet: it waits for the operator; try again shortly";
    match target {
        Target::Model(addressed) => Refusal::passing(ErrorKind::NotReady, MESSAGE).into_response(addressed.protocol),
        _ => plain_error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", MESSAGE),
    }
}

/// The models of the pod's routes, in the shape of whichever provider the caller speaks to.
fn models(snapshot: &Snapshot, request: &Request<CallerBody>) -> Response<ProxyBody> {
    let body = if request.headers().contains_key("anthropic-version") {
        let models = offered(snapshot, Protocol::AnthropicMessages);
        let data: Vec<_> = models
            .iter()
            .map(|m| json!({"type": "model", "id": m.name, "display_name": m.name, "created_at": "1970-01-01T00:00:00Z"}))
            .collect();
        let id = |model: Option<&super::route::Offered>| model.map(|m| m.name.clone());
        json!({"data": data, "has_more": false, "first_id": id(models.first()), "last_id": id(models.last())})
    } else {
        let models = offered(snapshot, Protocol::OpenAIChat);
        let data: Vec<_> = models.iter().map(|m| json!({"id": m.name, "object": "model", "created": 0, "owned_by": m.owner})).collect();
        json!({"object": "list", "data": data})
    };
    json_response(StatusCode::OK, &body)
}

/// An error that is about no provider's protocol.
pub fn plain_error(status: StatusCode, code: &str, message: &str) -> Response<ProxyBody> {
    json_response(status, &json!({"error": {"code": code, "message": format!("Spendkeeper: {message}")}}))
}

/// A JSON answer of the sidecar's own.
pub fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::whole(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
