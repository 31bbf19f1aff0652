//! Where the sidecar's time goes under a load: a recording of `perf` for each shape, and what each part of the sidecar has of it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::provider::Provider;
use super::targets::{Endpoint, Target};
use super::{SIDECAR, Wanted, baseline, common, load};

/// Adds a recording up.
const PARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/proxy/parts");

const WARM_UP: Duration = Duration::from_secs(2);
const RECORDED: Duration = Duration::from_secs(8);
/// Samples a second and CPU; no divisor of what else happens regularly.
const FREQUENCY: &str = "1999";

/// Records `target/bench/SHAPE.perf`, which `perf report` reads too.
pub async fn record(wanted: &Wanted) -> Result<()> {
    let directory = tempfile::tempdir_in(common::directory()?)?;
    let provider = Provider::start()?;
    let program = baseline().unwrap_or_else(|| SIDECAR.clone());
    for shape in wanted.shapes() {
        let sidecar =
            Target::sidecar("sidecar", &program, &Endpoint::plain(provider.address), &directory.path().join(shape.name())).await?;
        let id = sidecar.process.as_ref().context("a sidecar is a process")?.id();
        load::run(&sidecar.to, shape, WARM_UP, WARM_UP).await?;
        let file = common::directory()?.join(shape.name().replace('/', "-")).with_extension("perf");
        let mut perf = Command::new("perf");
        perf.args(["record", "--quiet", "--freq", FREQUENCY, "--call-graph", "fp", "--pid", &id.to_string(), "--output"]).arg(&file);
        let mut perf = perf.args(["--", "sleep", &RECORDED.as_secs().to_string()]).spawn().context("perf cannot be started")?;
        let sample = load::run(&sidecar.to, shape, Duration::ZERO, RECORDED).await?;
        ensure!(perf.wait()?.success(), "perf did not record");
        let calls = format!("{{\"calls\": {}}}\n", sample.calls);
        std::fs::write(file.with_extension("perf.json"), calls)?;
        let shape = (shape.name(), sample.rate, sample.latency.percentile(50), file.display());
        println!("{}: {:.0} calls a second, p50 {:.1} µs, recorded in {}", shape.0, shape.1, shape.2, shape.3);
        let added_up = Command::new(PARTS).arg(&program).arg(&file).status().with_context(|| format!("{PARTS} cannot be started"))?;
        ensure!(added_up.success(), "{PARTS} failed");
    }
    Ok(())
}
