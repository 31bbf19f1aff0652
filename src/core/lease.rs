//! The money that a sidecar holds: leases, what calls have drawn on them, and when they go back.
//!
//! A lease is granted under a set of limits. Calls draw their worst case, settle their cost and leave the rest for the
//! next call. What nobody needs goes back, and going back ends a lease: later calls open a new one, so that for each
//! lease every request for more comes before the first give-back, whatever the order in which messages arrive.
//!
//! ```text
//!            ask            granted                idle, expired or recalled           last call settles
//!   (none) ──────▶ asking ──────────▶ open ◀─┐ ────────────────────────────▶ closing ───────────────────▶ (none)
//!      ▲             │  refused        │ask  │granted, refused               gives back what is free at once,
//!      └─────────────┘                 └─────┘                               and each call's rest as it settles
//! ```
//!
//! Pure: time (milliseconds of one monotonic clock) and identifiers come in as arguments; messages go out as values.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::limit::{LimitKey, Shortfall};
use super::money::PicoUsd;

/// A lease's identity, chosen by its holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseId(pub Arc<str>);

/// What lay untouched for so long is not needed.
pub const IDLE_MS: i64 = 2_000;
/// Spending is measured over so long.
const SPEND_WINDOW_MS: i64 = 5_000;
/// Far from a limit a lease is sized for so many times what was spent in [`SPEND_WINDOW_MS`], half of a lease's life; near it, for once.
const WINDOWS_AHEAD: i64 = 6;
/// And for so many calls like the one that asks, while little is known of what there is to come.
const CALLS_AHEAD: i64 = 8;
/// How long leases stay short after what was idle in one was called back: others need what there is.
const SCARCE_MS: i64 = 10_000;
/// How long a refused call waits before it asks again, once more and again: within a second, what others hold idle has come back.
const PATIENCE_MS: [i64; 5] = [40, 80, 160, 300, 400];

/// How long a call that was refused `refusals` times before waits until it asks again, milliseconds; `None` when it has waited enough.
pub fn patience_ms(refusals: u32) -> Option<i64> {
    PATIENCE_MS.get(usize::try_from(refusals).ok()?).copied()
}

/// True when what others hold idle would be enough for a call of `need` that was refused, while `free` is held here.
pub fn may_come_back(shortfalls: &[Shortfall], need: Amount, free: Amount) -> bool {
    shortfalls.iter().all(|s| s.left.saturating_add(s.idle) >= need.in_unit(s.unit) && s.idle > free.in_unit(s.unit))
}

/// A request for a lease, or for more of one. Sent again unchanged until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    pub lease: LeaseId,
    pub seq: u64,
    /// What the call needs beyond what is free already.
    pub min: Amount,
    /// What the calls to come will probably need, too.
    pub want: Amount,
}

/// What became of an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted {
        amount: Amount,
        expires_ms: i64,
        /// What the tightest limit in US dollars has left beyond this; `None` when no limit is in dollars.
        left: Option<PicoUsd>,
    },
    Refused,
    /// A window has ended: this lease takes no more.
    Expired,
}

/// Money that returns to the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveBack {
    pub lease: LeaseId,
    pub seq: u64,
    pub amount: Amount,
}

/// Every lease of one sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseBook {
    /// The lease that new calls draw on, for each set of limits (sorted).
    current: BTreeMap<Vec<LimitKey>, Lease>,
    /// Leases that only wait for their calls to settle.
    closing: BTreeMap<LeaseId, Closing>,
    /// Sets of limits of which somebody else lacked something, until when that is remembered.
    scarce: BTreeMap<Vec<LimitKey>, i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lease {
    id: LeaseId,
    seq: u64,
    /// Granted and not drawn.
    free: Amount,
    /// Drawn by calls that are not settled.
    reserved: Amount,
    expires_ms: i64,
    /// What the ledger had left beyond this lease when it last granted something.
    left: Option<PicoUsd>,
    /// The ledger last gave less than was asked for: what is held here may be missed elsewhere.
    scarce: bool,
    /// Sent and not answered.
    asking: Option<Ask>,
    /// One of its limits has changed since: nothing is drawn any more, and it closes once its request is answered.
    revoked: bool,
    spend: Spend,
    watch: Watch,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Closing {
    seq: u64,
    reserved: Amount,
}

impl LeaseBook {
    /// Draws `need` for a call, if so much is free under exactly these limits.
    pub fn draw(&mut self, limits: &[LimitKey], need: Amount, now_ms: i64) -> Option<LeaseId> {
        let lease = self.current.get_mut(limits).filter(|l| l.is_open(now_ms) && l.free.covers(&need))?;
        lease.free -= need;
        lease.reserved += need;
        lease.watch.drawn(need, lease.free);
        Some(lease.id.clone())
    }

    /// What to ask the ledger for, so that a call that needs `need` and those `waiting` behind it can draw; the same again
    /// while an earlier request is unanswered. The give-back, if any, is of an expired lease that this one replaces.
    pub fn ask(
        &mut self,
        limits: &[LimitKey],
        need: Amount,
        waiting: Amount,
        now_ms: i64,
        fresh: impl FnOnce() -> LeaseId,
    ) -> (Ask, Option<GiveBack>) {
        let expired = self.current.get(limits).is_some_and(|l| l.asking.is_none() && l.has_expired(now_ms));
        let back = if expired { self.close(limits) } else { None };
        let lease = self.current.entry(limits.to_vec()).or_insert_with(|| Lease::new(fresh(), now_ms));
        let ask = match &lease.asking {
            Some(unanswered) => unanswered.clone(),
            None => {
                lease.scarce |= self.scarce.get(limits).is_some_and(|until_ms| now_ms < *until_ms);
                lease.ask(need, waiting, now_ms)
            }
        };
        (ask, back)
    }

    /// Takes the answer to `ask`. An answer that was taken before changes nothing.
    pub fn answered(&mut self, limits: &[LimitKey], ask: &Ask, answer: Answer, now_ms: i64) -> Option<GiveBack> {
        let lease = self.current.get_mut(limits).filter(|l| l.asking.as_ref() == Some(ask))?;
        lease.asking = None;
        match answer {
            Answer::Granted { amount, expires_ms, left } => {
                lease.scarce = !amount.covers(&ask.want);
                lease.free += amount;
                lease.expires_ms = expires_ms;
                lease.left = left;
                lease.watch.restart(now_ms, lease.free);
            }
            Answer::Refused => lease.scarce = true,
            Answer::Expired => return self.close(limits),
        }
        if lease.revoked { self.close(limits) } else { None }
    }

    /// Ends a call that drew `reserved` on `lease` and cost `cost`. The rest is free again, or goes back if the lease is closing.
    pub fn settle(&mut self, lease: &LeaseId, reserved: Amount, cost: Amount, now_ms: i64) -> Option<GiveBack> {
        if let Some(current) = self.current.values_mut().find(|l| l.id == *lease) {
            current.settle(reserved, cost, now_ms);
            return None;
        }
        let closing = self.closing.get_mut(lease)?;
        closing.reserved = closing.reserved.minus_floor_zero(reserved);
        closing.seq += 1;
        let back = GiveBack { lease: lease.clone(), seq: closing.seq, amount: reserved.minus_floor_zero(cost) };
        if closing.reserved.is_zero() {
            self.closing.remove(lease);
        }
        Some(back).filter(|b| !b.amount.is_zero())
    }

    /// A call that drew on `lease` needs `surplus` less than it drew: it is free again, or goes back if the lease is closing.
    pub fn release(&mut self, lease: &LeaseId, surplus: Amount) -> Option<GiveBack> {
        if let Some(current) = self.current.values_mut().find(|l| l.id == *lease) {
            let surplus = surplus.min(current.reserved);
            current.reserved -= surplus;
            current.free += surplus;
            return None;
        }
        let closing = self.closing.get_mut(lease)?;
        closing.reserved = closing.reserved.minus_floor_zero(surplus);
        closing.seq += 1;
        Some(GiveBack { lease: lease.clone(), seq: closing.seq, amount: surplus }).filter(|b| !b.amount.is_zero())
    }

    /// Returns what is not needed: leases that have expired, that nothing was drawn on for [`IDLE_MS`], or that hold far more than
    /// is being spent. To be called several times in that time.
    pub fn tick(&mut self, now_ms: i64) -> Vec<GiveBack> {
        self.scarce.retain(|_, until_ms| now_ms < *until_ms);
        let unneeded = |lease: &mut Lease| lease.asking.is_none() && (lease.has_expired(now_ms) || lease.is_unneeded(now_ms));
        let sets: Vec<_> = self.current.iter_mut().filter_map(|(set, lease)| unneeded(lease).then(|| set.clone())).collect();
        sets.iter().filter_map(|set| self.close(set)).collect()
    }

    /// Returns what is free in leases under any of `limits`, other than the lease under exactly `except`; those that follow are short.
    pub fn recall(&mut self, limits: &[LimitKey], except: Option<&[LimitKey]>, now_ms: i64) -> Vec<GiveBack> {
        let touches = |set: &Vec<LimitKey>| set.iter().any(|key| limits.contains(key)) && Some(set.as_slice()) != except;
        let held = self.current.iter().filter(|(set, lease)| lease.asking.is_none() && !lease.free.is_zero() && touches(set));
        let sets: Vec<_> = held.map(|(set, _)| set.clone()).collect();
        self.scarce.extend(sets.iter().map(|set| (set.clone(), now_ms + SCARCE_MS)));
        sets.iter().filter_map(|set| self.close(set)).collect()
    }

    /// What was granted under any of `limits`, or under a value of one that is split, was measured by what that limit was before:
    /// nothing more is drawn on it, and what is free goes back; where a request is under way, once that is answered.
    pub fn revoke(&mut self, limits: &[LimitKey]) -> Vec<GiveBack> {
        let touches = |set: &Vec<LimitKey>| set.iter().any(|key| limits.iter().any(|limit| limit == key || limit.0 == key.base()));
        let sets: Vec<_> = self.current.keys().filter(|set| touches(set)).cloned().collect();
        let close = |set: &Vec<LimitKey>| match self.current.get_mut(set).filter(|lease| lease.asking.is_some()) {
            Some(lease) => {
                lease.revoked = true;
                None
            }
            None => self.close(set),
        };
        sets.iter().filter_map(close).collect()
    }

    /// Returns everything that no call has drawn: for the end of a sidecar.
    pub fn close_all(&mut self) -> Vec<GiveBack> {
        let sets: Vec<_> = self.current.keys().cloned().collect();
        sets.iter().filter_map(|set| self.close(set)).collect()
    }

    /// Requests that nobody waits for any more and that the ledger may have granted.
    pub fn unanswered(&self) -> Vec<(Vec<LimitKey>, Ask)> {
        self.current.iter().filter_map(|(set, lease)| Some((set.clone(), lease.asking.clone()?))).collect()
    }

    /// What a call under exactly these limits could draw.
    pub fn free(&self, limits: &[LimitKey], now_ms: i64) -> Amount {
        self.current.get(limits).filter(|l| l.is_open(now_ms)).map_or(Amount::ZERO, |l| l.free)
    }

    /// What calls under exactly these limits may still cost, by the ledger's last word and what is free here; `None` without a
    /// lease, or when no limit is in US dollars. Others may have drawn on the same limits since.
    pub fn remaining(&self, limits: &[LimitKey], now_ms: i64) -> Option<PicoUsd> {
        let left = self.current.get(limits)?.left?;
        Some(left + self.free(limits, now_ms).usd)
    }

    /// Granted and neither settled nor given back, of every lease.
    pub fn held(&self) -> Amount {
        let current = self.current.values().map(|l| l.free + l.reserved);
        current.chain(self.closing.values().map(|c| c.reserved)).fold(Amount::ZERO, |sum, held| sum + held)
    }

    fn close(&mut self, limits: &[LimitKey]) -> Option<GiveBack> {
        let Lease { id, seq, free, reserved, .. } = self.current.remove(limits)?;
        let back = GiveBack { lease: id.clone(), seq: seq + 1, amount: free };
        if !reserved.is_zero() {
            self.closing.insert(id, Closing { seq: seq + 1, reserved });
        }
        Some(back).filter(|b| !b.amount.is_zero())
    }
}

impl Lease {
    fn new(id: LeaseId, now_ms: i64) -> Lease {
        Lease {
            id,
            seq: 0,
            free: Amount::ZERO,
            reserved: Amount::ZERO,
            expires_ms: i64::MAX,
            left: None,
            scarce: false,
            asking: None,
            revoked: false,
            spend: Spend::default(),
            watch: Watch { since_ms: now_ms, ..Watch::default() },
        }
    }

    fn ask(&mut self, need: Amount, waiting: Amount, now_ms: i64) -> Ask {
        let min = need.minus_floor_zero(self.free);
        let want = (min + waiting).saturating_add(self.ahead(need, now_ms));
        self.seq += 1;
        let ask = Ask { lease: self.id.clone(), seq: self.seq, min, want };
        self.asking = Some(ask.clone());
        ask
    }

    /// What the calls to come will probably need, if they are like one that needs `need`.
    fn ahead(&mut self, need: Amount, now_ms: i64) -> Amount {
        let recent = self.spend.recent(now_ms);
        if self.scarce { recent } else { recent.saturating_mul(WINDOWS_AHEAD).max(need.saturating_mul(CALLS_AHEAD)) }
    }

    /// New calls may draw.
    fn is_open(&self, now_ms: i64) -> bool {
        !self.revoked && !self.has_expired(now_ms)
    }

    fn has_expired(&self, now_ms: i64) -> bool {
        now_ms >= self.expires_ms
    }

    /// A cost above the reservation (a provider that exceeds its own cap) is taken from what is free, as the ledger does.
    fn settle(&mut self, reserved: Amount, cost: Amount, now_ms: i64) {
        let left = (self.free + self.reserved).minus_floor_zero(cost);
        self.reserved = self.reserved.minus_floor_zero(reserved).min(left);
        self.free = left - self.reserved;
        self.spend.add(cost, now_ms);
    }

    /// Looks back over the last [`IDLE_MS`], once they have passed.
    fn is_unneeded(&mut self, now_ms: i64) -> bool {
        if now_ms - self.watch.since_ms < IDLE_MS {
            return false;
        }
        let largest = self.watch.largest;
        let plenty = self.ahead(largest, now_ms).saturating_mul(2).saturating_add(largest);
        let unneeded = self.watch.largest.is_zero() || !plenty.covers(&self.watch.least_free);
        self.watch.restart(now_ms, self.free);
        unneeded
    }
}

/// What a lease went through since a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Watch {
    since_ms: i64,
    /// The least that was free, which nobody needed.
    least_free: Amount,
    /// The largest draw; zero when there was none.
    largest: Amount,
}

impl Watch {
    fn drawn(&mut self, need: Amount, free: Amount) {
        self.least_free = self.least_free.min(free);
        self.largest = self.largest.max(need);
    }

    fn restart(&mut self, now_ms: i64, free: Amount) {
        *self = Watch { since_ms: now_ms, least_free: free, largest: Amount::ZERO };
    }
}

/// Costs by time, in two windows: the one under way and the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Spend {
    since_ms: i64,
    current: Amount,
    before: Amount,
}

impl Spend {
    fn add(&mut self, cost: Amount, now_ms: i64) {
        self.roll(now_ms);
        self.current += cost;
    }

    /// The most that a window of the last two saw.
    fn recent(&mut self, now_ms: i64) -> Amount {
        self.roll(now_ms);
        self.before.max(self.current)
    }

    fn roll(&mut self, now_ms: i64) {
        let windows = (now_ms - self.since_ms) / SPEND_WINDOW_MS;
        if windows >= 1 {
            self.before = if windows == 1 { self.current } else { Amount::ZERO };
            self.current = Amount::ZERO;
            self.since_ms += windows * SPEND_WINDOW_MS;
        }
    }
}

#[cfg(test)]
mod tests;
