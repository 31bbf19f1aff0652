//! ModelRoute: which models may answer, and how one is chosen.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, Recommendation, WorkloadSelector};
use crate::core::money::PicoUsd;
use crate::core::policy::{Capability, Detector, OtherRequests, Provider, RouteMode, Tier};
use crate::core::tariff::ServiceTier;

/// Which models may answer the calls of the selected pods, and how one is chosen: the cheapest that is capable, allowed
/// for what the call contains, and healthy; never a more expensive tier than the one asked for.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "spendkeeper.dev",
    version = "v1alpha1",
    kind = "ModelRoute",
    namespaced,
    status = "ModelRouteStatus",
    shortname = "mr",
    category = "spendkeeper",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.policy.mode"}"#,
    printcolumn = r#"{"name":"Backends","type":"integer","jsonPath":".status.backendCount"}"#,
    printcolumn = r#"{"name":"Calls","type":"integer","jsonPath":".status.calls"}"#,
    printcolumn = r#"{"name":"Cost","type":"string","jsonPath":".status.cost"}"#,
    printcolumn = r#"{"name":"Frontier%","type":"integer","jsonPath":".status.frontierPercent"}"#,
    printcolumn = r#"{"name":"Needed%","type":"integer","jsonPath":".status.frontierNeededPercent"}"#,
    printcolumn = r#"{"name":"Savings/Month","type":"string","jsonPath":".status.proposedMonthlySavings"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.backends.all(b, self.backends.exists_one(o, o.name == b.name))").message("backends: two backends have the same name; give each its own"))]
pub struct ModelRouteSpec {
    /// The pods whose calls take this route. Absent: every pod of this namespace that has a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    /// Who may answer.
    #[schemars(length(min = 1, max = 32))]
    pub backends: Vec<RouteBackend>,
    /// How a model is chosen.
    #[serde(default)]
    pub policy: RoutePolicy,
    /// Virtual model names that apps may ask for, such as `auto`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub aliases: Vec<ModelAlias>,
    /// What happens when a backend answers 429 or 5xx, or not at all.
    #[serde(default)]
    pub fallback: RouteFallback,
}

/// Who may answer: an endpoint, its credential and its models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.models.all(m, self.models.exists_one(o, o.name == m.name))").message("models: a model is listed twice"))]
pub struct RouteBackend {
    /// Unique in this route; the `provider` that is recorded with each call.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
    /// What kind of service it is: `OpenAI` (also vLLM and others that are compatible), `AzureOpenAI`, `Anthropic`, `Gemini`,
    /// `VertexAI`, `Bedrock` or `Ollama`.
    pub provider: Provider,
    /// Base URL without the provider's own path, for example `https://api.openai.com`.
    #[schemars(length(max = 2048), regex(pattern = "^https?://[^/?#]+(/[^?#]*)?$"))]
    pub endpoint: String,
    /// The Secret (in this namespace) that holds the API key. It reaches the sidecar's memory only. Absent: the app's
    /// own key is passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretKeyRef>,
    /// The service tier of calls that ask for none, where the provider's project sets it. Absent: not known, so that such calls
    /// reserve the dearest tier's price; they are charged by the tier that the provider names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<ServiceTier>,
    /// Its models.
    #[schemars(length(min = 1, max = 64))]
    pub models: Vec<BackendModel>,
}

/// A key of a Secret in the resource's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key within it.
    #[serde(default = "default_secret_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_secret_key() -> String {
    "api-key".to_owned()
}

/// A model of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendModel {
    /// The name that is sent to the provider.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The name under which price lists have it, where that differs: of an Azure deployment, or a Bedrock inference profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub base_model: Option<String>,
    /// Its class: `economy`, `standard` or `frontier`.
    pub tier: Tier,
    /// What it can do beyond text; a call that needs more is never sent to it in place of the model that it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub capabilities: Vec<Capability>,
    /// Tokens that fit, input and output together. Absent: the price catalogue's figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub context_window: Option<i64>,
    /// The most output tokens of one call. Absent: the price catalogue's figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_output: Option<i64>,
    /// Where its data is processed, for example `eu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub residency: Option<String>,
    /// Your own price, in place of the catalogue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceOverride>,
}

/// A price per million tokens, US dollars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriceOverride {
    /// Input tokens.
    pub input: PicoUsd,
    /// Output tokens.
    pub output: PicoUsd,
    /// Input tokens read from the provider's cache. Absent: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_read: Option<PicoUsd>,
    /// Input tokens written to the provider's cache. Absent: as `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<PicoUsd>,
    /// Input tokens written to the provider's cache for longer than it keeps them by default (Anthropic: an hour). Absent: as
    /// `cacheWrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_long: Option<PicoUsd>,
}

/// How a model is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutePolicy {
    /// `Observe` leaves calls with the model they ask for (rules and aliases apart) and records what each needed;
    /// `Route` sends each to the cheapest model that can do it.
    #[serde(default)]
    pub mode: RouteMode,
    /// Complexity scores (0 to 100) from which a call needs a tier.
    #[serde(default)]
    pub complexity: ComplexityPolicy,
    /// The highest tier for calls of certain dimensions; the first that matches holds. Approving a `ModelTier`
    /// recommendation adds one here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub rules: Vec<RouteRule>,
    /// Requests that are no calls to a model (files, batches …): `Pass` sends them to the first backend whose provider has such
    /// paths, with its credential, so that apps can do with it what that credential may; `Refuse` does not.
    #[serde(default)]
    pub other_requests: OtherRequests,
    /// Where calls with sensitive content may go; of several that match, all must allow a backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub sensitivity: Vec<SensitivityPolicy>,
}

/// Complexity scores from which a call needs a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.standard <= self.frontier").message("`standard` must not be above `frontier`"))]
pub struct ComplexityPolicy {
    /// From this score a call needs the standard tier.
    #[serde(default = "default_standard")]
    #[schemars(range(min = 0, max = 100))]
    pub standard: i32,
    /// From this score a call needs the frontier tier.
    #[serde(default = "default_frontier")]
    #[schemars(range(min = 0, max = 100))]
    pub frontier: i32,
}

fn default_standard() -> i32 {
    35
}
fn default_frontier() -> i32 {
    65
}

impl Default for ComplexityPolicy {
    fn default() -> ComplexityPolicy {
        ComplexityPolicy { standard: default_standard(), frontier: default_frontier() }
    }
}

/// The highest tier for calls of certain dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// Unique in this route.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Features that match; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Teams that match; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
    /// The highest tier that matching calls may use.
    pub max_tier: Tier,
    /// Leave a call alone whose complexity asks for a higher tier than `maxTier`.
    #[serde(default = "yes")]
    pub only_if_sufficient: bool,
}

fn yes() -> bool {
    true
}

/// Calls that contain what a detector finds go only to these backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SensitivityPolicy {
    /// What to look for, by form and checksum; names and addresses cannot be found this way.
    #[schemars(length(min = 1, max = 16))]
    pub detectors: Vec<Detector>,
    /// Names of the backends that may answer; empty refuses the call.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub backends: Vec<String>,
}

/// A virtual model name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelAlias {
    /// The name that apps ask for, such as `auto`.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The highest tier that it stands for; the cheapest capable model up to there answers.
    #[serde(default = "frontier")]
    pub max_tier: Tier,
}

fn frontier() -> Tier {
    Tier::Frontier
}

/// What happens when a backend answers 429 or 5xx, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteFallback {
    /// How many further models are tried, before the first byte of an answer.
    #[serde(default)]
    #[schemars(range(min = 0, max = 5))]
    pub attempts: i32,
}

/// What a route does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `BackendsHealthy`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of backends.
    #[serde(default)]
    pub backend_count: i64,
    /// Start of the time that the figures below are about (RFC 3339): the last 30 days, or what there is of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Calls answered.
    #[serde(default)]
    pub calls: i64,
    /// What they cost, US dollars (`$` in front).
    #[serde(default)]
    pub cost: String,
    /// Calls and cost by tier.
    #[serde(default)]
    pub tiers: Vec<TierStatus>,
    /// Percent of calls that went to frontier models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier_percent: Option<i64>,
    /// Percent of those that needed one, by their complexity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier_needed_percent: Option<i64>,
    /// What the open recommendations would save in a month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed_monthly_savings: Option<String>,
    /// Each backend as its callers found it.
    #[serde(default)]
    pub backends: Vec<BackendStatus>,
    /// Changes that Spendkeeper proposes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<Recommendation>,
}

/// Calls and cost of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    /// The tier.
    pub tier: Tier,
    /// Calls answered.
    pub calls: i64,
    /// US dollars, exact.
    pub cost: PicoUsd,
    /// Percent of the route's calls.
    pub percent: i64,
}

/// A backend as its callers found it, over the last five minutes of calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The backend's name.
    pub name: String,
    /// False when more than half of the recent calls failed.
    pub healthy: bool,
    /// Recent calls.
    pub calls: i64,
    /// Recent calls that failed.
    pub failed: i64,
    /// Mean time to the end of an answer, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_latency_ms: Option<i64>,
}
