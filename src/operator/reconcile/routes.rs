//! ModelRoute: what its calls went to, what they needed, and what that is worth.

use super::approvals::Decided;
use super::{ReconcileError, Round, key};
use crate::api::common::condition;
use crate::api::parse;
use crate::api::route::{BackendStatus, ModelRoute, ModelRouteStatus, TierStatus};
use crate::core::forecast::percent;
use crate::core::money::PicoUsd;
use crate::core::policy::{Route, Tier};
use crate::core::recommend::{Recommendation, RecommendationState, merge, rfc3339};
use crate::core::tier_advice::{self, TierUsage};
use crate::ledger::query::{CallQuery, CallTotals};
use crate::operator::conditions::{Finding, Transition, conditions};
use crate::operator::policies;

/// How far back the figures of a status go.
const LOOK_BACK_MS: i64 = 30 * 86_400_000;
/// How far back a backend's health is judged.
const HEALTH_MS: i64 = 5 * 60_000;

/// What a status is decided from.
struct Inputs<'a> {
    route: &'a ModelRoute,
    parsed: Result<&'a Route, String>,
    /// All calls of the look-back, and those that health is judged by.
    totals: Vec<CallTotals>,
    recent: Vec<CallTotals>,
    recommendations: Vec<Recommendation>,
    now_ms: i64,
}

impl Round<'_> {
    pub(super) async fn route(&self, route: &ModelRoute) -> Result<(), ReconcileError> {
        let key = key(route);
        let catalogue = policies::known_prices(&self.snapshot);
        let parsed = parse::route(key.clone(), &route.spec, &catalogue).map_err(|e| e.to_string());
        let calls = |from_ms| CallQuery { from_ms, to_ms: i64::MAX, route: Some(key.0.clone()) };
        let totals = self.context.ledger.totals(&calls(self.now_ms - LOOK_BACK_MS)).await?;
        let recent = self.context.ledger.totals(&calls(self.now_ms - HEALTH_MS)).await?;
        let mut proposed = Vec::new();
        if let Ok((route, own_prices)) = &parsed {
            let mut prices = catalogue.clone();
            prices.overlay(own_prices.iter().cloned());
            let rows: Vec<TierUsage> = totals.iter().filter(|t| is_answered(t)).map(tier_usage).collect();
            let from_ms = totals.iter().map(|t| t.first_ms).min().unwrap_or(self.now_ms);
            proposed = tier_advice::advise(route, &rows, &prices, from_ms, self.now_ms).into_iter().map(Recommendation::from).collect();
        }
        let Decided { resource, existing } = self.decided(route, |r| r.status.as_ref().map(|s| s.recommendations.clone())).await?;
        let before = resource.as_ref().unwrap_or(route);
        let inputs = Inputs {
            route: before,
            parsed: parsed.as_ref().map(|(route, _)| route).map_err(Clone::clone),
            totals,
            recent,
            recommendations: merge(existing, proposed, &rfc3339(self.now_ms)),
            now_ms: self.now_ms,
        };
        let (status, news) = decide(&inputs);
        self.publisher.status(before, before.status.as_ref(), &status, &news).await
    }
}

fn is_answered(totals: &CallTotals) -> bool {
    totals.outcome.is_charged() && !totals.shared
}

fn tier_usage(totals: &CallTotals) -> TierUsage {
    TierUsage {
        dimensions: totals.dimensions.clone(),
        backend: totals.backend.clone(),
        model: totals.model.clone(),
        tier: totals.tier,
        needed_tier: totals.needed_tier,
        calls: totals.calls,
        usage: totals.usage,
        cost: totals.cost,
    }
}

fn decide(inputs: &Inputs<'_>) -> (ModelRouteStatus, Vec<Transition>) {
    let before = inputs.route.status.clone().unwrap_or_default();
    let generation = inputs.route.metadata.generation;
    let answered: Vec<&CallTotals> = inputs.totals.iter().filter(|t| is_answered(t)).collect();
    let calls: u64 = answered.iter().map(|t| t.calls).sum();
    let cost: PicoUsd = answered.iter().map(|t| t.cost).sum();
    let count = |wanted: &dyn Fn(&CallTotals) -> bool| answered.iter().filter(|t| wanted(t)).map(|t| t.calls).sum::<u64>();
    let frontier = count(&|t| t.tier == Some(Tier::Frontier));
    let needed = count(&|t| t.tier == Some(Tier::Frontier) && t.needed_tier == Some(Tier::Frontier));
    let backends = backends(inputs);
    let (conditions, news) = conditions(&before.conditions, &findings(inputs, &backends), generation, inputs.now_ms);
    let open = |r: &&Recommendation| r.state == RecommendationState::Proposed;
    let savings: PicoUsd = inputs.recommendations.iter().filter(open).map(|r| r.estimated_monthly_savings).sum();
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let status = ModelRouteStatus {
        observed_generation: generation,
        conditions,
        backend_count: as_i64(inputs.route.spec.backends.len() as u64),
        since: answered.iter().map(|t| t.first_ms).min().map(rfc3339),
        calls: as_i64(calls),
        cost: cost.to_string(),
        tiers: Tier::ALL.into_iter().filter_map(|tier| tier_status(tier, &answered, calls)).collect(),
        frontier_percent: (calls > 0).then(|| percent(frontier.into(), calls.into())),
        frontier_needed_percent: (frontier > 0).then(|| percent(needed.into(), frontier.into())),
        proposed_monthly_savings: (savings > PicoUsd::ZERO).then(|| savings.to_string()),
        backends,
        recommendations: inputs.recommendations.clone(),
    };
    (status, news)
}

fn tier_status(tier: Tier, answered: &[&CallTotals], all: u64) -> Option<TierStatus> {
    let of_tier = || answered.iter().filter(|t| t.tier == Some(tier));
    let calls: u64 = of_tier().map(|t| t.calls).sum();
    (calls > 0).then(|| TierStatus {
        tier,
        calls: i64::try_from(calls).unwrap_or(i64::MAX),
        cost: of_tier().map(|t| t.cost).sum(),
        percent: percent(calls.into(), all.into()),
    })
}

fn backends(inputs: &Inputs<'_>) -> Vec<BackendStatus> {
    let of = |name: &str| {
        let calls: Vec<&CallTotals> = inputs.recent.iter().filter(|t| t.backend == name).collect();
        let sum = |wanted: &dyn Fn(&CallTotals) -> bool| calls.iter().filter(|t| wanted(t)).map(|t| t.calls).sum::<u64>();
        let failed = sum(&|t| t.outcome == crate::core::call::CallOutcome::Failed);
        let answered = sum(&|t| t.outcome.is_charged());
        let milliseconds: u64 = calls.iter().filter(|t| t.outcome.is_charged()).map(|t| t.duration_ms).sum();
        let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        BackendStatus {
            name: name.to_owned(),
            healthy: failed * 2 <= failed + answered,
            calls: as_i64(failed + answered),
            failed: as_i64(failed),
            mean_latency_ms: milliseconds.checked_div(answered).map(as_i64),
        }
    };
    inputs.route.spec.backends.iter().map(|b| of(&b.name)).collect()
}

fn findings(inputs: &Inputs<'_>, backends: &[BackendStatus]) -> Vec<Finding> {
    let (holds, reason, message) = match &inputs.parsed {
        Ok(_) => (true, "InForce", "Calls of the selected pods take this route.".to_owned()),
        Err(problems) => (false, "Invalid", format!("Not in force: {problems}")),
    };
    let ready = Finding { type_: condition::READY, holds, reason, message, is_alarm: false };
    let sick: Vec<&str> = backends.iter().filter(|b| !b.healthy).map(|b| b.name.as_str()).collect();
    let (reason, message) = match sick.is_empty() {
        true => ("Answering", "No backend failed more than half of its recent calls.".to_owned()),
        false => (
            "Failing",
            format!("More than half of the recent calls failed: {}. See the sidecars' logs and the provider's status.", sick.join(", ")),
        ),
    };
    vec![ready, Finding { type_: condition::BACKENDS_HEALTHY, holds: sick.is_empty(), reason, message, is_alarm: false }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::CallOutcome;
    use serde_json::json;

    fn totals(tier: Tier, needed: Tier, outcome: CallOutcome, calls: u64, cost: i128) -> CallTotals {
        CallTotals {
            origin: Default::default(),
            dimensions: Default::default(),
            route: "shop/r".into(),
            backend: "openai".into(),
            shared: false,
            requested_model: "m".into(),
            model: "m".into(),
            requested_tier: Some(tier),
            tier: Some(tier),
            needed_tier: Some(needed),
            outcome,
            calls,
            usage: Default::default(),
            bytes: 0,
            cost: PicoUsd(cost),
            duration_ms: calls * 100,
            first_ms: 5_000,
            last_ms: 6_000,
        }
    }

    fn decided(rows: Vec<CallTotals>) -> (ModelRouteStatus, Vec<Transition>) {
        let spec = json!({"backends": [{"name": "openai", "provider": "OpenAI", "endpoint": "https://x", "models": [{"name": "gpt-5.4", "tier": "frontier"}]}]});
        let mut route = ModelRoute::new("r", serde_json::from_value(spec).expect("a spec"));
        route.metadata.namespace = Some("shop".into());
        let (parsed, _) = parse::route(key(&route), &route.spec, crate::core::catalogue::embedded()).expect("valid");
        decide(&Inputs { route: &route, parsed: Ok(&parsed), totals: rows.clone(), recent: rows, recommendations: vec![], now_ms: 60_000 })
    }

    #[test]
    fn a_status_says_how_much_went_to_frontier_models_and_how_much_of_it_had_to() {
        let (status, _) = decided(vec![
            totals(Tier::Frontier, Tier::Economy, CallOutcome::Completed, 6, 600),
            totals(Tier::Frontier, Tier::Frontier, CallOutcome::Interrupted, 2, 200),
            totals(Tier::Economy, Tier::Economy, CallOutcome::Completed, 2, 1),
            totals(Tier::Frontier, Tier::Frontier, CallOutcome::Refused, 90, 0),
        ]);
        assert_eq!((status.calls, status.frontier_percent, status.frontier_needed_percent), (10, Some(80), Some(25)));
        assert_eq!(
            status.tiers.iter().map(|t| (t.tier, t.calls, t.cost.0)).collect::<Vec<_>>(),
            [(Tier::Economy, 2, 1), (Tier::Frontier, 8, 800)]
        );
        assert_eq!(status.backends[0].mean_latency_ms, Some(100));
    }

    #[test]
    fn a_backend_that_fails_most_calls_is_unhealthy() {
        let (status, news) = decided(vec![
            totals(Tier::Frontier, Tier::Economy, CallOutcome::Completed, 1, 1),
            totals(Tier::Frontier, Tier::Economy, CallOutcome::Failed, 2, 0),
        ]);
        assert!(!status.backends[0].healthy);
        assert!(news.iter().any(|t| t.reason == "Failing" && t.warning && t.message.contains("openai")), "{news:?}");
    }
}
