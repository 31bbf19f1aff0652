//! The sidecar that an annotated pod gets, as a JSON patch of the pod. Pure.
//!
//! Each part of the patch is left out when the pod has it already: the API server may ask again after another webhook
//! changed the pod, and the second answer must change nothing but what is new.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::{Value, json};

use crate::api::annotation;
use crate::channel::TOKEN_AUDIENCE;
use crate::core::dimensions::Dimension;
use crate::operator::selection::{AnnotationError, dimension_policy};

/// Name of the container.
pub const SIDECAR: &str = "spendkeeper-sidecar";
const TOKEN_VOLUME: &str = "spendkeeper-token";
const JOURNAL_VOLUME: &str = "spendkeeper-journal";
/// Readiness, liveness and metrics of the sidecar.
const ADMIN_PORT: u16 = 15401;
/// The label by which the operator finds pods with a sidecar.
const INJECTED_LABEL: &str = "spendkeeper.dev/injected";
/// The user that the sidecar runs as; nobody's in particular.
const USER: i64 = 65532;

/// What apps are given unless they set it: where the SDKs send their calls, and keys that let them start. The keys are
/// placeholders; the provider's own never enter the app's containers.
const APP_ENVIRONMENT: [(&str, &str); 4] = [
    ("OPENAI_BASE_URL", "http://127.0.0.1:15400/v1"),
    ("ANTHROPIC_BASE_URL", "http://127.0.0.1:15400"),
    ("OPENAI_API_KEY", "spendkeeper"),
    ("ANTHROPIC_API_KEY", "spendkeeper"),
];

/// What the sidecar is made from; the operator's flags.
#[derive(Clone, Debug)]
pub struct SidecarSettings {
    pub image: String,
    pub pull_policy: String,
    pub cpu_request: String,
    pub memory_request: String,
    pub memory_limit: String,
    /// `https://…:9443`, the control channel.
    pub operator_url: String,
    /// `None`: no collector is told of calls.
    pub otlp: Option<OtlpSettings>,
    pub network: NetworkSettings,
}

/// The way of the sidecars to providers; what is empty is left out.
#[derive(Clone, Debug, Default)]
pub struct NetworkSettings {
    pub https_proxy: String,
    pub http_proxy: String,
    pub no_proxy: String,
    /// PEM of certificate authorities beside the system's.
    pub upstream_ca: String,
}

/// The OpenTelemetry collector of the sidecars.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// `$(HOST_IP)` in it stands for the address of the pod's node, where a collector may be a DaemonSet's.
    pub endpoint: String,
    pub protocol: String,
    pub sample_ratio: f64,
}

/// Why a pod cannot have a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(
        "annotation {0} is not known; there are spendkeeper.dev/inject, /free, /feature, /team, /process, /agent, /session, \
         /<dimension>-values and /capture-content: correct or remove it"
    )]
    UnknownAnnotation(String),
    #[error("annotation {name} allows {value:?}, which is longer than 63 bytes or not plain text; use short names, separated by commas")]
    AllowedValue { name: String, value: String },
    #[error("annotation {name} is {value:?}; write \"true\", or \"false\", or leave it out")]
    NoFlag { name: &'static str, value: String },
    #[error("the pod has {field}: true, so {reason}; remove {field}, or the annotation spendkeeper.dev/inject")]
    Exposed { field: &'static str, reason: &'static str },
    #[error("the pod has a {kind} named {name:?} of its own, and the sidecar needs that name; rename yours")]
    NameTaken { kind: &'static str, name: &'static str },
}

/// The change of a pod, and what its owner should know.
#[derive(Debug, Default, PartialEq)]
pub struct Injection {
    /// RFC 6902 operations; empty when there is nothing to do.
    pub patch: Vec<Value>,
    pub warnings: Vec<String>,
}

/// The patch that gives `pod` its sidecar. `ca` is the PEM bundle that the sidecar will trust.
pub fn inject(pod: &Pod, settings: &SidecarSettings, ca: &str) -> Result<Injection, Refusal> {
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    if annotations.get(annotation::INJECT).map(String::as_str) != Some("true") {
        return Ok(Injection::default());
    }
    check_annotations(&annotations)?;
    let spec = pod.spec.clone().unwrap_or_default();
    check_isolation(&spec)?;
    let mut injection = Injection::default();
    put_marks(pod, &annotations, &mut injection.patch);
    if !has_sidecar(&spec) {
        check_names(&spec)?;
        put_volumes(&spec, &mut injection.patch);
        let captures_content = annotations.get(annotation::CAPTURE_CONTENT).is_some_and(|value| value == "true");
        put_sidecar(&spec, environment(settings, ca, captures_content), settings, &mut injection.patch);
    }
    put_environment(&spec, &mut injection);
    Ok(injection)
}

fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), Refusal> {
    dimension_policy(annotations)?;
    if let Some(value) = annotations.get(annotation::CAPTURE_CONTENT).filter(|value| !["true", "false"].contains(&value.as_str())) {
        return Err(Refusal::NoFlag { name: annotation::CAPTURE_CONTENT, value: value.clone() });
    }
    for (name, value) in annotations {
        let Some(suffix) = name.strip_prefix(annotation::PREFIX) else { continue };
        let (dimension, is_list) = match suffix.strip_suffix(annotation::VALUES_SUFFIX) {
            Some(dimension) => (dimension, true),
            None => (suffix, false),
        };
        let known = [annotation::INJECT, annotation::INJECTED, annotation::FREE, annotation::CAPTURE_CONTENT].contains(&name.as_str());
        if !known && Dimension::from_name(dimension).is_none() {
            return Err(Refusal::UnknownAnnotation(name.clone()));
        }
        let too_long = |value: &&str| value.len() > crate::core::dimensions::MAX_VALUE_BYTES || value.chars().any(char::is_control);
        if let Some(value) = value.split(',').map(str::trim).find(too_long).filter(|_| is_list) {
            return Err(Refusal::AllowedValue { name: name.clone(), value: value.to_owned() });
        }
    }
    Ok(())
}

/// The sidecar must be this pod's alone, and its memory out of the app's reach: it holds provider credentials.
fn check_isolation(spec: &PodSpec) -> Result<(), Refusal> {
    const LOOPBACK: &str = "every pod on the node would reach the sidecar's port and spend in this pod's name";
    const MEMORY: &str = "the app could read the sidecar's memory, which holds provider credentials";
    let table = [
        (spec.host_network, "hostNetwork", LOOPBACK),
        (spec.share_process_namespace, "shareProcessNamespace", MEMORY),
        (spec.host_pid, "hostPID", MEMORY),
    ];
    match table.into_iter().find(|(set, _, _)| *set == Some(true)) {
        Some((_, field, reason)) => Err(Refusal::Exposed { field, reason }),
        None => Ok(()),
    }
}

fn has_sidecar(spec: &PodSpec) -> bool {
    spec.init_containers.iter().flatten().any(|c| c.name == SIDECAR && c.restart_policy.as_deref() == Some("Always"))
}

fn check_names(spec: &PodSpec) -> Result<(), Refusal> {
    if containers(spec).any(|(_, _, container)| container.name == SIDECAR) {
        return Err(Refusal::NameTaken { kind: "container", name: SIDECAR });
    }
    let taken = |name: &&'static str| spec.volumes.iter().flatten().any(|volume| volume.name == **name);
    match [TOKEN_VOLUME, JOURNAL_VOLUME].into_iter().find(taken) {
        Some(name) => Err(Refusal::NameTaken { kind: "volume", name }),
        None => Ok(()),
    }
}

/// Every container with the list and position where it stands.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, usize, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| ("initContainers", i, c));
    init.chain(spec.containers.iter().enumerate().map(|(i, c)| ("containers", i, c)))
}

fn add(path: impl Into<String>, value: Value) -> Value {
    json!({"op": "add", "path": path.into(), "value": value})
}

/// A map's key as a segment of a JSON pointer (RFC 6901).
pub(super) fn pointer_segment(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The label that the operator watches for and the annotation that says which version injected.
fn put_marks(pod: &Pod, annotations: &BTreeMap<String, String>, patch: &mut Vec<Value>) {
    let labels = pod.metadata.labels.as_ref();
    if labels.is_none() {
        patch.push(add("/metadata/labels", json!({})));
    }
    if labels.and_then(|l| l.get(INJECTED_LABEL)).map(String::as_str) != Some("true") {
        patch.push(add(format!("/metadata/labels/{}", pointer_segment(INJECTED_LABEL)), json!("true")));
    }
    // A first answer stays: an operator that was upgraded meanwhile does not change a pod's history.
    if !annotations.contains_key(annotation::INJECTED) {
        let version = env!("CARGO_PKG_VERSION");
        patch.push(add(format!("/metadata/annotations/{}", pointer_segment(annotation::INJECTED)), json!(version)));
    }
}

fn put_volumes(spec: &PodSpec, patch: &mut Vec<Value>) {
    if spec.volumes.is_none() {
        patch.push(add("/spec/volumes", json!([])));
    }
    // A volume of our own: the token reaches the sidecar even where `automountServiceAccountToken` is false, and no app.
    let token = json!({"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}});
    patch.push(add("/spec/volumes/-", json!({"name": TOKEN_VOLUME, "projected": {"sources": [token]}})));
    patch.push(add("/spec/volumes/-", json!({"name": JOURNAL_VOLUME, "emptyDir": {}})));
}

/// First of the init containers, so that the others can make calls too.
fn put_sidecar(spec: &PodSpec, environment: Vec<Value>, settings: &SidecarSettings, patch: &mut Vec<Value>) {
    if spec.init_containers.is_none() {
        patch.push(add("/spec/initContainers", json!([])));
    }
    patch.push(add("/spec/initContainers/0", sidecar(settings, environment)));
}

fn sidecar(settings: &SidecarSettings, environment: Vec<Value>) -> Value {
    json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "restartPolicy": "Always",
        "env": environment,
        "ports": [{"name": "spend-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {"httpGet": {"path": "/readyz", "port": ADMIN_PORT}, "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": ADMIN_PORT}, "periodSeconds": 10, "failureThreshold": 3},
        "resources": {
            "requests": {"cpu": settings.cpu_request, "memory": settings.memory_request},
            "limits": {"memory": settings.memory_limit},
        },
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": "/var/run/spendkeeper/token", "readOnly": true},
            {"name": JOURNAL_VOLUME, "mountPath": "/var/lib/spendkeeper"},
        ],
    })
}

fn environment(settings: &SidecarSettings, ca: &str, captures_content: bool) -> Vec<Value> {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut environment = vec![variable("SPENDKEEPER_OPERATOR", &settings.operator_url), variable("SPENDKEEPER_CA", ca)];
    let NetworkSettings { https_proxy, http_proxy, no_proxy, upstream_ca } = &settings.network;
    let network =
        [("HTTPS_PROXY", https_proxy), ("HTTP_PROXY", http_proxy), ("NO_PROXY", no_proxy), ("SPENDKEEPER_UPSTREAM_CA", upstream_ca)];
    environment.extend(network.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| variable(name, value)));
    if let Some(otlp) = &settings.otlp {
        // Before the variable that refers to it.
        if otlp.endpoint.contains("$(HOST_IP)") {
            environment.push(json!({"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}));
        }
        environment.push(variable("SPENDKEEPER_OTLP_ENDPOINT", &otlp.endpoint));
        environment.push(variable("SPENDKEEPER_OTLP_PROTOCOL", &otlp.protocol));
        environment.push(variable("SPENDKEEPER_OTLP_SAMPLE_RATIO", &otlp.sample_ratio.to_string()));
        if captures_content {
            environment.push(variable("SPENDKEEPER_CAPTURE_CONTENT", "true"));
        }
    }
    environment
}

/// Points the SDKs of every container at the sidecar, except where the pod says otherwise.
fn put_environment(spec: &PodSpec, injection: &mut Injection) {
    let fresh = usize::from(!has_sidecar(spec));
    for (list, position, container) in containers(spec).filter(|(_, _, container)| container.name != SIDECAR) {
        // Operations apply in order: the sidecar has pushed the other init containers back by one.
        let index = if list == "initContainers" { position + fresh } else { position };
        let path = format!("/spec/{list}/{index}/env");
        let own = container.env.as_deref().unwrap_or_default();
        let missing: Vec<_> = APP_ENVIRONMENT.into_iter().filter(|(name, _)| own.iter().all(|e| e.name != *name)).collect();
        if container.env.is_none() && !missing.is_empty() {
            injection.patch.push(add(&path, json!([])));
        }
        let additions = missing.iter().map(|(name, value)| add(format!("{path}/-"), json!({"name": name, "value": value})));
        injection.patch.extend(additions);
        if container.env_from.as_ref().is_some_and(|from| !from.is_empty()) && !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
            injection.warnings.push(format!(
                "container {:?}: {} were set to the sidecar's; if envFrom sets one of them too, put it into env, which is left alone",
                container.name,
                names.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests;
