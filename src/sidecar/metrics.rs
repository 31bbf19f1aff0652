//! The sidecar's metrics: names after OpenTelemetry's conventions for generative AI where there is one. Labels come from
//! the policy, never from a caller's text, so their number is bounded; none holds a credential.

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::money::PicoUsd;

/// Seconds; a model's answer takes from tens of milliseconds to minutes.
const DURATIONS: [f64; 13] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Every metric of a sidecar.
pub struct Metrics {
    registry: Registry,
    duration: HistogramVec,
    first_byte: HistogramVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    pub refusals: IntCounterVec,
    pub overruns: IntCounter,
    pub lease_requests: IntCounterVec,
    pub calls_open: IntGauge,
    pub journal_backlog: IntGauge,
    pub lease_held: Gauge,
    pub policy_generation: IntGauge,
    shared_bytes: Counter,
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let with_labels =
            |name: &str, help: &str, labels: &[&str]| registered(&registry, IntCounterVec::new(Opts::new(name, help), labels));
        let call = ["gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model", "outcome"];
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(DURATIONS.to_vec());
            registered(&registry, HistogramVec::new(options, &call))
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        Metrics {
            duration: histogram("gen_ai_client_operation_duration_seconds", "From the request's arrival to the answer's last byte."),
            first_byte: histogram("gen_ai_server_time_to_first_token_seconds", "From the request's arrival to the answer's first byte."),
            tokens: with_labels(
                "gen_ai_client_token_usage_total",
                "Tokens charged, by meter.",
                &["gen_ai_provider_name", "gen_ai_response_model", "gen_ai_token_type"],
            ),
            cost: registered(
                &registry,
                CounterVec::new(
                    Opts::new("spendkeeper_sidecar_cost_usd_total", "US dollars charged; the ledger has the exact figure."),
                    &["gen_ai_provider_name", "gen_ai_response_model"],
                ),
            ),
            refusals: with_labels("spendkeeper_sidecar_refusals_total", "Calls refused, by reason.", &["reason"]),
            overruns: registered(
                &registry,
                IntCounter::new("spendkeeper_sidecar_overruns_total", "Calls that cost more than the worst case that was reserved."),
            ),
            lease_requests: with_labels("spendkeeper_sidecar_lease_requests_total", "Requests for leases, by answer.", &["answer"]),
            calls_open: gauge("spendkeeper_sidecar_calls_open", "Calls on their way."),
            journal_backlog: gauge("spendkeeper_sidecar_journal_backlog_bytes", "Bytes of the journal that are not reported."),
            lease_held: registered(
                &registry,
                Gauge::new("spendkeeper_sidecar_leases_held_usd", "US dollars in leases: reserved by calls, or free."),
            ),
            policy_generation: gauge("spendkeeper_sidecar_policy_generation", "Generation of the policy in force."),
            shared_bytes: registered(
                &registry,
                Counter::new("spendkeeper_sidecar_shared_bytes_total", "Bytes of calls to shared services, both ways."),
            ),
            registry,
        }
    }

    /// A call has ended, whichever way.
    pub fn call_ended(&self, record: &CallRecord) {
        let CallKind::Model { .. } = record.kind else {
            self.shared_bytes.inc_by(record.bytes as f64);
            return;
        };
        if record.outcome == CallOutcome::Refused {
            return;
        }
        let (backend, model) = (record.backend.as_str(), record.model.as_str());
        // An alias or a model of the route: a name that no route offers never gets this far.
        let call = [backend, record.requested_model.as_str(), model, record.outcome.name()];
        self.duration.with_label_values(&call).observe(record.duration_ms as f64 / 1e3);
        if let Some(ms) = record.time_to_first_byte_ms {
            self.first_byte.with_label_values(&call).observe(ms as f64 / 1e3);
        }
        let usage = record.usage;
        let meters = [
            ("input", usage.input),
            ("cached_read", usage.cached_read),
            ("cache_write", usage.cache_write + usage.cache_write_long),
            ("output", usage.output),
        ];
        for (meter, tokens) in meters.into_iter().filter(|(_, tokens)| *tokens > 0) {
            self.tokens.with_label_values(&[backend, model, meter]).inc_by(tokens);
        }
        self.cost.with_label_values(&[backend, model]).inc_by(usd(record.cost));
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

fn registered<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let metric = made.expect("names and labels are constants of the right form");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
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
}
