//! What the calls go through: nothing, nginx, Envoy, or the sidecar, in a pod or alone; [`peers`](super::peers) are beside them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use spendkeeper::core::dimensions::Dimension;

use super::load::Destination;
use super::operator::Operator;
use super::process::{Process, Started};
use super::secured::Secured;

/// Where Debian's nginx-light puts it; elsewhere it is looked for in PATH.
const NGINX: &str = "/usr/sbin/nginx";
/// What the provider's backend is given in place of the caller's key.
const CREDENTIAL: &str = "sk-of-the-provider";
const START_LIMIT: Duration = Duration::from_secs(20);

/// Where a provider is for the sidecar.
pub struct Endpoint {
    url: String,
    /// Who vouches for it, PEM.
    ca: Option<String>,
}

impl Endpoint {
    pub fn plain(address: SocketAddr) -> Endpoint {
        Endpoint { url: format!("http://{address}"), ca: None }
    }
}

impl From<Secured> for Endpoint {
    fn from(server: Secured) -> Endpoint {
        Endpoint { url: server.url(), ca: Some(server.ca) }
    }
}

/// A way to the provider.
pub struct Target {
    pub name: &'static str,
    pub to: Destination,
    /// `None` for the provider itself, which is part of this process.
    pub process: Option<Process>,
    /// Answers say what the call cost.
    pub charges: bool,
    /// Takes milliseconds where the others take microseconds, so that the largest loads would say nothing more of it.
    pub slow: bool,
    /// Whom it follows, if anybody.
    pub operator: Option<Operator>,
}

impl Target {
    pub fn none(provider: SocketAddr) -> Target {
        Target { name: "none", to: plain(provider), process: None, charges: false, slow: false, operator: None }
    }

    /// nginx passing everything on: nothing is logged, held back or written to disk.
    pub async fn nginx(provider: SocketAddr, directory: &Path) -> Result<Target> {
        let (directory, address) = (directory.join("nginx"), free_address()?);
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("nginx.conf");
        std::fs::write(&config, nginx_config(provider, address))?;
        let program = if Path::new(NGINX).exists() { NGINX } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-p").arg(&directory).arg("-c").arg(&config).args(["-e", "stderr"]);
        let process = Process::start(&mut command, Started::Listens(address), START_LIMIT, &directory.join("log"))
            .await
            .context("nginx is what the sidecar is compared with; on Debian: apt-get install --no-install-recommends nginx-light")?;
        Ok(Target { name: "nginx", to: plain(address), process: Some(process), charges: false, slow: false, operator: None })
    }

    /// Envoy passing everything on, without anything that a reverse proxy can do without.
    pub async fn envoy(program: &Path, provider: SocketAddr, directory: &Path) -> Result<Target> {
        let (directory, address) = (directory.join("envoy"), free_address()?);
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("envoy.yaml");
        std::fs::write(&config, envoy_config(provider, address))?;
        let mut command = Command::new(program);
        command.arg("--config-path").arg(&config).args(["--concurrency", "2", "--disable-hot-restart", "--log-level", "error"]);
        let process = Process::start(&mut command, Started::Listens(address), START_LIMIT, &directory.join("log")).await?;
        Ok(Target { name: "envoy", to: plain(address), process: Some(process), charges: false, slow: false, operator: None })
    }

    /// The sidecar with everything on, as in a pod: each call gets its dimensions, is classified, reserved in two budgets, journalled,
    /// metered, settled, and reported to the operator.
    pub async fn sidecar(name: &'static str, program: &Path, provider: &Endpoint, directory: &Path) -> Result<Target> {
        let directory = directory.join(name);
        let operator = Operator::start(&policy(provider, &directory)?, CREDENTIAL, dimensions())?;
        let mut command = Command::new(program);
        command.arg("--operator").arg(operator.server.url()).arg("--ca").arg(&operator.server.ca).arg("--token-file").arg(&operator.token);
        if let Some(ca) = &provider.ca {
            command.arg("--upstream-ca").arg(ca);
        }
        let mut target = Target::running(name, &mut command, &directory).await?;
        target.operator = Some(operator);
        Ok(target)
    }

    /// The same sidecar without an operator, as on a laptop: the ledger, with its database, is in its own process.
    pub async fn alone(program: &Path, provider: &Endpoint, directory: &Path) -> Result<Target> {
        let directory = directory.join("alone");
        let mut command = Command::new(program);
        command.arg("--config").arg(policy(provider, &directory)?);
        for (dimension, value) in dimensions() {
            command.arg("--dimension").arg(format!("{}={value}", dimension.name()));
        }
        command.env("SPENDKEEPER_CREDENTIAL_BENCH_API_KEY", CREDENTIAL);
        Target::running("alone", &mut command, &directory).await
    }

    async fn running(name: &'static str, command: &mut Command, directory: &Path) -> Result<Target> {
        let (address, admin) = (free_address()?, free_address()?);
        command.arg("--state-dir").arg(directory.join("state")).args(["--log", "warn"]);
        command.arg("--listen").arg(address.to_string()).arg("--admin-listen").arg(admin.to_string());
        let process = Process::start(command, Started::Ready(admin), START_LIMIT, &directory.join("log")).await?;
        Ok(Target { name, to: plain(address), process: Some(process), charges: true, slow: false, operator: None })
    }
}

fn plain(address: SocketAddr) -> Destination {
    Destination { address, headers: String::new() }
}

/// An address on loopback that nobody listens on.
pub fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// As many workers as the sidecar has threads; connections to the provider are kept alive, as the sidecar's are.
fn nginx_config(provider: SocketAddr, address: SocketAddr) -> String {
    format!(
        "daemon off;
worker_processes 2;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  client_max_body_size 32m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  upstream provider {{ server {provider}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}

/// Its HTTP filter is the router alone; the limits of its circuit breakers are those of nobody who calls here.
fn envoy_config(provider: SocketAddr, address: SocketAddr) -> String {
    format!(
        "static_resources:
  listeners:
    - address: {{socket_address: {{address: {ip}, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: bench
                codec_type: HTTP1
                generate_request_id: false
                stream_idle_timeout: 0s
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: [\"*\"]
                      routes: [{{match: {{prefix: /}}, route: {{cluster: provider, timeout: 0s}}}}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                      suppress_envoy_headers: true
                      dynamic_stats: false
  clusters:
    - name: provider
      type: STATIC
      connect_timeout: 1s
      circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}
      load_assignment:
        cluster_name: provider
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {up_ip}, port_value: {up_port}}}}}}}}}]}}]
",
        ip = address.ip(),
        port = address.port(),
        up_ip = provider.ip(),
        up_port = provider.port(),
    )
}

/// Of every call.
fn dimensions() -> [(Dimension, &'static str); 2] {
    [(Dimension::Team, "search"), (Dimension::Feature, "chat")]
}

/// A file with a budget for all and one for a team, and a route with a choice of models.
fn policy(provider: &Endpoint, directory: &Path) -> Result<PathBuf> {
    let text = format!(
        "apiVersion: spendkeeper.dev/v1alpha1
kind: AIBudget
metadata: {{name: all}}
spec:
  limits: [{{name: day, usd: \"1000000\", period: Day, timeZone: UTC}}]
  enforcement: Block
---
apiVersion: spendkeeper.dev/v1alpha1
kind: AIBudget
metadata: {{name: search}}
spec:
  scope: {{match: call.team == 'search'}}
  limits: [{{name: month, tokens: 1000000000000, period: Month, timeZone: UTC}}]
  enforcement: Fit
---
apiVersion: spendkeeper.dev/v1alpha1
kind: ModelRoute
metadata: {{name: bench}}
spec:
  backends:
    - name: provider
      provider: OpenAI
      endpoint: {provider}
      credentials: {{name: bench, key: api-key}}
      models:
        - {{name: bench-model, tier: standard, contextWindow: 200000, maxOutput: 16384, price: {{input: \"0.25\", output: \"2\"}}}}
        - {{name: bench-model-large, tier: frontier, contextWindow: 200000, maxOutput: 16384, price: {{input: \"1.25\", output: \"10\"}}}}
  aliases: [{{name: auto, maxTier: frontier}}]
",
        provider = provider.url
    );
    std::fs::create_dir_all(directory)?;
    let file = directory.join("policy.yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}
