//! Spans of model calls for an OpenTelemetry collector, after the conventions for generative AI. Off unless an address is given; then
//! every attempt is a span, and every refusal. A second attempt has the caller's span for its parent as the first has, and a link to
//! the first.
//!
//! [`context`] says whose child a span is, [`span`] what is in it, [`export`] how it gets away. Nothing here makes a call wait.

pub mod context;
pub mod export;
pub mod span;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::metrics::Metrics;
use super::upstream::Upstream;
use crate::core::call::CallRecord;
use crate::core::dimensions::Origin;
use crate::core::policy::Protocol;
use crate::llm::ErrorKind;
use crate::llm::transcript::{Answered, Asked};
use context::{SpanId, TraceContext, new_span_id};
use export::{Exporter, Transport};
use span::Attempted;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a collector is spoken to; named as OpenTelemetry's own settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Grpc,
    HttpProtobuf,
}

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://collector:4317`, or with HTTP `http://collector:4318`, which `/v1/traces` is appended to.
    pub endpoint: String,
    pub wire: Wire,
    /// Sent with every request: a key, for instance.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Part of the traces that are recorded, of those that begin here: 0 to 1.
    pub sample_ratio: f64,
    /// A further certificate authority, PEM.
    pub extra_ca: Option<String>,
    /// Spans have the text of prompts and answers: only where their owner asked for it.
    pub capture_content: bool,
}

/// Why spans cannot be sent there.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("the collector's address {address:?} is unusable: {reason}; write it like http://collector:4317")]
    Address { address: String, reason: String },
    #[error("the sample ratio must be from 0 to 1, and is {0}")]
    Ratio(f64),
    #[error("a header for the collector holds what gRPC's metadata cannot carry; leave out names that end in -bin")]
    Header,
}

/// A collector that can be sent to.
pub struct Target {
    transport: Transport,
    sample_ratio: f64,
    capture_content: bool,
}

impl Target {
    /// # Errors
    /// When the settings cannot be used. Nothing is sent yet.
    pub fn new(settings: Settings, upstream: &Upstream) -> Result<Target, AddressError> {
        let Settings { endpoint, wire, headers, sample_ratio, extra_ca, capture_content } = settings;
        if !(0.0..=1.0).contains(&sample_ratio) {
            return Err(AddressError::Ratio(sample_ratio));
        }
        let unusable = |reason: String| AddressError::Address { address: endpoint.clone(), reason };
        let uri: Uri = endpoint.parse().map_err(|error: http::uri::InvalidUri| unusable(error.to_string()))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(unusable("it begins with neither http:// nor https://".to_owned()));
        }
        let transport = match wire {
            Wire::Grpc => {
                let metadata = export::metadata(&headers).ok_or(AddressError::Header)?;
                let failed = |error: tonic::transport::Error| unusable(super::forward::with_causes(&error));
                let mut endpoint = Endpoint::from(uri.clone()).connect_timeout(CONNECT_TIMEOUT);
                if uri.scheme_str() == Some("https") {
                    let tls = ClientTlsConfig::new().with_native_roots();
                    let tls = extra_ca.iter().fold(tls, |tls, pem| tls.ca_certificate(Certificate::from_pem(pem)));
                    endpoint = endpoint.tls_config(tls).map_err(failed)?;
                }
                Transport::Grpc { client: TraceServiceClient::new(endpoint.connect_lazy()), metadata }
            }
            Wire::HttpProtobuf => {
                let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
                let uri = traces.parse().map_err(|error: http::uri::InvalidUri| unusable(error.to_string()))?;
                Transport::Http { upstream: upstream.clone(), uri, headers }
            }
        };
        Ok(Target { transport, sample_ratio, capture_content })
    }
}

/// What records calls, if anything does.
#[derive(Default)]
pub struct Telemetry(Option<On>);

struct On {
    exporter: Arc<Exporter>,
    sample_ratio: f64,
    capture_content: bool,
}

impl Telemetry {
    /// Begins to send to `target`, if there is one.
    pub fn start(target: Option<Target>, metrics: &Arc<Metrics>) -> Telemetry {
        Telemetry(target.map(|Target { transport, sample_ratio, capture_content }| On {
            exporter: Arc::new(Exporter::start(transport, Arc::clone(metrics))),
            sample_ratio,
            capture_content,
        }))
    }

    /// A call arrives; `None` when it is not to be recorded.
    pub fn arrived(&self, headers: &HeaderMap) -> Option<Box<Trace>> {
        let on = self.0.as_ref()?;
        let context = TraceContext::sampled(headers, on.sample_ratio)?;
        let exporter = Arc::clone(&on.exporter);
        let capture_content = on.capture_content;
        Some(Box::new(Trace {
            exporter,
            context,
            capture_content,
            began: Instant::now(),
            attempts: AtomicU32::new(0),
            last: AtomicU64::new(0),
        }))
    }

    /// Sends what is left, at the end.
    pub async fn flush(&self, limit: Duration) {
        if let Some(on) = &self.0 {
            on.exporter.flush(limit).await;
        }
    }
}

/// The spans of one call.
pub struct Trace {
    exporter: Arc<Exporter>,
    context: TraceContext,
    capture_content: bool,
    began: Instant,
    attempts: AtomicU32,
    /// The span of the attempt before; zero before the first.
    last: AtomicU64,
}

impl Trace {
    /// An attempt begins, with `body` for the provider. The first counts from the call's arrival: what it waits for is part of it.
    pub fn attempt(&self, attempted: Attempted, body: &[u8]) -> Box<Attempt> {
        let id = new_span_id();
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let before = self.last.swap(u64::from_be_bytes(id), Ordering::Relaxed);
        let began = if number == 1 { self.began } else { Instant::now() };
        let offset_ms = i64::try_from((began - self.began).as_millis()).unwrap_or(i64::MAX);
        let (exporter, context) = (Arc::clone(&self.exporter), self.context.clone());
        let before = (before != 0).then(|| before.to_be_bytes());
        let content = self.capture_content.then(|| Content { asked: Asked::of(body), answered: Arc::default() });
        Box::new(Attempt { exporter, context, id, before, number, began, offset_ms, attempted, content })
    }

    /// The call was refused, and this is the record of it.
    pub fn refused(&self, record: &CallRecord, protocol: Protocol, kind: ErrorKind) {
        self.send(span::of_refusal(record, protocol, kind), record.origin.clone());
    }

    /// The call was refused before anybody could tell what it asked for.
    pub fn unread(&self, protocol: Protocol, kind: ErrorKind, origin: &Arc<Origin>) {
        self.send(span::of_unread(protocol, kind), origin.clone());
    }

    fn send(&self, span: Span, origin: Arc<Origin>) {
        self.exporter.send(placed(span, &self.context, new_span_id(), self.began), origin);
    }
}

/// An attempt that is under way.
pub struct Attempt {
    exporter: Arc<Exporter>,
    context: TraceContext,
    id: SpanId,
    /// The attempt before it.
    before: Option<SpanId>,
    number: u32,
    began: Instant,
    offset_ms: i64,
    attempted: Attempted,
    /// `None` unless the owner asked for it.
    content: Option<Content>,
}

/// What was said.
struct Content {
    asked: Asked,
    answered: Arc<Mutex<Answered>>,
}

impl Attempt {
    /// The provider is told that this is who calls it, in place of the app.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        self.context.propagate(self.id, headers);
    }

    /// Where what is answered is to be written down, if it is.
    pub fn transcript(&self) -> Option<Arc<Mutex<Answered>>> {
        self.content.as_ref().map(|content| Arc::clone(&content.answered))
    }

    /// It has ended, and this is the record of it.
    pub fn ended(&self, record: &CallRecord, usage_is_known: bool) {
        let mut span = span::of_attempt(record, &self.attempted, usage_is_known, self.number, self.offset_ms);
        if let Some(Content { asked, answered }) = &self.content {
            span::put_content(&mut span, asked, &answered.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let link = |before: SpanId| Link { trace_id: self.context.trace.to_vec(), span_id: before.to_vec(), ..Link::default() };
        span.links.extend(self.before.map(link));
        self.exporter.send(placed(span, &self.context, self.id, self.began), record.origin.clone());
    }
}

/// A span in its trace, that ends now.
fn placed(span: Span, context: &TraceContext, id: SpanId, began: Instant) -> Span {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let end = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos);
    Span {
        trace_id: context.trace.to_vec(),
        span_id: id.to_vec(),
        parent_span_id: context.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        trace_state: context.state.clone(),
        flags: context.flags_of_span(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: end.saturating_sub(nanos(began.elapsed())),
        end_time_unix_nano: end,
        ..span
    }
}

#[cfg(test)]
mod tests;
