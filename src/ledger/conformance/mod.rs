//! What every adapter of the port must promise, one test a promise; and a model that random histories are checked against.

mod model;
mod promises;

use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::core::policy::Protocol;
use crate::core::usage::Usage;
use crate::ledger::{Acquire, HolderId, LeaseId};
use std::sync::Arc;

pub const DAY: Span = Span::Fixed { start_ms: 0, end_ms: 86_400_000 };

pub fn usd(pico: i128) -> Amount {
    Amount { usd: PicoUsd(pico), tokens: 0, requests: 0 }
}

pub fn limit(key: &str, amount: i128) -> LimitTerms {
    LimitTerms { key: LimitKey(key.into()), unit: Unit::Usd, limit: amount, span: DAY }
}

pub fn holder(name: &str) -> HolderId {
    HolderId(name.into())
}

pub fn acquire(lease: &str, seq: u64, limits: &[LimitTerms], min: i128, want: i128) -> Acquire {
    Acquire {
        lease: LeaseId(lease.into()),
        seq,
        holder: holder("pod"),
        limits: limits.to_vec(),
        min: usd(min),
        want: usd(want),
        now_ms: 1_000,
    }
}

pub fn record(id: &str, cost: i128, outcome: CallOutcome) -> Arc<CallRecord> {
    Arc::new(CallRecord {
        id: CallId(id.into()),
        started_at_ms: 0,
        duration_ms: 5,
        time_to_first_byte_ms: None,
        origin: Origin { namespace: "shop".into(), workload: "Deployment/bot".into(), ..Origin::default() },
        dimensions: Dimensions::default(),
        kind: CallKind::Model { protocol: Protocol::OpenAIChat },
        route: "shop/models".into(),
        backend: "openai".into(),
        requested_model: "m".into(),
        model: "m".into(),
        requested_tier: None,
        tier: None,
        classification: None,
        usage: Usage { input: 10, output: 5, ..Usage::default() },
        cost: PicoUsd(cost),
        reserved: usd(cost),
        bytes: 100,
        outcome,
        status: 200,
        unpriced: false,
    })
}
