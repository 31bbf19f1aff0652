//! Gateways that people use today: LiteLLM's proxy and Portkey's gateway. `tests/cluster/bench-peers` installs them, and Envoy;
//! what is not there is left out. agentgateway has no package: it is measured where somebody has built it, and what it publishes of itself
//! stands beside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::common::{Figure, Row};
use super::load::Destination;
use super::process::{Process, Started};
use super::provider::API_KEY;
use super::targets::{Target, free_address};

/// LiteLLM imports for half a minute on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);
const INSTALL: &str = "tests/cluster/bench-peers";

/// Installs what can be installed; says what cannot.
pub fn install() {
    let script = root().join(INSTALL);
    match Command::new(&script).status() {
        Ok(status) if status.success() => {}
        other => println!("{}: {other:?}; what is not there already is left out", script.display()),
    }
}

/// Envoy's binary, which its wheel carries.
pub fn envoy() -> Option<PathBuf> {
    let packages = std::fs::read_dir(root().join("target/bench-peers/envoy/lib")).ok()?.flatten();
    packages.map(|python| python.path().join("site-packages/envoy/_bin/envoy")).find(|program| program.exists())
}

/// agentgateway with one model of OpenAI's and two threads, as its own benchmark has it: it reads a request and what an answer says was
/// used. It logs no calls. `None` unless SPENDKEEPER_BENCH_AGENTGATEWAY says where it is.
pub async fn agentgateway(provider: SocketAddr, directory: &Path) -> Result<Option<Target>> {
    let Some(program) = std::env::var_os("SPENDKEEPER_BENCH_AGENTGATEWAY") else { return Ok(None) };
    let (directory, address) = (directory.join("agentgateway"), free_address()?);
    let (admin, stats, readiness) = (free_address()?, free_address()?, free_address()?);
    std::fs::create_dir_all(&directory)?;
    let config = directory.join("config.yaml");
    let text = format!(
        "config: {{adminAddr: \"{admin}\", statsAddr: \"{stats}\", readinessAddr: \"{readiness}\", workerThreads: 2}}
llm:
  port: {port}
  models:
    - name: bench-model
      provider: openAI
      params: {{baseUrl: \"http://{provider}/v1\", apiKey: sk-of-the-provider}}
",
        port = address.port()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("--file").arg(&config).env("RUST_LOG", "error").current_dir(&directory);
    let process = Process::start(&mut command, Started::Listens(address), START_LIMIT, &directory.join("log")).await?;
    let to = Destination { address, headers: String::new() };
    Ok(Some(Target { name: "agentgateway", to, process: Some(process), charges: false, slow: false, operator: None }))
}

/// LiteLLM's proxy with one model and one key, and without a database; `None` where it is not installed.
pub async fn litellm(provider: SocketAddr, directory: &Path) -> Result<Option<Target>> {
    let program = root().join("target/bench-peers/litellm/bin/litellm");
    if !program.exists() {
        return Ok(None);
    }
    let (directory, address) = (directory.join("litellm"), free_address()?);
    std::fs::create_dir_all(&directory)?;
    let config = directory.join("config.yaml");
    let model = format!("{{model: openai/bench-model, api_base: \"http://{provider}/v1\", api_key: sk-of-the-provider}}");
    std::fs::write(&config, format!("model_list: [{{model_name: bench-model, litellm_params: {model}}}]\n"))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(&config).args(["--num_workers", "2", "--host", "127.0.0.1", "--port"]).arg(address.port().to_string());
    // Its list of prices is in the package; it asks nobody for a newer one.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("LITELLM_LOG", "ERROR").env("DISABLE_ADMIN_UI", "True");
    command.env("LITELLM_MASTER_KEY", API_KEY);
    command.current_dir(&directory);
    let process = Process::start(&mut command, Started::Listens(address), START_LIMIT, &directory.join("log")).await?;
    let to = Destination { address, headers: String::new() };
    Ok(Some(Target { name: "litellm", to, process: Some(process), charges: false, slow: true, operator: None }))
}

/// Portkey's gateway, told by headers where the provider is; `None` where it is not installed.
pub async fn portkey(provider: SocketAddr, directory: &Path) -> Result<Option<Target>> {
    let program = root().join("target/bench-peers/portkey/node_modules/@portkey-ai/gateway/build/start-server.js");
    if !program.exists() {
        return Ok(None);
    }
    let (directory, address) = (directory.join("portkey"), free_address()?);
    std::fs::create_dir_all(&directory)?;
    let mut command = Command::new("node");
    command.arg(program).arg("--headless").arg(format!("--port={}", address.port()));
    command.env("NODE_ENV", "production").env("TRUSTED_CUSTOM_HOSTS", provider.ip().to_string());
    let process = Process::start(&mut command, Started::Listens(address), START_LIMIT, &directory.join("log")).await?;
    let headers = format!("x-portkey-provider: openai\r\nx-portkey-custom-host: http://{provider}/v1\r\n");
    let to = Destination { address, headers };
    Ok(Some(Target { name: "portkey", to, process: Some(process), charges: false, slow: true, operator: None }))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// agentgateway 1.6.0 on two cores of a machine of its own, from github.com/agentgateway/benchmarks
/// (cpu-comparison/2026-10-05-stable-comparison); its load and its provider are on two further machines.
pub fn published() -> Vec<Row> {
    let row = |what: &str, connections: &str, rate: f64, added_us: Option<(f64, f64)>| {
        let figure = |value: f64| Figure::of([value]);
        Row::default()
            .label("published", what)
            .label("connections", connections)
            .figure("rps", figure(rate))
            .figure("added_mean_us", added_us.map(|(mean, _)| figure(mean)))
            .figure("added_p99_us", added_us.map(|(_, p99)| figure(p99)))
    };
    vec![
        row("1 KiB, usage extraction, 1,000 requests a second", "-", 1_000.0, Some((340.0, 430.0))),
        row("1 KiB, usage extraction, as many as possible", "32", 14_041.0, None),
        row("1 KiB, plain forwarding, as many as possible", "32", 22_646.0, None),
    ]
}
