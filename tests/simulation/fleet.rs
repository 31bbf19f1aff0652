//! A thousand sidecars of very unequal traffic under one limit, until it is used up: how often they ask, and how much of it can be used.
//!
//! Events by their time, in microseconds; the lease books and the ledger's machine are the product's own. Deterministic by its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::{CallId, CallOutcome, CallRecord};
use spendkeeper::core::lease::{self, Answer, Ask, GiveBack, LeaseBook, LeaseId};
use spendkeeper::core::limit::{LimitKey, LimitTerms, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::ledger::machine::{self, Request, Rows, Table};
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId};

use crate::random::Random;
use crate::record::draft;

/// The way to the operator, and back; with the ledger's write.
const WAY_US: u64 = 3_000;
/// As the sidecar's reporter gathers.
const GATHER_US: u64 = 20_000;
/// As the sidecar's keeper looks for what is idle.
const TICK_US: u64 = 250_000;
/// As the operator spaces recalls.
const RECALL_PAUSE_US: u64 = 250_000;
/// What calls cost on average, in pico-dollars; their worst case is four times as much.
const COST: u64 = 1_000_000;
/// Milliseconds that calls take, from and to.
const TAKES_US: (u64, u64) = (50_000, 250_000);
/// So long traffic goes on before it is known what it is like.
const KNOWN_US: u64 = 8_000_000;
/// Table of calls that ended; nothing here asks about them again, so it may be emptied.
const ENDED_KEPT: u64 = 20_000;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    pub sidecars: usize,
    /// Of all of them.
    pub calls_per_second: f64,
    /// The share of sidecar `k` is as 1/k to this power.
    pub skew: f64,
    /// The limit, in calls of average cost.
    pub calls: u64,
    /// When to stop, if the limit is not used up before.
    pub seconds: u64,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub calls: u64,
    pub refused: u64,
    /// Refused, although limit − settled − what calls in flight had reserved would have covered them.
    pub wrongly_refused: u64,
    /// Requests to the ledger for each call, from when traffic has been known for [`KNOWN_US`].
    pub asks_per_call: f64,
    /// Percent of the limit that was settled or reserved by calls in flight when a call was first refused wrongly, or at the end.
    pub used_percent: f64,
    /// Percent of the limit that was settled when a call was first refused although limit − settled would have covered it.
    pub settled_percent: f64,
    /// Percent of the limit that was settled when all was over.
    pub settled_at_last_percent: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrives(usize),
    Ends(usize, u64),
    Asked(usize),
    Answered(usize),
    AskAgain(usize),
    Reports(usize),
    Tick(usize),
    Recalled(usize),
}

struct Call {
    lease: LeaseId,
    held: i128,
    cost: i128,
}

#[derive(Clone, Copy)]
struct Wanted {
    need: i128,
    cost: i128,
    takes_us: u64,
}

#[derive(Default)]
struct Sidecar {
    rate: f64,
    book: LeaseBook,
    calls: HashMap<u64, Call>,
    waiting: VecDeque<Wanted>,
    /// Under way, with the ledger's answer once there is one.
    asking: Option<(Ask, i64, Option<Decision>)>,
    /// How often the call at the head was refused.
    refusals: u32,
    /// Waits for what others give back.
    patient: bool,
    outbox: Vec<Entry>,
    leases: u32,
}

struct Run {
    fleet: Fleet,
    random: Random,
    now: u64,
    order: u64,
    coming: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    sidecars: Vec<Sidecar>,
    rows: Rows,
    limits: Vec<LimitKey>,
    terms: LimitTerms,
    recalled_at: Option<u64>,
    made: u64,
    settled: i128,
    in_flight: i128,
    asks: u64,
    figures: Figures,
    /// Calls and requests until traffic was known.
    known: Option<(u64, u64)>,
    over: bool,
}

fn id(call: u64) -> CallId {
    CallId(call.to_string().into())
}

fn usd(pico: i128) -> Amount {
    Amount { usd: PicoUsd(pico), ..Amount::ZERO }
}

impl Fleet {
    /// A thousand sidecars that make ten calls a second on average, the busiest a hundred times as many, under a limit that they do not
    /// come near.
    pub fn far_from_its_limit(seed: u64) -> Fleet {
        Fleet { sidecars: 1_000, calls_per_second: 10_000.0, skew: 1.0, calls: 100_000_000, seconds: 20, seed }
    }

    /// The same, under one that they use up within seconds.
    pub fn up_to_its_limit(seed: u64) -> Fleet {
        Fleet { calls: 200_000, seconds: 60, ..Fleet::far_from_its_limit(seed) }
    }

    pub fn run(self) -> Figures {
        let key = LimitKey("shop/all/total".into());
        let limit = i128::from(self.calls) * i128::from(COST);
        let terms = LimitTerms { key: key.clone(), unit: Unit::Usd, limit, span: Span::Fixed { start_ms: 0, end_ms: i64::MAX } };
        let shares: Vec<f64> = (1..=self.sidecars).map(|k| (k as f64).powf(-self.skew)).collect();
        let sum: f64 = shares.iter().sum();
        let sidecars = shares.iter().map(|share| Sidecar { rate: self.calls_per_second * share / sum, ..Sidecar::default() }).collect();
        let mut run = Run {
            fleet: self,
            random: Random::new(self.seed),
            now: 0,
            order: 0,
            coming: BinaryHeap::new(),
            sidecars,
            rows: Rows::default(),
            limits: vec![key],
            terms,
            recalled_at: None,
            made: 0,
            settled: 0,
            in_flight: 0,
            asks: 0,
            figures: Figures::default(),
            known: None,
            over: false,
        };
        run.go();
        run.figures
    }
}

impl Run {
    fn go(&mut self) {
        for sidecar in 0..self.sidecars.len() {
            let first = self.pause(sidecar);
            self.after(first, Happening::Arrives(sidecar));
            let tick = self.random.below(TICK_US as usize) as u64;
            self.after(tick, Happening::Tick(sidecar));
        }
        while let Some(Reverse((at, _, happening))) = self.coming.pop() {
            self.now = at;
            match happening {
                Happening::Arrives(sidecar) => self.arrives(sidecar),
                Happening::Ends(sidecar, call) => self.ends(sidecar, call),
                Happening::Asked(sidecar) => self.asked(sidecar),
                Happening::Answered(sidecar) => self.answered(sidecar),
                Happening::AskAgain(sidecar) => {
                    self.sidecars[sidecar].patient = false;
                    self.serve(sidecar);
                }
                Happening::Reports(sidecar) => self.reports(sidecar),
                Happening::Tick(sidecar) => self.tick(sidecar),
                Happening::Recalled(sidecar) => {
                    let now_ms = self.ms();
                    let backs = self.sidecars[sidecar].book.recall(&self.limits, None, now_ms);
                    self.note(sidecar, backs);
                }
            }
            if self.is_over() {
                break;
            }
        }
        let (calls, asks) = self.known.unwrap_or_default();
        self.figures.asks_per_call = (self.asks - asks) as f64 / (self.made - calls).max(1) as f64;
        self.figures.calls = self.made;
        self.figures.settled_at_last_percent = self.percent(self.settled);
        if self.figures.wrongly_refused == 0 {
            self.figures.used_percent = self.percent(self.settled + self.in_flight);
        }
    }

    /// So little is left that hardly a call fits, and calls under way have ended.
    fn is_over(&mut self) -> bool {
        self.over |= self.terms.limit - self.settled - self.in_flight < i128::from(COST);
        self.now >= self.fleet.seconds.saturating_mul(1_000_000)
            || self.over && self.in_flight == 0
            || self.figures.refused > self.fleet.calls / 2
    }

    fn ms(&self) -> i64 {
        (self.now / 1_000) as i64
    }

    fn after(&mut self, us: u64, happening: Happening) {
        self.order += 1;
        self.coming.push(Reverse((self.now + us, self.order, happening)));
    }

    fn percent(&self, of: i128) -> f64 {
        of as f64 * 100.0 / self.terms.limit as f64
    }

    /// Time to the next call: they come independently of each other.
    fn pause(&mut self, sidecar: usize) -> u64 {
        let uniform = (self.random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
        (-uniform.ln() / self.sidecars[sidecar].rate * 1e6) as u64
    }

    fn arrives(&mut self, sidecar: usize) {
        if !self.over {
            let pause = self.pause(sidecar);
            self.after(pause, Happening::Arrives(sidecar));
        }
        // From a fifth of the average to nine fifths of it, and always a quarter of the worst case at most on average.
        let cost = COST / 5 + self.random.below((COST * 8 / 5) as usize) as u64;
        let takes_us = TAKES_US.0 + self.random.below((TAKES_US.1 - TAKES_US.0) as usize) as u64;
        let wanted = Wanted { need: i128::from(COST * 4), cost: i128::from(cost), takes_us };
        if !self.goes(sidecar, wanted) {
            self.sidecars[sidecar].waiting.push_back(wanted);
            self.serve(sidecar);
        }
    }

    /// Draws, and goes upstream.
    fn goes(&mut self, sidecar: usize, wanted: Wanted) -> bool {
        let now_ms = self.ms();
        let Some(lease) = self.sidecars[sidecar].book.draw(&self.limits, usd(wanted.need), now_ms) else { return false };
        self.made += 1;
        self.in_flight += wanted.need;
        let (call, opened) = (self.made, self.opened(self.made, &lease, wanted.need));
        self.report(sidecar, opened);
        self.sidecars[sidecar].calls.insert(call, Call { lease, held: wanted.need, cost: wanted.cost });
        self.after(wanted.takes_us, Happening::Ends(sidecar, call));
        if self.known.is_none() && self.now >= KNOWN_US {
            self.known = Some((self.made, self.asks));
        }
        true
    }

    fn opened(&self, call: u64, lease: &LeaseId, reserved: i128) -> Entry {
        Entry::Opened { call: id(call), lease: Some(lease.clone()), reserved: usd(reserved), draft: None, unleased: vec![] }
    }

    fn ends(&mut self, sidecar: usize, call: u64) {
        let Call { lease, held, cost } = self.sidecars[sidecar].calls.remove(&call).expect("it went");
        (self.settled, self.in_flight) = (self.settled + cost, self.in_flight - held);
        let record = Arc::new(CallRecord { outcome: CallOutcome::Completed, ..draft(&id(call), usd(cost)) });
        self.report(sidecar, Entry::Settled { record, lease: Some(lease.clone()), unleased: vec![] });
        let now_ms = self.ms();
        let back = self.sidecars[sidecar].book.settle(&lease, usd(held), usd(cost), now_ms);
        self.note(sidecar, back);
        // What is free again may be enough for whoever waits here.
        self.serve_from_here(sidecar);
    }

    fn serve_from_here(&mut self, sidecar: usize) {
        while let Some(wanted) = self.sidecars[sidecar].waiting.front().copied() {
            if !self.goes(sidecar, wanted) {
                return;
            }
            self.sidecars[sidecar].waiting.pop_front();
            self.sidecars[sidecar].refusals = 0;
        }
    }

    /// Those that wait draw, or ask.
    fn serve(&mut self, sidecar: usize) {
        self.serve_from_here(sidecar);
        let now_ms = self.ms();
        let of = &mut self.sidecars[sidecar];
        if of.asking.is_some() || of.patient {
            return;
        }
        let Some(first) = of.waiting.front() else { return };
        let behind: i128 = of.waiting.iter().skip(1).map(|wanted| wanted.need).sum();
        let fresh = LeaseId(format!("{sidecar}-{}", of.leases).into());
        of.leases += 1;
        let (ask, expired) = of.book.ask(&self.limits, usd(first.need), usd(behind), now_ms, || fresh);
        of.asking = Some((ask, now_ms, None));
        self.asks += 1;
        self.note(sidecar, expired);
        self.after(WAY_US, Happening::Asked(sidecar));
    }

    fn asked(&mut self, sidecar: usize) {
        let now_ms = self.ms();
        let Some((ask, _, answer)) = &mut self.sidecars[sidecar].asking else { return };
        let Ask { lease, seq, min, want } = ask.clone();
        let holder = HolderId(sidecar.to_string());
        let request = Acquire { lease, seq, holder, limits: vec![self.terms.clone()], min, want, now_ms };
        let applied = machine::apply(&mut self.rows, &Request::Acquire(request), &mut Vec::new()).expect("one holder");
        self.rows.saved();
        let machine::Answer::Acquired(decision) = applied else { return };
        let standing = self.rows.standing(&self.terms.key, self.terms.span, now_ms);
        assert!(standing.settled + standing.outstanding <= self.terms.limit, "overspent: {standing:?}");
        let lacking = matches!(&decision, Decision::Refused { shortfalls } if shortfalls.iter().any(|s| s.idle > 0));
        *answer = Some(decision);
        if lacking && self.recalled_at.is_none_or(|at| at + RECALL_PAUSE_US <= self.now) {
            self.recalled_at = Some(self.now);
            (0..self.sidecars.len()).filter(|other| *other != sidecar).for_each(|other| self.after(WAY_US, Happening::Recalled(other)));
        }
        self.after(WAY_US, Happening::Answered(sidecar));
    }

    fn answered(&mut self, sidecar: usize) {
        let now_ms = self.ms();
        let Some((ask, sent_ms, Some(decision))) = self.sidecars[sidecar].asking.take() else { return };
        let (answer, shortfalls) = match decision {
            Decision::Granted { granted, valid_for_ms, left } => {
                (Answer::Granted { amount: granted, expires_ms: sent_ms + valid_for_ms, left }, None)
            }
            Decision::Refused { shortfalls } => (Answer::Refused, Some(shortfalls)),
            Decision::Expired => (Answer::Expired, None),
        };
        let back = self.sidecars[sidecar].book.answered(&self.limits, &ask, answer, now_ms);
        self.note(sidecar, back);
        self.serve_from_here(sidecar);
        let of = &mut self.sidecars[sidecar];
        if let (Some(shortfalls), Some(first)) = (shortfalls, of.waiting.front().copied()) {
            let free = of.book.free(&self.limits, now_ms);
            match lease::patience_ms(of.refusals).filter(|_| lease::may_come_back(&shortfalls, usd(first.need), free)) {
                Some(wait_ms) => {
                    (of.refusals, of.patient) = (of.refusals + 1, true);
                    self.after(wait_ms.unsigned_abs() * 1_000, Happening::AskAgain(sidecar));
                }
                None => self.refuse(sidecar),
            }
        } else {
            of.refusals = 0;
        }
        self.serve(sidecar);
    }

    /// Everyone who waits here needs as much.
    fn refuse(&mut self, sidecar: usize) {
        let waiting = std::mem::take(&mut self.sidecars[sidecar].waiting);
        self.sidecars[sidecar].refusals = 0;
        for Wanted { need, .. } in waiting {
            if self.terms.limit - self.settled >= need && self.figures.settled_percent == 0.0 {
                self.figures.settled_percent = self.percent(self.settled);
            }
            if self.terms.limit - self.settled - self.in_flight >= need {
                if self.figures.wrongly_refused == 0 {
                    self.figures.used_percent = self.percent(self.settled + self.in_flight);
                }
                self.figures.wrongly_refused += 1;
            }
            self.figures.refused += 1;
        }
    }

    fn note(&mut self, sidecar: usize, backs: impl IntoIterator<Item = GiveBack>) {
        for GiveBack { lease, seq, amount } in backs {
            self.report(sidecar, Entry::GivenBack { lease, seq, amount });
        }
    }

    fn report(&mut self, sidecar: usize, entry: Entry) {
        let outbox = &mut self.sidecars[sidecar].outbox;
        outbox.push(entry);
        if outbox.len() == 1 {
            self.after(GATHER_US + WAY_US, Happening::Reports(sidecar));
        }
    }

    fn reports(&mut self, sidecar: usize) {
        let entries = std::mem::take(&mut self.sidecars[sidecar].outbox);
        let request = Request::Report { holder: HolderId(sidecar.to_string()), entries, now_ms: self.ms() };
        machine::apply(&mut self.rows, &request, &mut Vec::new()).expect("one holder");
        self.rows.saved();
        if self.made.is_multiple_of(ENDED_KEPT) {
            self.rows.ended = Table::default();
        }
    }

    fn tick(&mut self, sidecar: usize) {
        let now_ms = self.ms();
        let backs = self.sidecars[sidecar].book.tick(now_ms);
        self.note(sidecar, backs);
        self.after(TICK_US, Happening::Tick(sidecar));
    }
}
