//! `export calls`: single calls from the ledger, which only the operator's pod can read. So it is there that they are read, by `kubectl exec`:
//! the API server decides who may, its audit log says who did, and what is read streams through.

use std::ffi::OsString;

use super::{CliError, Connection};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The first moment: RFC 3339, or a date, which begins in UTC; calls count by when they ended [default: the first there is]
    #[arg(long)]
    from: Option<String>,
    /// The moment after the last [default: the last there is]
    #[arg(long)]
    to: Option<String>,
    /// What to print: csv, or json, an object a line
    #[arg(long, default_value = "csv", value_parser = ["csv", "json"])]
    format: String,
    /// The operator's namespace
    #[arg(long, default_value = "spendkeeper-system")]
    operator_namespace: String,
    /// The operator's Deployment
    #[arg(long, default_value = "spendkeeper-operator")]
    operator: String,
}

/// Prints the calls as they come.
///
/// # Errors
/// When `kubectl` cannot be run, or fails.
pub async fn run(connection: &Connection, args: &Args) -> Result<(), CliError> {
    let mut kubectl = std::process::Command::new("kubectl");
    kubectl.args(arguments(connection, args));
    let ended = tokio::task::spawn_blocking(move || kubectl.status()).await;
    let status = ended.map_err(std::io::Error::other).and_then(|status| status).map_err(CliError::NoKubectl)?;
    if status.success() { Ok(()) } else { Err(CliError::Kubectl(status)) }
}

/// What `kubectl` is told.
fn arguments(connection: &Connection, args: &Args) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: Option<OsString>| line.extend(value.into_iter().flat_map(|value| [name.into(), value]));
    option("--kubeconfig", connection.kubeconfig.clone().map(OsString::from));
    option("--context", connection.context.clone().map(OsString::from));
    option("--as", connection.impersonate.clone().map(OsString::from));
    connection.impersonate_groups.iter().for_each(|group| option("--as-group", Some(group.into())));
    option("--namespace", Some(args.operator_namespace.clone().into()));
    line.extend(["exec", &format!("deployment/{}", args.operator), "--container=operator", "--"].map(OsString::from));
    line.extend(["/spendkeeper-operator", "--log=warn", "export-calls", "--format", &args.format].map(OsString::from));
    for (name, value) in [("--from", &args.from), ("--to", &args.to)] {
        line.extend(value.iter().flat_map(|value| [name.into(), value.into()]));
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Exported};

    #[test]
    fn kubectl_is_told_of_the_connection_and_the_operator_of_the_rest() {
        let cli = "kubectl-spend --context prod --as jane export calls --from 2026-11-01 --format json";
        let cli = Cli::try_parse_from(cli.split(' ')).expect("a command line");
        let Command::Export { what: Some(Exported::Calls(args)) } = &cli.command else { panic!("{:?}", cli.command) };
        let line = arguments(&cli.connection, args).join(&OsString::from(" "));
        assert_eq!(
            line,
            "--context prod --as jane --namespace spendkeeper-system exec deployment/spendkeeper-operator --container=operator -- \
             /spendkeeper-operator --log=warn export-calls --format json --from 2026-11-01"
        );
    }
}
