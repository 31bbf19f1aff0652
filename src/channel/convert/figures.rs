//! A call as its figures, and what it has in common with other calls of a report.
//!
//! A busy sidecar's calls are alike but for their figures. Written out, each is a thousand bytes of JSON that one side makes and the other
//! takes apart; so, it is sixty bytes.

use std::sync::Arc;

use uuid::Uuid;

use super::record::{checked, record_to_json};
use super::{Malformed, limit_keys, optional_lease, texts};
use crate::channel::message::Reported;
use crate::channel::proto;
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallOutcome, CallRecord, Figures};
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;
use crate::core::money::PicoUsd;
use crate::core::usage::Usage;

/// Largest record that calls have in common, as JSON; ours are below 2 KiB.
pub const MAX_COMMON_BYTES: usize = 8 << 10;
/// A few bytes for a call stand for all that it has in common with others, which the ledger works through and keeps for each: what a report's
/// may be together. Ours have up to 2 MiB.
pub const MAX_TOLD_BYTES: usize = 8 << 20;
/// A call is compared with so many of what came last.
const COMPARED: usize = 8;

/// A call that begins or ends, and what is charged for it.
pub type Call<'a> = (&'a Arc<CallRecord>, &'a Option<LeaseId>, &'a Vec<LimitKey>);

/// What calls have in common, and its length: of the record as JSON, and of the limits' keys, of which each call gets a copy.
pub struct Common {
    record: CallRecord,
    pub lease: Option<LeaseId>,
    pub unleased: Vec<LimitKey>,
    bytes: usize,
}

/// The call that begins or ends, if its record says all of it.
fn call(reported: &Reported) -> Option<Call<'_>> {
    match reported {
        Reported::Settled { record, lease, unleased } => Some((record, lease, unleased)),
        Reported::Opened { call, lease, reserved, draft: Some(draft), unleased } => {
            ((call, reserved) == (&draft.id, &draft.reserved)).then_some((draft, lease, unleased))
        }
        _ => None,
    }
}

/// The figures of a call that begins or ends, with what it has in common with others among `common`; `None` when it is longer than others are,
/// and for whatever is no call.
pub fn to_wire<'a>(reported: &'a Reported, common: &mut Vec<(Call<'a>, proto::Common)>) -> Option<proto::CallFigures> {
    let call = call(reported)?;
    let (record, lease, unleased) = call;
    let figures = figures_to_wire(record)?;
    let is_like = |((other, of, beside), _): &(Call<'_>, _)| (lease, unleased) == (*of, *beside) && record.is_like(other);
    let place = match common.iter().rev().take(COMPARED).position(is_like) {
        Some(from_end) => common.len() - 1 - from_end,
        None => {
            let record_json = record_to_json(record);
            if record_json.len() > MAX_COMMON_BYTES {
                return None;
            }
            let lease = lease.as_ref().map_or_else(String::new, |lease| lease.0.to_string());
            common.push((call, proto::Common { record_json, lease, unleased: texts(unleased.clone()) }));
            common.len() - 1
        }
    };
    Some(proto::CallFigures { common: u32::try_from(place).ok()?, ..figures })
}

/// The figures of a record; `None` when they do not fit, as those of calls that cost millions do not.
fn figures_to_wire(record: &CallRecord) -> Option<proto::CallFigures> {
    let id = Uuid::try_parse(&record.id.0).ok()?;
    // The text that is made of it must be the same again.
    if record.id.0.as_ref() != id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) {
        return None;
    }
    let Figures { started_at_ms, duration_ms, time_to_first_byte_ms, complexity, usage, cost, reserved, bytes, outcome, status } =
        record.figures();
    Some(proto::CallFigures {
        common: 0,
        call: id.into_bytes().to_vec(),
        started_at_ms,
        duration_ms,
        time_to_first_byte_ms,
        usage: meters(&usage),
        cost_pico_usd: u64::try_from(cost.0).ok()?,
        reserved_pico_usd: u64::try_from(reserved.usd.0).ok()?,
        reserved_tokens: reserved.tokens,
        reserved_requests: reserved.requests,
        bytes,
        status: status.into(),
        outcome: outcome_to_wire(outcome).into(),
        complexity: complexity.map(Into::into),
    })
}

/// Meters without the zeros at their end.
fn meters(usage: &Usage) -> Vec<u64> {
    let meters = usage.meters();
    let used = meters.iter().rposition(|meter| *meter > 0).map_or(0, |last| last + 1);
    meters[..used].to_vec()
}

/// Meters of a newer release, which this one could not charge, are an error.
pub fn usage(meters: &[u64]) -> Result<Usage, Malformed> {
    let mut all = [0; Usage::METERS];
    let too_many = || Malformed::TooLarge { field: "figures.usage", found: meters.len(), limit: Usage::METERS };
    all.get_mut(..meters.len()).ok_or_else(too_many)?.copy_from_slice(meters);
    Ok(Usage::of_meters(all))
}

fn outcome_to_wire(outcome: CallOutcome) -> proto::CallOutcome {
    match outcome {
        CallOutcome::Completed => proto::CallOutcome::Completed,
        CallOutcome::Failed => proto::CallOutcome::Failed,
        CallOutcome::Interrupted => proto::CallOutcome::Interrupted,
        CallOutcome::Unknown => proto::CallOutcome::Unknown,
        CallOutcome::Refused => proto::CallOutcome::Refused,
    }
}

pub fn outcome(wire: i32) -> Result<CallOutcome, Malformed> {
    Ok(match proto::CallOutcome::try_from(wire) {
        Ok(proto::CallOutcome::Completed) => CallOutcome::Completed,
        Ok(proto::CallOutcome::Failed) => CallOutcome::Failed,
        Ok(proto::CallOutcome::Interrupted) => CallOutcome::Interrupted,
        Ok(proto::CallOutcome::Unknown) => CallOutcome::Unknown,
        Ok(proto::CallOutcome::Refused) => CallOutcome::Refused,
        Err(_) => return Err(Malformed::Unknown { field: "figures.outcome", found: wire.to_string() }),
    })
}

pub fn common(wire: proto::Common) -> Result<Common, Malformed> {
    const FIELD: &str = "common.record_json";
    let bytes = wire.record_json.len();
    if bytes > MAX_COMMON_BYTES {
        return Err(Malformed::TooLarge { field: FIELD, found: bytes, limit: MAX_COMMON_BYTES });
    }
    let record = serde_json::from_slice(&wire.record_json).map_err(|e| Malformed::Json { field: FIELD, reason: e.to_string() })?;
    let unleased = limit_keys("common.unleased", wire.unleased)?;
    let bytes = bytes + unleased.iter().map(|key| size_of_val(key) + key.0.len()).sum::<usize>();
    Ok(Common { record, lease: optional_lease(wire.lease)?, unleased, bytes })
}

/// The record that has these figures, and what it has in common with others. `told` is what those of calls before it amount to.
pub fn record<'a>(wire: &proto::CallFigures, common: &'a [Common], told: &mut usize) -> Result<(CallRecord, &'a Common), Malformed> {
    let out_of_range = |field, limit| Malformed::OutOfRange { field, limit };
    let place = usize::try_from(wire.common).ok().and_then(|place| common.get(place));
    let common = place.ok_or_else(|| out_of_range("figures.common", common.len() as i128 - 1))?;
    *told += common.bytes;
    if *told > MAX_TOLD_BYTES {
        return Err(Malformed::TooLarge { field: "common", found: *told, limit: MAX_TOLD_BYTES });
    }
    let id = Uuid::from_slice(&wire.call).map_err(|_| Malformed::TooLarge { field: "figures.call", found: wire.call.len(), limit: 16 })?;
    let usd = |pico: u64| PicoUsd(pico.into());
    let figures = Figures {
        started_at_ms: wire.started_at_ms,
        duration_ms: wire.duration_ms,
        time_to_first_byte_ms: wire.time_to_first_byte_ms,
        complexity: wire.complexity.map(u8::try_from).transpose().map_err(|_| out_of_range("figures.complexity", u8::MAX.into()))?,
        usage: usage(&wire.usage)?,
        cost: usd(wire.cost_pico_usd),
        reserved: Amount { usd: usd(wire.reserved_pico_usd), tokens: wire.reserved_tokens, requests: wire.reserved_requests },
        bytes: wire.bytes,
        outcome: outcome(wire.outcome)?,
        status: u16::try_from(wire.status).map_err(|_| out_of_range("figures.status", u16::MAX.into()))?,
    };
    Ok((checked(common.record.with(CallId(id.to_string().into()), &figures))?, common))
}
