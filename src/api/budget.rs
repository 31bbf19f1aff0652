//! AIBudget: what may be spent, by whom, in which window.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Condition, Recommendation, WorkloadSelector};
use crate::core::burn::BurnSpeed;
use crate::core::dimensions::Dimension;
use crate::core::money::PicoUsd;
use crate::core::policy::{Enforcement, OnLedgerUnavailable, ReservationMode, UnpricedModels};
use crate::core::runaway::{RunawayAction, RunawayBy};

/// What may be spent on model calls, by whom, in which window. A call must fit every budget that matches it, or it is
/// refused before a byte goes to the provider.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "spendkeeper.dev",
    version = "v1alpha1",
    kind = "AIBudget",
    namespaced,
    status = "AIBudgetStatus",
    shortname = "aib",
    category = "spendkeeper",
    printcolumn = r#"{"name":"Window","type":"string","jsonPath":".status.tightest.window"}"#,
    printcolumn = r#"{"name":"Limit","type":"string","jsonPath":".status.tightest.limit"}"#,
    printcolumn = r#"{"name":"Spent","type":"string","jsonPath":".status.tightest.spent"}"#,
    printcolumn = r#"{"name":"Reserved","type":"string","jsonPath":".status.tightest.reserved","priority":1}"#,
    printcolumn = r#"{"name":"Remaining","type":"string","jsonPath":".status.tightest.remaining"}"#,
    printcolumn = r#"{"name":"Used%","type":"integer","jsonPath":".status.tightest.percentSpent"}"#,
    printcolumn = r#"{"name":"Forecast","type":"string","jsonPath":".status.tightest.forecast"}"#,
    printcolumn = r#"{"name":"Enforcement","type":"string","jsonPath":".spec.enforcement","priority":1}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Exhausted","type":"string","jsonPath":".status.conditions[?(@.type==\"Exhausted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.limits.all(l, self.limits.exists_one(o, o.name == l.name))").message("limits: two limits have the same name; give each its own, since grants and statuses refer to it"))]
#[x_kube(validation = Rule::new("!has(self.grants) || self.grants.all(g, self.limits.exists(l, l.name == g.limit))").message("grants: `limit` must be the name of one of spec.limits"))]
pub struct AIBudgetSpec {
    /// Which calls count. Everything that is given must hold; an empty scope is every call of every pod in the namespace.
    #[serde(default)]
    pub scope: BudgetScope,
    /// Hold each distinct value of this dimension to the limits on its own, for example every agent session to $2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_by: Option<Dimension>,
    /// What may be spent. Every limit must have room for a call's worst case.
    #[schemars(length(min = 1, max = 16))]
    pub limits: Vec<BudgetLimit>,
    /// What happens to a call that does not fit: `Block` refuses it; `Fit` lowers its output cap to what is left, then
    /// takes a cheaper capable tier, then refuses; `Warn` lets it through and says so.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// What happens while the ledger cannot be reached and a sidecar's lease is used up: `FailClosed` refuses calls,
    /// `FailOpen` lets them through and charges them later, so that the budget may be overspent meanwhile.
    #[serde(default)]
    pub on_ledger_unavailable: OnLedgerUnavailable,
    /// What happens to a call to a model without a price: `Deny` refuses it, `Allow` counts it at no cost and flags it.
    #[serde(default)]
    pub unpriced_models: UnpricedModels,
    /// How much a call sets aside for its input: `Sound` is what no tokenizer exceeds, about a token a byte; `Calibrated` what 99.9 % of
    /// such calls did not exceed so far, so that more calls fit at once and one in a thousand may cost more than it had reserved. A call
    /// is `Calibrated` when every budget that it must fit is.
    #[serde(default)]
    pub reservation: ReservationMode,
    /// When to say that money is running out, as Events and in the `Alerting` condition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub alerts: Vec<BudgetAlert>,
    /// Temporary raises of a limit. To add one takes the verb `approve` on the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub grants: Vec<BudgetGrant>,
    /// Watch for an agent that spends many times more than it usually does, or whose outcomes stop while it goes on spending. Absent: nobody watches, nor does a sidecar without an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runaway: Option<BudgetRunaway>,
}

/// Which calls a budget counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetScope {
    /// The pods whose calls count. Absent: every pod of this namespace that has a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    /// Features that count; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Teams that count; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
    /// Business processes that count; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<String>,
    /// Agents that count; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Models that count, by the name that is sent to the provider; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// A CEL expression over `call` that must be true: `call.feature`, `.team`, `.process`, `.agent`, `.session`,
    /// `.namespace`, `.workload`, `.model`, `.backend`, `.tier`. Example: `call.team == 'search' && call.tier == 'frontier'`.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub cel: Option<String>,
}

/// One limit: an amount of one unit in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.usd), has(self.tokens), has(self.requests)].filter(x, x).size() == 1").message("set exactly one of usd, tokens and requests"))]
#[x_kube(validation = Rule::new("(self.period == 'Rolling') == has(self.rolling)").message("`rolling` goes with period Rolling, and only with it; for example period: Rolling, rolling: 24h"))]
#[x_kube(validation = Rule::new("self.period != 'Rolling' || !has(self.resetAt)").message("`resetAt` is not for period Rolling, whose window frees itself"))]
pub struct BudgetLimit {
    /// Unique in this budget; lower-case letters, digits and dashes.
    #[schemars(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// At most so many US dollars, as a decimal string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<PicoUsd>,
    /// At most so many tokens, input and output together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<i64>,
    /// At most so many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests: Option<i64>,
    /// The window: a calendar `Day`, `Week` (from Monday), `Month` or `Year` in `timeZone`; the last `rolling` time
    /// (`Rolling`); or for ever (`Lifetime`; with `splitBy: session` this is a limit for each session).
    pub period: LimitPeriod,
    /// Length of a rolling window: a number and `m`, `h` or `d`, for example `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[1-9][0-9]{0,5}(m|h|d)$"))]
    pub rolling: Option<String>,
    /// IANA time zone of calendar windows, for example `Europe/Zurich`.
    #[serde(default = "utc")]
    #[schemars(length(max = 64))]
    pub time_zone: String,
    /// Begin the window anew at this time (RFC 3339): what was spent before it counts no more. Not for `Rolling`. Leave it in place
    /// until the window has ended; to set or change it takes the verb `approve` on the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub reset_at: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Windows of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitPeriod {
    Day,
    Week,
    Month,
    Year,
    Rolling,
    Lifetime,
}

/// When to say that money is running out: one threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.percentSpent), has(self.percentForecast), has(self.burnRate)].filter(x, x).size() == 1").message("set exactly one of percentSpent, percentForecast and burnRate"))]
pub struct BudgetAlert {
    /// Alert when this share of a limit is spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub percent_spent: Option<i32>,
    /// Alert when the forecast for the window's end is this share of a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub percent_forecast: Option<i32>,
    /// Alert when a limit is spent many times faster than its window allows, whatever is left: `Fast` is 14.4 times over a 720th of the
    /// window (an hour of a month), `Slow` 6 times over a 120th (six hours), and in each case still so. Not for `Lifetime`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_rate: Option<BurnSpeed>,
}

/// What is a runaway, and what is done about it: a value of a dimension that spends `factor` times what it usually does in a minute,
/// of the first limit's unit, while its outcomes do not keep step; or that has spent twice `factor` times what it usually does from one
/// outcome to the next, and has brought none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetRunaway {
    /// Whose spending is compared with its own past.
    #[serde(default)]
    pub by: RunawayBy,
    /// `Warn` says so, in the condition `Runaway` and an Event; `Throttle` also holds whoever ran away to three times its usual rate
    /// until it has been calm for five minutes.
    #[serde(default)]
    pub action: RunawayAction,
    /// How many times its usual rate is too much.
    #[serde(default = "ten")]
    #[schemars(range(min = 3, max = 1000))]
    pub factor: i32,
}

fn ten() -> i32 {
    10
}

/// A temporary raise of a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.usd), has(self.tokens), has(self.requests)].filter(x, x).size() == 1").message("set exactly one of usd, tokens and requests, in the unit of the limit"))]
#[x_kube(validation = Rule::new("timestamp(self.until) > timestamp(self.from)").message("`until` must be later than `from`"))]
pub struct BudgetGrant {
    /// Name of the limit that is raised.
    #[schemars(length(min = 1, max = 40))]
    pub limit: String,
    /// Raise by so many US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<PicoUsd>,
    /// Raise by so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<i64>,
    /// Raise by so many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests: Option<i64>,
    /// When the raise begins (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub from: String,
    /// When the raise ends (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub until: String,
    /// Why it was granted, for whoever reads this later.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Who granted it, as the API server authenticated them; written by the admission webhook, whatever stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}

/// Where a budget stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AIBudgetStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Exhausted`, `Alerting`, `Runaway`.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The limit with the least left in proportion, which the columns of `kubectl get` show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tightest: Option<LimitStatus>,
    /// Every limit; of a split budget, the values that spent most (at most 50).
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
    /// Pods with a sidecar whose calls may count.
    #[serde(default)]
    pub selected_pods: i64,
    /// Changes that Spendkeeper proposes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<Recommendation>,
}

/// Where a limit stands. Dollars are decimal strings (`$` in front); tokens and requests are whole numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitStatus {
    /// The limit's name.
    pub name: String,
    /// The value of the dimension that the budget is split by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The window in words: `Month (UTC)`, `Rolling 24h`, `Lifetime`.
    pub window: String,
    /// `USD`, `tokens` or `requests`.
    pub unit: String,
    /// When the window began (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start: Option<String>,
    /// When the window ends and the limit is whole again (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end: Option<String>,
    /// The limit, with the grants that are in force.
    pub limit: String,
    /// What settled calls cost.
    pub spent: String,
    /// What calls in flight may still cost, and what sidecars hold for the calls to come.
    pub reserved: String,
    /// What is left: limit − spent − reserved.
    pub remaining: String,
    /// Spent, in percent of the limit.
    pub percent_spent: i64,
    /// What will be spent by the window's end, to two digits: by the hour of the week once a week is known, else at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<String>,
    /// The forecast is meant to lie between this and `forecastHigh` four times in five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_low: Option<String>,
    /// See `forecastLow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_high: Option<String>,
    /// When the limit will be used up (RFC 3339), if that is before the window's end: the nearer, the more exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_at: Option<String>,
    /// Grants that are in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantStatus>,
}

/// A grant that is in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// By how much the limit is raised.
    pub amount: String,
    /// When the raise ends (RFC 3339).
    pub until: String,
    /// Why it was granted.
    pub reason: String,
    /// Who granted it; absent where no admission webhook saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
}
