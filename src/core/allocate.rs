//! Whose cost it is: every pico-dollar of a period goes to an owner, to idle or to unallocated, and to one of them only
//! (invariant I4: Σ owners + idle + unallocated = cost).
//!
//! An owner bears the cost of its own model calls, and of every shared cost the share that its usage has in all usage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cel::{CallFacts, Expression};
use super::dimensions::{Dimensions, Origin};
use super::money::PicoUsd;
use super::policy::Tier;
use super::split::split;

/// What a shared cost is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CostDriver {
    /// Number of calls.
    Calls,
    /// Tokens of every meter.
    Tokens,
    /// Bytes of request and response bodies.
    Bytes,
    /// The model calls' own cost.
    Cost,
}

/// What happens to the idle share of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IdlePolicy {
    Keep,
    Distribute,
}

// ---- what goes in ----

/// Answered calls with the same dimensions, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRow {
    pub origin: Origin,
    pub dimensions: Dimensions,
    pub model: String,
    /// The backend, or the shared service when `shared` holds.
    pub backend: String,
    /// True for calls to a shared service, false for calls to a model.
    pub shared: bool,
    pub tier: Option<Tier>,
    pub calls: u64,
    pub tokens: u64,
    pub bytes: u64,
    pub cost: PicoUsd,
}

impl UsageRow {
    /// What an owner's rule sees of the calls.
    pub fn facts(&self) -> CallFacts<'_> {
        CallFacts { origin: &self.origin, dimensions: &self.dimensions, model: &self.model, backend: &self.backend, tier: self.tier }
    }

    /// What the row weighs for a shared cost; `service` is the shared service that the cost is of.
    fn weight(&self, driver: CostDriver, service: Option<&str>) -> u128 {
        let counts_service_calls = matches!(driver, CostDriver::Calls | CostDriver::Bytes) && service.is_some();
        let counted = if counts_service_calls { self.shared && service == Some(self.backend.as_str()) } else { !self.shared };
        match driver {
            _ if !counted => 0,
            CostDriver::Calls => self.calls.into(),
            CostDriver::Tokens => self.tokens.into(),
            CostDriver::Bytes => self.bytes.into(),
            CostDriver::Cost => u128::try_from(self.cost.0).unwrap_or(0),
        }
    }
}

/// Who calls belong to: those for which `claim` holds.
#[derive(Clone, Debug)]
pub struct OwnerRule {
    pub name: String,
    pub claim: Expression,
}

/// The index of the first rule that claims a row. A rule that cannot be evaluated claims nothing.
pub fn first_owner(rules: &[OwnerRule], row: &UsageRow) -> Option<usize> {
    let call = row.facts();
    rules.iter().position(|rule| rule.claim.matches(&call).unwrap_or(false))
}

/// A cost that owners share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCharge {
    pub name: String,
    /// For the whole period.
    pub cost: PicoUsd,
    pub driver: CostDriver,
    /// The shared service whose calls and bytes are the usage; `None` for those of model calls.
    pub service: Option<String>,
    /// What could have been used in the period, in the driver's unit.
    pub capacity: Option<u64>,
    pub idle: IdlePolicy,
}

// ---- what comes out ----

/// A period's cost, divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// What went in: the cost of all calls, and the shared costs.
    pub cost: PicoUsd,
    /// In the order that the owners were given.
    pub owners: Vec<OwnerCost>,
    pub shared: Vec<SharedSplit>,
    /// Cost of the calls that no owner claims.
    pub unclaimed: PicoUsd,
}

/// An owner's part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerCost {
    pub name: String,
    /// Model calls.
    pub calls: u64,
    /// Tokens of those.
    pub tokens: u64,
    /// Cost of the owner's calls.
    pub direct: PicoUsd,
    /// Its share of the shared costs.
    pub shared: PicoUsd,
}

impl OwnerCost {
    pub fn total(&self) -> PicoUsd {
        self.direct + self.shared
    }
}

/// How a shared cost was divided: the shares, `idle` and `unallocated` add up to `cost`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSplit {
    pub name: String,
    pub cost: PicoUsd,
    pub driver: CostDriver,
    /// In the order that the owners were given.
    pub shares: Vec<Share>,
    pub idle: PicoUsd,
    /// Used by callers whom no owner claims, or by nobody at all.
    pub unallocated: PicoUsd,
}

/// An owner's share of a shared cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub owner: String,
    /// In the driver's unit; pico-dollars for [`CostDriver::Cost`].
    pub usage: u128,
    pub cost: PicoUsd,
}

impl Allocated {
    /// Idle parts of the shared costs.
    pub fn idle(&self) -> PicoUsd {
        self.shared.iter().map(|split| split.idle).sum()
    }

    /// Calls that no owner claims, and what they or nobody used of the shared costs.
    pub fn unallocated(&self) -> PicoUsd {
        self.unclaimed + self.shared.iter().map(|split| split.unallocated).sum()
    }

    /// Invariant I4, checked against what went in.
    pub fn is_balanced(&self) -> bool {
        let owned: PicoUsd = self.owners.iter().map(OwnerCost::total).sum();
        owned + self.idle() + self.unallocated() == self.cost
    }
}

// ---- the division ----

/// Divides the cost of `rows` and `charges` among `owners`. `owner_of` says which owner (an index into `owners`) claims a row,
/// mostly [`first_owner`]; `None` leaves it unallocated.
pub fn allocate(
    owners: &[String],
    rows: &[UsageRow],
    charges: &[SharedCharge],
    owner_of: impl Fn(&UsageRow) -> Option<usize>,
) -> Allocated {
    let claims: Vec<Option<usize>> = rows.iter().map(|row| owner_of(row).filter(|owner| *owner < owners.len())).collect();
    let mut costs: Vec<OwnerCost> = owners.iter().map(|name| OwnerCost { name: name.clone(), ..OwnerCost::default() }).collect();
    let mut unclaimed = PicoUsd::ZERO;
    for (row, claim) in rows.iter().zip(&claims) {
        match claim {
            Some(owner) => costs[*owner].add(row),
            None => unclaimed += row.cost,
        }
    }
    let shared: Vec<SharedSplit> = charges.iter().map(|charge| divide(charge, owners, rows, &claims)).collect();
    for split in &shared {
        for (owner, share) in costs.iter_mut().zip(&split.shares) {
            owner.shared += share.cost;
        }
    }
    let cost = rows.iter().map(|row| row.cost).chain(charges.iter().map(|charge| charge.cost)).sum();
    Allocated { cost, owners: costs, shared, unclaimed }
}

impl OwnerCost {
    fn add(&mut self, row: &UsageRow) {
        self.direct += row.cost;
        if !row.shared {
            self.calls += row.calls;
            self.tokens += row.tokens;
        }
    }
}

/// Ties between owners go to the first by name, then to the unallocated, then to the idle part.
fn divide(charge: &SharedCharge, owners: &[String], rows: &[UsageRow], claims: &[Option<usize>]) -> SharedSplit {
    let mut usage = vec![0u128; owners.len()];
    let mut unclaimed = 0u128;
    for (row, claim) in rows.iter().zip(claims) {
        let weight = row.weight(charge.driver, charge.service.as_deref());
        *claim.map_or(&mut unclaimed, |owner| &mut usage[owner]) += weight;
    }
    let mut by_name: Vec<usize> = (0..owners.len()).collect();
    by_name.sort_by_key(|owner| &owners[*owner]);
    let mut weights: Vec<u128> = by_name.iter().map(|owner| usage[*owner]).collect();
    weights.push(unclaimed);
    weights.push(idle_usage(charge, weights.iter().sum()));

    let mut shares: Vec<Share> =
        owners.iter().zip(&usage).map(|(owner, usage)| Share { owner: owner.clone(), usage: *usage, cost: PicoUsd::ZERO }).collect();
    let parts = split(charge.cost, &weights);
    for (owner, part) in by_name.iter().zip(parts.iter().flatten()) {
        shares[*owner].cost = *part;
    }
    let (unallocated, idle) = match parts.as_deref() {
        Some([.., unclaimed, idle]) => (*unclaimed, *idle),
        _ => (charge.cost, PicoUsd::ZERO),
    };
    SharedSplit { name: charge.name.clone(), cost: charge.cost, driver: charge.driver, shares, idle, unallocated }
}

/// The part of the capacity that bears cost although nobody used it. What is to be distributed has no weight of its own, unless
/// there is nobody to bear it.
fn idle_usage(charge: &SharedCharge, used: u128) -> u128 {
    let free = charge.capacity.map_or(0, |capacity| u128::from(capacity).saturating_sub(used));
    match charge.idle {
        IdlePolicy::Keep => free,
        IdlePolicy::Distribute if used == 0 => free,
        IdlePolicy::Distribute => 0,
    }
}

#[cfg(test)]
mod tests;
