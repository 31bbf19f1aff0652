//! A call's record as a span, after OpenTelemetry's conventions for generative AI:
//! <https://github.com/open-telemetry/semantic-conventions-genai>. What is no part of those begins with `spendkeeper.`.
//!
//! No text of a prompt or an answer gets in here but by [`put_content`], where its owner asked for it; nor that of an error: a message that
//! says what is wrong with a request may quote it.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimension, Origin};
use crate::core::policy::{Protocol, Provider};
use crate::llm::ErrorKind;
use crate::llm::transcript::{Answered, Asked};

/// What is known of an attempt when it begins, beside its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub provider: Provider,
    /// Host and port of the provider.
    pub server: (String, u16),
    /// Output cap of each choice, as it is sent.
    pub max_tokens: u64,
    pub choices: u64,
    pub streamed: bool,
}

/// A list of attributes in the making.
#[derive(Default)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() });
    }

    /// Nothing is said of what is not known.
    fn text(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.put(key, Value::StringValue(value));
        }
    }

    fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.put(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.put(key, Value::BoolValue(value));
    }
}

/// An attempt that has ended. `usage_is_known` unless the call is charged as reserved; `number` is its place among the attempts of one
/// call, from 1; `offset_ms` is how long the call had been here when the attempt began.
pub fn of_attempt(record: &CallRecord, attempted: &Attempted, usage_is_known: bool, number: u32, offset_ms: i64) -> Span {
    let mut attributes = of_record(record, attempted.provider.name());
    let (host, port) = &attempted.server;
    attributes.text("server.address", host.as_str());
    attributes.number("server.port", *port);
    attributes.number("gen_ai.request.max_tokens", attempted.max_tokens);
    if attempted.choices != 1 {
        attributes.number("gen_ai.request.choice.count", attempted.choices);
    }
    if attempted.streamed {
        attributes.flag("gen_ai.request.stream", true);
        if let Some(ms) = record.time_to_first_byte_ms {
            attributes.put("gen_ai.response.time_to_first_chunk", Value::DoubleValue((ms - offset_ms).max(0) as f64 / 1e3));
        }
    }
    if record.outcome != CallOutcome::Failed && record.time_to_first_byte_ms.is_some() {
        attributes.text("gen_ai.response.model", record.model.as_ref());
    }
    if usage_is_known && record.outcome.is_charged() {
        put_usage(&mut attributes, record);
    }
    attributes.number("spendkeeper.attempt", number);
    attributes.text("spendkeeper.charged_by", if usage_is_known { "usage" } else { "reservation" });
    finished(record, attributes, error_of(record))
}

/// Adds what was asked and answered, as JSON, which is what the conventions want of those who cannot have lists in attributes.
pub fn put_content(span: &mut Span, asked: &Asked, answered: &Answered) {
    let mut attributes = Attributes(std::mem::take(&mut span.attributes));
    let answers = answered.messages();
    for (key, list) in [
        ("gen_ai.system_instructions", &asked.instructions),
        ("gen_ai.input.messages", &asked.messages),
        ("gen_ai.output.messages", &answers),
    ] {
        if !list.is_empty() {
            attributes.text(key, serde_json::Value::from(list.as_slice()).to_string());
        }
    }
    if asked.truncated || answered.is_truncated() {
        attributes.flag("spendkeeper.content.truncated", true);
    }
    span.attributes = attributes.0;
}

/// A call that was refused after it was understood.
pub fn of_refusal(record: &CallRecord, protocol: Protocol, refused: ErrorKind) -> Span {
    let attributes = of_record(record, usual_provider(protocol).name());
    finished(record, attributes, Some(refused.code().to_owned()))
}

/// A call that was refused before it was understood.
pub fn of_unread(protocol: Protocol, refused: ErrorKind) -> Span {
    let mut attributes = Attributes::default();
    attributes.text("gen_ai.operation.name", protocol.operation());
    attributes.text("gen_ai.provider.name", usual_provider(protocol).name());
    attributes.number("http.response.status_code", refused.status());
    attributes.text("spendkeeper.outcome", CallOutcome::Refused.name());
    attributes.text("error.type", refused.code());
    Span { name: protocol.operation().to_owned(), attributes: attributes.0, status: error(), ..Span::default() }
}

fn finished(record: &CallRecord, mut attributes: Attributes, error_type: Option<String>) -> Span {
    let operation = operation(record);
    let name = if record.requested_model.is_empty() { operation.to_owned() } else { format!("{operation} {}", record.requested_model) };
    let status = error_type.is_some().then(error).flatten();
    attributes.text("error.type", error_type.unwrap_or_default());
    Span { name, attributes: attributes.0, status, ..Span::default() }
}

/// Without a message: see the module's documentation.
fn error() -> Option<Status> {
    Some(Status { message: String::new(), code: StatusCode::Error.into() })
}

fn operation(record: &CallRecord) -> &'static str {
    match record.kind {
        CallKind::Model { protocol } => protocol.operation(),
        CallKind::Shared | CallKind::Unmetered => "other",
    }
}

fn of_record(record: &CallRecord, provider: &str) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.text("gen_ai.operation.name", operation(record));
    attributes.text("gen_ai.provider.name", provider);
    attributes.text("gen_ai.request.model", record.requested_model.as_ref());
    attributes.text("gen_ai.conversation.id", record.dimensions.get(Dimension::Session).unwrap_or_default());
    if record.status != 0 {
        attributes.number("http.response.status_code", record.status);
    }
    attributes.text("spendkeeper.call.id", record.id.0.as_ref());
    for dimension in [Dimension::Feature, Dimension::Team, Dimension::Process, Dimension::Agent] {
        attributes.text(&format!("spendkeeper.{dimension}"), record.dimensions.get(dimension).unwrap_or_default());
    }
    attributes.text("spendkeeper.route", record.route.as_ref());
    attributes.text("spendkeeper.backend", record.backend.as_ref());
    attributes.text("spendkeeper.model", record.model.as_ref());
    attributes.text("spendkeeper.tier", record.tier.map(|tier| tier.name()).unwrap_or_default());
    attributes.text("spendkeeper.requested_tier", record.requested_tier.map(|tier| tier.name()).unwrap_or_default());
    if let Some(classification) = &record.classification {
        attributes.number("spendkeeper.complexity", classification.complexity);
    }
    attributes.text("spendkeeper.outcome", record.outcome.name());
    // As text: a number of JSON or of a double would not be exact.
    attributes.text("spendkeeper.cost_usd", record.cost.to_decimal());
    attributes.text("spendkeeper.reserved_usd", record.reserved.usd.to_decimal());
    if record.unpriced {
        attributes.flag("spendkeeper.unpriced", true);
    }
    attributes
}

/// The conventions count what was read from a cache or written to one as input too.
fn put_usage(attributes: &mut Attributes, record: &CallRecord) {
    let usage = &record.usage;
    attributes.number("gen_ai.usage.input_tokens", usage.total_input());
    attributes.number("gen_ai.usage.output_tokens", usage.total_output());
    let written = usage.cache_write.saturating_add(usage.cache_write_long);
    for (key, tokens) in [
        ("gen_ai.usage.cache_read.input_tokens", usage.cached_read),
        ("gen_ai.usage.cache_creation.input_tokens", written),
        ("gen_ai.usage.audio.input_tokens", usage.audio_input),
        ("gen_ai.usage.image.input_tokens", usage.image_input),
        ("gen_ai.usage.audio.output_tokens", usage.audio_output),
        ("spendkeeper.usage.web_searches", usage.web_searches),
    ] {
        if tokens > 0 {
            attributes.number(key, tokens);
        }
    }
}

/// `error.type` of an attempt: the provider's status, or which way the call was cut off.
fn error_of(record: &CallRecord) -> Option<String> {
    let answered = record.time_to_first_byte_ms.is_some();
    let unreachable = || ErrorKind::UpstreamUnreachable.code().to_owned();
    match record.outcome {
        CallOutcome::Completed | CallOutcome::Refused => None,
        CallOutcome::Failed if answered => Some(record.status.to_string()),
        CallOutcome::Failed => Some(unreachable()),
        CallOutcome::Interrupted => Some("interrupted".to_owned()),
        // A whole answer that does not say what it used.
        CallOutcome::Unknown if answered && record.status != 0 => None,
        CallOutcome::Unknown => Some(match record.status {
            0 => "cancelled".to_owned(),
            504 => "timeout".to_owned(),
            _ => unreachable(),
        }),
    }
}

/// Whose format it is: what is known of the provider while none is chosen.
fn usual_provider(protocol: Protocol) -> Provider {
    Provider::ALL.into_iter().find(|provider| provider.formats().contains(&protocol)).unwrap_or(Provider::OpenAI)
}

/// Who sends spans: this sidecar, and the pod that it is in.
pub fn resource(origin: &Origin) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", "spendkeeper-sidecar");
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    attributes.text("service.instance.id", origin.pod_uid.as_str());
    attributes.text("k8s.namespace.name", origin.namespace.as_str());
    attributes.text("k8s.pod.name", origin.pod.as_str());
    attributes.text("k8s.pod.uid", origin.pod_uid.as_str());
    if let Some((kind, name)) = origin.workload.split_once('/') {
        let key = match kind {
            "Deployment" => "k8s.deployment.name",
            "StatefulSet" => "k8s.statefulset.name",
            "DaemonSet" => "k8s.daemonset.name",
            "ReplicaSet" => "k8s.replicaset.name",
            "Job" => "k8s.job.name",
            "CronJob" => "k8s.cronjob.name",
            _ => "spendkeeper.workload",
        };
        attributes.text(key, name);
    }
    Resource { attributes: attributes.0, ..Resource::default() }
}

#[cfg(test)]
mod tests;
