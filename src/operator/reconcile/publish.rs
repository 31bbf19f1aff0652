//! Writing what was decided: statuses and Events.

use kube::api::{Api, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::ReconcileError;
use crate::api::FIELD_MANAGER;
use crate::operator::conditions::Transition;

pub struct Publisher {
    client: Client,
    recorder: Recorder,
}

impl Publisher {
    pub fn new(client: Client, identity: String) -> Publisher {
        let reporter = Reporter { controller: "spendkeeper-operator".to_owned(), instance: Some(identity) };
        Publisher { recorder: Recorder::new(client.clone(), reporter), client }
    }

    /// Applies a status, unless it is what the resource has, and says what changed.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn status<K, S>(&self, resource: &K, before: Option<&S>, status: &S, news: &[Transition]) -> Result<(), ReconcileError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
        S: Serialize + PartialEq,
    {
        if before != Some(status) {
            let api: Api<K> = Api::namespaced(self.client.clone(), &resource.namespace().unwrap_or_default());
            let patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": resource.name_any()}, "status": status});
            api.patch_status(&resource.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
        }
        for transition in news {
            self.event(resource, transition).await;
        }
        Ok(())
    }

    /// An Event that cannot be written is logged: it repeats what the status says.
    pub async fn event<K: Resource<DynamicType = ()>>(&self, resource: &K, transition: &Transition) {
        let event = Event {
            type_: if transition.warning { EventType::Warning } else { EventType::Normal },
            reason: transition.reason.to_owned(),
            note: Some(transition.message.chars().take(1_000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &resource.object_ref(&())).await {
            tracing::warn!(%error, reason = transition.reason, "an Event could not be written");
        }
    }
}
