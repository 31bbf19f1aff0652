//! A small world: sidecars, a network that loses, repeats and reorders, a ledger, and providers who charge. The machines are the
//! product's own; the world calls them in any order that an event allows, and knows the truth that they must agree with.

pub mod check;
pub mod faults;
pub mod ledger;
pub mod sidecar;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use spendkeeper::channel::message::{LeaseAsk, Reported};
use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::CallId;
use spendkeeper::core::dimensions::Origin;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::ledger::{Decision, Entry, LeaseId};

use ledger::Books;
use sidecar::{Outbox, Sidecar};

/// Length of a budget's window.
pub const WINDOW_MS: i64 = 600_000;
/// Windows that a run may reach; one more is for what is left at its end.
const WINDOWS: i64 = 2;

pub fn usd(pico: i128) -> Amount {
    Amount { usd: PicoUsd(pico), ..Amount::ZERO }
}

/// What happens next. Sidecars and limits go by their numbers, calls by their place among those of their sidecar, messages by their place
/// in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An app makes a call of this worst case under this set of limits.
    Call {
        sidecar: usize,
        set: usize,
        need: i128,
    },
    /// The provider answers, and charges a share (percent) of what the call holds.
    End {
        sidecar: usize,
        call: usize,
        percent: i128,
    },
    /// The provider never said what the call cost.
    Unknown {
        sidecar: usize,
        call: usize,
    },
    /// What a call may still cost is known to be a share (percent) of what it holds.
    Less {
        sidecar: usize,
        call: usize,
        percent: i128,
    },
    /// The reporter sends what is not acknowledged.
    Report {
        sidecar: usize,
    },
    /// A message arrives; `again` leaves a copy on its way.
    Deliver {
        message: usize,
        again: bool,
    },
    /// A request arrives and its reply is there at once, or lost; a copy of the request stays on its way.
    Exchange {
        message: usize,
        answered: bool,
    },
    Lose {
        message: usize,
    },
    /// The keeper's turn: idle money goes back, unanswered requests are sent again.
    Tick {
        sidecar: usize,
    },
    Wait {
        ms: i64,
    },
    /// The operator calls back what is idle under this limit.
    Recall {
        sidecar: usize,
        limit: usize,
    },
    Crash {
        sidecar: usize,
    },
    Restart {
        sidecar: usize,
    },
    /// The pod has ended for good, and the operator knows.
    Gone {
        sidecar: usize,
    },
    /// The operator's process is replaced: what was on its way to it and from it is lost.
    OperatorRestart,
    /// The budget is changed, and the sidecars are told (or will be, when they are back).
    SetLimit {
        limit: usize,
        amount: i128,
    },
}

#[derive(Clone, Debug)]
pub enum Message {
    Acquire { sidecar: usize, ask: LeaseAsk, sent_ms: i64 },
    Answer { sidecar: usize, ask: LeaseAsk, sent_ms: i64, decision: Decision },
    Report { sidecar: usize, end: usize, entries: Vec<Reported> },
    Taken { sidecar: usize, end: usize },
    Revoke { sidecar: usize, limit: usize },
}

impl Message {
    fn sidecar(&self) -> usize {
        match self {
            Message::Acquire { sidecar, .. }
            | Message::Answer { sidecar, .. }
            | Message::Report { sidecar, .. }
            | Message::Taken { sidecar, .. }
            | Message::Revoke { sidecar, .. } => *sidecar,
        }
    }

    /// What is answered, or acknowledged.
    pub fn is_request(&self) -> bool {
        matches!(self, Message::Acquire { .. } | Message::Report { .. })
    }

    /// What tells two messages apart: a report's entries follow from where it begins and ends, but how it was cut is told by its length.
    fn key(&self) -> (u8, usize, u64, u64, i64, String) {
        match self {
            Message::Acquire { sidecar, ask, sent_ms } => (0, *sidecar, ask.seq, 0, *sent_ms, ask.lease.0.to_string()),
            Message::Answer { sidecar, ask, sent_ms, decision } => {
                let granted = match decision {
                    Decision::Granted { granted, .. } => granted.usd.0 as u64,
                    Decision::Refused { .. } => u64::MAX,
                    Decision::Expired => u64::MAX - 1,
                };
                (1, *sidecar, ask.seq, granted, *sent_ms, ask.lease.0.to_string())
            }
            Message::Report { sidecar, end, entries } => (2, *sidecar, *end as u64, entries.len() as u64, 0, String::new()),
            Message::Taken { sidecar, end } => (3, *sidecar, *end as u64, 0, 0, String::new()),
            Message::Revoke { sidecar, limit } => (4, *sidecar, *limit as u64, 0, 0, String::new()),
        }
    }
}

/// What nobody in the world knows as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    pub calls: BTreeMap<CallId, TrueCall>,
    /// The most that a limit may have settled and set aside, by window: the limit itself, or what it was lowered beneath.
    pub ceilings: BTreeMap<(usize, i64), i128>,
    /// The window in which a lease was granted, and under what.
    pub leases: BTreeMap<LeaseId, (i64, Vec<LimitKey>)>,
}

/// A call that went upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrueCall {
    pub sidecar: usize,
    pub lease: LeaseId,
    /// The most that the provider can charge.
    pub worst: i128,
    /// What the provider did charge.
    pub billed: i128,
    /// What the sidecar, or the process after it, said that it cost.
    pub said: Option<i128>,
    /// What the ledger heard of it: what it reserved, or what it cost.
    pub heard: Option<Heard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    Open(i128),
    Settled(i128),
}

/// What is wrong with the machines, on purpose: a check that finds nothing when one of these is on checks nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SidecarFault {
    #[default]
    None,
    /// A process that begins does not look at what the one before left open.
    ForgetsOpenCalls,
    /// What the process before held is left where it is.
    ForgetsLeases,
}

impl SidecarFault {
    pub const ALL: [SidecarFault; 2] = [SidecarFault::ForgetsOpenCalls, SidecarFault::ForgetsLeases];
}

#[derive(Clone, Debug)]
pub struct World<L> {
    pub now_ms: i64,
    pub ledger: L,
    pub limits: Vec<i128>,
    pub sets: Vec<Vec<usize>>,
    pub sidecars: Vec<Sidecar>,
    pub network: Vec<Message>,
    pub truth: Truth,
    pub fault: SidecarFault,
}

impl<L: Hash> Hash for World<L> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.now_ms, &self.ledger, &self.limits, &self.sidecars, &self.truth).hash(state);
        let keys: BTreeSet<_> = self.network.iter().map(Message::key).collect();
        keys.hash(state);
    }
}

pub fn key(limit: usize) -> LimitKey {
    LimitKey(format!("n/b/{limit}"))
}

impl<L: Books> World<L> {
    /// Sidecars that hold nothing, and limits of `limits` pico-dollars each, of which each of `sets` names some.
    pub fn new(ledger: L, sidecars: usize, limits: Vec<i128>, sets: Vec<Vec<usize>>) -> World<L> {
        let ceilings =
            (0..limits.len()).flat_map(|l| (0..=WINDOWS).map(move |w| (l, w * WINDOW_MS))).map(|at| (at, limits[at.0])).collect();
        World {
            now_ms: 0,
            ledger,
            limits,
            sets,
            sidecars: (0..sidecars).map(Sidecar::new).collect(),
            network: Vec::new(),
            truth: Truth { calls: BTreeMap::new(), ceilings, leases: BTreeMap::new() },
            fault: SidecarFault::None,
        }
    }

    pub fn terms(&self, limit: usize, window: i64) -> LimitTerms {
        let span = Span::Fixed { start_ms: window, end_ms: window + WINDOW_MS };
        LimitTerms { key: key(limit), unit: Unit::Usd, limit: self.limits[limit], span }
    }

    pub fn window(&self) -> i64 {
        self.now_ms / WINDOW_MS * WINDOW_MS
    }

    fn keys(&self, set: usize) -> Vec<LimitKey> {
        self.sets[set].iter().map(|limit| key(*limit)).collect()
    }

    /// Whether the event can happen now.
    pub fn can(&self, event: Event) -> bool {
        let up = |sidecar: usize| self.sidecars[sidecar].up;
        match event {
            Event::Call { sidecar, .. } | Event::Tick { sidecar } | Event::Crash { sidecar } | Event::Recall { sidecar, .. } => up(sidecar),
            Event::Report { sidecar } => up(sidecar) && !self.sidecars[sidecar].queue.is_empty(),
            Event::End { sidecar, call, .. } | Event::Unknown { sidecar, call } | Event::Less { sidecar, call, .. } => {
                call < self.sidecars[sidecar].calls.len()
            }
            Event::Deliver { message, .. } | Event::Lose { message } => message < self.network.len(),
            Event::Exchange { message, .. } => self.network.get(message).is_some_and(Message::is_request),
            Event::Restart { sidecar } => !up(sidecar) && self.sidecars[sidecar].there,
            Event::Gone { sidecar } => self.sidecars[sidecar].there,
            Event::Wait { ms } => self.now_ms + ms < WINDOWS * WINDOW_MS,
            Event::OperatorRestart | Event::SetLimit { .. } => true,
        }
    }

    /// Makes it happen.
    pub fn step(&mut self, event: Event) {
        let (now, mut out) = (self.now_ms, Outbox::new());
        match event {
            Event::Call { sidecar, set, need } => {
                let keys = self.keys(set);
                let drawn = self.sidecars[sidecar].call(&keys, usd(need), now, &mut out);
                self.went(sidecar, drawn);
                self.send(sidecar, out);
            }
            Event::End { sidecar, call, percent } => {
                let cost = self.sidecars[sidecar].calls[call].held.usd.0 * percent / 100;
                self.bill(sidecar, call, cost);
                let (id, said) = self.sidecars[sidecar].ended(call, Some(usd(cost)), now);
                self.said(&id, said);
            }
            Event::Unknown { sidecar, call } => {
                self.bill(sidecar, call, self.sidecars[sidecar].calls[call].held.usd.0);
                let (id, said) = self.sidecars[sidecar].ended(call, None, now);
                self.said(&id, said);
            }
            Event::Less { sidecar, call, percent } => {
                let Sidecar { calls, .. } = &self.sidecars[sidecar];
                let (id, worst) = (calls[call].id.clone(), calls[call].held.usd.0 * percent / 100);
                self.truth.calls.get_mut(&id).expect("it went").worst = worst;
                self.sidecars[sidecar].needs_no_more_than(call, usd(worst));
            }
            Event::Report { sidecar } => {
                if let Some((end, entries)) = self.sidecars[sidecar].report() {
                    self.put(Message::Report { sidecar, end, entries });
                }
            }
            Event::Deliver { message, again } => {
                let message = if again { self.network[message].clone() } else { self.network.swap_remove(message) };
                self.deliver(message);
            }
            Event::Exchange { message, answered } => {
                let others = self.network.len();
                self.deliver(self.network[message].clone());
                let replies = self.network.split_off(others);
                replies.into_iter().filter(|_| answered).for_each(|reply| self.deliver(reply));
            }
            Event::Lose { message } => drop(self.network.swap_remove(message)),
            Event::Tick { sidecar } => {
                self.sidecars[sidecar].tick(now, &mut out);
                self.send(sidecar, out);
            }
            Event::Wait { ms } => self.now_ms += ms,
            Event::Recall { sidecar, limit } => self.sidecars[sidecar].recall(&[key(limit)], now),
            Event::Crash { sidecar } => self.abandon_calls(sidecar),
            Event::Restart { sidecar } => self.restart(sidecar),
            Event::Gone { sidecar } => self.gone(sidecar),
            Event::OperatorRestart => {
                self.network.retain(|message| matches!(message, Message::Revoke { .. }));
                self.ledger.reopen();
            }
            Event::SetLimit { limit, amount } => {
                self.limits[limit] = amount;
                (0..self.sidecars.len()).for_each(|sidecar| self.put(Message::Revoke { sidecar, limit }));
            }
        }
        self.lower_ceilings();
    }

    fn put(&mut self, message: Message) {
        let key = message.key();
        if !self.network.iter().any(|m| m.key() == key) {
            self.network.push(message);
        }
    }

    fn send(&mut self, sidecar: usize, out: Outbox) {
        out.into_iter().for_each(|(ask, sent_ms)| self.put(Message::Acquire { sidecar, ask, sent_ms }));
    }

    fn deliver(&mut self, message: Message) {
        let now_ms = self.now_ms;
        let sidecar = message.sidecar();
        match message {
            Message::Acquire { ask, sent_ms, .. } => {
                let of = &self.sidecars[sidecar];
                if !of.there {
                    return;
                }
                let terms = |key: &LimitKey| self.limit_of(key).map(|limit| self.terms(limit, self.window()));
                let acquire = ask.clone().into_acquire(of.holder.clone(), terms, now_ms).expect("every limit is known");
                let decision = self.ledger.acquire(acquire);
                if matches!(decision, Decision::Granted { .. }) {
                    let window = self.window();
                    self.truth.leases.entry(ask.lease.clone()).or_insert((window, ask.limits.clone()));
                }
                self.put(Message::Answer { sidecar, ask, sent_ms, decision });
            }
            Message::Answer { ask, sent_ms, decision, .. } if self.sidecars[sidecar].up => {
                let mut out = Outbox::new();
                let drawn = self.sidecars[sidecar].answered(&ask, sent_ms, &decision, now_ms, &mut out);
                self.went(sidecar, drawn);
                self.send(sidecar, out);
            }
            Message::Report { end, entries, .. } => {
                let terms = |key: &LimitKey| self.limit_of(key).map(|limit| self.terms(limit, self.window()));
                let entries: Vec<Entry> = entries.into_iter().map(|e| e.into_entry(&Origin::default(), terms, now_ms)).collect();
                self.heard(&entries);
                let holder = self.sidecars[sidecar].holder.clone();
                self.ledger.report(&holder, entries, now_ms);
                self.put(Message::Taken { sidecar, end });
            }
            Message::Taken { end, .. } if self.sidecars[sidecar].up => self.sidecars[sidecar].acknowledged(end),
            Message::Revoke { limit, .. } if self.sidecars[sidecar].up => self.sidecars[sidecar].revoke(&[key(limit)]),
            Message::Answer { .. } | Message::Taken { .. } | Message::Revoke { .. } => {}
        }
    }

    fn limit_of(&self, key: &LimitKey) -> Option<usize> {
        (0..self.limits.len()).find(|limit| self::key(*limit) == *key)
    }

    /// Calls that have drawn go upstream.
    fn went(&mut self, sidecar: usize, calls: impl IntoIterator<Item = CallId>) {
        for id in calls {
            let call = self.sidecars[sidecar].calls.iter().find(|call| call.id == id).expect("it has just drawn");
            let (lease, worst) = (call.lease.clone(), call.held.usd.0);
            self.truth.calls.insert(id, TrueCall { sidecar, lease, worst, billed: 0, said: None, heard: None });
        }
    }

    fn bill(&mut self, sidecar: usize, call: usize, cost: i128) {
        let id = &self.sidecars[sidecar].calls[call].id;
        self.truth.calls.get_mut(id).expect("it went").billed = cost;
    }

    fn said(&mut self, id: &CallId, cost: Amount) {
        let call = self.truth.calls.get_mut(id).expect("it went");
        assert!(call.said.replace(cost.usd.0).is_none(), "a call ends once");
    }

    /// Whoever is not there to read the answer does not keep the provider from charging for all of it.
    fn abandon_calls(&mut self, sidecar: usize) {
        for call in &self.sidecars[sidecar].calls {
            let call = self.truth.calls.get_mut(&call.id).expect("it went");
            call.billed = call.worst;
        }
        self.sidecars[sidecar].crash();
    }

    fn restart(&mut self, sidecar: usize) {
        let skip = match self.fault {
            SidecarFault::None => (false, false),
            SidecarFault::ForgetsOpenCalls => (true, false),
            SidecarFault::ForgetsLeases => (false, true),
        };
        for (id, cost) in self.sidecars[sidecar].restart(skip) {
            self.said(&id, cost);
        }
    }

    /// What the pod had not reported by now is lost with it.
    fn gone(&mut self, sidecar: usize) {
        self.abandon_calls(sidecar);
        self.sidecars[sidecar].there = false;
        self.network.retain(|message| message.sidecar() != sidecar);
        let (holder, now_ms) = (self.sidecars[sidecar].holder.clone(), self.now_ms);
        self.ledger.holder_gone(&holder, now_ms);
    }

    fn heard(&mut self, entries: &[Entry]) {
        for entry in entries {
            match entry {
                Entry::Opened { call, reserved, .. } => {
                    let call = self.truth.calls.get_mut(call).expect("it went");
                    match &mut call.heard {
                        None => call.heard = Some(Heard::Open(reserved.usd.0)),
                        Some(Heard::Open(least)) => *least = (*least).min(reserved.usd.0),
                        Some(Heard::Settled(_)) => {}
                    }
                }
                Entry::Settled { record, .. } => {
                    let call = self.truth.calls.get_mut(&record.id).expect("it went");
                    call.heard = Some(Heard::Settled(record.cost.0));
                }
                _ => {}
            }
        }
    }

    /// What a limit was lowered beneath may be spent, and no more.
    fn lower_ceilings(&mut self) {
        let lowered = |((limit, _), ceiling): (&(usize, i64), &i128)| *ceiling != self.limits[*limit];
        if !self.truth.ceilings.iter().any(lowered) {
            return;
        }
        for ((limit, window), ceiling) in std::mem::take(&mut self.truth.ceilings) {
            let (settled, outstanding) = self.ledger.standing(&self.terms(limit, window));
            self.truth.ceilings.insert((limit, window), self.limits[limit].max(ceiling.min(settled + outstanding)));
        }
    }
}
