//! When an account may be forgotten: the one place that says so.
//!
//! An account is *needed* as long as a grant may look at it: a fixed window's until the window ends, a bucket of a rolling window until all
//! of it is older than the window. A lifetime's is needed for ever. It may be forgotten [`KEEP_MS`] later, once nothing is held on it.
//!
//! - No grant is decided otherwise: a window that has ended by ledger time, which never goes back, is refused before its account is looked
//!   at, and a bucket that is too old is not counted.
//! - No lease loses what it holds, and no open call what it reserved: then something is held, and the account stays.
//! - A call that is settled later, or whose end becomes known later, makes the account anew. What that says is then only this last
//!   charge; nobody asks for it, and it is forgotten again. The call's record is in the sums of usage, which are not made of accounts.
//! - Debt is carried as long as it counts: it is the settled sum of a window, and ends with it.
//!
//! Two kinds are kept for ever:
//!
//! - A lifetime's, also that of one value of a split which nobody has used for years. Its settled sum is all that is known of what was spent, and
//!   no window's end makes that meaningless: without it, whoever comes with the same value again has the whole limit again. Nobody can say
//!   that a value will not come again, however long it is silent. For values that come and go there are rolling windows.
//! - Accounts from before the schema knew until when they are needed (4 in PostgreSQL, 5 in SQLite). They carry the start of their window, and not
//!   its length, and a lifetime that was reset starts at any moment, too; so of none of them is it known that its window ends. Nobody looks at
//!   those whose window has ended, and they do not become more.
//!
//! Whoever makes a rolling window longer, or takes back a reset, is told of what was spent before only as far as it is not forgotten.

use std::collections::BTreeMap;

use super::rows::{Account, AccountKey, LeaseLimit, Rows};
use super::{Request, gone};
use crate::core::limit::{LimitKey, Span};
use crate::ledger::Entry;

/// How long an account that no grant looks at any more is kept for late reports, milliseconds.
pub const KEEP_MS: i64 = gone::REMEMBER_MS;

/// Until when accounts that a batch may make are needed.
#[derive(Debug, Default)]
pub struct Needed {
    now_ms: i64,
    spans: BTreeMap<LimitKey, Vec<Span>>,
}

impl Needed {
    /// By the limits that `rows` and `requests` speak of.
    pub fn by<'a>(rows: &Rows, requests: impl IntoIterator<Item = &'a Request>) -> Needed {
        let mut needed = Needed { now_ms: rows.seen_ms, spans: BTreeMap::new() };
        rows.leases.iter().for_each(|(_, lease)| needed.limits(&lease.limits));
        rows.open.iter().for_each(|(_, call)| needed.limits(&call.unleased));
        for request in requests {
            match request {
                Request::Acquire(acquire) => needed.limits(&LeaseLimit::all_of(&acquire.limits)),
                Request::Report { entries, .. } => entries.iter().for_each(|entry| {
                    if let Entry::Opened { unleased, .. } | Entry::Settled { unleased, .. } = entry {
                        needed.limits(&LeaseLimit::all_of(unleased));
                    }
                }),
                Request::HolderGone { .. } => {}
            }
        }
        needed
    }

    fn limits(&mut self, limits: &[LeaseLimit]) {
        for limit in limits {
            match self.spans.get_mut(&limit.key) {
                Some(spans) if spans.contains(&limit.span) => {}
                Some(spans) => spans.push(limit.span),
                None => drop(self.spans.insert(limit.key.clone(), vec![limit.span])),
            }
        }
    }

    /// Until when an account that is new is needed, by ledger time in Unix milliseconds. One that no limit speaks of is made by a charge that
    /// is reversed after its window was forgotten.
    pub fn until_ms(&self, key: &AccountKey) -> i64 {
        let spans = self.spans.get(&key.limit).into_iter().flatten();
        spans.filter_map(|span| until_ms(*span, key.bucket, self.now_ms)).max().unwrap_or(self.now_ms)
    }
}

/// `None` when a limit with this span has no such account.
fn until_ms(span: Span, bucket: i64, now_ms: i64) -> Option<i64> {
    match span {
        Span::Fixed { start_ms, end_ms } => (start_ms == bucket).then_some(end_ms),
        Span::Rolling { length_ms, bucket_ms } => {
            let last_ms = if bucket == AccountKey::ROLLING { now_ms } else { bucket };
            Some(last_ms.saturating_add(length_ms).saturating_add(bucket_ms))
        }
    }
}

/// Whether an account that is needed until `until_ms` may be forgotten at `now_ms`, both by ledger time.
pub fn may_be_forgotten(account: &Account, until_ms: i64, now_ms: i64) -> bool {
    until_ms < before_ms(now_ms) && account.outstanding == 0 && account.reserved == 0
}

/// Accounts that were needed until before may be forgotten at `now_ms`.
pub fn before_ms(now_ms: i64) -> i64 {
    now_ms.saturating_sub(KEEP_MS)
}
