//! Recommendations of all three kinds in one list.

use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{CliError, Namespaces};
use crate::api::common::Recommendation;
use crate::api::{AIBudget, CostAllocation, ModelRoute};

/// Our kinds, as `kubectl spend` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    AIBudget,
    ModelRoute,
    CostAllocation,
}

impl Kind {
    /// From what people type: any case, plural, or short name.
    pub fn from_word(word: &str) -> Option<Kind> {
        match word.to_ascii_lowercase().as_str() {
            "aibudget" | "aibudgets" | "aib" => Some(Kind::AIBudget),
            "modelroute" | "modelroutes" | "mr" => Some(Kind::ModelRoute),
            "costallocation" | "costallocations" | "ca" => Some(Kind::CostAllocation),
            _ => None,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Kind::AIBudget => "aibudget",
            Kind::ModelRoute => "modelroute",
            Kind::CostAllocation => "costallocation",
        }
    }
}

/// A recommendation and the resource whose status carries it.
pub struct Found {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub recommendation: Recommendation,
}

/// All recommendations in `namespaces`, largest saving first.
pub async fn recommendations(client: &Client, namespaces: &Namespaces) -> Result<Vec<Found>, CliError> {
    let mut found = of_kind(namespaces.api::<AIBudget>(client), Kind::AIBudget, |r| r.status.map(|s| s.recommendations)).await?;
    found.extend(of_kind(namespaces.api::<ModelRoute>(client), Kind::ModelRoute, |r| r.status.map(|s| s.recommendations)).await?);
    found.extend(of_kind(namespaces.api::<CostAllocation>(client), Kind::CostAllocation, |r| r.status.map(|s| s.recommendations)).await?);
    found.sort_by_key(|f| std::cmp::Reverse(f.recommendation.estimated_monthly_savings));
    Ok(found)
}

async fn of_kind<K>(api: Api<K>, kind: Kind, recommendations: impl Fn(K) -> Option<Vec<Recommendation>>) -> Result<Vec<Found>, CliError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default()).await.map_err(CliError::api)?;
    let carried_by = |resource: K| {
        let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
        let found = move |recommendation| Found { kind, namespace: namespace.clone(), name: name.clone(), recommendation };
        recommendations(resource).unwrap_or_default().into_iter().map(found)
    };
    Ok(list.items.into_iter().flat_map(carried_by).collect())
}

/// Sets one annotation of a resource.
pub async fn annotate(client: &Client, found: &Found, annotation: &str, value: &str) -> Result<(), CliError> {
    match found.kind {
        Kind::AIBudget => set::<AIBudget>(client, found, annotation, value).await,
        Kind::ModelRoute => set::<ModelRoute>(client, found, annotation, value).await,
        Kind::CostAllocation => set::<CostAllocation>(client, found, annotation, value).await,
    }
}

async fn set<K>(client: &Client, found: &Found, annotation: &str, value: &str) -> Result<(), CliError>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), &found.namespace);
    let patch = json!({"metadata": {"annotations": {annotation: value}}});
    api.patch(&found.name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(CliError::api)?;
    Ok(())
}
