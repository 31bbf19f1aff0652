//! CostAllocation: whose cost it is, and what it bought.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, Recommendation, WorkloadSelector};
use crate::core::money::PicoUsd;

pub use crate::core::allocate::{CostDriver, IdlePolicy};

/// Whose cost the selected calls are, who bears what share of the infrastructure they use together, what one outcome
/// costs, and which workloads are the wrong size. Allocated + idle + unallocated = cost, to the pico-dollar.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "spendkeeper.dev",
    version = "v1alpha1",
    kind = "CostAllocation",
    namespaced,
    status = "CostAllocationStatus",
    shortname = "ca",
    category = "spendkeeper",
    printcolumn = r#"{"name":"Period","type":"string","jsonPath":".status.period"}"#,
    printcolumn = r#"{"name":"Owners","type":"integer","jsonPath":".status.ownerCount"}"#,
    printcolumn = r#"{"name":"Cost","type":"string","jsonPath":".status.displayTotal"}"#,
    printcolumn = r#"{"name":"Shared","type":"string","jsonPath":".status.displayShared"}"#,
    printcolumn = r#"{"name":"Unallocated","type":"string","jsonPath":".status.displayUnallocated"}"#,
    printcolumn = r#"{"name":"Outcome","type":"string","jsonPath":".status.outcomes[0].name"}"#,
    printcolumn = r#"{"name":"Cost/Outcome","type":"string","jsonPath":".status.outcomes[0].displayCostPerOutcome"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.owners.all(o, self.owners.exists_one(p, p.name == o.name))").message("owners: two owners have the same name; put both rules into one expression with ||"))]
#[x_kube(validation = Rule::new("!has(self.sharedCosts) || self.sharedCosts.all(c, self.sharedCosts.exists_one(d, d.name == c.name))").message("sharedCosts: two shared costs have the same name; give each its own"))]
pub struct CostAllocationSpec {
    /// The pods whose calls are allocated. Absent: every pod of this namespace that has a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    /// The period that is allocated, and its time zone.
    #[serde(default)]
    pub period: AllocationPeriod,
    /// IANA time zone of the period, for example `Europe/Zurich`.
    #[serde(default = "utc")]
    #[schemars(length(max = 64))]
    pub time_zone: String,
    /// Who calls belong to, in order: the first rule that holds decides. They are applied to all recorded calls of the
    /// period each time, so a new rule also changes the past; nobody re-tags.
    #[schemars(length(min = 1, max = 256))]
    pub owners: Vec<OwnerRule>,
    /// Costs that owners share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub shared_costs: Vec<SharedCost>,
    /// What the money bought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub outcomes: Vec<OutcomeSpec>,
    /// Workloads whose CPU and memory requests are compared with what they use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub right_sizing: Vec<RightSizing>,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// The period that is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllocationPeriod {
    Day,
    Week,
    #[default]
    Month,
}

/// Who calls belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerRule {
    /// The owner's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A CEL expression over `call`, for example `call.team == 'support' || call.namespace == 'helpdesk'`. Fields:
    /// `feature`, `team`, `process`, `agent`, `session`, `namespace`, `workload`, `model`, `backend`, `tier`.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 2048))]
    pub cel: String,
}

/// A cost that owners share by what they use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.capacity) || has(self.idle)").message("with `capacity`, say in `idle` what happens to its unused part: Keep or Distribute"))]
pub struct SharedCost {
    /// Unique in this allocation. Pods reach `endpoint` through their sidecar at `http://127.0.0.1:15400/shared/<name>`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// US dollars for one period of this allocation (one month, if the period is `Month`).
    pub usd_per_period: PicoUsd,
    /// What the cost is divided by.
    pub driver: CostDriver,
    /// The shared service. With it, `Calls` and `Bytes` are those that went to it through the sidecars; without it, model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = "^https?://[^/?#]+(/[^?#]*)?$"))]
    pub endpoint: Option<String>,
    /// What the service could have served in the period, in the driver's unit. The share that nobody used is idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub capacity: Option<i64>,
    /// What happens to the idle share: `Keep` shows it as idle, `Distribute` divides it like the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdlePolicy>,
}

/// Something that the money bought, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeSpec {
    /// Name of the outcome, for example `resolved-ticket`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The owner whose cost, direct and shared, is divided by the number of outcomes.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// A Prometheus counter of the app whose growth counts outcomes; the sidecar reads it on loopback. Absent: apps
    /// report outcomes to the sidecar (`POST /spend/v1/outcomes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<OutcomeMetricSpec>,
}

/// A counter in the app's own metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeMetricSpec {
    /// The pods that have it. Absent: every pod that the allocation selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    /// Name of the counter; all its series are summed.
    #[schemars(length(min = 1, max = 200), regex(pattern = "^[a-zA-Z_:][a-zA-Z0-9_:]*$"))]
    pub name: String,
    /// Port of the metrics page.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Path of the metrics page.
    #[serde(default = "metrics_path")]
    #[schemars(length(max = 256), regex(pattern = "^/"))]
    pub path: String,
}

fn metrics_path() -> String {
    "/metrics".to_owned()
}

/// A workload whose requests are compared with what it uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RightSizing {
    /// Name of a Deployment in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub deployment: String,
    /// Name of the container that is sized.
    #[schemars(length(min = 1, max = 63))]
    pub container: String,
    /// The percentile of CPU use that the request must cover.
    #[serde(default = "p99")]
    #[schemars(range(min = 50, max = 100))]
    pub percentile: i32,
    /// Percent added on top.
    #[serde(default = "headroom")]
    #[schemars(range(min = 0, max = 500))]
    pub headroom_percent: i32,
    /// The shortest history that a proposal may rest on, in seconds; proposals say how long theirs is.
    #[serde(default = "min_history")]
    #[schemars(range(min = 30))]
    pub min_history_seconds: i64,
}

fn p99() -> i32 {
    99
}
fn headroom() -> i32 {
    15
}
fn min_history() -> i64 {
    86_400
}

/// Whose cost it was, in the current period.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CostAllocationStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Balanced`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The period in words: `Month from 2026-11-01 (UTC)`.
    #[serde(default)]
    pub period: String,
    /// Start of the period (RFC 3339).
    #[serde(default)]
    pub period_start: String,
    /// End of the period (RFC 3339).
    #[serde(default)]
    pub period_end: String,
    /// Number of owners.
    #[serde(default)]
    pub owner_count: i64,
    /// Everything: model calls and shared costs, exact.
    #[serde(default)]
    pub total: PicoUsd,
    /// Cost that no owner's rule claims, exact.
    #[serde(default)]
    pub unallocated: PicoUsd,
    /// Shared cost that nobody used and that is kept as idle, exact.
    #[serde(default)]
    pub idle: PicoUsd,
    /// `total`, for columns.
    #[serde(default)]
    pub display_total: String,
    /// All shared costs, for columns.
    #[serde(default)]
    pub display_shared: String,
    /// `unallocated`, for columns.
    #[serde(default)]
    pub display_unallocated: String,
    /// Each owner's cost.
    #[serde(default)]
    pub owners: Vec<OwnerStatus>,
    /// How each shared cost was divided.
    #[serde(default)]
    pub shared_costs: Vec<SharedCostStatus>,
    /// What one outcome cost.
    #[serde(default)]
    pub outcomes: Vec<OutcomeStatus>,
    /// What each workload uses.
    #[serde(default)]
    pub right_sizing: Vec<RightSizingStatus>,
    /// Changes that Spendkeeper proposes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<Recommendation>,
}

/// An owner's cost; exact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnerStatus {
    /// The owner's name.
    pub name: String,
    /// Model calls answered.
    pub calls: i64,
    /// Tokens of those.
    pub tokens: i64,
    /// Cost of the owner's model calls.
    pub direct: PicoUsd,
    /// Its share of the shared costs.
    pub shared: PicoUsd,
    /// Both.
    pub total: PicoUsd,
}

/// How a shared cost was divided; the shares, `idle` and `unallocated` add up to `cost` exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedCostStatus {
    /// Name of the shared cost.
    pub name: String,
    /// The cost of the period, exact.
    pub cost: PicoUsd,
    /// What it was divided by.
    pub driver: CostDriver,
    /// Each owner's share.
    pub shares: Vec<ShareStatus>,
    /// The part of the capacity that nobody used and that is kept as idle, exact.
    pub idle: PicoUsd,
    /// Used by callers whom no owner's rule claims, or by nobody at all.
    pub unallocated: PicoUsd,
}

/// An owner's share of a shared cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShareStatus {
    /// The owner's name.
    pub owner: String,
    /// In the driver's unit (for `Cost`, pico-dollars), as a whole number.
    pub usage: String,
    /// The owner's part of the cost, exact.
    pub cost: PicoUsd,
}

/// What one outcome cost: `cost = count × costPerOutcome + remainder`, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeStatus {
    /// Name of the outcome.
    pub name: String,
    /// The owner whose cost is divided.
    pub owner: String,
    /// Outcomes in the period.
    pub count: i64,
    /// The owner's cost, direct and shared.
    pub cost: PicoUsd,
    /// Absent while there are no outcomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_outcome: Option<PicoUsd>,
    /// What the division leaves over: less than one pico-dollar for each outcome.
    #[serde(default)]
    pub remainder: PicoUsd,
    /// `costPerOutcome`, for columns.
    #[serde(default)]
    pub display_cost_per_outcome: String,
}

/// What a workload uses, measured by the kubelet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RightSizingStatus {
    /// Name of the Deployment.
    pub deployment: String,
    /// Name of the container.
    pub container: String,
    /// How long the history is, in seconds.
    pub history_seconds: i64,
    /// Samples in it.
    pub samples: i64,
    /// CPU request now, millicores; absent when none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request_millicores: Option<i64>,
    /// Memory request now, MiB; absent when none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_request_mib: Option<i64>,
    /// The percentile of CPU use, millicores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percentile_millicores: Option<i64>,
    /// The most memory in use (working set), MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_mib: Option<i64>,
    /// Why there is no proposal (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
