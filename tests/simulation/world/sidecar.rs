//! One sidecar: the machines that it is made of, and the order in which its shell calls them (`src/sidecar/leases.rs`, `settle.rs`,
//! `start.rs`). What survives its process is the journal alone.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use spendkeeper::channel::message::{LeaseAsk, Reported};
use spendkeeper::core::amount::Amount;
use spendkeeper::core::call::{CallId, CallOutcome};
use spendkeeper::core::lease::{Answer, Ask, GiveBack, LeaseBook, LeaseId};
use spendkeeper::core::limit::LimitKey;
use spendkeeper::ledger::{Decision, HolderId};
use spendkeeper::sidecar::journal::{Line, OpenedCall, State, reported};

use crate::record::draft;

/// A call that has drawn and may be on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub id: CallId,
    pub lease: LeaseId,
    /// What of its reservation is still set aside.
    pub held: Amount,
}

/// A call that waits for a lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    pub set: Vec<LimitKey>,
    pub need: Amount,
    /// What this sidecar held elsewhere has gone back for it.
    recalled: bool,
}

#[derive(Clone, Debug)]
pub struct Sidecar {
    pub holder: HolderId,
    /// Its process runs.
    pub up: bool,
    /// Its pod is there.
    pub there: bool,
    pub book: LeaseBook,
    pub calls: Vec<Call>,
    pub waiting: Vec<Waiting>,
    /// What the journal's lines add up to.
    pub journal: State,
    /// The journal's lines for the ledger, from the first that is not acknowledged.
    pub queue: Vec<Line>,
    /// Entries that were acknowledged.
    pub taken: usize,
    leases: u32,
    made: u32,
}

/// What a sidecar wants to be sent.
pub type Outbox = Vec<(LeaseAsk, i64)>;

impl Hash for Sidecar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Sidecar { holder: _, up, there, book, calls, waiting, journal, queue, taken, leases, made } = self;
        (up, there, book, calls, waiting, taken, leases, made).hash(state);
        for (call, open) in &journal.open {
            (call, open.record.reserved).hash(state);
        }
        for (lease, held) in &journal.leases {
            (lease, held.seq, held.outstanding, &held.asked).hash(state);
        }
        queue.iter().for_each(|line| hash_line(line, state));
    }
}

fn hash_line<H: Hasher>(line: &Line, state: &mut H) {
    match line {
        Line::Opened(opened) => (0, &opened.record.id, &opened.lease, opened.record.reserved).hash(state),
        Line::Reported(Reported::Settled { record, lease, .. }) => (1, &record.id, lease, record.amount()).hash(state),
        Line::Reported(Reported::GivenBack { lease, seq, amount }) => (2, lease, seq, amount).hash(state),
        _ => {}
    }
}

impl Sidecar {
    pub fn new(name: usize) -> Sidecar {
        Sidecar {
            holder: HolderId(format!("p{name}")),
            up: true,
            there: true,
            book: LeaseBook::default(),
            calls: Vec::new(),
            waiting: Vec::new(),
            journal: State::default(),
            queue: Vec::new(),
            taken: 0,
            leases: 0,
            made: 0,
        }
    }

    /// As `Journal::append`.
    fn append(&mut self, line: Line) {
        self.journal.apply(&line);
        if line.is_reported() {
            self.queue.push(line);
        }
    }

    fn note(&mut self, backs: impl IntoIterator<Item = GiveBack>) {
        for GiveBack { lease, seq, amount } in backs {
            self.append(Line::Reported(Reported::GivenBack { lease, seq, amount }));
        }
    }

    /// A call comes in: it draws, or waits for a lease. The call if it is on its way.
    pub fn call(&mut self, set: &[LimitKey], need: Amount, now_ms: i64, out: &mut Outbox) -> Option<CallId> {
        if let Some(call) = self.draw(set, need, now_ms) {
            return Some(call);
        }
        self.waiting.push(Waiting { set: set.to_vec(), need, recalled: false });
        self.ask(set, need, now_ms, out);
        None
    }

    fn draw(&mut self, set: &[LimitKey], need: Amount, now_ms: i64) -> Option<CallId> {
        let lease = self.book.draw(set, need, now_ms)?;
        self.made += 1;
        let id = CallId(format!("{}-c{}", self.holder.0, self.made).into());
        let record = Arc::new(draft(&id, need));
        self.append(Line::Opened(Arc::new(OpenedCall { record, lease: Some(lease.clone()), unleased: vec![] })));
        self.calls.push(Call { id: id.clone(), lease, held: need });
        Some(id)
    }

    fn ask(&mut self, set: &[LimitKey], need: Amount, now_ms: i64, out: &mut Outbox) {
        let next = LeaseId(format!("{}-l{}", self.holder.0, self.leases + 1).into());
        let mut made = false;
        let (ask, expired) = self.book.ask(set, need, Amount::ZERO, now_ms, || {
            made = true;
            next
        });
        self.leases += u32::from(made);
        self.note(expired);
        self.send(set, &ask, now_ms, out);
    }

    fn send(&mut self, set: &[LimitKey], ask: &Ask, now_ms: i64, out: &mut Outbox) {
        let Ask { lease, seq, min, want } = ask.clone();
        self.append(Line::Asked { lease: lease.clone(), seq, limits: set.to_vec(), min, want });
        out.push((LeaseAsk { lease, seq, limits: set.to_vec(), min, want, need: min }, now_ms));
    }

    /// An answer arrives, to this process or to one before it. Calls that can draw now are on their way.
    pub fn answered(&mut self, ask: &LeaseAsk, sent_ms: i64, decision: &Decision, now_ms: i64, out: &mut Outbox) -> Vec<CallId> {
        let granted = match decision {
            Decision::Granted { granted, .. } => *granted,
            _ => Amount::ZERO,
        };
        let awaited = self.book.unanswered().into_iter().find(|(_, a)| (&a.lease, a.seq) == (&ask.lease, ask.seq));
        let Some((set, asked)) = awaited else {
            self.learnt(ask, granted);
            return Vec::new();
        };
        self.append(Line::Answered { lease: asked.lease.clone(), granted });
        let answer = match decision {
            Decision::Granted { granted, valid_for_ms, left } => {
                Answer::Granted { amount: *granted, expires_ms: sent_ms.saturating_add(*valid_for_ms), left: *left }
            }
            Decision::Refused { .. } => Answer::Refused,
            Decision::Expired => Answer::Expired,
        };
        let back = self.book.answered(&set, &asked, answer, now_ms);
        self.note(back);
        self.serve(&set, matches!(decision, Decision::Refused { .. }), now_ms, out)
    }

    /// Those that wait under `set` draw, ask again, or are refused.
    fn serve(&mut self, set: &[LimitKey], refused: bool, now_ms: i64, out: &mut Outbox) -> Vec<CallId> {
        let (waiting, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.set == set);
        self.waiting = others;
        let mut drawn = Vec::new();
        for mut wait in waiting {
            if let Some(call) = self.draw(set, wait.need, now_ms) {
                drawn.push(call);
                continue;
            }
            if refused {
                let backs = if wait.recalled { vec![] } else { self.book.recall(set, Some(set), now_ms) };
                if backs.is_empty() {
                    continue;
                }
                wait.recalled = true;
                self.note(backs);
            }
            self.ask(set, wait.need, now_ms, out);
            self.waiting.push(wait);
        }
        drawn
    }

    /// The answer to a request of the process before.
    fn learnt(&mut self, ask: &LeaseAsk, granted: Amount) {
        let held = self.journal.leases.get(&ask.lease).filter(|held| held.seq == ask.seq && held.asked.is_some());
        if let Some(held) = held.cloned() {
            self.append(Line::Answered { lease: ask.lease.clone(), granted });
            self.note(held.give_back(&ask.lease, granted));
        }
    }

    /// What is asked again because nobody answered, in this process or the one before.
    pub fn repeat(&mut self, now_ms: i64, out: &mut Outbox) {
        for (set, ask) in self.book.unanswered() {
            self.send(&set, &ask, now_ms, out);
        }
        let of_before: Vec<LeaseAsk> = self.journal.leases.iter().filter_map(|(lease, held)| held.unanswered(lease)).collect();
        out.extend(
            of_before
                .into_iter()
                .map(|ask| (ask, now_ms))
                .filter(|(ask, _)| !out.iter().any(|(sent, _)| sent.lease == ask.lease))
                .collect::<Vec<_>>(),
        );
    }

    /// The provider's answer is complete and cost `cost`; `None` when its cost cannot be known.
    pub fn ended(&mut self, call: usize, cost: Option<Amount>, now_ms: i64) -> (CallId, Amount) {
        let Call { id, lease, held } = self.calls.remove(call);
        let mut record = draft(&id, held);
        if let Some(cost) = cost {
            (record.cost, record.outcome) = (cost.usd, CallOutcome::Completed);
        }
        let charged = Amount { tokens: 0, requests: 0, ..record.amount() };
        self.append(Line::Reported(Reported::Settled { record: Arc::new(record), lease: Some(lease.clone()), unleased: vec![] }));
        let back = self.book.settle(&lease, held, charged, now_ms);
        self.note(back);
        (id, charged)
    }

    /// The provider said what the input was: the call can cost no more than `worst`.
    pub fn needs_no_more_than(&mut self, call: usize, worst: Amount) {
        let Call { id, lease, held } = self.calls[call].clone();
        let worst = worst.min(held);
        let record = Arc::new(draft(&id, worst));
        self.append(Line::Opened(Arc::new(OpenedCall { record, lease: Some(lease.clone()), unleased: vec![] })));
        let back = self.book.release(&lease, held - worst);
        self.note(back);
        self.calls[call].held = worst;
    }

    pub fn tick(&mut self, now_ms: i64, out: &mut Outbox) {
        let backs = self.book.tick(now_ms);
        self.note(backs);
        self.repeat(now_ms, out);
    }

    pub fn recall(&mut self, limits: &[LimitKey], now_ms: i64) {
        let backs = self.book.recall(limits, None, now_ms);
        self.note(backs);
    }

    pub fn revoke(&mut self, limits: &[LimitKey]) {
        let backs = self.book.revoke(limits);
        self.note(backs);
    }

    /// The process dies: what was in memory is gone.
    pub fn crash(&mut self) {
        self.up = false;
        self.book = LeaseBook::default();
        self.calls.clear();
        self.waiting.clear();
    }

    /// The next process opens the journal. Calls that are charged as reserved. It skips (on purpose, for a check of the check) those
    /// calls, or the leases.
    pub fn restart(&mut self, (skip_calls, skip_leases): (bool, bool)) -> Vec<(CallId, Amount)> {
        self.up = true;
        if skip_calls {
            self.journal.open.clear();
        }
        if skip_leases {
            self.journal.leases.clear();
        }
        let open: Vec<Arc<OpenedCall>> = self.journal.open.values().cloned().collect();
        let charged = open.iter().map(|call| (call.record.id.clone(), call.record.reserved)).collect();
        open.into_iter().for_each(|call| self.append(call.settled()));
        let idle: BTreeMap<_, _> =
            self.journal.leases.iter().filter(|(_, held)| held.asked.is_none()).map(|(l, h)| (l.clone(), h.clone())).collect();
        for (lease, held) in idle {
            self.note(held.give_back(&lease, Amount::ZERO));
        }
        charged
    }

    /// What is reported next: everything that is not acknowledged.
    pub fn report(&self) -> Option<(usize, Vec<Reported>)> {
        (!self.queue.is_empty()).then(|| (self.taken + self.queue.len(), reported(self.queue.iter())))
    }

    /// Everything before `end` was reported.
    pub fn acknowledged(&mut self, end: usize) {
        if end > self.taken {
            self.queue.drain(..end - self.taken);
            self.taken = end;
        }
    }
}
