//! Leases and reports a second on the SQLite ledger, as durable as in production, beside bare appends to the same disk.
//!
//! A reference of `n` callers is a file to which as many pages are appended for each `fdatasync`: what the disk allows to
//! somebody who shares every write among all who wait for it.

#[path = "../common/mod.rs"]
mod common;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use common::{Figure, Row};
use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimension, Dimensions, Origin};
use spendkeeper::core::lease::LeaseId;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::{Protocol, Tier};
use spendkeeper::core::usage::Usage;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger};

const CALLERS: [usize; 2] = [1, 64];
const REPETITIONS: usize = 7;
const MEASURED: Duration = Duration::from_millis(1_000);
/// SQLite writes whole pages.
const PAGE: [u8; 4096] = [7; 4096];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// `fdatasync` after a page from each caller.
    Append,
    /// A lease is topped up under one limit that all callers share.
    Lease,
    /// A call is reported: that it was opened, and what it cost.
    Report,
}

impl Operation {
    const ALL: [Operation; 3] = [Operation::Append, Operation::Lease, Operation::Report];

    fn name(self) -> &'static str {
        match self {
            Operation::Append => "append",
            Operation::Lease => "lease",
            Operation::Report => "report",
        }
    }
}

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
    println!("{}; {} s a repetition, {REPETITIONS} repetitions", common::machine(), MEASURED.as_secs_f64());
    let mut rows = Vec::new();
    for callers in CALLERS {
        let mut turns: Vec<Vec<Turn>> = Operation::ALL.map(|_| Vec::new()).into();
        for repetition in 0..REPETITIONS {
            for (operation, turns) in Operation::ALL.into_iter().zip(&mut turns) {
                let path = directory.path().join(format!("{}-{callers}-{repetition}", operation.name()));
                turns.push(match operation {
                    Operation::Append => append(&path, callers)?,
                    _ => runtime.block_on(on_ledger(&path, operation, callers))?,
                });
            }
        }
        rows.extend(Operation::ALL.into_iter().zip(&turns).map(|(operation, turns)| row(operation, callers, turns)));
    }
    common::print("The ledger beside bare appends of a page: median [min max]", &rows);
    common::write("ledger.json", &rows)?;
    Ok(())
}

fn row(operation: Operation, callers: usize, turns: &[Turn]) -> Row {
    let of = |figure: fn(&Turn) -> f64| Figure::of(turns.iter().map(figure));
    Row::default()
        .label("operation", operation.name())
        .label("callers", callers)
        .figure("per_second", of(|turn| turn.rate))
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

async fn on_ledger(path: &Path, operation: Operation, callers: usize) -> Result<Turn> {
    let ledger = Arc::new(SqliteLedger::open(path)?);
    let mut prepared = Vec::with_capacity(callers);
    for number in 0..callers {
        let mut caller = Caller { holder: HolderId(format!("pod-{number}")), lease: LeaseId(format!("lease-{number}")), seq: 0 };
        caller.acquire(&ledger).await?;
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
    if let Some(ledger) = Arc::into_inner(ledger) {
        ledger.close().await;
    }
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
    async fn repeat(mut self, ledger: Arc<SqliteLedger>, operation: Operation, until: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let start = Instant::now();
            match operation {
                Operation::Lease => self.acquire(&ledger).await?,
                Operation::Append | Operation::Report => self.report(&ledger).await?,
            }
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    }

    async fn acquire(&mut self, ledger: &SqliteLedger) -> Result<()> {
        self.seq += 1;
        let amount = Amount { usd: PicoUsd(1_000_000_000), tokens: 1_000, requests: 1 };
        let (lease, holder, limits) = (self.lease.clone(), self.holder.clone(), vec![limit()]);
        let request = Acquire { lease, seq: self.seq, holder, limits, min: amount, want: amount, now_ms: now_ms() };
        let decision = ledger.acquire(request).await?;
        ensure!(matches!(decision, Decision::Granted { .. }), "a lease was not granted: {decision:?}");
        Ok(())
    }

    async fn report(&mut self, ledger: &SqliteLedger) -> Result<()> {
        self.seq += 1;
        let record = record(&self.holder, self.seq);
        let lease = Some(self.lease.clone());
        let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(record.clone()));
        let entries = vec![
            Entry::Opened { call, lease: lease.clone(), reserved, draft, unleased: Vec::new() },
            Entry::Settled { record, lease, unleased: Vec::new() },
        ];
        Ok(ledger.report(&self.holder, entries, now_ms()).await?)
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
        origin: Origin { namespace: "shop".into(), workload: "Deployment/bot".into(), pod: "bot-1".into(), pod_uid: holder.0.clone() },
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
