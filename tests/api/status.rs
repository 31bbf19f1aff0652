//! What the operator says of each resource: conditions, Events, and one owner of the status.

use kube::{Resource, ResourceExt};
use serde_json::json;
use spendkeeper::api::common::Condition;
use spendkeeper::api::{AIBudget, CostAllocation, ModelRoute};

use super::cluster::EARLIER;
use super::scene::{Scene, budget, ours, route};
use super::server::succeeded;

fn condition<'a>(conditions: &'a [Condition], type_: &str) -> &'a Condition {
    conditions.iter().find(|c| c.type_ == type_).unwrap_or_else(|| panic!("no {type_} in {conditions:?}"))
}

async fn three_kinds(scene: &Scene<'_>) {
    scene.create(budget("b", json!({"usd": "1"}))).await.unwrap();
    scene.create(route("r", "http://127.0.0.1:1")).await.unwrap();
    scene.create(ours("CostAllocation", "c", json!({"owners": [{"name": "all", "match": "true"}]}))).await.unwrap();
}

#[tokio::test]
async fn kubectl_wait_works_for_all_three_kinds() {
    let scene = Scene::new("wait").await;
    three_kinds(&scene).await;
    let waited = scene.kubectl(&["wait", "--for=condition=Ready", "--timeout=20s", "aibudget/b", "modelroute/r", "costallocation/c"]);
    assert_eq!(succeeded(&waited).matches("condition met").count(), 3);
}

#[tokio::test]
async fn a_status_is_about_the_generation_that_it_says() {
    let scene = Scene::new("generations").await;
    three_kinds(&scene).await;
    let seen = |meta: &kube::core::ObjectMeta, observed: Option<i64>, conditions: &[Condition]| {
        observed == meta.generation && !conditions.is_empty() && conditions.iter().all(|c| c.observed_generation == meta.generation)
    };
    let is_seen = |b: &AIBudget| b.status.as_ref().is_some_and(|s| seen(b.meta(), s.observed_generation, &s.conditions));
    scene.once::<AIBudget>("the budget is seen", "b", is_seen).await;
    scene.merge::<AIBudget>(&scene.client, "b", json!({"spec": {"enforcement": "Warn"}})).await.unwrap();
    let budget = scene.once::<AIBudget>("the changed budget is seen", "b", |b| b.metadata.generation == Some(2) && is_seen(b)).await;
    assert_eq!(condition(&budget.status.unwrap().conditions, "Ready").status, "True");

    scene.merge::<ModelRoute>(&scene.client, "r", json!({"spec": {"fallback": {"attempts": 1}}})).await.unwrap();
    let is_seen = |r: &ModelRoute| r.status.as_ref().is_some_and(|s| seen(r.meta(), s.observed_generation, &s.conditions));
    scene.once::<ModelRoute>("the changed route is seen", "r", |r| r.metadata.generation == Some(2) && is_seen(r)).await;

    scene.merge::<CostAllocation>(&scene.client, "c", json!({"spec": {"period": "Day"}})).await.unwrap();
    let is_seen = |c: &CostAllocation| c.status.as_ref().is_some_and(|s| seen(c.meta(), s.observed_generation, &s.conditions));
    scene.once::<CostAllocation>("the changed allocation is seen", "c", |c| c.metadata.generation == Some(2) && is_seen(c)).await;
}

#[tokio::test]
async fn what_came_past_the_webhook_is_not_ready_and_says_why() {
    let scene = Scene::new("invalid").await;
    let earlier = Scene { namespace: EARLIER.to_owned(), client: scene.client.clone(), cluster: scene.cluster };
    let budget = earlier.once::<AIBudget>("a status", "no-such-zone", |b| b.status.is_some()).await.status.unwrap();
    let route = earlier.once::<ModelRoute>("a status", "no-such-size", |r| r.status.is_some()).await.status.unwrap();
    let allocation = earlier.once::<CostAllocation>("a status", "no-such-owner", |c| c.status.is_some()).await.status.unwrap();
    for (conditions, field) in [
        (&budget.conditions, "spec.limits[0].timeZone"),
        (&route.conditions, "spec.backends[0].models[0].contextWindow"),
        (&allocation.conditions, "spec.outcomes[0].owner"),
    ] {
        let ready = condition(conditions, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Invalid"));
        assert!(ready.message.contains("Not in force") && ready.message.contains(field), "{}", ready.message);
    }
    assert_eq!(earlier.told("no-such-zone", "Invalid").await.type_.as_deref(), Some("Warning"));
    // It can be put right, and what is wrong with it is no reason to refuse any other change.
    earlier.merge::<AIBudget>(&scene.client, "no-such-zone", json!({"metadata": {"labels": {"seen": "yes"}}})).await.unwrap();
}

#[tokio::test]
async fn a_transition_is_one_event_and_a_round_without_one_is_none() {
    let scene = Scene::new("events").await;
    three_kinds(&scene).await;
    scene.once::<CostAllocation>("a status", "c", |c| c.status.is_some()).await;
    scene.rounds(3).await;
    for (name, kind) in [("b", "AIBudget"), ("r", "ModelRoute"), ("c", "CostAllocation")] {
        let event = scene.told(name, "InForce").await;
        assert_eq!(event.regarding.as_ref().and_then(|r| r.kind.as_deref()), Some(kind));
        assert_eq!((event.type_.as_deref(), event.reporting_controller.as_deref()), (Some("Normal"), Some("spendkeeper-operator")));
    }
}

#[tokio::test]
async fn the_status_has_one_owner_and_the_spec_none_of_ours() {
    let scene = Scene::new("managers").await;
    three_kinds(&scene).await;
    let budget = scene.once::<AIBudget>("a status", "b", |b| b.status.is_some()).await;
    let route = scene.once::<ModelRoute>("a status", "r", |r| r.status.is_some()).await;
    let allocation = scene.once::<CostAllocation>("a status", "c", |c| c.status.is_some()).await;
    for managers in [budget.managed_fields(), route.managed_fields(), allocation.managed_fields()] {
        let of_status: Vec<_> = managers.iter().filter(|m| m.subresource.as_deref() == Some("status")).collect();
        assert_eq!(of_status.len(), 1, "{managers:?}");
        assert_eq!((of_status[0].manager.as_deref(), of_status[0].operation.as_deref()), (Some("spendkeeper-operator"), Some("Apply")));
        let elsewhere = managers.iter().filter(|m| m.subresource.is_none());
        assert!(elsewhere.into_iter().all(|m| m.manager.as_deref() != Some("spendkeeper-operator")), "{managers:?}");
    }
}
