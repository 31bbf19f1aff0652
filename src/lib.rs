//! Spendkeeper: FinOps for AI tokens on Kubernetes.
//!
//! The map, in dependency order; each module may use those above it, and `tests/layers.rs` fails when one does not:
//!
//! | module | what lives there |
//! |---|---|
//! | [`core`] | decisions, pure: money, prices, usage, dimensions, budgets, leases, classification, routing, allocation, right-sizing, recommendations |
//! | [`api`] | the three kinds and their statuses, and how a spec becomes the domain's policy |
//! | [`llm`] | wire formats, one folder a protocol: request facts, usage, streams, error shapes |
//! | [`ledger`] | who may spend how much and what was spent: the port, its rules, its SQLite and PostgreSQL adapters |
//! | [`channel`] | what operator and sidecar say to each other |
//! | [`sidecar`] | a call's life: admit, classify, route, reserve, forward, meter, settle |
//! | [`operator`] | reconcilers, webhooks, control channel server, approval |
//! | [`cli`] | `kubectl spend` |
//! | [`generate`] | files that are generated from the types: `crds/`, the reference of fields |

pub mod api;
pub mod channel;
pub mod cli;
pub mod core;
pub mod generate;
pub mod ledger;
pub mod llm;
pub mod operator;
pub mod sidecar;
