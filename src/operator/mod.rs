//! The operator: reconcilers, webhooks, the control channel that sidecars connect to, and what applies approved changes.
//!
//! Data flows one way: watches fill the [`index`]; pure functions turn a snapshot of it (and of the ledger) into
//! policies and statuses; adapters push the first to sidecars and write the second by server-side apply.

pub mod apply;
pub mod args;
pub mod certs;
pub mod conditions;
pub mod context;
pub mod control;
pub mod crds;
pub mod credentials;
pub mod departures;
pub mod export_calls;
pub mod health;
pub mod index;
pub mod kubelet;
pub mod leader;
pub mod metrics;
pub mod news;
pub mod outages;
pub mod policies;
pub mod recalls;
pub mod reconcile;
pub mod replicas;
pub mod roster;
pub mod runaways;
pub mod selection;
pub mod test_call;
pub mod tls;
pub mod webhook;
