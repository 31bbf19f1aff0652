use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::dimensions::Dimension;
use crate::core::policy::{ComplexityThresholds, ResourceKey, SensitivityRule};
use crate::core::price::ModelPrice;
use crate::core::tariff::Rates;

fn model(name: &str, tier: Tier) -> Model {
    Model {
        name: name.into(),
        tier,
        capabilities: BTreeSet::from([Capability::Tools]),
        context_window: 100_000,
        max_output: 8_000,
        base_model: None,
        residency: String::new(),
    }
}

fn backend(name: &str, provider: Provider, models: Vec<Model>) -> Backend {
    let endpoint = "https://backend.example".into();
    Backend { name: name.into(), provider, endpoint, service_tier: None, has_credential: true, models }
}

/// Three tiers at one provider, a model on premises, and one over the other protocol.
fn route(mode: RouteMode) -> Route {
    let cloud = vec![model("big", Tier::Frontier), model("mid", Tier::Standard), model("small", Tier::Economy)];
    Route {
        key: ResourceKey::new("shop", "models"),
        backends: vec![
            backend("cloud", Provider::OpenAI, cloud),
            backend("onprem", Provider::OpenAI, vec![model("llama", Tier::Standard)]),
            backend("anthropic", Provider::Anthropic, vec![model("opus", Tier::Frontier)]),
        ],
        mode,
        complexity: ComplexityThresholds::default(),
        rules: vec![],
        sensitivity: vec![],
        aliases: BTreeMap::from([("auto".to_owned(), Tier::Frontier), ("cheap".to_owned(), Tier::Economy)]),
        fallback_attempts: 0,
        other_requests: Default::default(),
    }
}

fn price(model: &str, micro_per_token: i64) -> ModelPrice {
    let rate = PicoUsd::from_micro(micro_per_token);
    ModelPrice {
        model: model.into(),
        effective_from: "2026-01-01".into(),
        source: String::new(),
        tariff: Arc::new(Tariff::flat(Rates::plain(rate, rate))),
        context_window: None,
        max_output: None,
    }
}

fn catalogue() -> Catalogue {
    Catalogue::new([price("big", 10), price("mid", 3), price("llama", 4), price("small", 1), price("opus", 12)])
}

/// A call; what a test does not set is ordinary.
#[derive(Debug)]
struct Call {
    model: &'static str,
    needs: Tier,
    feature: &'static str,
    sensitive: BTreeSet<Detector>,
    required: BTreeSet<Capability>,
    protocol: Protocol,
    input_bound: u64,
    output_cap: Option<u64>,
    untranslatable: BTreeMap<Protocol, String>,
    down: &'static str,
}

impl Default for Call {
    fn default() -> Call {
        Call {
            model: "big",
            needs: Tier::Economy,
            feature: "chat",
            sensitive: BTreeSet::new(),
            required: BTreeSet::new(),
            protocol: Protocol::OpenAIChat,
            input_bound: 1_000,
            output_cap: Some(500),
            untranslatable: BTreeMap::new(),
            down: "",
        }
    }
}

impl Call {
    fn with<R>(&self, then: impl FnOnce(&Ask<'_>) -> R) -> R {
        let classification = Classification { complexity: 0, needed_tier: self.needs, sensitive: self.sensitive.clone() };
        then(&Ask {
            protocol: self.protocol,
            requested_model: self.model,
            dimensions: &Dimensions::from([(Dimension::Feature, self.feature.to_owned())]),
            classification: &classification,
            required: &self.required,
            input_bound: self.input_bound,
            output_cap: self.output_cap,
            untranslatable: &self.untranslatable,
        })
    }

    fn choose(&self, route: &Route) -> Result<Choice, RouteError> {
        self.with(|ask| choose(route, ask, &catalogue(), |backend| backend != self.down))
    }

    /// Names of the candidates in order, or the error's text.
    fn names(&self, route: &Route) -> Vec<String> {
        match self.choose(route) {
            Ok(choice) => choice.candidates.iter().map(|c| route.backends[c.backend].models[c.model].name.to_string()).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn reason(&self, route: &Route) -> Reason {
        self.choose(route).expect("the call is routed").reason
    }
}

fn rule(max_tier: Tier, only_if_sufficient: bool) -> TierRule {
    let dimensions = BTreeMap::from([(Dimension::Feature, BTreeSet::from(["chat".to_owned()]))]);
    TierRule { name: "feature-chat".into(), dimensions, max_tier, only_if_sufficient }
}

fn keep_cards_on_premises() -> SensitivityRule {
    SensitivityRule { detectors: BTreeSet::from([Detector::PaymentCard]), backends: BTreeSet::from(["onprem".to_owned()]) }
}

#[test]
fn observing_keeps_the_model_that_was_asked_for() {
    let route = route(RouteMode::Observe);
    for model in ["big", "mid", "small", "llama"] {
        for needs in Tier::ALL {
            let call = Call { model, needs, ..Call::default() };
            assert_eq!(call.names(&route), [model]);
            assert_eq!(call.reason(&route), Reason::AsAsked);
        }
    }
    let doubtful = Call { required: BTreeSet::from([Capability::Vision]), input_bound: 1_000_000, down: "cloud", ..Call::default() };
    assert_eq!(doubtful.names(&route), ["big"], "capabilities, limits and health of the model asked for are the caller's business");
}

#[test]
fn routing_takes_the_cheapest_model_of_the_tier_that_a_call_needs() {
    let route = route(RouteMode::Route);
    for (asked, needs, expected) in [
        ("big", Tier::Economy, "small"),
        ("big", Tier::Standard, "mid"),
        ("big", Tier::Frontier, "big"),
        ("llama", Tier::Standard, "mid"),
        ("mid", Tier::Frontier, "mid"),
        ("small", Tier::Frontier, "small"),
    ] {
        assert_eq!(Call { model: asked, needs, ..Call::default() }.names(&route), [expected], "{asked} for {needs:?}");
    }
}

#[test]
fn an_alias_stands_for_the_cheapest_capable_model_up_to_its_tier_in_either_mode() {
    for mode in [RouteMode::Observe, RouteMode::Route] {
        let route = route(mode);
        assert_eq!(Call { model: "auto", needs: Tier::Standard, ..Call::default() }.names(&route), ["mid"]);
        assert_eq!(Call { model: "cheap", needs: Tier::Frontier, ..Call::default() }.names(&route), ["small"]);
        let choice = Call { model: "auto", ..Call::default() }.choose(&route).unwrap();
        assert_eq!(choice.requested_tier, Some(Tier::Frontier));
        assert_eq!(choice.reason, Reason::Alias { alias: "auto".into(), needed: Tier::Economy });
    }
}

#[test]
fn a_rule_lowers_the_tier_of_matching_calls_in_either_mode() {
    for (mode, when_economy_is_enough) in [(RouteMode::Observe, "mid"), (RouteMode::Route, "small")] {
        let mut route = route(mode);
        route.rules = vec![rule(Tier::Standard, false)];
        let call = Call { needs: Tier::Frontier, ..Call::default() };
        assert_eq!(call.names(&route), ["mid"]);
        assert_eq!(call.reason(&route), Reason::Rule { rule: "feature-chat".into() });
        assert_eq!(Call::default().names(&route), [when_economy_is_enough], "{mode:?}: a rule goes no lower than it says");
        assert_eq!(Call { needs: Tier::Frontier, feature: "search", ..Call::default() }.names(&route), ["big"]);
    }
}

#[test]
fn a_rule_for_sufficient_tiers_leaves_harder_and_impossible_calls_alone() {
    let mut route = route(RouteMode::Observe);
    route.rules = vec![rule(Tier::Standard, true)];
    assert_eq!(Call { needs: Tier::Frontier, ..Call::default() }.names(&route), ["big"]);
    assert_eq!(Call { needs: Tier::Standard, ..Call::default() }.names(&route), ["mid"]);
    let elsewhere = Call { model: "opus", protocol: Protocol::AnthropicMessages, ..Call::default() };
    assert_eq!(elsewhere.names(&route), ["opus"], "no cheaper model speaks this protocol");
    route.rules[0].only_if_sufficient = false;
    assert_eq!(elsewhere.names(&route), ["mid"], "a rule that holds for every call is kept, if only by a translation");
    let untranslatable = BTreeMap::from([(Protocol::OpenAIChat, "a citation".to_owned())]);
    let text = Call { untranslatable, ..elsewhere }.names(&route).remove(0);
    assert!(text.contains("cannot be translated: a citation"), "{text}");
    route.backends.truncate(0);
    route.backends.push(backend("anthropic", Provider::Anthropic, vec![model("opus", Tier::Frontier)]));
    let text = Call { model: "opus", protocol: Protocol::AnthropicMessages, ..Call::default() }.names(&route).remove(0);
    assert!(text.contains("raise maxTier of rule feature-chat"), "{text}");
}

#[test]
fn sensitive_content_goes_only_where_every_matching_rule_lets_it() {
    let sensitive = BTreeSet::from([Detector::PaymentCard, Detector::Email]);
    for mode in [RouteMode::Observe, RouteMode::Route] {
        let mut route = route(mode);
        route.sensitivity = vec![keep_cards_on_premises()];
        let call = Call { needs: Tier::Frontier, sensitive: sensitive.clone(), ..Call::default() };
        assert_eq!(call.names(&route), ["llama"], "{mode:?}: where it may go outranks what it needs");
        assert_eq!(call.reason(&route), Reason::Sensitive { detectors: BTreeSet::from([Detector::PaymentCard]) });

        let harmless = Call { needs: Tier::Frontier, sensitive: BTreeSet::from([Detector::Email]), ..Call::default() };
        assert_eq!(harmless.names(&route), ["big"]);

        let below = Call { model: "small", sensitive: sensitive.clone(), ..Call::default() };
        assert!(matches!(below.choose(&route), Err(RouteError::Sensitive { .. })), "never above the tier that was asked for");

        route.sensitivity.push(SensitivityRule { detectors: BTreeSet::from([Detector::Email]), backends: BTreeSet::new() });
        let text = call.names(&route).remove(0);
        assert!(text.contains("an e-mail address and a payment card number") && text.contains("no backend"), "{text}");
    }
}

#[test]
fn a_model_that_cannot_do_the_call_is_not_chosen_in_place_of_the_one_asked_for() {
    let mut route = route(RouteMode::Route);
    route.backends[0].models[0].capabilities.insert(Capability::Vision);
    let vision = BTreeSet::from([Capability::Vision]);
    assert_eq!(Call { required: vision.clone(), ..Call::default() }.names(&route), ["big"]);
    let text = Call { model: "mid", required: vision, ..Call::default() }.names(&route).remove(0);
    assert!(text.contains("vision") && text.contains("capabilities"), "{text}");

    route.backends[0].models[2].context_window = 4_000;
    assert_eq!(Call { input_bound: 3_600, ..Call::default() }.names(&route), ["mid"], "4,100 tokens might not fit into 4,000");
    assert_eq!(Call { input_bound: 3_500, ..Call::default() }.names(&route), ["small"]);
    route.backends[0].models[2].max_output = 400;
    assert_eq!(Call::default().names(&route), ["mid"], "an answer is never cut shorter than the caller allows");
    let long = Call { model: "auto", input_bound: 1_000_000, ..Call::default() };
    assert_eq!(long.names(&route), ["mid"], "when nothing surely fits, the largest window is tried");
}

#[test]
fn the_output_limit_is_the_callers_cap_or_what_the_model_can_still_produce() {
    let route = route(RouteMode::Observe);
    let limit = |output_cap, input_bound| {
        let choice = Call { output_cap, input_bound, ..Call::default() }.choose(&route).unwrap();
        choice.candidates[0].output_limit
    };
    assert_eq!(limit(Some(500), 1_000), 500);
    assert_eq!(limit(Some(50_000), 1_000), 8_000);
    assert_eq!(limit(None, 1_000), 8_000);
    assert_eq!(limit(None, 190_000), 5_000);
    assert_eq!(limit(None, 1_000_000), 8_000);
}

#[test]
fn an_unhealthy_backend_answers_last() {
    let mut route = route(RouteMode::Route);
    let call = Call { model: "mid", needs: Tier::Standard, down: "cloud", ..Call::default() };
    assert_eq!(call.names(&route), ["llama"]);
    assert_eq!(call.reason(&route), Reason::Unhealthy);
    route.fallback_attempts = 5;
    assert_eq!(call.names(&route), ["llama", "mid", "small"]);
    route.mode = RouteMode::Observe;
    let call = Call { needs: Tier::Standard, ..Call::default() };
    assert_eq!(call.names(&route), ["big", "mid", "llama", "small", "opus"]);
    route.fallback_attempts = 1;
    assert_eq!(call.names(&route), ["big", "mid"]);
}

#[test]
fn an_unknown_model_is_answered_with_those_there_are() {
    let route = route(RouteMode::Route);
    let text = Call { model: "gpt-9", ..Call::default() }.names(&route).remove(0);
    assert_eq!(
        text,
        "ModelRoute shop/models has no model \"gpt-9\"; ask for one of auto, big, cheap, llama, mid, opus, small, or add it to spec.backends[].models"
    );
    let text = Call { model: "opus", protocol: Protocol::OpenAIResponses, ..Call::default() }.names(&route).remove(0);
    assert!(text.contains("not offered over /v1/responses; call it over /v1/messages"), "{text}");
}

#[test]
fn a_call_is_translated_when_it_asks_for_a_model_of_another_format_and_else_last() {
    let mut route = route(RouteMode::Observe);
    assert_eq!(Call { model: "opus", ..Call::default() }.names(&route), ["opus"]);
    route.fallback_attempts = 9;
    let names = Call { down: "cloud", ..Call::default() }.names(&route);
    assert_eq!(names, ["llama", "opus", "big", "small", "mid"], "what is healthy in another format is tried before what is down");
}

#[test]
fn a_model_without_a_price_comes_after_those_with_one() {
    let mut route = route(RouteMode::Route);
    route.backends[0].models.push(model("a-mystery", Tier::Economy));
    route.fallback_attempts = 5;
    assert_eq!(Call::default().names(&route), ["small", "mid", "llama", "big", "a-mystery", "opus"]);
}

#[test]
fn a_small_output_limit_does_not_make_a_model_look_cheap() {
    let mut route = route(RouteMode::Route);
    route.backends[1].models[0].max_output = 10;
    assert_eq!(Call { model: "big", needs: Tier::Standard, output_cap: None, ..Call::default() }.names(&route), ["mid"]);
}

#[test]
fn a_budget_that_cannot_pay_gets_the_best_cheaper_tier() {
    let route = route(RouteMode::Route);
    let below = |call: &Call, tier| {
        let choice = call.with(|ask| choose_below(&route, ask, &catalogue(), |_| true, tier))?;
        assert_eq!(choice.reason, Reason::BudgetLeft);
        let first = &choice.candidates[0];
        Ok::<_, RouteError>(route.backends[first.backend].models[first.model].name.clone())
    };
    let hard = Call { needs: Tier::Frontier, ..Call::default() };
    assert_eq!(below(&hard, Tier::Frontier), Ok("mid".into()));
    assert_eq!(below(&hard, Tier::Standard), Ok("small".into()));
    assert!(below(&hard, Tier::Economy).is_err());
}

fn any_tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(&Tier::ALL)
}

prop_compose! {
    fn any_model()(name in "[a-d]", tier in any_tier(), tools: bool, window in 1_000u64..200_000, max_output in 100u64..20_000) -> Model {
        let capabilities = if tools { BTreeSet::from([Capability::Tools]) } else { BTreeSet::new() };
        Model { name: name.into(), tier, capabilities, context_window: window, max_output, base_model: None, residency: String::new() }
    }
}

prop_compose! {
    fn any_route()(
        models in prop::collection::vec(prop::collection::vec(any_model(), 1..4), 1..4),
        routed: bool, strict: bool, max_tier in any_tier(), sensitive: bool, attempts in 0u32..3, with_rule: bool,
    ) -> Route {
        let named = |(i, models)| backend(&format!("b{i}"), Provider::OpenAI, models);
        Route {
            backends: models.into_iter().enumerate().map(named).collect(),
            rules: if with_rule { vec![rule(max_tier, !strict)] } else { vec![] },
            sensitivity: if sensitive {
                vec![SensitivityRule { detectors: BTreeSet::from([Detector::Secret]), backends: BTreeSet::from(["b1".to_owned()]) }]
            } else { vec![] },
            fallback_attempts: attempts,
            ..route(if routed { RouteMode::Route } else { RouteMode::Observe })
        }
    }
}

prop_compose! {
    fn any_call()(
        model in prop::sample::select(vec!["a", "b", "c", "d", "auto"]),
        needs in any_tier(), tools: bool, secret: bool, input_bound in 0u64..150_000, cap in prop::option::of(1u64..10_000),
        down in prop::sample::select(vec!["", "b0", "b1"]),
    ) -> Call {
        Call {
            model, needs, input_bound, output_cap: cap, down,
            required: if tools { BTreeSet::from([Capability::Tools]) } else { BTreeSet::new() },
            sensitive: if secret { BTreeSet::from([Detector::Secret]) } else { BTreeSet::new() },
            ..Call::default()
        }
    }
}

fn priced() -> Catalogue {
    Catalogue::new([price("a", 9), price("b", 5), price("c", 2), price("d", 2)])
}

proptest! {
    #[test]
    fn no_call_goes_above_its_tier_to_a_place_it_must_not_see_or_twice_to_the_same_model(route in any_route(), call in any_call()) {
        let decide = || call.with(|ask| choose(&route, ask, &priced(), |b| b != call.down));
        let first = decide();
        prop_assert_eq!(&first, &decide(), "the same call is decided the same way");
        let Ok(choice) = first else { return Ok(()) };
        prop_assert!(!choice.candidates.is_empty());
        prop_assert!(choice.candidates.len() <= route.fallback_attempts as usize + 1);
        for (i, candidate) in choice.candidates.iter().enumerate() {
            let backend = &route.backends[candidate.backend];
            let model = &backend.models[candidate.model];
            prop_assert!(Some(model.tier) <= choice.requested_tier);
            let leak = !call.sensitive.is_empty() && !route.sensitivity.is_empty() && *backend.name != *"b1";
            prop_assert!(!leak);
            prop_assert!(candidate.output_limit >= 1 && candidate.output_limit <= model.max_output);
            let same = |c: &Candidate| (c.backend, c.model) == (candidate.backend, candidate.model);
            prop_assert!(!choice.candidates[..i].iter().any(same));
        }
    }

    /// Admissibility is stated here a second time, from the promise: capable, allowed, healthy, surely fitting, in the tiers.
    #[test]
    fn a_routed_call_gets_the_cheapest_admissible_model(route in any_route(), call in any_call()) {
        let route = Route { mode: RouteMode::Route, rules: vec![], ..route };
        let Ok(choice) = call.with(|ask| choose(&route, ask, &priced(), |b| b != call.down)) else { return Ok(()) };
        let ceiling = choice.requested_tier.expect("a routed call has a tier");
        let prices = priced();
        let per_token = |model: &Model| prices.latest(&model.name).map_or(PicoUsd::MAX, |price| price.tariff.list().input);
        let admissible = |backend: &Backend, model: &Model| {
            let allowed = call.sensitive.is_empty() || route.sensitivity.is_empty() || *backend.name == *"b1";
            let cap = call.output_cap.unwrap_or(0);
            let fits = *model.name == *call.model || (cap <= model.max_output && call.input_bound + cap.max(1) <= model.context_window);
            let in_tiers = model.tier <= ceiling && model.tier >= call.needs.min(ceiling);
            allowed && fits && in_tiers && call.required.is_subset(&model.capabilities) && *backend.name != *call.down
        };
        let all = route.backends.iter().flat_map(|b| b.models.iter().map(move |m| (b, m)));
        if let Some(least) = all.filter(|(b, m)| admissible(b, m)).map(|(_, m)| per_token(m)).min() {
            let chosen = &choice.candidates[0];
            prop_assert_eq!(per_token(&route.backends[chosen.backend].models[chosen.model]), least);
        }
    }
}
