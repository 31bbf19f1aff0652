//! ModelRoute specs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ParseError, Problems, positive};
use crate::api::route::{BackendModel, ModelRouteSpec, PriceOverride, RouteBackend, RouteRule};
use crate::core::dimensions::Dimension;
use crate::core::money::{MoneyError, PicoUsd};
use crate::core::policy::{Backend, ComplexityThresholds, Model, ResourceKey, Route, SensitivityRule, TierRule};
use crate::core::price::{Catalogue, ModelPrice};
use crate::core::tariff::{Rates, Tariff};

/// The day that a route's own prices carry: later than any list price's, so that they are the latest.
const ALWAYS: &str = "9999-12-31";

/// A route, and the prices that it sets itself.
///
/// # Errors
/// Everything that is wrong with the spec.
pub fn route(key: ResourceKey, spec: &ModelRouteSpec, catalogue: &Catalogue) -> Result<(Route, Vec<ModelPrice>), ParseError> {
    let mut problems = Problems::default();
    let mut prices = Vec::new();
    let mut backends = Vec::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}]");
        if spec.backends[..index].iter().any(|earlier| earlier.name == backend.name) {
            problems.add(format!("{field}.name"), format!("{:?} is taken by an earlier backend; give each its own name", backend.name));
        }
        backends.push(self::backend(&field, backend, catalogue, &mut prices, &mut problems));
    }
    if spec.backends.is_empty() {
        problems.add("spec.backends", "a route needs at least one backend");
    }
    for (index, rule) in spec.policy.sensitivity.iter().enumerate() {
        for name in rule.backends.iter().filter(|name| !spec.backends.iter().any(|b| b.name == **name)) {
            problems.add(format!("spec.policy.sensitivity[{index}].backends"), format!("there is no backend {name:?} in spec.backends"));
        }
    }
    for (index, alias) in spec.aliases.iter().enumerate() {
        if backends.iter().flat_map(|b| &b.models).any(|m| *m.name == *alias.name) {
            problems.add(
                format!("spec.aliases[{index}].name"),
                format!("{:?} is a model of this route; an alias needs a name of its own", alias.name),
            );
        }
    }
    let thresholds = thresholds(spec, &mut problems);
    let attempts = problems.check("spec.fallback.attempts", u32::try_from(spec.fallback.attempts).map_err(|_| "must not be negative"));
    let route = Route {
        key,
        backends,
        mode: spec.policy.mode,
        complexity: thresholds.unwrap_or_default(),
        rules: spec.policy.rules.iter().map(rule).collect(),
        sensitivity: spec
            .policy
            .sensitivity
            .iter()
            .map(|s| SensitivityRule { detectors: s.detectors.iter().copied().collect(), backends: s.backends.iter().cloned().collect() })
            .collect(),
        aliases: spec.aliases.iter().map(|a| (a.name.clone(), a.max_tier)).collect(),
        fallback_attempts: attempts.unwrap_or(0),
        other_requests: spec.policy.other_requests,
    };
    problems.finish(Some((route, prices)))
}

fn thresholds(spec: &ModelRouteSpec, problems: &mut Problems) -> Option<ComplexityThresholds> {
    let complexity = &spec.policy.complexity;
    let score = |value: i32| u8::try_from(value).ok().filter(|s| *s <= 100).ok_or("must be between 0 and 100");
    let standard = problems.check("spec.policy.complexity.standard", score(complexity.standard));
    let frontier = problems.check("spec.policy.complexity.frontier", score(complexity.frontier));
    let thresholds = ComplexityThresholds { standard: standard?, frontier: frontier? };
    if thresholds.standard > thresholds.frontier {
        problems.add("spec.policy.complexity.standard", "must not be above `frontier`");
    }
    Some(thresholds)
}

fn rule(rule: &RouteRule) -> TierRule {
    let lists = [(Dimension::Feature, &rule.features), (Dimension::Team, &rule.teams)];
    let given = lists.into_iter().filter(|(_, values)| !values.is_empty());
    TierRule {
        name: rule.name.clone(),
        dimensions: given.map(|(d, values)| (d, values.iter().cloned().collect())).collect::<BTreeMap<_, _>>(),
        max_tier: rule.max_tier,
        only_if_sufficient: rule.only_if_sufficient,
    }
}

fn backend(field: &str, backend: &RouteBackend, catalogue: &Catalogue, prices: &mut Vec<ModelPrice>, problems: &mut Problems) -> Backend {
    let endpoint = backend.endpoint.trim_end_matches('/');
    let uri = endpoint.parse::<http::Uri>().ok().filter(|u| u.host().is_some() && matches!(u.scheme_str(), Some("http" | "https")));
    if uri.is_none() {
        problems.add(
            format!("{field}.endpoint"),
            format!("{:?} is no http or https URL; write for example https://api.openai.com", backend.endpoint),
        );
    }
    let mut models = Vec::new();
    for (index, model) in backend.models.iter().enumerate() {
        let field = format!("{field}.models[{index}]");
        models.extend(self::model(&field, model, catalogue, problems));
        if let Some(own) = &model.price {
            prices.extend(own_price(&field, model, own, problems));
        }
    }
    Backend {
        name: backend.name.as_str().into(),
        provider: backend.provider,
        service_tier: backend.service_tier,
        endpoint: endpoint.to_owned(),
        has_credential: backend.credentials.is_some(),
        models,
    }
}

fn model(field: &str, model: &BackendModel, catalogue: &Catalogue, problems: &mut Problems) -> Option<Model> {
    let listed = catalogue.latest(model.base_model.as_ref().unwrap_or(&model.name));
    let mut size = |name: &str, own: Option<i64>, listed: Option<u64>| match own {
        Some(own) => problems.check(format!("{field}.{name}"), positive(own)),
        None if listed.is_some() => listed,
        None => {
            problems
                .add(format!("{field}.{name}"), format!("the price catalogue does not know {:?}; give its {name} in tokens", model.name));
            None
        }
    };
    let context_window = size("contextWindow", model.context_window, listed.and_then(|p| p.context_window));
    // What only embeds text puts none out.
    let embeds = listed.is_some_and(|p| p.max_output.is_none() && p.tariff.list().output.0 == 0);
    let max_output = size("maxOutput", model.max_output, listed.and_then(|p| p.max_output).or(embeds.then_some(0)));
    Some(Model {
        name: model.name.as_str().into(),
        tier: model.tier,
        capabilities: model.capabilities.iter().copied().collect(),
        context_window: context_window?,
        max_output: max_output?,
        // A price of its own stands under its own name.
        base_model: model.base_model.clone().filter(|_| model.price.is_none()),
        residency: model.residency.clone().unwrap_or_default(),
    })
}

fn own_price(field: &str, model: &BackendModel, own: &PriceOverride, problems: &mut Problems) -> Option<ModelPrice> {
    let mut rate = |name: &str, price: PicoUsd| problems.check(format!("{field}.price.{name}"), per_token(price));
    let (input, output) = (rate("input", own.input), rate("output", own.output));
    let cached_read = own.cached_read.map_or(input, |price| rate("cachedRead", price));
    let cache_write = own.cache_write.map_or(input, |price| rate("cacheWrite", price));
    let cache_write_long = own.cache_write_long.map_or(cache_write, |price| rate("cacheWriteLong", price));
    let (input, output, cached_read) = (input?, output?, cached_read?);
    let (cache_write, cache_write_long) = (cache_write?, cache_write_long?);
    Some(ModelPrice {
        model: model.name.clone(),
        effective_from: ALWAYS.to_owned(),
        source: "ModelRoute".to_owned(),
        tariff: Arc::new(Tariff::flat(Rates { cached_read, cache_write, cache_write_long, ..Rates::plain(input, output) })),
        context_window: None,
        max_output: None,
    })
}

/// USD per million tokens as pico-dollars per token. Zero is a price here: the owner says so of a model that it hosts.
fn per_token(per_million: PicoUsd) -> Result<PicoUsd, String> {
    if per_million.is_negative() {
        return Err("must not be negative".to_owned());
    }
    PicoUsd::per_token_from_per_million(&per_million.to_decimal()).map_err(|e: MoneyError| e.to_string())
}
