//! A policy from a file, for a sidecar without a cluster: the same resources that a cluster takes, in one YAML file, one
//! document each. It holds no secret: credentials come from the environment.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::api::budget::AIBudgetSpec;
use crate::api::parse::{self, ParseError};
use crate::api::route::ModelRouteSpec;
use crate::channel::message::BackendCredential;
use crate::channel::secret::Secret;
use crate::core::catalogue;
use crate::core::dimensions::Origin;
use crate::core::policy::{Policy, ResourceKey};

/// The namespace of resources that name none.
const DEFAULT_NAMESPACE: &str = "default";
/// Prefix of the variables that hold credentials.
const CREDENTIAL_PREFIX: &str = "SPENDKEEPER_CREDENTIAL_";

/// Why a file is no policy.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("{path} is not YAML of Spendkeeper's resources: {reason}")]
    Yaml { path: String, reason: String },
    #[error("{path}: document {number}: kind {kind:?} is not used here; there are AIBudget and ModelRoute")]
    Kind { path: String, number: usize, kind: String },
    #[error("{path}: {kind} {name}: {reason}")]
    Spec { path: String, kind: String, name: String, reason: String },
    #[error("{path}: {kind} {name}: {error}")]
    Invalid { path: String, kind: String, name: String, error: ParseError },
    #[error("{path} has no ModelRoute, so no call could be answered; see examples/laptop.yaml")]
    NoRoute { path: String },
}

/// A policy, and the credentials that were found for it.
#[derive(Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub credentials: Vec<BackendCredential>,
    /// Backends with a Secret for which there is no variable: the app's own key is passed on. Backend and variable.
    pub without_credential: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    metadata: Metadata,
    spec: Value,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

/// Reads a policy from the file at `path`; `variable` looks up the environment.
///
/// # Errors
/// When something in the file is wrong: the message says where, and what to do.
pub fn load(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Loaded, FileError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| FileError::Unreadable { path: name.clone(), reason: e.to_string() })?;
    parse(&name, &text, variable)
}

fn parse(path: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Loaded, FileError> {
    let documents: Vec<Document> =
        serde_saphyr::from_multiple(text).map_err(|e| FileError::Yaml { path: path.to_owned(), reason: e.to_string() })?;
    let origin = Origin { namespace: DEFAULT_NAMESPACE.into(), workload: "Laptop/local".into(), ..Origin::default() };
    let policy = Policy { generation: 1, origin: Arc::new(origin), ..Policy::default() };
    let mut loaded = Loaded { policy, credentials: Vec::new(), without_credential: Vec::new() };
    for (index, document) in documents.into_iter().enumerate() {
        let place = Place { path, kind: &document.kind, name: &document.metadata.name };
        let namespace = document.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let key = ResourceKey::new(namespace, &document.metadata.name);
        match document.kind.as_str() {
            "AIBudget" => {
                let spec: AIBudgetSpec = place.spec(document.spec)?;
                loaded.policy.budgets.push(place.valid(parse::budget(key, &spec))?);
            }
            "ModelRoute" => {
                let spec: ModelRouteSpec = place.spec(document.spec)?;
                let (route, prices) = place.valid(parse::route(key.clone(), &spec, catalogue::embedded()))?;
                loaded.policy.routes.push(route);
                loaded.policy.prices.extend(prices);
                find_credentials(&mut loaded, &key, &spec, &variable);
            }
            kind => return Err(FileError::Kind { path: path.to_owned(), number: index + 1, kind: kind.to_owned() }),
        }
    }
    if loaded.policy.routes.is_empty() {
        return Err(FileError::NoRoute { path: path.to_owned() });
    }
    Ok(loaded)
}

/// Where in the file something is, for errors.
struct Place<'a> {
    path: &'a str,
    kind: &'a str,
    name: &'a str,
}

impl Place<'_> {
    fn spec<T: serde::de::DeserializeOwned>(&self, spec: Value) -> Result<T, FileError> {
        serde_json::from_value(spec).map_err(|e| FileError::Spec {
            path: self.path.to_owned(),
            kind: self.kind.to_owned(),
            name: self.name.to_owned(),
            reason: e.to_string(),
        })
    }

    fn valid<T>(&self, parsed: Result<T, ParseError>) -> Result<T, FileError> {
        parsed.map_err(|error| FileError::Invalid {
            path: self.path.to_owned(),
            kind: self.kind.to_owned(),
            name: self.name.to_owned(),
            error,
        })
    }
}

fn find_credentials(loaded: &mut Loaded, route: &ResourceKey, spec: &ModelRouteSpec, variable: impl Fn(&str) -> Option<String>) {
    for backend in &spec.backends {
        let Some(secret) = &backend.credentials else { continue };
        let name = credential_variable(&secret.name, &secret.key);
        match variable(&name).filter(|value| !value.trim().is_empty()) {
            Some(value) => loaded.credentials.push(BackendCredential {
                route: route.clone(),
                backend: backend.name.clone(),
                value: Secret::new(value.trim().to_owned()),
            }),
            None => {
                let backends = loaded.policy.routes.iter_mut().filter(|r| r.key == *route).flat_map(|r| &mut r.backends);
                backends.filter(|b| *b.name == *backend.name).for_each(|b| b.has_credential = false);
                loaded.without_credential.push((backend.name.clone(), name));
            }
        }
    }
}

/// `SPENDKEEPER_CREDENTIAL_OPENAI_API_KEY` for key `api-key` of Secret `openai`.
fn credential_variable(secret: &str, key: &str) -> String {
    let part =
        |text: &str| -> String { text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect() };
    format!("{CREDENTIAL_PREFIX}{}_{}", part(secret), part(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../examples/laptop.yaml");

    #[test]
    fn the_example_loads_and_finds_its_credentials_in_the_environment() {
        let variable = |name: &str| (name == "SPENDKEEPER_CREDENTIAL_OPENAI_API_KEY").then(|| "sk-1\n".to_owned());
        let loaded = parse("laptop.yaml", EXAMPLE, variable).unwrap();
        assert!(!loaded.policy.budgets.is_empty() && !loaded.policy.routes.is_empty());
        assert_eq!(loaded.credentials.iter().map(|c| c.value.expose()).collect::<Vec<_>>(), ["sk-1"]);
        let promised: Vec<bool> = loaded.policy.routes[0].backends.iter().map(|b| b.has_credential).collect();
        assert_eq!(promised, [true, false], "without a credential the app's own is passed on");
        assert_eq!(loaded.without_credential, [("anthropic".to_owned(), "SPENDKEEPER_CREDENTIAL_ANTHROPIC_API_KEY".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let budget = "apiVersion: spendkeeper.dev/v1alpha1\nkind: AIBudget\nmetadata: {name: b}\n";
        for (text, expected) in [
            ("kind: Secret\nmetadata: {name: s}\nspec: {}\n".to_owned(), "kind \"Secret\" is not used here"),
            (format!("{budget}spec: {{limits: 3}}\n"), "AIBudget b: invalid type"),
            (format!("{budget}spec: {{limits: [{{name: d, period: Day}}]}}\n"), "AIBudget b: spec.limits[0]"),
            ("{".to_owned(), "is not YAML"),
            (format!("{budget}spec: {{limits: [{{name: d, period: Day, usd: \"1\"}}]}}\n"), "has no ModelRoute"),
        ] {
            let error = parse("f.yaml", &text, |_| None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
