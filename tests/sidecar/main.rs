//! A whole sidecar on loopback, with a ledger of its own and a small provider that keeps count of what it would bill.

mod bench;
mod budgets;
mod provider;
mod raises;
mod recovery;
mod robust;
mod telemetry;
mod wire;
