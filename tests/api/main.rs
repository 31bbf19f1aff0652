//! The operator, the plugin and the chart against a real API server and etcd: no kubelet and no controllers, so seconds.
//!
//! Most tests share one API server and one operator, each in a namespace of its own ([`scene`]); those that stop or kill an
//! operator take turns on a second API server ([`cluster::disrupted`]).

mod chart;
mod cluster;
mod operator;
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "other levels dump it, hang it and reach it by a network")]
mod postgres;
mod process;
mod provider;
mod scene;
mod server;
mod service;
mod sidecar;
mod wait;
mod workload;

mod approval;
mod calls;
mod control;
mod crash;
mod crds;
mod injection;
mod leader;
mod lost;
mod plugin;
mod recall;
mod refusals;
mod replay;
mod replicas;
mod rights;
mod status;
