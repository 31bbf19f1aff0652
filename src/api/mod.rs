//! The three kinds and their statuses: types, validation rules and the text of `kubectl explain`; nothing that decides.
//!
//! `crds/` is generated from here. [`parse`] turns specs into the domain's own types, with errors that name the field.

pub mod allocation;
pub mod budget;
pub mod common;
pub mod parse;
pub mod route;

pub use allocation::{CostAllocation, CostAllocationSpec, CostAllocationStatus};
pub use budget::{AIBudget, AIBudgetSpec, AIBudgetStatus};
pub use route::{ModelRoute, ModelRouteSpec, ModelRouteStatus};

/// The API group of the kinds, and the prefix of every annotation.
pub const GROUP: &str = "spendkeeper.dev";
/// The field manager of every server-side apply that writes statuses and the operator's own objects.
pub const FIELD_MANAGER: &str = "spendkeeper-operator";

/// Annotations that people, or the admission webhook, write.
pub mod annotation {
    /// On a pod: `"true"` adds the sidecar.
    pub const INJECT: &str = "spendkeeper.dev/inject";
    /// On a pod: what a dimension is, `spendkeeper.dev/<dimension>`.
    pub const PREFIX: &str = "spendkeeper.dev/";
    /// On a pod: dimensions with an annotation that callers may still override by header, comma-separated.
    pub const FREE: &str = "spendkeeper.dev/free";
    /// On a pod: `spendkeeper.dev/<dimension>-values`, the values that count when callers set it, comma-separated.
    pub const VALUES_SUFFIX: &str = "-values";
    /// On a pod: `"true"` has the text of prompts and answers in the spans that the OpenTelemetry collector gets.
    pub const CAPTURE_CONTENT: &str = "spendkeeper.dev/capture-content";
    /// On a pod that has a sidecar: the version that injected it.
    pub const INJECTED: &str = "spendkeeper.dev/injected";
    /// On a resource of ours: the id of the recommendation that is approved.
    pub const APPROVE: &str = "spendkeeper.dev/approve";
    /// On a resource of ours: the id of the recommendation that is rejected.
    pub const REJECT: &str = "spendkeeper.dev/reject";
    /// On a resource of ours: the id of the applied recommendation to undo.
    pub const ROLLBACK: &str = "spendkeeper.dev/rollback";
    /// Who set one of the three above; written by the admission webhook from the API server's word, never by a caller.
    pub const APPROVED_BY: &str = "spendkeeper.dev/approved-by";
}
