//! Applying what was approved, checking on it, and undoing it.
//!
//! Each recommendation has a field manager of its own, so that undoing one leaves the others alone.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::reconcile::quantity;
use crate::api::ModelRoute;
use crate::core::recommend::Recommendation;
use crate::core::rightsize::{Change, Resources, change_of_patch};

/// What became of an attempt to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// The target is no longer what the evidence describes, so nothing was changed.
    TargetChanged(String),
}

/// How a target fares after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good(String),
    NotYet,
    Bad(String),
}

/// What a target is now, compared with what a recommendation says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    AsDescribed,
    AlreadyApplied,
    Otherwise(String),
}

/// Applies a recommendation's patch, after checking that its target is still what the evidence describes. Applying again
/// what is applied changes nothing.
///
/// # Errors
/// When the API server refuses or cannot be reached; the target is unchanged then.
pub async fn apply(client: &Client, recommendation: &Recommendation) -> kube::Result<Applied> {
    match standing(client, recommendation).await? {
        Standing::Otherwise(why) => return Ok(Applied::TargetChanged(why)),
        Standing::AlreadyApplied => return Ok(Applied::Done),
        Standing::AsDescribed => {}
    }
    send(client, recommendation, &recommendation.patch).await?;
    Ok(Applied::Done)
}

/// Puts the target back to what it was before the recommendation.
///
/// # Errors
/// When the API server refuses or cannot be reached.
pub async fn roll_back(client: &Client, recommendation: &Recommendation) -> kube::Result<()> {
    send(client, recommendation, &recommendation.revert).await
}

async fn send(client: &Client, recommendation: &Recommendation, patch: &str) -> kube::Result<()> {
    let patch: Value = serde_json::from_str(patch).map_err(kube::Error::SerdeError)?;
    let target = &recommendation.target;
    let (group, version) = target.api_version.split_once('/').unwrap_or(("", &target.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &target.kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &target.namespace, &resource);
    let parameters = PatchParams::apply(&recommendation.field_manager()).force();
    api.patch(&target.name, &parameters, &Patch::Apply(patch)).await?;
    Ok(())
}

async fn standing(client: &Client, recommendation: &Recommendation) -> kube::Result<Standing> {
    let target = &recommendation.target;
    let gone = || Standing::Otherwise(format!("{} {} is gone", target.kind, target.name));
    match target.kind.as_str() {
        "Deployment" => {
            let api: Api<Deployment> = Api::namespaced(client.clone(), &target.namespace);
            Ok(api.get_opt(&target.name).await?.map_or_else(gone, |deployment| of_deployment(&deployment, recommendation)))
        }
        "ModelRoute" => {
            let api: Api<ModelRoute> = Api::namespaced(client.clone(), &target.namespace);
            Ok(api.get_opt(&target.name).await?.map_or_else(gone, |route| of_route(&route, recommendation)))
        }
        other => Ok(Standing::Otherwise(format!("no rule says how to change a {other}"))),
    }
}

fn of_deployment(deployment: &Deployment, recommendation: &Recommendation) -> Standing {
    let patch: Option<Value> = serde_json::from_str(&recommendation.patch).ok();
    let container = patch.as_ref().and_then(|p| p.pointer("/spec/template/spec/containers/0/name")?.as_str());
    let Some(now) = container.and_then(|c| quantity::resources(deployment, c)) else {
        return Standing::Otherwise(format!("Deployment {} has no such container", deployment.name_any()));
    };
    let change = change_of_patch(&recommendation.patch).unwrap_or_default();
    let before = change_of_patch(&recommendation.revert).unwrap_or_default();
    if has(&now, &change, &change) {
        Standing::AlreadyApplied
    } else if has(&now, &change, &before) {
        Standing::AsDescribed
    } else {
        Standing::Otherwise("its requests are no longer those that the evidence describes".to_owned())
    }
}

/// Whether the fields that `change` touches have the `values` now.
fn has(now: &Resources, change: &Change, values: &Change) -> bool {
    [
        (change.cpu_request_millicores, now.cpu_request_millicores, values.cpu_request_millicores),
        (change.memory_request_mib, now.memory_request_mib, values.memory_request_mib),
        (change.memory_limit_mib, now.memory_limit_mib, values.memory_limit_mib),
    ]
    .into_iter()
    .filter(|(touched, ..)| touched.is_some())
    .all(|(_, now, value)| now == value)
}

fn of_route(route: &ModelRoute, recommendation: &Recommendation) -> Standing {
    let patch: Option<Value> = serde_json::from_str(&recommendation.patch).ok();
    let Some(rule) = patch.as_ref().and_then(|p| p.pointer("/spec/policy/rules/0")) else {
        return Standing::Otherwise("the patch adds no rule".to_owned());
    };
    let name = rule.get("name").and_then(Value::as_str).unwrap_or_default();
    let Some(known) = route.spec.policy.rules.iter().find(|r| r.name == name) else { return Standing::AsDescribed };
    let tier = rule.get("maxTier").and_then(Value::as_str);
    if tier == Some(known.max_tier.name()) {
        Standing::AlreadyApplied
    } else {
        Standing::Otherwise(format!("rule {name} exists already and says something else"))
    }
}

/// How the target fares: a Deployment by its rollout, a route by its own condition.
///
/// # Errors
/// When the API server refuses or cannot be reached.
pub async fn health(client: &Client, recommendation: &Recommendation) -> kube::Result<Health> {
    let target = &recommendation.target;
    match target.kind.as_str() {
        "Deployment" => {
            let api: Api<Deployment> = Api::namespaced(client.clone(), &target.namespace);
            Ok(api.get_opt(&target.name).await?.map_or(Health::Bad("it is gone".to_owned()), |d| rollout(&d)))
        }
        _ => {
            let api: Api<ModelRoute> = Api::namespaced(client.clone(), &target.namespace);
            let route = api.get_opt(&target.name).await?;
            let conditions = route.and_then(|r| r.status).map(|s| s.conditions).unwrap_or_default();
            let broken = conditions.iter().find(|c| c.status == "False");
            Ok(broken.map_or(Health::Good("the route is in force and its backends answer".to_owned()), |c| Health::Bad(c.message.clone())))
        }
    }
}

fn rollout(deployment: &Deployment) -> Health {
    let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation;
    let (updated, available) = (status.updated_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0));
    if seen && updated >= wanted && available >= wanted && status.unavailable_replicas.unwrap_or(0) == 0 {
        Health::Good(format!("all {wanted} replicas run with the new requests"))
    } else {
        let stuck = status.conditions.iter().flatten().find(|c| c.type_ == "Progressing" && c.status == "False");
        stuck.map_or(Health::NotYet, |c| Health::Bad(c.message.clone().unwrap_or_else(|| "its rollout is stuck".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(cpu: &str, available: i32) -> Deployment {
        serde_json::from_value(json!({"metadata": {"name": "bot", "generation": 2},
            "spec": {"replicas": 1, "selector": {}, "template": {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": cpu}}}]}}},
            "status": {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": available}}))
        .expect("a deployment")
    }

    fn recommendation() -> Recommendation {
        let resources = |cpu: &str| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bot", "namespace": "shop"},
                "spec": {"template": {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": cpu}}}]}}}})
            .to_string()
        };
        serde_json::from_value(
            json!({"id": "x", "kind": "WorkloadResources", "summary": "s", "patch": resources("50m"), "revert": resources("1000m"),
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "bot"},
            "evidence": {"from": "", "to": "", "windowSeconds": 1, "samples": 1, "source": "", "figures": {}},
            "estimatedMonthlySavings": "1", "risk": "Low", "state": "Approved"}),
        )
        .expect("a recommendation")
    }

    #[test]
    fn a_target_that_somebody_changed_is_left_alone() {
        assert_eq!(of_deployment(&deployment("1", 1), &recommendation()), Standing::AsDescribed);
        assert_eq!(of_deployment(&deployment("50m", 1), &recommendation()), Standing::AlreadyApplied);
        assert!(matches!(of_deployment(&deployment("700m", 1), &recommendation()), Standing::Otherwise(_)));
    }

    #[test]
    fn a_rollout_is_good_once_every_replica_is_available() {
        assert!(matches!(rollout(&deployment("50m", 1)), Health::Good(_)));
        assert_eq!(rollout(&deployment("50m", 0)), Health::NotYet);
    }
}
