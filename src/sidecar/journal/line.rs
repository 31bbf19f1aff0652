//! The journal's lines and the state that they add up to.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;
use crate::channel::message::{LeaseAsk, Reported};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallRecord};
use crate::core::lease::LeaseId;
use crate::core::limit::LimitKey;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Opened(Arc<OpenedCall>),
    /// To be reported as it is.
    Reported(Reported),
    Asked {
        lease: LeaseId,
        seq: u64,
        limits: Vec<LimitKey>,
        min: Amount,
        want: Amount,
    },
    /// The last request for the lease was answered; nothing is granted by a refusal.
    Answered {
        lease: LeaseId,
        granted: Amount,
    },
    /// The last value seen of a counter in the app's metrics.
    Counter {
        metric: String,
        value: u64,
    },
    Acknowledged(Position),
    /// The state at the start of a segment.
    State(Box<State>),
}

/// A call on its way: what to charge if nothing more is learnt of it, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenedCall {
    pub record: Arc<CallRecord>,
    #[serde(default)]
    pub lease: Option<LeaseId>,
    #[serde(default)]
    pub unleased: Vec<LimitKey>,
}

impl OpenedCall {
    /// Its end, if its draft is the last word.
    pub fn settled(&self) -> Line {
        let OpenedCall { record, lease, unleased } = self;
        Line::Reported(Reported::Settled { record: Arc::clone(record), lease: lease.clone(), unleased: unleased.clone() })
    }
}

impl Line {
    /// True when the operator is told of it.
    pub fn is_reported(&self) -> bool {
        matches!(self, Line::Reported(_) | Line::Opened(_))
    }
}

/// What the operator is told of these lines. Of a call that ends among them only that: the ledger would forget at once that it began.
pub fn reported<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> Vec<Reported> {
    let ends = lines.clone().filter_map(|line| match line {
        Line::Reported(Reported::Settled { record, .. }) => Some(&record.id),
        _ => None,
    });
    let ended: HashSet<&CallId> = ends.collect();
    let told = |line: &Line| match line {
        Line::Reported(reported) => Some(reported.clone()),
        Line::Opened(opened) if !ended.contains(&opened.record.id) => {
            let OpenedCall { record, lease, unleased } = &**opened;
            Some(Reported::Opened {
                call: record.id.clone(),
                lease: lease.clone(),
                reserved: record.reserved,
                draft: Some(Arc::clone(record)),
                unleased: unleased.clone(),
            })
        }
        _ => None,
    };
    lines.filter_map(told).collect()
}

/// A lease as the ledger sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    pub seq: u64,
    /// Granted and neither settled nor given back.
    pub outstanding: Amount,
    /// The request that is not answered.
    #[serde(default)]
    pub asked: Option<(Vec<LimitKey>, Amount, Amount)>,
}

impl Held {
    /// The unanswered request, to be sent again.
    pub fn unanswered(&self, lease: &LeaseId) -> Option<LeaseAsk> {
        let (limits, min, want) = self.asked.clone()?;
        Some(LeaseAsk { lease: lease.clone(), seq: self.seq, limits, min, want, need: min })
    }
}

/// What the lines add up to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub open: BTreeMap<CallId, Arc<OpenedCall>>,
    pub leases: BTreeMap<LeaseId, Held>,
    pub counters: BTreeMap<String, u64>,
    pub acknowledged: Position,
}

impl State {
    pub fn apply(&mut self, line: &Line) {
        match line {
            Line::Opened(call) => {
                self.open.insert(call.record.id.clone(), Arc::clone(call));
            }
            Line::Reported(Reported::Settled { record, lease, .. }) => {
                self.open.remove(&record.id);
                if let Some(lease) = lease {
                    self.take(lease, record.amount());
                }
            }
            Line::Reported(Reported::GivenBack { lease, seq, amount }) => {
                if let Some(held) = self.leases.get_mut(lease) {
                    held.seq = held.seq.max(*seq);
                }
                self.take(lease, *amount);
            }
            Line::Reported(Reported::Opened { .. } | Reported::Outcome { .. }) => {}
            Line::Asked { lease, seq, limits, min, want } => {
                let held = self.leases.entry(lease.clone()).or_default();
                (held.seq, held.asked) = (*seq, Some((limits.clone(), *min, *want)));
            }
            Line::Answered { lease, granted } => {
                if let Some(held) = self.leases.get_mut(lease) {
                    held.asked = None;
                    held.outstanding += *granted;
                }
                self.take(lease, Amount::ZERO);
            }
            Line::Counter { metric, value } => {
                self.counters.insert(metric.clone(), *value);
            }
            Line::Acknowledged(position) => self.acknowledged = *position,
            Line::State(state) => *self = State::clone(state),
        }
    }

    /// Money leaves a lease; one that is empty is forgotten.
    fn take(&mut self, lease: &LeaseId, amount: Amount) {
        let Some(held) = self.leases.get_mut(lease) else { return };
        held.outstanding = held.outstanding.minus_floor_zero(amount);
        if held.outstanding.is_zero() && held.asked.is_none() {
            self.leases.remove(lease);
        }
    }
}

/// Lines as text; a group ends with a newline, and its lines are told apart by a record separator, so that a torn write
/// loses the whole group.
pub fn to_text(lines: &[Line]) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024 * lines.len());
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            text.push(SEPARATOR);
        }
        serde_json::to_writer(&mut text, line).expect("a line has string keys only, so it is JSON in memory");
    }
    text.push(b'\n');
    text
}

/// ASCII's record separator, which JSON text never holds unescaped.
const SEPARATOR: u8 = 0x1e;

/// The lines of a group, without its newline. One that cannot be read (a newer release's, or damage) is left out, and logged.
pub fn from_text(group: &[u8]) -> impl Iterator<Item = Line> + '_ {
    group.split(|b| *b == SEPARATOR).filter_map(|text| match serde_json::from_slice(text) {
        Ok(line) => Some(line),
        Err(error) => {
            tracing::error!(%error, bytes = text.len(), "a line of the journal cannot be read and is left out");
            None
        }
    })
}
