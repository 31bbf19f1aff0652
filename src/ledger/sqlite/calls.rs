//! Records of calls and outcomes: written once, and read by queries only.

use rusqlite::{Connection, params};

use crate::core::call::{CallKind, CallRecord};
use crate::core::dimensions::{Dimension, Dimensions};
use crate::ledger::machine::Booking;
use crate::ledger::{HolderId, LedgerError};

/// The five dimensions in the order of the tables' columns.
fn columns(dimensions: &Dimensions) -> [&str; 5] {
    Dimension::ALL.map(|d| dimensions.get(d).unwrap_or(""))
}

pub fn insert(connection: &Connection, holder: &HolderId, record: &CallRecord, at_ms: i64) -> Result<(), LedgerError> {
    let [feature, team, process, agent, session] = columns(&record.dimensions);
    let tier = |tier: Option<crate::core::policy::Tier>| tier.map_or("", |t| t.name());
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let micro = i64::try_from(record.cost.0.div_euclid(1_000_000)).unwrap_or(i64::MAX);
    let pico = i64::try_from(record.cost.0.rem_euclid(1_000_000)).unwrap_or(0);
    let classified = record.classification.as_ref();
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO calls VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
         ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36)",
    )?;
    statement.execute(params![
        record.id.0,
        at_ms,
        holder.0,
        record.origin.namespace,
        record.origin.workload,
        feature,
        team,
        process,
        agent,
        session,
        record.route,
        record.backend,
        matches!(record.kind, CallKind::Shared),
        record.requested_model,
        record.model,
        tier(record.requested_tier),
        tier(record.tier),
        tier(classified.map(|c| c.needed_tier)),
        classified.map(|c| c.complexity),
        record.outcome.name(),
        record.status,
        record.unpriced,
        count(record.usage.input),
        count(record.usage.cached_read),
        count(record.usage.cache_write),
        count(record.usage.cache_write_long),
        count(record.usage.output),
        micro,
        pico,
        count(record.bytes),
        record.duration_ms,
        count(record.usage.audio_input),
        count(record.usage.image_input),
        count(record.usage.audio_output),
        count(record.usage.image_output),
        count(record.usage.web_searches),
    ])?;
    Ok(())
}

pub fn insert_outcome(connection: &Connection, booking: &Booking) -> Result<(), LedgerError> {
    let Booking::Outcome { id, outcome, count, origin, dimensions, at_ms } = booking else { return Ok(()) };
    let mut statement = connection.prepare_cached("INSERT INTO outcomes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?;
    let [feature, team, process, agent, session] = columns(dimensions);
    let count = i64::try_from(*count).unwrap_or(i64::MAX);
    let (namespace, workload) = (&origin.namespace, &origin.workload);
    statement.execute(params![id, at_ms, outcome, namespace, workload, feature, team, process, agent, session, count])?;
    Ok(())
}
