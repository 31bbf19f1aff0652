//! What is recorded of a call: enough to recompute its attribution, route and price later.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::dimensions::{Dimensions, Origin};
use super::money::PicoUsd;
use super::policy::{Detector, Protocol, Tier};
use super::usage::Usage;

/// Identifies a call for ever; a charge with an id that was seen before changes nothing. Shared, since much is told of a call under its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallId(pub Arc<str>);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The record of one call, written once it is settled (or refused).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord {
    pub id: CallId,
    /// Unix milliseconds by the sidecar's clock; windows never depend on it.
    pub started_at_ms: i64,
    pub duration_ms: i64,
    #[serde(default)]
    pub time_to_first_byte_ms: Option<i64>,
    /// Every call of a pod shares it.
    pub origin: Arc<Origin>,
    pub dimensions: Dimensions,
    pub kind: CallKind,
    /// The route that chose the model: `namespace/name`, empty when none did.
    #[serde(default)]
    pub route: Arc<str>,
    /// Name of the backend that answered, or of the shared service.
    #[serde(default)]
    pub backend: Arc<str>,
    #[serde(default)]
    pub requested_model: Arc<str>,
    #[serde(default)]
    pub model: Arc<str>,
    #[serde(default)]
    pub requested_tier: Option<Tier>,
    #[serde(default)]
    pub tier: Option<Tier>,
    #[serde(default)]
    pub classification: Option<Classification>,
    pub usage: Usage,
    pub cost: PicoUsd,
    /// What had been reserved for it.
    #[serde(default)]
    pub reserved: Amount,
    /// Bytes of request and response bodies.
    #[serde(default)]
    pub bytes: u64,
    pub outcome: CallOutcome,
    /// HTTP status that the caller saw; 0 when it hung up before there was one.
    #[serde(default)]
    pub status: u16,
    /// True when the model had no price and the budget let it through.
    #[serde(default)]
    pub unpriced: bool,
}

impl CallRecord {
    /// Of something that has only begun: it cost nothing, and if nothing more is learnt it has failed.
    pub fn begun(id: CallId, origin: impl Into<Arc<Origin>>, dimensions: Dimensions, kind: CallKind, started_at_ms: i64) -> CallRecord {
        CallRecord {
            id,
            started_at_ms,
            duration_ms: 0,
            time_to_first_byte_ms: None,
            origin: origin.into(),
            dimensions,
            kind,
            route: Arc::default(),
            backend: Arc::default(),
            requested_model: Arc::default(),
            model: Arc::default(),
            requested_tier: None,
            tier: None,
            classification: None,
            usage: Usage::default(),
            cost: PicoUsd::ZERO,
            reserved: Amount::ZERO,
            bytes: 0,
            outcome: CallOutcome::Failed,
            status: 0,
            unpriced: false,
        }
    }

    /// True when only [figures](CallRecord::figures) tell it from `other`.
    pub fn is_like(&self, other: &CallRecord) -> bool {
        let CallRecord {
            id: _,
            started_at_ms: _,
            duration_ms: _,
            time_to_first_byte_ms: _,
            origin,
            dimensions,
            kind,
            route,
            backend,
            requested_model,
            model,
            requested_tier,
            tier,
            classification,
            usage: _,
            cost: _,
            reserved: _,
            bytes: _,
            outcome: _,
            status: _,
            unpriced,
        } = self;
        fn found(classification: &Option<Classification>) -> Option<(Tier, &BTreeSet<Detector>)> {
            let Classification { complexity: _, needed_tier, sensitive } = classification.as_ref()?;
            Some((*needed_tier, sensitive))
        }
        (Arc::ptr_eq(origin, &other.origin) || *origin == other.origin)
            && (dimensions, kind, route, backend) == (&other.dimensions, &other.kind, &other.route, &other.backend)
            && (requested_model, model, requested_tier, tier) == (&other.requested_model, &other.model, &other.requested_tier, &other.tier)
            && *unpriced == other.unpriced
            && found(classification) == found(&other.classification)
    }

    pub fn figures(&self) -> Figures {
        Figures {
            started_at_ms: self.started_at_ms,
            duration_ms: self.duration_ms,
            time_to_first_byte_ms: self.time_to_first_byte_ms,
            complexity: self.classification.as_ref().map(|found| found.complexity),
            usage: self.usage,
            cost: self.cost,
            reserved: self.reserved,
            bytes: self.bytes,
            outcome: self.outcome,
            status: self.status,
        }
    }

    /// The record of another call like it.
    pub fn with(&self, id: CallId, figures: &Figures) -> CallRecord {
        let Figures { started_at_ms, duration_ms, time_to_first_byte_ms, complexity, usage, cost, reserved, bytes, outcome, status } =
            *figures;
        let mut classification = self.classification.clone();
        if let (Some(found), Some(complexity)) = (&mut classification, complexity) {
            found.complexity = complexity;
        }
        CallRecord {
            id,
            started_at_ms,
            duration_ms,
            time_to_first_byte_ms,
            classification,
            usage,
            cost,
            reserved,
            bytes,
            outcome,
            status,
            ..self.clone()
        }
    }

    /// What the call weighs in each unit.
    pub fn amount(&self) -> Amount {
        let tokens = i64::try_from(self.usage.total()).unwrap_or(i64::MAX);
        Amount { usd: self.cost, tokens, requests: i64::from(self.outcome.is_charged()) }
    }
}

/// The numbers of a call, with which it differs from others like it. They are written as a row, without their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Figures {
    pub started_at_ms: i64,
    pub duration_ms: i64,
    pub time_to_first_byte_ms: Option<i64>,
    /// Of its classification, where it has one.
    pub complexity: Option<u8>,
    pub usage: Usage,
    pub cost: PicoUsd,
    pub reserved: Amount,
    pub bytes: u64,
    pub outcome: CallOutcome,
    pub status: u16,
}

/// [`Figures`] in their order.
type Row = (i64, i64, Option<i64>, Option<u8>, [u64; Usage::METERS], PicoUsd, (PicoUsd, i64, i64), u64, CallOutcome, u16);

impl From<Figures> for Row {
    fn from(figures: Figures) -> Row {
        let Figures { started_at_ms, duration_ms, time_to_first_byte_ms, complexity, usage, cost, reserved, bytes, outcome, status } =
            figures;
        let reserved = (reserved.usd, reserved.tokens, reserved.requests);
        (started_at_ms, duration_ms, time_to_first_byte_ms, complexity, usage.meters(), cost, reserved, bytes, outcome, status)
    }
}

impl From<Row> for Figures {
    fn from(row: Row) -> Figures {
        let (started_at_ms, duration_ms, time_to_first_byte_ms, complexity, meters, cost, reserved, bytes, outcome, status) = row;
        let (usd, tokens, requests) = reserved;
        Figures {
            started_at_ms,
            duration_ms,
            time_to_first_byte_ms,
            complexity,
            usage: Usage::of_meters(meters),
            cost,
            reserved: Amount { usd, tokens, requests },
            bytes,
            outcome,
            status,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum CallKind {
    Model {
        protocol: Protocol,
    },
    /// A call to a shared service.
    Shared,
    /// A request to a provider that is no call to a model, or of a kind that is not known.
    Unmetered,
}

/// What the classifier saw; nothing of the text itself is kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Classification {
    /// 0 (trivial) to 100.
    pub complexity: u8,
    /// The tier that the complexity asks for under the route's thresholds.
    pub needed_tier: Tier,
    #[serde(default)]
    pub sensitive: BTreeSet<Detector>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallOutcome {
    /// The provider answered and said what it used.
    Completed,
    /// The provider answered with an error and charged nothing.
    Failed,
    /// The answer broke off; charged by what is known, and by the reservation where nothing is.
    Interrupted,
    /// Whether the provider charged cannot be known (the sidecar died): charged as reserved.
    Unknown,
    /// Refused before a byte went upstream.
    Refused,
}

impl CallOutcome {
    /// True when a provider could charge for it, so that it counts as a request.
    pub fn is_charged(self) -> bool {
        matches!(self, CallOutcome::Completed | CallOutcome::Interrupted | CallOutcome::Unknown)
    }

    pub fn name(self) -> &'static str {
        match self {
            CallOutcome::Completed => "completed",
            CallOutcome::Failed => "failed",
            CallOutcome::Interrupted => "interrupted",
            CallOutcome::Unknown => "unknown",
            CallOutcome::Refused => "refused",
        }
    }
}
