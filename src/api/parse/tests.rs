//! Bad specs: each problem is named with its field and its remedy, and all of them at once.

use serde_json::{Value, json};

use super::*;
use crate::core::amount::Unit;
use crate::core::catalogue;
use crate::core::policy::{ResourceKey, Window};

fn key() -> ResourceKey {
    ResourceKey::new("shop", "x")
}

fn budget_of(spec: Value) -> Result<crate::core::policy::Budget, ParseError> {
    budget(key(), &serde_json::from_value(spec).expect("a spec"))
}

fn says(error: &ParseError, field: &str, words: &str) {
    assert!(error.0.iter().any(|p| p.field == field && p.message.contains(words)), "{field}: …{words}… in {error}");
}

#[test]
fn a_good_budget_is_read_exactly() {
    let b = budget_of(json!({"scope": {"teams": ["a"]}, "splitBy": "session", "enforcement": "Fit", "limits": [
        {"name": "m", "usd": "2.50", "period": "Month", "timeZone": "Europe/Zurich"}, {"name": "t", "tokens": 5, "period": "Rolling", "rolling": "90m"}],
        "grants": [{"limit": "m", "usd": "1", "from": "2026-12-01T00:00:00Z", "until": "2026-12-02T00:00:00Z", "reason": "launch"}]}))
    .expect("valid");
    assert_eq!((b.limits[0].unit, b.limits[0].amount, b.limits[0].grants.len()), (Unit::Usd, 2_500_000_000_000, 1));
    assert_eq!(b.limits[1].window, Window::Rolling { length_ms: 5_400_000 });
}

#[test]
fn every_problem_of_a_budget_is_named_at_once() {
    let error = budget_of(json!({"scope": {"match": "call.team =="}, "limits": [
        {"name": "a", "usd": "1", "tokens": 3, "period": "Day"}, {"name": "a", "usd": "0", "period": "Rolling", "rolling": "1y"}, {"name": "z", "requests": 1, "period": "Day", "timeZone": "Mars/Base"}],
        "grants": [{"limit": "nope", "usd": "1", "from": "now", "until": "later", "reason": "r"}]}))
    .expect_err("invalid");
    says(&error, "spec.scope.match", "");
    says(&error, "spec.limits[0]", "exactly one of");
    says(&error, "spec.limits[1].name", "own name");
    says(&error, "spec.limits[1].usd", "more than zero");
    says(&error, "spec.limits[1].rolling", "24h");
    says(&error, "spec.limits[2].timeZone", "Europe/Zurich");
    says(&error, "spec.grants[0].limit", "no limit \"nope\"");
}

#[test]
fn every_problem_of_a_route_is_named_at_once() {
    let spec = json!({"backends": [
        {"name": "b", "provider": "OpenAI", "endpoint": "ftp://x", "models": [{"name": "unheard-of", "tier": "economy"}]},
        {"name": "b", "provider": "OpenAI", "endpoint": "https://x", "models": [{"name": "gpt-5.4", "tier": "frontier", "price": {"input": "-1", "output": "0.0000001"}}]}],
        "policy": {"complexity": {"standard": 80, "frontier": 20}, "sensitivity": [{"detectors": ["Email"], "backends": ["c"]}]},
        "aliases": [{"name": "gpt-5.4"}]});
    let error = route(key(), &serde_json::from_value(spec).expect("a spec"), catalogue::embedded()).expect_err("invalid");
    says(&error, "spec.backends[0].endpoint", "https://api.openai.com");
    says(&error, "spec.backends[0].models[0].contextWindow", "unheard-of");
    says(&error, "spec.backends[1].name", "own name");
    says(&error, "spec.backends[1].models[0].price.input", "negative");
    says(&error, "spec.backends[1].models[0].price.output", "decimals");
    says(&error, "spec.policy.complexity.standard", "frontier");
    says(&error, "spec.policy.sensitivity[0].backends", "\"c\"");
    says(&error, "spec.aliases[0].name", "own");
}

#[test]
fn sizes_and_prices_come_from_the_catalogue_unless_the_route_says() {
    let spec = json!({"backends": [{"name": "b", "provider": "OpenAI", "endpoint": "https://x/", "models": [
        {"name": "gpt-5.4", "tier": "frontier"}, {"name": "own", "tier": "economy", "contextWindow": 8192, "maxOutput": 512, "price": {"input": "0", "output": "1.5"}}]}]});
    let (route, prices) = route(key(), &serde_json::from_value(spec).expect("a spec"), catalogue::embedded()).expect("valid");
    assert_eq!(route.backends[0].endpoint, "https://x");
    assert_eq!((route.backends[0].models[0].context_window, route.backends[0].models[0].max_output), (1_050_000, 128_000));
    assert_eq!(prices.iter().map(|p| (p.model.as_str(), p.tariff.list().output.0)).collect::<Vec<_>>(), [("own", 1_500_000)]);
}

#[test]
fn a_routes_own_price_says_what_each_kind_of_cache_write_costs_or_what_it_is_a_kind_of_does() {
    let writes = |price: Value| {
        let spec = json!({"backends": [{"name": "b", "provider": "Anthropic", "endpoint": "https://x", "models": [
            {"name": "own", "tier": "economy", "contextWindow": 8192, "maxOutput": 512, "price": price}]}]});
        let (_, prices) = route(key(), &serde_json::from_value(spec).expect("a spec"), catalogue::embedded()).expect("valid");
        let rates = *prices[0].tariff.list();
        [rates.input, rates.cache_write, rates.cache_write_long].map(|rate| rate.0)
    };
    let plain = json!({"input": "1", "output": "5"});
    assert_eq!(writes(plain.clone()), [1_000_000; 3]);
    let with = |more: Value| plain.as_object().into_iter().chain(more.as_object()).flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(writes(with(json!({"cacheWrite": "1.25"}))), [1_000_000, 1_250_000, 1_250_000]);
    assert_eq!(writes(with(json!({"cacheWrite": "1.25", "cacheWriteLong": "2"}))), [1_000_000, 1_250_000, 2_000_000]);
}

#[test]
fn every_problem_of_an_allocation_is_named_at_once() {
    let spec = json!({"timeZone": "Nowhere", "owners": [{"name": "a", "match": "1 +"}, {"name": "a", "match": "true"}],
        "sharedCosts": [{"name": "v", "usdPerPeriod": "-1", "driver": "Tokens", "endpoint": "http://v", "capacity": 5}],
        "outcomes": [{"name": "o", "owner": "b"}]});
    let error = allocation(key(), &serde_json::from_value(spec).expect("a spec")).expect_err("invalid");
    for (field, words) in [
        ("spec.timeZone", "IANA"),
        ("spec.owners[0].match", ""),
        ("spec.owners[1].name", "||"),
        ("spec.sharedCosts[0].usdPerPeriod", "negative"),
        ("spec.sharedCosts[0].driver", "Calls or Bytes"),
        ("spec.sharedCosts[0].idle", "Keep or Distribute"),
        ("spec.outcomes[0].owner", "no owner \"b\""),
    ] {
        says(&error, field, words);
    }
}
