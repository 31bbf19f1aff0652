//! The wire's messages as the domain's types and back. The operator's side reads what any pod may send, so everything
//! that comes in is bounded and checked here, once.

mod figures;
mod record;
mod report;

pub use report::{MAX_ENTRIES, report_from_wire, report_to_wire};

use super::message::{BackendCredential, LeaseAsk, Pushed};
use super::proto;
use super::secret::Secret;
use crate::core::amount::{Amount, Unit};
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::money::PicoUsd;
use crate::core::policy::ResourceKey;
use crate::ledger::{Decision, LeaseId};

/// Longest identifier (call, lease, outcome), in bytes; ours are UUIDs of 36.
const MAX_ID_BYTES: usize = 128;
/// Longest limit key: namespace, budget and limit names as Kubernetes bounds them, and a split value.
const MAX_KEY_BYTES: usize = 512;
/// Most limits that one lease can be under.
const MAX_LIMITS: usize = 256;

/// Why a message cannot be what it says it is.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} has {found} bytes or items; at most {limit} are allowed")]
    TooLarge { field: &'static str, found: usize, limit: usize },
    #[error("{field} holds characters that are not printable ASCII")]
    NotPrintable { field: &'static str },
    #[error("{field} is not a whole number from 0 to {limit}")]
    OutOfRange { field: &'static str, limit: i128 },
    #[error("{field} is {found:?}, which is not known here; the other side may be newer")]
    Unknown { field: &'static str, found: String },
    #[error("{field} is not the JSON that it should be: {reason}")]
    Json { field: &'static str, reason: String },
}

// ---- amounts ----

impl From<Amount> for proto::Amount {
    fn from(amount: Amount) -> proto::Amount {
        proto::Amount { pico_usd: amount.usd.0.to_string(), tokens: amount.tokens, requests: amount.requests }
    }
}

fn amount(field: &'static str, wire: Option<proto::Amount>) -> Result<Amount, Malformed> {
    let wire = wire.ok_or(Malformed::Missing { field })?;
    let usd = whole(field, &wire.pico_usd).ok().filter(|p| (0..=PicoUsd::MAX.0).contains(p));
    let usd = usd.ok_or(Malformed::OutOfRange { field, limit: PicoUsd::MAX.0 })?;
    if wire.tokens < 0 || wire.requests < 0 {
        return Err(Malformed::OutOfRange { field, limit: i64::MAX.into() });
    }
    Ok(Amount { usd: PicoUsd(usd), tokens: wire.tokens, requests: wire.requests })
}

/// A whole number as decimal text; empty is zero, as protobuf leaves zeros out.
fn whole(field: &'static str, text: &str) -> Result<i128, Malformed> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| Malformed::OutOfRange { field, limit: i128::MAX })
}

// ---- identifiers ----

fn bounded<T: AsRef<str>>(field: &'static str, text: T, limit: usize) -> Result<T, Malformed> {
    match text.as_ref().len() {
        0 => Err(Malformed::Missing { field }),
        found if found > limit => Err(Malformed::TooLarge { field, found, limit }),
        _ if !text.as_ref().bytes().all(|b| b.is_ascii_graphic() || b == b' ') => Err(Malformed::NotPrintable { field }),
        _ => Ok(text),
    }
}

fn lease(text: String) -> Result<LeaseId, Malformed> {
    bounded("lease", text, MAX_ID_BYTES).map(|text| LeaseId(text.into()))
}

fn optional_lease(text: String) -> Result<Option<LeaseId>, Malformed> {
    if text.is_empty() { Ok(None) } else { lease(text).map(Some) }
}

fn limit_keys(field: &'static str, keys: Vec<String>) -> Result<Vec<LimitKey>, Malformed> {
    if keys.len() > MAX_LIMITS {
        return Err(Malformed::TooLarge { field, found: keys.len(), limit: MAX_LIMITS });
    }
    let keys = keys.into_iter().map(|key| bounded(field, key, MAX_KEY_BYTES).map(LimitKey));
    let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

fn texts(keys: Vec<LimitKey>) -> Vec<String> {
    keys.into_iter().map(|key| key.0).collect()
}

// ---- acquire ----

impl From<LeaseAsk> for proto::AcquireRequest {
    fn from(ask: LeaseAsk) -> proto::AcquireRequest {
        let LeaseAsk { lease, seq, limits, min, want, need } = ask;
        let [min, want, need] = [min, want, need].map(|amount| Some(amount.into()));
        proto::AcquireRequest { lease: lease.0.to_string(), seq, limits: texts(limits), min, want, need }
    }
}

impl TryFrom<proto::AcquireRequest> for LeaseAsk {
    type Error = Malformed;

    fn try_from(wire: proto::AcquireRequest) -> Result<LeaseAsk, Malformed> {
        let limits = limit_keys("limits", wire.limits)?;
        if limits.is_empty() {
            return Err(Malformed::Missing { field: "limits" });
        }
        let (min, want) = (amount("min", wire.min)?, amount("want", wire.want)?);
        // An older sidecar does not say.
        let need = wire.need.map_or(Ok(min), |need| amount("need", Some(need)))?;
        Ok(LeaseAsk { lease: lease(wire.lease)?, seq: wire.seq, limits, min, want: want.max(min), need: need.max(min) })
    }
}

/// The ledger's answer for the wire. Times go as distances from `now_ms`, the ledger's clock, since the other side's differs.
pub fn decision_to_wire(decision: Decision, now_ms: i64) -> proto::AcquireResponse {
    use proto::acquire_response::Decision as Wire;
    let decision = match decision {
        Decision::Granted { granted, valid_for_ms, left } => {
            let left_pico_usd = left.map(|left| left.0.to_string()).unwrap_or_default();
            Wire::Granted(proto::Granted { granted: Some(granted.into()), valid_for_ms, left_pico_usd })
        }
        Decision::Refused { shortfalls } => {
            let shortfalls = shortfalls.into_iter().map(|s| shortfall_to_wire(s, now_ms)).collect();
            Wire::Refused(proto::Refused { shortfalls })
        }
        Decision::Expired => Wire::Expired(proto::Expired {}),
    };
    proto::AcquireResponse { decision: Some(decision) }
}

/// The ledger's answer from the wire, with times on the reader's clock, which shows `now_ms`.
///
/// # Errors
/// When no decision is in it, or one that this release does not know.
pub fn decision_from_wire(response: proto::AcquireResponse, now_ms: i64) -> Result<Decision, Malformed> {
    use proto::acquire_response::Decision as Wire;
    match response.decision.ok_or(Malformed::Missing { field: "decision" })? {
        Wire::Granted(granted) => Ok(Decision::Granted {
            granted: amount("granted", granted.granted)?,
            valid_for_ms: granted.valid_for_ms.max(0),
            // An older operator does not say, and what is only shown is not worth an error.
            left: granted.left_pico_usd.parse().ok().map(PicoUsd),
        }),
        Wire::Refused(refused) => {
            let shortfalls = refused.shortfalls.into_iter().map(|s| shortfall_from_wire(s, now_ms)).collect::<Result<_, _>>()?;
            Ok(Decision::Refused { shortfalls })
        }
        Wire::Expired(_) => Ok(Decision::Expired),
    }
}

fn shortfall_to_wire(shortfall: Shortfall, now_ms: i64) -> proto::Shortfall {
    proto::Shortfall {
        limit: shortfall.key.0,
        left: shortfall.left.to_string(),
        idle: shortfall.idle.to_string(),
        unit: unit_name(shortfall.unit).to_owned(),
        // At least one: zero stands for a window that has no end.
        resets_in_ms: shortfall.resets_at_ms.map_or(0, |at| at.saturating_sub(now_ms).max(1)),
    }
}

fn shortfall_from_wire(wire: proto::Shortfall, now_ms: i64) -> Result<Shortfall, Malformed> {
    Ok(Shortfall {
        key: LimitKey(bounded("shortfall.limit", wire.limit, MAX_KEY_BYTES)?),
        unit: unit(&wire.unit)?,
        left: whole("shortfall.left", &wire.left)?,
        idle: if wire.idle.is_empty() { 0 } else { whole("shortfall.idle", &wire.idle)? },
        resets_at_ms: (wire.resets_in_ms > 0).then(|| now_ms.saturating_add(wire.resets_in_ms)),
    })
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Usd => "Usd",
        Unit::Tokens => "Tokens",
        Unit::Requests => "Requests",
    }
}

fn unit(name: &str) -> Result<Unit, Malformed> {
    let units = [Unit::Usd, Unit::Tokens, Unit::Requests];
    let found = units.into_iter().find(|unit| unit_name(*unit) == name);
    found.ok_or_else(|| Malformed::Unknown { field: "unit", found: name.chars().take(32).collect() })
}

// ---- push ----

impl From<&Pushed> for proto::Push {
    fn from(pushed: &Pushed) -> proto::Push {
        let policy = pushed.policy.as_ref();
        let credentials = pushed.credentials.iter().map(|c| proto::Credential {
            route: c.route.0.clone(),
            backend: c.backend.clone(),
            value: c.value.expose().to_owned(),
        });
        proto::Push {
            policy_json: policy.map(|p| serde_json::to_vec(p).expect("a policy has string keys only, so it is JSON")).unwrap_or_default(),
            credentials: credentials.collect(),
            recall: texts(pushed.recall.clone()),
            operator_version: pushed.operator_version.clone(),
        }
    }
}

impl TryFrom<proto::Push> for Pushed {
    type Error = Malformed;

    fn try_from(wire: proto::Push) -> Result<Pushed, Malformed> {
        let json_error = |e: serde_json::Error| Malformed::Json { field: "policy_json", reason: e.to_string() };
        let policy = (!wire.policy_json.is_empty()).then(|| serde_json::from_slice(&wire.policy_json)).transpose();
        let credentials = wire.credentials.into_iter().map(|c| BackendCredential {
            route: ResourceKey(c.route),
            backend: c.backend,
            value: Secret::new(c.value),
        });
        Ok(Pushed {
            policy: policy.map_err(json_error)?,
            credentials: credentials.collect(),
            recall: wire.recall.into_iter().map(LimitKey).collect(),
            operator_version: wire.operator_version,
        })
    }
}

#[cfg(test)]
mod tests;
