//! What the calls go through: nothing, nginx, or the sidecar.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::process::Process;

/// Where Debian's nginx-light puts it; elsewhere it is looked for in PATH.
const NGINX: &str = "/usr/sbin/nginx";

/// A way to the provider.
pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// `None` for the provider itself, which is part of this process.
    pub process: Option<Process>,
    /// Answers say what the call cost.
    pub charges: bool,
}

impl Target {
    pub fn none(provider: SocketAddr) -> Target {
        Target { name: "none", address: provider, process: None, charges: false }
    }

    /// nginx passing everything on: nothing is logged, held back or written to disk.
    pub fn nginx(provider: SocketAddr, directory: &Path) -> Result<Target> {
        let (directory, address) = (directory.join("nginx"), free_address()?);
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("nginx.conf");
        std::fs::write(&config, nginx_config(provider, address))?;
        let program = if Path::new(NGINX).exists() { NGINX } else { "nginx" };
        let mut command = Command::new(program);
        command.arg("-p").arg(&directory).arg("-c").arg(&config).args(["-e", "stderr"]);
        let process = Process::start(&mut command, address, &directory.join("log"))
            .context("nginx is what the sidecar is compared with; on Debian: apt-get install --no-install-recommends nginx-light")?;
        Ok(Target { name: "nginx", address, process: Some(process), charges: false })
    }

    /// The sidecar, with a budget and a price, so that every call is reserved, journalled, settled and written to the ledger.
    pub fn sidecar(name: &'static str, program: &Path, provider: SocketAddr, directory: &Path) -> Result<Target> {
        let (directory, address, admin) = (directory.join(name), free_address()?, free_address()?);
        std::fs::create_dir_all(&directory)?;
        let config = directory.join("policy.yaml");
        std::fs::write(&config, policy(provider))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).arg("--state-dir").arg(directory.join("state"));
        command.arg("--listen").arg(address.to_string()).arg("--admin-listen").arg(admin.to_string()).args(["--log", "warn"]);
        let process = Process::start(&mut command, address, &directory.join("log"))?;
        Ok(Target { name, address, process: Some(process), charges: true })
    }
}

/// An address on loopback that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// As many workers as the sidecar has threads; connections to the provider are kept alive, as the sidecar's are.
fn nginx_config(provider: SocketAddr, address: SocketAddr) -> String {
    format!(
        "daemon off;
worker_processes 2;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  client_max_body_size 32m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  upstream provider {{ server {provider}; keepalive 128; keepalive_requests 1000000000; }}
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

fn policy(provider: SocketAddr) -> String {
    format!(
        "apiVersion: spendkeeper.dev/v1alpha1
kind: AIBudget
metadata: {{name: bench}}
spec:
  limits: [{{name: day, usd: \"1000000\", period: Day, timeZone: UTC}}]
  enforcement: Block
---
apiVersion: spendkeeper.dev/v1alpha1
kind: ModelRoute
metadata: {{name: bench}}
spec:
  backends:
    - name: provider
      provider: OpenAI
      endpoint: http://{provider}
      models:
        - {{name: bench-model, tier: standard, contextWindow: 200000, maxOutput: 16384, price: {{input: \"0.25\", output: \"2\"}}}}
"
    )
}
