//! Calls of an app through the real sidecar, and what the cluster says of them.

use serde_json::json;
use spendkeeper::api::{AIBudget, ModelRoute};

use super::provider::Provider;
use super::scene::{CREDENTIAL, Scene, budget, route};
use super::server::succeeded;
use super::sidecar::Sidecar;
use super::wait::until;
use super::workload::{Workload, injected};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_out_with_the_providers_key_and_its_cost_is_the_budgets() {
    let scene = Scene::new("call").await;
    let provider = Provider::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "provider"}, "stringData": {"api-key": format!("{CREDENTIAL}-2")}});
    scene.create(secret).await.unwrap();
    let mut models = route("models", &provider.address);
    models["spec"]["backends"][0]["credentials"] = json!({"name": "provider"});
    scene.create(models).await.unwrap();
    scene.budget_in_force("b", json!({"usd": "1"})).await;
    let workload = Workload::start(&scene, injected("bot")).await;
    let sidecar = Sidecar::start(&scene, &workload).await;

    let answer = sidecar.chat(400).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["x-spend-cost-usd"], "0.00406");
    assert_eq!(provider.authorizations(), [format!("Bearer {CREDENTIAL}-2")], "the app's own key is a placeholder");
    let stands = |b: &AIBudget| b.status.as_ref().is_some_and(|s| s.limits[0].spent == "$0.004060" && s.limits[0].reserved == "$0.000000");
    scene.once::<AIBudget>("the call is spent and the rest is free again", "b", stands).await;
    let counted =
        scene.once::<ModelRoute>("the route counts the call", "models", |r| r.status.as_ref().is_some_and(|s| s.calls == 1)).await;
    let status = counted.status.unwrap();
    assert_eq!((status.cost.as_str(), status.frontier_percent), ("$0.004060", Some(100)));

    let everything = succeeded(&scene.kubectl(&["get", "pods,modelroutes,aibudgets,events.events.k8s.io", "-o", "json"]));
    assert!(!everything.contains(CREDENTIAL) && !sidecar.metrics().contains(CREDENTIAL));
    let log = scene.cluster.server.directory.join(&workload.uid).join("sidecar.log");
    assert!(!std::fs::read_to_string(log).unwrap().contains(CREDENTIAL));
    assert!(sidecar.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_fit_is_refused_until_its_budget_is_raised() {
    let scene = Scene::new("refused-call").await;
    let provider = Provider::start().await;
    scene.create(route("models", &provider.address)).await.unwrap();
    scene.budget_in_force("b", json!({"usd": "0.001"})).await;
    let workload = Workload::start(&scene, injected("bot")).await;
    let sidecar = Sidecar::start(&scene, &workload).await;

    let refusal = sidecar.chat(400).await;
    assert_eq!((refusal.status, refusal.headers["x-should-retry"].to_str().unwrap()), (429, "false"));
    assert!(refusal.text.contains("budget refused-call/b"), "{}", refusal.text);
    assert_eq!(provider.billed_micro(), 0);
    let exhausted =
        |b: &AIBudget, status: &str| b.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Exhausted" && c.status == status);
    scene.once::<AIBudget>("the budget is exhausted", "b", |b| exhausted(b, "True")).await;
    scene.told("b", "LimitReached").await;

    let limits = json!([{"name": "total", "usd": "1", "period": "Lifetime"}]);
    scene.merge::<AIBudget>(&scene.client, "b", json!({"spec": {"limits": limits}})).await.unwrap();
    until("calls are answered again", async || match sidecar.chat(400).await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text),
    })
    .await;
    scene.once::<AIBudget>("the budget has room again", "b", |b| exhausted(b, "False")).await;
    scene.told("b", "Within").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_away_is_named_and_held_back_within_seconds() {
    let scene = Scene::new("runaway").await;
    let provider = Provider::start().await;
    scene.create(route("models", &provider.address)).await.unwrap();
    let mut watched = budget("b", json!({"usd": "1"}));
    watched["spec"]["runaway"] = json!({"by": "workload", "action": "Throttle"});
    scene.create(watched).await.unwrap();
    scene.once::<AIBudget>("the budget has a status", "b", |b| b.status.is_some()).await;
    let workload = Workload::start(&scene, injected("bot")).await;
    let sidecar = Sidecar::start(&scene, &workload).await;

    let refusal = until("the loop is stopped", async || match sidecar.chat(400).await {
        answer if answer.status == 200 => Err(answer.text),
        answer => Ok(answer),
    })
    .await;
    assert!(refusal.text.contains("budget runaway/b~") && refusal.text.contains("limit runaway ($"), "{}", refusal.text);
    assert_eq!((refusal.status, refusal.headers["retry-after"].to_str().unwrap()), (429, "60"));
    assert!(provider.billed_micro() < 900_000, "the budget itself had room: {}", provider.billed_micro());
    let runs = |b: &AIBudget| {
        b.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Runaway" && c.status == "True" && c.message.contains("bot"))
    };
    scene.once::<AIBudget>("the budget says who", "b", runs).await;
    scene.told("b", "RunningAway").await;
}

#[tokio::test]
async fn a_secret_that_comes_after_its_route_is_used_within_seconds() {
    let scene = Scene::new("late-secret").await;
    let provider = Provider::start().await;
    let mut models = route("models", &provider.address);
    models["spec"]["backends"][0]["credentials"] = json!({"name": "late"});
    scene.create(models).await.unwrap();
    let workload = Workload::start(&scene, injected("bot")).await;
    let sidecar = Sidecar::start(&scene, &workload).await;
    let refusal = sidecar.chat(10).await;
    assert!(refusal.status >= 400 && provider.authorizations().is_empty(), "{} {}", refusal.status, refusal.text);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"api-key": format!("{CREDENTIAL}-3")}});
    scene.create(secret).await.unwrap();
    until("calls are answered", async || match sidecar.chat(10).await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer.text),
    })
    .await;
    assert_eq!(provider.authorizations(), [format!("Bearer {CREDENTIAL}-3")]);
}
