//! The proxy's listener: HTTP/1.1 on loopback, one task a connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use tokio::net::TcpListener;

use super::admit::{Target, admit, target};
use super::body::ProxyBody;
use super::call::{Sidecar, make};
use super::config::Snapshot;
use super::refusal::Refusal;
use super::route::offered;
use super::{outcomes, shared};
use crate::core::policy::Protocol;
use crate::llm::ErrorKind;

/// How long a caller may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After this `accept` failed (too many open files), others get time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` resolves, then waits for the calls under way for at most `drain`. True when all of them ended.
pub async fn serve(sidecar: Arc<Sidecar>, listener: TcpListener, stop: impl Future<Output = ()>, drain: Duration) -> bool {
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        // A streamed token is a small packet, which must not wait for the next one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a caller was gone at once");
        }
        let sidecar = Arc::clone(&sidecar);
        let service = service_fn(move |request| {
            let sidecar = Arc::clone(&sidecar);
            async move { Ok::<_, Infallible>(handle(sidecar, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a caller's connection broke off");
            }
        });
    }
    drop(listener);
    tokio::time::timeout(drain, connections.shutdown()).await.is_ok()
}

/// Answers one request.
async fn handle(sidecar: Arc<Sidecar>, request: Request<Incoming>) -> Response<ProxyBody> {
    let path = request.uri().path().to_owned();
    let target = target(request.method(), &path);
    let Some(snapshot) = sidecar.in_force.load_full() else { return not_ready(&target) };
    match target {
        Target::Model(addressed) => {
            let protocol = addressed.protocol;
            let (limit, now_ms) = (sidecar.settings.body_limit, sidecar.accounts.clock.unix_ms());
            match admit(addressed, request, &snapshot.policy.dimensions, limit, now_ms).await {
                Ok(call) => make(sidecar, snapshot, call).await,
                Err(refusal) => {
                    sidecar.accounts.metrics.refusals.with_label_values(&[refusal.kind.code()]).inc();
                    refusal.into_response(protocol)
                }
            }
        }
        Target::Models => models(&snapshot, &request),
        Target::Shared { name, path } => shared::pass(sidecar, snapshot, request, name, path).await,
        Target::Outcomes => outcomes::take(&sidecar, &snapshot, request).await,
        Target::Other => unknown(request.method().as_str(), &path),
    }
}

fn not_ready(target: &Target<'_>) -> Response<ProxyBody> {
    const MESSAGE: &str = "the sidecar has no policy yet: it waits for the operator; try again shortly";
    match target {
        Target::Model(addressed) => Refusal::passing(ErrorKind::NotReady, MESSAGE).into_response(addressed.protocol),
        _ => plain_error(StatusCode::SERVICE_UNAVAILABLE, "not_ready", MESSAGE),
    }
}

fn unknown(method: &str, path: &str) -> Response<ProxyBody> {
    let message = format!(
        "nothing answers {method} {path} here; the sidecar takes POST /v1/chat/completions, POST /v1/messages, GET /v1/models, \
         POST /spend/v1/outcomes and /shared/<service>/…"
    );
    plain_error(StatusCode::NOT_FOUND, "not_found", &message)
}

/// The models of the pod's routes, in the shape of whichever provider the caller speaks to.
fn models(snapshot: &Snapshot, request: &Request<Incoming>) -> Response<ProxyBody> {
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
    let mut response = Response::new(ProxyBody::Full(Full::new(body.to_string().into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
