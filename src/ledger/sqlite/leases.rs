//! Granting leases: a set of limits at once, all of it or nothing.

use rusqlite::{Connection, OptionalExtension, params};

use super::corrupt;
use super::row::{self, LeaseLimit};
use crate::core::amount::{Amount, Unit};
use crate::core::limit::{LimitTerms, Shortfall, Span};
use crate::core::money::PicoUsd;
use crate::ledger::{Acquire, Decision, LedgerError};

/// The longest that new calls may draw on a grant.
const MAX_VALID_MS: i64 = 60_000;
/// A grant beyond what one call needs takes at most this share of what is left, so that a budget near its limit is
/// not held by a sidecar that does not need it.
const SHARE_OF_LEFT: i128 = 4;

/// A lease's row.
struct Lease {
    holder: String,
    seq: u64,
    answer: String,
    outstanding: Amount,
}

/// Grants, refuses or repeats an answer; see [`crate::ledger::Ledger::acquire`].
pub fn acquire(connection: &Connection, request: &Acquire) -> Result<Decision, LedgerError> {
    let now_ms = row::ledger_time(connection, request.now_ms)?;
    let lease = find(connection, &request.lease.0)?;
    let mut outstanding = Amount::ZERO;
    if let Some(lease) = &lease {
        if lease.holder != request.holder.0 {
            return Err(LedgerError::ForeignLease(request.lease.0.clone()));
        }
        if request.seq <= lease.seq {
            return serde_json::from_str(&lease.answer).map_err(|_| corrupt("an answer"));
        }
        let same: Vec<LeaseLimit> = row::limits_of(connection, &request.lease.0)?;
        let mut asked: Vec<LeaseLimit> = request.limits.iter().map(LeaseLimit::of).collect();
        asked.sort_by(|a, b| a.key.cmp(&b.key));
        if same != asked {
            return Ok(Decision::Expired);
        }
        outstanding = lease.outstanding;
    }
    if request.limits.iter().any(|terms| has_ended(terms.span, now_ms)) {
        return Ok(Decision::Expired);
    }
    let decision = decide(connection, request, now_ms)?;
    if let Decision::Granted { granted, .. } = &decision {
        outstanding += *granted;
        if lease.is_none() {
            insert_limits(connection, request)?;
        }
        store(connection, request, outstanding, &decision, now_ms)?;
    }
    Ok(decision)
}

fn has_ended(span: Span, now_ms: i64) -> bool {
    matches!(span, Span::Fixed { end_ms, .. } if end_ms <= now_ms)
}

fn decide(connection: &Connection, request: &Acquire, now_ms: i64) -> Result<Decision, LedgerError> {
    let mut left = Vec::with_capacity(request.limits.len());
    for terms in &request.limits {
        let spent = row::settled(connection, &terms.key, terms.span, now_ms)?;
        let held = row::outstanding(connection, &terms.key, terms.unit, terms.span)?;
        left.push(terms.limit - spent - held);
    }
    let shortfalls: Vec<Shortfall> = request
        .limits
        .iter()
        .zip(&left)
        .filter(|(terms, left)| **left < request.min.in_unit(terms.unit))
        .map(|(terms, left)| Shortfall { key: terms.key.clone(), unit: terms.unit, left: *left, resets_at_ms: resets_at(terms.span) })
        .collect();
    if !shortfalls.is_empty() {
        return Ok(Decision::Refused { shortfalls });
    }
    let granted = grant(&request.limits, &left, request.min, request.want);
    let in_usd = request.limits.iter().zip(&left).filter(|(terms, _)| terms.unit == Unit::Usd);
    let left = in_usd.map(|(_, left)| PicoUsd(left - granted.usd.0)).min();
    Ok(Decision::Granted { granted, valid_for_ms: valid_for(&request.limits, now_ms), left })
}

fn resets_at(span: Span) -> Option<i64> {
    match span {
        Span::Fixed { end_ms, .. } if end_ms != i64::MAX => Some(end_ms),
        _ => None,
    }
}

/// How much is granted, unit by unit: what is wanted, but beyond one call's need no more than a share of what is left.
fn grant(limits: &[LimitTerms], left: &[i128], min: Amount, want: Amount) -> Amount {
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

fn find(connection: &Connection, lease: &str) -> Result<Option<Lease>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT holder, seq, answer, usd, tokens, requests FROM leases WHERE lease = ?1")?;
    let row = statement.query_row([lease], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?, r.get(2)?, row::amount(r, 3)?))).optional()?;
    let Some((holder, seq, answer, amount)) = row else { return Ok(None) };
    Ok(Some(Lease { holder, seq: seq.cast_unsigned(), answer, outstanding: row::to_amount(amount)? }))
}

fn insert_limits(connection: &Connection, request: &Acquire) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO lease_limits VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for terms in &request.limits {
        let span = serde_json::to_string(&terms.span).map_err(|_| corrupt("a window"))?;
        statement.execute(params![request.lease.0, terms.key.0, row::unit_name(terms.unit), span, row::lease_bucket(terms.span)])?;
    }
    Ok(())
}

fn store(connection: &Connection, request: &Acquire, outstanding: Amount, decision: &Decision, now_ms: i64) -> Result<(), LedgerError> {
    let answer = serde_json::to_string(decision).map_err(|_| corrupt("an answer"))?;
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    statement.execute(params![
        request.lease.0,
        request.holder.0,
        request.seq.cast_signed(),
        answer,
        outstanding.usd.0.to_string(),
        outstanding.tokens,
        outstanding.requests,
        now_ms
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limit::LimitKey;

    #[test]
    fn a_grant_shrinks_toward_one_calls_worst_case_as_the_limit_nears() {
        let usd = |n: i128| Amount { usd: PicoUsd(n), tokens: 10, requests: 1 };
        let limit =
            LimitTerms { key: LimitKey("k".into()), unit: Unit::Usd, limit: 1_000, span: Span::Rolling { length_ms: 1, bucket_ms: 1 } };
        for (left, expected) in [(1_000, 100), (200, 50), (40, 10), (10, 10)] {
            let granted = grant(std::slice::from_ref(&limit), &[left], usd(10), usd(100));
            assert_eq!(granted, usd(expected), "left {left}");
        }
    }
}
