//! Installs the CRDs that this release was built with. Helm only ever installs CRDs, so its hook runs this instead.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use crate::api::FIELD_MANAGER;

/// The generated files, so that what is installed is what is published.
const FILES: [&str; 3] = [
    include_str!("../../crds/aibudgets.yaml"),
    include_str!("../../crds/modelroutes.yaml"),
    include_str!("../../crds/costallocations.yaml"),
];
/// How long the API server may take to serve a kind.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Why the CRDs are not installed.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    #[error("a CRD that was built in cannot be read: {0}")]
    BuiltIn(String),
    #[error("CRD {0} cannot be applied: {1}")]
    Apply(String, kube::Error),
    #[error("the API server does not serve {0} yet after {PATIENCE:?}; see `kubectl describe crd {0}`")]
    NotEstablished(String),
}

fn built_in() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    FILES.into_iter().map(|text| serde_saphyr::from_str(text).map_err(|error| CrdError::BuiltIn(error.to_string()))).collect()
}

/// Applies the CRDs and waits until the API server serves them.
pub async fn install(client: Client) -> Result<(), CrdError> {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    // By force: the CRDs are this release's, whoever installed them first.
    let params = PatchParams::apply(FIELD_MANAGER).force();
    for crd in built_in()? {
        let name = crd.name_any();
        let failed = |error| CrdError::Apply(name.clone(), error);
        api.patch(&name, &params, &Patch::Apply(&crd)).await.map_err(failed)?;
        tracing::info!(%name, "applied");
    }
    for crd in built_in()? {
        established(&api, &crd.name_any()).await?;
    }
    Ok(())
}

async fn established(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), CrdError> {
    let wait = async {
        loop {
            let found = api.get(name).await.map_err(|error| CrdError::Apply(name.to_owned(), error))?;
            if is_established(&found) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(CrdError::NotEstablished(name.to_owned())))
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_files_are_the_three_kinds() {
        let names: Vec<_> = built_in().expect("readable").iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["aibudgets.spendkeeper.dev", "modelroutes.spendkeeper.dev", "costallocations.spendkeeper.dev"]);
    }
}
