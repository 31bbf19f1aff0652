//! The sidecar beside other proxies and beside none: latency, throughput, CPU time, streams, memory and start.
//!
//! Everything runs on loopback and shares two CPUs. The targets take turns within each repetition, so that what else the machine
//! does meets all of them; see docs/performance.md for what is measured and how to read it.
//!
//! `make bench-proxy ONLY="1024/whole start"` measures only what is named: shapes by a part of their name, and the other tables as
//! `memory`, `first-byte`, `rate`, `start`, `events` and `many-streams`. With SPENDKEEPER_BENCH_BASELINE set to the binary of another
//! sidecar, that one takes its turns too, as target `baseline`. `--profile` records where the sidecar's time goes instead, for each shape that is named; `--train`
//! only puts every load on a sidecar that counts what it does.

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod first_byte;
mod load;
mod operator;
mod peers;
mod process;
mod profile;
mod provider;
mod rate;
mod secured;
mod start;
mod streams;
mod targets;
mod training;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::Row;
use load::Shape;
use provider::{Answer, EVENTS, Provider};
use targets::{Endpoint, Target};
use tokio::signal::unix::{SignalKind, signal};

/// The sidecar as it is released, where SPENDKEEPER_BENCH_SIDECAR says; else the one that cargo builds before it runs this benchmark.
static SIDECAR: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = || env!("CARGO_BIN_EXE_spendkeeper-sidecar").into();
    std::env::var_os("SPENDKEEPER_BENCH_SIDECAR").map_or_else(built, PathBuf::from)
});
/// What a laptop has instead, from beside it.
static LAPTOP: LazyLock<PathBuf> = LazyLock::new(|| SIDECAR.with_file_name("spendkeeper"));
/// What runs in a virtual machine of its own gets faster for some seconds.
const SLOW_WARM_UP: Duration = Duration::from_secs(3);
/// What the end of a call may take to reach the operator.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// What the sidecar may take, in KiB.
const IDLE_LIMIT_KIB: u32 = 15 << 10;
const STREAMS_LIMIT_KIB: u32 = 40 << 10;

fn main() -> Result<()> {
    // One thread for the calls; the provider has its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let wanted = Wanted::from_arguments(std::env::args().skip(1));
        // Whichever way this ends, processes and directories go as their owners are dropped.
        tokio::select! {
            result = run(&wanted) => result,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}

async fn run(wanted: &Wanted) -> Result<()> {
    match wanted.task {
        Task::Compare => bench(wanted).await,
        Task::Profile => profile::record(wanted).await,
        Task::Train => training::train().await,
    }
}

/// What the command line asks for.
struct Wanted {
    /// Parts of names; none means everything.
    names: Vec<String>,
    task: Task,
}

enum Task {
    Compare,
    Profile,
    Train,
}

impl Wanted {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> Wanted {
        // Cargo adds flags of its own.
        let (flags, names): (Vec<String>, Vec<String>) = arguments.partition(|argument| argument.starts_with('-'));
        let has = |name| flags.iter().any(|flag| flag == name);
        let task = match (has("--profile"), has("--train")) {
            (true, _) => Task::Profile,
            (false, true) => Task::Train,
            (false, false) => Task::Compare,
        };
        Wanted { names, task }
    }

    /// A name is a path, of which one part or several in a row may be named.
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| format!("/{name}/").contains(&format!("/{part}/")))
    }

    fn shapes(&self) -> Vec<Shape> {
        compare::shapes().filter(|shape| self.wants(&shape.name())).collect()
    }
}

/// Another sidecar than the one that was just built.
fn baseline() -> Option<PathBuf> {
    std::env::var_os("SPENDKEEPER_BENCH_BASELINE").map(PathBuf::from)
}

async fn bench(wanted: &Wanted) -> Result<()> {
    streams::allow_files();
    peers::install();
    let directory = tempfile::tempdir_in(common::directory()?)?;
    let provider = Provider::start()?;
    let mut targets = start_all(&provider, directory.path()).await?;
    if ["memory", "start"].iter().any(|table| wanted.wants(table)) || wanted.shapes().into_iter().any(compare::is_small) {
        targets.extend(start_slow(&provider, directory.path()).await);
    }
    println!("{}; calls, provider and proxies share them: whoever takes less leaves more to the others", common::machine());
    let mut memory = Vec::new();
    if wanted.wants("memory") {
        memory.extend(memory_of_fresh(&targets, &provider, directory.path()).await?);
    }
    compare_all(&targets, &wanted.shapes()).await?;
    if wanted.wants("memory") {
        for target in targets.iter().filter(|target| target.process.is_some()) {
            memory.push(streams::memory_row(target, "after the load")?);
        }
        common::print(
            &format!("Resident memory (a sidecar may take {IDLE_LIMIT_KIB} KiB idle, {STREAMS_LIMIT_KIB} with streams)"),
            &memory,
        );
        common::write("memory.json", &memory)?;
    }
    if wanted.wants("events") {
        let rows = streams::events(&targets).await?;
        common::print("Events, one every 2 ms: from the provider to the caller", &rows);
        common::write("events.json", &rows)?;
    }
    if wanted.wants("first-byte") {
        let rows = first_byte::first_bytes(&targets).await?;
        common::print(&format!("A stream's first byte: prompt, and thought about for {} ms", provider::THINKING.as_millis()), &rows);
        common::write("first-byte.json", &rows)?;
    }
    if wanted.wants("rate") {
        let rows = rate::rates(&targets).await?;
        common::print("At the loads of which agentgateway states its figures", &rows);
        common::write("rate.json", &rows)?;
    }
    if wanted.wants("start") {
        let rows = start::starts(&targets, provider.address, directory.path()).await?;
        common::print("From start to ready (a sidecar may take 50 ms)", &rows);
        common::write("start.json", &rows)?;
        let rows = [start::sizes()?];
        common::print("Size of the sidecar's binary, which is its image (which may have 15 MB)", &rows);
        common::write("size.json", &rows)?;
    }
    if wanted.wants("many-streams") {
        // Their connections count against the limit of open files.
        drop(targets);
        let rows = [streams::many(&provider, directory.path()).await?];
        common::print("Idle streams through the sidecar, and calls beside them", &rows);
        common::write("many-streams.json", &rows)?;
    }
    Ok(())
}

/// Those that are here, each of which does what it is there for; `none` is the first.
async fn start_all(provider: &Provider, directory: &Path) -> Result<Vec<Target>> {
    let address = provider.address;
    let mut targets = vec![Target::none(address), Target::nginx(address, directory).await?];
    if let Some(program) = peers::envoy() {
        targets.push(Target::envoy(&program, address, directory).await?);
    }
    targets.extend(peers::agentgateway(address, directory).await?);
    let endpoint = Endpoint::plain(address);
    targets.push(Target::sidecar("sidecar", &SIDECAR, &endpoint, directory).await?);
    match LAPTOP.exists() {
        true => targets.push(Target::alone(&LAPTOP, &endpoint, directory).await?),
        false => println!("alone is left out: {} is missing", LAPTOP.display()),
    }
    if let Some(program) = baseline() {
        targets.push(Target::sidecar("baseline", &program, &endpoint, directory).await?);
    }
    for target in &targets {
        check(target).await?;
    }
    Ok(targets)
}

async fn start_slow(provider: &Provider, directory: &Path) -> Vec<Target> {
    let mut targets = Vec::new();
    for peer in [peers::litellm(provider.address, directory).await, peers::portkey(provider.address, directory).await] {
        match peer {
            Ok(None) => {}
            Ok(Some(target)) => match warm_up(&target).await {
                Ok(()) => targets.push(target),
                Err(error) => println!("{} is left out: {error:#}", target.name),
            },
            Err(error) => println!("left out: {error:#}"),
        }
    }
    targets
}

/// Every target must do what it is there for: an answer of the sidecar's says what it cost.
async fn check(target: &Target) -> Result<()> {
    let shape = |answer| Shape { connections: 1, body: 1024, answer };
    let whole = load::once(&target.to, shape(Answer::Whole)).await?;
    let streamed = load::once(&target.to, shape(Answer::Stream)).await?;
    ensure!(whole.contains("word word"), "{}: no answer: {whole}", target.name);
    ensure!(streamed.contains("\"delta\""), "{}: no stream: {streamed}", target.name);
    let cost = whole.lines().find_map(|line| line.strip_prefix("x-spend-cost-usd: "));
    let is_charged = cost.is_some_and(|cost| cost.trim() != "0");
    ensure!(is_charged == target.charges, "{}: the call's cost is {cost:?}", target.name);
    if let Some(operator) = &target.operator {
        let reported = tokio::time::timeout(REPORT_LIMIT, operator.reported(2)).await;
        ensure!(matches!(reported, Ok(Ok(()))), "{}: the operator was not told how two calls ended", target.name);
    }
    Ok(())
}

async fn warm_up(target: &Target) -> Result<()> {
    check(target).await?;
    let shape = Shape { connections: 16, body: 1024, answer: Answer::Whole };
    load::run(&target.to, shape, SLOW_WARM_UP, Duration::from_millis(100)).await?;
    Ok(())
}

async fn memory_of_fresh(targets: &[Target], provider: &Provider, directory: &Path) -> Result<Vec<Row>> {
    let (address, directory) = (provider.address, directory.join("fresh"));
    let mut rows = streams::memory(&Target::nginx(address, &directory).await?, provider).await?;
    if let Some(program) = peers::envoy() {
        rows.extend(streams::memory(&Target::envoy(&program, address, &directory).await?, provider).await?);
    }
    rows.extend(streams::memory(&Target::sidecar("sidecar", &SIDECAR, &Endpoint::plain(address), &directory).await?, provider).await?);
    for target in targets.iter().filter(|target| target.slow) {
        rows.push(streams::memory_row(target, "idle, warmed up")?);
    }
    Ok(rows)
}

async fn compare_all(targets: &[Target], shapes: &[Shape]) -> Result<()> {
    let (mut rows, mut ratios) = (Vec::new(), Vec::new());
    for shape in shapes {
        let (own, to_others) = compare::compare(targets, *shape).await?;
        rows.extend(own);
        ratios.extend(to_others);
    }
    if rows.is_empty() {
        return Ok(());
    }
    common::print(&format!("Through a proxy and without one, streams of {EVENTS} events: median [min max]"), &rows);
    common::write("proxy.json", &rows)?;
    common::print("The sidecar's figures divided by another proxy's in the same repetition: median [min max]", &ratios);
    common::write("proxy-ratios.json", &ratios)?;
    common::print("What agentgateway states of itself, on other machines", &peers::published());
    Ok(())
}
