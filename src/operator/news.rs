//! What sidecars told one replica and every replica is to know: sums, small whatever the traffic. Pure.
//!
//! A report is looked through once ([`News::of_report`]); its sums go to this replica's own memory ([`Refusals`], [`Runaways`],
//! [`Outages`]) and, as a note, to that of the others. So each of them decides on the same facts, and whichever leads next has them.
//!
//! [`Refusals`]: super::context::Refusals
//! [`Runaways`]: super::runaways::Runaways
//! [`Outages`]: super::outages::Outages

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::channel::message::Reported;
use crate::core::amount::Amount;
use crate::core::budget::BudgetSet;
use crate::core::call::{CallOutcome, CallRecord};
use crate::core::cel::CallFacts;
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::money::PicoUsd;
use crate::core::policy::{Budget, Enforcement, ResourceKey};
use crate::core::runaway::Runaway;

/// What was heard since it was last told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// Limits that refused a lease.
    pub refused: BTreeMap<LimitKey, Refused>,
    /// Who spent what under budgets that watch for runaways.
    pub spent: BTreeMap<ResourceKey, Watched>,
    /// What budgets did without the ledger.
    pub outages: BTreeMap<ResourceKey, Unkept>,
}

/// Refusals of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub count: u64,
    /// The least that a refused call needed, in the limit's unit.
    pub smallest: i128,
    /// What the limit had left at the last of them.
    pub left: i128,
    /// Whether others held some of it unused.
    pub is_held: bool,
}

/// What was spent under one budget that watches for runaways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    pub rule: Runaway,
    pub by_value: BTreeMap<String, Spent>,
}

/// What one value of the watched dimension spent and brought, in the unit of the budget's first limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub amount: i128,
    /// The dearest of its calls.
    pub dearest: i128,
    pub outcomes: u64,
}

/// Calls of one budget that no lease covered, though it asks for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unkept {
    /// Calls that went upstream, and what they were charged.
    pub let_through: u64,
    pub charged: PicoUsd,
    /// True when calls were refused; a sidecar tells of one in ten seconds, so they are not counted.
    pub refused: bool,
}

impl News {
    pub fn is_empty(&self) -> bool {
        *self == News::default()
    }

    /// What the ledger refused to a call that may cost `need`.
    pub fn of_refusal(shortfalls: &[Shortfall], need: Amount) -> News {
        let refused = shortfalls.iter().map(|s| {
            let refused = Refused { count: 1, smallest: need.in_unit(s.unit), left: s.left, is_held: s.idle > 0 };
            (s.key.clone(), refused)
        });
        News { refused: refused.collect(), ..News::default() }
    }

    /// What a pod reported and the ledger had not heard before; `each` sees the calls among it.
    pub fn of_report<'a>(
        budgets: &BudgetSet,
        origin: &Origin,
        entries: impl IntoIterator<Item = &'a Reported>,
        mut each: impl FnMut(&CallRecord),
    ) -> News {
        let mut news = News::default();
        for entry in entries {
            match entry {
                Reported::Settled { record, unleased, .. } => {
                    each(record);
                    news.call(budgets, origin, record);
                    news.unleased(budgets, record, unleased);
                }
                Reported::Outcome { dimensions, count, .. } => news.outcomes(budgets, origin, dimensions, *count),
                Reported::Opened { .. } | Reported::GivenBack { .. } => {}
            }
        }
        news
    }

    fn call(&mut self, budgets: &BudgetSet, origin: &Origin, record: &CallRecord) {
        if !record.outcome.is_charged() || budgets.iter().all(|budget| budget.runaway.is_none()) {
            return;
        }
        let CallRecord { dimensions, model, backend, tier, .. } = record;
        let facts = CallFacts { origin, dimensions, model, backend, tier: *tier };
        for budget in budgets.counting(&facts) {
            let amount = budget.limits.first().map(|limit| record.amount().in_unit(limit.unit));
            if let Some((spent, amount)) = self.watched(budget, origin, dimensions).zip(amount) {
                spent.amount += amount;
                spent.dearest = spent.dearest.max(amount);
            }
        }
    }

    /// An outcome has no model, so whether a budget counts it is whether it knows who brought it.
    fn outcomes(&mut self, budgets: &BudgetSet, origin: &Origin, dimensions: &Dimensions, count: u64) {
        for budget in budgets.iter() {
            if let Some(spent) = self.watched(budget, origin, dimensions) {
                spent.outcomes = spent.outcomes.saturating_add(count);
            }
        }
    }

    /// What is known of whom the budget watches; `None` when it watches nobody, or does not know who this is.
    fn watched(&mut self, budget: &Budget, origin: &Origin, dimensions: &Dimensions) -> Option<&mut Spent> {
        let rule = budget.runaway?;
        let value = rule.by.value(origin, dimensions)?;
        let watched = self.spent.entry(budget.key.clone()).or_insert_with(|| Watched { rule, by_value: BTreeMap::new() });
        Some(watched.by_value.entry(value.to_owned()).or_default())
    }

    /// Whatever names a limit without a lease, though its budget asks for one.
    fn unleased(&mut self, budgets: &BudgetSet, record: &CallRecord, unleased: &[LimitKey]) {
        let mut keys: Vec<ResourceKey> = unleased.iter().map(LimitKey::budget).collect();
        keys.dedup();
        for key in keys {
            if budgets.iter().any(|budget| budget.key == key && budget.enforcement != Enforcement::Warn) {
                let unkept = self.outages.entry(key).or_default();
                match record.outcome {
                    CallOutcome::Refused => unkept.refused = true,
                    outcome => {
                        unkept.let_through += u64::from(outcome.is_charged());
                        unkept.charged += record.cost;
                    }
                }
            }
        }
    }

    /// Adds later news.
    pub fn add(&mut self, later: News) {
        for (key, refused) in later.refused {
            self.refused.entry(key).and_modify(|known| known.add(refused)).or_insert(refused);
        }
        for (key, watched) in later.spent {
            match self.spent.get_mut(&key) {
                Some(known) if known.rule == watched.rule => known.add(watched.by_value),
                _ => drop(self.spent.insert(key, watched)),
            }
        }
        for (key, unkept) in later.outages {
            self.outages.entry(key).or_default().add(unkept);
        }
    }

    /// The limits of which others may hold what somebody lacks.
    pub fn scarce(&self) -> Vec<LimitKey> {
        self.refused.iter().filter(|(_, refused)| refused.is_held).map(|(key, _)| key.clone()).collect()
    }
}

impl Refused {
    /// What fits by now is refused no longer.
    pub fn add(&mut self, later: Refused) {
        let smallest = if self.smallest <= later.left { later.smallest } else { self.smallest.min(later.smallest) };
        *self = Refused { count: self.count + later.count, smallest, left: later.left, is_held: self.is_held || later.is_held };
    }
}

impl Watched {
    fn add(&mut self, later: BTreeMap<String, Spent>) {
        for (value, spent) in later {
            let known = self.by_value.entry(value).or_default();
            *known = Spent {
                amount: known.amount + spent.amount,
                dearest: known.dearest.max(spent.dearest),
                outcomes: known.outcomes.saturating_add(spent.outcomes),
            };
        }
    }
}

impl Unkept {
    pub fn add(&mut self, later: Unkept) {
        self.let_through += later.let_through;
        self.charged += later.charged;
        self.refused |= later.refused;
    }
}

#[cfg(test)]
mod tests;
