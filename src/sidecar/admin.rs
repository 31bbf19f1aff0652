//! The admin listener, which the kubelet and Prometheus reach: `/healthz`, `/readyz`, `/metrics`. It shows no call and takes no
//! command.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::body::ProxyBody;
use super::call::Sidecar;
use super::metrics::usd;

const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves for ever.
pub async fn serve(sidecar: Arc<Sidecar>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let sidecar = Arc::clone(&sidecar);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(&sidecar, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin connection broke off");
            }
        });
    }
}

fn answer(sidecar: &Sidecar, path: &str) -> Response<ProxyBody> {
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        // The journal is open, or there would be no sidecar.
        "/readyz" => match sidecar.in_force.load().as_ref() {
            Some(snapshot) => text(StatusCode::OK, format!("ready: policy generation {}\n", snapshot.policy.generation)),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: no policy yet\n"),
        },
        "/metrics" => {
            let accounts = &sidecar.accounts;
            accounts.metrics.journal_backlog.set(i64::try_from(accounts.journal.backlog()).unwrap_or(i64::MAX));
            accounts.metrics.lease_held.set(usd(accounts.leases.held().usd));
            let generation = sidecar.in_force.load().as_ref().map_or(0, |s| s.policy.generation);
            accounts.metrics.policy_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
            let mut response = text(StatusCode::OK, accounts.metrics.render());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
    }
}

fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::whole(text));
    *response.status_mut() = status;
    response
}
