//! The command line of a sidecar: what its two programs, the one in a pod and the one on a laptop, have in common.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use http::{HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::call::{Settings, Sidecar};
use super::clock::Clock;
use super::config::InForce;
use super::journal::Journal;
use super::source::LeaseSource;
use super::start::{Parts, assemble, run};
use super::telemetry::{self, Target, Wire};
use super::upstream::Upstream;

/// What can be said of any sidecar.
#[derive(Args)]
pub struct Options {
    /// Where apps reach the proxy
    #[arg(long, value_name = "ADDRESS", env = "SPENDKEEPER_LISTEN", default_value = "127.0.0.1:15400")]
    pub listen: SocketAddr,
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

/// Runs a program to its end: `serve` is told what is ready, and where it reads its leases from is for it to say.
///
/// # Errors
/// Why it cannot serve.
pub fn main(options: Options, serve: impl AsyncFnOnce(Ready) -> Result<()>) -> Result<()> {
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(&options.log).with_ansi(colours).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // For what happens beside calls, which have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { serve(Ready::new(&options).await?).await })
}

/// All of a sidecar but where its leases come from.
pub struct Ready {
    pub clock: Clock,
    pub in_force: InForce,
    proxy: TcpListener,
    upstream: Upstream,
    settings: Settings,
    collector: Option<Target>,
    drain: Duration,
}

impl Ready {
    async fn new(options: &Options) -> Result<Ready> {
        allow_many_files();
        let proxy = listen(options.listen).await?;
        let extra_ca = options.upstream_ca.as_deref().map(pem).transpose()?;
        let upstream = Upstream::new(extra_ca.as_deref())?;
        let collector = collector(options, &upstream, extra_ca)?;
        let (settings, drain) = (options.settings(), Duration::from_secs(options.drain_seconds));
        Ok(Ready { clock: Clock::start(), in_force: InForce::default(), proxy, upstream, settings, collector, drain })
    }

    /// Serves until SIGTERM or SIGINT, then ends in order. `started` is told of the sidecar before it serves.
    ///
    /// # Errors
    /// When a port or the journal cannot be used.
    pub async fn serve(
        self,
        source: impl LeaseSource + 'static,
        journal: Journal,
        admin: SocketAddr,
        started: impl FnOnce(&Arc<Sidecar>),
    ) -> Result<()> {
        let Ready { clock, in_force, proxy, upstream, settings, collector, drain } = self;
        let (source, journal) = (Arc::new(source), Arc::new(journal));
        let sidecar = assemble(Parts { source, journal, in_force, upstream, settings, clock, collector })?;
        let admin = listen(admin).await?;
        started(&sidecar);
        Ok(run(sidecar, proxy, Some(admin), stopped()?, drain).await?)
    }
}

impl Options {
    fn settings(&self) -> Settings {
        Settings {
            max_connections: self.max_connections,
            body_limit: self.body_limit_mib << 20,
            request_timeout: Duration::from_secs(self.request_seconds),
            default_max_output: self.default_max_output,
            answer_timeout: Duration::from_secs(self.answer_seconds),
            idle_timeout: Duration::from_secs(self.idle_seconds),
            total_timeout: Duration::from_secs(self.total_seconds),
            drain_timeout: Duration::from_secs(self.read_on_seconds),
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Where calls are told of; nowhere unless an address is given.
fn collector(options: &Options, upstream: &Upstream, extra_ca: Option<String>) -> Result<Option<Target>> {
    let Some(endpoint) = options.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
    let wire = match options.otlp_protocol {
        OtlpProtocol::Grpc => Wire::Grpc,
        OtlpProtocol::HttpProtobuf => Wire::HttpProtobuf,
    };
    let (headers, sample_ratio) = (options.otlp_header.clone(), options.otlp_sample_ratio);
    let capture_content = options.capture_content;
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

/// PEM as it is, or from the file that is named instead of it.
///
/// # Errors
/// When that cannot be read.
pub fn pem(text: &str) -> Result<String> {
    if text.is_empty() || text.contains("-----BEGIN") {
        return Ok(text.to_owned());
    }
    std::fs::read_to_string(text).with_context(|| format!("the certificate authority {text} cannot be read"))
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
