//! A sidecar without a cluster: budgets and routes from a file, and a ledger of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use spendkeeper::core::dimensions::Dimension;
use spendkeeper::ledger::HolderId;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::sidecar::command::{self, Options, Ready};
use spendkeeper::sidecar::config::{InForce, put_in_force};
use spendkeeper::sidecar::file;
use spendkeeper::sidecar::journal::Journal;
use spendkeeper::sidecar::source::LocalSource;

/// Holds your model calls to your budgets, and accounts for every one of them, on this machine and without a cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Budgets and routes: this YAML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A dimension of every call, as NAME=VALUE (feature, team, process, agent or session); callers may override it
    #[arg(long, value_name = "NAME=VALUE", value_parser = dimension)]
    dimension: Vec<(Dimension, String)>,
    /// Where the journal and the ledger are
    #[arg(long, value_name = "DIRECTORY", env = "SPENDKEEPER_STATE_DIR", default_value = "spendkeeper-state")]
    state_dir: PathBuf,
    /// Where /readyz, /healthz and /metrics are
    #[arg(long, value_name = "ADDRESS", env = "SPENDKEEPER_ADMIN_LISTEN", default_value = "127.0.0.1:15401")]
    admin_listen: SocketAddr,
    #[command(flatten)]
    options: Options,
}

fn dimension(text: &str) -> Result<(Dimension, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, for example team=search")?;
    let dimension = Dimension::from_name(name).ok_or_else(|| format!("there is no dimension {name:?}"))?;
    Ok((dimension, value.to_owned()))
}

fn main() -> Result<()> {
    let Arguments { config, dimension, state_dir, admin_listen, options } = Arguments::parse();
    let listen = options.listen;
    command::main(options, async |ready: Ready| {
        put_file_in_force(&ready.in_force, &config, dimension)?;
        let ledger = Arc::new(SqliteLedger::open(&state_dir.join("ledger.db"))?);
        let (snapshot, clock) = (Arc::clone(&ready.in_force), ready.clock);
        let source = LocalSource { ledger, holder: HolderId("laptop".to_owned()), snapshot, clock };
        let journal = Journal::open(&state_dir.join("journal"))?;
        ready.serve(source, journal, admin_listen, |_| tell_how_to_use(listen, &state_dir)).await
    })
}

fn put_file_in_force(in_force: &InForce, config: &Path, dimensions: Vec<(Dimension, String)>) -> Result<()> {
    let mut loaded = file::load(config, |name| std::env::var(name).ok())?;
    for (backend, variable) in &loaded.without_credential {
        tracing::info!("{variable} is not set: calls to {backend} carry the app's own key");
    }
    let policy = &mut loaded.policy.dimensions;
    for (dimension, value) in dimensions {
        policy.free.insert(dimension);
        policy.defaults.set(dimension, value);
    }
    put_in_force(in_force, loaded.policy, &loaded.credentials)?;
    Ok(())
}

fn tell_how_to_use(listen: SocketAddr, state_dir: &Path) {
    let text = format!(
        "Spendkeeper holds your model calls to their budgets. Point your SDKs at it:\n    \
         export OPENAI_BASE_URL=http://{listen}/v1\n    \
         export ANTHROPIC_BASE_URL=http://{listen}\n\
         What was spent is kept in {}; Ctrl-C ends it.\n",
        state_dir.display()
    );
    // Nobody may be reading, which is no reason not to serve.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
