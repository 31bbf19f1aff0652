//! Calls to shared services: `/shared/<name>/…` goes to the service, counted on its way, so that its cost can be divided by
//! who used it. Nothing is reserved and nothing is kept in memory: bodies stream through both ways.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderName;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::admit::{dimensions, remove_hop_by_hop};
use super::body::{BodyError, ProxyBody};
use super::call::{Sidecar, record_of};
use super::caller::CallerBody;
use super::clock::elapsed_ms;
use super::config::{Endpoint, Snapshot};
use super::server::plain_error;
use super::settle::Accounts;
use super::upstream::{Answer, UpstreamBody};
use crate::core::call::{CallKind, CallOutcome, CallRecord};

/// Passes a request on to the service `name`, whose own path is `path`.
pub async fn pass(
    sidecar: Arc<Sidecar>,
    snapshot: Arc<Snapshot>,
    request: Request<CallerBody>,
    name: &str,
    path: &str,
) -> Response<ProxyBody> {
    let Some(endpoint) = snapshot.meters.get(name) else {
        let known: Vec<&str> = snapshot.meters.keys().map(String::as_str).collect();
        let message = format!(
            "there is no shared service {name:?} for this pod (known: {}); a CostAllocation's sharedCosts names them",
            known.join(", ")
        );
        return plain_error(StatusCode::NOT_FOUND, "unknown_shared_service", &message);
    };
    let mut count = Count::new(&sidecar, &snapshot, &request, name);
    let request = match onward(request, endpoint, path, &mut count) {
        Ok(request) => request,
        Err(error) => return plain_error(StatusCode::BAD_REQUEST, "bad_request", &format!("the request cannot be passed on: {error}")),
    };
    match sidecar.upstream.send(request).await {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            remove_hop_by_hop(&mut parts.headers);
            count.status = parts.status;
            Response::from_parts(parts, ProxyBody::Counted(Box::new(CountedBody { body, count })))
        }
        Err(error) => {
            let reason = super::forward::with_causes(&error);
            plain_error(StatusCode::BAD_GATEWAY, "unreachable", &format!("shared service {name:?} cannot be reached: {reason}"))
        }
    }
}

fn onward(request: Request<CallerBody>, endpoint: &Endpoint, path: &str, count: &mut Count) -> Result<Request<UpstreamBody>, http::Error> {
    let (mut parts, body) = request.into_parts();
    let path = if path.is_empty() { "/" } else { path };
    parts.uri = endpoint.join(path, parts.uri.query())?;
    remove_hop_by_hop(&mut parts.headers);
    let ours: Vec<HeaderName> = parts.headers.keys().filter(|n| n.as_str().starts_with("x-spend-")).cloned().collect();
    ours.iter().for_each(|name| {
        parts.headers.remove(name);
    });
    // The length that the caller states; without one the body is chunked, and only the answer counts.
    count.bytes += body.size_hint().exact().unwrap_or(0);
    Ok(Request::from_parts(parts, UpstreamBody::Streamed(body)))
}

/// Counts one call; records it when it is dropped, which is when nothing more of it can come.
struct Count {
    accounts: Arc<Accounts>,
    record: Option<CallRecord>,
    started: Instant,
    status: StatusCode,
    bytes: u64,
}

impl Count {
    fn new(sidecar: &Sidecar, snapshot: &Snapshot, request: &Request<CallerBody>, name: &str) -> Count {
        let dimensions = dimensions(&snapshot.policy.dimensions, request.headers());
        let begun = record_of(snapshot, dimensions, CallKind::Shared, sidecar.accounts.clock.unix_ms());
        let record = CallRecord { backend: name.into(), ..begun };
        let accounts = Arc::clone(&sidecar.accounts);
        Count { accounts, record: Some(record), started: Instant::now(), status: StatusCode::BAD_GATEWAY, bytes: 0 }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration_ms = elapsed_ms(self.started);
        record.bytes = self.bytes;
        record.status = self.status.as_u16();
        record.outcome = if self.status.is_success() { CallOutcome::Completed } else { CallOutcome::Failed };
        self.accounts.record(record, Vec::new());
    }
}

/// An answer whose bytes are counted.
pub struct CountedBody {
    body: Answer,
    count: Count,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.count.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
