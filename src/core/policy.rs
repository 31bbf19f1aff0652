//! What a sidecar is told: budgets, routes and prices, parsed and right by construction.
//!
//! The Kubernetes kinds (`api`) and the laptop's file are parsed into these types once, at the edge. They are also what
//! the control channel carries, as JSON: a field that an older peer does not know is ignored, one that it does not
//! send has a default, so that a sidecar and an operator one release apart understand each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::amount::Unit;
use super::dimensions::{Dimension, DimensionPolicy, Origin};
use super::price::ModelPrice;
pub use super::protocol::{Protocol, Provider};
use super::runaway::Runaway;
use super::tariff::ServiceTier;

/// Everything that one pod's sidecar needs, and nothing that it does not. Holds no secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    /// Grows with every change that one operator pushes; what a sidecar heard last is in force.
    pub generation: u64,
    pub origin: Arc<Origin>,
    pub dimensions: DimensionPolicy,
    pub budgets: Vec<Budget>,
    pub routes: Vec<Route>,
    /// Prices that replace or add to the embedded catalogue.
    pub prices: Vec<ModelPrice>,
    /// Shared services whose calls are counted on the way through, by name.
    pub meters: Vec<Meter>,
    /// Outcomes that the sidecar reads from the app's own metrics.
    pub outcomes: Vec<OutcomeMetric>,
}

/// The name of a resource: `namespace/name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceKey(pub String);

impl ResourceKey {
    pub fn new(namespace: &str, name: &str) -> ResourceKey {
        ResourceKey(format!("{namespace}/{name}"))
    }

    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// ---- budgets ----

/// An AIBudget, parsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    pub key: ResourceKey,
    pub scope: Scope,
    #[serde(default)]
    pub split_by: Option<Dimension>,
    pub limits: Vec<Limit>,
    pub enforcement: Enforcement,
    pub on_ledger_unavailable: OnLedgerUnavailable,
    pub unpriced_models: UnpricedModels,
    #[serde(default)]
    pub reservation: ReservationMode,
    /// What counts as a runaway. Only the operator looks at it.
    #[serde(default)]
    pub runaway: Option<Runaway>,
}

/// Which calls a budget counts, beyond the pods that the operator already selected: all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Scope {
    /// For each dimension that is listed, the values that match.
    pub dimensions: BTreeMap<Dimension, BTreeSet<String>>,
    /// Names of models that match; empty means all.
    pub models: BTreeSet<String>,
    /// A CEL expression over `call`.
    pub cel: Option<String>,
}

/// One limit of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Unique within its budget.
    pub name: String,
    pub unit: Unit,
    /// In `unit`: pico-dollars, tokens or requests; grants not included.
    #[serde(with = "i128_text")]
    pub amount: i128,
    pub window: Window,
    /// Temporary raises of `amount`.
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// The window that this moment is in begins anew at it; not of rolling windows.
    #[serde(default)]
    pub reset_at_ms: Option<i64>,
}

/// A temporary raise of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    #[serde(with = "i128_text")]
    pub add: i128,
    pub from_ms: i64,
    pub until_ms: i64,
}

/// The stretch of time that a limit's amount is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Window {
    /// A calendar period in an IANA time zone; a week starts on Monday (ISO 8601).
    #[serde(rename_all = "camelCase")]
    Calendar { period: CalendarPeriod, time_zone: String },
    /// The last `length_ms`, sliding in steps of a sixtieth.
    #[serde(rename_all = "camelCase")]
    Rolling { length_ms: i64 },
    /// For ever (with `split_by: session`, a limit for each session).
    Lifetime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CalendarPeriod {
    Day,
    Week,
    Month,
    Year,
}

/// What happens to a call that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Enforcement {
    /// Refuse it.
    #[default]
    Block,
    /// Lower its output cap to what is left, then take a cheaper capable tier, then refuse it.
    Fit,
    /// Let it through, count it, and say so.
    Warn,
}

/// What happens to a call while no lease can be had because the ledger cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnLedgerUnavailable {
    /// Refuse it: nothing can be overspent.
    #[default]
    FailClosed,
    /// Let it through and charge it later: the budget may be overspent while the ledger is away.
    FailOpen,
}

/// What happens to a call to a model that has no price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnpricedModels {
    /// Refuse it.
    #[default]
    Deny,
    /// Let it through at no cost, and flag it.
    Allow,
}

/// How much a call sets aside for its input, before the provider has counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReservationMode {
    /// What no tokenizer exceeds: nothing can be overspent.
    #[default]
    Sound,
    /// What 99.9 % of such calls did not exceed so far: less is set aside, and one call in a thousand may cost more than it reserved.
    Calibrated,
}

// ---- routes ----

/// A ModelRoute, parsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub key: ResourceKey,
    pub backends: Vec<Backend>,
    #[serde(default)]
    pub mode: RouteMode,
    #[serde(default)]
    pub complexity: ComplexityThresholds,
    /// Highest tiers by dimension value, first match wins: what an approved ModelTier recommendation adds.
    #[serde(default)]
    pub rules: Vec<TierRule>,
    #[serde(default)]
    pub sensitivity: Vec<SensitivityRule>,
    /// Virtual model names, such as `auto`, and the highest tier each may use.
    #[serde(default)]
    pub aliases: BTreeMap<String, Tier>,
    /// Further backends or models tried when one answers 429, 5xx or not at all.
    #[serde(default)]
    pub fallback_attempts: u32,
    #[serde(default)]
    pub other_requests: OtherRequests,
}

/// What happens to requests that are no calls to a model: files, batches, whatever a provider adds next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OtherRequests {
    /// They go to the first backend whose provider has such paths, with its credential, and are counted.
    #[default]
    Pass,
    /// They are refused.
    Refuse,
}

/// Who answers calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Unique within its route; also the `provider` of a record.
    pub name: Arc<str>,
    pub provider: Provider,
    /// Base URL without the provider's own path: `https://api.openai.com`.
    pub endpoint: String,
    /// What the provider's project serves calls in that name no service tier; `None` when that is not known.
    #[serde(default)]
    pub service_tier: Option<ServiceTier>,
    /// True when a credential comes with the policy; else the caller's own header is passed on.
    #[serde(default)]
    pub has_credential: bool,
    pub models: Vec<Model>,
}

/// A model of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    pub name: Arc<str>,
    pub tier: Tier,
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// Input and output tokens that fit, together.
    pub context_window: u64,
    /// The most output tokens that one call can produce.
    pub max_output: u64,
    /// The catalogue's name for it, where that differs: of an Azure deployment, or an inference profile.
    #[serde(default)]
    pub base_model: Option<String>,
    /// Region of the data, matched by sensitivity rules; empty means unknown.
    #[serde(default)]
    pub residency: String,
}

impl Model {
    /// Its name in price lists.
    pub fn priced_as(&self) -> &str {
        self.base_model.as_deref().unwrap_or(&self.name)
    }
}

/// Price and power classes, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Tier {
    Economy,
    Standard,
    Frontier,
}

impl Tier {
    pub const ALL: [Tier; 3] = [Tier::Economy, Tier::Standard, Tier::Frontier];

    pub fn name(self) -> &'static str {
        match self {
            Tier::Economy => "economy",
            Tier::Standard => "standard",
            Tier::Frontier => "frontier",
        }
    }

    /// The next cheaper tier.
    pub fn below(self) -> Option<Tier> {
        Tier::ALL.into_iter().rev().find(|tier| *tier < self)
    }
}

/// What a request may need of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Capability {
    Tools,
    Vision,
    JsonSchema,
    Reasoning,
}

impl Capability {
    /// As in a ModelRoute.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Tools => "tools",
            Capability::Vision => "vision",
            Capability::JsonSchema => "jsonSchema",
            Capability::Reasoning => "reasoning",
        }
    }
}

/// Whether a route changes calls or only says what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouteMode {
    /// Calls go to the model they ask for, except where a rule or an alias says otherwise; what each needed is recorded.
    #[default]
    Observe,
    /// Calls go to the cheapest model that can do them, never above the tier they asked for.
    Route,
}

/// Complexity scores (0 to 100) from which a call needs a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComplexityThresholds {
    pub standard: u8,
    pub frontier: u8,
}

impl Default for ComplexityThresholds {
    fn default() -> ComplexityThresholds {
        ComplexityThresholds { standard: 35, frontier: 65 }
    }
}

/// Calls whose dimensions match go to `max_tier` at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierRule {
    pub name: String,
    #[serde(default)]
    pub dimensions: BTreeMap<Dimension, BTreeSet<String>>,
    pub max_tier: Tier,
    /// Only calls that need no more than `max_tier` by their complexity; else every call.
    #[serde(default)]
    pub only_if_sufficient: bool,
}

/// Calls that contain what a detector finds go only to these backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SensitivityRule {
    pub detectors: BTreeSet<Detector>,
    /// Names of backends that may answer; empty means that the call is refused.
    pub backends: BTreeSet<String>,
}

/// Finds sensitive text by its form and, where there is one, its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Detector {
    Email,
    /// A payment card number (13 to 19 digits, Luhn checksum).
    PaymentCard,
    /// An IBAN (ISO 13616, mod 97).
    Iban,
    /// A secret of a well-known form: cloud keys, API tokens, private key blocks.
    Secret,
}

impl Detector {
    pub const ALL: [Detector; 4] = [Detector::Email, Detector::PaymentCard, Detector::Iban, Detector::Secret];

    /// What it finds, in words for messages.
    pub fn finds(self) -> &'static str {
        match self {
            Detector::Email => "an e-mail address",
            Detector::PaymentCard => "a payment card number",
            Detector::Iban => "an IBAN",
            Detector::Secret => "a secret",
        }
    }
}

// ---- shared services and outcomes ----

/// A shared service: calls to `/shared/<name>/…` on the sidecar go to `endpoint` and are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meter {
    pub name: String,
    pub endpoint: String,
}

/// A counter in the app's own Prometheus metrics whose growth counts outcomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeMetric {
    pub outcome: String,
    /// Name of the counter; all its series are summed.
    pub metric: String,
    pub port: u16,
    pub path: String,
}

/// `i128` as a decimal string: JSON numbers of other readers stop at 2⁵³.
pub mod i128_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
