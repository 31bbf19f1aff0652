//! Types that more than one kind uses: selectors, credentials, conditions and recommendations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::core::recommend::{Evidence, Recommendation, RecommendationKind, RecommendationState, Risk, TargetRef};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// Which pods a resource is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels of the pods. Absent selects every pod with a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<LabelSelector>,
    /// Labels of the namespaces whose pods are selected. Only a resource in the operator's own namespace may set this;
    /// elsewhere a resource sees its own namespace alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
}

/// Types of the conditions that the kinds report; `Ready` is what `kubectl wait` and kstatus look at.
pub mod condition {
    /// The resource is valid and in force.
    pub const READY: &str = "Ready";
    /// AIBudget: a limit has too little left for calls that were made, so calls are refused.
    pub const EXHAUSTED: &str = "Exhausted";
    /// AIBudget: an alert's threshold is crossed.
    pub const ALERTING: &str = "Alerting";
    /// AIBudget: somebody spends many times what it usually does, or brings no outcomes any more; only with `spec.runaway`.
    pub const RUNAWAY: &str = "Runaway";
    /// AIBudget: sidecars reach the ledger, so that the budget is kept by it and not by `onLedgerUnavailable`.
    pub const LEDGER_AVAILABLE: &str = "LedgerAvailable";
    /// ModelRoute: every backend answers.
    pub const BACKENDS_HEALTHY: &str = "BackendsHealthy";
    /// CostAllocation: allocated + idle + unallocated = cost, to the pico-dollar.
    pub const BALANCED: &str = "Balanced";
}
