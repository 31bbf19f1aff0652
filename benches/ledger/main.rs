//! Leases and reports a second on SQLite and on PostgreSQL, as durable as in production, beside what each engine allows at most: a bare
//! insert for each caller, alone in a transaction and all together in one.
//!
//! `append` with `n` callers is a file to which as many pages are appended for each `fdatasync`: what the disk allows to somebody who
//! shares every write among all who wait for it. Leases of all callers are under one limit, the worst case: one row that each changes.

mod caller;
#[path = "../common/mod.rs"]
mod common;
mod floor;
mod keys;
mod months;
mod replicas;
#[path = "../../tests/postgres/server.rs"]
#[allow(dead_code, reason = "the tests of the adapter use what is left")]
mod server;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use caller::Caller;
use common::{Figure, Row};
use server::Server;

const CALLERS: [usize; 3] = [1, 16, 64];
/// Many and short, so that what is compared was measured within a second or two: the disk of a shared machine has moods.
const REPETITIONS: usize = 15;
const MEASURED: Duration = Duration::from_millis(300);
/// SQLite writes whole pages.
const PAGE: [u8; 4096] = [7; 4096];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Disk,
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// `fdatasync` after a page from each caller.
    Append,
    /// A bare insert for each caller, each in a transaction of its own.
    InsertEach,
    /// A bare insert for each caller, all in one transaction.
    InsertTogether,
    /// A lease is topped up under one limit that all callers share.
    Lease,
    /// A call is reported: that it was opened, and what it cost.
    Report,
}

/// What is measured, in this order; leases and reports are compared with both of their engine's inserts.
const MEASURES: [(Engine, Operation, &str); 9] = [
    (Engine::Disk, Operation::Append, "append"),
    (Engine::Sqlite, Operation::InsertEach, "insert, each alone"),
    (Engine::Sqlite, Operation::InsertTogether, "insert, all together"),
    (Engine::Sqlite, Operation::Lease, "lease"),
    (Engine::Sqlite, Operation::Report, "report"),
    (Engine::Postgres, Operation::InsertEach, "insert, each alone"),
    (Engine::Postgres, Operation::InsertTogether, "insert, all together"),
    (Engine::Postgres, Operation::Lease, "lease"),
    (Engine::Postgres, Operation::Report, "report"),
];

/// One repetition: operations a second, how long each took, in order, and what this process spent on each.
struct Turn {
    rate: f64,
    latencies: Vec<Duration>,
    cpu: Duration,
}

/// The time and this process's CPU time since a repetition began.
#[derive(Clone, Copy)]
struct Began {
    at: Instant,
    cpu: Duration,
}

impl Began {
    fn now() -> Began {
        Began { at: Instant::now(), cpu: cpu() }
    }
}

/// What all threads of this process have used so far; a server is a process of its own.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Turn {
    fn of(mut latencies: Vec<Duration>, began: Began) -> Result<Turn> {
        let (took, cpu) = (began.at.elapsed(), cpu() - began.cpu);
        ensure!(!latencies.is_empty(), "nothing was done within {took:?}");
        latencies.sort_unstable();
        Ok(Turn { rate: latencies.len() as f64 / took.as_secs_f64(), cpu: cpu.div_f64(latencies.len() as f64), latencies })
    }

    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent).div_ceil(100).clamp(1, self.latencies.len()) - 1;
        self.latencies[index].as_secs_f64() * 1e6
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let directory = tempfile::tempdir_in(common::directory()?)?;
    let server = Server::start(directory.path());
    let only: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_wanted = |engine: Engine| only.is_empty() || only.iter().any(|word| word.eq_ignore_ascii_case(&format!("{engine:?}")));
    let measures: Vec<_> = MEASURES.into_iter().filter(|(engine, ..)| is_wanted(*engine)).collect();
    println!("{}; {} s a repetition, {REPETITIONS} repetitions", common::machine(), MEASURED.as_secs_f64());
    let mut rows = Vec::new();
    for callers in CALLERS {
        let mut turns: Vec<Vec<Turn>> = measures.iter().map(|_| Vec::new()).collect();
        for repetition in 0..REPETITIONS {
            for (index, turns) in turns.iter_mut().enumerate() {
                let name = format!("bench_{index}_{callers}_{repetition}");
                turns.push(runtime.block_on(measure(measures[index], &directory.path().join(&name), &server, &name, callers))?);
            }
        }
        for (index, (engine, operation, name)) in measures.iter().copied().enumerate() {
            let beside = |insert: Operation| {
                let is_compared = matches!(operation, Operation::Lease | Operation::Report);
                let floor = measures.iter().position(|(of, operation, _)| (*of, *operation) == (engine, insert));
                floor.filter(|_| is_compared).map(|floor| turns[floor].as_slice())
            };
            let floors = [beside(Operation::InsertEach), beside(Operation::InsertTogether)];
            rows.push(row(engine, name, callers, &turns[index], floors));
        }
    }
    common::print("The ledger beside bare inserts in the same engine: median [min max]", &rows);
    if !rows.is_empty() {
        common::write("ledger.json", &rows)?;
    }
    let is_asked = |word: &str| only.is_empty() || only.iter().any(|asked| asked == word);
    let place = |name: &str| -> Result<(std::path::PathBuf, String)> {
        runtime.block_on(floor::execute(&server.url("public"), &format!("CREATE SCHEMA {name}")))?;
        Ok((directory.path().join(name), server.url(name)))
    };
    if is_asked("replicas") {
        let rows = runtime.block_on(replicas::rows(&server))?;
        common::print("Replicas that write one database in PostgreSQL: median [min max]", &rows);
        common::write("ledger-replicas.json", &rows)?;
    }
    if is_asked("months") {
        let (path, url) = place("months")?;
        let rows = runtime.block_on(months::rows(&path, &url))?;
        common::print("Queries over months, milliseconds: median [min max]", &rows);
        common::write("ledger-months.json", &rows)?;
    }
    if is_asked("keys") {
        let (path, url) = place("keys")?;
        let rows = runtime.block_on(keys::rows(&path, &url))?;
        common::print("Leases under values of a split limit: median [min max]", &rows);
        common::write("ledger-keys.json", &rows)?;
    }
    Ok(())
}

async fn measure(
    (engine, operation, _): (Engine, Operation, &str),
    path: &Path,
    server: &Server,
    schema: &str,
    callers: usize,
) -> Result<Turn> {
    let url = server.url(schema);
    if engine == Engine::Postgres {
        floor::execute(&url, &format!("CREATE SCHEMA {schema}")).await?;
    }
    match (engine, operation) {
        (Engine::Disk, _) | (_, Operation::Append) => append(path, callers),
        (Engine::Sqlite, Operation::InsertEach) => floor::sqlite(path, 1),
        (Engine::Sqlite, Operation::InsertTogether) => floor::sqlite(path, callers),
        (Engine::Postgres, Operation::InsertEach) => floor::postgres(&url, callers, 1).await,
        (Engine::Postgres, Operation::InsertTogether) => floor::postgres(&url, 1, callers).await,
        (Engine::Sqlite, _) => on_ledger(&path.display().to_string(), operation, callers).await,
        (Engine::Postgres, _) => on_ledger(&url, operation, callers).await,
    }
}

/// `floors` are the turns that were measured beside these: inserts each alone, and all together.
fn row(engine: Engine, operation: &'static str, callers: usize, turns: &[Turn], floors: [Option<&[Turn]>; 2]) -> Row {
    let of = |figure: fn(&Turn) -> f64| Figure::of(turns.iter().map(figure));
    let ratio = |floor: &[Turn]| Figure::of(turns.iter().zip(floor).map(|(turn, floor)| turn.rate / floor.rate));
    let [each, together] = floors.map(|floor| floor.map(ratio));
    Row::default()
        .label("engine", format!("{engine:?}"))
        .label("operation", operation)
        .label("callers", callers)
        .figure("per_second", of(|turn| turn.rate))
        .figure("of_floor", each)
        .figure("of_a_grouped_insert", together)
        .figure("p50_us", of(|turn| turn.percentile(50)))
        .figure("p99_us", of(|turn| turn.percentile(99)))
        .figure("cpu_us", of(|turn| turn.cpu.as_secs_f64() * 1e6))
}

fn append(path: &Path, callers: usize) -> Result<Turn> {
    let mut file = File::create(path)?;
    let began = Began::now();
    let mut latencies = Vec::new();
    while began.at.elapsed() < MEASURED {
        let start = Instant::now();
        for _ in 0..callers {
            file.write_all(&PAGE)?;
        }
        file.sync_data()?;
        latencies.extend(std::iter::repeat_n(start.elapsed(), callers));
    }
    let turn = Turn::of(latencies, began);
    std::fs::remove_file(path)?;
    turn
}

async fn on_ledger(address: &str, operation: Operation, callers: usize) -> Result<Turn> {
    let ledger = spendkeeper::ledger::open(address, Default::default()).await?;
    let mut prepared = Vec::with_capacity(callers);
    for number in 0..callers {
        prepared.push(Caller::new(&ledger, number, "shop/bench/total", operation).await?);
    }
    let turn = caller::drive(prepared, operation).await;
    ledger.close().await;
    turn
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
