//! What the API server must not accept of our kinds: specs that mean nothing, and approvals by people who may not approve.

use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::budget::AIBudgetSpec;
use crate::api::common::WorkloadSelector;
use crate::api::{CostAllocationSpec, GROUP, ModelRouteSpec, parse};
use crate::core::policy::ResourceKey;
use crate::core::price::Catalogue;

/// The verb that entitles to approve, reject and roll back.
const VERB: &str = "approve";

/// Why a resource is refused.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("{0}")]
    Spec(String),
    #[error(
        "{field}: only a resource in the operator's namespace ({operator_namespace}) may select pods of other namespaces; remove it, \
         or move the resource there"
    )]
    Namespaces { field: String, operator_namespace: String },
    #[error("the kind {0} is not one that this webhook knows; does its configuration fit this release?")]
    Kind(String),
}

/// Checks what CEL in the CRDs cannot say: time zones, expressions, references, and whose pods a resource may select.
/// `catalogue` has the prices that a route finds in force.
pub fn spec(kind: &str, key: ResourceKey, spec: &Value, operator_namespace: &str, catalogue: &Catalogue) -> Result<(), Invalid> {
    let in_root = key.namespace() == operator_namespace;
    let selectors = match kind {
        "AIBudget" => {
            let spec: AIBudgetSpec = read(spec)?;
            parse::budget(key, &spec).map_err(|error| Invalid::Spec(error.to_string()))?;
            vec![("spec.scope.workloads".to_owned(), spec.scope.workloads)]
        }
        "ModelRoute" => {
            let spec: ModelRouteSpec = read(spec)?;
            parse::route(key, &spec, catalogue).map_err(|error| Invalid::Spec(error.to_string()))?;
            vec![("spec.workloads".to_owned(), spec.workloads)]
        }
        "CostAllocation" => {
            let spec: CostAllocationSpec = read(spec)?;
            parse::allocation(key, &spec).map_err(|error| Invalid::Spec(error.to_string()))?;
            allocation_selectors(spec)
        }
        other => return Err(Invalid::Kind(other.to_owned())),
    };
    match selectors.into_iter().find(|(_, selector)| !in_root && names_namespaces(selector.as_ref())) {
        Some((field, _)) => {
            let field = format!("{field}.namespaces");
            Err(Invalid::Namespaces { field, operator_namespace: operator_namespace.to_owned() })
        }
        None => Ok(()),
    }
}

fn read<T: DeserializeOwned>(spec: &Value) -> Result<T, Invalid> {
    T::deserialize(spec).map_err(|error| Invalid::Spec(format!("spec: {error}")))
}

fn names_namespaces(selector: Option<&WorkloadSelector>) -> bool {
    selector.is_some_and(|selector| selector.namespaces.is_some())
}

fn allocation_selectors(spec: CostAllocationSpec) -> Vec<(String, Option<WorkloadSelector>)> {
    let metrics = spec.outcomes.into_iter().enumerate().filter_map(|(i, outcome)| Some((i, outcome.metric?)));
    let of_metrics = metrics.map(|(i, metric)| (format!("spec.outcomes[{i}].metric.workloads"), metric.workloads));
    std::iter::once(("spec.workloads".to_owned(), spec.workloads)).chain(of_metrics).collect()
}

/// The object that a decision is about.
#[derive(Clone, Debug)]
pub struct Decided {
    pub kind: String,
    /// Plural, as in RBAC rules.
    pub resource: String,
    pub key: ResourceKey,
}

impl Decided {
    pub fn of(kind: &str, resource: &str, object: &DynamicObject, namespace: &str) -> Decided {
        let name = object.metadata.name.clone().unwrap_or_default();
        Decided { kind: kind.to_owned(), resource: resource.to_owned(), key: ResourceKey::new(namespace, &name) }
    }
}

/// The question whether `user` may approve.
fn question(user: &UserInfo, decided: &Decided) -> SubjectAccessReview {
    let attributes = ResourceAttributes {
        group: Some(GROUP.to_owned()),
        resource: Some(decided.resource.clone()),
        namespace: Some(decided.key.namespace().to_owned()),
        name: Some(decided.key.name().to_owned()),
        verb: Some(VERB.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: user.username.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        extra: user.extra.clone(),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// What `user` is told who may not.
fn denial(user: &UserInfo, decided: &Decided) -> String {
    let Decided { kind, resource, key } = decided;
    format!(
        "user {:?} may not approve, reject or roll back recommendations of {kind} {key}, nor add grants or resets to it: needs verb \"{VERB}\" on \
         {resource}.{GROUP}; ask whoever grants roles in namespace {:?} for the role spendkeeper-approve",
        user.username.as_deref().unwrap_or("(unknown)"),
        key.namespace(),
    )
}

/// Asks the API server; `Some` with a message for people when it says no.
pub async fn may_not_approve(client: &Client, user: &UserInfo, decided: &Decided) -> Result<Option<String>, kube::Error> {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &question(user, decided)).await?;
    let allowed = answer.status.is_some_and(|status| status.allowed);
    Ok((!allowed).then(|| denial(user, decided)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::catalogue::embedded;
    use serde_json::json;

    fn decided() -> Decided {
        Decided { kind: "AIBudget".into(), resource: "aibudgets".into(), key: ResourceKey::new("helpdesk", "support") }
    }

    #[test]
    fn the_question_carries_everything_that_entitles_a_user() {
        let user = UserInfo {
            username: Some("dana".into()),
            groups: Some(vec!["finance".into()]),
            extra: Some([("scopes".to_owned(), vec!["a".to_owned()])].into()),
            uid: Some("7".into()),
        };
        let spec = question(&user, &decided()).spec;
        assert_eq!((spec.user, spec.groups, spec.extra, spec.uid), (user.username, user.groups, user.extra, user.uid));
        let attributes = spec.resource_attributes.expect("attributes");
        assert_eq!(attributes.verb.as_deref(), Some("approve"));
        assert_eq!(attributes.name.as_deref(), Some("support"));
    }

    #[test]
    fn a_denial_says_what_right_is_missing_on_what() {
        let user = UserInfo { username: Some("dana".into()), ..UserInfo::default() };
        let message = denial(&user, &decided());
        for part in ["\"dana\"", "AIBudget helpdesk/support", "verb \"approve\" on aibudgets.spendkeeper.dev", "spendkeeper-approve"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_bad_spec_is_refused_with_field_and_remedy() {
        let budget = |time_zone: &str, cel: &str| json!({"scope": {"match": cel}, "limits": [{"name": "m", "usd": "1", "period": "Month", "timeZone": time_zone}]});
        let key = || ResourceKey::new("helpdesk", "support");
        let check = |value: &Value| spec("AIBudget", key(), value, "spendkeeper-system", embedded()).map_err(|error| error.to_string());
        assert_eq!(check(&budget("Europe/Zurich", "call.team == 'a'")), Ok(()));
        let zone = check(&budget("Europe/Zurch", "true")).expect_err("no such zone");
        assert!(zone.contains("spec.limits[0].timeZone") && zone.contains("Europe/Zurch"), "{zone}");
        let cel = check(&budget("UTC", "call.team ==")).expect_err("no expression");
        assert!(cel.contains("spec.scope.match"), "{cel}");
    }

    #[test]
    fn only_the_operators_namespace_may_select_others() {
        let budget = json!({
            "scope": {"workloads": {"namespaces": {}}}, "limits": [{"name": "m", "usd": "1", "period": "Month"}]
        });
        let at = |namespace: &str| spec("AIBudget", ResourceKey::new(namespace, "b"), &budget, "spendkeeper-system", embedded());
        assert!(at("spendkeeper-system").is_ok());
        let message = at("helpdesk").expect_err("a refusal").to_string();
        assert!(message.contains("spec.scope.workloads.namespaces") && message.contains("spendkeeper-system"), "{message}");
    }
}
