//! Sidecars are added to the pods that ask for one, and to nobody else's.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::cluster::{Cluster, disrupted};
use super::process::free_port;
use super::scene::{Scene, budget, refusal};
use super::server::{succeeded, text};
use super::workload::{injected, pod};

async fn created(scene: &Scene<'_>, manifest: Value) -> Pod {
    let name = scene.create(manifest).await.unwrap().name_any();
    scene.api().get(&name).await.unwrap()
}

fn variables(container: &Container) -> Vec<(&str, &str)> {
    container.env.iter().flatten().map(|v| (v.name.as_str(), v.value.as_deref().unwrap_or_default())).collect()
}

#[tokio::test]
async fn an_annotated_pod_gets_a_native_sidecar_and_its_sdks_are_pointed_at_it() {
    let scene = Scene::new("injected").await;
    let mut manifest = injected("bot");
    manifest["spec"]["initContainers"] = json!([{"name": "setup", "image": "example.com/setup:1"}]);
    manifest["spec"]["containers"][0]["env"] =
        json!([{"name": "OPENAI_BASE_URL", "value": "http://elsewhere"}, {"name": "HOME", "value": "/"}]);
    let pod = created(&scene, manifest).await;
    assert_eq!(pod.labels()["spendkeeper.dev/injected"], "true");
    assert_eq!(pod.annotations()["spendkeeper.dev/injected"], env!("CARGO_PKG_VERSION"));
    let spec = pod.spec.unwrap();
    let init = spec.init_containers.unwrap();
    assert_eq!(
        init.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["spendkeeper-sidecar", "setup"],
        "the first, so that all can call"
    );
    let sidecar = &init[0];
    assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"));
    let security = sidecar.security_context.clone().unwrap();
    assert_eq!((security.run_as_non_root, security.read_only_root_filesystem), (Some(true), Some(true)));
    let names = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mounts: Vec<_> = sidecar.volume_mounts.iter().flatten().map(|m| m.name.clone()).collect();
    assert_eq!(mounts, names(vec!["spendkeeper-token", "spendkeeper-journal"]));
    let volumes = spec.volumes.unwrap();
    let token = volumes.iter().find(|v| v.name == "spendkeeper-token").unwrap().projected.clone().unwrap().sources.unwrap();
    assert_eq!(token[0].service_account_token.as_ref().unwrap().audience.as_deref(), Some("spendkeeper-operator"));
    let app = &spec.containers[0];
    assert!(app.volume_mounts.iter().flatten().all(|m| !m.name.starts_with("spendkeeper")), "the token is the sidecar's alone");
    let wanted = [
        ("OPENAI_BASE_URL", "http://elsewhere"),
        ("HOME", "/"),
        ("ANTHROPIC_BASE_URL", "http://127.0.0.1:15400"),
        ("OPENAI_API_KEY", "spendkeeper"),
        ("ANTHROPIC_API_KEY", "spendkeeper"),
    ];
    assert_eq!(variables(app), wanted, "what the pod sets stays");
    assert_eq!(variables(&init[1])[0], ("OPENAI_BASE_URL", "http://127.0.0.1:15400/v1"));
}

#[tokio::test]
async fn a_pod_without_the_annotation_is_untouched() {
    let scene = Scene::new("untouched").await;
    for (name, annotations) in [("none", Value::Null), ("false", json!({"spendkeeper.dev/inject": "false"}))] {
        let manifest = pod(name, annotations);
        let created = created(&scene, manifest).await;
        assert!(created.labels().is_empty());
        let spec = created.spec.unwrap();
        assert!(spec.init_containers.is_none() && spec.volumes.is_none() && spec.containers[0].env.is_none(), "{spec:?}");
    }
}

#[tokio::test]
async fn injecting_again_changes_nothing() {
    let scene = Scene::new("again").await;
    let first = created(&scene, injected("first")).await;
    let mut again = serde_json::to_value(&first).unwrap();
    again["metadata"] = json!({"name": "second", "labels": first.labels(), "annotations": first.annotations()});
    again.as_object_mut().unwrap().remove("status");
    let second = created(&scene, again).await;
    assert_eq!(second.spec, first.spec);
    assert_eq!((second.labels(), second.annotations()), (first.labels(), first.annotations()));
}

#[tokio::test]
async fn an_injected_pod_is_admitted_where_pod_security_is_restricted() {
    let cluster = &super::cluster::shared().cluster;
    let scene = Scene::on(cluster, "restricted", json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    created(&scene, injected("bot")).await;
    let mut privileged = injected("privileged");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"allowPrivilegeEscalation": true});
    let (_, message) = refusal(scene.create(privileged).await);
    assert!(message.contains("violates PodSecurity"), "the namespace does enforce it: {message}");
}

#[tokio::test]
async fn a_pod_that_cannot_have_a_sidecar_is_refused_with_the_reason_and_the_remedy() {
    let scene = Scene::new("no-sidecar").await;
    let annotated = |name: &str, value: &str| {
        let mut pod = injected("bad");
        pod["metadata"]["annotations"][name] = json!(value);
        pod
    };
    let spec = |field: &str, value: Value| {
        let mut pod = injected("bad");
        pod["spec"][field] = value;
        pod
    };
    let table = [
        (annotated("spendkeeper.dev/fature", "chat"), ["spendkeeper.dev/fature is not known", "correct or remove it"]),
        (annotated("spendkeeper.dev/free", "colour"), ["spendkeeper.dev/free", "dimensions are feature, team, process, agent and session"]),
        (annotated("spendkeeper.dev/team", &"x".repeat(64)), ["spendkeeper.dev/team", "use a short name"]),
        (annotated("spendkeeper.dev/team-values", &"x".repeat(64)), ["spendkeeper.dev/team-values", "use short names"]),
        (spec("hostNetwork", json!(true)), ["hostNetwork: true", "remove hostNetwork"]),
        (spec("shareProcessNamespace", json!(true)), ["shareProcessNamespace: true", "provider credentials"]),
        (spec("volumes", json!([{"name": "spendkeeper-token", "emptyDir": {}}])), ["\"spendkeeper-token\"", "rename yours"]),
    ];
    for (manifest, parts) in table {
        let (code, message) = refusal(scene.try_out(manifest).await);
        assert!(code == 422 && parts.iter().all(|part| message.contains(part)), "{code}: {message}");
    }
}

#[tokio::test]
async fn whoever_sets_variables_from_elsewhere_is_warned() {
    let scene = Scene::new("env-from").await;
    let mut manifest = injected("bot");
    manifest["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings", "optional": true}}]);
    let arguments = ["--namespace", &scene.namespace, "create", "--dry-run=server", "-f", "-"];
    let output = scene.cluster.server.kubectl_with(&arguments, &manifest.to_string());
    succeeded(&output);
    let warnings = text(&output.stderr);
    assert!(warnings.contains("Warning: container \"app\": OPENAI_BASE_URL") && warnings.contains("envFrom"), "{warnings}");
}

#[tokio::test]
async fn while_no_operator_runs_only_annotated_pods_wait() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    // Nobody listens there.
    cluster.call_webhooks_at(free_port());
    let scene = Scene::on(cluster, "away", json!({})).await;
    assert!(created(&scene, pod("plain", Value::Null)).await.spec.unwrap().init_containers.is_none());
    created(&scene, pod("declined", json!({"spendkeeper.dev/inject": "false"}))).await;
    let (_, message) = refusal(scene.create(injected("bot")).await);
    assert!(message.contains("inject.spendkeeper.dev"), "{message}");
    let (_, message) = refusal(scene.create(budget("b", json!({"usd": "1"}))).await);
    assert!(message.contains("approval.spendkeeper.dev"), "{message}");
}
