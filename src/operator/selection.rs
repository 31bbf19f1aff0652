//! Which pods a resource is about, and what a pod says of itself. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::{Resource, ResourceExt};

use super::index::{NamespaceFacts, Snapshot};
use crate::api::annotation;
use crate::api::common::WorkloadSelector;
use crate::core::dimensions::{Dimension, DimensionPolicy, MAX_VALUE_BYTES, Origin};
use crate::core::policy::ResourceKey;

/// A resource by namespace and name.
pub fn key_of<K: Resource>(resource: &K) -> ResourceKey {
    ResourceKey::new(resource.namespace().as_deref().unwrap_or_default(), &resource.name_any())
}

/// A pod with a sidecar, reduced to what decisions look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub origin: Origin,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// IP of the pod's node, where its kubelet listens.
    pub host_ip: Option<String>,
    /// True once the pod has ended for good.
    pub ended: bool,
}

impl PodFacts {
    pub fn of(pod: &Pod) -> PodFacts {
        let status = pod.status.as_ref();
        PodFacts {
            origin: Origin {
                namespace: pod.namespace().unwrap_or_default(),
                workload: workload(pod),
                pod: pod.name_any(),
                pod_uid: pod.uid().unwrap_or_default(),
            },
            labels: pod.labels().clone(),
            annotations: pod.annotations().clone(),
            host_ip: status.and_then(|s| s.host_ip.clone()),
            ended: status.and_then(|s| s.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed"),
        }
    }
}

/// What made the pod, as people name it: `Deployment/support-bot`. A ReplicaSet's name is its Deployment's and a hash,
/// which the pod carries as a label; so no ReplicaSet needs to be read.
fn workload(pod: &Pod) -> String {
    let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
    let Some(owner) = owner else { return format!("Pod/{}", pod.name_any()) };
    let hash = pod.labels().get("pod-template-hash");
    match hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')) {
        Some(deployment) if owner.kind == "ReplicaSet" => format!("Deployment/{deployment}"),
        _ => format!("{}/{}", owner.kind, owner.name),
    }
}

/// Whether a resource in `resource_namespace` with `selector` is about `pod`.
///
/// Only a resource in the operator's own namespace sees pods elsewhere, and only through `namespaces`.
pub fn selects(
    selector: Option<&WorkloadSelector>,
    resource_namespace: &str,
    operator_namespace: &str,
    pod: &PodFacts,
    namespaces: &[NamespaceFacts],
) -> bool {
    let in_namespace = sees(selector, resource_namespace, operator_namespace, &pod.origin.namespace, namespaces);
    in_namespace && selector.and_then(|s| s.pods.as_ref()).is_none_or(|wanted| label_match(wanted, &pod.labels))
}

/// Whether a resource in `resource_namespace` sees anything of `namespace`.
pub fn sees(
    selector: Option<&WorkloadSelector>,
    resource_namespace: &str,
    operator_namespace: &str,
    namespace: &str,
    namespaces: &[NamespaceFacts],
) -> bool {
    let across = selector.and_then(|s| s.namespaces.as_ref()).filter(|_| resource_namespace == operator_namespace);
    match across {
        Some(wanted) => namespaces.iter().any(|n| n.name == namespace && label_match(wanted, &n.labels)),
        None => namespace == resource_namespace,
    }
}

/// The workloads that a resource is about: what of [`selects`] can be asked of sums, which know of no pod.
pub struct Selected {
    namespaces: BTreeSet<String>,
    /// `(namespace, workload)` of the pods with the selected labels, as far as there are any now; `None` when pods are not selected by label.
    workloads: Option<BTreeSet<(String, String)>>,
}

impl Selected {
    /// As of a resource in `own` with `selector`.
    pub fn of(selector: Option<&WorkloadSelector>, own: &str, operator_namespace: &str, snapshot: &Snapshot) -> Selected {
        let names = snapshot.namespaces.iter().map(|n| n.name.clone());
        let namespaces = names.filter(|name| sees(selector, own, operator_namespace, name, &snapshot.namespaces)).collect();
        let by_label = selector.is_some_and(|s| s.pods.is_some());
        let workloads = by_label.then(|| {
            let about = snapshot.pods.iter().filter(|pod| selects(selector, own, operator_namespace, pod, &snapshot.namespaces));
            about.map(|pod| (pod.origin.namespace.clone(), pod.origin.workload.clone())).collect()
        });
        Selected { namespaces, workloads }
    }

    pub fn includes(&self, namespace: &str, workload: &str) -> bool {
        let listed = |known: &BTreeSet<(String, String)>| known.contains(&(namespace.to_owned(), workload.to_owned()));
        self.namespaces.contains(namespace) && self.workloads.as_ref().is_none_or(listed)
    }
}

/// Label selection as the API server does it; an unknown operator selects nothing.
fn label_match(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let listed = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    listed && selector.match_expressions.iter().flatten().all(|requirement| requirement_holds(requirement, labels))
}

fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let listed = |value: &String| requirement.values.iter().flatten().any(|v| v == value);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// What is wrong with a pod's annotations, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error(
        "annotation {name}: {value:?} is longer than {MAX_VALUE_BYTES} bytes or has characters other than visible ASCII; use a short name"
    )]
    Value { name: String, value: String },
    #[error("annotation {}: {value:?} is no dimension; dimensions are feature, team, process, agent and session", annotation::FREE)]
    Dimension { value: String },
}

/// The dimensions that a pod's annotations set, pin and free.
///
/// An annotated dimension is pinned unless `spendkeeper.dev/free` lists it: the safe reading of an annotation is that a
/// caller may not contradict it.
pub fn dimension_policy(annotations: &BTreeMap<String, String>) -> Result<DimensionPolicy, AnnotationError> {
    let mut policy = DimensionPolicy::default();
    let words = |text: &str| text.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect::<BTreeSet<String>>();
    for dimension in Dimension::ALL {
        let name = format!("{}{dimension}", annotation::PREFIX);
        if let Some(value) = annotations.get(&name) {
            let valid =
                value.len() <= MAX_VALUE_BYTES && !value.trim().is_empty() && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
            if !valid {
                return Err(AnnotationError::Value { name, value: value.clone() });
            }
            policy.defaults.set(dimension, value.trim().to_owned());
        }
        if let Some(values) = annotations.get(&format!("{name}{}", annotation::VALUES_SUFFIX)) {
            policy.allowed.insert(dimension, words(values));
        }
    }
    for word in annotations.get(annotation::FREE).map(|text| words(text)).unwrap_or_default() {
        let dimension = Dimension::from_name(&word).ok_or(AnnotationError::Dimension { value: word })?;
        policy.free.insert(dimension);
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn a_workload_has_the_name_that_people_know() {
        let owned = |kind: &str, name: &str, hash: Option<&str>| {
            let labels = hash.map(|h| json!({"pod-template-hash": h})).unwrap_or(json!({}));
            pod(json!({"metadata": {"name": "p", "labels": labels, "ownerReferences":
                [{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}]}}))
        };
        assert_eq!(workload(&owned("ReplicaSet", "bot-7d9f", Some("7d9f"))), "Deployment/bot");
        assert_eq!(workload(&owned("ReplicaSet", "bare", None)), "ReplicaSet/bare");
        assert_eq!(workload(&owned("StatefulSet", "db", None)), "StatefulSet/db");
        assert_eq!(workload(&owned("Job", "nightly-1", None)), "Job/nightly-1");
        assert_eq!(workload(&pod(json!({"metadata": {"name": "alone"}}))), "Pod/alone");
    }

    #[test]
    fn only_the_operators_namespace_sees_others() {
        let selector: WorkloadSelector = serde_json::from_value(json!({
            "namespaces": {"matchLabels": {"tier": "prod"}}, "pods": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["bot"]}]}
        }))
        .expect("a selector");
        let namespaces = [
            NamespaceFacts { name: "shop".into(), labels: labels(&[("tier", "prod")]) },
            NamespaceFacts { name: "dev".into(), ..Default::default() },
        ];
        let pod = |namespace: &str, app: &str| PodFacts {
            origin: Origin { namespace: namespace.into(), ..Origin::default() },
            labels: labels(&[("app", app)]),
            ..PodFacts::default()
        };
        let seen = |from: &str, pod: &PodFacts| selects(Some(&selector), from, "system", pod, &namespaces);
        assert!(seen("system", &pod("shop", "bot")));
        assert!(!seen("system", &pod("shop", "web")));
        assert!(!seen("system", &pod("dev", "bot")));
        assert!(!seen("shop", &pod("dev", "bot")), "a namespace selector outside the operator's namespace has no force");
        assert!(seen("shop", &pod("shop", "bot")));
        assert!(selects(None, "shop", "system", &pod("shop", "anything"), &namespaces));
    }

    #[test]
    fn label_operators_do_what_the_api_server_does() {
        let has = labels(&[("a", "1")]);
        for (operator, values, expected) in [
            ("In", json!(["1"]), true),
            ("In", json!(["2"]), false),
            ("NotIn", json!(["1"]), false),
            ("Exists", json!([]), true),
            ("DoesNotExist", json!([]), false),
            ("Like", json!([]), false),
        ] {
            let selector = serde_json::from_value(json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}))
                .expect("a selector");
            assert_eq!(label_match(&selector, &has), expected, "{operator}");
        }
        let absent =
            serde_json::from_value(json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]})).expect("a selector");
        assert!(label_match(&absent, &has), "NotIn also selects what lacks the key");
    }

    #[test]
    fn an_annotated_dimension_is_pinned_unless_it_is_freed() {
        let policy = dimension_policy(&labels(&[
            ("spendkeeper.dev/team", "support"),
            ("spendkeeper.dev/feature", "chat"),
            ("spendkeeper.dev/free", "feature, session"),
            ("spendkeeper.dev/feature-values", "chat,search"),
        ]))
        .expect("valid annotations");
        assert!(policy.is_pinned(Dimension::Team));
        assert!(!policy.is_pinned(Dimension::Feature));
        assert!(policy.allowed[&Dimension::Feature].contains("search"));
    }

    #[test]
    fn bad_annotations_say_which_and_what_to_do() {
        let error = dimension_policy(&labels(&[("spendkeeper.dev/free", "colour")])).expect_err("no such dimension");
        assert!(error.to_string().contains("spendkeeper.dev/free") && error.to_string().contains("feature, team"), "{error}");
        assert!(dimension_policy(&labels(&[("spendkeeper.dev/team", &"x".repeat(64))])).is_err());
    }
}
