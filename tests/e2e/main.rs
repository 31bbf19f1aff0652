//! The whole of it on a real cluster: API server, kubelet, Helm, real SDKs in real pods.
//!
//! `tests/cluster/e2e` starts the cluster, installs Spendkeeper and the example apps, and runs these one after the other: they
//! share the cluster, and some of them kill parts of it.

mod allocation;
mod approval;
mod attack;
mod budgets;
mod caller;
mod chart;
mod cluster;
mod crashes;
mod export;
mod pods;
#[allow(dead_code, reason = "other levels reach it by its socket")]
#[path = "../postgres/server.rs"]
mod postgres;
mod provider;
mod replicas;
mod resources;
