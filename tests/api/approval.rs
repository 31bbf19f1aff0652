//! Who may decide about a recommendation, who it was, and what is done about it.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use spendkeeper::api::{AIBudget, CostAllocation};
use spendkeeper::core::recommend::{Recommendation, RecommendationState};

use super::scene::{Scene, ours, refusal};

/// A Deployment whose container `app` requests so much CPU.
fn deployment(name: &str, cpu: &str) -> Value {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "example.com/app:1", "resources": {"requests": {"cpu": cpu}}}]},
            },
        },
    })
}

/// A recommendation that takes a Deployment's request from a whole core to 50m.
fn recommendation(scene: &Scene<'_>, id: &str, deployment: &str, state: &str) -> Value {
    let requests = |cpu: &str| {
        let containers = json!([{"name": "app", "resources": {"requests": {"cpu": cpu}}}]);
        let metadata = json!({"name": deployment, "namespace": scene.namespace});
        let spec = json!({"template": {"spec": {"containers": containers}}});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}).to_string()
    };
    json!({
        "id": id,
        "kind": "WorkloadResources",
        "summary": "it needs less",
        "target": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": scene.namespace, "name": deployment},
        "patch": requests("50m"),
        "revert": requests("1000m"),
        "evidence": {"from": "", "to": "", "windowSeconds": 1, "samples": 1, "source": "", "figures": {}},
        "estimatedMonthlySavings": "1",
        "risk": "Low",
        "state": state,
        "transitionTime": jiff::Timestamp::now().to_string(),
    })
}

/// An allocation to decide about.
async fn allocation(scene: &Scene<'_>) {
    scene.create(ours("CostAllocation", "costs", json!({"owners": [{"name": "all", "match": "true"}]}))).await.unwrap();
    scene.once::<CostAllocation>("a status", "costs", |c| c.status.is_some()).await;
}

/// Puts recommendations into the status. The operator withdraws what is proposed and has no evidence in its next round, so
/// what is to be decided about a proposal is annotated before.
async fn seed(scene: &Scene<'_>, recommendations: &[Value]) {
    let change = json!({"status": {"recommendations": recommendations}});
    scene.api::<CostAllocation>().patch_status("costs", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
}

async fn annotate(scene: &Scene<'_>, client: &Client, annotations: Value) -> kube::Result<CostAllocation> {
    scene.merge(client, "costs", json!({"metadata": {"annotations": annotations}})).await
}

/// Waits until a recommendation is in a state.
async fn decided(scene: &Scene<'_>, id: &str, state: RecommendationState) -> Recommendation {
    let find = |c: &CostAllocation| c.status.iter().flat_map(|s| &s.recommendations).find(|r| r.id == id).cloned();
    let what = format!("recommendation {id} is {state:?}");
    let found = scene.once::<CostAllocation>(&what, "costs", |c| find(c).is_some_and(|r| r.state == state)).await;
    find(&found).unwrap()
}

async fn cpu(scene: &Scene<'_>, name: &str) -> String {
    let deployment: Deployment = scene.api().get(name).await.unwrap();
    let container = deployment.spec.unwrap().template.spec.unwrap().containers.remove(0);
    assert_eq!(container.image.as_deref(), Some("example.com/app:1"), "nothing else is changed");
    container.resources.unwrap().requests.unwrap()["cpu"].0.clone()
}

#[tokio::test]
async fn who_lacks_the_verb_approve_is_refused_whatever_else_they_may() {
    let scene = Scene::new("no-approval").await;
    allocation(&scene).await;
    let dana = scene.user("dana", "spendkeeper-edit").await;
    for decision in ["approve", "reject", "rollback"] {
        let (code, message) = refusal(annotate(&scene, &dana, json!({format!("spendkeeper.dev/{decision}"): "x"})).await);
        assert_eq!(code, 403);
        for part in ["user \"dana\" may not approve", "verb \"approve\" on costallocations.spendkeeper.dev", "role spendkeeper-approve"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let mut born_approved = ours("CostAllocation", "born", json!({"owners": [{"name": "all", "match": "true"}]}));
    born_approved["metadata"]["annotations"] = json!({"spendkeeper.dev/approve": "x"});
    let api = scene.api_of(&dana, &born_approved);
    assert_eq!(refusal(api.create(&Default::default(), &serde_json::from_value(born_approved).unwrap()).await).0, 403);
    // Everything else is theirs to change.
    annotate(&scene, &dana, json!({"note": "hello"})).await.unwrap();
}

#[tokio::test]
async fn the_approver_is_who_the_api_server_says_and_nobody_else() {
    let scene = Scene::new("forged").await;
    allocation(&scene).await;
    let (ada, dana) = (scene.user("ada", "spendkeeper-approve").await, scene.user("dana", "spendkeeper-edit").await);
    let by = |c: CostAllocation| c.annotations().get("spendkeeper.dev/approved-by").cloned();
    let forged = json!({"spendkeeper.dev/approve": "x", "spendkeeper.dev/approved-by": "the-boss"});
    assert_eq!(by(annotate(&scene, &ada, forged).await.unwrap()).as_deref(), Some("ada"));
    let claim = annotate(&scene, &dana, json!({"spendkeeper.dev/approved-by": "dana"})).await.unwrap();
    assert_eq!(by(claim).as_deref(), Some("ada"));
    let withdrawn = annotate(&scene, &dana, json!({"spendkeeper.dev/approve": null, "spendkeeper.dev/approved-by": null})).await.unwrap();
    assert_eq!(by(withdrawn).as_deref(), Some("ada"), "who decided last is not for others to erase");
}

#[tokio::test]
async fn a_grant_or_a_reset_takes_the_verb_approve_and_a_grant_says_who_gave_it() {
    let scene = Scene::new("granted").await;
    scene.budget_in_force("b", json!({"usd": "1"})).await;
    let (ada, dana) = (scene.user("ada", "spendkeeper-approve").await, scene.user("dana", "spendkeeper-edit").await);
    let grant = json!({"limit": "total", "usd": "5", "from": "2020-01-01T00:00:00Z", "until": "2120-01-01T00:00:00Z", "reason": "launch", "approvedBy": "the-boss"});
    let reset = json!([{"name": "total", "usd": "1", "period": "Lifetime", "resetAt": "2026-01-01T00:00:00Z"}]);
    for change in [json!({"spec": {"grants": [grant]}}), json!({"spec": {"limits": reset}})] {
        let (code, message) = refusal(scene.merge::<AIBudget>(&dana, "b", change.clone()).await);
        assert!(code == 403 && message.contains("nor add grants or resets"), "{message}");
        scene.merge::<AIBudget>(&ada, "b", change).await.unwrap();
    }
    let raised = |b: &AIBudget| b.status.iter().flat_map(|s| &s.limits).any(|l| l.limit == "$6.000000");
    let budget = scene.once::<AIBudget>("the grant is in force", "b", raised).await;
    assert_eq!(budget.spec.grants[0].approved_by.as_deref(), Some("ada"));
    assert_eq!(budget.status.unwrap().limits[0].grants[0].approved_by.as_deref(), Some("ada"));
    // As a file from which the budget is applied again has it.
    let unsigned = json!({"spec": {"grants": [{"limit": "total", "usd": "5", "from": "2020-01-01T00:00:00Z", "until": "2120-01-01T00:00:00Z", "reason": "launch"}]}});
    let budget = scene.merge::<AIBudget>(&dana, "b", unsigned).await.unwrap();
    assert_eq!(budget.spec.grants[0].approved_by.as_deref(), Some("ada"));
}

#[tokio::test]
async fn an_approved_change_is_applied_and_can_be_undone() {
    let scene = Scene::new("applied").await;
    allocation(&scene).await;
    scene.create(deployment("bot", "1")).await.unwrap();
    scene.create(deployment("other", "50m")).await.unwrap();
    let ada = scene.user("ada", "spendkeeper-approve").await;
    annotate(&scene, &ada, json!({"spendkeeper.dev/approve": "first"})).await.unwrap();
    // The second was applied before, and is still being watched.
    seed(&scene, &[recommendation(&scene, "first", "bot", "Proposed"), recommendation(&scene, "second", "other", "Applied")]).await;
    let applied = decided(&scene, "first", RecommendationState::Applied).await;
    assert_eq!((applied.approved_by.as_deref(), cpu(&scene, "bot").await.as_str()), (Some("ada"), "50m"));
    let bot: Deployment = scene.api().get("bot").await.unwrap();
    let managers: Vec<_> = bot.managed_fields().iter().filter_map(|m| m.manager.as_deref()).collect();
    assert!(managers.contains(&"spendkeeper-first"), "{managers:?}");
    let told = scene.told("costs", "RecommendationApplied").await;
    assert!(told.note.unwrap().contains("(ada)"));

    annotate(&scene, &ada, json!({"spendkeeper.dev/rollback": "first"})).await.unwrap();
    let undone = decided(&scene, "first", RecommendationState::RolledBack).await;
    assert_eq!((undone.observed.as_deref(), cpu(&scene, "bot").await.as_str()), (Some("undone by request"), "1"));
    assert_eq!(cpu(&scene, "other").await, "50m");
    scene.rounds(3).await;
    scene.told("costs", "RecommendationRolledBack").await;
}

#[tokio::test]
async fn a_rejected_change_is_not_applied() {
    let scene = Scene::new("rejected").await;
    allocation(&scene).await;
    scene.create(deployment("bot", "1")).await.unwrap();
    let ada = scene.user("ada", "spendkeeper-approve").await;
    annotate(&scene, &ada, json!({"spendkeeper.dev/reject": "first", "spendkeeper.dev/approve": "second"})).await.unwrap();
    seed(&scene, &[recommendation(&scene, "first", "bot", "Proposed")]).await;
    let rejected = decided(&scene, "first", RecommendationState::Rejected).await;
    assert_eq!((rejected.approved_by.as_deref(), cpu(&scene, "bot").await.as_str()), (Some("ada"), "1"));
    scene.told("costs", "RecommendationRejected").await;
}

#[tokio::test]
async fn a_change_whose_target_is_not_as_described_any_more_expires() {
    let scene = Scene::new("expired").await;
    allocation(&scene).await;
    scene.create(deployment("bot", "700m")).await.unwrap();
    let ada = scene.user("ada", "spendkeeper-approve").await;
    annotate(&scene, &ada, json!({"spendkeeper.dev/approve": "first"})).await.unwrap();
    seed(&scene, &[recommendation(&scene, "first", "bot", "Proposed")]).await;
    let expired = decided(&scene, "first", RecommendationState::Expired).await;
    assert!(expired.observed.as_deref().is_some_and(|o| o.contains("not applied")), "{expired:?}");
    assert_eq!(cpu(&scene, "bot").await, "700m");
    scene.told("costs", "RecommendationExpired").await;
}

#[tokio::test]
async fn a_proposal_that_nobody_has_decided_about_changes_nothing() {
    let scene = Scene::new("undecided").await;
    allocation(&scene).await;
    scene.create(deployment("bot", "1")).await.unwrap();
    let before: Deployment = scene.api().get("bot").await.unwrap();
    seed(&scene, &[recommendation(&scene, "first", "bot", "Proposed")]).await;
    decided(&scene, "first", RecommendationState::Expired).await;
    let deployments: Api<Deployment> = scene.api();
    assert_eq!(deployments.get("bot").await.unwrap().resource_version(), before.resource_version());
}
