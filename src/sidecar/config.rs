//! The policy in force: what the operator pushed, or a file said, made ready for use on every call.
//!
//! A [`Snapshot`] never changes; a new policy replaces it as a whole, and a call keeps the one that it began with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::uri::{Authority, InvalidUri, PathAndQuery, Scheme, Uri};

use super::credential::{Credential, CredentialError};
use crate::channel::message::BackendCredential;
use crate::core::budget::{BudgetError, BudgetSet};
use crate::core::catalogue;
use crate::core::policy::{Detector, Policy, Protocol, Provider, ResourceKey, Route};
use crate::core::price::Catalogue;
use crate::core::route::wanted_detectors;
use crate::llm::Addressed;
use crate::llm::address::upstream_path;

/// A policy, ready for use.
pub struct Snapshot {
    pub policy: Policy,
    pub budgets: BudgetSet,
    pub catalogue: Catalogue,
    /// By key.
    pub routes: Vec<ReadyRoute>,
    /// Shared services by name.
    pub meters: BTreeMap<String, Endpoint>,
}

/// A route, ready for use.
pub struct ReadyRoute {
    pub route: Route,
    /// `namespace/name`, as calls are recorded with it.
    pub name: Arc<str>,
    /// What the classifier has to look for.
    pub detectors: BTreeSet<Detector>,
    /// In the order of `route.backends`.
    pub backends: Vec<ReadyBackend>,
}

/// Where a backend is, and how its calls are authenticated.
pub struct ReadyBackend {
    /// `namespace/route/backend`.
    pub id: String,
    pub endpoint: Endpoint,
    /// `None` passes the caller's own on.
    pub credential: Option<Credential>,
    /// Where calls go of each format that the provider takes under a path of its own, for requests without a query.
    uris: Vec<(Protocol, Uri)>,
    /// Its calls may be billed with a region's uplift.
    pub may_be_regional: bool,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(transparent)]
    Budget(#[from] BudgetError),
    #[error("{place}: the endpoint {url:?} is not a URL: {reason}; write it like https://api.openai.com")]
    Endpoint { place: String, url: String, reason: String },
    #[error("ModelRoute {route}, backend {backend}: {error}")]
    Credential { route: String, backend: String, error: CredentialError },
}

impl Snapshot {
    /// # Errors
    /// When something in the policy cannot be used; then none of it is.
    pub fn new(mut policy: Policy, credentials: &[BackendCredential]) -> Result<Snapshot, PolicyError> {
        policy.routes.sort_by(|a, b| a.key.cmp(&b.key));
        let budgets = BudgetSet::compile(policy.budgets.clone())?;
        let mut catalogue = catalogue::embedded().clone();
        catalogue.overlay(policy.prices.iter().cloned());
        let routes = policy.routes.iter().map(|route| ReadyRoute::new(route, credentials)).collect::<Result<_, _>>()?;
        let meter = |m: &crate::core::policy::Meter| {
            Ok::<_, PolicyError>((m.name.clone(), Endpoint::parse(&m.endpoint, || format!("shared service {}", m.name))?))
        };
        let meters = policy.meters.iter().map(meter).collect::<Result<_, _>>()?;
        Ok(Snapshot { policy, budgets, catalogue, routes, meters })
    }
}

impl ReadyRoute {
    fn new(route: &Route, credentials: &[BackendCredential]) -> Result<ReadyRoute, PolicyError> {
        let ready = |backend: &crate::core::policy::Backend| {
            let place = || format!("ModelRoute {}, backend {}", route.key, backend.name);
            let given = credentials.iter().find(|c| c.route == route.key && *c.backend == *backend.name);
            let endpoint = Endpoint::parse(&backend.endpoint, place)?;
            let credential = given.map(|c| Credential::of(backend.provider, &c.value, endpoint.authority.host())).transpose();
            let unusable = |error| PolicyError::Credential { route: route.key.to_string(), backend: backend.name.to_string(), error };
            Ok(ReadyBackend {
                id: format!("{}/{}", route.key, backend.name),
                uris: fixed_uris(backend.provider, &endpoint),
                credential: credential.map_err(unusable)?,
                endpoint,
                may_be_regional: may_be_regional(backend.provider, &backend.endpoint),
            })
        };
        let backends = route.backends.iter().map(ready).collect::<Result<_, PolicyError>>()?;
        Ok(ReadyRoute { route: route.clone(), name: route.key.to_string().into(), detectors: wanted_detectors(route), backends })
    }

    pub fn key(&self) -> &ResourceKey {
        &self.route.key
    }
}

/// A format whose path names no model is always at the same place.
fn fixed_uris(provider: Provider, endpoint: &Endpoint) -> Vec<(Protocol, Uri)> {
    let formats = provider.formats().iter().filter(|format| !format.has_model_in_path());
    let uri = |format: &Protocol| {
        let path = upstream_path(provider, &Addressed::plain(*format), "", None);
        endpoint.join(&path, None).ok().map(|uri| (*format, uri))
    };
    formats.filter_map(uri).collect()
}

impl ReadyBackend {
    /// Where a call goes.
    ///
    /// # Errors
    /// When the model's name or the query cannot be part of a URI.
    pub fn uri(&self, provider: Provider, call: &Addressed, model: &str, query: Option<&str>) -> Result<Uri, http::Error> {
        match self.uris.iter().find(|(format, _)| *format == call.protocol && query.is_none()) {
            Some((_, uri)) => Ok(uri.clone()),
            None => self.endpoint.join(&upstream_path(provider, call, model, query), None),
        }
    }
}

/// Whether calls may cost a region's uplift. OpenAI has hosts for its regions; Anthropic decides by the request and the workspace.
fn may_be_regional(provider: Provider, endpoint: &str) -> bool {
    let host = endpoint.split("://").nth(1).unwrap_or_default();
    match provider {
        Provider::Anthropic => true,
        Provider::OpenAI => host.split('/').next().unwrap_or_default().ends_with(".api.openai.com"),
        _ => false,
    }
}

/// A base URL that paths are appended to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    prefix: String,
}

impl Endpoint {
    /// Parses a base URL. A `/v1` at its end is dropped, since it is part of every protocol's own path.
    fn parse(url: &str, place: impl Fn() -> String) -> Result<Endpoint, PolicyError> {
        let unusable = |reason: String| PolicyError::Endpoint { place: place(), url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|e: InvalidUri| unusable(e.to_string()))?;
        let parts = uri.into_parts();
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/');
        Ok(Endpoint {
            scheme: parts.scheme.ok_or_else(|| unusable("it has no scheme".to_owned()))?,
            authority: parts.authority.ok_or_else(|| unusable("it has no host".to_owned()))?,
            prefix: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
        })
    }

    /// Host and port.
    pub fn server(&self) -> (String, u16) {
        let usual = if self.scheme == Scheme::HTTPS { 443 } else { 80 };
        (self.authority.host().to_owned(), self.authority.port_u16().unwrap_or(usual))
    }

    /// The endpoint with a path (which starts with a slash) and a query after it.
    pub fn join(&self, path: &str, query: Option<&str>) -> Result<Uri, http::Error> {
        let path_and_query = match query {
            Some(query) => format!("{}{path}?{query}", self.prefix),
            None => format!("{}{path}", self.prefix),
        };
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path_and_query).build()
    }
}

/// The policy in force, `None` until there is one.
pub type InForce = Arc<ArcSwapOption<Snapshot>>;

/// Puts a policy in force, whatever its generation: one stream at a time brings them, each in order, and another operator's clock may
/// be behind.
///
/// # Errors
/// When it cannot be used; the one before stays in force.
pub fn put_in_force(in_force: &InForce, policy: Policy, credentials: &[BackendCredential]) -> Result<(), PolicyError> {
    in_force.store(Some(Arc::new(Snapshot::new(policy, credentials)?)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::secret::Secret;
    use crate::core::policy::{Backend, RouteMode};

    fn endpoint(url: &str) -> Result<Endpoint, PolicyError> {
        Endpoint::parse(url, || "here".to_owned())
    }

    fn policy(generation: u64, url: &str) -> Policy {
        let backend = Backend {
            name: "b".into(),
            provider: Provider::OpenAI,
            endpoint: url.into(),
            service_tier: None,
            has_credential: true,
            models: Vec::new(),
        };
        let route = Route {
            key: ResourceKey::new("a", "r"),
            backends: vec![backend],
            mode: RouteMode::Observe,
            complexity: Default::default(),
            rules: Vec::new(),
            sensitivity: Vec::new(),
            aliases: BTreeMap::new(),
            fallback_attempts: 0,
            other_requests: Default::default(),
        };
        Policy { generation, routes: vec![route], ..Policy::default() }
    }

    #[test]
    fn paths_go_after_the_endpoints_own() {
        for (base, joined) in [
            ("https://api.openai.com", "https://api.openai.com/v1/messages?x=1"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1/messages?x=1"),
            ("http://h:8080/tenant", "http://h:8080/tenant/v1/messages?x=1"),
        ] {
            assert_eq!(endpoint(base).unwrap().join("/v1/messages", Some("x=1")).unwrap().to_string(), joined);
        }
        assert!(endpoint("api.openai.com/v1").unwrap_err().to_string().contains("like https://"));
    }

    #[test]
    fn a_broken_policy_does_not_replace_the_one_in_force_and_one_of_an_operator_whose_clock_is_behind_does() {
        let in_force = InForce::default();
        put_in_force(&in_force, policy(2, "http://two"), &[]).unwrap();
        assert!(put_in_force(&in_force, policy(3, "three"), &[]).is_err());
        assert_eq!(in_force.load().as_ref().map(|s| s.policy.generation), Some(2));
        put_in_force(&in_force, policy(1, "http://one"), &[]).unwrap();
        assert_eq!(in_force.load().as_ref().map(|s| s.policy.generation), Some(1));
    }

    #[test]
    fn a_credential_is_a_header_that_is_never_printed() {
        let key = BackendCredential { route: ResourceKey::new("a", "r"), backend: "b".into(), value: Secret::new("sk-1".into()) };
        let snapshot = Snapshot::new(policy(1, "http://h"), &[key]).unwrap();
        let credential = snapshot.routes[0].backends[0].credential.clone().unwrap();
        assert!(matches!(&credential, Credential::Header(name, value) if name == "authorization" && value == "Bearer sk-1"));
        assert!(!format!("{credential:?}").contains("sk-1"));
    }
}
