//! A pod that makes calls with the official SDK as a script tells it, through a sidecar of its own.

use serde_json::json;

use crate::cluster::{Namespace, apply};

/// A Secret, a route to the simulated provider and a budget; `limit` is in US dollars for the budget's lifetime.
pub fn rules(namespace: &Namespace, limit: &str) {
    let name = &namespace.0;
    let documents = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": name}, "stringData": {"openai": "demo-openai-key"}}),
        json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "ModelRoute", "metadata": {"name": "models", "namespace": name},
            "spec": {"backends": [{"name": "openai", "provider": "OpenAI", "endpoint": "http://provider.ai-platform.svc.cluster.local",
                "serviceTier": "Standard", "credentials": {"name": "keys", "key": "openai"}, "models": [{"name": "gpt-5.4", "tier": "frontier"}]}]}}),
        json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "AIBudget", "metadata": {"name": "total", "namespace": name},
            "spec": {"limits": [{"name": "total", "usd": limit, "period": "Lifetime"}]}}),
    ];
    apply(&documents.iter().map(|d| d.to_string()).collect::<Vec<_>>().join("\n---\n"));
}

/// The template of a pod that runs `script`; what it prints is its log.
pub fn template(label: &str, script: &str) -> serde_json::Value {
    json!({
        "metadata": {"labels": {"app": label}, "annotations": {"spendkeeper.dev/inject": "true", "spendkeeper.dev/team": label}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "spendkeeper/example-app:dev", "imagePullPolicy": "Never", "args": ["-c", script],
                "env": [{"name": "LABEL", "value": label}],
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// Starts a bare pod that runs `script`, under its label.
pub fn start(namespace: &Namespace, label: &str, script: &str) {
    start_named(namespace, label, label, script);
}

/// Starts a bare pod that runs `script`: one of several under a label.
pub fn start_named(namespace: &Namespace, name: &str, label: &str, script: &str) {
    let mut pod = template(label, script);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(namespace.0);
    apply(&pod.to_string());
}

/// One call that is to be answered in some forty words.
pub const ONE_CALL: &str = r#"
import os, openai
answer = openai.OpenAI().chat.completions.create(
    model="gpt-5.4", user=os.environ["LABEL"], max_completion_tokens=200,
    messages=[{"role": "user", "content": "Where is my parcel? Answer in about 40 words."}])
print("answered", answer.usage.total_tokens, flush=True)
"#;
