//! Requests that are no calls to a model as far as Spendkeeper knows: files, batches, fine-tuning, whatever a provider adds next. They go to the
//! backend whose provider has such paths, streamed both ways, and are counted as unmetered.
//!
//! What may be charged and cannot be bounded does not pass a budget that denies what has no price: see `docs/decisions/0016`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::admit::{clean, dimensions, read_in_time};
use super::body::{BodyError, ProxyBody};
use super::call::{Sidecar, record_of};
use super::caller::CallerBody;
use super::clock::elapsed_ms;
use super::config::{ReadyBackend, ReadyRoute, Snapshot};
use super::credential::{Signed, can_be_passed_on, not_passed_on};
use super::refusal::Refusal;
use super::server::plain_error;
use super::settle::Accounts;
use super::upstream::{Answer, UpstreamBody};
use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::cel::CallFacts;
use crate::core::limit::LimitKey;
use crate::core::policy::{Backend, OtherRequests, Protocol, Provider, UnpricedModels};
use crate::core::tariff::Billing;
use crate::llm::passing::{is_free, provider_of, speaks, usage_of};
use crate::llm::{ErrorKind, Pieces};

/// What may be passed on. `TRACE` would show the app the backend's credential, `CONNECT` lead it elsewhere.
const METHODS: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// What is kept of an answer that may say what it used.
const KEPT_BYTES: usize = 32 << 20;

/// Passes a request on.
pub async fn pass(sidecar: Arc<Sidecar>, snapshot: Arc<Snapshot>, request: Request<CallerBody>) -> Response<ProxyBody> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if !METHODS.contains(&method) {
        return plain_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("{method} is passed on to nobody"));
    }
    let provider = provider_of(&path, request.headers());
    let Some((route, backend, ready)) = backend(&snapshot, provider) else { return unknown(&method, &path, provider) };
    let protocol = speaks(provider);
    let free = is_free(&method, &path);
    let dimensions = dimensions(&snapshot.policy.dimensions, request.headers());
    let facts = CallFacts { origin: &snapshot.policy.origin, dimensions: &dimensions, model: "", backend: &backend.name, tier: None };
    let budgets = snapshot.budgets.applicable(&facts);
    if !free && !budgets.leased.is_empty() && budgets.unpriced == UnpricedModels::Deny {
        let message = format!(
            "{method} {path} may be charged by the provider, and nothing here bounds its cost; set unpricedModels: Allow in the AIBudget \
             to let such requests through uncounted, or call the provider without the sidecar"
        );
        return refuse(&sidecar, Refusal::new(ErrorKind::Unpriced, message), protocol);
    }
    let record = CallRecord {
        route: route.name.clone(),
        backend: backend.name.clone(),
        unpriced: !free,
        ..record_of(&snapshot, dimensions, CallKind::Unmetered, sidecar.accounts.clock.unix_ms())
    };
    let limits = [budgets.leased, budgets.warned].concat();
    let mut count = Count { accounts: Arc::clone(&sidecar.accounts), record: Some(record), started: Instant::now(), limits };
    let (request, model) = match onward(&sidecar, request, backend.provider, ready, free).await {
        Ok(onward) => onward,
        Err(refusal) => return refuse(&sidecar, refusal, protocol),
    };
    let unreachable = |what: String| {
        let message = format!("backend {} {what}", ready.id);
        Refusal::passing(ErrorKind::UpstreamUnreachable, message).into_response(protocol)
    };
    match tokio::time::timeout(sidecar.settings.answer_timeout, sidecar.upstream.send(request)).await {
        Ok(Ok(answer)) => {
            let (mut parts, body) = answer.into_parts();
            super::admit::remove_hop_by_hop(&mut parts.headers);
            count.status(parts.status);
            let price = model.as_ref().and_then(|model| snapshot.catalogue.latest(model)).map(|price| Arc::clone(&price.tariff));
            let metering = price.map(|tariff| Metering { tariff, model: model.unwrap_or_default(), path, kept: Vec::new() });
            Response::from_parts(parts, ProxyBody::Passed(Box::new(PassedBody { body, count, metering })))
        }
        Ok(Err(error)) => unreachable(format!("cannot be reached: {}", super::forward::with_causes(&error))),
        Err(_) => unreachable("did not begin to answer in time".to_owned()),
    }
}

fn refuse(sidecar: &Sidecar, refusal: Refusal, protocol: Protocol) -> Response<ProxyBody> {
    sidecar.accounts.metrics.refusals.with_label_values(&[refusal.kind.code()]).inc();
    refusal.into_response(protocol)
}

/// The first backend of a provider, in the order of the routes, and its route: the only places that a request can be passed to.
fn backend(snapshot: &Snapshot, provider: Provider) -> Option<(&ReadyRoute, &Backend, &ReadyBackend)> {
    let mut passing = snapshot.routes.iter().filter(|route| route.route.other_requests == OtherRequests::Pass);
    passing.find_map(|route| {
        let (backend, ready) = route.route.backends.iter().zip(&route.backends).find(|(backend, _)| backend.provider == provider)?;
        Some((route, backend, ready))
    })
}

fn unknown(method: &Method, path: &str, provider: Provider) -> Response<ProxyBody> {
    let message = format!(
        "nothing answers {method} {path} here: no ModelRoute of this pod passes it to a backend of provider {provider:?} \
         (spec.policy.otherRequests). The sidecar takes the model calls of OpenAI, Azure OpenAI, Anthropic, Gemini, Bedrock and Ollama, GET /v1/models, POST /spend/v1/outcomes and \
         /shared/<service>/…, and passes on what else a backend's provider knows"
    );
    plain_error(StatusCode::NOT_FOUND, "not_found", &message)
}

/// The request as it goes on, and the model that it names, should its answer say what it used. Its body streams unless it must be
/// looked at: for the model, or for a signature.
async fn onward(
    sidecar: &Sidecar,
    request: Request<CallerBody>,
    provider: Provider,
    backend: &ReadyBackend,
    free: bool,
) -> Result<(Request<UpstreamBody>, Option<String>), Refusal> {
    let (mut parts, body) = request.into_parts();
    let unusable = |error: http::Error| Refusal::new(ErrorKind::InvalidRequest, format!("the request cannot be passed on: {error}"));
    // Where the provider's own paths begin with a version, the endpoint has none.
    let path = if provider == Provider::OpenAI && !parts.uri.path().starts_with("/v1") {
        format!("/v1{}", parts.uri.path())
    } else {
        parts.uri.path().to_owned()
    };
    parts.uri = backend.endpoint.join(&path, parts.uri.query()).map_err(unusable)?;
    let length = parts.headers.get(http::header::CONTENT_LENGTH).cloned();
    clean(&mut parts.headers);
    let whole = provider == Provider::Bedrock || !free;
    let (body, bytes, model) = if whole {
        let bytes = read_in_time(body, &sidecar.settings).await?;
        let model = model_of(&parts.headers, &bytes);
        let bytes = Pieces::from(bytes);
        (UpstreamBody::Whole(bytes.clone()), bytes, model)
    } else {
        if let Some(length) = length {
            parts.headers.insert(http::header::CONTENT_LENGTH, length);
        }
        (UpstreamBody::Streamed(body), Pieces::default(), None)
    };
    if let Some(credential) = &backend.credential {
        let signed = Signed { method: &parts.method, uri: &parts.uri, body: &bytes, now_ms: sidecar.accounts.clock.unix_ms() };
        let unsigned = |error| Refusal::new(ErrorKind::NoCredential, format!("the request cannot be signed: {error}"));
        credential.apply(&mut parts.headers, &signed).map_err(unsigned)?;
    } else if !can_be_passed_on(&parts.headers) {
        return Err(Refusal::new(ErrorKind::InvalidRequest, not_passed_on(&backend.id)));
    }
    Ok((Request::from_parts(parts, body), model))
}

/// The model that a body names, in JSON or as a field of a form.
fn model_of(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        model: String,
    }
    let kind = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    if kind.starts_with("application/json") {
        return serde_json::from_slice::<Named>(body).ok().map(|named| named.model);
    }
    let field = memchr::memmem::find(body, b"name=\"model\"\r\n\r\n")? + b"name=\"model\"\r\n\r\n".len();
    let value = body.get(field..)?;
    let value = &value[..memchr::memchr(b'\r', value)?.min(128)];
    String::from_utf8(value.to_vec()).ok()
}

/// Counts one request; records it when nothing more of it can come.
struct Count {
    accounts: Arc<Accounts>,
    record: Option<CallRecord>,
    started: Instant,
    /// What its charge counts against, after the fact.
    limits: Vec<LimitKey>,
}

impl Count {
    fn status(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record {
            record.status = status.as_u16();
            record.outcome = if status.is_success() { CallOutcome::Completed } else { CallOutcome::Failed };
        }
    }

    fn bytes(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.bytes += bytes as u64;
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration_ms = elapsed_ms(self.started);
        self.accounts.record(record, std::mem::take(&mut self.limits));
    }
}

/// How an answer that says what it used is charged.
struct Metering {
    tariff: Arc<crate::core::tariff::Tariff>,
    model: String,
    path: String,
    kept: Vec<u8>,
}

impl Metering {
    fn keep(&mut self, data: &[u8]) {
        if self.kept.len() + data.len() <= KEPT_BYTES {
            self.kept.extend_from_slice(data);
        }
    }

    fn charge(self, record: &mut CallRecord) {
        let Some(reported) = usage_of(&self.path, &self.kept) else { return };
        let billing = Billing { tier: reported.tier.unwrap_or_default(), regional: reported.regional.unwrap_or(false) };
        record.usage = reported.usage;
        record.cost = self.tariff.cost(&reported.usage, billing);
        record.model = self.model.into();
        record.unpriced = false;
    }
}

/// An answer that is counted, and charged by what it says.
pub struct PassedBody {
    body: Answer,
    count: Count,
    metering: Option<Metering>,
}

impl PassedBody {
    fn end(&mut self) {
        if let (Some(metering), Some(record)) = (self.metering.take(), &mut self.count.record) {
            metering.charge(record);
        }
    }
}

impl Body for PassedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.count.bytes(data.len());
                    if let Some(metering) = &mut self.metering {
                        metering.keep(data);
                    }
                }
            }
            _ => self.end(),
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for PassedBody {
    fn drop(&mut self) {
        self.end();
    }
}
