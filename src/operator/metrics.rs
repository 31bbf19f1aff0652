//! The operator's metrics, declared in one table: the reference in `docs/` is generated from it.

use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::core::metric::{Declaration, Kind, declare};

const CALLS: Declaration =
    declare("spendkeeper_calls_total", Kind::Counter, &["namespace", "workload", "model", "outcome"], "Calls that sidecars reported.");
const COST: Declaration = declare(
    "spendkeeper_cost_micro_usd_total",
    Kind::Counter,
    &["namespace", "workload", "model"],
    "Cost of reported calls in millionths of a dollar, each call rounded down; the ledger's own figures are exact.",
);
const LEASES: Declaration = declare(
    "spendkeeper_lease_requests_total",
    Kind::Counter,
    &["decision"],
    "Lease requests by what became of them: granted, refused, expired, failed.",
);
const REFUSALS: Declaration = declare(
    "spendkeeper_limit_refusals_total",
    Kind::Counter,
    &["limit"],
    "Lease requests that a limit refused; split limits count as one.",
);
const LEASE_SECONDS: Declaration =
    declare("spendkeeper_lease_request_seconds", Kind::Histogram, &[], "Time from a lease request's arrival to its durable answer.");
const SIDECARS: Declaration =
    declare("spendkeeper_connected_sidecars", Kind::Gauge, &[], "Sidecars that have their policy from this operator.");
const PUSHES: Declaration =
    declare("spendkeeper_pushes_total", Kind::Counter, &["content"], "Messages pushed to sidecars: policy or recall.");
const REJECTED: Declaration =
    declare("spendkeeper_channel_rejections_total", Kind::Counter, &["reason"], "Requests on the control channel that were turned away.");
const HOLDERS_GONE: Declaration =
    declare("spendkeeper_holders_gone_total", Kind::Counter, &[], "Pods that ended and whose leases were reconciled.");
const UNKNOWN_CALLS: Declaration = declare(
    "spendkeeper_unknown_calls_total",
    Kind::Counter,
    &[],
    "Calls that were charged as reserved because their pod ended before it said what they cost.",
);
const ADMISSIONS: Declaration = declare(
    "spendkeeper_admissions_total",
    Kind::Counter,
    &["webhook", "result"],
    "Admission reviews by webhook and result: allowed or denied.",
);
const CERTIFICATE: Declaration = declare(
    "spendkeeper_certificate_expiry_seconds",
    Kind::Gauge,
    &["certificate"],
    "When a certificate expires, Unix seconds: ca or serving.",
);
const RECONCILES: Declaration =
    declare("spendkeeper_reconciles_total", Kind::Counter, &["kind", "result"], "Reconciliations by kind and result: ok or error.");

/// Every metric of the operator.
pub const DECLARATIONS: [Declaration; 13] = [
    CALLS,
    COST,
    LEASES,
    REFUSALS,
    LEASE_SECONDS,
    SIDECARS,
    PUSHES,
    REJECTED,
    HOLDERS_GONE,
    UNKNOWN_CALLS,
    ADMISSIONS,
    CERTIFICATE,
    RECONCILES,
];

/// Upper bounds of [`LEASE_SECONDS`]'s buckets: from a commit to memory to one on a slow disk.
const LEASE_BUCKETS: [f64; 9] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

/// The metrics, registered.
pub struct Metrics {
    registry: Registry,
    pub calls: IntCounterVec,
    pub cost: IntCounterVec,
    pub leases: IntCounterVec,
    pub refusals: IntCounterVec,
    pub lease_seconds: HistogramVec,
    pub sidecars: IntGaugeVec,
    pub pushes: IntCounterVec,
    pub rejected: IntCounterVec,
    pub holders_gone: IntCounterVec,
    pub unknown_calls: IntCounterVec,
    pub admissions: IntCounterVec,
    pub certificate: IntGaugeVec,
    pub reconciles: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |of: Declaration| register(&registry, IntCounterVec::new(Opts::new(of.name, of.help), of.labels));
        let gauge = |of: Declaration| register(&registry, IntGaugeVec::new(Opts::new(of.name, of.help), of.labels));
        let timer = |of: Declaration| {
            let options = HistogramOpts::new(of.name, of.help).buckets(LEASE_BUCKETS.to_vec());
            register(&registry, HistogramVec::new(options, of.labels))
        };
        let sidecars = gauge(SIDECARS);
        // A gauge that is absent until somebody connects cannot be alerted on.
        sidecars.with_label_values::<&str>(&[]).set(0);
        Metrics {
            calls: counter(CALLS),
            cost: counter(COST),
            leases: counter(LEASES),
            refusals: counter(REFUSALS),
            lease_seconds: timer(LEASE_SECONDS),
            sidecars,
            pushes: counter(PUSHES),
            rejected: counter(REJECTED),
            holders_gone: counter(HOLDERS_GONE),
            unknown_calls: counter(UNKNOWN_CALLS),
            admissions: counter(ADMISSIONS),
            certificate: gauge(CERTIFICATE),
            reconciles: counter(RECONCILES),
            registry,
        }
    }

    /// The metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# the metrics cannot be rendered: {error}\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
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
    fn every_declared_metric_can_be_scraped() {
        let metrics = Metrics::new();
        metrics.calls.with_label_values(&["a", "b", "c", "d"]).inc();
        metrics.sidecars.with_label_values::<&str>(&[]).set(3);
        metrics.lease_seconds.with_label_values::<&str>(&[]).observe(0.002);
        let text = metrics.render();
        assert!(text.contains("spendkeeper_connected_sidecars 3"), "{text}");
        assert!(text.contains(r#"spendkeeper_calls_total{model="c",namespace="a",outcome="d",workload="b"} 1"#), "{text}");
    }

    #[test]
    fn names_say_their_unit_and_kind() {
        for of in DECLARATIONS {
            assert!(of.name.starts_with("spendkeeper_") && of.help.ends_with('.'), "{}", of.name);
            assert_eq!(of.name.ends_with("_total"), of.kind == Kind::Counter, "{}", of.name);
        }
    }
}
