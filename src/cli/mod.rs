//! `kubectl spend`: the plugin that people use. It reads statuses and writes one annotation; it decides nothing.

mod calls;
mod decide;
mod explain;
mod export;
mod find;
mod recommendations;
mod table;
mod top;

use clap::{Args, Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use decide::Verdict;

/// See and decide what AI calls may spend.
#[derive(Debug, Parser)]
#[command(name = "kubectl-spend", bin_name = "kubectl spend", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// How to reach the cluster, as with kubectl.
#[derive(Debug, Args)]
struct Connection {
    /// Path of the kubeconfig file [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true)]
    kubeconfig: Option<std::path::PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace to look in [default: the context's]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Look in all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// User to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
    /// Group to act as a member of; may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP", requires = "impersonate")]
    impersonate_groups: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Budgets by how much of them is used, and owners by what they cost
    Top,
    /// Say in sentences where a budget, route or allocation stands
    Explain {
        /// KIND/NAME, for example aibudget/runaway
        resource: String,
    },
    /// What Spendkeeper proposes, and what became of what was decided
    #[command(visible_alias = "recs")]
    Recommendations {
        /// Show evidence and patch of each
        #[arg(long)]
        details: bool,
        /// Show those too that expired because newer figures replaced them
        #[arg(long)]
        all: bool,
    },
    /// Approve a recommendation, so that it is applied
    Approve { id: String },
    /// Reject a recommendation
    Reject { id: String },
    /// Undo a recommendation that was applied
    Rollback { id: String },
    /// Print the current period's costs as FOCUS 1.2 CSV, or single calls
    Export {
        #[command(subcommand)]
        what: Option<Exported>,
    },
}

#[derive(Debug, Subcommand)]
enum Exported {
    /// Single calls of all namespaces, from the ledger, as long as it keeps them: runs in the operator's pod, which takes the right to
    /// create `pods/exec` there
    Calls(calls::Args),
}

/// Where a command looks.
enum Namespaces {
    All,
    One(String),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("cannot reach the cluster: {0}")]
    Connect(String),
    #[error("{0}")]
    Api(String),
    #[error("no recommendation {id} in {place}; `kubectl spend recommendations -A` lists them")]
    NoSuchRecommendation { id: String, place: String },
    #[error("recommendation {id} is {state}, so it cannot be {wanted}")]
    WrongState { id: String, state: String, wanted: &'static str },
    #[error("recommendation {id} has expired: newer figures replaced it; {instead}")]
    Expired { id: String, instead: String },
    #[error("{0:?} is not KIND/NAME; kinds are aibudget, modelroute and costallocation")]
    NotAResource(String),
    #[error("cannot run kubectl, which `kubectl spend export calls` needs: {0}")]
    NoKubectl(std::io::Error),
    /// It has said why itself.
    #[error("kubectl ended with {0}")]
    Kubectl(std::process::ExitStatus),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// An API error in the words of the API server, which name who may do what.
    fn api(error: kube::Error) -> CliError {
        match error {
            kube::Error::Api(status) if status.code == 404 && status.message.contains("could not find the requested resource") => {
                CliError::Api("the cluster does not know Spendkeeper's kinds: install them with `kubectl apply -f crds/`".to_owned())
            }
            kube::Error::Api(status) => CliError::Api(status.message.clone()),
            other => CliError::Connect(other.to_string()),
        }
    }
}

/// Runs a command line.
///
/// # Errors
/// What the cluster refused, or why it could not be asked.
pub async fn run(cli: Cli) -> Result<(), CliError> {
    if let Command::Export { what: Some(Exported::Calls(args)) } = &cli.command {
        return calls::run(&cli.connection, args).await;
    }
    let config = cli.connection.config().await?;
    let namespaces = if cli.connection.all_namespaces { Namespaces::All } else { Namespaces::One(config.default_namespace.clone()) };
    let client = Client::try_from(config).map_err(|e| CliError::Connect(e.to_string()))?;
    let output = match cli.command {
        Command::Top => top::run(client, &namespaces).await?,
        Command::Explain { resource } => explain::run(client, &namespaces, &resource).await?,
        Command::Recommendations { details, all } => recommendations::run(client, &namespaces, details, all).await?,
        Command::Approve { id } => decide::run(client, &namespaces, &id, Verdict::Approve).await?,
        Command::Reject { id } => decide::run(client, &namespaces, &id, Verdict::Reject).await?,
        Command::Rollback { id } => decide::run(client, &namespaces, &id, Verdict::Rollback).await?,
        Command::Export { .. } => export::run(client, &namespaces).await?,
    };
    use std::io::Write;
    match std::io::stdout().write_all(output.as_bytes()) {
        // `kubectl spend export | head` is no error.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

impl Connection {
    async fn config(&self) -> Result<Config, CliError> {
        let unreachable = |e: &dyn std::fmt::Display| CliError::Connect(e.to_string());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Some(Kubeconfig::read_from(path).map_err(|e| unreachable(&e))?),
            None => None,
        };
        let mut config = match kubeconfig {
            Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| unreachable(&e))?,
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|e| unreachable(&e))?,
            None => Config::infer().await.map_err(|e| unreachable(&e))?,
        };
        if let Some(namespace) = &self.namespace {
            config.default_namespace.clone_from(namespace);
        }
        if self.impersonate.is_some() {
            config.auth_info.impersonate.clone_from(&self.impersonate);
            config.auth_info.impersonate_groups = (!self.impersonate_groups.is_empty()).then(|| self.impersonate_groups.clone());
        }
        Ok(config)
    }
}

impl Namespaces {
    fn api<K>(&self, client: &Client) -> kube::Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match self {
            Namespaces::All => kube::Api::all(client.clone()),
            Namespaces::One(name) => kube::Api::namespaced(client.clone(), name),
        }
    }

    fn describe(&self) -> String {
        match self {
            Namespaces::All => "any namespace".to_owned(),
            Namespaces::One(name) => format!("namespace {name}"),
        }
    }
}
