//! The operator's own rights: what it needs (every scene's end checks that nothing was denied) and no more.

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use kube::Api;

use super::cluster::{SYSTEM, shared};
use super::scene::Scene;

#[tokio::test]
async fn the_operator_may_read_a_secret_by_name_but_neither_list_nor_change_any() {
    let scene = Scene::new("rights").await;
    let account = format!("--as=system:serviceaccount:{SYSTEM}:spendkeeper-operator");
    let may = |question: &[&str]| {
        let arguments: Vec<&str> = ["auth", "can-i"].into_iter().chain(question.iter().copied()).chain([account.as_str()]).collect();
        scene.kubectl(&arguments).status.success()
    };
    assert!(may(&["get", "secrets"]));
    for forbidden in [
        &["list", "secrets"][..],
        &["watch", "secrets"],
        &["create", "secrets"],
        &["update", "secrets"],
        &["create", "pods"],
        &["delete", "pods"],
        &["approve", "modelroutes.spendkeeper.dev"],
        &["update", "aibudgets.spendkeeper.dev"],
        &["get", "nodes", "--subresource=proxy"],
    ] {
        assert!(!may(forbidden), "{forbidden:?}");
    }
}

#[tokio::test]
async fn the_operator_gives_its_ca_to_every_webhook() {
    let scene = Scene::new("ca").await;
    let mutating: MutatingWebhookConfiguration = Api::all(scene.client.clone()).get("spendkeeper").await.unwrap();
    let validating: ValidatingWebhookConfiguration = Api::all(scene.client.clone()).get("spendkeeper").await.unwrap();
    let mutating = mutating.webhooks.unwrap().into_iter().map(|w| w.client_config);
    let configs: Vec<_> = mutating.chain(validating.webhooks.unwrap().into_iter().map(|w| w.client_config)).collect();
    assert_eq!(configs.len(), 3);
    let bundles: Vec<String> = configs.into_iter().map(|c| String::from_utf8(c.ca_bundle.unwrap().0).unwrap()).collect();
    assert!(bundles.iter().all(|b| *b == bundles[0] && b.starts_with("-----BEGIN CERTIFICATE-----")), "{bundles:?}");
}

#[tokio::test]
async fn a_ready_operator_has_reconciled_without_an_error() {
    let _scene = Scene::new("reconciled").await;
    let operator = &shared().operator;
    super::wait::until("resources are reconciled", async || {
        if operator.metric("spendkeeper_reconciles_total", "result=\"ok\"") > 0.0 { Ok(()) } else { Err("none yet") }
    })
    .await;
    assert_eq!(operator.metric("spendkeeper_reconciles_total", "result=\"error\""), 0.0);
}
