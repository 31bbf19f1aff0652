//! From a process's start to its first answer, and how large it is.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::common::{Figure, Row};
use super::targets::{Endpoint, Target};
use super::{SIDECAR, peers};

const STARTS: usize = 10;

/// Fast proxies are started again and again, each time with nothing left of the time before.
pub async fn starts(targets: &[Target], provider: std::net::SocketAddr, directory: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for target in targets {
        let Some(process) = &target.process else { continue };
        let mut times = Vec::new();
        for number in 0..STARTS {
            let own = directory.join(format!("start-{number}"));
            let again = match target.name {
                "nginx" => Target::nginx(provider, &own).await?,
                "envoy" => Target::envoy(&peers::envoy().context("Envoy is gone")?, provider, &own).await?,
                "sidecar" => Target::sidecar("sidecar", &SIDECAR, &Endpoint::plain(provider), &own).await?,
                _ => break,
            };
            times.extend(again.process.as_ref().map(|process| process.start.as_secs_f64() * 1e3));
        }
        if times.is_empty() {
            times.push(process.start.as_secs_f64() * 1e3);
        }
        let until = if target.charges { "/readyz is 200" } else { "it listens" };
        let starts = times.len();
        rows.push(
            Row::default().label("target", target.name).label("until", until).label("starts", starts).figure("start_ms", Figure::of(times)),
        );
    }
    Ok(rows)
}

/// The sidecar's binary, which with two small files is its image; and compressed, as a registry keeps it.
pub fn sizes() -> Result<Row> {
    let size = std::fs::metadata(&*SIDECAR)?.len();
    let mut gzip = Command::new("gzip").arg("-c").arg(&*SIDECAR).stdout(Stdio::piped()).spawn().context("gzip is missing")?;
    let mut compressed = Vec::new();
    gzip.stdout.take().context("gzip has no output")?.read_to_end(&mut compressed)?;
    gzip.wait()?;
    let mb = |bytes: u64| (bytes as f64 / 1e5).round() / 10.0;
    Ok(Row::default().label("binary_mb", mb(size)).label("compressed_mb", mb(compressed.len() as u64)))
}
