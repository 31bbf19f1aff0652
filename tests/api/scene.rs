//! What each test has to itself: a namespace, and clients for it.

use std::fmt::Debug;
use std::process::Output;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, NamespaceResourceScope};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spendkeeper::api::AIBudget;

use super::cluster::{Cluster, namespace, shared};
use super::provider::Provider;
use super::server::client;
use super::wait::until;

/// Part of every credential of these tests, so that it can be looked for where it must not be.
pub const CREDENTIAL: &str = "sk-for-nobodys-eyes";

/// Admin rights, in one namespace unless an object says otherwise. Its end is a check: whatever the test was about, the
/// operator lacked no right and logged no credential.
pub struct Scene<'a> {
    pub cluster: &'a Cluster,
    pub client: Client,
    pub namespace: String,
}

impl Scene<'static> {
    /// On the cluster that most tests share.
    pub async fn new(name: &str) -> Scene<'static> {
        Scene::on(&shared().cluster, name, json!({})).await
    }
}

impl<'a> Scene<'a> {
    pub async fn on(cluster: &'a Cluster, name: &str, labels: Value) -> Scene<'a> {
        let client = client(&cluster.server.admin(), None).await;
        let scene = Scene { cluster, client, namespace: name.to_owned() };
        let made = serde_json::from_value::<Namespace>(namespace(name, labels)).unwrap();
        Api::<Namespace>::all(scene.client.clone()).create(&PostParams::default(), &made).await.unwrap();
        // No controller makes it.
        let account =
            ServiceAccount { metadata: ObjectMeta { name: Some("default".into()), ..ObjectMeta::default() }, ..Default::default() };
        scene.api::<ServiceAccount>().create(&PostParams::default(), &account).await.unwrap();
        scene
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The API of a manifest's kind, for a client of one's choice.
    pub fn api_of(&self, client: &Client, manifest: &Value) -> Api<DynamicObject> {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str);
        let version = text("/apiVersion").unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind").unwrap()));
        Api::namespaced_with(client.clone(), text("/metadata/namespace").unwrap_or(&self.namespace), &resource)
    }

    pub async fn create(&self, manifest: Value) -> kube::Result<DynamicObject> {
        self.create_with(manifest, &PostParams::default()).await
    }

    /// Asks whether a manifest would be taken.
    pub async fn try_out(&self, manifest: Value) -> kube::Result<DynamicObject> {
        self.create_with(manifest, &PostParams { dry_run: true, ..PostParams::default() }).await
    }

    async fn create_with(&self, manifest: Value, parameters: &PostParams) -> kube::Result<DynamicObject> {
        let api = self.api_of(&self.client, &manifest);
        api.create(parameters, &serde_json::from_value(manifest).unwrap()).await
    }

    /// Changes an object as `client` may.
    pub async fn merge<K>(&self, client: &Client, name: &str, change: Value) -> kube::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        Api::<K>::namespaced(client.clone(), &self.namespace).patch(name, &PatchParams::default(), &Patch::Merge(change)).await
    }

    /// Waits until an object is as wanted.
    pub async fn once<K>(&self, what: &str, name: &str, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        until(what, async || {
            let found = self.api::<K>().get(name).await.map_err(|error| error.to_string())?;
            if wanted(&found) { Ok(found) } else { Err(format!("{found:#?}")) }
        })
        .await
    }

    /// Creates a budget and waits until the operator knows of it: it learns of budgets and of pods by separate watches, so that
    /// a pod may be told a policy before the budget that was created just before it is part of that.
    pub async fn budget_in_force(&self, name: &str, limit: Value) {
        self.create(budget(name, limit)).await.unwrap();
        self.once::<AIBudget>("the budget has a status", name, |b| b.status.is_some()).await;
    }

    /// A provider that answers, and the route `models` to it.
    pub async fn provider(&self) -> Arc<Provider> {
        let provider = Provider::start().await;
        self.create(route("models", &provider.address)).await.unwrap();
        provider
    }

    /// A client of `user`, who is bound to the cluster role `role` in this namespace.
    pub async fn user(&self, user: &str, role: &str) -> Client {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": format!("{user}-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.create(binding).await.unwrap();
        let client = client(&self.cluster.server.admin(), Some(user)).await;
        // The API server learns of a binding by a watch.
        let budgets = Api::<AIBudget>::namespaced(client.clone(), &self.namespace);
        until("the user has the role", async || budgets.list(&ListParams::default()).await.map_err(|error| error.to_string())).await;
        client
    }

    /// A token of the account `default`, bound to an object by kind, name and UID where one is given.
    pub async fn token(&self, audience: &str, bound_to: Option<(&str, &str, &str)>) -> String {
        let reference = bound_to.map(|(kind, name, uid)| BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some(kind.into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
        });
        let spec = TokenRequestSpec { audiences: vec![audience.into()], bound_object_ref: reference, expiration_seconds: Some(3_600) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self.api::<ServiceAccount>().create_token_request("default", &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    /// Waits until the shared operator has looked at everything `n` times more; a change of this namespace begins each round.
    pub async fn rounds(&self, n: usize) {
        let counted = || shared().operator.metric("spendkeeper_reconciles_total", "kind=\"AIBudget\"");
        let budgets = Api::<AIBudget>::all(self.client.clone()).list(&ListParams::default()).await.unwrap().items.len();
        // Each round counts each budget once; other tests may add a few meanwhile.
        let enough = counted() + (n * (budgets + 20)) as f64;
        let mut touched = 0;
        until("the rounds are over", async || {
            touched += 1;
            let change = json!({"metadata": {"labels": {"touched": touched.to_string()}}});
            let namespaces = Api::<Namespace>::all(self.client.clone());
            namespaces.patch(&self.namespace, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
            let now = counted();
            if now >= enough { Ok(()) } else { Err((now, enough)) }
        })
        .await;
    }

    /// Waits until an object's Event is there, which is soon after the status that it is about; it is told once.
    pub async fn told(&self, name: &str, reason: &str) -> Event {
        let is_about =
            |e: &Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name) && e.reason.as_deref() == Some(reason);
        let mut told = until(&format!("{reason} is told of {name}"), async || {
            let all = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
            let told: Vec<Event> = all.iter().filter(|e| is_about(e)).cloned().collect();
            if told.is_empty() { Err(all.into_iter().map(|e| (e.reason, e.note)).collect::<Vec<_>>()) } else { Ok(told) }
        })
        .await;
        assert!(told.len() == 1 && told[0].series.is_none() && told[0].deprecated_count.unwrap_or(1) <= 1, "{told:#?}");
        told.remove(0)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        let all: Vec<&str> = ["--namespace", &self.namespace].into_iter().chain(arguments.iter().copied()).collect();
        self.cluster.server.kubectl(&all)
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        let log = self.cluster.log();
        if std::thread::panicking() {
            let about: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
            eprintln!("the operator's warnings:\n{}", about[about.len().saturating_sub(20)..].join("\n"));
            return;
        }
        let denied: Vec<&str> = log.lines().filter(|line| line.to_ascii_lowercase().contains("forbidden")).collect();
        assert!(denied.is_empty(), "the operator lacks a right that it needs:\n{}", denied.join("\n"));
        let leaked = log.lines().find(|line| line.contains(CREDENTIAL));
        assert!(leaked.is_none(), "the operator logged a credential: {leaked:?}");
    }
}

/// The message of a refusal by the API server.
pub fn refusal<T: Debug>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("no refusal: {other:?}"),
    }
}

/// A resource of ours.
pub fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A budget with one limit, for ever.
pub fn budget(name: &str, limit: Value) -> Value {
    let mut limit = limit;
    limit["name"] = json!("total");
    limit["period"] = json!("Lifetime");
    ours("AIBudget", name, json!({"limits": [limit]}))
}

/// A route to one backend, with a frontier model at 10 USD per million tokens and an economy model at 1.
pub fn route(name: &str, endpoint: &str) -> Value {
    let model = |name: &str, tier: &str, price: &str| json!({"name": name, "tier": tier, "contextWindow": 200_000, "maxOutput": 100_000, "price": {"input": price, "output": price}});
    let models = [model("big", "frontier", "10"), model("small", "economy", "1")];
    ours("ModelRoute", name, json!({"backends": [{"name": "one", "provider": "OpenAI", "endpoint": endpoint, "models": models}]}))
}
