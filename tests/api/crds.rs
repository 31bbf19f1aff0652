//! The kinds, as the API server and kubectl have them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use spendkeeper::api::{AIBudget, CostAllocation, ModelRoute};

use super::scene::{Scene, budget, ours, route};
use super::server::{succeeded, text};

const NAMES: [&str; 3] = ["aibudgets.spendkeeper.dev", "modelroutes.spendkeeper.dev", "costallocations.spendkeeper.dev"];

async fn definitions(client: &Client) -> Vec<CustomResourceDefinition> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    futures::future::try_join_all(NAMES.map(|name| api.get(name))).await.unwrap()
}

#[tokio::test]
async fn the_kinds_are_served_with_structural_schemas() {
    let scene = Scene::new("structural").await;
    for definition in definitions(&scene.client).await {
        let conditions = definition.status.as_ref().unwrap().conditions.clone().unwrap();
        let holds = |type_: &str| conditions.iter().find(|c| c.type_ == type_).map(|c| c.status == "True");
        assert_eq!((holds("Established"), holds("NamesAccepted")), (Some(true), Some(true)), "{conditions:?}");
        assert_eq!(holds("NonStructuralSchema"), None, "{conditions:?}");
    }
}

#[tokio::test]
async fn installing_again_changes_nothing_and_an_older_definition_is_brought_up_to_date() {
    let scene = Scene::new("upgrade").await;
    let versions = |all: &[CustomResourceDefinition]| all.iter().map(|d| d.resource_version().unwrap()).collect::<Vec<_>>();
    let before = definitions(&scene.client).await;
    assert_eq!(scene.cluster.install_crds(), Some(0));
    assert_eq!(versions(&definitions(&scene.client).await), versions(&before));

    let api: Api<CustomResourceDefinition> = Api::all(scene.client.clone());
    let older = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/description", "value": "older"}]);
    let older: json_patch::Patch = serde_json::from_value(older).unwrap();
    api.patch(NAMES[1], &PatchParams::default(), &Patch::Json::<()>(older)).await.unwrap();
    assert_eq!(scene.cluster.install_crds(), Some(0));
    let spec = |d: &CustomResourceDefinition| serde_json::to_value(&d.spec).unwrap();
    assert_eq!(spec(&definitions(&scene.client).await[1]), spec(&before[1]));
}

#[tokio::test]
async fn kubectl_explain_reads_like_documentation() {
    let scene = Scene::new("explain").await;
    for (field, words) in [
        ("aibudget.spec.limits", ["Every limit must have room for a call's worst case", "IANA time zone of calendar windows"]),
        ("modelroute.spec.backends.models", ["The name that is sent to the provider", "Tokens that fit, input and output together"]),
        ("costallocation.spec.sharedCosts", ["Costs that owners share", "What happens to the idle share"]),
    ] {
        // kubectl breaks lines where it likes.
        let text = succeeded(&scene.kubectl(&["explain", field])).split_whitespace().collect::<Vec<_>>().join(" ");
        for words in words {
            assert!(text.contains(words), "{field}: {text}");
        }
    }
}

#[tokio::test]
async fn every_field_of_every_kind_is_described() {
    fn undescribed(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
        for (name, property) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            // The API server describes these three, and Kubernetes its own types below them.
            let known = ["apiVersion", "kind", "metadata"].contains(&name.as_str());
            if !known && property.description.as_deref().unwrap_or_default().is_empty() {
                found.push(path.clone());
            }
            undescribed(&path, property, found);
        }
        if let Some(k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray::Schema(items)) =
            &schema.items
        {
            undescribed(&format!("{path}[]"), items, found);
        }
    }
    let scene = Scene::new("described").await;
    let mut found = Vec::new();
    for definition in definitions(&scene.client).await {
        let schema = definition.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.clone().unwrap();
        undescribed(&definition.spec.names.kind, &schema, &mut found);
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn the_tables_have_columns_worth_reading_and_the_short_names_and_the_category_work() {
    let scene = Scene::new("tables").await;
    scene.create(budget("monthly", json!({"usd": "12.50"}))).await.unwrap();
    scene.create(route("models", "http://127.0.0.1:1")).await.unwrap();
    scene.create(ours("CostAllocation", "costs", json!({"owners": [{"name": "all", "match": "true"}]}))).await.unwrap();
    scene.once::<AIBudget>("a budget's status", "monthly", |b| b.status.is_some()).await;
    scene.once::<ModelRoute>("a route's status", "models", |r| r.status.is_some()).await;
    scene.once::<CostAllocation>("an allocation's status", "costs", |a| a.status.is_some()).await;
    for (word, columns, cells) in [
        ("aib", ["LIMIT", "SPENT", "FORECAST", "READY", "EXHAUSTED"], ["$12.500000", "$0.000000", "False"]),
        ("mr", ["MODE", "BACKENDS", "FRONTIER%", "SAVINGS/MONTH", "READY"], ["Observe", "1", "True"]),
        ("ca", ["PERIOD", "OWNERS", "COST", "UNALLOCATED", "COST/OUTCOME"], ["Month", "$0.000000", "True"]),
    ] {
        let table = succeeded(&scene.kubectl(&["get", word]));
        for wanted in columns.iter().chain(&cells) {
            assert!(table.contains(wanted), "{wanted} is not in:\n{table}");
        }
    }
    let all = succeeded(&scene.kubectl(&["get", "spendkeeper", "-o", "name"]));
    for name in ["aibudget.spendkeeper.dev/monthly", "modelroute.spendkeeper.dev/models", "costallocation.spendkeeper.dev/costs"] {
        assert!(all.contains(name), "{all}");
    }
}

#[tokio::test]
async fn a_field_that_is_misspelt_is_named() {
    let scene = Scene::new("misspelt").await;
    let mut misspelt = budget("b", json!({"usd": "1"}));
    misspelt["spec"]["enforcment"] = json!("Block");
    let arguments = ["--namespace", &scene.namespace, "create", "--dry-run=server", "-f", "-"];
    let output = scene.cluster.server.kubectl_with(&arguments, &misspelt.to_string());
    assert!(!output.status.success() && text(&output.stderr).contains("unknown field \"spec.enforcment\""), "{}", text(&output.stderr));
}
