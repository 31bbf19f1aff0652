//! The admission webhook: `/mutate-pod` adds sidecars, `/mutate-approval` says who approved or granted, `/validate` refuses what
//! makes no sense and approvals by people who may not. Nothing here writes anything, so dry runs are safe.

pub mod approval;
pub mod inject;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::response::StatusSummary;
use kube::core::{DynamicObject, ObjectList};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;

use super::index::{PRICES_LABEL, Snapshot};
use super::metrics::Metrics;
use super::policies;
use crate::core::policy::ResourceKey;
use crate::core::price::Catalogue;
use inject::SidecarSettings;
use validate::Decided;

/// The API server sends at most twice an object of 1.5 MiB, as JSON.
const MAX_REVIEW_BYTES: usize = 8 << 20;

/// What the webhook decides with.
pub struct Webhook {
    pub client: Client,
    pub operator_namespace: String,
    pub sidecar: SidecarSettings,
    /// The CA bundle that sidecars are given.
    pub ca: watch::Receiver<String>,
    pub metrics: Arc<Metrics>,
}

type Request = AdmissionRequest<DynamicObject>;
type Review = Json<AdmissionReview<DynamicObject>>;

/// The three paths.
pub fn router(webhook: Arc<Webhook>) -> Router {
    Router::new()
        .route("/mutate-pod", post(mutate_pod))
        .route("/mutate-approval", post(mutate_approval))
        .route("/validate", post(validate))
        .layer(DefaultBodyLimit::max(MAX_REVIEW_BYTES))
        .with_state(webhook)
}

async fn mutate_pod(State(webhook): State<Arc<Webhook>>, Json(review): Review) -> Review {
    webhook.answer("mutate-pod", review, |request| {
        let ca = webhook.ca.borrow().clone();
        injected(&webhook.sidecar, &ca, request)
    })
}

async fn mutate_approval(State(webhook): State<Arc<Webhook>>, Json(review): Review) -> Review {
    webhook.answer("mutate-approval", review, stamped)
}

async fn validate(State(webhook): State<Arc<Webhook>>, Json(review): Review) -> Review {
    let verdict = match &review.request {
        Some(request) => webhook.validated(request).await,
        None => Ok(()),
    };
    webhook.answer("validate", review, |request| match verdict {
        Ok(()) => AdmissionResponse::from(request),
        Err((code, message)) => denied(request, code, message),
    })
}

impl Webhook {
    fn answer(&self, name: &str, review: AdmissionReview<DynamicObject>, decide: impl FnOnce(&Request) -> AdmissionResponse) -> Review {
        let response = match TryInto::<Request>::try_into(review) {
            Ok(request) => decide(&request),
            Err(error) => AdmissionResponse::invalid(error),
        };
        let result = if response.allowed { "allowed" } else { "denied" };
        self.metrics.admissions.with_label_values(&[name, result]).inc();
        if !response.allowed {
            tracing::info!(webhook = name, reason = %response.result.message, "an admission was denied");
        }
        Json(response.into_review())
    }

    /// Refuses with an HTTP status and a message.
    async fn validated(&self, request: &Request) -> Result<(), (u16, String)> {
        let Some(object) = &request.object else { return Ok(()) };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let old = request.old_object.as_ref();
        let decided = Decided::of(&request.kind.kind, &request.resource.resource, object, namespace);
        let raises = decided.kind == "AIBudget" && approval::raises(spec_of(old), spec_of(Some(object)));
        if raises || !approval::decisions(&annotations(old), &annotations(Some(object))).is_empty() {
            let refusal = validate::may_not_approve(&self.client, &request.user_info, &decided).await;
            let refusal = refusal.map_err(|error| (500, format!("whether this user may approve cannot be found out: {error}")))?;
            if let Some(message) = refusal {
                return Err((403, message));
            }
        }
        // What is stored already stays changeable in other respects, and a resource that is going away is left to go.
        let unchanged = old.is_some_and(|old| old.data.get("spec") == object.data.get("spec"));
        if unchanged || object.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        let key = ResourceKey::new(namespace, decided.key.name());
        let catalogue = if decided.kind == "ModelRoute" { self.catalogue().await } else { Catalogue::default() };
        validate::spec(&decided.kind, key, spec, &self.operator_namespace, &catalogue).map_err(|error| (422, error.to_string()))
    }

    /// The prices that a route will find in force: lists in the operator's namespace count, where they can be read.
    async fn catalogue(&self) -> Catalogue {
        let lists: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.operator_namespace);
        let lists = lists.list(&ListParams::default().labels(PRICES_LABEL)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "price lists cannot be read; a route is checked without them");
            ObjectList { types: Default::default(), metadata: Default::default(), items: vec![] }
        });
        let prices = lists.items.into_iter().flat_map(|list| list.data.unwrap_or_default()).collect();
        policies::known_prices(&Snapshot { prices, ..Snapshot::default() })
    }
}

fn annotations(object: Option<&DynamicObject>) -> BTreeMap<String, String> {
    object.and_then(|object| object.metadata.annotations.clone()).unwrap_or_default()
}

fn spec_of(object: Option<&DynamicObject>) -> &Value {
    object.and_then(|object| object.data.get("spec")).unwrap_or(&Value::Null)
}

fn injected(settings: &SidecarSettings, ca: &str, request: &Request) -> AdmissionResponse {
    let Some(object) = &request.object else { return request.into() };
    let pod: Pod = match serde_json::to_value(object).and_then(serde_json::from_value) {
        Ok(pod) => pod,
        Err(error) => return denied(request, 400, format!("the pod cannot be read: {error}")),
    };
    if ca.is_empty() {
        return denied(request, 503, "the operator has no certificate yet; the pod's controller will try again".to_owned());
    }
    match inject::inject(&pod, settings, ca) {
        Ok(injection) => {
            let mut response = patched(request, injection.patch);
            response.warnings = (!injection.warnings.is_empty()).then_some(injection.warnings);
            response
        }
        Err(refusal) => denied(request, 422, format!("no sidecar can be added: {refusal}")),
    }
}

fn stamped(request: &Request) -> AdmissionResponse {
    let user = request.user_info.username.as_deref().unwrap_or_default();
    let (old, new) = (request.old_object.as_ref(), request.object.as_ref());
    let mut patch = approval::stamp(&annotations(old), &annotations(new), user);
    if request.kind.kind == "AIBudget" {
        patch.extend(approval::stamp_grants(spec_of(old), spec_of(new), user));
    }
    patched(request, patch)
}

fn patched(request: &Request, operations: Vec<Value>) -> AdmissionResponse {
    if operations.is_empty() {
        return request.into();
    }
    let patch = serde_json::from_value::<json_patch::Patch>(Value::Array(operations)).map_err(|error| error.to_string());
    let response = patch.and_then(|patch| AdmissionResponse::from(request).with_patch(patch).map_err(|error| error.to_string()));
    response.unwrap_or_else(|error| denied(request, 500, format!("the patch cannot be written: {error}")))
}

fn denied(request: &Request, code: u16, message: String) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request).deny(message);
    response.result.code = code;
    response.result.status = Some(StatusSummary::Failure);
    response
}
