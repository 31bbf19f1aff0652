//! Granting leases: a set of limits at once, all of it or nothing.

use super::Rejected;
use super::rows::{Account, Lease, LeaseLimit, Rows};
use crate::core::amount::{Amount, Unit};
use crate::core::limit::{LimitTerms, Shortfall, Span};
use crate::core::money::PicoUsd;
use crate::ledger::{Acquire, Decision, LeaseId};

/// The longest that new calls may draw on a grant.
const MAX_VALID_MS: i64 = 60_000;
/// A grant beyond what one call needs takes at most this share of what is left, so that a budget near its limit is
/// not held by a sidecar that does not need it.
const SHARE_OF_LEFT: i128 = 4;

/// Grants, refuses or repeats an answer; see [`crate::ledger::Ledger::acquire`].
pub fn acquire(rows: &mut Rows, request: &Acquire) -> Result<Decision, Rejected> {
    let lease = rows.leases.get(&request.lease);
    if lease.is_some_and(|lease| lease.holder != request.holder) {
        return Err(Rejected::ForeignLease(request.lease.clone()));
    }
    if let Some(lease) = lease.filter(|lease| request.seq <= lease.seq) {
        let answer = lease.answer.clone();
        rows.at(request.now_ms);
        return Ok(answer);
    }
    let limits = LeaseLimit::all_of(&request.limits);
    let other_windows = lease.is_some_and(|lease| lease.limits != limits);
    let now_ms = rows.at(request.now_ms);
    if other_windows || request.limits.iter().any(|terms| has_ended(terms.span, now_ms)) {
        return Ok(Decision::Expired);
    }
    let decision = decide(rows, request, now_ms);
    let granted = match &decision {
        Decision::Granted { granted, .. } => *granted,
        _ => Amount::ZERO,
    };
    // A refusal is remembered, too: a copy of the request that comes late must not be granted to somebody who was told otherwise.
    grant(rows, request, limits, granted, &decision, now_ms);
    Ok(decision)
}

fn has_ended(span: Span, now_ms: i64) -> bool {
    matches!(span, Span::Fixed { end_ms, .. } if end_ms <= now_ms)
}

fn decide(rows: &Rows, request: &Acquire, now_ms: i64) -> Decision {
    let standings: Vec<Account> = request.limits.iter().map(|terms| rows.standing(&terms.key, terms.span, now_ms)).collect();
    let left: Vec<i128> = request.limits.iter().zip(&standings).map(|(terms, s)| terms.limit - s.settled - s.outstanding).collect();
    let shortfall = |((terms, standing), left): ((&LimitTerms, &Account), &i128)| Shortfall {
        key: terms.key.clone(),
        unit: terms.unit,
        left: *left,
        idle: (standing.outstanding - standing.reserved).max(0),
        resets_at_ms: resets_at(terms.span),
    };
    let standing = request.limits.iter().zip(&standings).zip(&left);
    let shortfalls: Vec<Shortfall> =
        standing.filter(|((terms, _), left)| **left < request.min.in_unit(terms.unit)).map(shortfall).collect();
    if !shortfalls.is_empty() {
        return Decision::Refused { shortfalls };
    }
    let granted = size(&request.limits, &left, request.min, request.want);
    let in_usd = request.limits.iter().zip(&left).filter(|(terms, _)| terms.unit == Unit::Usd);
    let left = in_usd.map(|(_, left)| PicoUsd(left - granted.usd.0)).min();
    Decision::Granted { granted, valid_for_ms: valid_for(&request.limits, now_ms), left }
}

fn grant(rows: &mut Rows, request: &Acquire, limits: Vec<LeaseLimit>, granted: Amount, decision: &Decision, now_ms: i64) {
    let lease = &request.lease;
    if !rows.leases.contains(lease) {
        let row = Lease {
            holder: request.holder.clone(),
            seq: 0,
            answer: decision.clone(),
            limits,
            outstanding: Amount::ZERO,
            reserved: Amount::ZERO,
            touched_ms: now_ms,
        };
        rows.leases.put(lease.clone(), row);
        rows.reserve(Some(lease), reserved_by_open_calls(rows, lease));
    }
    if let Some(row) = rows.leases.change(lease) {
        (row.seq, row.answer) = (request.seq, decision.clone());
        let outstanding = row.outstanding + granted;
        rows.hold(lease, outstanding, now_ms);
    }
}

/// Calls may be opened on a lease that the ledger does not have (any more), and that is then asked for again.
fn reserved_by_open_calls(rows: &Rows, lease: &LeaseId) -> Amount {
    let of_lease = rows.open.iter().filter(|(_, call)| call.lease.as_ref() == Some(lease));
    of_lease.fold(Amount::ZERO, |sum, (_, call)| sum + call.reserved)
}

fn resets_at(span: Span) -> Option<i64> {
    match span {
        Span::Fixed { end_ms, .. } if end_ms != i64::MAX => Some(end_ms),
        _ => None,
    }
}

/// How much is granted, unit by unit: what is wanted, but beyond one call's need no more than a share of what is left.
fn size(limits: &[LimitTerms], left: &[i128], min: Amount, want: Amount) -> Amount {
    let in_unit = |unit: Unit| -> i128 {
        let (min, want) = (min.in_unit(unit), want.in_unit(unit));
        let tightest = limits.iter().zip(left).filter(|(terms, _)| terms.unit == unit).map(|(_, left)| left / SHARE_OF_LEFT).min();
        tightest.map_or(want, |share| want.min(share)).max(min)
    };
    let as_i64 = |n: i128| i64::try_from(n).unwrap_or(i64::MAX);
    Amount { usd: PicoUsd(in_unit(Unit::Usd)), tokens: as_i64(in_unit(Unit::Tokens)), requests: as_i64(in_unit(Unit::Requests)) }
}

fn valid_for(limits: &[LimitTerms], now_ms: i64) -> i64 {
    limits.iter().filter_map(|terms| resets_at(terms.span)).map(|end| end - now_ms).min().unwrap_or(MAX_VALID_MS).clamp(0, MAX_VALID_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limit::LimitKey;

    #[test]
    fn nothing_is_granted_for_more_than_a_minute_nor_past_the_end_of_a_window() {
        let limit = |span| LimitTerms { key: LimitKey("k".into()), unit: Unit::Usd, limit: 1, span };
        let until = |end_ms| limit(Span::Fixed { start_ms: 0, end_ms });
        let rolling = limit(Span::Rolling { length_ms: 1, bucket_ms: 1 });
        let day = 86_400_000;
        assert_eq!(valid_for(&[until(i64::MAX), rolling.clone(), until(day)], 0), 60_000);
        assert_eq!(valid_for(&[until(day), rolling], day - 7), 7);
    }

    #[test]
    fn a_grant_shrinks_toward_one_calls_worst_case_as_the_limit_nears() {
        let usd = |n: i128| Amount { usd: PicoUsd(n), tokens: 10, requests: 1 };
        let limit =
            LimitTerms { key: LimitKey("k".into()), unit: Unit::Usd, limit: 1_000, span: Span::Rolling { length_ms: 1, bucket_ms: 1 } };
        for (left, expected) in [(1_000, 100), (200, 50), (40, 10), (10, 10)] {
            let granted = size(std::slice::from_ref(&limit), &[left], usd(10), usd(100));
            assert_eq!(granted, usd(expected), "left {left}");
        }
    }
}
