//! Changes that Spendkeeper proposes, and what becomes of them: identity, states, and how a new round of proposals meets the old.
//!
//! Nothing here applies anything; the owner approves, and the operator applies what [`transition`] allows.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::money::PicoUsd;

/// A change that Spendkeeper proposes, with the evidence for it. Nothing is changed before it is approved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// A stable hash of target and change: the same proposal keeps its id.
    pub id: String,
    /// What kind of change this is.
    pub kind: RecommendationKind,
    /// The object that the patch is for.
    pub target: TargetRef,
    /// One sentence for people.
    pub summary: String,
    /// The change, as a server-side-apply patch of the target in JSON.
    pub patch: String,
    /// Undoes `patch`: the target's own values at the time of the proposal, in JSON.
    pub revert: String,
    /// What the proposal was computed from; enough to compute it again.
    pub evidence: Evidence,
    /// What the change would save in a month of the evidence's traffic, US dollars.
    pub estimated_monthly_savings: PicoUsd,
    /// What could go wrong.
    pub risk: Risk,
    /// Where the proposal stands.
    pub state: RecommendationState,
    /// Who approved, rejected or rolled it back, as the API server authenticated them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When `state` last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition_time: Option<String>,
    /// What was seen after the change was applied, or why it was not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
}

/// Kinds of recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecommendationKind {
    /// Calls that need no more than a cheaper tier should go there.
    ModelTier,
    /// A workload requests more, or less, than it uses.
    WorkloadResources,
}

/// The object that a recommendation changes, in the same namespace as the resource that carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group and version, such as `apps/v1`.
    pub api_version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

/// What a recommendation was computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Start of the observations (RFC 3339).
    pub from: String,
    /// End of the observations (RFC 3339).
    pub to: String,
    /// How long the history is, in seconds.
    pub window_seconds: i64,
    /// How many observations there are: calls, or samples of usage.
    pub samples: i64,
    /// Where the observations came from.
    pub source: String,
    /// The figures, by name.
    pub figures: BTreeMap<String, String>,
}

/// What could go wrong with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    Low,
    Medium,
    High,
}

/// Where a recommendation stands.
///
/// ```text
///   Proposed ──▶ Approved ──▶ Applied ──▶ Verified ──▶ RolledBack (by request)
///      │  │          │           └──────▶ RolledBack (by request, or on a regression)
///      │  │          └──▶ Expired (the target is no longer what the evidence describes)
///      │  └──▶ Rejected
///      └──▶ Expired
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecommendationState {
    Proposed,
    Approved,
    Rejected,
    Expired,
    Applied,
    Verified,
    RolledBack,
}

/// What happens to a recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody entitled to it said yes.
    Approve,
    /// Somebody entitled to it said no.
    Reject,
    /// It is no longer proposed, or its target is no longer what the evidence describes.
    Expire,
    /// The patch was applied.
    Apply,
    /// The change did what it was meant to do.
    Verify,
    /// The revert was applied: somebody asked for it, or the change made things worse.
    RollBack,
}

impl Event {
    pub const ALL: [Event; 6] = [Event::Approve, Event::Reject, Event::Expire, Event::Apply, Event::Verify, Event::RollBack];

    fn participle(self) -> &'static str {
        match self {
            Event::Approve => "approved",
            Event::Reject => "rejected",
            Event::Expire => "expired",
            Event::Apply => "applied",
            Event::Verify => "verified",
            Event::RollBack => "rolled back",
        }
    }
}

/// An event that the diagram of [`RecommendationState`] has no arrow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recommendation that is {} cannot be {}; {}", .state.words(), .event.participle(), .state.what_can_be_done())]
pub struct Refused {
    pub state: RecommendationState,
    pub event: Event,
}

impl RecommendationState {
    pub const ALL: [RecommendationState; 7] = [
        RecommendationState::Proposed,
        RecommendationState::Approved,
        RecommendationState::Rejected,
        RecommendationState::Expired,
        RecommendationState::Applied,
        RecommendationState::Verified,
        RecommendationState::RolledBack,
    ];

    fn words(self) -> &'static str {
        match self {
            RecommendationState::Proposed => "proposed",
            RecommendationState::Approved => "approved",
            RecommendationState::Rejected => "rejected",
            RecommendationState::Expired => "expired",
            RecommendationState::Applied => "applied",
            RecommendationState::Verified => "applied and verified",
            RecommendationState::RolledBack => "rolled back",
        }
    }

    fn what_can_be_done(self) -> &'static str {
        match self {
            RecommendationState::Proposed => "approve or reject it first",
            RecommendationState::Approved => "it is about to be applied, and can be rolled back after that",
            RecommendationState::Applied | RecommendationState::Verified => "it can only be rolled back",
            RecommendationState::Rejected | RecommendationState::Expired | RecommendationState::RolledBack => {
                "that is final; a new proposal comes when the evidence asks for one"
            }
        }
    }

    /// True when nothing but a roll-back can follow.
    fn is_history(self) -> bool {
        !matches!(self, RecommendationState::Proposed | RecommendationState::Approved | RecommendationState::Applied)
    }
}

/// The state after an event.
///
/// # Errors
/// When the event cannot happen in this state.
pub fn transition(state: RecommendationState, event: Event) -> Result<RecommendationState, Refused> {
    use RecommendationState::{Applied, Approved, Expired, Proposed, Rejected, RolledBack, Verified};
    match (state, event) {
        (Proposed, Event::Approve) => Ok(Approved),
        (Proposed, Event::Reject) => Ok(Rejected),
        (Proposed | Approved, Event::Expire) => Ok(Expired),
        (Approved, Event::Apply) => Ok(Applied),
        (Applied, Event::Verify) => Ok(Verified),
        (Applied | Verified, Event::RollBack) => Ok(RolledBack),
        _ => Err(Refused { state, event }),
    }
}

/// What a proposal consists of; the rest of a [`Recommendation`] follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub kind: RecommendationKind,
    pub target: TargetRef,
    pub summary: String,
    pub patch: String,
    pub revert: String,
    pub evidence: Evidence,
    pub estimated_monthly_savings: PicoUsd,
    pub risk: Risk,
}

impl From<Proposal> for Recommendation {
    fn from(proposal: Proposal) -> Recommendation {
        Recommendation {
            id: id(proposal.kind, &proposal.target, &proposal.patch),
            kind: proposal.kind,
            target: proposal.target,
            summary: proposal.summary,
            patch: proposal.patch,
            revert: proposal.revert,
            evidence: proposal.evidence,
            estimated_monthly_savings: proposal.estimated_monthly_savings,
            risk: proposal.risk,
            state: RecommendationState::Proposed,
            approved_by: None,
            transition_time: None,
            observed: None,
        }
    }
}

/// The first ten hexadecimal digits of SHA-256 over kind, target and patch: the same change of the same object has the same id.
fn id(kind: RecommendationKind, target: &TargetRef, patch: &str) -> String {
    let kind = match kind {
        RecommendationKind::ModelTier => "ModelTier",
        RecommendationKind::WorkloadResources => "WorkloadResources",
    };
    let mut hash = Sha256::new();
    for part in [kind, &target.api_version, &target.kind, &target.namespace, &target.name, patch] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(5).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}

impl Recommendation {
    /// The field manager that applies the patch and the revert. It belongs to this recommendation alone: server-side apply
    /// removes what its manager applied before and does not send again, so one manager for two rules would drop the first.
    pub fn field_manager(&self) -> String {
        format!("spendkeeper-{}", self.id)
    }

    /// Moves on, at `now` (RFC 3339).
    ///
    /// # Errors
    /// When the event cannot happen in the present state; nothing changes then.
    pub fn advance(&mut self, event: Event, now: &str) -> Result<(), Refused> {
        self.state = transition(self.state, event)?;
        self.transition_time = Some(now.to_owned());
        Ok(())
    }
}

/// Unix milliseconds as people and Kubernetes write a time: `2026-11-24T12:00:00Z`, without fractions of a second.
pub fn rfc3339(unix_ms: i64) -> String {
    jiff::Timestamp::from_second(unix_ms.div_euclid(1_000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// How many recommendations are kept after they came to their end.
pub const HISTORY: usize = 20;

/// What a status shows after a new round: `proposed` is everything that the evidence asks for now, `now` is RFC 3339.
///
/// - A proposal that is there already keeps its state, and while it is open it gets the new evidence.
/// - One that was rejected or rolled back is not proposed again; one that had expired is.
/// - An open proposal that is no longer asked for expires.
/// - Open ones come first, then the history, newest first; of more than [`HISTORY`] the oldest go, expired ones before others.
pub fn merge(existing: Vec<Recommendation>, proposed: Vec<Recommendation>, now: &str) -> Vec<Recommendation> {
    let mut fresh: BTreeMap<String, Recommendation> = proposed.into_iter().map(|r| (r.id.clone(), r)).collect();
    let mut merged: Vec<Recommendation> = existing.into_iter().map(|known| met(known, &mut fresh, now)).collect();
    merged.extend(fresh.into_values().map(|new| Recommendation { transition_time: Some(now.to_owned()), ..new }));

    let (mut history, mut open): (Vec<_>, Vec<_>) = merged.into_iter().partition(|r| r.state.is_history());
    open.sort_by(|a, b| (Reverse(a.estimated_monthly_savings), &a.id).cmp(&(Reverse(b.estimated_monthly_savings), &b.id)));
    let newest_first = |a: &Recommendation, b: &Recommendation| b.transition_time.cmp(&a.transition_time).then_with(|| a.id.cmp(&b.id));
    let expired = |r: &Recommendation| r.state == RecommendationState::Expired;
    history.sort_by(|a, b| expired(a).cmp(&expired(b)).then_with(|| newest_first(a, b)));
    history.truncate(HISTORY);
    history.sort_by(newest_first);
    open.extend(history);
    open
}

/// What becomes of a known recommendation; takes its like out of `fresh`.
fn met(known: Recommendation, fresh: &mut BTreeMap<String, Recommendation>, now: &str) -> Recommendation {
    match (known.state, fresh.remove(&known.id)) {
        (RecommendationState::Proposed, Some(new)) => Recommendation { transition_time: known.transition_time, ..new },
        (RecommendationState::Expired, Some(new)) => Recommendation { transition_time: Some(now.to_owned()), ..new },
        (RecommendationState::Proposed, None) => {
            Recommendation { state: RecommendationState::Expired, transition_time: Some(now.to_owned()), ..known }
        }
        _ => known,
    }
}

#[cfg(test)]
mod tests;
