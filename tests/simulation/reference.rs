//! The ledger's rules in their plainest form, written a second time, to be compared with the first.

use std::collections::BTreeMap;

use spendkeeper::core::amount::{Amount, Unit};
use spendkeeper::core::call::CallId;
use spendkeeper::core::limit::{LimitKey, LimitTerms, Shortfall, Span};
use spendkeeper::core::money::PicoUsd;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, LeaseId};

use crate::world::ledger::Books;

/// A ledger and the reference beside it: they must agree in every answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Compared<L> {
    pub ledger: L,
    reference: Reference,
}

impl<L: Books> Compared<L> {
    pub fn new(ledger: L) -> Compared<L> {
        Compared { ledger, reference: Reference::default() }
    }
}

impl<L: Books> Books for Compared<L> {
    fn acquire(&mut self, request: Acquire) -> Decision {
        let asked = format!("{request:?}");
        let (decision, expected) = (self.ledger.acquire(request.clone()), self.reference.acquire(request));
        let granted = |decision: &Decision| match decision {
            Decision::Granted { granted, .. } => Ok(granted.usd),
            Decision::Refused { .. } => Err("refused"),
            Decision::Expired => Err("expired"),
        };
        assert_eq!(granted(&decision), granted(&expected), "the reference decides otherwise about {asked}");
        decision
    }

    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) {
        self.ledger.report(holder, entries.clone(), now_ms);
        self.reference.report(holder, entries, now_ms);
    }

    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64) {
        self.ledger.holder_gone(holder, now_ms);
        self.reference.holder_gone(holder, now_ms);
    }

    fn standing(&self, terms: &LimitTerms) -> (i128, i128) {
        let standing = self.ledger.standing(terms);
        assert_eq!(standing, self.reference.standing(terms), "the reference knows otherwise of {}", terms.key);
        standing
    }

    fn reopen(&mut self) {
        self.ledger.reopen();
    }
}

/// A grant beyond what one call needs takes at most this share of what is left.
const SHARE_OF_LEFT: i128 = 4;
const VALID_MS: i64 = 60_000;

/// No index, no counter, everything summed when it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reference {
    now_ms: i64,
    leases: BTreeMap<LeaseId, Row>,
    open: BTreeMap<CallId, (LeaseId, HolderId, Amount)>,
    /// Calls that are settled; the charges of those whose end is not known may still be replaced.
    settled: BTreeMap<CallId, Vec<(LimitKey, i64, i128)>>,
    accounts: BTreeMap<(LimitKey, i64), i128>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    holder: HolderId,
    seq: u64,
    /// What was granted by the last request, in pico-dollars; `None` when it was refused.
    granted: Option<i128>,
    limits: Vec<(LimitKey, i64)>,
    ends_ms: i64,
    outstanding: i128,
}

fn start(span: Span) -> i64 {
    match span {
        Span::Fixed { start_ms, .. } => start_ms,
        Span::Rolling { .. } => panic!("the world has fixed windows"),
    }
}

fn end(span: Span) -> i64 {
    match span {
        Span::Fixed { end_ms, .. } => end_ms,
        Span::Rolling { .. } => panic!("the world has fixed windows"),
    }
}

fn usd(pico: i128) -> Amount {
    Amount { usd: PicoUsd(pico), ..Amount::ZERO }
}

impl Reference {
    fn held(&self, key: &LimitKey, window: i64) -> i128 {
        let under = |row: &&Row| row.limits.iter().any(|(of, start)| of == key && *start == window);
        self.leases.values().filter(under).map(|row| row.outstanding).sum()
    }

    fn spent(&self, key: &LimitKey, window: i64) -> i128 {
        self.accounts.get(&(key.clone(), window)).copied().unwrap_or(0)
    }

    /// Moves `amount` from a lease to the accounts of its limits.
    fn charge(&mut self, lease: &LeaseId, amount: i128) -> Vec<(LimitKey, i64, i128)> {
        let Some(row) = self.leases.get_mut(lease) else { return Vec::new() };
        row.outstanding = (row.outstanding - amount).max(0);
        let charges: Vec<_> = row.limits.iter().map(|(key, window)| (key.clone(), *window, amount)).collect();
        for (key, window, amount) in &charges {
            *self.accounts.entry((key.clone(), *window)).or_default() += amount;
        }
        charges
    }

    fn answer(&self, row: &Row) -> Decision {
        match row.granted {
            Some(granted) => {
                Decision::Granted { granted: usd(granted), valid_for_ms: VALID_MS.min(row.ends_ms - self.now_ms).max(0), left: None }
            }
            None => Decision::Refused { shortfalls: vec![] },
        }
    }
}

impl Books for Reference {
    fn acquire(&mut self, request: Acquire) -> Decision {
        self.now_ms = self.now_ms.max(request.now_ms);
        if let Some(row) = self.leases.get(&request.lease) {
            assert_eq!(row.holder, request.holder, "a lease has one holder");
            if request.seq <= row.seq {
                return self.answer(row);
            }
            if row.limits != request.limits.iter().map(|t| (t.key.clone(), start(t.span))).collect::<Vec<_>>() {
                return Decision::Expired;
            }
        }
        if request.limits.iter().any(|terms| end(terms.span) <= self.now_ms) {
            return Decision::Expired;
        }
        let left = |terms: &LimitTerms| {
            let window = start(terms.span);
            terms.limit - self.spent(&terms.key, window) - self.held(&terms.key, window)
        };
        let (min, want) = (request.min.usd.0, request.want.usd.0);
        let short = request.limits.iter().filter(|terms| left(terms) < min);
        let shortfalls: Vec<Shortfall> =
            short.map(|t| Shortfall { key: t.key.clone(), unit: Unit::Usd, left: left(t), idle: 0, resets_at_ms: None }).collect();
        let tightest = request.limits.iter().map(left).min().unwrap_or(i128::MAX);
        let granted = shortfalls.is_empty().then(|| want.min(tightest / SHARE_OF_LEFT).max(min));
        let row = self.leases.entry(request.lease).or_insert_with(|| Row {
            holder: request.holder,
            seq: 0,
            granted: None,
            limits: request.limits.iter().map(|t| (t.key.clone(), start(t.span))).collect(),
            ends_ms: request.limits.iter().map(|t| end(t.span)).min().unwrap_or(i64::MAX),
            outstanding: 0,
        });
        (row.seq, row.granted) = (request.seq, granted);
        row.outstanding += granted.unwrap_or(0);
        match granted {
            Some(_) => {
                let row = row.clone();
                self.answer(&row)
            }
            None => Decision::Refused { shortfalls },
        }
    }

    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        for entry in entries {
            match entry {
                Entry::Opened { call, lease: Some(lease), reserved, .. } if !self.settled.contains_key(&call) => {
                    let open = self.open.entry(call).or_insert((lease, holder.clone(), reserved));
                    open.2 = open.2.min(reserved);
                }
                Entry::Settled { record, lease: Some(lease), .. } => {
                    self.open.remove(&record.id);
                    let cost = record.amount().usd.0;
                    match self.settled.insert(record.id.clone(), vec![]) {
                        None => drop(self.charge(&lease, cost)),
                        // It was charged as reserved; now its end is known. Once it is, there is nothing to replace.
                        Some(charges) => {
                            for (key, window, charged) in charges {
                                *self.accounts.entry((key, window)).or_default() += cost - charged;
                            }
                        }
                    }
                }
                Entry::GivenBack { lease, seq, amount } => {
                    let reserved: i128 = self.open.values().filter(|(of, ..)| *of == lease).map(|(_, _, reserved)| reserved.usd.0).sum();
                    if let Some(row) = self.leases.get_mut(&lease).filter(|row| row.seq < seq) {
                        row.seq = seq;
                        row.outstanding -= amount.usd.0.min((row.outstanding - reserved).max(0));
                    }
                }
                _ => {}
            }
        }
    }

    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        let lost: Vec<_> =
            self.open.iter().filter(|(_, (_, of, _))| of == holder).map(|(call, open)| (call.clone(), open.clone())).collect();
        for (call, (lease, _, reserved)) in lost {
            self.open.remove(&call);
            let charges = self.charge(&lease, reserved.usd.0);
            self.settled.insert(call, charges);
        }
        self.leases.values_mut().filter(|row| row.holder == *holder).for_each(|row| row.outstanding = 0);
    }

    fn standing(&self, terms: &LimitTerms) -> (i128, i128) {
        let window = start(terms.span);
        (self.spent(&terms.key, window), self.held(&terms.key, window))
    }
}
