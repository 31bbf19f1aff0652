//! What each pod's sidecar is told: only the budgets, routes, meters and outcomes that select that pod. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::{Resource, ResourceExt};

use super::index::{NamespaceFacts, Snapshot};
use super::runaways::Throttles;
use super::selection::{PodFacts, dimension_policy, key_of, selects};
use crate::api::common::WorkloadSelector;
use crate::api::parse;
use crate::api::route::SecretKeyRef;
use crate::api::{CostAllocation, ModelRoute};
use crate::core::budget::BudgetSet;
use crate::core::catalogue;
use crate::core::dimensions::DimensionPolicy;
use crate::core::policy::{Budget, Meter, OutcomeMetric, Policy, ResourceKey, Route};
use crate::core::price::{Catalogue, ModelPrice};
use crate::core::throttle;

/// The declared resources, parsed once for all pods. What does not parse has no force; its own status says so.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    operator_namespace: String,
    namespaces: Vec<NamespaceFacts>,
    budgets: Vec<Declared<Budget>>,
    routes: Vec<Declared<RouteRule>>,
    meters: Vec<Declared<Meter>>,
    outcomes: Vec<Declared<OutcomeRule>>,
    /// Price lists of one's own, over the embedded catalogue.
    listed: Catalogue,
}

/// A parsed resource, or a part of one, and the pods that it is about.
#[derive(Clone, Debug)]
struct Declared<T> {
    key: ResourceKey,
    pods: Option<WorkloadSelector>,
    what: T,
}

#[derive(Clone, Debug)]
struct RouteRule {
    route: Route,
    prices: Vec<ModelPrice>,
    /// By backend.
    credentials: BTreeMap<String, SecretKeyRef>,
}

#[derive(Clone, Debug)]
struct OutcomeRule {
    metric: OutcomeMetric,
    /// The pods that have the metric, within those that the allocation selects.
    having: Option<WorkloadSelector>,
}

/// Where a backend's credential is: a key of a Secret in the route's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialSource {
    pub namespace: String,
    pub secret: String,
    pub key: String,
}

/// A backend that needs a credential, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    pub route: ResourceKey,
    pub backend: String,
    pub source: CredentialSource,
}

/// What `policy_for` decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPolicy {
    /// Its generation is 0; whoever sends it numbers it.
    pub policy: Policy,
    pub credentials: Vec<Needed>,
}

/// Identifies the versions of everything that [`Rules`] are made from; equal fingerprints make equal rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    specs: Vec<(ResourceKey, Option<String>, Option<i64>)>,
    namespaces: Vec<NamespaceFacts>,
    prices: Vec<(String, String)>,
    throttles: Throttles,
}

impl Fingerprint {
    pub fn of(snapshot: &Snapshot, throttles: &Throttles) -> Fingerprint {
        let budgets = snapshot.budgets.iter().map(|r| version(r.as_ref()));
        let routes = snapshot.routes.iter().map(|r| version(r.as_ref()));
        let allocations = snapshot.allocations.iter().map(|r| version(r.as_ref()));
        let mut namespaces = snapshot.namespaces.clone();
        namespaces.sort_by(|a, b| a.name.cmp(&b.name));
        let specs = budgets.chain(routes).chain(allocations).collect();
        Fingerprint { specs, namespaces, prices: snapshot.prices.clone(), throttles: throttles.clone() }
    }
}

/// A change of status or annotations leaves a resource's generation as it is.
fn version<K: Resource>(resource: &K) -> (ResourceKey, Option<String>, Option<i64>) {
    (key_of(resource), resource.uid(), resource.meta().generation)
}

fn own_price_lists(snapshot: &Snapshot) -> Vec<ModelPrice> {
    snapshot.prices.iter().flat_map(|(name, text)| price_list(name, text)).collect()
}

/// The embedded catalogue with the price lists of the operator's namespace over it.
pub fn known_prices(snapshot: &Snapshot) -> Catalogue {
    let mut known = catalogue::embedded().clone();
    known.overlay(own_price_lists(snapshot));
    known
}

impl Rules {
    /// Parses everything that `snapshot` declares, and holds back whom `throttles` names.
    pub fn of(snapshot: &Snapshot, operator_namespace: &str, throttles: &Throttles) -> Rules {
        let prices = own_price_lists(snapshot);
        let known = known_prices(snapshot);
        let budgets = snapshot.budgets.iter().filter_map(|budget| {
            let key = key_of(budget.as_ref());
            let what = parse::budget(key.clone(), &budget.spec).ok()?;
            BudgetSet::compile(vec![what.clone()]).ok()?;
            let pods = budget.spec.scope.workloads.clone();
            Some(Declared { key, pods, what })
        });
        let budgets: Vec<_> = budgets.flat_map(|declared| with_throttles(declared, throttles)).collect();
        let allocations: Vec<_> = snapshot.allocations.iter().filter(|a| parse::allocation(key_of(a.as_ref()), &a.spec).is_ok()).collect();
        Rules {
            operator_namespace: operator_namespace.to_owned(),
            namespaces: snapshot.namespaces.clone(),
            budgets,
            routes: snapshot.routes.iter().filter_map(|route| declared_route(route, &known)).collect(),
            meters: allocations.iter().flat_map(|allocation| declared_meters(allocation)).collect(),
            outcomes: allocations.iter().flat_map(|allocation| declared_outcomes(allocation)).collect(),
            listed: Catalogue::new(prices),
        }
    }

    /// Everything that the sidecar of `pod` needs, and nothing that it does not.
    pub fn policy_for(&self, pod: &PodFacts) -> PodPolicy {
        let routes = self.about(&self.routes, pod);
        let credentials = routes.iter().flat_map(|rule| needed(&rule.what)).collect();
        let policy = Policy {
            generation: 0,
            origin: Arc::new(pod.origin.clone()),
            // The webhook refuses bad annotations; on a pod that came past it they pin nothing and free nothing.
            dimensions: dimension_policy(&pod.annotations).unwrap_or_else(|_| DimensionPolicy::default()),
            budgets: self.about(&self.budgets, pod).into_iter().map(|budget| budget.what.clone()).collect(),
            prices: self.prices_of(&routes),
            routes: routes.into_iter().map(|rule| rule.what.route.clone()).collect(),
            meters: first_of_each(self.about(&self.meters, pod).into_iter().map(|meter| meter.what.clone()), |m| m.name.clone()),
            outcomes: self.outcomes_for(pod),
        };
        PodPolicy { policy, credentials }
    }

    /// The sources of every credential that a route names.
    pub fn credential_sources(&self) -> BTreeSet<CredentialSource> {
        self.routes.iter().flat_map(|rule| needed(&rule.what)).map(|needed| needed.source).collect()
    }

    /// What is about `pod`: its own namespace's first, then the operator's, each in order of name.
    fn about<'a, T>(&self, declared: &'a [Declared<T>], pod: &PodFacts) -> Vec<&'a Declared<T>> {
        let selected = declared.iter().filter(|d| self.selects(&d.key, d.pods.as_ref(), pod));
        let mut selected: Vec<_> = selected.collect();
        selected.sort_by_key(|d| d.key.namespace() != pod.origin.namespace);
        selected
    }

    fn selects(&self, key: &ResourceKey, pods: Option<&WorkloadSelector>, pod: &PodFacts) -> bool {
        selects(pods, key.namespace(), &self.operator_namespace, pod, &self.namespaces)
    }

    /// An outcome has one metric in a pod, however many allocations count it.
    fn outcomes_for(&self, pod: &PodFacts) -> Vec<OutcomeMetric> {
        let having = |rule: &&Declared<OutcomeRule>| self.selects(&rule.key, rule.what.having.as_ref(), pod);
        let rules = self.about(&self.outcomes, pod).into_iter().filter(having);
        first_of_each(rules.map(|rule| rule.what.metric.clone()), |m| m.outcome.clone())
    }

    /// Prices of the routes' models that differ from the embedded catalogue's. Of two routes with a price for one model,
    /// the first route's holds: it comes last, over the others.
    fn prices_of(&self, routes: &[&Declared<RouteRule>]) -> Vec<ModelPrice> {
        let models: BTreeSet<&str> =
            routes.iter().flat_map(|r| &r.what.route.backends).flat_map(|b| &b.models).map(|m| m.priced_as()).collect();
        let listed = models.into_iter().filter_map(|model| self.listed.latest(model));
        listed.chain(routes.iter().rev().flat_map(|rule| &rule.what.prices)).cloned().collect()
    }
}

/// A budget, and those that hold back who runs away under it.
fn with_throttles(declared: Declared<Budget>, throttles: &Throttles) -> Vec<Declared<Budget>> {
    let (budget, held) = (&declared.what, throttles.get(&declared.key).into_iter().flatten());
    let throttled = held.filter_map(|held| throttle::budget(budget, &budget.runaway?, held));
    let throttled: Vec<_> = throttled.map(|what| Declared { key: declared.key.clone(), pods: declared.pods.clone(), what }).collect();
    std::iter::once(declared).chain(throttled).collect()
}

/// A list without a date holds from now on: later than any dated price, but below those that a route sets itself.
const UNDATED: &str = "9999-12-30";

/// A price list in LiteLLM's format (a key that ends in `.json`) or our own. One that cannot be read has no force.
fn price_list(name: &str, text: &str) -> Vec<ModelPrice> {
    let is_litellm = name.ends_with(".json");
    let list = if is_litellm { catalogue::from_litellm(text, UNDATED) } else { catalogue::from_yaml(text).map(|list| (list, vec![])) };
    let (prices, left_out) = list.unwrap_or_else(|error| {
        tracing::warn!(list = name, %error, "a price list is left out; the prices known without it hold");
        (vec![], vec![])
    });
    if let Some(first) = left_out.first() {
        tracing::warn!(list = name, models = left_out.len(), %first, "models of a price list are left out; the prices known without it hold");
    }
    prices
}

fn first_of_each<T, K: Ord>(items: impl Iterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.filter(|item| seen.insert(key(item))).collect()
}

fn needed(rule: &RouteRule) -> impl Iterator<Item = Needed> + '_ {
    let namespace = rule.route.key.namespace();
    rule.credentials.iter().map(move |(backend, secret)| Needed {
        route: rule.route.key.clone(),
        backend: backend.clone(),
        source: CredentialSource { namespace: namespace.to_owned(), secret: secret.name.clone(), key: secret.key.clone() },
    })
}

fn declared_route(resource: &Arc<ModelRoute>, known: &Catalogue) -> Option<Declared<RouteRule>> {
    let key = key_of(resource.as_ref());
    let (route, prices) = parse::route(key.clone(), &resource.spec, known).ok()?;
    let credentials = resource.spec.backends.iter().filter_map(|b| Some((b.name.clone(), b.credentials.clone()?))).collect();
    Some(Declared { key, pods: resource.spec.workloads.clone(), what: RouteRule { route, prices, credentials } })
}

/// Shared services that pods reach through their sidecar.
fn declared_meters(resource: &CostAllocation) -> Vec<Declared<Meter>> {
    let key = key_of(resource);
    let with_endpoint = resource.spec.shared_costs.iter().filter_map(|cost| Some((cost.name.clone(), cost.endpoint.clone()?)));
    let declared = with_endpoint.map(|(name, endpoint)| Declared {
        key: key.clone(),
        pods: resource.spec.workloads.clone(),
        what: Meter { name, endpoint },
    });
    declared.collect()
}

/// Outcomes that are read from the apps' own metrics.
fn declared_outcomes(resource: &CostAllocation) -> Vec<Declared<OutcomeRule>> {
    let key = key_of(resource);
    let declared = resource.spec.outcomes.iter().filter_map(|outcome| {
        let spec = outcome.metric.as_ref()?;
        let port = u16::try_from(spec.port).ok()?;
        let metric = OutcomeMetric { outcome: outcome.name.clone(), metric: spec.name.clone(), port, path: spec.path.clone() };
        let having = narrowed(resource.spec.workloads.as_ref(), spec.workloads.as_ref());
        Some(Declared { key: key.clone(), pods: resource.spec.workloads.clone(), what: OutcomeRule { metric, having } })
    });
    declared.collect()
}

/// The metric's selector; what it leaves out is as the allocation has it.
fn narrowed(allocation: Option<&WorkloadSelector>, metric: Option<&WorkloadSelector>) -> Option<WorkloadSelector> {
    let (Some(allocation), Some(metric)) = (allocation, metric) else { return metric.or(allocation).cloned() };
    Some(WorkloadSelector {
        pods: metric.pods.clone().or_else(|| allocation.pods.clone()),
        namespaces: metric.namespaces.clone().or_else(|| allocation.namespaces.clone()),
    })
}

#[cfg(test)]
mod tests;
