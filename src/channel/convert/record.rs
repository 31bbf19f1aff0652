//! A call's record as JSON, and what it may say.

use super::{MAX_ID_BYTES, Malformed, bounded};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallRecord};
use crate::core::dimensions::MAX_VALUE_BYTES;
use crate::core::money::PicoUsd;

/// Largest call record as JSON; ours are below 2 KiB.
const MAX_RECORD_BYTES: usize = 64 << 10;

pub fn record_to_json(record: &CallRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("a call record has string keys only, so it is JSON")
}

pub fn record(field: &'static str, json: &[u8]) -> Result<CallRecord, Malformed> {
    if json.len() > MAX_RECORD_BYTES {
        return Err(Malformed::TooLarge { field, found: json.len(), limit: MAX_RECORD_BYTES });
    }
    let mut record: CallRecord = serde_json::from_slice(json).map_err(|e| Malformed::Json { field, reason: e.to_string() })?;
    record.id = CallId(bounded("record.id", record.id.0, MAX_ID_BYTES)?);
    checked(record)
}

/// The record, if what it says can be.
pub fn checked(record: CallRecord) -> Result<CallRecord, Malformed> {
    if record.cost.is_negative() || record.cost > PicoUsd::MAX {
        return Err(Malformed::OutOfRange { field: "record.cost", limit: PicoUsd::MAX.0 });
    }
    let reserved = record.reserved;
    if !reserved.covers(&Amount::ZERO) || reserved.usd > PicoUsd::MAX {
        return Err(Malformed::OutOfRange { field: "record.reserved", limit: PicoUsd::MAX.0 });
    }
    if i64::try_from(record.usage.total()).is_err() {
        return Err(Malformed::OutOfRange { field: "record.usage", limit: i64::MAX.into() });
    }
    let values = record.dimensions.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    if values > MAX_VALUE_BYTES {
        return Err(Malformed::TooLarge { field: "record.dimensions", found: values, limit: MAX_VALUE_BYTES });
    }
    Ok(record)
}
