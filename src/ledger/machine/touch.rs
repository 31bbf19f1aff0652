//! Which rows a batch of requests may touch: what an adapter must read before it applies them.
//!
//! Two steps, since which accounts are touched depends on leases and open calls. Too much is harmless; too little is not, and
//! is found out when a row that is thought to be new is stored.

use std::collections::{BTreeMap, BTreeSet};

use super::Request;
use super::rows::{Ended, LeaseLimit, Rows, counted_buckets};
use crate::core::call::CallId;
use crate::core::limit::{LimitKey, Span};
use crate::ledger::{Entry, HolderId, LeaseId};

/// What is known from the requests alone.
#[derive(Debug, Default)]
pub struct Touched<'a> {
    /// With the leases that their open calls draw on: see [`leases_of_open_calls`].
    pub leases: BTreeSet<&'a LeaseId>,
    /// Leases that may be new; then the calls that are open on them matter, too.
    pub asked: BTreeSet<&'a LeaseId>,
    /// Whether open, and whether recorded.
    pub calls: BTreeSet<&'a CallId>,
    /// Those of them that a request says were opened.
    pub opened: BTreeSet<&'a CallId>,
    pub outcomes: BTreeSet<&'a str>,
    /// All of these holders' leases and open calls.
    pub holders: BTreeSet<&'a HolderId>,
}

/// Accounts of one limit, from one bucket to another, both included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accounts {
    pub limit: LimitKey,
    pub from: i64,
    pub to: i64,
}

impl<'a> Touched<'a> {
    pub fn by(requests: impl IntoIterator<Item = &'a Request>) -> Touched<'a> {
        let mut touched = Touched::default();
        for request in requests {
            match request {
                Request::Acquire(acquire) => {
                    touched.leases.insert(&acquire.lease);
                    touched.asked.insert(&acquire.lease);
                }
                Request::Report { entries, .. } => entries.iter().for_each(|entry| touched.add(entry)),
                Request::HolderGone { holder, .. } => {
                    touched.holders.insert(holder);
                }
            }
        }
        touched
    }

    fn add(&mut self, entry: &'a Entry) {
        self.leases.extend(entry.lease());
        match entry {
            Entry::Opened { call, .. } => {
                self.calls.insert(call);
                self.opened.insert(call);
            }
            Entry::Settled { record, .. } => {
                self.calls.insert(&record.id);
            }
            Entry::Outcome { id, .. } => {
                self.outcomes.insert(id);
            }
            Entry::GivenBack { .. } => {}
        }
    }
}

/// Leases of open calls that were read, which are not there yet.
pub fn leases_of_open_calls(rows: &Rows) -> BTreeSet<LeaseId> {
    let leases = rows.open.iter().filter_map(|(_, call)| call.lease.clone());
    leases.filter(|lease| !rows.leases.contains(lease)).collect()
}

/// The accounts that requests may touch, once everything else is there.
pub fn accounts<'a>(rows: &Rows, requests: impl IntoIterator<Item = &'a Request> + Clone) -> Vec<Accounts> {
    let times = requests.clone().into_iter().map(|request| request.now_ms().max(rows.seen_ms));
    let (first_ms, last_ms) = times.fold((i64::MAX, i64::MIN), |(first, last), now| (first.min(now), last.max(now)));
    let mut found = Found { first_ms, last_ms, accounts: BTreeMap::new() };
    for (_, lease) in rows.leases.iter() {
        lease.limits.iter().for_each(|limit| found.charged(limit));
    }
    for (_, call) in rows.open.iter() {
        call.unleased.iter().for_each(|limit| found.charged(limit));
    }
    for (_, ended) in rows.ended.iter() {
        let Ended::Unknown { charges } = ended else { continue };
        charges.iter().for_each(|charge| found.add(&charge.account.limit, charge.account.bucket, charge.account.bucket));
    }
    for request in requests {
        match request {
            Request::Acquire(acquire) => acquire.limits.iter().for_each(|terms| {
                found.charged(&LeaseLimit::of(terms));
                if matches!(terms.span, Span::Rolling { .. }) {
                    let (from, to) = counted_buckets(terms.span, first_ms);
                    found.add(&terms.key, from, to);
                }
            }),
            Request::Report { entries, .. } => entries.iter().for_each(|entry| {
                if let Entry::Opened { unleased, .. } | Entry::Settled { unleased, .. } = entry {
                    unleased.iter().for_each(|terms| found.charged(&LeaseLimit::of(terms)));
                }
            }),
            Request::HolderGone { .. } => {}
        }
    }
    let ranges = |(limit, ranges): (LimitKey, BTreeSet<(i64, i64)>)| {
        ranges.into_iter().map(move |(from, to)| Accounts { limit: limit.clone(), from, to })
    };
    found.accounts.into_iter().flat_map(ranges).collect()
}

/// The accounts found so far, for requests from `first_ms` to `last_ms` by the ledger's clock.
struct Found {
    first_ms: i64,
    last_ms: i64,
    accounts: BTreeMap<LimitKey, BTreeSet<(i64, i64)>>,
}

impl Found {
    /// What holding and charging under a limit touches.
    fn charged(&mut self, limit: &LeaseLimit) {
        let held = limit.held().bucket;
        self.add(&limit.key, held, held);
        if matches!(limit.span, Span::Rolling { .. }) {
            self.add(&limit.key, limit.charged(self.first_ms).bucket, limit.charged(self.last_ms).bucket);
        }
    }

    fn add(&mut self, key: &LimitKey, from: i64, to: i64) {
        match self.accounts.get_mut(key) {
            Some(ranges) => {
                ranges.insert((from, to));
            }
            None => {
                self.accounts.insert(key.clone(), BTreeSet::from([(from, to)]));
            }
        }
    }
}
