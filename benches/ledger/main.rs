//! Leases and reports a second on SQLite and on PostgreSQL, as durable as in production, beside what each engine allows at most: a bare
//! insert for each caller, alone in a transaction and all together in one.
//!
//! `append` with `n` callers is a file to which as many pages are appended for each `fdatasync`: what the disk allows to somebody who
//! shares every write among all who wait for it. Leases of all callers are under one limit, the worst case: one row that each changes.

#[path = "../common/mod.rs"]
mod common;
mod floor;
#[path = "../../tests/postgres/server.rs"]
mod server;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{Figure, Row};
use server::Server;
use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimension, Dimensions, Origin};
use spendkeeper::core::lease::LeaseId;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::{Protocol, Tier};
use spendkeeper::core::usage::Usage;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger};

const CALLERS: [usize; 3] = [1, 16, 64];
const REPETITIONS: usize = 5;
const MEASURED: Duration = Duration::from_millis(1_000);
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

/// What is measured, in this order; what follows an engine's `InsertTogether` is compared with it.
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

/// One repetition: operations a second, and how long each took, in order.
struct Turn {
    rate: f64,
    latencies: Vec<Duration>,
}

impl Turn {
    fn of(mut latencies: Vec<Duration>, took: Duration) -> Result<Turn> {
        ensure!(!latencies.is_empty(), "nothing was done within {took:?}");
        latencies.sort_unstable();
        Ok(Turn { rate: latencies.len() as f64 / took.as_secs_f64(), latencies })
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
    println!("{}; {} s a repetition, {REPETITIONS} repetitions", common::machine(), MEASURED.as_secs_f64());
    let mut rows = Vec::new();
    for callers in CALLERS {
        let mut turns: Vec<Vec<Turn>> = MEASURES.iter().map(|_| Vec::new()).collect();
        for repetition in 0..REPETITIONS {
            for (index, turns) in turns.iter_mut().enumerate() {
                let name = format!("bench_{index}_{callers}_{repetition}");
                turns.push(runtime.block_on(measure(MEASURES[index], &directory.path().join(&name), &server, &name, callers))?);
            }
        }
        for (index, (engine, operation, name)) in MEASURES.into_iter().enumerate() {
            let is_floor = |(of, operation): (Engine, Operation)| of == engine && operation == Operation::InsertTogether;
            let floor = MEASURES.iter().position(|(of, operation, _)| is_floor((*of, *operation)));
            let floor = floor.filter(|_| matches!(operation, Operation::Lease | Operation::Report)).map(|floor| turns[floor].as_slice());
            rows.push(row(engine, name, callers, &turns[index], floor));
        }
    }
    common::print("The ledger beside bare inserts in the same engine: median [min max]", &rows);
    common::write("ledger.json", &rows)?;
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

/// `floor` are the turns that were measured beside these.
fn row(engine: Engine, operation: &'static str, callers: usize, turns: &[Turn], floor: Option<&[Turn]>) -> Row {
    let of = |figure: fn(&Turn) -> f64| Figure::of(turns.iter().map(figure));
    let ratio = floor.map(|floor| Figure::of(turns.iter().zip(floor).map(|(turn, floor)| turn.rate / floor.rate)));
    Row::default()
        .label("engine", format!("{engine:?}"))
        .label("operation", operation)
        .label("callers", callers)
        .figure("per_second", of(|turn| turn.rate))
        .figure("of_floor", ratio)
        .figure("p50_us", of(|turn| turn.percentile(50)))
        .figure("p99_us", of(|turn| turn.percentile(99)))
}

fn append(path: &Path, callers: usize) -> Result<Turn> {
    let mut file = File::create(path)?;
    let began = Instant::now();
    let mut latencies = Vec::new();
    while began.elapsed() < MEASURED {
        let start = Instant::now();
        for _ in 0..callers {
            file.write_all(&PAGE)?;
        }
        file.sync_data()?;
        latencies.extend(std::iter::repeat_n(start.elapsed(), callers));
    }
    let took = began.elapsed();
    std::fs::remove_file(path)?;
    Turn::of(latencies, took)
}

async fn on_ledger(address: &str, operation: Operation, callers: usize) -> Result<Turn> {
    let ledger = spendkeeper::ledger::open(address, Default::default()).await?;
    let mut prepared = Vec::with_capacity(callers);
    for number in 0..callers {
        let mut caller = Caller { holder: HolderId(format!("pod-{number}")), lease: LeaseId(format!("lease-{number}")), seq: 0 };
        caller.acquire(ledger.as_ref()).await?;
        prepared.push(caller);
    }
    let began = Instant::now();
    let tasks: Vec<_> =
        prepared.into_iter().map(|caller| tokio::spawn(caller.repeat(Arc::clone(&ledger), operation, began + MEASURED))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let took = began.elapsed();
    ledger.close().await;
    Turn::of(latencies, took)
}

/// A sidecar, as the ledger sees it.
struct Caller {
    holder: HolderId,
    lease: LeaseId,
    /// Of the last request for the lease, and the number of the last call.
    seq: u64,
}

impl Caller {
    async fn repeat(mut self, ledger: Arc<dyn Ledger>, operation: Operation, until: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let start = Instant::now();
            match operation {
                Operation::Lease => self.acquire(ledger.as_ref()).await?,
                _ => self.report(ledger.as_ref()).await?,
            }
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    }

    async fn acquire(&mut self, ledger: &dyn Ledger) -> Result<()> {
        self.seq += 1;
        let amount = Amount { usd: PicoUsd(1_000_000_000), tokens: 1_000, requests: 1 };
        let (lease, holder, limits) = (self.lease.clone(), self.holder.clone(), vec![limit()]);
        let request = Acquire { lease, seq: self.seq, holder, limits, min: amount, want: amount, now_ms: now_ms() };
        let decision = ledger.acquire(request).await?;
        ensure!(matches!(decision, Decision::Granted { .. }), "a lease was not granted: {decision:?}");
        Ok(())
    }

    async fn report(&mut self, ledger: &dyn Ledger) -> Result<()> {
        self.seq += 1;
        let record = record(&self.holder, self.seq);
        let lease = Some(self.lease.clone());
        let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(record.clone()));
        let entries = vec![
            Entry::Opened { call, lease: lease.clone(), reserved, draft, unleased: Vec::new() },
            Entry::Settled { record, lease, unleased: Vec::new() },
        ];
        ledger.report(&self.holder, entries, now_ms()).await?;
        Ok(())
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A limit that nobody here reaches.
fn limit() -> LimitTerms {
    let span = Span::Fixed { start_ms: 0, end_ms: i64::MAX };
    LimitTerms { key: LimitKey("shop/bench/total".to_owned()), unit: Unit::Usd, limit: i128::from(i64::MAX) << 32, span }
}

fn record(holder: &HolderId, number: u64) -> Arc<CallRecord> {
    let usage = Usage { input: 900, output: 100, ..Usage::default() };
    let dimensions = [(Dimension::Feature, "chat"), (Dimension::Team, "support")].map(|(d, value)| (d, value.to_owned()));
    Arc::new(CallRecord {
        id: CallId(format!("{}-{number:016}", holder.0)),
        started_at_ms: now_ms(),
        duration_ms: 800,
        time_to_first_byte_ms: Some(300),
        origin: Arc::new(Origin {
            namespace: "shop".into(),
            workload: "Deployment/bot".into(),
            pod: "bot-1".into(),
            pod_uid: holder.0.clone(),
        }),
        dimensions: Dimensions(dimensions.into()),
        kind: CallKind::Model { protocol: Protocol::OpenAIChat },
        route: "shop/models".into(),
        backend: "openai".into(),
        requested_model: "auto".into(),
        model: "gpt-5-mini".into(),
        requested_tier: Some(Tier::Frontier),
        tier: Some(Tier::Standard),
        classification: None,
        usage,
        cost: PicoUsd(1_000),
        reserved: Amount { usd: PicoUsd(2_000), tokens: 2_000, requests: 1 },
        bytes: 4_000,
        outcome: CallOutcome::Completed,
        status: 200,
        unpriced: false,
    })
}
