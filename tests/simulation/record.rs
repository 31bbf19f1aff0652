//! Records of calls of which only the money matters.

use spendkeeper::core::amount::Amount;
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimensions, Origin};
use spendkeeper::core::policy::Protocol;

/// A call whose end is not known: charged as reserved.
pub fn draft(id: &CallId, reserved: Amount) -> CallRecord {
    let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
    let begun = CallRecord::begun(id.clone(), Origin::default(), Dimensions::default(), kind, 0);
    CallRecord { cost: reserved.usd, reserved, outcome: CallOutcome::Unknown, ..begun }
}
