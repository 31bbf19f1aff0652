//! The sidecar's metrics: names after OpenTelemetry's conventions for generative AI where there is one. Labels come from
//! the policy, never from a caller's text, so their number is bounded; none holds a credential. They are declared in one
//! table: the reference in `docs/` is generated from it.

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use super::settle::Tried;
use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::metric::{Declaration, Kind, declare};
use crate::core::money::PicoUsd;

/// A call: what was asked of whom. `gen_ai_provider_name` is who a backend's provider is to OpenTelemetry; the backend itself has a
/// label of its own.
const CALL: &[&str] =
    &["gen_ai_operation_name", "gen_ai_provider_name", "spendkeeper_backend", "gen_ai_request_model", "gen_ai_response_model", "outcome"];

const DURATION: Declaration =
    declare("gen_ai_client_operation_duration_seconds", Kind::Histogram, CALL, "From the request's arrival to the answer's last byte.");
const FIRST_BYTE: Declaration = declare(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    Kind::Histogram,
    CALL,
    "From a streamed request's arrival to the answer's first byte.",
);
const TOKEN_USAGE: Declaration = declare(
    "gen_ai_client_token_usage",
    Kind::Histogram,
    &[
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "spendkeeper_backend",
        "gen_ai_request_model",
        "gen_ai_response_model",
        "gen_ai_token_type",
    ],
    "Tokens of each call: input, of every kind, and output.",
);
const TOKENS: Declaration = declare(
    "spendkeeper_sidecar_tokens_total",
    Kind::Counter,
    &["gen_ai_provider_name", "spendkeeper_backend", "gen_ai_response_model", "meter"],
    "Tokens charged, by meter; each is in one of them.",
);
const COST: Declaration = declare(
    "spendkeeper_sidecar_cost_usd_total",
    Kind::Counter,
    &["gen_ai_provider_name", "spendkeeper_backend", "gen_ai_response_model"],
    "US dollars charged; the ledger has the exact figure.",
);
const REFUSALS: Declaration = declare("spendkeeper_sidecar_refusals_total", Kind::Counter, &["reason"], "Calls refused, by reason.");
const OVERRUNS: Declaration =
    declare("spendkeeper_sidecar_overruns_total", Kind::Counter, &[], "Calls that cost more than the worst case that was reserved.");
const UNLEASED: Declaration = declare(
    "spendkeeper_sidecar_calls_without_lease_total",
    Kind::Counter,
    &[],
    "Calls let through because the ledger could not be reached and every budget fails open; they are charged afterwards.",
);
const LEASE_REQUESTS: Declaration =
    declare("spendkeeper_sidecar_lease_requests_total", Kind::Counter, &["answer"], "Requests for leases, by answer.");
const CALLS_OPEN: Declaration = declare("spendkeeper_sidecar_calls_open", Kind::Gauge, &[], "Calls on their way.");
const BACKLOG: Declaration =
    declare("spendkeeper_sidecar_journal_backlog_bytes", Kind::Gauge, &[], "Bytes of the journal that are not reported.");
const LEASES_HELD: Declaration =
    declare("spendkeeper_sidecar_leases_held_usd", Kind::Gauge, &[], "US dollars in leases: reserved by calls, or free.");
const GENERATION: Declaration = declare("spendkeeper_sidecar_policy_generation", Kind::Gauge, &[], "Generation of the policy in force.");
const SHARED_BYTES: Declaration =
    declare("spendkeeper_sidecar_shared_bytes_total", Kind::Counter, &[], "Bytes of calls to shared services, both ways.");

const UNMETERED: Declaration = declare(
    "spendkeeper_sidecar_unmetered_requests_total",
    Kind::Counter,
    &["spendkeeper_backend", "charge"],
    "Requests passed on to a provider that are no model calls, by whether what they were charged is known.",
);

const SPANS_EXPORTED: Declaration =
    declare("spendkeeper_sidecar_spans_exported_total", Kind::Counter, &[], "Spans that the OpenTelemetry collector has taken.");
const SPANS_DROPPED: Declaration = declare(
    "spendkeeper_sidecar_spans_dropped_total",
    Kind::Counter,
    &["reason"],
    "Spans that no collector got: queue_full, undelivered after several tries, or rejected.",
);

/// Every metric of a sidecar.
pub const DECLARATIONS: [Declaration; 17] = [
    DURATION,
    FIRST_BYTE,
    TOKEN_USAGE,
    TOKENS,
    COST,
    REFUSALS,
    OVERRUNS,
    UNLEASED,
    LEASE_REQUESTS,
    CALLS_OPEN,
    BACKLOG,
    LEASES_HELD,
    GENERATION,
    SHARED_BYTES,
    UNMETERED,
    SPANS_EXPORTED,
    SPANS_DROPPED,
];

/// Seconds, as the conventions have it, and on to minutes.
const DURATIONS: [f64; 16] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68];
/// Tokens, as the conventions have it.
const TOKEN_COUNTS: [f64; 14] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

/// The metrics, registered.
pub struct Metrics {
    registry: Registry,
    duration: HistogramVec,
    first_byte: HistogramVec,
    token_usage: HistogramVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    pub refusals: IntCounterVec,
    pub overruns: IntCounter,
    pub unleased: IntCounter,
    pub lease_requests: IntCounterVec,
    pub calls_open: IntGauge,
    pub journal_backlog: IntGauge,
    pub lease_held: Gauge,
    pub policy_generation: IntGauge,
    shared_bytes: Counter,
    unmetered: IntCounterVec,
    pub spans_exported: IntCounter,
    pub spans_dropped: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counters = |of: Declaration| register(&registry, IntCounterVec::new(Opts::new(of.name, of.help), of.labels));
        let gauge = |of: Declaration| register(&registry, IntGauge::new(of.name, of.help));
        let histogram = |of: Declaration, buckets: &[f64]| {
            let options = HistogramOpts::new(of.name, of.help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(options, of.labels))
        };
        Metrics {
            duration: histogram(DURATION, &DURATIONS),
            first_byte: histogram(FIRST_BYTE, &DURATIONS),
            token_usage: histogram(TOKEN_USAGE, &TOKEN_COUNTS),
            tokens: counters(TOKENS),
            cost: register(&registry, CounterVec::new(Opts::new(COST.name, COST.help), COST.labels)),
            refusals: counters(REFUSALS),
            overruns: register(&registry, IntCounter::new(OVERRUNS.name, OVERRUNS.help)),
            unleased: register(&registry, IntCounter::new(UNLEASED.name, UNLEASED.help)),
            lease_requests: counters(LEASE_REQUESTS),
            calls_open: gauge(CALLS_OPEN),
            journal_backlog: gauge(BACKLOG),
            lease_held: register(&registry, Gauge::new(LEASES_HELD.name, LEASES_HELD.help)),
            policy_generation: gauge(GENERATION),
            shared_bytes: register(&registry, Counter::new(SHARED_BYTES.name, SHARED_BYTES.help)),
            unmetered: counters(UNMETERED),
            spans_exported: register(&registry, IntCounter::new(SPANS_EXPORTED.name, SPANS_EXPORTED.help)),
            spans_dropped: counters(SPANS_DROPPED),
            registry,
        }
    }

    /// A call has ended, whichever way; `tried` when it went to a model.
    pub fn call_ended(&self, record: &CallRecord, tried: Option<&Tried>) {
        let protocol = match record.kind {
            CallKind::Model { protocol } => protocol,
            CallKind::Shared => return self.shared_bytes.inc_by(record.bytes as f64),
            CallKind::Unmetered => {
                let charged = if record.unpriced { "unknown" } else { "known" };
                return self.unmetered.with_label_values(&[record.backend.as_ref(), charged]).inc();
            }
        };
        let Some(tried) = tried.filter(|_| record.outcome != CallOutcome::Refused) else { return };
        let (operation, provider) = (protocol.operation(), tried.provider.name());
        let (backend, model) = (record.backend.as_ref(), record.model.as_ref());
        // An alias or a model of the route: a name that no route offers never gets this far.
        let asked = record.requested_model.as_ref();
        let call = [operation, provider, backend, asked, model, record.outcome.name()];
        self.duration.with_label_values(&call).observe(record.duration_ms as f64 / 1e3);
        if let Some(ms) = record.time_to_first_byte_ms.filter(|_| tried.streamed) {
            self.first_byte.with_label_values(&call).observe(ms as f64 / 1e3);
        }
        let usage = record.usage;
        for (kind, tokens) in [("input", usage.total_input()), ("output", usage.total_output())].into_iter().filter(|(_, n)| *n > 0) {
            self.token_usage.with_label_values(&[operation, provider, backend, asked, model, kind]).observe(tokens as f64);
        }
        let meters = [
            ("input", usage.input),
            ("cached_read", usage.cached_read),
            ("cache_write", usage.cache_write + usage.cache_write_long),
            ("output", usage.output),
        ];
        for (meter, tokens) in meters.into_iter().filter(|(_, tokens)| *tokens > 0) {
            self.tokens.with_label_values(&[provider, backend, model, meter]).inc_by(tokens);
        }
        self.cost.with_label_values(&[provider, backend, model]).inc_by(usd(record.cost));
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// For people's graphs only: money is never computed with this.
pub fn usd(amount: PicoUsd) -> f64 {
    amount.0 as f64 / 1e12
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("the declarations have valid names and labels");
    registry.register(Box::new(collector.clone())).expect("each declaration has a name of its own");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_registered_once_and_rendered() {
        let metrics = Metrics::new();
        metrics.refusals.with_label_values(&["spendkeeper_budget_exceeded"]).inc();
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains("spendkeeper_sidecar_refusals_total{reason=\"spendkeeper_budget_exceeded\"} 1"), "{text}");
    }

    #[test]
    fn names_say_their_kind() {
        for of in DECLARATIONS {
            assert!(of.help.ends_with('.'), "{}", of.name);
            assert_eq!(of.name.ends_with("_total"), of.kind == Kind::Counter, "{}", of.name);
        }
    }
}
