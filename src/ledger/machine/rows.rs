//! The ledger's rows, as plain data. `Rows` holds those that a batch of requests touches; a model checker's holds all.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::table::Table;
use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallRecord};
use crate::core::lease::LeaseId;
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::ledger::{Decision, HolderId};

/// What requests are applied to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Ledger time, Unix milliseconds: the latest that any request said, so that a clock that goes back opens no window again.
    pub seen_ms: i64,
    pub leases: Table<LeaseId, Lease>,
    pub open: Table<CallId, OpenCall>,
    pub ended: Table<CallId, Ended>,
    pub accounts: Table<AccountKey, Account>,
    /// Outcomes that were counted.
    pub outcomes: Table<String, ()>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub holder: HolderId,
    /// The last request for this lease, or the last that gave back of it.
    pub seq: u64,
    /// What the last request for it was answered.
    pub answer: Decision,
    /// By key, each once. They never change.
    pub limits: Vec<LeaseLimit>,
    pub outstanding: Amount,
    /// What its open calls may cost. May exceed what is outstanding: a holder that was given up for lost may still open calls.
    pub reserved: Amount,
    /// Ledger time of the last change.
    pub touched_ms: i64,
}

/// A limit under which something is charged, in the window that it had when the lease was granted or the call was opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseLimit {
    pub key: LimitKey,
    pub unit: Unit,
    pub span: Span,
}

/// A call that is on its way to a provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenCall {
    pub holder: HolderId,
    pub lease: Option<LeaseId>,
    pub reserved: Amount,
    /// Limits to charge beyond the lease's.
    pub unleased: Vec<LeaseLimit>,
    /// The record that stands for it, should its end never be learnt.
    pub draft: Option<Arc<CallRecord>>,
}

/// A call that is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Its charges are final.
    Known,
    /// It was charged as reserved; the charges are to be reversed should its end become known.
    Unknown { charges: Vec<Charge> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Charge {
    pub account: AccountKey,
    pub unit: Unit,
    /// In `unit`.
    #[serde(with = "decimal")]
    pub amount: i128,
}

/// A fixed window's account, by its start; a bucket of a rolling window, by its start; or [`AccountKey::ROLLING`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountKey {
    pub limit: LimitKey,
    pub bucket: i64,
}

/// The standing of a limit in one window, in the limit's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    pub settled: i128,
    /// The sum of what its leases hold.
    pub outstanding: i128,
    /// The sum of what the open calls of its leases have reserved.
    pub reserved: i128,
}

impl AccountKey {
    /// The bucket that carries what leases hold under a rolling window: they count whenever they were granted.
    pub const ROLLING: i64 = -1;
}

impl LeaseLimit {
    pub fn of(terms: &LimitTerms) -> LeaseLimit {
        LeaseLimit { key: terms.key.clone(), unit: terms.unit, span: terms.span }
    }

    /// `terms` by key, each once.
    pub fn all_of(terms: &[LimitTerms]) -> Vec<LeaseLimit> {
        let by_key: BTreeMap<&LimitKey, &LimitTerms> = terms.iter().map(|terms| (&terms.key, terms)).collect();
        by_key.into_values().map(LeaseLimit::of).collect()
    }

    /// Where a charge at `now_ms` goes: the window of the lease, or, for a rolling one, the bucket of now, so that a late
    /// settlement stays in the window for its full length.
    pub fn charged(&self, now_ms: i64) -> AccountKey {
        let bucket = match self.span {
            Span::Fixed { start_ms, .. } => start_ms,
            Span::Rolling { bucket_ms, .. } => now_ms.div_euclid(bucket_ms.max(1)) * bucket_ms.max(1),
        };
        AccountKey { limit: self.key.clone(), bucket }
    }

    /// The account that carries what leases hold.
    pub fn held(&self) -> AccountKey {
        held_account(&self.key, self.span)
    }
}

/// The account that carries what leases hold under a limit.
pub fn held_account(key: &LimitKey, span: Span) -> AccountKey {
    let bucket = match span {
        Span::Fixed { start_ms, .. } => start_ms,
        Span::Rolling { .. } => AccountKey::ROLLING,
    };
    AccountKey { limit: key.clone(), bucket }
}

/// The first and last bucket whose settled sums count in `span` at `now_ms`: a rolling bucket counts until all of it is older
/// than the window.
pub fn counted_buckets(span: Span, now_ms: i64) -> (i64, i64) {
    match span {
        Span::Fixed { start_ms, .. } => (start_ms, start_ms),
        Span::Rolling { length_ms, bucket_ms } => (now_ms.saturating_sub(length_ms).saturating_sub(bucket_ms) + 1, i64::MAX),
    }
}

impl Rows {
    /// Takes note of the time, and says what the ledger's is.
    pub fn at(&mut self, now_ms: i64) -> i64 {
        self.seen_ms = self.seen_ms.max(now_ms);
        self.seen_ms
    }

    /// Where a limit stands at `now_ms`.
    pub fn standing(&self, key: &LimitKey, span: Span, now_ms: i64) -> Account {
        let held = self.accounts.get(&held_account(key, span)).copied().unwrap_or_default();
        let (from, to) = counted_buckets(span, now_ms);
        let of = |bucket| AccountKey { limit: key.clone(), bucket };
        Account { settled: self.accounts.range(of(from), of(to)).map(|(_, account)| account.settled).sum(), ..held }
    }

    /// Adds `amount` (may be negative) to what is settled on an account.
    pub fn charge(&mut self, account: &AccountKey, amount: i128) {
        if amount != 0 {
            self.account(account).settled += amount;
        }
    }

    /// Lets a lease hold `amount`.
    pub fn hold(&mut self, lease: &LeaseId, amount: Amount, now_ms: i64) {
        let Some(row) = self.leases.change(lease) else { return };
        let by = amount - row.outstanding;
        (row.outstanding, row.touched_ms) = (amount, now_ms);
        for limit in row.limits.clone() {
            if by.in_unit(limit.unit) != 0 {
                self.account(&limit.held()).outstanding += by.in_unit(limit.unit);
            }
        }
    }

    /// Adds `by` (may be negative) to what a lease's open calls have reserved.
    pub fn reserve(&mut self, lease: Option<&LeaseId>, by: Amount) {
        let Some(lease) = lease.filter(|lease| !by.is_zero() && self.leases.contains(lease)) else { return };
        let Some(row) = self.leases.change(lease) else { return };
        row.reserved += by;
        for limit in row.limits.clone() {
            if by.in_unit(limit.unit) != 0 {
                self.account(&limit.held()).reserved += by.in_unit(limit.unit);
            }
        }
    }

    fn account(&mut self, key: &AccountKey) -> &mut Account {
        if !self.accounts.contains(key) {
            self.accounts.put(key.clone(), Account::default());
        }
        self.accounts.change(key).expect("the account is there, or was put there just now")
    }

    /// What the accounts' `outstanding` and `reserved` must be, for these leases; the rest of the accounts must have none.
    pub fn held_by_leases<'a>(leases: impl Iterator<Item = &'a Lease>) -> BTreeMap<AccountKey, Account> {
        let mut accounts: BTreeMap<AccountKey, Account> = BTreeMap::new();
        for lease in leases {
            for limit in &lease.limits {
                let account = accounts.entry(limit.held()).or_default();
                account.outstanding += lease.outstanding.in_unit(limit.unit);
                account.reserved += lease.reserved.in_unit(limit.unit);
            }
        }
        accounts.retain(|_, account| *account != Account::default());
        accounts
    }

    /// Everything is stored as it is here.
    pub fn saved(&mut self) {
        self.leases.saved();
        self.open.saved();
        self.ended.saved();
        self.accounts.saved();
        self.outcomes.saved();
    }
}

/// Whole numbers of any size as JSON text: JSON's own numbers end at 64 bits in most readers.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
