//! The end of a holder: its open calls are charged as reserved, the rest of its leases is free again.

use std::sync::Arc;

use super::Booking;
use super::report::{charges_of, close, draw};
use super::rows::{Charge, Ended, OpenCall, Rows};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::policy::Protocol;
use crate::ledger::{HolderId, LeaseId, Reconciled};

/// How long an empty lease is remembered, so that what is reported late still finds its limits. Milliseconds.
pub const REMEMBER_MS: i64 = 24 * 3_600_000;

/// Charges a holder's open calls as reserved and frees the rest; see [`crate::ledger::Ledger::holder_gone`].
pub fn holder_gone(rows: &mut Rows, holder: &HolderId, now_ms: i64, books: &mut Vec<Booking>) -> Reconciled {
    let now_ms = rows.at(now_ms);
    let mut result = Reconciled::default();
    let open: Vec<CallId> = rows.open.iter().filter(|(_, call)| call.holder == *holder).map(|(id, _)| id.clone()).collect();
    for id in open {
        let Some(call) = close(rows, &id) else { continue };
        charge_as_reserved(rows, &id, &call, now_ms);
        result.unknown_calls += 1;
        result.charged += call.reserved;
        books.push(Booking::Call { record: Arc::new(record(id, call)), holder: holder.clone(), at_ms: now_ms, replaces: false });
    }
    let leases = rows.leases.iter().filter(|(_, lease)| lease.holder == *holder && !lease.outstanding.is_zero());
    let leases: Vec<(LeaseId, Amount)> = leases.map(|(id, lease)| (id.clone(), lease.outstanding)).collect();
    for (lease, outstanding) in leases {
        result.freed += outstanding;
        rows.hold(&lease, Amount::ZERO, now_ms);
    }
    result
}

fn charge_as_reserved(rows: &mut Rows, id: &CallId, call: &OpenCall, now_ms: i64) {
    let leased = call.lease.as_ref().map_or_else(Vec::new, |lease| charges_of(rows, lease, now_ms));
    let unleased = call.unleased.iter().map(|limit| (limit.charged(now_ms), limit.unit));
    let charge = |(account, unit)| Charge { account, unit, amount: call.reserved.in_unit(unit) };
    let charges: Vec<Charge> = leased.into_iter().chain(unleased).map(charge).collect();
    for charge in &charges {
        rows.charge(&charge.account, charge.amount);
    }
    if let Some(lease) = &call.lease {
        draw(rows, lease, call.reserved, now_ms);
    }
    // With nothing to reverse, the record itself says that the end is unknown, and it is final.
    rows.ended.put(id.clone(), if charges.is_empty() { Ended::Known } else { Ended::Unknown { charges } });
}

/// What is recorded of a call whose end is unknown.
fn record(id: CallId, call: OpenCall) -> CallRecord {
    let drafted = call.draft.map(Arc::unwrap_or_clone).unwrap_or_else(|| nothing_known(id.clone(), &call.holder));
    CallRecord { id, cost: call.reserved.usd, reserved: call.reserved, outcome: CallOutcome::Unknown, ..drafted }
}

/// The record of a call of which only the reservation is known.
fn nothing_known(id: CallId, holder: &HolderId) -> CallRecord {
    let origin = Origin { pod_uid: holder.0.clone(), ..Origin::default() };
    CallRecord::begun(id, origin, Dimensions::default(), CallKind::Model { protocol: Protocol::OpenAIChat }, 0)
}
