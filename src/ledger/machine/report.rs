//! Reports: opening and settling calls, giving leases back, outcomes.

use std::sync::Arc;

use super::rows::{AccountKey, Ended, LeaseLimit, OpenCall, Rows};
use super::{Booking, Rejected};
use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallRecord};
use crate::core::limit::LimitTerms;
use crate::ledger::{Entry, HolderId, LeaseId};

/// Applies a holder's entries in order; see [`crate::ledger::Ledger::report`].
pub fn report(rows: &mut Rows, holder: &HolderId, entries: &[Entry], now_ms: i64, books: &mut Vec<Booking>) -> Result<Vec<bool>, Rejected> {
    if let Some(lease) = entries.iter().filter_map(Entry::lease).find(|lease| is_foreign(rows, holder, lease)) {
        return Err(Rejected::ForeignLease(lease.clone()));
    }
    let now_ms = rows.at(now_ms);
    let mut new = Vec::with_capacity(entries.len());
    for entry in entries {
        let booked = books.len();
        match entry {
            Entry::Opened { call, lease, reserved, draft, unleased } => {
                let unleased = LeaseLimit::all_of(unleased);
                open(
                    rows,
                    call,
                    OpenCall { holder: holder.clone(), lease: lease.clone(), reserved: *reserved, unleased, draft: draft.clone() },
                );
            }
            Entry::Settled { record, lease, unleased } => {
                if let Some(replaces) = settle(rows, record, lease.as_ref(), unleased, now_ms) {
                    books.push(Booking::Call { record: Arc::clone(record), holder: holder.clone(), at_ms: now_ms, replaces });
                }
            }
            Entry::GivenBack { lease, seq, amount } => give_back(rows, lease, *seq, *amount, now_ms),
            Entry::Outcome { id, outcome, count, origin, dimensions, at_ms: _ } => {
                if !rows.outcomes.contains(id) {
                    rows.outcomes.put(id.clone(), ());
                    let (id, outcome, origin, dimensions) = (id.clone(), outcome.clone(), origin.clone(), dimensions.clone());
                    books.push(Booking::Outcome { id, outcome, count: *count, origin, dimensions, at_ms: now_ms });
                }
            }
        }
        new.push(books.len() > booked);
    }
    Ok(new)
}

fn is_foreign(rows: &Rows, holder: &HolderId, lease: &LeaseId) -> bool {
    rows.leases.get(lease).is_some_and(|row| row.holder != *holder)
}

/// An opening that arrives again after the call was settled opens nothing. A call that is open already has learnt that it needs
/// less: what it said it needs never grows, in whatever order it is heard.
fn open(rows: &mut Rows, call: &CallId, row: OpenCall) {
    if rows.ended.contains(call) {
        return;
    }
    let Some(held) = rows.open.get(call) else {
        rows.reserve(row.lease.as_ref(), row.reserved);
        rows.open.put(call.clone(), row);
        return;
    };
    let (before, lease) = (held.reserved, held.lease.clone());
    let least = before.min(row.reserved);
    if let Some(held) = rows.open.change(call).filter(|_| least != before) {
        held.reserved = least;
        rows.reserve(lease.as_ref(), least - before);
    }
}

/// Charges a call that has ended, and says whether it was booked before, as unknown; `None` when its end was known already.
fn settle(rows: &mut Rows, record: &CallRecord, lease: Option<&LeaseId>, unleased: &[LimitTerms], now_ms: i64) -> Option<bool> {
    close(rows, &record.id);
    let amount = if record.outcome.is_charged() { record.amount() } else { Amount::ZERO };
    let booked = rows.ended.get(&record.id).cloned();
    let replaces = booked.is_some();
    match booked {
        None => {
            let mut charges = Vec::new();
            if let Some(lease) = lease {
                charges.extend(charges_of(rows, lease, now_ms));
                draw(rows, lease, amount, now_ms);
            }
            charges.extend(unleased.iter().map(|terms| (LeaseLimit::of(terms).charged(now_ms), terms.unit)));
            for (account, unit) in charges {
                rows.charge(&account, amount.in_unit(unit));
            }
        }
        // Its holder was given up for lost and the call charged as reserved; now its true end is known.
        Some(Ended::Unknown { charges }) => {
            for charge in charges {
                rows.charge(&charge.account, amount.in_unit(charge.unit) - charge.amount);
            }
        }
        Some(Ended::Known) => return None,
    }
    rows.ended.put(record.id.clone(), Ended::Known);
    Some(replaces)
}

/// Takes a call from the open ones.
pub fn close(rows: &mut Rows, call: &CallId) -> Option<OpenCall> {
    if !rows.open.contains(call) {
        return None;
    }
    let row = rows.open.remove(call)?;
    rows.reserve(row.lease.as_ref(), Amount::ZERO - row.reserved);
    Some(row)
}

/// Where a charge to a lease goes.
pub fn charges_of(rows: &Rows, lease: &LeaseId, now_ms: i64) -> Vec<(AccountKey, Unit)> {
    let limits = rows.leases.get(lease).map_or(&[][..], |row| &row.limits);
    limits.iter().map(|limit| (limit.charged(now_ms), limit.unit)).collect()
}

/// Takes `amount` out of a lease; what it does not cover is an overrun, which the accounts still carry in full.
pub fn draw(rows: &mut Rows, lease: &LeaseId, amount: Amount, now_ms: i64) {
    if let Some(row) = rows.leases.get(lease) {
        let rest = row.outstanding.minus_floor_zero(amount);
        rows.hold(lease, rest, now_ms);
    }
}

fn give_back(rows: &mut Rows, lease: &LeaseId, seq: u64, amount: Amount, now_ms: i64) {
    let Some(row) = rows.leases.get(lease).filter(|row| row.seq < seq) else { return };
    // What open calls have reserved cannot be given back from under them.
    let free = row.outstanding.minus_floor_zero(row.reserved);
    let rest = row.outstanding - amount.min(free).max(Amount::ZERO);
    rows.hold(lease, rest, now_ms);
    if let Some(row) = rows.leases.change(lease) {
        row.seq = seq;
    }
}

impl Entry {
    /// The lease that it speaks of.
    pub fn lease(&self) -> Option<&LeaseId> {
        match self {
            Entry::Opened { lease, .. } | Entry::Settled { lease, .. } => lease.as_ref(),
            Entry::GivenBack { lease, .. } => Some(lease),
            Entry::Outcome { .. } => None,
        }
    }
}
