//! The journal's lines and the state that they add up to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;
use crate::channel::message::{LeaseAsk, Reported};
use crate::core::amount::Amount;
use crate::core::call::{CallId, CallRecord, Figures};
use crate::core::lease::{GiveBack, LeaseId};
use crate::core::limit::LimitKey;

/// A call is compared with so many of those that were written out last.
pub const COMPARED: usize = 8;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Opened(Arc<OpenedCall>),
    /// As `Opened`, of a call like one that was.
    Begun(Box<Begun>),
    /// A call that was opened has ended.
    Ended(Box<Ended>),
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

/// A call on its way that is like another, written out before it in the same segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    like: CallId,
    call: CallId,
    figures: Figures,
}

impl Begun {
    /// How `call` can be said by `like`; `None` when it cannot.
    pub fn of(call: &OpenedCall, like: &OpenedCall) -> Option<Begun> {
        let is_like = (&call.lease, &call.unleased) == (&like.lease, &like.unleased) && call.record.is_like(&like.record);
        is_like.then(|| Begun { like: like.record.id.clone(), call: call.record.id.clone(), figures: call.record.figures() })
    }

    fn opened(&self, like: &OpenedCall) -> OpenedCall {
        OpenedCall { record: Arc::new(like.record.with(self.call.clone(), &self.figures)), ..like.clone() }
    }
}

/// What a call's end adds to the draft that it was opened with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    call: CallId,
    figures: Figures,
}

impl Ended {
    /// The end that makes `record` of a call's draft; `None` when there is more to it.
    pub fn of(record: &CallRecord, opened: &OpenedCall) -> Option<Ended> {
        let is_like = record.id == opened.record.id && record.is_like(&opened.record);
        is_like.then(|| Ended { call: record.id.clone(), figures: record.figures() })
    }
}

/// Lines as they are read: what was said by others is told in full.
#[derive(Default)]
pub struct Reading {
    pub state: State,
    /// Calls that were written out in this segment.
    written_out: HashMap<CallId, Arc<OpenedCall>>,
}

impl Reading {
    /// The next line, which says all that it means by itself. One that refers to what is not there stays as it is, and means nothing.
    pub fn next(&mut self, line: Line) -> Line {
        let line = match &line {
            Line::Begun(begun) => match self.written_out.get(&begun.like) {
                Some(like) => Line::Opened(Arc::new(begun.opened(like))),
                None => line,
            },
            Line::Ended(ended) => match self.state.open.get(&ended.call).map(|opened| &**opened) {
                Some(OpenedCall { record, lease, unleased }) => {
                    let record = Arc::new(record.with(ended.call.clone(), &ended.figures));
                    Line::Reported(Reported::Settled { record, lease: lease.clone(), unleased: unleased.clone() })
                }
                None => line,
            },
            Line::Opened(opened) => {
                self.written_out.insert(opened.record.id.clone(), Arc::clone(opened));
                line
            }
            Line::State(state) => {
                self.written_out = state.open.clone().into_iter().collect();
                Line::State(Box::new(state.written_in_full()))
            }
            _ => line,
        };
        self.state.apply(&line);
        line
    }
}

impl Line {
    /// True when the operator is told of it.
    pub fn is_reported(&self) -> bool {
        matches!(self, Line::Reported(_) | Line::Opened(_))
    }
}

/// What the operator is told of these lines. Of a call that ends among them only that: the ledger would forget at once that it began.
/// Where its lease gives something back in between it is told, too: that a call has lowered what it had reserved is what makes
/// that free.
pub fn reported<'a>(lines: impl DoubleEndedIterator<Item = &'a Line>) -> Vec<Reported> {
    let mut ended: HashMap<&CallId, Option<&LeaseId>> = HashMap::new();
    let mut told = Vec::new();
    for line in lines.rev() {
        match line {
            Line::Reported(reported) => {
                match reported {
                    Reported::Settled { record, lease, .. } => drop(ended.insert(&record.id, lease.as_ref())),
                    Reported::GivenBack { lease, .. } => ended.retain(|_, of| *of != Some(lease)),
                    Reported::Opened { .. } | Reported::Outcome { .. } => {}
                }
                told.push(reported.clone());
            }
            Line::Opened(opened) if !ended.contains_key(&opened.record.id) => {
                let OpenedCall { record, lease, unleased } = &**opened;
                told.push(Reported::Opened {
                    call: record.id.clone(),
                    lease: lease.clone(),
                    reserved: record.reserved,
                    draft: Some(Arc::clone(record)),
                    unleased: unleased.clone(),
                });
            }
            _ => {}
        }
    }
    told.reverse();
    told
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

    /// What goes back once the process that held it is gone, its open calls are settled, and the request that it left
    /// unanswered turned out to be granted `granted`.
    pub fn give_back(&self, lease: &LeaseId, granted: Amount) -> Option<GiveBack> {
        let amount = self.outstanding + granted;
        (!amount.is_zero()).then(|| GiveBack { lease: lease.clone(), seq: self.seq + 1, amount })
    }
}

/// What the lines add up to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub open: BTreeMap<CallId, Arc<OpenedCall>>,
    /// In a line, the calls that are like one of `open`; else none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    begun: Vec<Begun>,
    pub leases: BTreeMap<LeaseId, Held>,
    pub counters: BTreeMap<String, u64>,
    pub acknowledged: Position,
}

impl State {
    /// The same for a line: of calls that are like others only what is their own.
    pub fn said_once(&self) -> State {
        let (mut open, mut begun, mut written_out) = (BTreeMap::new(), Vec::new(), Vec::<&Arc<OpenedCall>>::new());
        for (id, call) in &self.open {
            match written_out.iter().rev().take(COMPARED).find_map(|like| Begun::of(call, like)) {
                Some(short) => begun.push(short),
                None => {
                    open.insert(id.clone(), Arc::clone(call));
                    written_out.push(call);
                }
            }
        }
        State { open, begun, leases: self.leases.clone(), counters: self.counters.clone(), acknowledged: self.acknowledged }
    }

    fn written_in_full(&self) -> State {
        let mut state = self.clone();
        for begun in std::mem::take(&mut state.begun) {
            if let Some(like) = self.open.get(&begun.like) {
                state.open.insert(begun.call.clone(), Arc::new(begun.opened(like)));
            }
        }
        state
    }

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
            // The former two refer to what is not there.
            Line::Begun(_) | Line::Ended(_) | Line::Reported(Reported::Opened { .. } | Reported::Outcome { .. }) => {}
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
