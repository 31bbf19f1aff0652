//! Spans on their way to a collector: a queue that is never waited for, and a task that empties it in batches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Channel;

use super::span::resource;
use crate::core::dimensions::Origin;
use crate::sidecar::metrics::Metrics;
use crate::sidecar::upstream::{Upstream, UpstreamBody};

/// Spans in memory at most; of some two kilobytes each.
const QUEUE: usize = 1024;
/// Spans in one request; well below the 4 MiB that a collector takes by default.
const BATCH: usize = 256;
/// How long a span waits for others.
const GATHERING: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Before a batch is sent again; after the last of them it is given up.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
const ANSWER_LIMIT: usize = 64 << 10;

/// How spans get to a collector.
// There is one of it in a process.
#[allow(clippy::large_enum_variant)]
pub enum Transport {
    Grpc { client: TraceServiceClient<Channel>, metadata: MetadataMap },
    Http { upstream: Upstream, uri: Uri, headers: Vec<(HeaderName, HeaderValue)> },
}

/// What is in the queue.
enum Queued {
    Span(Box<(Span, Arc<Origin>)>),
    /// Everything before it is to be sent at once.
    Flush(oneshot::Sender<()>),
}

/// The near end of the queue.
pub struct Exporter {
    queue: mpsc::Sender<Queued>,
    metrics: Arc<Metrics>,
}

impl Exporter {
    pub fn start(transport: Transport, metrics: Arc<Metrics>) -> Exporter {
        let (queue, spans) = mpsc::channel(QUEUE);
        tokio::spawn(Worker { transport, metrics: Arc::clone(&metrics), is_failing: false }.run(spans));
        Exporter { queue, metrics }
    }

    /// Queues a span; it is dropped, and counted, where there is no room.
    pub fn send(&self, span: Span, origin: Arc<Origin>) {
        if self.queue.try_send(Queued::Span(Box::new((span, origin)))).is_err() {
            self.metrics.spans_dropped.with_label_values(&["queue_full"]).inc();
        }
    }

    /// Waits until what is in the queue is sent, for as long as `limit`.
    pub async fn flush(&self, limit: Duration) {
        let flushed = async {
            let (done, ready) = oneshot::channel();
            if self.queue.send(Queued::Flush(done)).await.is_ok() {
                let _ = ready.await;
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("the last spans did not reach the collector in time");
        }
    }
}

/// Why a request failed.
struct Failure {
    reason: String,
    /// The same request may be taken later.
    may_pass: bool,
}

struct Worker {
    transport: Transport,
    metrics: Arc<Metrics>,
    /// The collector did not take the last batch: that is said once, and not for each.
    is_failing: bool,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        let (mut received, mut spans, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
        while queue.recv_many(&mut received, BATCH).await > 0 {
            let full = Instant::now() + GATHERING;
            loop {
                for queued in received.drain(..) {
                    match queued {
                        Queued::Span(span) => spans.push(*span),
                        Queued::Flush(done) => flushed.push(done),
                    }
                }
                let room = BATCH.saturating_sub(spans.len());
                if room == 0 || !flushed.is_empty() {
                    break;
                }
                // Zero: the queue is closed.
                if !matches!(tokio::time::timeout_at(full, queue.recv_many(&mut received, room)).await, Ok(1..)) {
                    break;
                }
            }
            if !spans.is_empty() {
                self.deliver(std::mem::take(&mut spans)).await;
            }
            for done in flushed.drain(..) {
                let _ = done.send(());
            }
        }
    }

    async fn deliver(&mut self, spans: Vec<(Span, Arc<Origin>)>) {
        let count = spans.len() as u64;
        let request = request(spans);
        let mut pauses = PAUSES.into_iter();
        let failure = loop {
            match self.transport.send(&request).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.metrics.spans_exported.inc_by(count - rejected);
                    self.dropped("rejected", rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Err(failure) if !failure.may_pass => break failure,
                Err(failure) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break failure,
                },
            }
        };
        self.dropped(if failure.may_pass { "undelivered" } else { "rejected" }, count);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(spans = count, "the collector does not take spans, which are dropped: {}", failure.reason);
        }
    }

    fn dropped(&self, reason: &str, count: u64) {
        if count > 0 {
            self.metrics.spans_dropped.with_label_values(&[reason]).inc_by(count);
        }
    }
}

impl Transport {
    /// Sends a batch; how many of its spans the collector did not take.
    async fn send(&self, request: &ExportTraceServiceRequest) -> Result<u64, Failure> {
        let answer = async {
            match self {
                Transport::Grpc { client, metadata } => over_grpc(client.clone(), metadata.clone(), request.clone()).await,
                Transport::Http { upstream, uri, headers } => over_http(upstream, uri, headers, request).await,
            }
        };
        let late = |_| Failure { reason: format!("no answer within {} s", TIMEOUT.as_secs()), may_pass: true };
        let answer = tokio::time::timeout(TIMEOUT, answer).await.map_err(late)??;
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }
}

async fn over_grpc(
    mut client: TraceServiceClient<Channel>,
    metadata: MetadataMap,
    request: ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Failure> {
    let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), request);
    let answer = client.export(request).await.map_err(|status| {
        let reason = format!("{}: {}", status.code(), status.message());
        // As OTLP's specification lists them.
        let may_pass = matches!(
            status.code(),
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        );
        Failure { reason, may_pass }
    })?;
    Ok(answer.into_inner())
}

async fn over_http(
    upstream: &Upstream,
    uri: &Uri,
    headers: &[(HeaderName, HeaderValue)],
    request: &ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Failure> {
    let body = UpstreamBody::Whole(Bytes::from(request.encode_to_vec()).into());
    let mut post = Request::post(uri.clone()).header(header::CONTENT_TYPE, "application/x-protobuf");
    for (name, value) in headers {
        post = post.header(name, value);
    }
    let fatal = |reason: String| Failure { reason, may_pass: false };
    let post = post.body(body).map_err(|error| fatal(error.to_string()))?;
    let passing = |error: &dyn std::error::Error| Failure { reason: crate::sidecar::forward::with_causes(error), may_pass: true };
    let answer = upstream.send(post).await.map_err(|error| passing(&error))?;
    let status = answer.status();
    if !status.is_success() {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
        return Err(Failure { reason: format!("status {status}"), may_pass: busy.contains(&status) });
    }
    let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| passing(error.as_ref()))?;
    // It was taken; an answer that cannot be read does not change that.
    Ok(ExportTraceServiceResponse::decode(body.to_bytes()).unwrap_or_default())
}

/// A request's headers as gRPC has them; `None` when it cannot carry one.
pub fn metadata(headers: &[(HeaderName, HeaderValue)]) -> Option<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        let key = MetadataKey::from_bytes(name.as_str().as_bytes()).ok()?;
        let mut value = MetadataValue::try_from(value.as_bytes()).ok()?;
        value.set_sensitive(true);
        metadata.insert(key, value);
    }
    Some(metadata)
}

/// Spans by where they come from, which hardly ever changes.
fn request(spans: Vec<(Span, Arc<Origin>)>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "spendkeeper".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let mut groups: Vec<(Arc<Origin>, Vec<Span>)> = Vec::new();
    for (span, origin) in spans {
        match groups.last_mut() {
            Some((last, spans)) if *last == origin => spans.push(span),
            _ => groups.push((origin, vec![span])),
        }
    }
    let resource_spans = groups.into_iter().map(|(origin, spans)| ResourceSpans {
        resource: Some(resource(&origin)),
        scope_spans: vec![ScopeSpans { scope: Some(scope.clone()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}
