//! The sidecar in a pod: a reverse proxy that approves every model call before it happens and accounts for it afterwards.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use spendkeeper::channel::client::{OperatorAddress, OperatorClient};
use spendkeeper::sidecar::command::{self, Options, Ready, pem};
use spendkeeper::sidecar::journal::Journal;
use spendkeeper::sidecar::source::RemoteSource;
use spendkeeper::sidecar::watch;

/// Holds a pod's model calls to its budgets, and accounts for every one of them, as a Spendkeeper operator tells it.
///
/// Without a cluster `spendkeeper` does the same from a file.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Follow the operator at this address, such as https://spendkeeper-operator.spendkeeper-system.svc:9443
    #[arg(long, value_name = "URL", env = "SPENDKEEPER_OPERATOR")]
    operator: String,
    /// The certificate authority of the operator: PEM, or a file of it
    #[arg(
        long,
        value_name = "PEM",
        env = "SPENDKEEPER_CA",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true,
        allow_hyphen_values = true
    )]
    ca: String,
    /// The file with the service-account token that proves this pod to the operator
    #[arg(long, value_name = "FILE", env = "SPENDKEEPER_TOKEN_FILE", default_value = "/var/run/spendkeeper/token/token")]
    token_file: PathBuf,
    /// Where the journal is
    #[arg(long, value_name = "DIRECTORY", env = "SPENDKEEPER_STATE_DIR", default_value = "/var/lib/spendkeeper")]
    state_dir: PathBuf,
    /// Where /readyz, /healthz and /metrics are
    #[arg(long, value_name = "ADDRESS", env = "SPENDKEEPER_ADMIN_LISTEN", default_value = "0.0.0.0:15401")]
    admin_listen: SocketAddr,
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let Arguments { operator, ca, token_file, state_dir, admin_listen, options } = Arguments::parse();
    command::main(options, async |ready: Ready| {
        let client = OperatorClient::new(OperatorAddress { url: operator, ca_pem: pem(&ca)?, token_file })?;
        let source = RemoteSource { client: client.clone(), clock: ready.clock };
        let journal = Journal::open(&state_dir)?;
        let follow = |sidecar: &Arc<_>| drop(tokio::spawn(watch::follow(Arc::clone(sidecar), client)));
        ready.serve(source, journal, admin_listen, follow).await
    })
}
