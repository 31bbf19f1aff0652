//! Bad resources of each kind: refused, with a message that names the field and the remedy.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::chart::documents;
use super::scene::{Scene, ours, refusal};
use super::server::repository;

/// Tries each `(spec, field, remedy)`; all that is wrong is told at once.
async fn all_are_refused(scene: &Scene<'_>, kind: &str, table: Vec<(Value, &str, &str)>) {
    let mut wrong = Vec::new();
    for (spec, field, remedy) in table {
        match scene.try_out(ours(kind, "bad", spec.clone())).await {
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                let message = &status.message;
                if !message.contains(field) || !message.contains(remedy) {
                    wrong.push(format!("{spec}\n  is refused, but neither by {field:?} nor by {remedy:?}:\n  {message}"));
                }
            }
            other => wrong.push(format!("{spec}\n  is not refused as bad: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `good` with `change` merged into it (RFC 7386).
fn with(good: &Value, change: Value) -> Value {
    let mut changed = good.clone();
    json_patch::merge(&mut changed, &change);
    changed
}

fn good_budget() -> Value {
    json!({"limits": [{"name": "m", "usd": "1", "period": "Month"}]})
}

fn limit(more: Value) -> Value {
    json!({"limits": [with(&json!({"name": "m", "usd": "1", "period": "Month"}), more)]})
}

#[tokio::test]
async fn a_bad_budget_is_refused_with_field_and_remedy() {
    let scene = Scene::new("bad-budgets").await;
    let good = good_budget();
    let one = json!({"name": "m", "usd": "1", "period": "Month"});
    let grant = |more: Value| {
        let grant = json!({"limit": "m", "usd": "1", "from": "2026-12-01T00:00:00Z", "until": "2026-12-02T00:00:00Z", "reason": "launch"});
        with(&good, json!({"grants": [with(&grant, more)]}))
    };
    let scope = |more: Value| with(&good, json!({"scope": more}));
    let table = vec![
        // Seen by the schema.
        (json!({}), "spec.limits", "Required"),
        (json!({"limits": []}), "spec.limits", "at least 1"),
        (limit(json!({"name": "Total_1"})), "spec.limits[0].name", "should match"),
        (limit(json!({"usd": "ten"})), "spec.limits[0].usd", "should match"),
        (limit(json!({"usd": 10})), "spec.limits[0].usd", "must be of type string"),
        (limit(json!({"usd": null, "tokens": 0})), "spec.limits[0].tokens", "greater than or equal to 1"),
        (limit(json!({"period": "Decade"})), "spec.limits[0].period", "\"Lifetime\""),
        (limit(json!({"period": "Rolling", "rolling": "1y"})), "spec.limits[0].rolling", "should match"),
        (with(&good, json!({"enforcement": "Halt"})), "spec.enforcement", "\"Block\""),
        (with(&good, json!({"splitBy": "colour"})), "spec.splitBy", "\"session\""),
        (with(&good, json!({"alerts": [{"percentSpent": 0}]})), "spec.alerts[0].percentSpent", "greater than or equal to 1"),
        (grant(json!({"from": "tomorrow"})), "spec.grants[0].from", "date-time"),
        (grant(json!({"reason": ""})), "spec.grants[0].reason", "at least 1"),
        // Seen by CEL.
        (limit(json!({"tokens": 5})), "spec.limits[0]", "set exactly one of usd, tokens and requests"),
        (limit(json!({"usd": null})), "spec.limits[0]", "set exactly one of usd, tokens and requests"),
        (limit(json!({"period": "Rolling"})), "spec.limits[0]", "rolling: 24h"),
        (limit(json!({"rolling": "24h"})), "spec.limits[0]", "goes with period Rolling"),
        (json!({"limits": [one, one]}), "limits", "give each its own"),
        (with(&good, json!({"alerts": [{"percentSpent": 80, "percentForecast": 100}]})), "spec.alerts[0]", "set exactly one of"),
        (grant(json!({"limit": "other"})), "grants", "must be the name of one of spec.limits"),
        (grant(json!({"until": "2026-12-01T00:00:00Z"})), "spec.grants[0]", "later than `from`"),
        // Seen by the webhook alone.
        (limit(json!({"usd": "0"})), "spec.limits[0].usd", "more than zero"),
        (limit(json!({"usd": "-1"})), "spec.limits[0].usd", "more than zero"),
        (limit(json!({"timeZone": "Europe/Zurch"})), "spec.limits[0].timeZone", "write for example \"UTC\" or \"Europe/Zurich\""),
        (limit(json!({"period": "Rolling", "rolling": "999999d"})), "spec.limits[0].rolling", "at most ten years"),
        (grant(json!({"usd": null, "tokens": 5})), "spec.grants[0]", "grant in the unit of the limit"),
        (scope(json!({"match": "call.team =="})), "spec.scope.match", ""),
        (scope(json!({"match": "call.colour == 'red'"})), "spec.scope.match", "colour"),
        (scope(json!({"match": "call.team"})), "spec.scope.match", ""),
        (scope(json!({"workloads": {"namespaces": {}}})), "spec.scope.workloads.namespaces", "move the resource there"),
    ];
    all_are_refused(&scene, "AIBudget", table).await;
}

#[tokio::test]
async fn a_bad_route_is_refused_with_field_and_remedy() {
    let scene = Scene::new("bad-routes").await;
    let model = json!({"name": "gpt-5.4", "tier": "frontier"});
    let backend = json!({"name": "b", "provider": "OpenAI", "endpoint": "https://api.openai.com", "models": [model]});
    let good = json!({"backends": [backend]});
    let of_backend = |more: Value| json!({"backends": [with(&backend, more)]});
    let of_model = |more: Value| of_backend(json!({"models": [with(&model, more)]}));
    let policy = |more: Value| with(&good, json!({"policy": more}));
    let rule = json!({"name": "r", "maxTier": "economy"});
    let table = vec![
        (json!({}), "spec.backends", "Required"),
        (json!({"backends": []}), "spec.backends", "at least 1"),
        (of_backend(json!({"name": "B!"})), "spec.backends[0].name", "should match"),
        (of_backend(json!({"provider": "Gopher"})), "spec.backends[0].provider", "\"AzureOpenAI\""),
        (of_backend(json!({"endpoint": "ftp://x"})), "spec.backends[0].endpoint", "should match"),
        (of_backend(json!({"credentials": {}})), "spec.backends[0].credentials.name", "Required"),
        (of_backend(json!({"models": []})), "spec.backends[0].models", "at least 1"),
        (of_model(json!({"tier": "luxury"})), "spec.backends[0].models[0].tier", "\"economy\""),
        (of_model(json!({"maxOutput": 0})), "spec.backends[0].models[0].maxOutput", "greater than or equal to 1"),
        (of_model(json!({"price": {"input": "1"}})), "spec.backends[0].models[0].price.output", "Required"),
        (policy(json!({"complexity": {"frontier": 101}})), "spec.policy.complexity.frontier", "less than or equal to 100"),
        (policy(json!({"sensitivity": [{"detectors": []}]})), "spec.policy.sensitivity[0].detectors", "at least 1"),
        (policy(json!({"rules": [rule, rule]})), "spec.policy.rules[1]", "Duplicate"),
        (with(&good, json!({"fallback": {"attempts": 9}})), "spec.fallback.attempts", "less than or equal to 5"),
        (json!({"backends": [backend, backend]}), "backends", "give each its own"),
        (of_backend(json!({"models": [model, model]})), "models", "listed twice"),
        (policy(json!({"complexity": {"standard": 80, "frontier": 20}})), "spec.policy.complexity", "must not be above `frontier`"),
        (of_model(json!({"name": "unheard-of"})), "spec.backends[0].models[0].contextWindow", "give its contextWindow in tokens"),
        (of_model(json!({"price": {"input": "-1", "output": "1"}})), "spec.backends[0].models[0].price.input", "must not be negative"),
        (of_model(json!({"price": {"input": "1", "output": "0.0000001"}})), "spec.backends[0].models[0].price.output", "decimals"),
        (policy(json!({"sensitivity": [{"detectors": ["Email"], "backends": ["c"]}]})), "spec.policy.sensitivity[0].backends", "\"c\""),
        (with(&good, json!({"aliases": [{"name": "gpt-5.4"}]})), "spec.aliases[0].name", "a name of its own"),
        (with(&good, json!({"workloads": {"namespaces": {}}})), "spec.workloads.namespaces", "move the resource there"),
    ];
    all_are_refused(&scene, "ModelRoute", table).await;
}

#[tokio::test]
async fn a_bad_allocation_is_refused_with_field_and_remedy() {
    let scene = Scene::new("bad-allocations").await;
    let owner = json!({"name": "support", "match": "call.team == 'support'"});
    let good = json!({"owners": [owner]});
    let shared =
        |more: Value| with(&good, json!({"sharedCosts": [with(&json!({"name": "v", "usdPerPeriod": "1", "driver": "Calls"}), more)]}));
    let sizing = |more: Value| with(&good, json!({"rightSizing": [with(&json!({"deployment": "bot", "container": "app"}), more)]}));
    let outcome = |more: Value| with(&good, json!({"outcomes": [with(&json!({"name": "ticket", "owner": "support"}), more)]}));
    let metric = |more: Value| outcome(json!({"metric": with(&json!({"name": "tickets_total", "port": 9100}), more)}));
    let cost = json!({"name": "v", "usdPerPeriod": "1", "driver": "Calls"});
    let table = vec![
        (json!({}), "spec.owners", "Required"),
        (json!({"owners": []}), "spec.owners", "at least 1"),
        (json!({"owners": [{"name": "a"}]}), "spec.owners[0].match", "Required"),
        (with(&good, json!({"period": "Decade"})), "spec.period", "\"Month\""),
        (shared(json!({"driver": "Luck"})), "spec.sharedCosts[0].driver", "\"Tokens\""),
        (shared(json!({"capacity": 0, "idle": "Keep"})), "spec.sharedCosts[0].capacity", "greater than or equal to 1"),
        (sizing(json!({"percentile": 10})), "spec.rightSizing[0].percentile", "greater than or equal to 50"),
        (metric(json!({"port": 70_000})), "spec.outcomes[0].metric.port", "less than or equal to 65535"),
        (metric(json!({"path": "metrics"})), "spec.outcomes[0].metric.path", "should match"),
        (json!({"owners": [owner, owner]}), "owners", "put both rules into one expression with ||"),
        (with(&good, json!({"sharedCosts": [cost, cost]})), "sharedCosts", "give each its own"),
        (shared(json!({"capacity": 5})), "spec.sharedCosts[0]", "Keep or Distribute"),
        (with(&good, json!({"timeZone": "Nowhere"})), "spec.timeZone", "IANA"),
        (json!({"owners": [{"name": "a", "match": "1 +"}]}), "spec.owners[0].match", ""),
        (shared(json!({"usdPerPeriod": "-1"})), "spec.sharedCosts[0].usdPerPeriod", "must not be negative"),
        (shared(json!({"driver": "Tokens", "endpoint": "http://v"})), "spec.sharedCosts[0].driver", "Calls or Bytes"),
        (outcome(json!({"owner": "nobody"})), "spec.outcomes[0].owner", "no owner \"nobody\""),
        (with(&good, json!({"workloads": {"namespaces": {}}})), "spec.workloads.namespaces", "move the resource there"),
        (metric(json!({"workloads": {"namespaces": {}}})), "spec.outcomes[0].metric.workloads.namespaces", "move the resource there"),
    ];
    all_are_refused(&scene, "CostAllocation", table).await;
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_at_once() {
    let scene = Scene::new("all-at-once").await;
    let limits =
        [("a", "Mars/Base"), ("b", "Venus/Base")].map(|(name, zone)| json!({"name": name, "usd": "1", "period": "Day", "timeZone": zone}));
    let (code, message) = refusal(scene.try_out(ours("AIBudget", "bad", json!({"scope": {"match": "1 +"}, "limits": limits}))).await);
    assert_eq!(code, 422);
    for part in ["spec.scope.match", "spec.limits[0].timeZone", "spec.limits[1].timeZone"] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn what_a_resource_leaves_out_is_filled_in() {
    let scene = Scene::new("defaults").await;
    let model = json!({"name": "gpt-5.4", "tier": "frontier"});
    let backend = json!({"name": "b", "provider": "OpenAI", "endpoint": "https://x", "credentials": {"name": "s"}, "models": [model]});
    let table = [
        (
            "AIBudget",
            good_budget(),
            vec![
                ("/spec/scope", json!({})),
                ("/spec/enforcement", json!("Block")),
                ("/spec/onLedgerUnavailable", json!("FailClosed")),
                ("/spec/unpricedModels", json!("Deny")),
                ("/spec/limits/0/timeZone", json!("UTC")),
            ],
        ),
        (
            "ModelRoute",
            json!({"backends": [backend], "aliases": [{"name": "auto"}], "policy": {"rules": [{"name": "r", "maxTier": "economy"}]}}),
            vec![
                ("/spec/backends/0/credentials/key", json!("api-key")),
                ("/spec/policy/mode", json!("Observe")),
                ("/spec/policy/complexity", json!({"standard": 35, "frontier": 65})),
                ("/spec/policy/rules/0/onlyIfSufficient", json!(true)),
                ("/spec/aliases/0/maxTier", json!("frontier")),
                ("/spec/fallback/attempts", json!(0)),
            ],
        ),
        (
            "CostAllocation",
            json!({"owners": [{"name": "a", "match": "true"}], "rightSizing": [{"deployment": "d", "container": "c"}],
            "outcomes": [{"name": "o", "owner": "a", "metric": {"name": "m", "port": 1}}]}),
            vec![
                ("/spec/period", json!("Month")),
                ("/spec/timeZone", json!("UTC")),
                (
                    "/spec/rightSizing/0",
                    json!({"deployment": "d", "container": "c", "percentile": 99, "headroomPercent": 15, "minHistorySeconds": 86_400}),
                ),
                ("/spec/outcomes/0/metric/path", json!("/metrics")),
            ],
        ),
    ];
    for (kind, spec, filled_in) in table {
        let taken = scene.create(ours(kind, "good", spec)).await.unwrap();
        for (pointer, value) in filled_in {
            assert_eq!(taken.data.pointer(pointer), Some(&value), "{kind} {pointer}: {}", taken.data);
        }
    }
}

#[tokio::test]
async fn every_example_is_accepted() {
    let scene = Scene::new("examples").await;
    let mut accepted = 0;
    for entry in std::fs::read_dir(repository("examples/demo")).unwrap() {
        let path = entry.unwrap().path();
        let is_manifest = path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("values.yaml");
        let manifests = if is_manifest { documents(&std::fs::read_to_string(&path).unwrap()) } else { vec![] };
        for mut manifest in manifests.into_iter().filter(|m| m["apiVersion"] == "spendkeeper.dev/v1alpha1") {
            if manifest["metadata"]["namespace"] != super::cluster::SYSTEM {
                manifest["metadata"]["namespace"] = json!(scene.namespace);
            }
            let name = format!("{} of {}", manifest["metadata"]["name"], path.display());
            let taken = scene.try_out(manifest).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!taken.name_any().is_empty());
            accepted += 1;
        }
    }
    assert!(accepted >= 5, "{accepted}");
}
