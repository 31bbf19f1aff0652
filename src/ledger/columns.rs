//! The columns of a call's record, as both adapters store them.

use super::HolderId;
use crate::core::call::{CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimension, Dimensions};
use crate::core::policy::Tier;
use crate::ledger::LedgerError;

/// Columns that are text, in the order of [`texts`].
pub const TEXTS: [&str; 17] = [
    "id",
    "holder",
    "namespace",
    "workload",
    "feature",
    "team",
    "process",
    "agent",
    "session",
    "route",
    "backend",
    "requested_model",
    "model",
    "requested_tier",
    "tier",
    "needed_tier",
    "outcome",
];

/// Columns that are whole numbers, in the order of [`numbers`].
pub const NUMBERS: [&str; 17] = [
    "at_ms",
    "shared",
    "complexity",
    "status",
    "unpriced",
    "input",
    "cached_read",
    "cache_write",
    "cache_write_long",
    "output",
    "bytes",
    "duration_ms",
    "audio_input",
    "image_input",
    "audio_output",
    "image_output",
    "web_searches",
];

/// The five dimensions, in the order of [`Dimension::ALL`]; empty where there is none.
pub fn dimensions(dimensions: &Dimensions) -> [&str; 5] {
    Dimension::ALL.map(|d| dimensions.get(d).unwrap_or(""))
}

/// Five columns as dimensions.
pub fn to_dimensions(columns: [String; 5]) -> Dimensions {
    let named = Dimension::ALL.into_iter().zip(columns).filter(|(_, value)| !value.is_empty());
    named.collect()
}

pub fn texts<'a>(record: &'a CallRecord, holder: &'a HolderId) -> [&'a str; 17] {
    let [feature, team, process, agent, session] = dimensions(&record.dimensions);
    let tier = |tier: Option<Tier>| tier.map_or("", |t| t.name());
    [
        &record.id.0,
        &holder.0,
        &record.origin.namespace,
        &record.origin.workload,
        feature,
        team,
        process,
        agent,
        session,
        &record.route,
        &record.backend,
        &record.requested_model,
        &record.model,
        tier(record.requested_tier),
        tier(record.tier),
        tier(record.classification.as_ref().map(|c| c.needed_tier)),
        record.outcome.name(),
    ]
}

/// `None` is a call that nobody classified.
pub fn numbers(record: &CallRecord, at_ms: i64) -> [Option<i64>; 17] {
    let count = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    let usage = &record.usage;
    [
        Some(at_ms),
        Some(i64::from(matches!(record.kind, CallKind::Shared))),
        record.classification.as_ref().map(|c| i64::from(c.complexity)),
        Some(i64::from(record.status)),
        Some(i64::from(record.unpriced)),
        count(usage.input),
        count(usage.cached_read),
        count(usage.cache_write),
        count(usage.cache_write_long),
        count(usage.output),
        count(record.bytes),
        Some(record.duration_ms),
        count(usage.audio_input),
        count(usage.image_input),
        count(usage.audio_output),
        count(usage.image_output),
        count(usage.web_searches),
    ]
}

const OUTCOMES: [CallOutcome; 5] =
    [CallOutcome::Completed, CallOutcome::Failed, CallOutcome::Interrupted, CallOutcome::Unknown, CallOutcome::Refused];

/// # Errors
/// When it is the name of none.
pub fn to_outcome(name: &str) -> Result<CallOutcome, LedgerError> {
    OUTCOMES.into_iter().find(|o| o.name() == name).ok_or_else(|| LedgerError::Corrupt("an outcome that is none".to_owned()))
}

/// Empty for none.
pub fn to_tier(name: &str) -> Option<Tier> {
    Tier::ALL.into_iter().find(|t| t.name() == name)
}

/// # Errors
/// When it is negative.
pub fn to_count(number: i64) -> Result<u64, LedgerError> {
    u64::try_from(number).map_err(|_| LedgerError::Corrupt("a negative count".to_owned()))
}
