//! Reports: opening and settling calls, giving leases back, outcomes, and the end of a holder.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::row::{self, LeaseLimit};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimension, Dimensions};
use crate::core::limit::{LimitKey, LimitTerms};
use crate::ledger::{Entry, HolderId, LeaseId, LedgerError, Reconciled};

/// How long an empty lease is remembered, so that what is reported late still finds its limits.
const REMEMBER_MS: i64 = 24 * 3_600_000;

/// Applies a holder's entries in order; see [`crate::ledger::Ledger::report`].
pub fn report(connection: &Connection, holder: &HolderId, entries: &[Entry], now_ms: i64) -> Result<(), LedgerError> {
    let now_ms = row::ledger_time(connection, now_ms)?;
    let mut limits = Limits::default();
    for entry in entries {
        match entry {
            Entry::Opened { call, lease: Some(lease), reserved, .. } => open(connection, holder, call, lease, *reserved)?,
            Entry::Opened { lease: None, .. } => {}
            Entry::Settled { record, lease, unleased } => {
                settle(connection, &mut limits, holder, record, (lease.as_ref(), unleased), now_ms)?
            }
            Entry::GivenBack { lease, seq, amount } => give_back(connection, holder, lease, *seq, *amount, now_ms)?,
            Entry::Outcome { id, outcome, count, origin, dimensions, at_ms: _ } => {
                let mut statement =
                    connection.prepare_cached("INSERT OR IGNORE INTO outcomes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?;
                let [feature, team, process, agent, session] = columns(dimensions);
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                statement.execute(params![
                    id,
                    now_ms,
                    outcome,
                    origin.namespace,
                    origin.workload,
                    feature,
                    team,
                    process,
                    agent,
                    session,
                    count
                ])?;
            }
        }
    }
    Ok(())
}

/// The five dimensions in the order of the tables' columns.
fn columns(dimensions: &Dimensions) -> [&str; 5] {
    Dimension::ALL.map(|d| dimensions.get(d).unwrap_or(""))
}

fn open(connection: &Connection, holder: &HolderId, call: &CallId, lease: &LeaseId, reserved: Amount) -> Result<(), LedgerError> {
    // An opening that arrives again after the call was settled opens nothing.
    let settled = connection.prepare_cached("SELECT 1 FROM calls WHERE id = ?1")?.exists([&call.0])?;
    if settled {
        return Ok(());
    }
    let mut statement = connection.prepare_cached("INSERT OR IGNORE INTO open_calls VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let opened = statement.execute(params![call.0, lease.0, holder.0, reserved.usd.0.to_string(), reserved.tokens, reserved.requests])?;
    if opened == 0 { lower(connection, call, reserved) } else { Ok(()) }
}

/// An open call that is opened again has learnt that it needs less. What it said it needs never grows, in whatever order it is heard.
fn lower(connection: &Connection, call: &CallId, reserved: Amount) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached("SELECT usd, tokens, requests FROM open_calls WHERE call = ?1")?;
    let held = row::to_amount(statement.query_row([&call.0], |r| row::amount(r, 0))?)?;
    let least = held.min(reserved);
    if least != held {
        let mut statement = connection.prepare_cached("UPDATE open_calls SET usd = ?2, tokens = ?3, requests = ?4 WHERE call = ?1")?;
        statement.execute(params![call.0, least.usd.0.to_string(), least.tokens, least.requests])?;
    }
    Ok(())
}

/// The limits of the leases that a report speaks of, read once: they stay as they are while a lease is remembered.
#[derive(Default)]
struct Limits(HashMap<LeaseId, Vec<LeaseLimit>>);

impl Limits {
    fn of(&mut self, connection: &Connection, lease: &LeaseId) -> Result<&[LeaseLimit], LedgerError> {
        if !self.0.contains_key(lease) {
            self.0.insert(lease.clone(), row::limits_of(connection, &lease.0)?);
        }
        Ok(&self.0[lease])
    }
}

fn settle(
    connection: &Connection,
    limits: &mut Limits,
    holder: &HolderId,
    record: &CallRecord,
    (lease, unleased): (Option<&LeaseId>, &[LimitTerms]),
    now_ms: i64,
) -> Result<(), LedgerError> {
    connection.prepare_cached("DELETE FROM open_calls WHERE call = ?1")?.execute([&record.id.0])?;
    let known: Option<String> =
        connection.prepare_cached("SELECT outcome FROM calls WHERE id = ?1")?.query_row([&record.id.0], |row| row.get(0)).optional()?;
    let amount = if record.outcome.is_charged() { record.amount() } else { Amount::ZERO };
    match known {
        None => {
            if let Some(lease) = lease {
                draw(connection, holder, lease, amount, now_ms)?;
                for limit in limits.of(connection, lease)? {
                    row::charge(connection, &limit.key, limit.bucket(now_ms), amount.in_unit(limit.unit))?;
                }
            }
            for terms in unleased {
                row::charge(connection, &terms.key, LeaseLimit::of(terms).bucket(now_ms), amount.in_unit(terms.unit))?;
            }
        }
        // Its holder was given up for lost and the call charged as reserved; now its true end is known.
        Some(outcome) if outcome == CallOutcome::Unknown.name() && replace_unknown(connection, &record.id, amount)? => {}
        // Reported before.
        Some(_) => return Ok(()),
    }
    insert(connection, holder, record, now_ms)
}

/// Takes `amount` out of a lease; what it does not cover is an overrun, which the accounts still carry in full.
fn draw(connection: &Connection, holder: &HolderId, lease: &LeaseId, amount: Amount, now_ms: i64) -> Result<(), LedgerError> {
    let Some(outstanding) = outstanding(connection, holder, lease)? else { return Ok(()) };
    set_outstanding(connection, lease, outstanding.minus_floor_zero(amount), now_ms)
}

/// What a lease holds; `None` when there is no such lease.
fn outstanding(connection: &Connection, holder: &HolderId, lease: &LeaseId) -> Result<Option<Amount>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT usd, tokens, requests, holder FROM leases WHERE lease = ?1")?;
    let found = statement.query_row([&lease.0], |r| Ok((row::amount(r, 0)?, r.get::<_, String>(3)?))).optional()?;
    let Some((amount, of)) = found else { return Ok(None) };
    if of != holder.0 {
        return Err(LedgerError::ForeignLease(lease.0.clone()));
    }
    row::to_amount(amount).map(Some)
}

fn set_outstanding(connection: &Connection, lease: &LeaseId, amount: Amount, now_ms: i64) -> Result<(), LedgerError> {
    let mut statement =
        connection.prepare_cached("UPDATE leases SET usd = ?2, tokens = ?3, requests = ?4, touched_ms = ?5 WHERE lease = ?1")?;
    statement.execute(params![lease.0, amount.usd.0.to_string(), amount.tokens, amount.requests, now_ms])?;
    Ok(())
}

/// Reverses the charges of a call that was charged as reserved and charges `amount` in the same windows. False when
/// there are none to reverse: the record itself says that the end is unknown, and it is final.
fn replace_unknown(connection: &Connection, call: &CallId, amount: Amount) -> Result<bool, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT key, unit, bucket, amount FROM unknown_charges WHERE call = ?1")?;
    let rows = statement
        .query_map([&call.0], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?, r.get::<_, String>(3)?)))?;
    let charges: Vec<_> = rows.collect::<Result<_, _>>()?;
    for (key, unit, bucket, charged) in &charges {
        let correction = amount.in_unit(row::unit_of(unit)?) - row::integer(charged)?;
        row::charge(connection, &LimitKey(key.clone()), *bucket, correction)?;
    }
    connection.prepare_cached("DELETE FROM unknown_charges WHERE call = ?1")?.execute([&call.0])?;
    Ok(!charges.is_empty())
}

fn insert(connection: &Connection, holder: &HolderId, record: &CallRecord, now_ms: i64) -> Result<(), LedgerError> {
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
        now_ms,
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

fn give_back(
    connection: &Connection,
    holder: &HolderId,
    lease: &LeaseId,
    seq: u64,
    amount: Amount,
    now_ms: i64,
) -> Result<(), LedgerError> {
    let Some(held) = outstanding(connection, holder, lease)? else { return Ok(()) };
    let mut bump = connection.prepare_cached("UPDATE leases SET seq = ?2 WHERE lease = ?1 AND seq < ?2")?;
    if bump.execute(params![lease.0, seq.cast_signed()])? == 0 {
        return Ok(());
    }
    // What open calls have reserved cannot be given back from under them.
    let free = held.minus_floor_zero(reserved_by(connection, lease)?);
    set_outstanding(connection, lease, held - amount.min(free).max(Amount::ZERO), now_ms)
}

fn reserved_by(connection: &Connection, lease: &LeaseId) -> Result<Amount, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT usd, tokens, requests FROM open_calls WHERE lease = ?1")?;
    let rows = statement.query_map([&lease.0], |r| row::amount(r, 0))?;
    rows.map(|amount| row::to_amount(amount?)).try_fold(Amount::ZERO, |sum, amount| Ok(sum + amount?))
}

/// Charges a holder's open calls as reserved and frees the rest; see [`crate::ledger::Ledger::holder_gone`].
pub fn holder_gone(connection: &Connection, holder: &HolderId, now_ms: i64) -> Result<Reconciled, LedgerError> {
    let now_ms = row::ledger_time(connection, now_ms)?;
    let mut result = Reconciled::default();
    for (call, lease, reserved) in open_calls(connection, holder)? {
        for limit in row::limits_of(connection, &lease.0)? {
            let (bucket, amount) = (limit.bucket(now_ms), reserved.in_unit(limit.unit));
            row::charge(connection, &limit.key, bucket, amount)?;
            let mut note = connection.prepare_cached("INSERT OR REPLACE INTO unknown_charges VALUES (?1, ?2, ?3, ?4, ?5)")?;
            note.execute(params![call.0, limit.key.0, row::unit_name(limit.unit), bucket, amount.to_string()])?;
        }
        draw(connection, holder, &lease, reserved, now_ms)?;
        insert(connection, holder, &unknown(call.clone(), holder, reserved), now_ms)?;
        connection.prepare_cached("DELETE FROM open_calls WHERE call = ?1")?.execute([&call.0])?;
        result.unknown_calls += 1;
        result.charged += reserved;
    }
    let mut statement = connection.prepare_cached("SELECT lease, usd, tokens, requests FROM leases WHERE holder = ?1")?;
    let leases: Vec<_> =
        statement.query_map([&holder.0], |r| Ok((r.get::<_, String>(0)?, row::amount(r, 1)?)))?.collect::<Result<_, _>>()?;
    for (lease, amount) in leases {
        result.freed += row::to_amount(amount)?;
        set_outstanding(connection, &LeaseId(lease), Amount::ZERO, now_ms)?;
    }
    forget(connection, now_ms - REMEMBER_MS)?;
    Ok(result)
}

fn open_calls(connection: &Connection, holder: &HolderId) -> Result<Vec<(CallId, LeaseId, Amount)>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT call, lease, usd, tokens, requests FROM open_calls WHERE holder = ?1 ORDER BY call")?;
    let rows = statement.query_map([&holder.0], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, row::amount(r, 2)?)))?;
    rows.map(|row| {
        let (call, lease, amount) = row?;
        Ok((CallId(call), LeaseId(lease), row::to_amount(amount)?))
    })
    .collect()
}

/// The record of a call of which only the reservation is known.
fn unknown(id: CallId, holder: &HolderId, reserved: Amount) -> CallRecord {
    CallRecord {
        id,
        started_at_ms: 0,
        duration_ms: 0,
        time_to_first_byte_ms: None,
        origin: crate::core::dimensions::Origin { pod_uid: holder.0.clone(), ..Default::default() },
        dimensions: Dimensions::default(),
        kind: CallKind::Model { protocol: crate::core::policy::Protocol::OpenAIChat },
        route: String::new(),
        backend: String::new(),
        requested_model: String::new(),
        model: String::new(),
        requested_tier: None,
        tier: None,
        classification: None,
        usage: crate::core::usage::Usage::default(),
        cost: reserved.usd,
        reserved,
        bytes: 0,
        outcome: CallOutcome::Unknown,
        status: 0,
        unpriced: false,
    }
}

/// Drops leases that have been empty since before `before_ms`.
fn forget(connection: &Connection, before_ms: i64) -> Result<(), LedgerError> {
    const EMPTY: &str = "usd = '0' AND tokens = 0 AND requests = 0 AND touched_ms < ?1 AND lease NOT IN (SELECT lease FROM open_calls)";
    connection.execute(&format!("DELETE FROM lease_limits WHERE lease IN (SELECT lease FROM leases WHERE {EMPTY})"), [before_ms])?;
    connection.execute(&format!("DELETE FROM leases WHERE {EMPTY}"), [before_ms])?;
    Ok(())
}
