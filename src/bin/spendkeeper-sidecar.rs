//! The sidecar: a reverse proxy that approves every model call before it happens and accounts for it afterwards.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use http::{HeaderName, HeaderValue};
use spendkeeper::channel::client::{OperatorAddress, OperatorClient};
use spendkeeper::core::dimensions::Dimension;
use spendkeeper::ledger::HolderId;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::sidecar::call::Settings;
use spendkeeper::sidecar::clock::Clock;
use spendkeeper::sidecar::config::{InForce, put_in_force};
use spendkeeper::sidecar::journal::Journal;
use spendkeeper::sidecar::source::{LeaseSource, LocalSource, RemoteSource};
use spendkeeper::sidecar::start::{Parts, assemble, run};
use spendkeeper::sidecar::telemetry::{self, Target, Wire};
use spendkeeper::sidecar::upstream::Upstream;
use spendkeeper::sidecar::{file, watch};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Holds an app's model calls to its budgets, and accounts for every one of them.
///
/// With --config it runs on its own, from a file; with --operator it follows a Spendkeeper operator.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Run without a cluster: budgets and routes from this YAML file
    #[arg(long, value_name = "FILE", conflicts_with = "operator", required_unless_present = "operator")]
    config: Option<PathBuf>,
    /// Follow the operator at this address, such as https://spendkeeper-operator.spendkeeper-system.svc:9443
    #[arg(long, value_name = "URL", env = "SPENDKEEPER_OPERATOR")]
    operator: Option<String>,
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
    /// Where the journal is, and with --config the ledger [default: ./spendkeeper-state, or /var/lib/spendkeeper with --operator]
    #[arg(long, value_name = "DIRECTORY", env = "SPENDKEEPER_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Where apps reach the proxy
    #[arg(long, value_name = "ADDRESS", env = "SPENDKEEPER_LISTEN", default_value = "127.0.0.1:15400")]
    listen: SocketAddr,
    /// Where /readyz, /healthz and /metrics are [default: 127.0.0.1:15401, or 0.0.0.0:15401 with --operator]
    #[arg(long, value_name = "ADDRESS", env = "SPENDKEEPER_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// A dimension of every call, as NAME=VALUE (feature, team, process, agent or session); callers may override it. With --config
    #[arg(long, value_name = "NAME=VALUE", value_parser = dimension)]
    dimension: Vec<(Dimension, String)>,
    /// Largest body of a request, in MiB
    #[arg(long, value_name = "MIB", env = "SPENDKEEPER_BODY_LIMIT_MIB", default_value_t = 32)]
    body_limit_mib: usize,
    /// Output cap of a call that sets none, in tokens; a model's own limit holds where it is lower
    #[arg(long, value_name = "TOKENS", env = "SPENDKEEPER_DEFAULT_MAX_OUTPUT", default_value_t = 8192)]
    default_max_output: u64,
    /// How long a provider may take to begin its answer
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_ANSWER_SECONDS", default_value_t = 600)]
    answer_seconds: u64,
    /// How long a provider may be silent within an answer
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_IDLE_SECONDS", default_value_t = 300)]
    idle_seconds: u64,
    /// How long an answer may take as a whole
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_TOTAL_SECONDS", default_value_t = 3600)]
    total_seconds: u64,
    /// How long a request's body may take to arrive
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_REQUEST_SECONDS", default_value_t = 60)]
    request_seconds: u64,
    /// Connections of callers at once; one more is told that it is one too many
    #[arg(long, value_name = "NUMBER", env = "SPENDKEEPER_MAX_CONNECTIONS", default_value_t = 16_384)]
    max_connections: usize,
    /// How long an answer is read on, to be charged by what it used, after its caller hung up
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_READ_ON_SECONDS", default_value_t = 600)]
    read_on_seconds: u64,
    /// How long calls under way are waited for after SIGTERM
    #[arg(long, value_name = "SECONDS", env = "SPENDKEEPER_DRAIN_SECONDS", default_value_t = 20)]
    drain_seconds: u64,
    /// A further certificate authority for providers, beside the system's: PEM, or a file of it
    #[arg(long, value_name = "PEM", env = "SPENDKEEPER_UPSTREAM_CA", hide_env_values = true, allow_hyphen_values = true)]
    upstream_ca: Option<String>,
    /// Tell an OpenTelemetry collector at this address of every model call: a span, without any text of prompts or answers
    #[arg(long, value_name = "URL", env = "SPENDKEEPER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// How the collector is spoken to
    #[arg(long, env = "SPENDKEEPER_OTLP_PROTOCOL", default_value = "grpc")]
    otlp_protocol: OtlpProtocol,
    /// A header for the collector, as NAME=VALUE; several are separated by commas
    #[arg(
        long,
        value_name = "NAME=VALUE",
        env = "SPENDKEEPER_OTLP_HEADERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = header
    )]
    otlp_header: Vec<(HeaderName, HeaderValue)>,
    /// Part of the calls that are told of, from 0 to 1, of those whose caller is in no trace; else the caller's trace decides
    #[arg(long, value_name = "RATIO", env = "SPENDKEEPER_OTLP_SAMPLE_RATIO", default_value_t = 1.0)]
    otlp_sample_ratio: f64,
    /// Have the text of prompts and answers in those spans; without it none of it is ever recorded
    #[arg(long, env = "SPENDKEEPER_CAPTURE_CONTENT")]
    capture_content: bool,
    /// What is logged, such as info or spendkeeper=debug
    #[arg(long, value_name = "FILTER", env = "SPENDKEEPER_LOG", default_value = "info")]
    log: String,
    /// How logs are written
    #[arg(long, env = "SPENDKEEPER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum OtlpProtocol {
    Grpc,
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    // The text may be a key, so that no message repeats it.
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let name = name.trim().parse().map_err(|_| "the name is not one of a header")?;
    let mut value: HeaderValue = value.trim().parse().map_err(|_| "the value is not one of a header")?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn dimension(text: &str) -> Result<(Dimension, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE, for example team=search")?;
    let dimension = Dimension::from_name(name).ok_or_else(|| format!("there is no dimension {name:?}"))?;
    Ok((dimension, value.to_owned()))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(&arguments.log).with_ansi(colours).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // For what happens beside calls, which have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<()> {
    allow_many_files();
    let proxy = TcpListener::bind(arguments.listen).await.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let clock = Clock::start();
    let settings = Settings {
        max_connections: arguments.max_connections,
        body_limit: arguments.body_limit_mib << 20,
        request_timeout: Duration::from_secs(arguments.request_seconds),
        default_max_output: arguments.default_max_output,
        answer_timeout: Duration::from_secs(arguments.answer_seconds),
        idle_timeout: Duration::from_secs(arguments.idle_seconds),
        total_timeout: Duration::from_secs(arguments.total_seconds),
        drain_timeout: Duration::from_secs(arguments.read_on_seconds),
    };
    let extra_ca = arguments.upstream_ca.as_deref().map(pem).transpose()?;
    let upstream = Upstream::new(extra_ca.as_deref())?;
    let collector = collector(&arguments, &upstream, extra_ca)?;
    let (in_force, drain) = (InForce::default(), Duration::from_secs(arguments.drain_seconds));
    if let Some(config) = &arguments.config {
        let state_dir = arguments.state_dir.clone().unwrap_or_else(|| "spendkeeper-state".into());
        put_file_in_force(&in_force, config, &arguments)?;
        let ledger = Arc::new(SqliteLedger::open(&state_dir.join("ledger.db"))?);
        let source = LocalSource { ledger, holder: HolderId("laptop".to_owned()), snapshot: Arc::clone(&in_force), clock };
        let source: Arc<dyn LeaseSource> = Arc::new(source);
        let journal = Arc::new(Journal::open(&state_dir.join("journal"))?);
        let sidecar = assemble(Parts { source, journal, in_force, upstream, settings, clock, collector })?;
        let admin = listen_admin(arguments.admin_listen, "127.0.0.1:15401").await?;
        tell_how_to_use(arguments.listen, &state_dir);
        run(sidecar, proxy, Some(admin), stopped()?, drain).await?;
    } else {
        let state_dir = arguments.state_dir.clone().unwrap_or_else(|| "/var/lib/spendkeeper".into());
        let url = arguments.operator.clone().context("neither --config nor --operator is given")?;
        let address = OperatorAddress { url, ca_pem: pem(&arguments.ca)?, token_file: arguments.token_file.clone() };
        let client = OperatorClient::new(address)?;
        let source: Arc<dyn LeaseSource> = Arc::new(RemoteSource { client: client.clone(), clock });
        let journal = Arc::new(Journal::open(&state_dir)?);
        let sidecar = assemble(Parts { source, journal, in_force, upstream, settings, clock, collector })?;
        let admin = listen_admin(arguments.admin_listen, "0.0.0.0:15401").await?;
        tokio::spawn(watch::follow(Arc::clone(&sidecar), client));
        run(sidecar, proxy, Some(admin), stopped()?, drain).await?;
    }
    Ok(())
}

/// Where calls are told of; nowhere unless an address is given.
fn collector(arguments: &Arguments, upstream: &Upstream, extra_ca: Option<String>) -> Result<Option<Target>> {
    let Some(endpoint) = arguments.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
    let wire = match arguments.otlp_protocol {
        OtlpProtocol::Grpc => Wire::Grpc,
        OtlpProtocol::HttpProtobuf => Wire::HttpProtobuf,
    };
    let (headers, sample_ratio) = (arguments.otlp_header.clone(), arguments.otlp_sample_ratio);
    let capture_content = arguments.capture_content;
    let target = Target::new(telemetry::Settings { endpoint, wire, headers, sample_ratio, extra_ca, capture_content }, upstream)?;
    Ok(Some(target))
}

/// Each call has two connections, and a container starts with a soft limit of a thousand files.
fn allow_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, soft = limit.current, "the limit of open files stays as it is");
    }
}

fn put_file_in_force(in_force: &InForce, config: &Path, arguments: &Arguments) -> Result<()> {
    let mut loaded = file::load(config, |name| std::env::var(name).ok())?;
    for (backend, variable) in &loaded.without_credential {
        tracing::info!("{variable} is not set: calls to {backend} carry the app's own key");
    }
    let dimensions = &mut loaded.policy.dimensions;
    dimensions.free.extend(arguments.dimension.iter().map(|(dimension, _)| *dimension));
    dimensions.defaults.extend(arguments.dimension.iter().cloned());
    put_in_force(in_force, loaded.policy, &loaded.credentials)?;
    Ok(())
}

async fn listen_admin(given: Option<SocketAddr>, default: &str) -> Result<TcpListener> {
    let address = given.map_or_else(|| default.to_owned(), |address| address.to_string());
    TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))
}

/// PEM as it is, or from the file that is named instead of it.
fn pem(text: &str) -> Result<String> {
    if text.is_empty() || text.contains("-----BEGIN") {
        return Ok(text.to_owned());
    }
    std::fs::read_to_string(text).with_context(|| format!("the certificate authority {text} cannot be read"))
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

/// Resolves at SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
