//! Types that more than one kind uses: selectors, credentials, conditions and recommendations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::money::PicoUsd;

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
    /// ModelRoute: every backend answers.
    pub const BACKENDS_HEALTHY: &str = "BackendsHealthy";
    /// CostAllocation: allocated + idle + unallocated = cost, to the pico-dollar.
    pub const BALANCED: &str = "Balanced";
}

/// A change that Spendkeeper proposes, with the evidence for it. Nothing is changed before it is approved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// A stable hash of target and change: the same proposal keeps its id.
    pub id: String,
    /// What kind of change this is.
    pub kind: RecommendationKind,
    /// The object that the patch is for.
    pub target: TargetRef,
    /// One sentence for people.
    pub summary: String,
    /// The change, as a server-side-apply patch of the target in JSON.
    pub patch: String,
    /// Undoes `patch`: the target's own values at the time of the proposal, in JSON.
    pub revert: String,
    /// What the proposal was computed from; enough to compute it again.
    pub evidence: Evidence,
    /// What the change would save in a month of the evidence's traffic, US dollars.
    pub estimated_monthly_savings: PicoUsd,
    /// What could go wrong.
    pub risk: Risk,
    /// Where the proposal stands.
    pub state: RecommendationState,
    /// Who approved, rejected or rolled it back, as the API server authenticated them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When `state` last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition_time: Option<String>,
    /// What was seen after the change was applied, or why it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

/// Kinds of recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecommendationKind {
    /// Calls that need no more than a cheaper tier should go there.
    ModelTier,
    /// A workload requests more, or less, than it uses.
    WorkloadResources,
}

/// The object that a recommendation changes, in the same namespace as the resource that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// What a recommendation was computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Start of the observations (RFC 3339).
    pub from: String,
    /// End of the observations (RFC 3339).
    pub to: String,
    /// How long the history is, in seconds.
    pub window_seconds: i64,
    /// How many observations there are: calls, or samples of usage.
    pub samples: i64,
    /// Where the observations came from.
    pub source: String,
    /// The figures, by name.
    pub figures: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    Low,
    Medium,
    High,
}

/// Where a recommendation stands.
///
/// ```text
///   Proposed ──▶ Approved ──▶ Applied ──▶ Verified ──▶ RolledBack (by request)
///      │  │          │           └──────▶ RolledBack (by request, or on a regression)
///      │  │          └──▶ Expired (the target is no longer what the evidence describes)
///      │  └──▶ Rejected
///      └──▶ Expired
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecommendationState {
    Proposed,
    Approved,
    Rejected,
    Expired,
    Applied,
    Verified,
    RolledBack,
}
