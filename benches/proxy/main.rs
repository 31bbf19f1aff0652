//! Calls a second and latency through the sidecar, beside nginx as a raw reverse proxy and beside no proxy at all.
//!
//! Everything runs on loopback. The targets take turns within each repetition, so that what else the machine does meets all of
//! them; a figure is the median of the repetitions, with the least and the most beside it. `added` is the difference to the call
//! without a proxy in the same repetition.
//!
//! `cargo bench --bench proxy -- 1024/whole` measures only shapes whose name holds that text; with SPENDKEEPER_BENCH_BASELINE set to
//! the binary of another sidecar, that one takes its turns too, as target `baseline`.

#[path = "../common/mod.rs"]
mod common;
mod load;
mod process;
mod provider;
mod targets;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::{Figure, Row};
use load::{Sample, Shape};
use targets::Target;
use tokio::signal::unix::{SignalKind, signal};

/// The sidecar as it is released; cargo builds it before it runs this benchmark.
const SIDECAR: &str = env!("CARGO_BIN_EXE_spendkeeper-sidecar");
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const BODIES: [usize; 2] = [1 << 10, 64 << 10];
const REPETITIONS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(150);
const MEASURED: Duration = Duration::from_millis(700);
/// After so long without a call, a process counts as idle.
const IDLE: Duration = Duration::from_secs(3);
/// What an idle sidecar may take.
const IDLE_LIMIT_KIB: u64 = 15 << 10;

fn main() -> Result<()> {
    // One thread for the calls; the provider has its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Whichever way this ends, processes and directories go as their owners are dropped.
        tokio::select! {
            result = bench() => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn bench() -> Result<()> {
    let directory = tempfile::tempdir_in(common::directory()?)?;
    let provider = provider::start()?;
    let mut targets = vec![
        Target::none(provider),
        Target::nginx(provider, directory.path())?,
        Target::sidecar("sidecar", SIDECAR.as_ref(), provider, directory.path())?,
    ];
    if let Some(program) = std::env::var_os("SPENDKEEPER_BENCH_BASELINE") {
        targets.push(Target::sidecar("baseline", program.as_ref(), provider, directory.path())?);
    }
    check(&targets).await?;
    println!(
        "{}; calls, provider and proxies share them: with many connections the figures say who leaves more to the others",
        common::machine()
    );
    let mut memory = vec![memory_of_idle(provider, directory.path()).await?];
    let mut rows = Vec::new();
    for shape in wanted_shapes() {
        rows.extend(compare(&targets, shape).await?);
    }
    for target in &targets[1..] {
        memory.push(memory_row(target, "after the load")?);
    }
    common::print("Through a proxy and without one: median [min max]", &rows);
    common::write("proxy.json", &rows)?;
    common::print(&format!("Memory that is resident (an idle sidecar may take {IDLE_LIMIT_KIB} KiB)"), &memory);
    common::write("memory.json", &memory)?;
    Ok(())
}

/// Those that the command line names, or all.
fn wanted_shapes() -> Vec<Shape> {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let bodies = BODIES.into_iter().flat_map(|body| [false, true].map(|stream| (body, stream)));
    let shapes = bodies.flat_map(|(body, stream)| CONNECTIONS.map(|connections| Shape { connections, body, stream }));
    shapes.filter(|shape| filters.is_empty() || filters.iter().any(|filter| shape.name().contains(filter.as_str()))).collect()
}

/// Every target must do what it is there for: an answer of the sidecar's says what it cost.
async fn check(targets: &[Target]) -> Result<()> {
    for target in targets {
        let whole = load::once(target.address, Shape { connections: 1, body: 1024, stream: false }).await?;
        let streamed = load::once(target.address, Shape { connections: 1, body: 1024, stream: true }).await?;
        ensure!(whole.contains("\"content\":\"word word"), "{}: no answer: {whole}", target.name);
        ensure!(streamed.contains("data: [DONE]"), "{}: no stream: {streamed}", target.name);
        let cost = whole.lines().find_map(|line| line.strip_prefix("x-spend-cost-usd: "));
        let is_charged = cost.is_some_and(|cost| cost.trim() != "0");
        ensure!(is_charged == target.charges, "{}: the call's cost is {cost:?}", target.name);
    }
    Ok(())
}

/// One repetition of a target.
struct Turn {
    sample: Sample,
    cpu_us: Option<f64>,
}

async fn compare(targets: &[Target], shape: Shape) -> Result<Vec<Row>> {
    let mut turns: Vec<Vec<Turn>> = targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..REPETITIONS {
        for (target, turns) in targets.iter().zip(&mut turns) {
            turns.push(turn(target, shape).await?);
        }
    }
    let rows = targets.iter().zip(&turns).map(|(target, own)| {
        let of = |figure: fn(&Turn) -> f64| Figure::of(own.iter().map(figure));
        let added = |percent: usize| {
            let pairs = own.iter().zip(&turns[0]);
            let difference = pairs.map(|(turn, without)| turn.sample.percentile(percent) - without.sample.percentile(percent));
            target.process.is_some().then(|| Figure::of(difference))
        };
        Row::default()
            .label("target", target.name)
            .label("body", shape.body)
            .label("stream", shape.stream)
            .label("connections", shape.connections)
            .figure("rps", of(|turn| turn.sample.rate))
            .figure("p50_us", of(|turn| turn.sample.percentile(50)))
            .figure("p99_us", of(|turn| turn.sample.percentile(99)))
            .figure("added_p50_us", added(50))
            .figure("added_p99_us", added(99))
            .figure("cpu_us", own.iter().map(|turn| turn.cpu_us).collect::<Option<Vec<_>>>().map(Figure::of))
    });
    Ok(rows.collect())
}

/// CPU time is that of all calls of the turn, those of the warm-up included, by the rate of those that were measured.
async fn turn(target: &Target, shape: Shape) -> Result<Turn> {
    let cpu = |target: &Target| target.process.as_ref().map(process::Process::cpu_us).transpose();
    let before = cpu(target)?;
    let sample = load::run(target.address, shape, WARM_UP, MEASURED).await?;
    let calls = sample.calls() as f64 * (1.0 + WARM_UP.as_secs_f64() / MEASURED.as_secs_f64());
    let cpu_us = before.zip(cpu(target)?).map(|(before, after)| (after - before) / calls);
    Ok(Turn { sample, cpu_us })
}

async fn memory_of_idle(provider: SocketAddr, directory: &Path) -> Result<Row> {
    let idle = Target::sidecar("idle", SIDECAR.as_ref(), provider, directory)?;
    tokio::time::sleep(IDLE).await;
    memory_row(&idle, "no call yet")
}

fn memory_row(target: &Target, when: &str) -> Result<Row> {
    let kib = target.process.as_ref().map_or(Ok(0), process::Process::resident_kib)?;
    Ok(Row::default().label("target", target.name).label("when", when).label("resident_kib", kib))
}
