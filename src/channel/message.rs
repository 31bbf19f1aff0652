//! What the two ends mean, in the domain's types: right by construction once [`convert`](super::convert) has let it in.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallRecord};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms};
use crate::core::policy::{Policy, ResourceKey};
use crate::ledger::{Acquire, Entry, HolderId, LeaseId};

/// A sidecar's request for a lease. It names limits; what they amount to, who asks and when, only the operator knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    pub lease: LeaseId,
    /// Grows with each request for this lease; a repeated number gets the first answer again.
    pub seq: u64,
    /// Sorted, each once, at least one.
    pub limits: Vec<LimitKey>,
    /// What one call lacks.
    pub min: Amount,
    /// What the sidecar would like; at least `min`.
    pub want: Amount,
    /// All that the call may cost: `min`, and what the sidecar held for it already. It tells what a refusal was about.
    pub need: Amount,
}

impl LeaseAsk {
    /// The ledger's request, with what the asker cannot say.
    ///
    /// # Errors
    /// The key that `terms` does not know.
    pub fn into_acquire(
        self,
        holder: HolderId,
        terms: impl Fn(&LimitKey) -> Option<LimitTerms>,
        now_ms: i64,
    ) -> Result<Acquire, UnknownLimit> {
        let LeaseAsk { lease, seq, limits, min, want, need: _ } = self;
        let limits = limits.into_iter().map(|key| terms(&key).ok_or(UnknownLimit(key))).collect::<Result<_, _>>()?;
        Ok(Acquire { lease, seq, holder, limits, min, want, now_ms })
    }
}

/// A limit that no budget of the asking pod has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no budget that selects this pod has a limit {0}; it may have just changed: wait for the next policy and ask again")]
pub struct UnknownLimit(pub LimitKey);

/// What a sidecar reports, in order. Also what its journal holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Reported {
    /// A call is about to go upstream and may cost up to `reserved`, out of `lease`. `draft` is what is known of it by then:
    /// the record that stands for it, should its end never be learnt.
    Opened {
        call: CallId,
        #[serde(default)]
        lease: Option<LeaseId>,
        reserved: Amount,
        #[serde(default)]
        draft: Option<Arc<CallRecord>>,
        #[serde(default)]
        unleased: Vec<LimitKey>,
    },
    /// A call has ended; it is also charged to `unleased` limits: those that only warn, and those that could not be asked while the
    /// ledger was away (a refused call names the latter, too).
    Settled { record: Arc<CallRecord>, lease: Option<LeaseId>, unleased: Vec<LimitKey> },
    /// Part of a lease is not needed.
    GivenBack { lease: LeaseId, seq: u64, amount: Amount },
    /// `count` outcomes happened; idempotent by `id`.
    Outcome { id: String, outcome: String, count: u64, dimensions: Dimensions },
}

impl Reported {
    /// Limits that it is charged to without a lease.
    pub fn unleased(&self) -> &[LimitKey] {
        match self {
            Reported::Opened { unleased, .. } | Reported::Settled { unleased, .. } => unleased,
            Reported::GivenBack { .. } | Reported::Outcome { .. } => &[],
        }
    }

    /// The ledger's entry. The origin is the reporter's, as its token proves it, whatever a record claims. A limit that
    /// `terms` does not know any more is left out: its budget is gone, and so is its account.
    pub fn into_entry(self, origin: &Origin, terms: impl Fn(&LimitKey) -> Option<LimitTerms>, now_ms: i64) -> Entry {
        match self {
            Reported::Opened { call, lease, reserved, draft, unleased } => {
                let draft = draft.map(|draft| with_origin(draft, origin));
                Entry::Opened { call, lease, reserved, draft, unleased: unleased.iter().filter_map(terms).collect() }
            }
            Reported::Settled { record, lease, unleased } => {
                let record = with_origin(record, origin);
                Entry::Settled { record, lease, unleased: unleased.iter().filter_map(terms).collect() }
            }
            Reported::GivenBack { lease, seq, amount } => Entry::GivenBack { lease, seq, amount },
            Reported::Outcome { id, outcome, count, dimensions } => {
                Entry::Outcome { id, outcome, count, origin: origin.clone(), dimensions, at_ms: now_ms }
            }
        }
    }
}

fn with_origin(mut record: Arc<CallRecord>, origin: &Origin) -> Arc<CallRecord> {
    if *record.origin != *origin {
        Arc::make_mut(&mut record).origin = Arc::new(origin.clone());
    }
    record
}

/// What the operator pushes to a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Pushed {
    /// `None` when only a recall is pushed; then there are no credentials either.
    pub policy: Option<Policy>,
    /// One for each backend of the policy that has a credential.
    pub credentials: Vec<BackendCredential>,
    /// Limits for which somebody else needs what this sidecar does not.
    pub recall: Vec<LimitKey>,
    pub operator_version: String,
}

/// The credential of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendCredential {
    pub route: ResourceKey,
    pub backend: String,
    pub value: Secret,
}
