//! What a million live values of a split limit cost: the time of a lease under any of them, and memory.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::lease::LeaseId;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::ledger::{Acquire, Decision, HolderId, Ledger};

use crate::common::{Figure, Row};
use crate::{floor, now_ms};

const KEYS: u64 = 1_000_000;
/// Leases of a repetition, each under a key of its own.
const LEASES: u64 = 500;
const REPETITIONS: u64 = 5;

/// Rows for SQLite in a file and PostgreSQL at an address.
pub async fn rows(path: &Path, url: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in ["Sqlite", "Postgres"] {
        let address = if engine == "Sqlite" { path.display().to_string() } else { url.to_owned() };
        // Makes the tables.
        spendkeeper::ledger::open(&address, Default::default()).await?.close().await;
        if engine == "Sqlite" {
            let numbers = format!("WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {})", KEYS - 1);
            let accounts = "INSERT INTO accounts (key, bucket, settled, outstanding, reserved) SELECT 'shop/bench/session=' || n, 0, '7', '0', '0' FROM n";
            rusqlite::Connection::open(path)?.execute_batch(&format!("{numbers} {accounts}"))?;
        } else {
            let accounts = format!(
                "INSERT INTO accounts (key, bucket, base, settled, outstanding, reserved)
                 SELECT 'shop/bench/session=' || n, 0, 'shop/bench/session', 7, 0, 0 FROM generate_series(0, {}) AS n (n)",
                KEYS - 1
            );
            floor::execute(url, &accounts).await?;
        }
        let before = resident()?;
        let ledger = spendkeeper::ledger::open(&address, Default::default()).await?;
        let mut medians = Vec::new();
        for repetition in 0..REPETITIONS {
            medians.push(leases(ledger.as_ref(), repetition).await?);
        }
        let more = resident()?.saturating_sub(before) as f64 / 1e6;
        ledger.close().await;
        rows.push(
            Row::default()
                .label("engine", engine)
                .label("keys", KEYS)
                .figure("p50_us", Figure::of(medians))
                .figure("memory_mb", Figure::of([more])),
        );
    }
    Ok(rows)
}

/// The median of the times that leases took, microseconds.
async fn leases(ledger: &dyn Ledger, repetition: u64) -> Result<f64> {
    let mut times = Vec::new();
    for number in 0..LEASES {
        // Far from each other, and each only once.
        let key = (repetition * LEASES + number) * 393_241 % KEYS;
        let amount = Amount { usd: PicoUsd(10), tokens: 1, requests: 1 };
        let span = Span::Fixed { start_ms: 0, end_ms: i64::MAX };
        let terms = LimitTerms { key: LimitKey(format!("shop/bench/session={key}")), unit: Unit::Usd, limit: 1_000, span };
        let (lease, holder) = (LeaseId(format!("lease-{key}").into()), HolderId("pod".to_owned()));
        let request = Acquire { lease, seq: 1, holder, limits: vec![terms], min: amount, want: amount, now_ms: now_ms() };
        let began = Instant::now();
        let decision = ledger.acquire(request).await?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
        ensure!(matches!(decision, Decision::Granted { left: Some(PicoUsd(983)), .. }), "what was spent under {key} counts: {decision:?}");
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Memory of this process that is resident, bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: u64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kilobytes * 1024)
}
