use super::*;
use crate::api::{AIBudget, CostAllocation, ModelRoute};
use crate::core::dimensions::{Dimension, Origin};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn resource<T: DeserializeOwned>(kind: &str, namespace: &str, name: &str, spec: Value) -> Arc<T> {
    let object = json!({
        "apiVersion": "spendkeeper.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"namespace": namespace, "name": name, "uid": name, "generation": 1},
    });
    Arc::new(serde_json::from_value(object).expect("a resource"))
}

fn budget(namespace: &str, name: &str, scope: Value) -> Arc<AIBudget> {
    resource("AIBudget", namespace, name, json!({"scope": scope, "limits": [{"name": "m", "usd": "1", "period": "Month"}]}))
}

fn route(namespace: &str, name: &str, input: Option<&str>) -> Arc<ModelRoute> {
    let price = input.map(|input| json!({"input": input, "output": "2"}));
    let mut model = json!({"name": "llama", "tier": "economy", "contextWindow": 8192, "maxOutput": 1024});
    model["price"] = price.unwrap_or_else(|| json!({"input": "1", "output": "2"}));
    let backend = json!({"name": "own", "provider": "OpenAI", "endpoint": "http://llm", "models": [model],
        "credentials": {"name": "keys", "key": "own"}});
    resource("ModelRoute", namespace, name, json!({"backends": [backend]}))
}

fn allocation(namespace: &str, workloads: Value, metric: Value) -> Arc<CostAllocation> {
    let spec = json!({
        "workloads": workloads,
        "owners": [{"name": "a", "match": "true"}],
        "sharedCosts": [{"name": "store", "usdPerPeriod": "3", "driver": "Calls", "endpoint": "http://store"}],
        "outcomes": [{"name": "ticket", "owner": "a", "metric": metric}],
    });
    resource("CostAllocation", namespace, "all", spec)
}

fn snapshot() -> Snapshot {
    let namespace = |name: &str| NamespaceFacts { name: name.into(), labels: [("kubernetes.io/metadata.name".into(), name.into())].into() };
    Snapshot { namespaces: vec![namespace("shop"), namespace("dev"), namespace("system")], ..Snapshot::default() }
}

fn pod(namespace: &str, app: &str) -> PodFacts {
    PodFacts {
        origin: Origin { namespace: namespace.into(), workload: format!("Deployment/{app}"), pod: app.into(), pod_uid: "u".into() },
        labels: [("app".to_owned(), app.to_owned())].into(),
        annotations: [("spendkeeper.dev/team".to_owned(), "support".to_owned())].into(),
        ..PodFacts::default()
    }
}

fn policy(snapshot: &Snapshot, pod: &PodFacts) -> PodPolicy {
    Rules::of(snapshot, "system", &Throttles::default()).policy_for(pod)
}

#[test]
fn a_sidecar_is_told_only_what_is_about_its_own_pod() {
    let everywhere = json!({"workloads": {"namespaces": {}}});
    let bot = json!({"workloads": {"pods": {"matchLabels": {"app": "bot"}}}});
    let snapshot = Snapshot {
        budgets: vec![
            budget("dev", "theirs", json!({})),
            budget("shop", "bot", bot),
            budget("shop", "ours", json!({})),
            budget("system", "company", everywhere.clone()),
            budget("dev", "grasping", everywhere),
            budget("system", "own-only", json!({})),
        ],
        ..snapshot()
    };
    let keys = |pod: &PodFacts| policy(&snapshot, pod).policy.budgets.iter().map(|b| b.key.0.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&pod("shop", "bot")), ["shop/bot", "shop/ours", "system/company"]);
    assert_eq!(keys(&pod("shop", "web")), ["shop/ours", "system/company"]);
    assert_eq!(keys(&pod("dev", "bot")), ["dev/theirs", "dev/grasping", "system/company"]);
}

#[test]
fn dimensions_and_origin_are_the_pods_own() {
    let policy = policy(&snapshot(), &pod("shop", "bot")).policy;
    assert_eq!(*policy.origin, pod("shop", "bot").origin);
    assert!(policy.dimensions.is_pinned(Dimension::Team));
}

#[test]
fn what_does_not_parse_has_no_force_and_spoils_nothing_else() {
    let broken = budget("shop", "broken", json!({"match": "call.team =="}));
    let snapshot = Snapshot { budgets: vec![broken, budget("shop", "good", json!({}))], ..snapshot() };
    let budgets = policy(&snapshot, &pod("shop", "bot")).policy.budgets;
    assert_eq!(budgets.iter().map(|b| b.key.0.as_str()).collect::<Vec<_>>(), ["shop/good"]);
}

#[test]
fn a_credential_is_looked_for_in_its_routes_own_namespace() {
    let snapshot = Snapshot { routes: vec![route("shop", "models", None)], ..snapshot() };
    let found = policy(&snapshot, &pod("shop", "bot"));
    let source = CredentialSource { namespace: "shop".into(), secret: "keys".into(), key: "own".into() };
    let needed = Needed { route: ResourceKey::new("shop", "models"), backend: "own".into(), source: source.clone() };
    assert_eq!(found.credentials, [needed]);
    assert!(found.policy.routes[0].backends[0].has_credential);
    assert!(policy(&snapshot, &pod("dev", "bot")).credentials.is_empty());
    assert_eq!(Rules::of(&snapshot, "system", &Throttles::default()).credential_sources(), [source].into());
}

#[test]
fn of_two_prices_for_a_model_the_first_routes_holds() {
    let snapshot = Snapshot { routes: vec![route("shop", "a", Some("3")), route("shop", "b", Some("5"))], ..snapshot() };
    let prices = policy(&snapshot, &pod("shop", "bot")).policy.prices;
    let catalogue = Catalogue::new(prices);
    assert_eq!(catalogue.latest("llama").map(|p| p.tariff.list().input), crate::core::money::PicoUsd::per_token_from_per_million("3").ok());
}

#[test]
fn a_metrics_selector_narrows_the_allocations() {
    let workloads =
        json!({"namespaces": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop"]}]}});
    let metric = json!({"name": "tickets_total", "port": 9100, "workloads": {"pods": {"matchLabels": {"app": "bot"}}}});
    let snapshot = Snapshot { allocations: vec![allocation("system", workloads, metric)], ..snapshot() };
    let seen = |pod: &PodFacts| {
        let policy = policy(&snapshot, pod).policy;
        (policy.meters.len(), policy.outcomes.len())
    };
    assert_eq!(seen(&pod("shop", "bot")), (1, 1));
    assert_eq!(seen(&pod("shop", "web")), (1, 0), "the meter is for every selected pod, the metric for those that have it");
    assert_eq!(seen(&pod("dev", "bot")), (0, 0));
}

#[test]
fn an_outcome_is_counted_once_however_many_allocations_name_it() {
    let metric = json!({"name": "tickets_total", "port": 9100});
    let allocations = vec![allocation("shop", Value::Null, metric.clone()), allocation("system", json!({"namespaces": {}}), metric)];
    let policy = policy(&Snapshot { allocations, ..snapshot() }, &pod("shop", "bot")).policy;
    assert_eq!((policy.meters.len(), policy.outcomes.len()), (1, 1));
}

#[test]
fn a_status_update_makes_no_new_rules() {
    let before = Snapshot { budgets: vec![budget("shop", "b", json!({}))], ..snapshot() };
    let mut changed = AIBudget::clone(&before.budgets[0]);
    changed.metadata.resource_version = Some("2".into());
    changed.metadata.annotations = Some([("spendkeeper.dev/approve".to_owned(), "1".to_owned())].into());
    let after = Snapshot { budgets: vec![Arc::new(changed.clone())], ..snapshot() };
    assert_eq!(Fingerprint::of(&before, &Throttles::default()), Fingerprint::of(&after, &Throttles::default()));
    changed.metadata.generation = Some(2);
    let edited = Snapshot { budgets: vec![Arc::new(changed)], ..snapshot() };
    assert_ne!(Fingerprint::of(&before, &Throttles::default()), Fingerprint::of(&edited, &Throttles::default()));
}

#[test]
fn a_price_list_of_ones_own_is_above_the_catalogue_and_below_the_routes() {
    let list = json!({"llama": {"input_cost_per_token": 7e-6, "output_cost_per_token": 8e-6}, "other": {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}});
    let rate = |text: &str| crate::core::money::PicoUsd::per_token_from_per_million(text).ok();
    let with =
        |routes| Snapshot { routes, prices: vec![("prices.json".into(), list.to_string()), ("bad.json".into(), "{".into())], ..snapshot() };
    let latest = |snapshot: &Snapshot| {
        let prices = policy(snapshot, &pod("shop", "bot")).policy.prices;
        assert!(prices.iter().all(|price| price.model == "llama"), "prices of other models are nobody's business here");
        Catalogue::new(prices).latest("llama").map(|price| price.tariff.list().input)
    };
    assert_eq!(latest(&with(vec![route("shop", "models", Some("3"))])), rate("3"));
    let mut unpriced = ModelRoute::clone(&route("shop", "models", None));
    unpriced.spec.backends[0].models[0].price = None;
    assert_eq!(latest(&with(vec![Arc::new(unpriced)])), rate("7"));
}

#[test]
fn whoever_ran_away_is_held_back_in_the_pods_that_its_budget_selects_and_nowhere_else() {
    let scope = json!({"workloads": {"pods": {"matchLabels": {"app": "bot"}}}});
    let spec =
        json!({"scope": scope, "limits": [{"name": "m", "usd": "1", "period": "Month"}], "runaway": {"by": "agent", "action": "Throttle"}});
    let snapshot = Snapshot { budgets: vec![resource("AIBudget", "shop", "b", spec)], ..snapshot() };
    let held = crate::core::throttle::Throttle { value: "a".into(), allowance: 7 };
    let throttles: Throttles = [(ResourceKey::new("shop", "b"), vec![held])].into();
    let names = |app: &str, throttles: &Throttles| -> Vec<String> {
        let budgets = Rules::of(&snapshot, "system", throttles).policy_for(&pod("shop", app)).policy.budgets;
        budgets.into_iter().map(|budget| budget.key.0).collect()
    };
    assert_eq!(names("bot", &Throttles::default()), ["shop/b"]);
    assert!(names("bot", &throttles)[1].starts_with("shop/b~") && names("web", &throttles).is_empty());
    assert_ne!(Fingerprint::of(&snapshot, &throttles), Fingerprint::of(&snapshot, &Throttles::default()));
}
