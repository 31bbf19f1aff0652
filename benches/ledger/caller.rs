//! Sidecars as the ledger sees them, each asking again as soon as it is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimension, Origin};
use spendkeeper::core::lease::LeaseId;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::{Protocol, Tier};
use spendkeeper::core::usage::Usage;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger};

use crate::{Began, MEASURED, Operation, Turn, now_ms};

/// What callers that are ready did while they were measured.
pub async fn drive(callers: Vec<Caller>, operation: Operation) -> Result<Turn> {
    let began = Began::now();
    let tasks: Vec<_> = callers.into_iter().map(|caller| tokio::spawn(caller.repeat(operation, began.at + MEASURED))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Turn::of(latencies, began)
}

/// A sidecar, as the ledger sees it.
pub struct Caller {
    ledger: Arc<dyn Ledger>,
    holder: HolderId,
    lease: LeaseId,
    limit: LimitTerms,
    /// Of the last request for the lease, and the number of the last call.
    seq: u64,
}

impl Caller {
    /// One that has a lease under the limit `key`, and has done what is measured once: plans are made then, and what a writer tidies up when
    /// it starts, and every ten seconds, is not measured in every repetition of less than one.
    pub async fn new(ledger: &Arc<dyn Ledger>, number: usize, key: &str, operation: Operation) -> Result<Caller> {
        let (holder, lease) = (HolderId(format!("pod-{number}")), LeaseId(format!("lease-{number}").into()));
        let mut caller = Caller { ledger: Arc::clone(ledger), holder, lease, limit: limit(key), seq: 0 };
        caller.acquire().await?;
        caller.perform(operation).await?;
        Ok(caller)
    }

    async fn repeat(mut self, operation: Operation, until: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let start = Instant::now();
            self.perform(operation).await?;
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    }

    async fn perform(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Lease => self.acquire().await,
            _ => self.report().await,
        }
    }

    async fn acquire(&mut self) -> Result<()> {
        self.seq += 1;
        let amount = Amount { usd: PicoUsd(1_000_000_000), tokens: 1_000, requests: 1 };
        let (lease, holder, limits) = (self.lease.clone(), self.holder.clone(), vec![self.limit.clone()]);
        let request = Acquire { lease, seq: self.seq, holder, limits, min: amount, want: amount, now_ms: now_ms() };
        let decision = self.ledger.acquire(request).await?;
        ensure!(matches!(decision, Decision::Granted { .. }), "a lease was not granted: {decision:?}");
        Ok(())
    }

    async fn report(&mut self) -> Result<()> {
        self.seq += 1;
        let record = record(&self.holder, self.seq);
        let lease = Some(self.lease.clone());
        let (call, reserved, draft) = (record.id.clone(), record.reserved, Some(record.clone()));
        let entries = vec![
            Entry::Opened { call, lease: lease.clone(), reserved, draft, unleased: Vec::new() },
            Entry::Settled { record, lease, unleased: Vec::new() },
        ];
        self.ledger.report(&self.holder, entries, now_ms()).await?;
        Ok(())
    }
}

/// A limit that nobody here reaches.
fn limit(key: &str) -> LimitTerms {
    let span = Span::Fixed { start_ms: 0, end_ms: i64::MAX };
    LimitTerms { key: LimitKey(key.to_owned()), unit: Unit::Usd, limit: i128::from(i64::MAX) << 32, span }
}

fn record(holder: &HolderId, number: u64) -> Arc<CallRecord> {
    let usage = Usage { input: 900, output: 100, ..Usage::default() };
    let dimensions = [(Dimension::Feature, "chat"), (Dimension::Team, "support")].map(|(d, value)| (d, value.to_owned()));
    Arc::new(CallRecord {
        id: CallId(format!("{}-{number:016}", holder.0).into()),
        started_at_ms: now_ms(),
        duration_ms: 800,
        time_to_first_byte_ms: Some(300),
        origin: Arc::new(Origin {
            namespace: "shop".into(),
            workload: "Deployment/bot".into(),
            pod: "bot-1".into(),
            pod_uid: holder.0.clone(),
        }),
        dimensions: dimensions.into(),
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
