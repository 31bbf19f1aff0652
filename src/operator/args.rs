//! The operator's flags: one source for `--help`, the chart's environment and the reference in `docs/`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use super::certs;
use super::export_calls::{Format, Moment};
use super::webhook::inject::{NetworkSettings, OtlpSettings, SidecarSettings};
use crate::ledger;

/// Spendkeeper's operator: budgets, routes and allocations of AI tokens on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "spendkeeper-operator", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,

    /// Which messages to log: a level, or a filter such as `spendkeeper=debug,info`.
    #[arg(long, global = true, env = "SPENDKEEPER_LOG", default_value = "info")]
    pub log: String,
    /// How to write them.
    #[arg(long, global = true, env = "SPENDKEEPER_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Install the CRDs, or bring them up to date, and wait until the API server serves them.
    InstallCrds,
    /// Make one call through the sidecar of this pod, to a model that is played here: what `helm test` runs.
    TestCall {
        /// The model that is asked for.
        #[arg(long)]
        model: String,
        /// Where the model is played: the endpoint of its ModelRoute.
        #[arg(long, default_value = "127.0.0.1:18080")]
        upstream_listen: SocketAddr,
    },
    /// Write the ledger's single calls to standard output, while the operator runs or not.
    ExportCalls(ExportCallsArgs),
}

/// Where the ledger is.
#[derive(Clone, Debug, clap::Args)]
pub struct LedgerArgs {
    /// The ledger: an SQLite file, whose directory must survive restarts; or `postgres://user:password@host:port/database`, which
    /// belongs into the environment, where no list of processes shows it.
    #[arg(long, env = "SPENDKEEPER_LEDGER", hide_env_values = true, default_value = "/var/lib/spendkeeper/ledger.db")]
    pub ledger: String,
    /// Certificates (PEM) of the authorities that vouch for the ledger's database; without them, the machine's.
    #[arg(long, env = "SPENDKEEPER_LEDGER_CA")]
    pub ledger_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ExportCallsArgs {
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// The first moment: RFC 3339, or a date, which begins in UTC. Calls count by when they ended.
    #[arg(long, default_value = "1970-01-01")]
    pub from: Moment,
    /// The moment after the last.
    #[arg(long, default_value = "9000-01-01")]
    pub to: Moment,
    /// What to write.
    #[arg(long, default_value = "csv")]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For a log pipeline: one object a line.
    Json,
}

#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The operator's own namespace. Resources in it may select pods of other namespaces.
    #[arg(long, env = "SPENDKEEPER_NAMESPACE", default_value = "spendkeeper-system")]
    pub namespace: String,
    /// This pod's name: who holds the leader's lease.
    #[arg(long, env = "SPENDKEEPER_POD_NAME")]
    pub pod_name: Option<String>,
    /// Name of the operator's Service, and of its Lease.
    #[arg(long, env = "SPENDKEEPER_SERVICE", default_value = "spendkeeper-operator")]
    pub service: String,
    #[command(flatten)]
    pub ledger: LedgerArgs,
    /// How many days the ledger keeps single calls; 0 for ever. Their sums by hour, which reports and statuses are made of, it always keeps.
    #[arg(long, env = "SPENDKEEPER_KEEP_CALLS_DAYS", default_value_t = 35)]
    pub keep_calls_days: u32,

    /// Where health and metrics are served (HTTP).
    #[arg(long, env = "SPENDKEEPER_HTTP_LISTEN", default_value = "0.0.0.0:8080")]
    pub http_listen: SocketAddr,
    /// Where the admission webhook is served (HTTPS).
    #[arg(long, env = "SPENDKEEPER_WEBHOOK_LISTEN", default_value = "0.0.0.0:8443")]
    pub webhook_listen: SocketAddr,
    /// Where sidecars connect (gRPC over TLS).
    #[arg(long, env = "SPENDKEEPER_CONTROL_LISTEN", default_value = "0.0.0.0:9443")]
    pub control_listen: SocketAddr,
    /// The control channel as sidecars reach it; by default the Service's port 9443.
    #[arg(long, env = "SPENDKEEPER_CONTROL_URL")]
    pub control_url: Option<String>,
    /// Further host names or IP addresses for the serving certificate, comma-separated.
    #[arg(long, env = "SPENDKEEPER_CERTIFICATE_NAMES", value_delimiter = ',')]
    pub certificate_names: Vec<String>,
    /// Name of the mutating and of the validating webhook configuration that are given the CA; empty for none.
    #[arg(long, env = "SPENDKEEPER_WEBHOOK_CONFIGURATION", default_value = "spendkeeper")]
    pub webhook_configuration: String,

    /// Image of the sidecar.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_IMAGE", default_value = concat!("spendkeeper/sidecar:", env!("CARGO_PKG_VERSION")))]
    pub sidecar_image: String,
    /// When nodes pull it: Always, IfNotPresent or Never.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_PULL_POLICY", default_value = "IfNotPresent")]
    pub sidecar_pull_policy: String,
    /// CPU that a sidecar requests.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_CPU_REQUEST", default_value = "10m")]
    pub sidecar_cpu_request: String,
    /// Memory that a sidecar requests.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_MEMORY_REQUEST", default_value = "16Mi")]
    pub sidecar_memory_request: String,
    /// Memory that a sidecar may use.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_MEMORY_LIMIT", default_value = "64Mi")]
    pub sidecar_memory_limit: String,

    /// The OpenTelemetry collector that sidecars tell of every model call; empty for none. `$(HOST_IP)` in it is the pod's node.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_OTLP_ENDPOINT", default_value = "")]
    pub sidecar_otlp_endpoint: String,
    /// How they speak to it: grpc or http/protobuf.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_OTLP_PROTOCOL", default_value = "grpc", value_parser = ["grpc", "http/protobuf"])]
    pub sidecar_otlp_protocol: String,
    /// Part of the calls that they tell of, from 0 to 1, of those whose caller is in no trace.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_OTLP_SAMPLE_RATIO", default_value_t = 1.0, value_parser = ratio)]
    pub sidecar_otlp_sample_ratio: f64,

    /// Forward proxy of sidecars for providers with https; empty for none.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_HTTPS_PROXY", default_value = "")]
    pub sidecar_https_proxy: String,
    /// Forward proxy of sidecars for what has http; empty for none.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_HTTP_PROXY", default_value = "")]
    pub sidecar_http_proxy: String,
    /// What sidecars reach without a proxy: names, domains and networks, comma-separated.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_NO_PROXY", default_value = "")]
    pub sidecar_no_proxy: String,
    /// Certificate authorities that sidecars trust for providers beside the system's: PEM.
    #[arg(long, env = "SPENDKEEPER_SIDECAR_UPSTREAM_CA", default_value = "")]
    pub sidecar_upstream_ca: String,

    /// Apply approved recommendations; else approvals are recorded and applied by you.
    #[arg(long, env = "SPENDKEEPER_APPLY_APPROVED", default_value_t = true, action = ArgAction::Set)]
    pub apply_approved: bool,
    /// Read the CPU and memory use of selected pods from each kubelet, for right-sizing.
    #[arg(long, env = "SPENDKEEPER_KUBELET_METRICS", default_value_t = true, action = ArgAction::Set)]
    pub kubelet_metrics: bool,
    /// Seconds between two readings of a kubelet.
    #[arg(long, env = "SPENDKEEPER_KUBELET_INTERVAL_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    pub kubelet_interval_seconds: u64,
}

/// A pod with a ratio that its sidecar does not take would not start.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "write a number from 0 to 1")?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("it must be from 0 to 1".to_owned()) }
}

impl RunArgs {
    /// Who this process is among candidates for leadership.
    pub fn identity(&self) -> String {
        self.pod_name.clone().unwrap_or_else(|| format!("{}-{}", self.service, uuid::Uuid::new_v4()))
    }

    pub fn ledger_options(&self) -> ledger::Options {
        let keep_calls = (self.keep_calls_days > 0).then(|| Duration::from_hours(24 * u64::from(self.keep_calls_days)));
        ledger::Options { ca: self.ledger.ledger_ca.clone(), keep_calls }
    }

    pub fn kubelet_interval(&self) -> Duration {
        Duration::from_secs(self.kubelet_interval_seconds)
    }

    pub fn certificates(&self) -> certs::Settings {
        let RunArgs { service, namespace, .. } = self;
        let own = [service.clone(), format!("{service}.{namespace}"), format!("{service}.{namespace}.svc")];
        let cluster = format!("{service}.{namespace}.svc.cluster.local");
        let names = own.into_iter().chain([cluster]).chain(self.certificate_names.iter().cloned());
        certs::Settings { namespace: namespace.clone(), names: names.collect(), webhook_configuration: self.webhook_configuration.clone() }
    }

    pub fn sidecar(&self) -> SidecarSettings {
        let default = || format!("https://{}.{}.svc:9443", self.service, self.namespace);
        SidecarSettings {
            image: self.sidecar_image.clone(),
            pull_policy: self.sidecar_pull_policy.clone(),
            cpu_request: self.sidecar_cpu_request.clone(),
            memory_request: self.sidecar_memory_request.clone(),
            memory_limit: self.sidecar_memory_limit.clone(),
            operator_url: self.control_url.clone().unwrap_or_else(default),
            otlp: (!self.sidecar_otlp_endpoint.is_empty()).then(|| OtlpSettings {
                endpoint: self.sidecar_otlp_endpoint.clone(),
                protocol: self.sidecar_otlp_protocol.clone(),
                sample_ratio: self.sidecar_otlp_sample_ratio,
            }),
            network: NetworkSettings {
                https_proxy: self.sidecar_https_proxy.clone(),
                http_proxy: self.sidecar_http_proxy.clone(),
                no_proxy: self.sidecar_no_proxy.clone(),
                upstream_ca: self.sidecar_upstream_ca.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn sidecars_find_the_control_channel_by_a_name_that_its_certificate_holds_for() {
        let args = Args::parse_from(["spendkeeper-operator", "run", "--namespace", "spend", "--service", "keeper"]);
        let Command::Run(run) = args.command else { panic!("the run command") };
        let url = run.sidecar().operator_url;
        assert_eq!(url, "https://keeper.spend.svc:9443");
        assert!(run.sidecar().otlp.is_none(), "nobody is told of calls unless an address is given");
        assert!(run.certificates().names.iter().any(|name| url.contains(&format!("//{name}:"))));
    }
}
