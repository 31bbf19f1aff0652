//! The cluster as the operator sees it: stores that watches keep current, and plain snapshots of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{ListParams, PartialObjectMeta};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::selection::PodFacts;
use crate::api::{AIBudget, CostAllocation, ModelRoute};

/// The label that the webhook puts on pods with a sidecar, which is also what the watch selects.
pub const INJECTED_LABEL: &str = "spendkeeper.dev/injected=true";
/// The label of ConfigMaps in the operator's namespace that hold price lists.
pub const PRICES_LABEL: &str = "spendkeeper.dev/prices=true";

/// Stores of everything the operator watches.
pub struct Index {
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
    budgets: Store<AIBudget>,
    routes: Store<ModelRoute>,
    allocations: Store<CostAllocation>,
    prices: Store<ConfigMap>,
    departed: Arc<Departed>,
    signals: Signals,
}

/// What the watches tell whoever waits. (A `Store` wakes only the last of those that wait for its first list.)
#[derive(Clone)]
struct Signals {
    /// Grows with each event of any watch.
    changes: watch::Sender<u64>,
    /// Watches that have listed everything once.
    listed: watch::Sender<usize>,
}

/// Number of watches that [`Index::start`] begins.
const WATCHES: usize = 6;

/// Pods that were deleted lately, as they were last: whether one had ended decides when its leases may be freed.
#[derive(Default)]
struct Departed(Mutex<HashMap<String, (PodFacts, Instant)>>);

/// How long a deleted pod is remembered; longer than its leases can be.
const DEPARTED_REMEMBERED: Duration = Duration::from_secs(600);

impl Departed {
    fn note(&self, pod: &Pod) {
        let facts = PodFacts::of(pod);
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, (_, since)| since.elapsed() < DEPARTED_REMEMBERED);
        pods.insert(facts.origin.pod_uid.clone(), (facts, Instant::now()));
    }
}

/// The index at one moment, as plain data.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub pods: Vec<PodFacts>,
    pub namespaces: Vec<NamespaceFacts>,
    pub budgets: Vec<Arc<AIBudget>>,
    pub routes: Vec<Arc<ModelRoute>>,
    pub allocations: Vec<Arc<CostAllocation>>,
    /// Texts of the price lists, with the name of the ConfigMap's key.
    pub prices: Vec<(String, String)>,
}

/// A namespace and its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    pub name: String,
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Index {
    /// Starts the watches; each ends only with its task.
    pub fn start(client: &Client, namespace: &str, tasks: &mut JoinSet<()>) -> Index {
        let signals = Signals { changes: watch::Sender::new(0), listed: watch::Sender::new(0) };
        let pods = watcher::Config::default().labels(INJECTED_LABEL);
        let prices = watcher::Config::default().labels(PRICES_LABEL);
        let all = watcher::Config::default();
        let departed = Arc::<Departed>::default();
        let note = departed.clone();
        Index {
            pods: keep_noting(Api::all(client.clone()), pods, prune_pod, move |pod| note.note(pod), &signals, tasks),
            departed,
            namespaces: keep(Api::all(client.clone()), all.clone(), prune_namespace, &signals, tasks),
            budgets: keep(Api::all(client.clone()), all.clone(), drop_managed_fields, &signals, tasks),
            routes: keep(Api::all(client.clone()), all.clone(), drop_managed_fields, &signals, tasks),
            allocations: keep(Api::all(client.clone()), all, drop_managed_fields, &signals, tasks),
            prices: keep(Api::namespaced(client.clone(), namespace), prices, drop_managed_fields, &signals, tasks),
            signals,
        }
    }

    /// Waits until every store holds what its first list returned.
    pub async fn ready(&self) {
        // The sender lives in `self`, so waiting can only end with the condition.
        let _ = self.signals.listed.subscribe().wait_for(|listed| *listed == WATCHES).await;
    }

    /// Waits until the stores hold every budget and namespace that the API server has now, and returns the count of
    /// [`changes`](Self::changes) that includes them. Watches of different kinds do not keep step: without this, a pod that was
    /// made right after its budget could be known before it.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn caught_up(&self, client: &Client) -> kube::Result<u64> {
        let everything = ListParams::default();
        let (budgets, namespaces) = (Api::<AIBudget>::all(client.clone()), Api::<Namespace>::all(client.clone()));
        let (budgets, namespaces) = tokio::try_join!(budgets.list_metadata(&everything), namespaces.list_metadata(&everything))?;
        let mut changes = self.changes();
        loop {
            let seen = *changes.borrow_and_update();
            if holds(&self.budgets, &budgets.items) && holds(&self.namespaces, &namespaces.items) {
                return Ok(seen);
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }

    /// A counter that grows with each event of any watch.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.signals.changes.subscribe()
    }

    /// A pod that was deleted lately, as it was last; `None` also when it went while no watch was open.
    pub fn departed(&self, uid: &str) -> Option<PodFacts> {
        let pods = self.departed.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(uid).map(|(facts, _)| facts.clone())
    }

    /// Every budget.
    pub fn budgets(&self) -> Vec<Arc<AIBudget>> {
        sorted(self.budgets.state())
    }

    pub fn snapshot(&self) -> Snapshot {
        let namespace_facts = |n: &Arc<Namespace>| NamespaceFacts { name: n.name_any(), labels: n.labels().clone() };
        Snapshot {
            pods: self.pods.state().iter().map(|pod| PodFacts::of(pod)).collect(),
            namespaces: self.namespaces.state().iter().map(namespace_facts).collect(),
            budgets: self.budgets(),
            routes: sorted(self.routes.state()),
            allocations: sorted(self.allocations.state()),
            prices: sorted(self.prices.state()).iter().flat_map(|c| c.data.clone().unwrap_or_default()).collect(),
        }
    }
}

/// True when a store has all of these, in the generation listed or a later one.
fn holds<K>(store: &Store<K>, listed: &[PartialObjectMeta<K>]) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let known: HashMap<_, _> = store.state().iter().filter_map(|k| Some((k.meta().uid.clone()?, k.meta().generation))).collect();
    let is_known = |wanted: &PartialObjectMeta<K>| {
        wanted.metadata.uid.as_ref().and_then(|uid| known.get(uid)).is_some_and(|generation| *generation >= wanted.metadata.generation)
    };
    listed.iter().all(is_known)
}

/// By namespace and name, so that nothing depends on the order in which events arrived.
fn sorted<K: ResourceExt>(mut resources: Vec<Arc<K>>) -> Vec<Arc<K>> {
    resources.sort_by_key(|r| (r.namespace(), r.name_any()));
    resources
}

/// Keeps a store current with a watch that never gives up.
fn keep<K>(api: Api<K>, config: watcher::Config, prune: fn(&mut K), signals: &Signals, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    keep_noting(api, config, prune, |_| (), signals, tasks)
}

/// As [`keep`]; `deleted` sees what is deleted, as it was last.
fn keep_noting<K>(
    api: Api<K>,
    config: watcher::Config,
    prune: fn(&mut K),
    deleted: impl Fn(&K) + Send + 'static,
    signals: &Signals,
    tasks: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let signals = signals.clone();
    let events = watcher(api, config).default_backoff().modify(prune).reflect(writer);
    tasks.spawn(async move {
        let mut events = std::pin::pin!(events);
        let mut first_list = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if let watcher::Event::Delete(object) = &event {
                        deleted(object);
                    }
                    if matches!(event, watcher::Event::InitDone) && std::mem::take(&mut first_list) {
                        signals.listed.send_modify(|count| *count += 1);
                    }
                    signals.changes.send_modify(|count| *count += 1);
                }
                Err(error) => tracing::warn!(%error, kind = std::any::type_name::<K>(), "a watch broke and will be taken up again"),
            }
        }
    });
    store
}

/// Only what attribution and selection look at is kept: a cluster has many pods.
fn prune_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.spec = None;
    if let Some(status) = pod.status.as_mut() {
        status.conditions = None;
        status.container_statuses = None;
        status.init_container_statuses = None;
    }
}

fn prune_namespace(namespace: &mut Namespace) {
    namespace.metadata.managed_fields = None;
    namespace.metadata.annotations = None;
    namespace.spec = None;
}

fn drop_managed_fields<K: Resource>(resource: &mut K) {
    resource.meta_mut().managed_fields = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_store_holds_what_is_listed_once_its_watch_told_of_it_in_that_generation() {
        let budget = |generation: i64| -> AIBudget {
            let metadata = json!({"namespace": "shop", "name": "b", "uid": "u", "generation": generation});
            let limits = json!([{"name": "m", "usd": "1", "period": "Lifetime"}]);
            serde_json::from_value(
                json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "AIBudget", "metadata": metadata, "spec": {"limits": limits}}),
            )
            .expect("a budget")
        };
        let listed = PartialObjectMeta::<AIBudget> { metadata: budget(2).metadata, types: None, _phantom: std::marker::PhantomData };
        let (store, mut writer) = reflector::store();
        assert!(holds(&store, &[]) && !holds(&store, std::slice::from_ref(&listed)));
        for (generation, expected) in [(1, false), (2, true), (3, true)] {
            writer.apply_watcher_event(&watcher::Event::Apply(budget(generation)));
            assert_eq!(holds(&store, std::slice::from_ref(&listed)), expected, "generation {generation}");
        }
    }
}
