//! One physical attempt: the request goes upstream, and the head of its answer comes back.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, response};

use super::admit::{Admitted, remove_hop_by_hop, text_of};
use super::body::{BodyError, ProxyBody};
use super::call::{Sidecar, blank, tell_of_refusal};
use super::config::{ReadyBackend, Snapshot};
use super::credential::Signed;
use super::meter::{self, Metering, Patience};
use super::refusal::Refusal;
use super::reserve::{Reserved, WorstCase};
use super::route::{Outgoing, Plan};
use super::settle::{Ending, OpenCall, Tried};
use super::telemetry::Trace;
use super::telemetry::span::Attempted;
use super::upstream::{Answer, SendError, UpstreamBody};
use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::limit::LimitKey;
use crate::core::policy::{Model, Protocol, Provider};
use crate::core::route::Candidate;
use crate::core::tariff::AskedTier;
use crate::llm::{ErrorKind, Framing, Request as LlmRequest, Rewrite, tier_of_headers};

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
    snapshot: &Arc<Snapshot>,
    call: &Admitted,
    plan: &Plan<'_>,
    candidate: &Candidate,
    outgoing: &Outgoing<'_>,
    Reserved { reservation, mut worst, limits, lesson, .. }: Reserved,
) -> Attempt {
    let backend = &plan.route.backends[candidate.backend];
    let (provider, model) = {
        let declared = &plan.route.route.backends[candidate.backend];
        (declared.provider, &declared.models[candidate.model])
    };
    let asked = call.request.protocol();
    let unusable = |message: String| Attempt::Failed(Refusal::passing(ErrorKind::UpstreamUnreachable, message).into_response(asked));
    let streamed = outgoing.request.stream();
    let attempted = |trace: &Trace| {
        let server = backend.endpoint.server();
        trace.attempt(Attempted { provider, server, max_tokens: worst.cap, choices: worst.choices, streamed }, outgoing.request.body())
    };
    let span = call.trace.as_deref().map(attempted);
    let told = |headers: &mut HeaderMap| {
        if let Some(span) = &span {
            span.propagate(headers);
        }
    };
    let request = match request(call, outgoing, provider, (backend, model), worst.cap, told, sidecar.accounts.clock.unix_ms()) {
        Ok(request) => request,
        Err(error) => {
            tell_of_refusal(snapshot, call, ErrorKind::UpstreamUnreachable);
            return unusable(format!("the request cannot be made: {error}"));
        }
    };
    let mut draft = draft(snapshot, call, plan, candidate, &worst);
    draft.reserved = reservation.amount();
    let open = match reservation.open(draft, call.started, Tried { provider, streamed, span }) {
        Ok(open) => open,
        Err(error) => {
            tell_of_refusal(snapshot, call, ErrorKind::LedgerUnavailable);
            let message = format!("the call cannot be accounted for, so it is not made: {error}");
            return Attempt::Failed(Refusal::passing(ErrorKind::LedgerUnavailable, message).into_response(asked));
        }
    };
    sidecar.health.trying(&backend.id, sidecar.accounts.clock.monotonic_ms());
    match tokio::time::timeout(sidecar.settings.answer_timeout, sidecar.upstream.send(request)).await {
        Ok(Ok(response)) => {
            let headers = response.headers();
            if let Some(tier) = tier_of_headers(outgoing.request.protocol(), &|name| text_of(headers, name)) {
                worst.bound.tier = AskedTier::Said(tier);
            }
            let settings = &sidecar.settings;
            let patience = Patience { idle: settings.idle_timeout, total: settings.total_timeout, drain: settings.drain_timeout };
            let changed_cap = changed_cap(&outgoing.request, &worst);
            let metering = Metering::new(snapshot, outgoing, (worst, lesson), backend.may_be_regional, (response.status(), patience));
            let mut attempt = answered(sidecar, outgoing, (backend, model), metering, &limits, open, response).await;
            if let (Attempt::Answered(response), Some(cap)) = (&mut attempt, changed_cap) {
                response.headers_mut().insert("x-spend-max-output-tokens", cap.into());
            }
            attempt
        }
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
    outgoing: &Outgoing<'_>,
    (backend, model): (&ReadyBackend, &Model),
    metering: Metering,
    limits: &[LimitKey],
    mut open: OpenCall,
    response: Response<Answer>,
) -> Attempt {
    open.first_byte();
    let (head, mut body) = response.into_parts();
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
        let body = meter::read_whole(&mut open, &mut body, metering.patience).await;
        let response = meter::error_answer(open, head, body, &metering);
        return if may_fall_back { Attempt::Failed(response) } else { Attempt::Answered(response) };
    }
    let streamed = outgoing.request.stream();
    // A server that does not stream answers in one piece, except that Gemini's array of events is JSON as well.
    let may_be_array = streamed && outgoing.request.protocol() == Protocol::GeminiGenerate;
    let mut response = match Framing::of(head.content_type().unwrap_or_default(), may_be_array) {
        Some(framing) => {
            let hide_usage = streamed && !outgoing.request.wants_usage();
            meter::streamed_answer(open, head, body, metering, framing, hide_usage)
        }
        None => {
            let body = meter::read_whole(&mut open, &mut body, metering.patience).await;
            meter::whole_answer(open, head, body, &metering)
        }
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

    pub fn header(&self, name: &str) -> Option<String> {
        text_of(&self.parts.headers, name)
    }

    fn content_type(&self) -> Option<&str> {
        self.parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()
    }

    /// The body that follows is JSON, whatever the provider's was.
    pub fn is_json(&mut self) {
        self.parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }

    pub fn with(self, body: ProxyBody) -> Response<ProxyBody> {
        Response::from_parts(self.parts, body)
    }
}

fn request(
    call: &Admitted,
    outgoing: &Outgoing<'_>,
    provider: Provider,
    (backend, model): (&ReadyBackend, &Model),
    cap: u64,
    told: impl FnOnce(&mut HeaderMap),
    now_ms: i64,
) -> Result<Request<UpstreamBody>, BodyError> {
    let asked = &outgoing.request;
    let body = asked.spliced(&Rewrite {
        model: Some(model.name.clone()),
        max_output: Some(cap),
        include_usage: asked.stream() && !asked.wants_usage(),
    });
    // The query belongs to the caller's format.
    let query = call.query.as_deref().filter(|_| outgoing.translation.is_none());
    let uri = backend.uri(provider, asked.addressed(), &model.name, query)?;
    let mut headers = call.headers.clone();
    told(&mut headers);
    if let Some(translation) = &outgoing.translation {
        translation.headers(&mut headers);
    }
    if let Some(credential) = &backend.credential {
        credential.apply(&mut headers, &Signed { method: &Method::POST, uri: &uri, body: &body, now_ms })?;
    }
    let mut request = Request::builder().method(Method::POST).uri(uri).body(UpstreamBody::Whole(body))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The output cap that was sent, where it is not the caller's.
fn changed_cap(asked: &LlmRequest, worst: &WorstCase) -> Option<u64> {
    Some(worst.cap).filter(|cap| worst.takes_cap && worst.choices > 0 && asked.max_output() != Some(*cap))
}

/// The record of the call as it stands if nothing more is ever learnt of it: charged as reserved.
fn draft(snapshot: &Snapshot, call: &Admitted, plan: &Plan<'_>, candidate: &Candidate, worst: &WorstCase) -> CallRecord {
    let backend = &plan.route.route.backends[candidate.backend];
    let model = &backend.models[candidate.model];
    CallRecord {
        route: plan.route.name.clone(),
        backend: backend.name.clone(),
        model: model.name.clone(),
        requested_tier: plan.choice.requested_tier,
        tier: Some(model.tier),
        classification: Some(plan.classification.clone()),
        usage: worst.usage(),
        cost: worst.amount().usd,
        outcome: CallOutcome::Unknown,
        unpriced: worst.tariff.is_none(),
        ..blank(snapshot, call, CallKind::Model { protocol: call.request.protocol() })
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
