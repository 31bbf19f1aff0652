//! A CostAllocation, parsed: what is to be divided, among whom, and what it bought. The arithmetic is in `allocate`.

use super::allocate::{CostDriver, IdlePolicy, OwnerRule};
use super::money::PicoUsd;
use super::policy::{CalendarPeriod, ResourceKey};
use super::window::Schedule;

#[derive(Clone, Debug)]
pub struct Allocation {
    pub key: ResourceKey,
    pub period: CalendarPeriod,
    pub time_zone: String,
    /// The period's windows.
    pub schedule: Schedule,
    /// In order: the first that matches a call claims it.
    pub owners: Vec<OwnerRule>,
    pub shared: Vec<SharedCost>,
    pub outcomes: Vec<Outcome>,
}

/// A cost that owners share.
#[derive(Clone, Debug)]
pub struct SharedCost {
    pub name: String,
    /// For one period.
    pub cost: PicoUsd,
    pub driver: CostDriver,
    /// The shared service whose calls are counted; without it, model calls are.
    pub endpoint: Option<String>,
    pub capacity: Option<u64>,
    pub idle: IdlePolicy,
}

/// Something that an owner's money bought.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: String,
    pub owner: String,
}
