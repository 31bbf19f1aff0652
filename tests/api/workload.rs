//! Pods as users write them, and what a pod's sidecar has: its identity and its way to the operator.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use spendkeeper::channel::TOKEN_AUDIENCE;
use spendkeeper::channel::client::{OperatorAddress, OperatorClient};
use spendkeeper::core::call::CallRecord;

use super::scene::Scene;

/// A pod that the restricted pod security standard allows.
pub fn pod(name: &str, annotations: Value) -> Value {
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "serviceAccountName": "default",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "app", "image": "example.com/app:1", "securityContext": security}],
        },
    })
}

/// Asks for a sidecar.
pub fn injected(name: &str) -> Value {
    pod(name, json!({"spendkeeper.dev/inject": "true"}))
}

/// What the sidecar of a pod finds in it.
pub struct Workload {
    pub name: String,
    pub uid: String,
    pub operator: String,
    pub ca: String,
    pub token: String,
    /// Where the token is.
    pub token_file: PathBuf,
}

impl Workload {
    /// Creates a pod and takes the sidecar's place in it.
    pub async fn start(scene: &Scene<'_>, manifest: Value) -> Workload {
        let created = scene.create(manifest).await.unwrap();
        let pod: Pod = scene.api().get(&created.name_any()).await.unwrap();
        let (name, uid) = (pod.name_any(), pod.uid().unwrap());
        let sidecar = pod.spec.unwrap().init_containers.unwrap().remove(0);
        let variable = |name: &str| sidecar.env.iter().flatten().find(|v| v.name == name).unwrap().value.clone().unwrap();
        let token = scene.token(TOKEN_AUDIENCE, Some(("Pod", &name, &uid))).await;
        let token_file = scene.cluster.server.directory.join(format!("{uid}.token"));
        std::fs::write(&token_file, &token).unwrap();
        Workload { name, uid, operator: variable("SPENDKEEPER_OPERATOR"), ca: variable("SPENDKEEPER_CA"), token, token_file }
    }

    /// The same, with its way to the operator through a port on loopback.
    pub fn by_way_of(self, port: u16) -> Workload {
        Workload { operator: format!("https://127.0.0.1:{port}"), ..self }
    }

    pub fn channel(&self) -> OperatorClient {
        let address = OperatorAddress { url: self.operator.clone(), ca_pem: self.ca.clone(), token_file: self.token_file.clone() };
        OperatorClient::new(address).unwrap()
    }

    /// The channel with somebody else's token.
    pub fn channel_with(&self, scene: &Scene<'_>, token: &str) -> OperatorClient {
        let token_file = scene.cluster.server.directory.join(format!("{}.token", uuid::Uuid::new_v4()));
        std::fs::write(&token_file, token).unwrap();
        let address = OperatorAddress { url: self.operator.clone(), ca_pem: self.ca.clone(), token_file };
        OperatorClient::new(address).unwrap()
    }
}

/// What a sidecar reports of a call to the frontier model of `route`, which an economy model could have answered.
pub fn record(id: &str, route: &str, feature: &str, cost: &str) -> Arc<CallRecord> {
    let record = json!({
        "id": id,
        "startedAtMs": 0,
        "durationMs": 5,
        "origin": {},
        "dimensions": {"feature": feature},
        "kind": {"type": "model", "protocol": "OpenAIChat"},
        "route": route,
        "backend": "one",
        "requestedModel": "big",
        "model": "big",
        "requestedTier": "frontier",
        "tier": "frontier",
        "classification": {"complexity": 5, "neededTier": "economy"},
        "usage": {"input": 100, "output": 100},
        "cost": cost,
        "outcome": "completed",
        "status": 200,
    });
    Arc::new(serde_json::from_value(record).unwrap())
}
