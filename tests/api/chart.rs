//! The chart as Helm renders it, and what an API server says of that.

use std::process::Command;

use serde_json::Value;

use super::cluster::SYSTEM;
use super::scene::Scene;
use super::server::{repository, succeeded, text};

/// Every object of the release, hooks included.
pub fn render(settings: &[&str]) -> Vec<Value> {
    documents(&succeeded(&helm(settings).output().unwrap()))
}

fn helm(settings: &[&str]) -> Command {
    let mut helm = Command::new(repository("target/cluster/bin/helm"));
    helm.args(["template", "spendkeeper"]).arg(repository("charts/spendkeeper")).args(["--namespace", SYSTEM]);
    for setting in settings {
        helm.args(["--set", setting]);
    }
    helm
}

/// The documents of a YAML stream.
pub fn documents(yaml: &str) -> Vec<Value> {
    let texts = yaml.split("\n---").map(|text| text.trim_start_matches("---"));
    let values = texts.map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    values.filter(|value| !value.is_null()).collect()
}

/// A chart's object by kind and name.
pub fn named<'a>(chart: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = chart.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("the chart has no {kind} {name}"))
}

/// Variables of the operator's container that have a value of their own.
pub fn environment(chart: &[Value]) -> Vec<(String, String)> {
    let container = &named(chart, "Deployment", "spendkeeper-operator")["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    variables.filter_map(|v| Some((v["name"].as_str()?.to_owned(), v["value"].as_str()?.to_owned()))).collect()
}

#[tokio::test]
async fn the_api_server_takes_every_object_of_the_chart_whatever_is_switched_on_or_off() {
    let scene = Scene::new("chart").await;
    let credentials = format!("rbac.credentialNamespaces={{{}}}", scene.namespace);
    let settings: [&[&str]; 5] = [
        &[],
        &["operator.replicas=3", "ledger.postgresql.existingSecret=ledger", "ledger.postgresql.caKey=ca"],
        &["persistence.enabled=false", "networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "test.enabled=false"],
        &["rightSizing.enabled=false", "rbac.applyApproved=false", "rbac.createUserRoles=false", "crds.install=false", &credentials],
        &[
            "imagePullSecrets[0].name=registry",
            "operator.priorityClassName=system-cluster-critical",
            "operator.nodeSelector.disk=ssd",
            "operator.tolerations[0].key=dedicated",
            "operator.tolerations[0].operator=Exists",
            "operator.podLabels.tier=platform",
            "operator.podAnnotations.note=yes",
            "serviceAccount.annotations.note=yes",
            "persistence.storageClass=fast",
        ],
    ];
    for settings in settings {
        let mut objects = render(settings);
        for pod in objects.iter_mut().filter(|o| o["kind"] == "Pod") {
            // Every cluster fills this in; this API server runs without the plugin that does.
            pod["spec"]["serviceAccountName"] = serde_json::json!("default");
        }
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
        let said = succeeded(&scene.cluster.server.kubectl_with(&arguments, &list.to_string()));
        assert_eq!(said.lines().count(), objects.len(), "{settings:?}: {said}");
    }
}

#[test]
fn several_operators_are_refused_by_name_unless_their_ledger_is_a_database_and_then_one_is_ready_before_another_goes() {
    let refused = helm(&["operator.replicas=2"]).output().unwrap();
    let why = text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("operator.replicas") && why.contains("ledger.postgresql.existingSecret"), "{why}");
    let spec = |settings: &[&str]| named(&render(settings), "Deployment", "spendkeeper-operator")["spec"].clone();
    let (file, database) = (spec(&[]), spec(&["operator.replicas=2", "ledger.postgresql.existingSecret=ledger"]));
    assert_eq!((&file["strategy"]["type"], &file["replicas"]), (&"Recreate".into(), &1.into()));
    assert_eq!((&database["strategy"]["rollingUpdate"]["maxUnavailable"], &database["replicas"]), (&0.into(), &2.into()));
    assert_eq!(database["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap().len(), 2);
}

#[test]
fn alerts_are_in_the_chart_only_if_asked_for_and_look_at_metrics_that_there_are() {
    let is_rule = |o: &&Value| o["kind"] == "PrometheusRule";
    assert_eq!(render(&[]).iter().filter(is_rule).count(), 0);
    let chart = render(&["metrics.prometheusRule.enabled=true", "metrics.prometheusRule.labels.release=stack"]);
    let rule = named(&chart, "PrometheusRule", "spendkeeper-operator");
    assert_eq!(rule["metadata"]["labels"]["release"], "stack");
    let rules: Vec<&Value> = rule["spec"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), 7);
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        let words = expression.split(|c: char| !c.is_alphanumeric() && c != '_');
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("spendkeeper_")).collect();
        assert!(!metrics.is_empty(), "{expression}");
        for metric in metrics {
            assert!(spendkeeper::operator::metrics::DECLARATIONS.iter().any(|d| d.name == metric), "{metric} in {expression}");
        }
        // Prometheus fills in the labels, not Helm.
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        assert_eq!(expression.contains("by ("), summary.contains("{{ $labels."), "{summary}");
    }
}

#[test]
fn every_variable_that_the_chart_sets_is_one_that_the_operator_reads() {
    let help = succeeded(&Command::new(env!("CARGO_BIN_EXE_spendkeeper-operator")).args(["run", "--help"]).output().unwrap());
    for (name, _) in environment(&render(&[])) {
        // Where the value may hold a password, the help does not show it.
        let is_read = ["=", "]"].iter().any(|end| help.contains(&format!("[env: {name}{end}")));
        assert!(is_read, "{name} is not in: {help}");
    }
}
