//! Files that are generated: from the Rust types the CRDs, the reference of their fields, and the reference of metrics, conditions and
//! Events; and the price catalogue as it is embedded.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::api::{AIBudget, CostAllocation, ModelRoute};
use crate::core::catalogue;
use crate::core::metric::Declaration;
use crate::core::price::{Catalogue, ModelPrice};
use crate::operator::conditions::{RECOMMENDATION_EVENTS, STATES};
use crate::{operator, sidecar};

/// The three kinds as the API server takes them.
pub fn crds() -> [CustomResourceDefinition; 3] {
    [AIBudget::crd(), ModelRoute::crd(), CostAllocation::crd()]
}

/// Every generated file: its path from the root of the tree, and its text.
pub fn files() -> Vec<(String, String)> {
    let mut files: Vec<_> = crds().iter().map(|crd| (format!("crds/{}.yaml", crd.spec.names.plural), yaml(crd))).collect();
    files.push(("src/core/catalogue.json".to_owned(), embedded_prices()));
    files.push(("docs/reference/fields.md".to_owned(), reference()));
    files.push(("docs/reference/metrics.md".to_owned(), metrics()));
    files.push(("docs/reference/conditions.md".to_owned(), conditions()));
    files
}

/// The embedded catalogue, a model a line.
fn embedded_prices() -> String {
    let prices = catalogue::from_yaml(catalogue::SOURCE).expect("the catalogue is a price list: a test reads it");
    let json = |price| serde_json::to_string(price).expect("a price has string keys only, so it is JSON");
    let lines: Vec<String> = prices.iter().map(json).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

fn yaml(crd: &CustomResourceDefinition) -> String {
    let text = serde_saphyr::to_string(crd).expect("a CRD is plain data that YAML can hold");
    format!("# Generated from src/api by `make generate`; a test fails when it is stale.\n{text}")
}

// ---- the reference of metrics ----

fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\nGenerated from `src/operator/metrics.rs` and `src/sidecar/metrics.rs` by `make generate`. All are in Prometheus' text \
         format.\n",
    );
    let places = [
        ("The operator", "At `/metrics` of port 8080, in the clear.", operator::metrics::DECLARATIONS.as_slice()),
        (
            "A sidecar",
            "At `/metrics` of the pod's port 15401, in the clear. They begin anew with each process.",
            sidecar::metrics::DECLARATIONS.as_slice(),
        ),
    ];
    for (title, place, metrics) in places {
        let _ = write!(text, "\n## {title}\n\n{place}\n\n| metric | type | unit | labels | what it is |\n|---|---|---|---|---|\n");
        for Declaration { name, kind, labels, help } in metrics {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ =
                writeln!(text, "| `{name}` | {} | {} | {} | {help} |", format!("{kind:?}").to_lowercase(), unit(name), labels.join(", "));
        }
    }
    text
}

/// The unit that a name ends with, as Prometheus' conventions have it.
fn unit(name: &str) -> &'static str {
    const UNITS: [(&str, &str); 6] = [
        ("_micro_usd", "millionths of a US dollar"),
        ("_usd", "US dollars"),
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_token_usage", "tokens"),
        ("_percent", "percent"),
    ];
    let name = name.trim_end_matches("_total");
    UNITS.iter().find(|(suffix, _)| name.ends_with(suffix)).map_or("", |(_, unit)| unit)
}

// ---- the reference of conditions and Events ----

fn conditions() -> String {
    let mut text = String::from(
        "# Conditions and Events\n\nGenerated from `src/operator/conditions.rs` by `make generate`. When a condition's status changes, an Event \
         says so with that state's reason; that `Exhausted` or `Alerting` is False is one only after it was True.\n\n\
         | kind | condition | status | reason | Event | what it means |\n|---|---|---|---|---|---|\n",
    );
    for s in STATES {
        let status = if s.holds { "True" } else { "False" };
        let _ = writeln!(text, "| {} | `{}` | {status} | `{}` | {} | {} |", s.kind, s.type_, s.reason, severity(s.warning), s.meaning);
    }
    text.push_str("\n## Events about recommendations\n\n| reason | Event | what it means |\n|---|---|---|\n");
    for (reason, warning, meaning) in RECOMMENDATION_EVENTS {
        let _ = writeln!(text, "| `{reason}` | {} | {meaning} |", severity(warning));
    }
    text
}

fn severity(warning: bool) -> &'static str {
    if warning { "Warning" } else { "Normal" }
}

// ---- the reference of fields ----

fn reference() -> String {
    let mut text = String::from(
        "# Fields of the three kinds\n\nGenerated from `src/api` by `make generate`. The same text is in `kubectl explain aibudget.spec.limits`.\n",
    );
    for crd in crds() {
        let version = &crd.spec.versions[0];
        let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        let Some(properties) = schema.and_then(|s| s.properties.as_ref()) else { continue };
        let names = &crd.spec.names;
        let short = names.short_names.as_deref().unwrap_or_default().join(", ");
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {} (`{}`)\n\n`apiVersion: {}/{}`\n", names.kind, short, crd.spec.group, version.name);
        for part in ["spec", "status"] {
            if let Some(schema) = properties.get(part) {
                let _ = write!(
                    text,
                    "\n### {}.{part}\n\n{}\n\n| field | type | default | what it is |\n|---|---|---|---|\n",
                    names.kind,
                    description(schema)
                );
                rows(&mut text, part, schema);
            }
        }
    }
    text
}

fn rows(text: &mut String, path: &str, schema: &JSONSchemaProps) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        let default = field.default.as_ref().map(|d| format!("`{}`", d.0)).unwrap_or_default();
        let needed = if required.contains(name) { " **required**" } else { "" };
        let _ = writeln!(
            text,
            "| `{path}` | {}{needed} | {default} | {} |",
            type_of(field),
            description(field).replace('\n', " ").replace('|', "\\|")
        );
        match items(field) {
            Some(item) => rows(text, &format!("{path}[]"), item),
            None => rows(text, &path, field),
        }
    }
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match schema.items.as_ref()? {
        JSONSchemaPropsOrArray::Schema(item) => Some(item),
        JSONSchemaPropsOrArray::Schemas(items) => items.first(),
    }
}

fn type_of(schema: &JSONSchemaProps) -> String {
    if let Some(values) = &schema.enum_ {
        return values.iter().map(|v| format!("`{}`", v.0.as_str().unwrap_or("null"))).collect::<Vec<_>>().join(", ");
    }
    match (schema.type_.as_deref(), items(schema)) {
        (Some("array"), Some(item)) => format!("list of {}", type_of(item)),
        (Some(name), _) => name.to_owned(),
        (None, _) => "any".to_owned(),
    }
}

fn description(schema: &JSONSchemaProps) -> &str {
    schema.description.as_deref().unwrap_or("")
}

/// A price list in Spendkeeper's own format: the models of the embedded catalogue, and `more`, with the figures of a map in LiteLLM's
/// format. A model that the map lacks keeps its figures.
///
/// # Errors
/// When the map cannot be read, or lacks one of `more`.
pub fn price_list(map: &str, date: &str, more: &[String]) -> Result<String, String> {
    let listed = Catalogue::new(catalogue::from_litellm(map, date).map_err(|e| e.to_string())?.0);
    let mut prices: Vec<ModelPrice> = Vec::new();
    for known in catalogue::embedded().iter().filter(|known| !more.contains(&known.model)) {
        prices.push(listed.exactly(&known.model).unwrap_or(known).clone());
    }
    for model in more {
        prices.push(listed.exactly(model).ok_or_else(|| format!("the map has no price of {model:?}"))?.clone());
    }
    prices.sort_by(|a, b| a.model.cmp(&b.model));
    serde_saphyr::to_string(&prices).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_not_stale() {
        for (path, text) in files() {
            let current = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(current == text, "{path} is stale: run `make generate`");
        }
    }

    #[test]
    fn every_field_says_what_it_is() {
        fn undocumented(path: &str, schema: &JSONSchemaProps, found: &mut Vec<String>) {
            for (name, field) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                let own = !path.contains("abels") && !path.contains("conditions");
                if own && description(field).is_empty() && field.enum_.is_none() {
                    found.push(path.clone());
                }
                undocumented(&path, items(field).unwrap_or(field), found);
            }
        }
        let mut found = Vec::new();
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).expect("a schema");
            for part in ["spec", "status"] {
                let schema = &schema.properties.as_ref().expect("properties")[part];
                undocumented(&format!("{}.{part}", crd.spec.names.kind), schema, &mut found);
            }
        }
        assert!(found.is_empty(), "fields without a description: {found:#?}");
    }
}
