//! CostAllocation specs.

use super::{ParseError, Problems, positive};
use crate::api::allocation::{self as spec, AllocationPeriod, CostAllocationSpec, SharedCost};
use crate::core::allocate::{CostDriver, IdlePolicy, OwnerRule};
use crate::core::allocation::{self as domain, Allocation};
use crate::core::cel::Expression;
use crate::core::money::PicoUsd;
use crate::core::policy::{CalendarPeriod, ResourceKey, Window};
use crate::core::window::Schedule;

/// # Errors
/// Everything that is wrong with the spec.
pub fn allocation(key: ResourceKey, spec: &CostAllocationSpec) -> Result<Allocation, ParseError> {
    let mut problems = Problems::default();
    let period = match spec.period {
        AllocationPeriod::Day => CalendarPeriod::Day,
        AllocationPeriod::Week => CalendarPeriod::Week,
        AllocationPeriod::Month => CalendarPeriod::Month,
    };
    let schedule = problems.check("spec.timeZone", Schedule::new(Window::Calendar { period, time_zone: spec.time_zone.clone() }));
    let mut owners = Vec::new();
    for (index, owner) in spec.owners.iter().enumerate() {
        if spec.owners[..index].iter().any(|earlier| earlier.name == owner.name) {
            problems.add(
                format!("spec.owners[{index}].name"),
                format!("{:?} is taken by an earlier owner; put both rules into one with ||", owner.name),
            );
        }
        let claim = problems.check(format!("spec.owners[{index}].match"), Expression::compile(&owner.cel));
        owners.extend(claim.map(|claim| OwnerRule { name: owner.name.clone(), claim }));
    }
    if spec.owners.is_empty() {
        problems.add("spec.owners", "an allocation needs at least one owner, for example {name: everybody, match: \"true\"}");
    }
    let mut shared = Vec::new();
    for (index, cost) in spec.shared_costs.iter().enumerate() {
        let field = format!("spec.sharedCosts[{index}]");
        if spec.shared_costs[..index].iter().any(|earlier| earlier.name == cost.name) {
            problems.add(format!("{field}.name"), format!("{:?} is taken by an earlier shared cost; give each its own name", cost.name));
        }
        shared.push(shared_cost(&field, cost, &mut problems));
    }
    for (index, outcome) in spec.outcomes.iter().enumerate() {
        if !spec.owners.iter().any(|o| o.name == outcome.owner) {
            problems.add(format!("spec.outcomes[{index}].owner"), format!("there is no owner {:?} in spec.owners", outcome.owner));
        }
    }
    let outcomes = spec.outcomes.iter().map(|o| domain::Outcome { name: o.name.clone(), owner: o.owner.clone() }).collect();
    let time_zone = spec.time_zone.clone();
    problems.finish(schedule.map(|schedule| Allocation { key, period, time_zone, schedule, owners, shared, outcomes }))
}

fn shared_cost(field: &str, cost: &SharedCost, problems: &mut Problems) -> domain::SharedCost {
    if cost.usd_per_period < PicoUsd::ZERO {
        problems.add(format!("{field}.usdPerPeriod"), "must not be negative");
    }
    if cost.endpoint.is_some() && matches!(cost.driver, spec::CostDriver::Tokens | spec::CostDriver::Cost) {
        problems.add(
            format!("{field}.driver"),
            "a shared service is measured in Calls or Bytes; Tokens and Cost are of model calls, without `endpoint`",
        );
    }
    if cost.capacity.is_some() && cost.idle.is_none() {
        problems.add(format!("{field}.idle"), "with `capacity`, say what happens to its unused part: Keep or Distribute");
    }
    domain::SharedCost {
        name: cost.name.clone(),
        cost: cost.usd_per_period,
        driver: match cost.driver {
            spec::CostDriver::Calls => CostDriver::Calls,
            spec::CostDriver::Tokens => CostDriver::Tokens,
            spec::CostDriver::Bytes => CostDriver::Bytes,
            spec::CostDriver::Cost => CostDriver::Cost,
        },
        endpoint: cost.endpoint.as_ref().map(|e| e.trim_end_matches('/').to_owned()),
        capacity: cost.capacity.and_then(|n| problems.check(format!("{field}.capacity"), positive(n))),
        idle: match cost.idle {
            Some(spec::IdlePolicy::Distribute) => IdlePolicy::Distribute,
            Some(spec::IdlePolicy::Keep) | None => IdlePolicy::Keep,
        },
    }
}
