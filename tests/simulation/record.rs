//! Records of calls of which only the money matters.

use spendkeeper::core::amount::Amount;
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimensions, Origin};
use spendkeeper::core::policy::Protocol;
use spendkeeper::core::usage::Usage;

/// A call whose end is not known: charged as reserved.
pub fn draft(id: &CallId, reserved: Amount) -> CallRecord {
    CallRecord {
        id: id.clone(),
        started_at_ms: 0,
        duration_ms: 0,
        time_to_first_byte_ms: None,
        origin: Origin::default(),
        dimensions: Dimensions::default(),
        kind: CallKind::Model { protocol: Protocol::OpenAIChat },
        route: String::new(),
        backend: String::new(),
        requested_model: String::new(),
        model: String::new(),
        requested_tier: None,
        tier: None,
        classification: None,
        usage: Usage::default(),
        cost: reserved.usd,
        reserved,
        bytes: 0,
        outcome: CallOutcome::Unknown,
        status: 0,
        unpriced: false,
    }
}
