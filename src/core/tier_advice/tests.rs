use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::core::policy::{Backend, ComplexityThresholds, Model, Provider, ResourceKey, RouteMode, TierRule};
use crate::core::price::ModelPrice;
use crate::core::tariff::{Rates, Tariff};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn model(name: &str, tier: Tier) -> Model {
    Model {
        name: name.into(),
        tier,
        capabilities: BTreeSet::new(),
        context_window: 100_000,
        max_output: 8_000,
        base_model: None,
        residency: String::new(),
    }
}

fn route() -> Route {
    let backend = |name: &str, provider, models| Backend {
        name: name.into(),
        provider,
        service_tier: None,
        endpoint: "https://backend.example".into(),
        has_credential: true,
        models,
    };
    Route {
        key: ResourceKey::new("shop", "models"),
        backends: vec![
            backend(
                "cloud",
                Provider::OpenAI,
                vec![
                    model("big", Tier::Frontier),
                    model("mid", Tier::Standard),
                    model("dear-mid", Tier::Standard),
                    model("small", Tier::Economy),
                ],
            ),
            backend("other", Provider::Anthropic, vec![model("opus", Tier::Frontier)]),
        ],
        mode: RouteMode::Observe,
        complexity: ComplexityThresholds::default(),
        rules: vec![],
        sensitivity: vec![],
        aliases: BTreeMap::new(),
        fallback_attempts: 0,
        other_requests: Default::default(),
    }
}

/// Micro-dollars per token of either kind.
fn catalogue() -> Catalogue {
    let price = |(model, micro): (&str, i64)| {
        let rate = PicoUsd::from_micro(micro);
        ModelPrice {
            model: model.into(),
            effective_from: "2026-01-01".into(),
            source: String::new(),
            tariff: std::sync::Arc::new(Tariff::flat(Rates::plain(rate, rate))),
            context_window: None,
            max_output: None,
        }
    };
    Catalogue::new([("big", 10), ("mid", 3), ("dear-mid", 4), ("small", 1), ("opus", 12)].map(price))
}

/// Calls of a thousand tokens each on `big`, at its price.
fn calls(feature: &str, calls: u64, needed: Tier) -> TierUsage {
    let usage = Usage { input: 900 * calls, output: 100 * calls, ..Usage::default() };
    TierUsage {
        dimensions: Dimensions::from([(Dimension::Feature, feature.to_owned()), (Dimension::Team, "support".to_owned())]),
        backend: "cloud".into(),
        model: "big".into(),
        tier: Some(Tier::Frontier),
        needed_tier: Some(needed),
        calls,
        usage,
        cost: PicoUsd::from_micro(10) * usage.total(),
    }
}

/// Advice from one day of calls.
fn advice(route: &Route, rows: &[TierUsage]) -> Vec<Proposal> {
    advise(route, rows, &catalogue(), 0, DAY_MS)
}

fn rules(patch: &str) -> Value {
    serde_json::from_str::<Value>(patch).unwrap()["spec"]["policy"]["rules"].clone()
}

#[test]
fn calls_above_their_need_are_replayed_on_the_cheapest_model_of_the_tier() {
    let proposals = advice(&route(), &[calls("chat", 30, Tier::Standard), calls("chat", 10, Tier::Frontier)]);
    assert_eq!(proposals.len(), 1);
    let figures = &proposals[0].evidence.figures;
    let expected = [
        ("calls", "40"),
        ("callsAboveNeed", "30"),
        ("modelsNow", "big"),
        ("modelsThen", "mid"),
        ("costMeasuredUsd", "0.30"),
        ("costReplayedUsd", "0.09"),
    ];
    for (name, figure) in expected {
        assert_eq!(figures[name], figure, "{name}");
    }
    assert_eq!(proposals[0].estimated_monthly_savings.to_decimal(), "6.30", "$0.21 a day");
    assert_eq!((proposals[0].evidence.samples, proposals[0].evidence.window_seconds), (30, 86_400));
    assert_eq!((proposals[0].evidence.from.as_str(), proposals[0].evidence.to.as_str()), ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"));
    assert_eq!(proposals[0].risk, Risk::Medium);
    assert_eq!(
        proposals[0].summary,
        "Send calls of feature chat that need no more to standard models: 30 of its 40 calls ran above the tier that they needed"
    );
}

#[test]
fn the_patch_adds_one_rule_and_the_revert_takes_it_away() {
    let proposal = advice(&route(), &[calls("chat", 30, Tier::Standard)]).remove(0);
    assert_eq!(
        proposal.patch,
        r#"{"apiVersion":"spendkeeper.dev/v1alpha1","kind":"ModelRoute","metadata":{"name":"models","namespace":"shop"},"spec":{"policy":{"rules":[{"features":["chat"],"maxTier":"standard","name":"feature-chat","onlyIfSufficient":true}]}}}"#
    );
    assert_eq!(
        proposal.revert,
        r#"{"apiVersion":"spendkeeper.dev/v1alpha1","kind":"ModelRoute","metadata":{"name":"models","namespace":"shop"},"spec":{"policy":{"rules":[]}}}"#
    );
}

#[test]
fn the_tier_that_saves_most_is_proposed() {
    let mostly_easy = [calls("chat", 100, Tier::Economy), calls("chat", 10, Tier::Standard)];
    let proposal = advice(&route(), &mostly_easy).remove(0);
    assert_eq!(rules(&proposal.patch)[0]["maxTier"], "economy", "100 × $0.009 beat 110 × $0.007");
    assert_eq!(proposal.risk, Risk::High, "two tiers at once");
    let mixed = [calls("chat", 30, Tier::Economy), calls("chat", 100, Tier::Standard)];
    assert_eq!(rules(&advice(&route(), &mixed)[0].patch)[0]["maxTier"], "standard");
}

#[test]
fn calls_without_a_feature_are_their_teams_and_those_of_nobody_are_left_alone() {
    let without = |feature: &str, team: &str| {
        let named = [(Dimension::Feature, feature), (Dimension::Team, team)].into_iter().filter(|(_, value)| !value.is_empty());
        TierUsage { dimensions: named.map(|(d, v)| (d, v.to_owned())).collect(), ..calls("", 30, Tier::Standard) }
    };
    let proposals = advice(&route(), &[without("", "support"), without(UNRECOGNISED, "support")]);
    assert_eq!(rules(&proposals[0].patch)[0]["teams"], json!(["support"]));
    assert_eq!(rules(&proposals[0].patch)[0]["name"], "team-support");
    assert_eq!(proposals[0].evidence.samples, 60);
    assert_eq!(advice(&route(), &[without("", "")]), []);

    let names: Vec<Value> = advice(&route(), &[without("", "support"), without("chat", "support"), without("", "search")])
        .iter()
        .map(|proposal| rules(&proposal.patch)[0]["name"].clone())
        .collect();
    assert_eq!(names, ["feature-chat", "team-search"], "a rule for support would reach its chat calls too");
}

#[test]
fn nothing_is_proposed_without_enough_calls_or_without_a_saving() {
    assert_eq!(advice(&route(), &[calls("chat", 19, Tier::Standard)]), []);
    assert_eq!(advice(&route(), &[calls("chat", 30, Tier::Frontier)]), []);
    let free = TierUsage { cost: PicoUsd::ZERO, ..calls("chat", 30, Tier::Standard) };
    assert_eq!(advice(&route(), &[free]), []);
    let elsewhere = TierUsage { backend: "other".into(), model: "opus".into(), ..calls("chat", 30, Tier::Standard) };
    assert_eq!(advice(&route(), &[elsewhere]), [], "there is no cheaper model over this protocol");
    assert_eq!(advise(&route(), &[calls("chat", 30, Tier::Standard)], &catalogue(), DAY_MS, DAY_MS), []);
    let unclassified = TierUsage { needed_tier: None, ..calls("chat", 30, Tier::Standard) };
    assert_eq!(advice(&route(), &[unclassified]), []);
}

fn rule(name: &str, dimension: Dimension, value: &str, max_tier: Tier) -> TierRule {
    let dimensions = BTreeMap::from([(dimension, BTreeSet::from([value.to_owned()]))]);
    TierRule { name: name.into(), dimensions, max_tier, only_if_sufficient: true }
}

#[test]
fn a_rule_that_decides_first_is_not_argued_with() {
    let rows = [calls("chat", 100, Tier::Economy)];
    let with = |rule| Route { rules: vec![rule], ..route() };
    assert_eq!(advice(&with(rule("feature-chat", Dimension::Feature, "chat", Tier::Economy)), &rows), [], "it is there already");
    assert_eq!(advice(&with(rule("by-hand", Dimension::Team, "support", Tier::Frontier)), &rows), [], "a new rule would never be reached");
    assert_eq!(advice(&with(rule("by-hand", Dimension::Team, "search", Tier::Frontier)), &rows).len(), 1);

    let lowered = advice(&with(rule("feature-chat", Dimension::Feature, "chat", Tier::Standard)), &rows).remove(0);
    assert_eq!(rules(&lowered.patch)[0]["maxTier"], "economy");
    assert_eq!(rules(&lowered.revert)[0]["maxTier"], "standard", "the rule as it was comes back");
}

#[test]
fn rules_of_long_features_have_short_names_of_their_own() {
    let name = |value: String| Group { dimension: Dimension::Feature, value }.rule_name();
    let (one, other) = (name("f".repeat(62) + "1"), name("f".repeat(62) + "2"));
    assert_ne!(one, other);
    assert_eq!((one.len(), other.len()), (63, 63));
    assert_eq!(name("f".repeat(55)), "feature-".to_owned() + &"f".repeat(55));
}

proptest! {
    /// What a proposal claims is recomputed from the rows and the prices alone.
    #[test]
    fn savings_are_the_measured_cost_less_the_replay(
        easy in 0u64..500, middling in 0u64..500, hard in 0u64..500, days in 1i64..60,
    ) {
        let rows = [calls("chat", easy, Tier::Economy), calls("chat", middling, Tier::Standard), calls("chat", hard, Tier::Frontier)];
        let proposals = advise(&route(), &rows, &catalogue(), 0, days * DAY_MS);
        // A call of a thousand tokens costs $0.010 on big, $0.003 on mid, $0.001 on small.
        let to_standard = if easy + middling >= 20 { 7 * (easy + middling) } else { 0 };
        let to_economy = if easy >= 20 { 9 * easy } else { 0 };
        let milli_usd = i128::from(to_standard.max(to_economy));
        let expected = milli_usd * 1_000_000_000 * 30 / i128::from(days);
        let claimed = proposals.first().map_or(0, |proposal| proposal.estimated_monthly_savings.0);
        prop_assert_eq!(claimed, expected);
    }
}
