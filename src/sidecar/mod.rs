//! The data plane: a reverse proxy in the app's own pod that approves every model call before it happens and accounts for
//! it afterwards. It links no Kubernetes client; policy comes from the operator, or from a file.
//!
//! A call's life, as files in order:
//!
//! | file | what happens |
//! |---|---|
//! | [`listen`], [`workers`], [`caller`], [`server`] | a connection is accepted, gets a thread, and its requests are told apart by their path |
//! | [`admit`] | the request is read and understood, its dimensions are resolved |
//! | [`route`] | it is classified, and a model is chosen |
//! | [`reserve`] | its worst case is set aside in every budget that matches, or it is refused |
//! | [`forward`] | it goes upstream, to a fallback if need be |
//! | [`meter`] | the answer streams through, and its usage is read on the way |
//! | [`settle`] | the actual cost replaces the reservation |
//!
//! Around them: [`config`] holds the policy in force, [`leases`] and [`source`] the money, [`journal`] and [`reporter`] what
//! must not be lost, [`health`] what is known of backends, [`estimate`] what was learnt of models' tokens, [`shared`], [`passthrough`] and
//! [`outcomes`] the calls that are not to models;
//! [`telemetry`] tells an OpenTelemetry collector of each call, if there is one; [`start`] puts them together, as [`command`] is told.

pub mod admin;
pub mod admit;
pub mod alarm;
pub mod body;
pub mod call;
pub mod caller;
pub mod clock;
pub mod command;
pub mod config;
pub mod credential;
pub mod estimate;
pub mod file;
pub mod forward;
pub mod health;
pub mod http1;
pub mod journal;
pub mod leases;
pub mod listen;
pub mod meter;
pub mod metrics;
pub mod outcomes;
pub mod passthrough;
pub mod refusal;
pub mod reporter;
pub mod reserve;
pub mod route;
pub mod server;
pub mod settle;
pub mod shared;
pub mod source;
pub mod start;
pub mod telemetry;
pub mod upstream;
pub mod watch;
pub mod workers;
