//! What a writer remembers of the rows that it stored or read last, so that a batch reads only what is new to it.
//!
//! True as long as nobody else writes; it is the adapter that sees to that, and forgets everything when somebody did, or when it is not
//! certain that a transaction took place. Bounded: what is too much is forgotten, and read again by whoever needs it.

use std::collections::HashMap;
use std::hash::Hash;

use super::machine::touch::{Accounts, Touched, leases_of_open_calls};
use super::machine::{Account, AccountKey, Lease, OpenCall, Rows, Table};
use super::{HolderId, LeaseId};
use crate::core::call::CallId;

/// Rows of each kind that are remembered at most; an open call with the draft of its record, the largest of them, takes about a kilobyte.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub struct Known {
    leases: HashMap<LeaseId, Lease>,
    open: HashMap<CallId, OpenCall>,
    accounts: HashMap<AccountKey, Account>,
}

/// Of what is touched, that which must be read.
#[derive(Debug, Default)]
pub struct ToRead<'a> {
    pub leases: Vec<&'a LeaseId>,
    /// Leases that may be new: then calls that are open on them matter.
    pub asked: Vec<&'a LeaseId>,
    /// Whether they are open, and whether they are recorded.
    pub calls: Vec<&'a CallId>,
    pub outcomes: Vec<&'a str>,
    pub holders: Vec<&'a HolderId>,
}

impl ToRead<'_> {
    pub fn is_empty(&self) -> bool {
        let ToRead { leases, asked, calls, outcomes, holders } = self;
        leases.is_empty() && asked.is_empty() && calls.is_empty() && outcomes.is_empty() && holders.is_empty()
    }
}

impl Known {
    /// Puts what is known of the rows that are touched into `rows`, and says what must be read.
    ///
    /// With `opened_is_new`, a call that is opened and not known is taken for new. The store must then refuse to write a call that is
    /// open and recorded, or recorded twice.
    pub fn fill<'a>(&self, rows: &mut Rows, touched: &Touched<'a>, opened_is_new: bool) -> ToRead<'a> {
        let mut to_read = ToRead {
            outcomes: touched.outcomes.iter().copied().collect(),
            holders: touched.holders.iter().copied().collect(),
            ..ToRead::default()
        };
        for id in &touched.leases {
            match self.leases.get(*id) {
                Some(lease) => rows.leases.load((*id).clone(), lease.clone()),
                None => {
                    to_read.leases.push(id);
                    to_read.asked.extend(touched.asked.get(id));
                }
            }
        }
        for id in &touched.calls {
            match self.open.get(*id) {
                // A call that is open is not recorded.
                Some(call) => rows.open.load((*id).clone(), call.clone()),
                None if opened_is_new && touched.opened.contains(id) => {}
                None => to_read.calls.push(id),
            }
        }
        to_read
    }

    /// The same for leases that open calls draw on, once these are there.
    pub fn leases_of_open_calls(&self, rows: &mut Rows) -> Vec<LeaseId> {
        let wanted = leases_of_open_calls(rows);
        wanted.into_iter().filter(|id| !load(&self.leases, &mut rows.leases, id)).collect()
    }

    /// The same for accounts, once everything else is there. Stretches of them are always read: they hold what is not known to be there.
    pub fn accounts(&self, rows: &mut Rows, wanted: Vec<Accounts>) -> Vec<Accounts> {
        let key = |range: &Accounts| AccountKey { limit: range.limit.clone(), bucket: range.from };
        let is_known = |range: &Accounts, rows: &mut Rows| range.from == range.to && load(&self.accounts, &mut rows.accounts, &key(range));
        wanted.into_iter().filter(|range| !is_known(range, rows)).collect()
    }

    /// `rows` are stored as they are.
    pub fn learn(&mut self, rows: Rows) {
        learn(&mut self.leases, rows.leases);
        learn(&mut self.open, rows.open);
        learn(&mut self.accounts, rows.accounts);
    }

    /// Somebody else may have written.
    pub fn forget(&mut self) {
        *self = Known::default();
    }
}

/// False when it is not known.
fn load<K: Hash + Ord + Clone, V: Clone>(known: &HashMap<K, V>, rows: &mut Table<K, V>, key: &K) -> bool {
    let row = known.get(key);
    row.into_iter().for_each(|row| rows.load(key.clone(), row.clone()));
    row.is_some()
}

fn learn<K: Hash + Ord + Clone, V>(known: &mut HashMap<K, V>, rows: Table<K, V>) {
    for (key, row) in rows.stored() {
        match row {
            Some(row) => known.insert(key, row),
            None => known.remove(&key),
        };
    }
    if known.len() > MOST {
        known.clear();
    }
}
