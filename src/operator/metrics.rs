//! The operator's metrics, declared in one table: the reference in `docs/` is generated from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::api::common::Condition;
use crate::core::limit::LimitKey;
use crate::core::metric::{Declaration, Kind, declare};
use crate::core::policy::ResourceKey;

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
const LEADER: Declaration = declare(
    "spendkeeper_leader",
    Kind::Gauge,
    &[],
    "1 while this operator leads: reconciles, writes statuses and settles what pods that are gone have held. Else 0.",
);
const REPLICAS: Declaration = declare(
    "spendkeeper_replicas",
    Kind::Gauge,
    &[],
    "Operators that share this one's ledger, as far as it heard of them lately; itself included.",
);
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

const CONDITIONS: Declaration = declare(
    "spendkeeper_budget_condition",
    Kind::Gauge,
    &["namespace", "budget", "condition"],
    "1 while a condition of an AIBudget is true, else 0.",
);
const USED: Declaration = declare(
    "spendkeeper_limit_used_percent",
    Kind::Gauge,
    &["limit"],
    "Spent, in percent of the limit; of a split limit, its highest value.",
);
const FORECAST: Declaration = declare(
    "spendkeeper_limit_forecast_percent",
    Kind::Gauge,
    &["limit"],
    "Forecast for the window's end, in percent of the limit; of a split limit, its highest value.",
);
const BURN: Declaration = declare(
    "spendkeeper_limit_burn_rate_percent",
    Kind::Gauge,
    &["limit", "speed"],
    "How fast a limit is being spent, fast or slow: 100 uses it up exactly by the window's end. The lower of the speed's two looks back.",
);

/// Every metric of the operator.
pub const DECLARATIONS: [Declaration; 19] = [
    CALLS,
    COST,
    LEASES,
    REFUSALS,
    LEASE_SECONDS,
    SIDECARS,
    LEADER,
    REPLICAS,
    PUSHES,
    REJECTED,
    HOLDERS_GONE,
    UNKNOWN_CALLS,
    ADMISSIONS,
    CERTIFICATE,
    RECONCILES,
    CONDITIONS,
    USED,
    FORECAST,
    BURN,
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
    pub leader: IntGaugeVec,
    pub replicas: IntGaugeVec,
    pub pushes: IntCounterVec,
    pub rejected: IntCounterVec,
    pub holders_gone: IntCounterVec,
    pub unknown_calls: IntCounterVec,
    pub admissions: IntCounterVec,
    pub certificate: IntGaugeVec,
    pub reconciles: IntCounterVec,
    conditions: IntGaugeVec,
    used: IntGaugeVec,
    forecast: IntGaugeVec,
    burn: IntGaugeVec,
    /// Which gauges there are of each budget, so that they go with it.
    of_budgets: Mutex<HashMap<ResourceKey, Gauges>>,
}

/// Labels that gauges of one budget have.
#[derive(Default)]
struct Gauges {
    conditions: BTreeSet<String>,
    limits: BTreeSet<String>,
}

/// What is known of a limit: its key, and in percent what is spent, forecast and burning (fast, slow).
pub type LimitFigures<'a> = (&'a LimitKey, i64, Option<i64>, Option<[i64; 2]>);

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let counter = |of: Declaration| register(&registry, IntCounterVec::new(Opts::new(of.name, of.help), of.labels));
        let gauge = |of: Declaration| register(&registry, IntGaugeVec::new(Opts::new(of.name, of.help), of.labels));
        let timer = |of: Declaration| {
            let options = HistogramOpts::new(of.name, of.help).buckets(LEASE_BUCKETS.to_vec());
            register(&registry, HistogramVec::new(options, of.labels))
        };
        // A gauge that is absent until somebody connects cannot be alerted on.
        let known = |of: Declaration, value: i64| {
            let gauge = gauge(of);
            gauge.with_label_values::<&str>(&[]).set(value);
            gauge
        };
        Metrics {
            calls: counter(CALLS),
            cost: counter(COST),
            leases: counter(LEASES),
            refusals: counter(REFUSALS),
            lease_seconds: timer(LEASE_SECONDS),
            sidecars: known(SIDECARS, 0),
            leader: known(LEADER, 0),
            replicas: known(REPLICAS, 1),
            pushes: counter(PUSHES),
            rejected: counter(REJECTED),
            holders_gone: counter(HOLDERS_GONE),
            unknown_calls: counter(UNKNOWN_CALLS),
            admissions: counter(ADMISSIONS),
            certificate: gauge(CERTIFICATE),
            reconciles: counter(RECONCILES),
            conditions: gauge(CONDITIONS),
            used: gauge(USED),
            forecast: gauge(FORECAST),
            burn: gauge(BURN),
            of_budgets: Mutex::default(),
            registry,
        }
    }

    /// Says where a budget stands. A figure that is unknown has no gauge.
    pub fn budget<'a>(&self, key: &ResourceKey, conditions: &[Condition], figures: impl Iterator<Item = LimitFigures<'a>>) {
        // Of a split limit, the highest of its values.
        let mut limits: BTreeMap<&str, [Option<i64>; 4]> = BTreeMap::new();
        for (limit, used, forecast, burn) in figures {
            let highest = limits.entry(limit.base()).or_default();
            let [fast, slow] = burn.map_or([None; 2], |burn| burn.map(Some));
            highest.iter_mut().zip([Some(used), forecast, fast, slow]).for_each(|(highest, figure)| *highest = (*highest).max(figure));
        }
        let mut of_budgets = self.of_budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = of_budgets.entry(key.clone()).or_default();
        let conditions: BTreeMap<&str, bool> = conditions.iter().map(|c| (c.type_.as_str(), c.status == "True")).collect();
        for gone in known.conditions.iter().filter(|type_| !conditions.contains_key(type_.as_str())) {
            forget(&self.conditions, &[key.namespace(), key.name(), gone]);
        }
        for (type_, holds) in &conditions {
            self.conditions.with_label_values(&[key.namespace(), key.name(), type_]).set((*holds).into());
        }
        for gone in known.limits.iter().filter(|limit| !limits.contains_key(limit.as_str())) {
            self.set_limit(gone, [None; 4]);
        }
        for (limit, figures) in &limits {
            self.set_limit(limit, *figures);
        }
        known.conditions = conditions.into_keys().map(str::to_owned).collect();
        known.limits = limits.into_keys().map(str::to_owned).collect();
    }

    fn set_limit(&self, limit: &str, [used, forecast, fast, slow]: [Option<i64>; 4]) {
        set(&self.used, &[limit], used);
        set(&self.forecast, &[limit], forecast);
        set(&self.burn, &[limit, "fast"], fast);
        set(&self.burn, &[limit, "slow"], slow);
    }

    /// Forgets budgets that are not there any more.
    pub fn retain_budgets(&self, is_there: impl Fn(&ResourceKey) -> bool) {
        let gone = |key: &&ResourceKey| !is_there(key);
        let gone: Vec<ResourceKey> = self.of_budgets.lock().unwrap_or_else(PoisonError::into_inner).keys().filter(gone).cloned().collect();
        for key in gone {
            self.budget(&key, &[], std::iter::empty());
            self.of_budgets.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
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

fn set(gauge: &IntGaugeVec, labels: &[&str], figure: Option<i64>) {
    match figure {
        Some(figure) => gauge.with_label_values(labels).set(figure),
        None => forget(gauge, labels),
    }
}

fn forget(gauge: &IntGaugeVec, labels: &[&str]) {
    // An error means that there is no such gauge, which is what is wanted.
    let _ = gauge.remove_label_values(labels);
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
    fn gauges_of_a_budget_say_the_highest_of_its_values_and_go_with_it() {
        let metrics = Metrics::new();
        let key = ResourceKey::new("shop", "b");
        let split = |value: &str| LimitKey::new(&key, "total").with_split(value);
        let (a, b) = (split("a"), split("b"));
        metrics.budget(&key, &[], [(&a, 70, Some(90), None), (&b, 80, None, Some([5, 6]))].into_iter());
        let text = metrics.render();
        for line in ["used_percent{limit=\"shop/b/total\"} 80", "forecast_percent{limit=\"shop/b/total\"} 90", "speed=\"slow\"} 6"] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        metrics.retain_budgets(|_| true);
        assert!(metrics.render().contains("shop/b/total"));
        metrics.retain_budgets(|_| false);
        assert!(!metrics.render().contains("shop/b/total"), "{}", metrics.render());
    }

    #[test]
    fn names_say_their_unit_and_kind() {
        for of in DECLARATIONS {
            assert!(of.name.starts_with("spendkeeper_") && of.help.ends_with('.'), "{}", of.name);
            assert_eq!(of.name.ends_with("_total"), of.kind == Kind::Counter, "{}", of.name);
        }
    }
}
