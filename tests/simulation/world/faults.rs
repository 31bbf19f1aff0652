//! Ledgers that break a rule, to see that it is noticed.

use std::collections::BTreeMap;
use std::sync::Arc;

use spendkeeper::core::call::CallId;
use spendkeeper::core::limit::LimitTerms;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, LeaseId};

use super::ledger::Books;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LedgerFault {
    /// A settlement that comes again is charged again.
    SettlesTwice,
    /// A request that comes again is granted again.
    GrantsAgain,
    /// What an open call has reserved is free once its holder is gone.
    ForgetsOpenCalls,
    /// A lease may take a little more than is left.
    GrantsTooMuch,
    /// A pod that ended keeps its leases.
    KeepsLeasesOfTheGone,
}

impl LedgerFault {
    pub const ALL: [LedgerFault; 5] = [
        LedgerFault::SettlesTwice,
        LedgerFault::GrantsAgain,
        LedgerFault::ForgetsOpenCalls,
        LedgerFault::GrantsTooMuch,
        LedgerFault::KeepsLeasesOfTheGone,
    ];
}

/// A ledger with a fault, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broken<L> {
    pub books: L,
    pub fault: LedgerFault,
    /// How often a call was settled, and a number that no lease was asked under before.
    settled: BTreeMap<CallId, u32>,
    seqs: BTreeMap<LeaseId, u64>,
}

impl<L: Books> Broken<L> {
    pub fn new(books: L, fault: LedgerFault) -> Broken<L> {
        Broken { books, fault, settled: BTreeMap::new(), seqs: BTreeMap::new() }
    }

    fn next_seq(&mut self, lease: &LeaseId) -> u64 {
        let seq = self.seqs.entry(lease.clone()).or_default();
        *seq += 1;
        *seq
    }

    fn spoil(&mut self, entry: Entry) -> Option<Entry> {
        match (self.fault, entry) {
            (LedgerFault::SettlesTwice, Entry::Settled { mut record, lease, unleased }) => {
                let times = self.settled.entry(record.id.clone()).or_default();
                *times += 1;
                if *times > 1 {
                    let again = CallId(format!("{}-{times}", record.id).into());
                    Arc::make_mut(&mut record).id = again;
                }
                Some(Entry::Settled { record, lease, unleased })
            }
            (LedgerFault::GrantsAgain, Entry::GivenBack { lease, seq: _, amount }) => {
                let seq = self.next_seq(&lease);
                Some(Entry::GivenBack { lease, seq, amount })
            }
            (LedgerFault::ForgetsOpenCalls, Entry::Opened { .. }) => None,
            (_, entry) => Some(entry),
        }
    }
}

impl<L: Books> Books for Broken<L> {
    fn acquire(&mut self, mut request: Acquire) -> Decision {
        match self.fault {
            LedgerFault::GrantsAgain => request.seq = self.next_seq(&request.lease),
            LedgerFault::GrantsTooMuch => request.limits.iter_mut().for_each(|terms| terms.limit += 1),
            _ => {}
        }
        self.books.acquire(request)
    }

    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) {
        let entries = entries.into_iter().filter_map(|entry| self.spoil(entry)).collect();
        self.books.report(holder, entries, now_ms);
    }

    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64) {
        if self.fault != LedgerFault::KeepsLeasesOfTheGone {
            self.books.holder_gone(holder, now_ms);
        }
    }

    fn standing(&self, terms: &LimitTerms) -> (i128, i128) {
        self.books.standing(terms)
    }
}
