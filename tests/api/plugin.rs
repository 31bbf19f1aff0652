//! `kubectl spend`, the real binary, on a recommendation that the operator made from reported calls.

use std::process::{Command, Output};

use spendkeeper::api::ModelRoute;
use spendkeeper::channel::message::Reported;
use spendkeeper::core::recommend::{Recommendation, RecommendationState};

use super::scene::{Scene, route};
use super::server::{succeeded, text};
use super::workload::{Workload, injected, record};

fn spend(scene: &Scene<'_>, arguments: &[&str]) -> Output {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_kubectl-spend"));
    plugin.arg("--kubeconfig").arg(scene.cluster.server.admin()).args(["--namespace", &scene.namespace]).args(arguments);
    plugin.output().unwrap()
}

fn proposals(route: &ModelRoute) -> Vec<Recommendation> {
    route.status.iter().flat_map(|s| s.recommendations.clone()).collect()
}

fn state(route: &ModelRoute, id: &str) -> Option<RecommendationState> {
    proposals(route).into_iter().find(|r| r.id == id).map(|r| r.state)
}

/// A route whose calls of two features went to a frontier model without needing it; the two proposals that follow.
async fn proposed(scene: &Scene<'_>) -> [Recommendation; 2] {
    scene.create(route("models", "http://127.0.0.1:1")).await.unwrap();
    let channel = Workload::start(scene, injected("bot")).await.channel();
    let key = format!("{}/models", scene.namespace);
    let settled = |feature: &str, cost: &str| {
        let record = |n: u32| record(&format!("{feature}-{n}"), &key, feature, cost);
        (0..30).map(|n| Reported::Settled { record: record(n), lease: None, unleased: vec![] }).collect::<Vec<_>>()
    };
    channel.report(settled("summaries", "0.004")).await.unwrap();
    channel.report(settled("titles", "0.002")).await.unwrap();
    let route = scene.once::<ModelRoute>("there are two proposals", "models", |r| proposals(r).len() == 2).await;
    proposals(&route).try_into().unwrap()
}

#[tokio::test]
async fn a_recommendation_is_listed_approved_applied_and_undone() {
    let scene = Scene::new("plugin").await;
    let [first, second] = proposed(&scene).await;
    scene.user("dana", "spendkeeper-edit").await;
    scene.user("ada", "spendkeeper-approve").await;

    let list = succeeded(&spend(&scene, &["recommendations"]));
    assert!(list.contains(&first.id) && list.contains(&second.id) && list.contains("Proposed"), "{list}");
    let details = succeeded(&spend(&scene, &["recommendations", "--details"]));
    assert!(details.contains("callsAboveNeed = 30"), "{details}");
    let explained = succeeded(&spend(&scene, &["explain", "modelroute/models"]));
    assert!(explained.contains("100% of calls went to frontier models; 0% of those needed one."), "{explained}");

    let refused = spend(&scene, &["approve", &first.id, "--as", "dana"]);
    let message = text(&refused.stderr);
    assert!(!refused.status.success() && message.contains("user \"dana\" may not approve"), "{message}");
    assert!(message.contains("spendkeeper-approve"), "{message}");
    let stranger = spend(&scene, &["approve", &first.id, "--as", "eve"]);
    assert!(text(&stranger.stderr).contains("User \"eve\" cannot list"), "{}", text(&stranger.stderr));

    let approved = succeeded(&spend(&scene, &["approve", &first.id, "--as", "ada"]));
    assert!(approved.contains("approved"), "{approved}");
    let is = |id: &str, wanted: RecommendationState| {
        let id = id.to_owned();
        move |r: &ModelRoute| state(r, &id) == Some(wanted)
    };
    let route = scene.once::<ModelRoute>("the first is applied", "models", is(&first.id, RecommendationState::Applied)).await;
    let rules: Vec<_> = route.spec.policy.rules.iter().map(|r| (r.name.as_str(), r.max_tier.name())).collect();
    assert_eq!(rules, [("feature-summaries", "economy")]);
    let by = proposals(&route).into_iter().find(|r| r.id == first.id).unwrap().approved_by;
    assert_eq!(by.as_deref(), Some("ada"));
    let twice = spend(&scene, &["approve", &first.id, "--as", "ada"]);
    assert!(text(&twice.stderr).contains("is Applied, so it cannot be approved"), "{}", text(&twice.stderr));

    succeeded(&spend(&scene, &["rollback", &first.id, "--as", "ada"]));
    let route = scene.once::<ModelRoute>("the first is undone", "models", is(&first.id, RecommendationState::RolledBack)).await;
    assert!(route.spec.policy.rules.is_empty(), "{:?}", route.spec.policy.rules);
    succeeded(&spend(&scene, &["reject", &second.id, "--as", "ada"]));
    scene.once::<ModelRoute>("the second is rejected", "models", is(&second.id, RecommendationState::Rejected)).await;
    // What was undone or rejected is not proposed again.
    scene.rounds(2).await;
    let route: ModelRoute = scene.api().get("models").await.unwrap();
    assert_eq!(proposals(&route).len(), 2);
    for reason in ["RecommendationApplied", "RecommendationRolledBack", "RecommendationRejected"] {
        scene.told("models", reason).await;
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_a_remedy() {
    let scene = Scene::new("plugin-errors").await;
    let unknown = spend(&scene, &["approve", "0000000000"]);
    assert!(text(&unknown.stderr).contains("`kubectl spend recommendations -A` lists them"), "{}", text(&unknown.stderr));
    let unheard = spend(&scene, &["explain", "pod/x"]);
    assert!(text(&unheard.stderr).contains("kinds are aibudget, modelroute and costallocation"), "{}", text(&unheard.stderr));
    assert!(succeeded(&spend(&scene, &["recommendations"])).contains("No recommendations in namespace plugin-errors."));
    assert!(succeeded(&spend(&scene, &["top"])).contains("No budgets."));
    assert!(succeeded(&spend(&scene, &["export"])).starts_with("BilledCost,"));
}
