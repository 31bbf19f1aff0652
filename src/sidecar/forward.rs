//! One physical attempt: the request goes upstream, and the head of its answer comes back.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, response};
use http_body_util::{Either, Full};

use super::admit::{Admitted, remove_hop_by_hop};
use super::body::ProxyBody;
use super::call::{Sidecar, blank};
use super::config::{ReadyBackend, Snapshot};
use super::meter::{self, Metering};
use super::refusal::Refusal;
use super::reserve::{Reserved, WorstCase};
use super::route::Plan;
use super::settle::{Ending, OpenCall};
use super::upstream::{Answer, SendError, UpstreamBody};
use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::limit::LimitKey;
use crate::core::policy::{Model, Protocol};
use crate::core::route::Candidate;
use crate::llm::{ErrorKind, Rewrite};

/// How an attempt ended.
pub enum Attempt {
    /// This is for the caller.
    Answered(Response<ProxyBody>),
    /// Another model may be tried; if none is, this is for the caller.
    Failed(Response<ProxyBody>),
}

/// Sends a call to a candidate. It is charged or freed by whatever happens, also when the caller goes away.
pub async fn attempt(
    sidecar: &Arc<Sidecar>,
    snapshot: &Snapshot,
    call: &Admitted,
    plan: &Plan<'_>,
    candidate: &Candidate,
    Reserved { reservation, worst, limits }: Reserved,
) -> Attempt {
    let backend = &plan.route.backends[candidate.backend];
    let model = &plan.route.route.backends[candidate.backend].models[candidate.model];
    let unusable =
        |message: String| Attempt::Failed(Refusal::passing(ErrorKind::UpstreamUnreachable, message).into_response(call.protocol));
    let request = match request(call, backend, model, &worst) {
        Ok(request) => request,
        Err(error) => return unusable(format!("the request cannot be made: {error}")),
    };
    let mut draft = draft(snapshot, call, plan, candidate, &worst);
    draft.reserved = reservation.amount();
    let open = match reservation.open(draft, call.started) {
        Ok(open) => open,
        Err(error) => {
            let message = format!("the call cannot be accounted for, so it is not made: {error}");
            return Attempt::Failed(Refusal::passing(ErrorKind::LedgerUnavailable, message).into_response(call.protocol));
        }
    };
    sidecar.health.trying(&backend.id, sidecar.accounts.clock.monotonic_ms());
    match tokio::time::timeout(sidecar.settings.answer_timeout, sidecar.upstream.send(request)).await {
        Ok(Ok(response)) => answered(sidecar, call, (backend, model), &worst, &limits, open, response).await,
        Ok(Err(error)) => {
            sidecar.health.failed(&backend.id, sidecar.accounts.clock.monotonic_ms());
            let reason = with_causes(&error);
            // Without a connection nothing was sent; afterwards the provider may have taken the request, and may charge it.
            if matches!(error, SendError::Connect(_)) {
                open.settle(Ending::failed(StatusCode::BAD_GATEWAY.as_u16()));
                unusable(format!("backend {} cannot be reached: {reason}", backend.id))
            } else {
                open.settle(Ending::as_reserved(CallOutcome::Unknown, StatusCode::BAD_GATEWAY.as_u16()));
                unusable(format!("backend {} broke off before it answered: {reason}", backend.id))
            }
        }
        Err(_) => {
            sidecar.health.failed(&backend.id, sidecar.accounts.clock.monotonic_ms());
            open.settle(Ending::as_reserved(CallOutcome::Unknown, StatusCode::GATEWAY_TIMEOUT.as_u16()));
            let seconds = sidecar.settings.answer_timeout.as_secs();
            unusable(format!("backend {} did not begin to answer within {seconds} s; the call is charged as reserved", backend.id))
        }
    }
}

async fn answered(
    sidecar: &Arc<Sidecar>,
    call: &Admitted,
    (backend, model): (&ReadyBackend, &Model),
    worst: &WorstCase,
    limits: &[LimitKey],
    mut open: OpenCall,
    response: Response<Answer>,
) -> Attempt {
    open.first_byte();
    let (head, body) = response.into_parts();
    let status = head.status;
    let now_ms = sidecar.accounts.clock.monotonic_ms();
    let may_fall_back = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    if may_fall_back {
        sidecar.health.failed(&backend.id, now_ms);
    } else {
        sidecar.health.succeeded(&backend.id);
    }
    let head = Head::new(head, &model.name);
    if !status.is_success() {
        let response = meter::error_answer(open, head, body, call.protocol).await;
        return if may_fall_back { Attempt::Failed(response) } else { Attempt::Answered(response) };
    }
    let metering = Metering { protocol: call.protocol, rates: worst.rates, status: status.as_u16() };
    let streamed = head.content_type().is_some_and(|t| t.starts_with("text/event-stream"));
    let mut response = if streamed {
        let hide_usage = call.request.stream() && !call.request.wants_usage();
        meter::streamed_answer(open, head, body, metering, hide_usage, sidecar.settings.drain_timeout)
    } else {
        meter::whole_answer(open, head, body, metering).await
    };
    // A stream's own reservation still counts as spent here.
    let remaining = sidecar.accounts.leases.remaining(limits).map(|remaining| HeaderValue::from_str(&remaining.to_decimal()));
    if let Some(Ok(remaining)) = remaining {
        response.headers_mut().insert("x-spend-budget-remaining-usd", remaining);
    }
    Attempt::Answered(response)
}

/// The head of an answer, as the caller gets it.
pub struct Head {
    parts: response::Parts,
}

impl Head {
    fn new(mut parts: response::Parts, model: &str) -> Head {
        remove_hop_by_hop(&mut parts.headers);
        // What follows may be longer or shorter, and is framed anew.
        parts.headers.remove(header::CONTENT_LENGTH);
        if let Ok(model) = HeaderValue::from_str(model) {
            parts.headers.insert("x-spend-model", model);
        }
        Head { parts }
    }

    pub fn status(&self) -> StatusCode {
        self.parts.status
    }

    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.parts.headers
    }

    fn content_type(&self) -> Option<&str> {
        self.parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()
    }

    pub fn with(self, body: ProxyBody) -> Response<ProxyBody> {
        Response::from_parts(self.parts, body)
    }
}

fn request(call: &Admitted, backend: &ReadyBackend, model: &Model, worst: &WorstCase) -> Result<Request<UpstreamBody>, http::Error> {
    let body = call.request.rewrite(&Rewrite {
        model: Some(model.name.clone()),
        max_output: Some(worst.cap),
        include_usage: call.request.stream() && !call.request.wants_usage(),
    });
    let uri = backend.endpoint.join(call.protocol.path(), call.query.as_deref())?;
    let mut request = Request::builder().method(Method::POST).uri(uri).body(Either::Left(Full::new(body)))?;
    *request.headers_mut() = call.headers.clone();
    if let Some(credential) = &backend.credential {
        authenticate(request.headers_mut(), call.protocol, credential.clone());
    }
    Ok(request)
}

/// Puts the backend's credential in place of whatever the app sent.
fn authenticate(headers: &mut HeaderMap, protocol: Protocol, credential: HeaderValue) {
    for name in ["authorization", "x-api-key", "api-key"] {
        headers.remove(name);
    }
    let name = match protocol {
        Protocol::OpenAIChat => header::AUTHORIZATION,
        Protocol::AnthropicMessages => HeaderName::from_static("x-api-key"),
    };
    headers.insert(name, credential);
}

/// The record of the call as it stands if nothing more is ever learnt of it: charged as reserved.
fn draft(snapshot: &Snapshot, call: &Admitted, plan: &Plan<'_>, candidate: &Candidate, worst: &WorstCase) -> CallRecord {
    let backend = &plan.route.route.backends[candidate.backend];
    let model = &backend.models[candidate.model];
    CallRecord {
        route: plan.route.key().to_string(),
        backend: backend.name.clone(),
        model: model.name.clone(),
        requested_tier: plan.choice.requested_tier,
        tier: Some(model.tier),
        classification: Some(plan.classification.clone()),
        usage: worst.usage(),
        cost: worst.amount().usd,
        outcome: CallOutcome::Unknown,
        unpriced: worst.rates.is_none(),
        ..blank(snapshot, call, CallKind::Model { protocol: call.protocol })
    }
}

/// An error with what caused it; the outermost alone seldom says anything.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backends_credential_replaces_whatever_the_app_sent() {
        for (protocol, name, other) in
            [(Protocol::OpenAIChat, "authorization", "x-api-key"), (Protocol::AnthropicMessages, "x-api-key", "authorization")]
        {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", HeaderValue::from_static("Bearer placeholder"));
            headers.insert("x-api-key", HeaderValue::from_static("placeholder"));
            authenticate(&mut headers, protocol, HeaderValue::from_static("real"));
            assert_eq!((headers.get(name).unwrap(), headers.get(other)), (&HeaderValue::from_static("real"), None));
        }
    }
}
