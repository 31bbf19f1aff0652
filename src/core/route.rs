//! Which model answers a call: the cheapest that is capable, allowed for what the call contains and healthy, never of a
//! dearer tier than the one asked for. Deterministic: the same call under the same route and prices goes the same way.
//!
//! A model of the route is ranked for a call, and the first of the order below answers; the others stand by as fallbacks.
//!
//! | rank | which models |
//! |---|---|
//! | wanted | in `Observe` the model asked for; else every tier from the one needed up to the ceiling |
//! | substitute | in `Observe`, the other models from the tier needed up to the ceiling |
//! | below need | cheaper tiers than the one needed, the best first |
//! | translated | models whose provider speaks another format than the caller, unless asked for by name |
//! | may not fit | models whose context window or output limit might be too small for the call, the largest first |
//!
//! The ceiling is the tier asked for (an alias's highest tier), lowered by the first rule whose dimensions match.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::call::Classification;
use super::dimensions::Dimensions;
use super::money::PicoUsd;
use super::policy::{Backend, Capability, Detector, Model, Protocol, Provider, Route, RouteMode, Tier, TierRule};
use super::price::Catalogue;
use super::tariff::{AskedTier, CacheWrites, CostBound, ServiceTier, Tariff};

/// What a call asks of a route.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub protocol: Protocol,
    /// The model, or an alias, as the caller wrote it.
    pub requested_model: &'a str,
    pub dimensions: &'a Dimensions,
    pub classification: &'a Classification,
    pub required: &'a BTreeSet<Capability>,
    /// An upper bound of the input tokens.
    pub input_bound: u64,
    /// The most output tokens that the caller wants; `None` when it sets no cap.
    pub output_cap: Option<u64>,
    /// Formats that this call cannot be translated into, and what of it is in the way.
    pub untranslatable: &'a BTreeMap<Protocol, String>,
}

/// Who answers a call, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The preferred model first, then those to fall back on, at most the route's number of attempts; never empty.
    pub candidates: Vec<Candidate>,
    /// The tier of the model asked for, or the highest tier of the alias.
    pub requested_tier: Option<Tier>,
    pub reason: Reason,
}

/// A model of the route: indices into `route.backends` and that backend's `models`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub backend: usize,
    pub model: usize,
    /// `None` when the catalogue has no price of it.
    pub tariff: Option<Arc<Tariff>>,
    /// The output cap to send with the call: what to reserve, and the most that it can produce.
    pub output_limit: u64,
}

/// Why the preferred model is the one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the one that was asked for.
    AsAsked,
    /// An alias was asked for.
    Alias { alias: String, needed: Tier },
    /// A rule of the route lowers the tier.
    Rule { rule: String },
    /// What the call contains keeps it away from the model asked for.
    Sensitive { detectors: BTreeSet<Detector> },
    /// The model asked for lacks a capability or its limits are too small.
    NotCapable,
    /// The backend of the model asked for is unhealthy.
    Unhealthy,
    /// A cheaper model can do it.
    Cheaper { needed: Tier },
    /// The budget has too little left for the tier above.
    BudgetLeft,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::AsAsked => f.write_str("the model asked for"),
            Reason::Alias { alias, needed } => {
                write!(f, "alias {alias}: the cheapest capable model for a call that needs {}", needed.name())
            }
            Reason::Rule { rule } => write!(f, "rule {rule} lowers the tier"),
            Reason::Sensitive { detectors } => write!(f, "the call contains {}", found(detectors)),
            Reason::NotCapable => f.write_str("the model asked for cannot do this call"),
            Reason::Unhealthy => f.write_str("the backend of the model asked for is unhealthy"),
            Reason::Cheaper { needed } => write!(f, "the cheapest capable model for a call that needs {}", needed.name()),
            Reason::BudgetLeft => f.write_str("the budget has too little left for a higher tier"),
        }
    }
}

/// Why no model may answer; names what would do, and nothing of the call's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("ModelRoute {route} has no model {asked:?}; ask for one of {}, or add it to spec.backends[].models", list(.offered))]
    UnknownModel { route: String, asked: String, offered: Vec<String> },
    #[error(
        "model {asked:?} of ModelRoute {route} is not offered over {}; call it over {}, or ask for one of {}",
        .protocol.path(), list(.elsewhere), list(.offered)
    )]
    OtherProtocol { route: String, asked: String, protocol: Protocol, elsewhere: Vec<String>, offered: Vec<String> },
    #[error("ModelRoute {route} has no model up to tier {} for calls to {}; add one, or raise maxTier{}", .ceiling.name(), .protocol.path(), of_rule(.rule))]
    NothingInReach { route: String, protocol: Protocol, ceiling: Tier, rule: Option<String> },
    #[error(
        "the call contains {}, which ModelRoute {route} lets only {} see, and no model up to tier {} is there for it; ask for a model of those backends, or change spec.policy.sensitivity",
        found(.detectors), list(.backends), .ceiling.name()
    )]
    Sensitive { route: String, detectors: BTreeSet<Detector>, backends: Vec<String>, ceiling: Tier },
    #[error(
        "no model up to tier {} of ModelRoute {route} that may answer this call has all of {}; ask for a more capable model, or list what a model can do in spec.backends[].models[].capabilities",
        .ceiling.name(), list(.required)
    )]
    NotCapable { route: String, required: Vec<String>, ceiling: Tier },
    #[error(
        "model {asked:?} of ModelRoute {route} is served in another format, into which this call cannot be translated: {what}; leave that out, or ask for a model that is offered over {}",
        .protocol.path()
    )]
    Untranslatable { route: String, asked: String, protocol: Protocol, what: String },
}

/// Decides who answers. `healthy` is asked by backend name; unhealthy backends come last.
///
/// # Errors
/// When the model is not in the route, or none may answer this call.
pub fn choose(route: &Route, ask: &Ask<'_>, catalogue: &Catalogue, healthy: impl Fn(&str) -> bool) -> Result<Choice, RouteError> {
    let wish = Wish::of(route, ask)?;
    let rule = route.rules.iter().find(|rule| matches(rule, ask.dimensions)).filter(|rule| lowers(rule, &wish, ask));
    let mut bounds = Bounds::under(route, ask, &wish, rule);
    let mut ranked = rank(route, ask, catalogue, &healthy, &bounds);
    let reaches_nothing = ranked.iter().all(|r| matches!(r.rank, Rank::Translated(_)));
    if reaches_nothing && rule.is_some_and(|rule| rule.only_if_sufficient) {
        // Nothing in the rule's reach can take this call as it is, so the rule leaves it alone.
        bounds = Bounds::under(route, ask, &wish, None);
        ranked = rank(route, ask, catalogue, &healthy, &bounds);
    }
    let best = ranked.first().ok_or_else(|| refusal(route, ask, &bounds))?;
    let reason = reason(route, ask, &wish, &bounds, best, &healthy);
    Ok(Choice { candidates: take(route, ranked), requested_tier: Some(wish.tier), reason })
}

/// Who else could answer a call whose chosen model a budget cannot pay for: the best tier strictly below `below`, and under
/// it the cheapest. Complexity is set aside: a weaker answer is preferred to none.
///
/// # Errors
/// When no cheaper tier may answer.
pub fn choose_below(
    route: &Route,
    ask: &Ask<'_>,
    catalogue: &Catalogue,
    healthy: impl Fn(&str) -> bool,
    below: Tier,
) -> Result<Choice, RouteError> {
    let wish = Wish::of(route, ask)?;
    let nothing = || RouteError::NothingInReach { route: route.key.to_string(), protocol: ask.protocol, ceiling: below, rule: None };
    let ceiling = below.below().ok_or_else(nothing)?.min(wish.tier);
    let bounds = Bounds { ceiling, floor: ceiling, keep: false, rule: None };
    let ranked = rank(route, ask, catalogue, &healthy, &bounds);
    if ranked.is_empty() {
        return Err(refusal(route, ask, &bounds));
    }
    Ok(Choice { candidates: take(route, ranked), requested_tier: Some(wish.tier), reason: Reason::BudgetLeft })
}

/// The detectors that the route's rules look at: what to pass to [`classify`](super::classify::classify).
pub fn wanted_detectors(route: &Route) -> BTreeSet<Detector> {
    route.sensitivity.iter().flat_map(|rule| rule.detectors.iter().copied()).collect()
}

/// The cheapest model of exactly `tier` that takes `protocol` as it is, for what `cost` prices, and that cost: what calls that are sent
/// down to the tier would run on. Models without a price are passed over.
pub fn cheapest_in_tier<'a>(
    route: &'a Route,
    protocol: Protocol,
    tier: Tier,
    catalogue: &Catalogue,
    cost: impl Fn(&Tariff) -> PicoUsd,
) -> Option<(&'a Model, PicoUsd)> {
    let native = offered(route, protocol).filter(|(b, _, _)| !is_translated(route, *b, protocol));
    let of_tier = native.map(|(_, _, model)| model).filter(|model| model.tier == tier);
    let priced = of_tier.filter_map(|model| Some((model, cost(&catalogue.latest(model.priced_as())?.tariff))));
    priced.min_by(|(a, a_cost), (b, b_cost)| (a_cost, &a.name).cmp(&(b_cost, &b.name)))
}

/// What the caller asked for, resolved in the route.
struct Wish<'a> {
    alias: Option<&'a str>,
    tier: Tier,
}

impl<'a> Wish<'a> {
    /// A name that several backends offer at different tiers asks for the highest of them.
    fn of(route: &'a Route, ask: &Ask<'_>) -> Result<Wish<'a>, RouteError> {
        let named = offered(route, ask.protocol).filter(|(_, _, model)| *model.name == *ask.requested_model);
        if let Some(tier) = named.map(|(_, _, model)| model.tier).max() {
            return Ok(Wish { alias: None, tier });
        }
        match route.aliases.get_key_value(ask.requested_model) {
            Some((alias, tier)) => Ok(Wish { alias: Some(alias), tier: *tier }),
            None => Err(unknown(route, ask)),
        }
    }
}

/// The tiers that may answer.
struct Bounds<'a> {
    ceiling: Tier,
    /// The tier needed, no higher than the ceiling.
    floor: Tier,
    /// True when the model asked for is preferred to a cheaper one.
    keep: bool,
    /// The rule that lowered the ceiling.
    rule: Option<&'a TierRule>,
}

impl<'a> Bounds<'a> {
    fn under(route: &Route, ask: &Ask<'_>, wish: &Wish<'_>, rule: Option<&'a TierRule>) -> Bounds<'a> {
        let ceiling = rule.map_or(wish.tier, |rule| wish.tier.min(rule.max_tier));
        let observed = route.mode == RouteMode::Observe && wish.alias.is_none();
        // Observing changes no more than a rule says: the call goes to the rule's tier, not below it.
        let floor = if observed && rule.is_some() { ceiling } else { ask.classification.needed_tier.min(ceiling) };
        Bounds { ceiling, floor, keep: observed && rule.is_none(), rule }
    }
}

/// True when each dimension that the rule names has one of its values.
pub fn matches(rule: &TierRule, dimensions: &Dimensions) -> bool {
    rule.dimensions.iter().all(|(dimension, values)| dimensions.get(*dimension).is_some_and(|value| values.contains(value)))
}

fn lowers(rule: &TierRule, wish: &Wish<'_>, ask: &Ask<'_>) -> bool {
    let sufficient = ask.classification.needed_tier <= rule.max_tier;
    rule.max_tier < wish.tier && (sufficient || !rule.only_if_sufficient)
}

/// Models that can answer a call of a format, with their indices.
fn offered(route: &Route, protocol: Protocol) -> impl Iterator<Item = (usize, usize, &Model)> {
    let backends = route.backends.iter().enumerate().filter(move |(_, backend)| backend.provider.upstream_format(protocol).is_some());
    backends.flat_map(|(b, backend)| backend.models.iter().enumerate().map(move |(m, model)| (b, m, model)))
}

/// True when the backend gets calls of a format in another one.
fn is_translated(route: &Route, backend: usize, protocol: Protocol) -> bool {
    route.backends[backend].provider.upstream_format(protocol) != Some(protocol)
}

/// What of the call is in the way of its translation for a provider.
fn obstacle<'a>(ask: &Ask<'a>, provider: Provider) -> Option<&'a str> {
    ask.untranslatable.get(&provider.upstream_format(ask.protocol)?).map(String::as_str)
}

/// True when every sensitivity rule that this call falls under lets the backend see it.
fn allowed(route: &Route, ask: &Ask<'_>, backend: &Backend) -> bool {
    sensitivity(route, ask).all(|rule| rule.backends.contains(&*backend.name))
}

fn sensitivity<'a>(route: &'a Route, ask: &'a Ask<'_>) -> impl Iterator<Item = &'a super::policy::SensitivityRule> {
    route.sensitivity.iter().filter(|rule| !rule.detectors.is_disjoint(&ask.classification.sensitive))
}

/// How well a model stands for a call; the smaller the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Wanted,
    Substitute,
    BelowNeed(Reverse<Tier>),
    Translated(Reverse<Tier>),
    MayNotFit(Reverse<u64>),
}

struct Ranked<'a> {
    candidate: Candidate,
    rank: Rank,
    unhealthy: bool,
    model: &'a str,
    backend: &'a str,
}

/// Every model that may answer, best first.
fn rank<'a>(
    route: &'a Route,
    ask: &Ask<'_>,
    catalogue: &Catalogue,
    healthy: &impl Fn(&str) -> bool,
    bounds: &Bounds<'_>,
) -> Vec<Ranked<'a>> {
    let mut ranked: Vec<Ranked<'a>> = offered(route, ask.protocol)
        .filter(|(b, _, _)| allowed(route, ask, &route.backends[*b]) && obstacle(ask, route.backends[*b].provider).is_none())
        .filter_map(|(b, m, model)| {
            let tariff = catalogue.latest(model.priced_as()).map(|price| Arc::clone(&price.tariff));
            let candidate = Candidate { backend: b, model: m, tariff, output_limit: output_limit(model, ask) };
            let backend = route.backends[b].name.as_ref();
            let rank = rank_of(model, ask, bounds, is_translated(route, b, ask.protocol))?;
            Some(Ranked { candidate, rank, unhealthy: !healthy(backend), model: &model.name, backend })
        })
        .collect();
    if route.fallback_attempts == 0 {
        // Without a fallback an unhealthy model still beats one of a lower rank: its backend may have recovered.
        let best = ranked.iter().map(|r| r.rank).min();
        ranked.retain(|r| Some(r.rank) == best);
    }
    // Models are compared at the output that each of them can produce: else a small output limit would look cheap.
    let output = ranked.iter().map(|r| r.candidate.output_limit).min().unwrap_or(0);
    let bound = CostBound {
        input: ask.input_bound,
        output,
        media: false,
        web_searches: 0,
        tier: AskedTier::Said(ServiceTier::Standard),
        cache: CacheWrites::Any,
        regional: false,
    };
    if ranked.len() > 1 {
        let price = |r: &Ranked<'_>| r.candidate.tariff.as_ref().map_or(PicoUsd::MAX, |tariff| tariff.worst_case(&bound));
        ranked
            .sort_by(|a, b| (a.unhealthy, a.rank, price(a), a.model, a.backend).cmp(&(b.unhealthy, b.rank, price(b), b.model, b.backend)));
    }
    ranked
}

/// `None` when the model must not answer.
fn rank_of(model: &Model, ask: &Ask<'_>, bounds: &Bounds<'_>, translated: bool) -> Option<Rank> {
    let asked = *model.name == *ask.requested_model;
    if model.tier > bounds.ceiling {
        return None;
    }
    if bounds.keep && asked {
        return Some(Rank::Wanted);
    }
    if !ask.required.is_subset(&model.capabilities) {
        return None;
    }
    // The model asked for is never doubted: the bound counts several times the tokens of ordinary text, and the provider refuses
    // what is too long at no cost.
    let rank = match () {
        () if !asked && !surely_fits(model, ask) => Rank::MayNotFit(Reverse(model.context_window)),
        () if translated && !asked => Rank::Translated(Reverse(model.tier)),
        () if model.tier < bounds.floor => Rank::BelowNeed(Reverse(model.tier)),
        () if bounds.keep => Rank::Substitute,
        () => Rank::Wanted,
    };
    Some(rank)
}

fn surely_fits(model: &Model, ask: &Ask<'_>) -> bool {
    let output = ask.output_cap.unwrap_or(0);
    output <= model.max_output && ask.input_bound.saturating_add(output.max(1)) <= model.context_window
}

/// The caller's own cap, or the most that the model can produce after this input. A token of ordinary text is at least two
/// bytes, so half the bound leaves room enough; a provider refuses a cap that does not fit beside the input.
fn output_limit(model: &Model, ask: &Ask<'_>) -> u64 {
    match (ask.output_cap, model.context_window.saturating_sub(ask.input_bound / 2)) {
        (Some(cap), _) => cap.min(model.max_output),
        (None, 0) => model.max_output,
        (None, room) => room.min(model.max_output),
    }
}

fn take(route: &Route, ranked: Vec<Ranked<'_>>) -> Vec<Candidate> {
    let attempts = usize::try_from(route.fallback_attempts).unwrap_or(usize::MAX);
    ranked.into_iter().map(|r| r.candidate).take(attempts.saturating_add(1)).collect()
}

fn reason(
    route: &Route,
    ask: &Ask<'_>,
    wish: &Wish<'_>,
    bounds: &Bounds<'_>,
    best: &Ranked<'_>,
    healthy: &impl Fn(&str) -> bool,
) -> Reason {
    let needed = ask.classification.needed_tier;
    if best.model == ask.requested_model {
        return Reason::AsAsked;
    }
    if let Some(alias) = wish.alias {
        return Reason::Alias { alias: alias.to_owned(), needed };
    }
    let asked = || offered(route, ask.protocol).filter(|(_, _, model)| *model.name == *ask.requested_model);
    if asked().all(|(b, _, _)| !allowed(route, ask, &route.backends[b])) {
        return Reason::Sensitive { detectors: detected(route, ask) };
    }
    if let Some(rule) = bounds.rule {
        return Reason::Rule { rule: rule.name.clone() };
    }
    if !bounds.keep && asked().all(|(_, _, model)| !ask.required.is_subset(&model.capabilities)) {
        return Reason::NotCapable;
    }
    if bounds.keep || asked().all(|(b, _, _)| !healthy(&route.backends[b].name)) {
        return Reason::Unhealthy;
    }
    Reason::Cheaper { needed }
}

fn unknown(route: &Route, ask: &Ask<'_>) -> RouteError {
    let asked = ask.requested_model.to_owned();
    let models = offered(route, ask.protocol).map(|(_, _, model)| &*model.name);
    let offered: BTreeSet<&str> = models.chain(route.aliases.keys().map(String::as_str)).collect();
    let offered = offered.into_iter().map(str::to_owned).collect();
    let has_it = |backend: &&Backend| backend.models.iter().any(|model| *model.name == *asked);
    let formats = route.backends.iter().filter(has_it).flat_map(|backend| backend.provider.formats());
    let elsewhere: BTreeSet<&str> = formats.map(|format| format.path()).collect();
    if elsewhere.is_empty() {
        return RouteError::UnknownModel { route: route.key.to_string(), asked, offered };
    }
    let elsewhere = elsewhere.into_iter().map(str::to_owned).collect();
    RouteError::OtherProtocol { route: route.key.to_string(), asked, protocol: ask.protocol, elsewhere, offered }
}

/// Why nothing was ranked.
fn refusal(route: &Route, ask: &Ask<'_>, bounds: &Bounds<'_>) -> RouteError {
    let ceiling = bounds.ceiling;
    let name = route.key.to_string();
    let mut in_reach = offered(route, ask.protocol).filter(|(_, _, model)| model.tier <= ceiling).peekable();
    if in_reach.peek().is_none() {
        let rule = bounds.rule.map(|rule| rule.name.clone());
        return RouteError::NothingInReach { route: name, protocol: ask.protocol, ceiling, rule };
    }
    if in_reach.all(|(b, _, _)| !allowed(route, ask, &route.backends[b])) {
        let backends = route.backends.iter().filter(|backend| allowed(route, ask, backend)).map(|backend| backend.name.to_string());
        return RouteError::Sensitive { route: name, detectors: detected(route, ask), backends: backends.collect(), ceiling };
    }
    let obstacles = offered(route, ask.protocol)
        .filter(|(_, _, model)| model.tier <= ceiling)
        .map(|(b, _, _)| obstacle(ask, route.backends[b].provider));
    if let Some(what) = obstacles.collect::<Option<Vec<_>>>().and_then(|all| all.first().copied()) {
        let (asked, what) = (ask.requested_model.to_owned(), what.to_owned());
        return RouteError::Untranslatable { route: name, asked, protocol: ask.protocol, what };
    }
    let required = ask.required.iter().map(|capability| capability.name().to_owned()).collect();
    RouteError::NotCapable { route: name, required, ceiling }
}

/// What was found that a rule looks at.
fn detected(route: &Route, ask: &Ask<'_>) -> BTreeSet<Detector> {
    ask.classification.sensitive.intersection(&wanted_detectors(route)).copied().collect()
}

fn found(detectors: &BTreeSet<Detector>) -> String {
    let names: Vec<&str> = detectors.iter().map(|detector| detector.finds()).collect();
    names.join(" and ")
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no backend".to_owned() } else { names.join(", ") }
}

fn of_rule(rule: &Option<String>) -> String {
    rule.as_ref().map(|rule| format!(" of rule {rule}")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
