//! `export`: the current period's costs as FOCUS rows.
//!
//! Columns are those of FOCUS 1.2 that these figures can fill; one row for each owner's model calls, and one for each
//! share of a shared cost. The rows of an allocation add up to its total exactly.

use kube::api::ListParams;
use kube::{Client, ResourceExt};

use super::{CliError, Namespaces};
use crate::api::CostAllocation;
use crate::core::csv::quoted;
use crate::core::money::PicoUsd;

const COLUMNS: [&str; 15] = [
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "BillingCurrency",
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeDescription",
    "ServiceCategory",
    "ServiceName",
    "SubAccountId",
    "ConsumedQuantity",
    "ConsumedUnit",
];

pub async fn run(client: Client, namespaces: &Namespaces) -> Result<String, CliError> {
    let list = namespaces.api::<CostAllocation>(&client).list(&ListParams::default()).await.map_err(CliError::api)?;
    let mut csv = COLUMNS.join(",") + "\n";
    for allocation in &list.items {
        for row in rows(allocation) {
            csv.push_str(&row);
        }
    }
    Ok(csv)
}

fn rows(allocation: &CostAllocation) -> Vec<String> {
    let Some(status) = &allocation.status else { return Vec::new() };
    let place = format!("{}/{}", allocation.namespace().unwrap_or_default(), allocation.name_any());
    let row = |cost: PicoUsd, description: &str, service: &str, owner: &str, quantity: &str, unit: &str| {
        let cost = cost.to_decimal();
        let (start, end) = (status.period_start.as_str(), status.period_end.as_str());
        let cells = [
            &cost,
            &cost,
            &cost,
            "USD",
            start,
            end,
            start,
            end,
            "Usage",
            description,
            "AI and Machine Learning",
            service,
            owner,
            quantity,
            unit,
        ];
        cells.map(quoted).join(",") + "\n"
    };
    let mut rows = Vec::new();
    for o in &status.owners {
        rows.push(row(o.direct, &format!("Model calls ({place})"), "Model calls", &o.name, &o.tokens.to_string(), "Tokens"));
    }
    let shared: PicoUsd = status.shared_costs.iter().map(|c| c.unallocated).sum();
    let unclaimed = status.unallocated - shared;
    if unclaimed != PicoUsd::ZERO {
        rows.push(row(unclaimed, &format!("Model calls that no owner claims ({place})"), "Model calls", "unallocated", "", ""));
    }
    for c in &status.shared_costs {
        for s in &c.shares {
            rows.push(row(s.cost, &format!("Share of {} ({place})", c.name), &c.name, &s.owner, &s.usage, &format!("{:?}", c.driver)));
        }
        for (cost, owner) in [(c.idle, "idle"), (c.unallocated, "unallocated")] {
            if cost != PicoUsd::ZERO {
                rows.push(row(cost, &format!("Share of {} ({place})", c.name), &c.name, owner, "", ""));
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::allocation::{CostAllocationStatus, CostDriver, OwnerStatus, ShareStatus, SharedCostStatus};

    #[test]
    fn the_rows_add_up_to_the_total_to_the_pico_dollar() {
        let owner = |name: &str, direct: i128| OwnerStatus {
            name: name.into(),
            calls: 1,
            tokens: 2,
            direct: PicoUsd(direct),
            shared: PicoUsd(0),
            total: PicoUsd(direct),
        };
        let share = |owner: &str, cost: i128| ShareStatus { owner: owner.into(), usage: "1".into(), cost: PicoUsd(cost) };
        let shared = SharedCostStatus {
            name: "vectors".into(),
            cost: PicoUsd(100),
            driver: CostDriver::Calls,
            shares: vec![share("a", 33), share("b", 34)],
            idle: PicoUsd(13),
            unallocated: PicoUsd(20),
        };
        let status = CostAllocationStatus {
            owners: vec![owner("a", 5), owner("b", 7)],
            shared_costs: vec![shared],
            unallocated: PicoUsd(21),
            total: PicoUsd(113),
            ..CostAllocationStatus::default()
        };
        let spec = serde_json::from_value(serde_json::json!({"owners": []})).expect("a minimal spec");
        let mut allocation = CostAllocation::new("x", spec);
        allocation.status = Some(status);
        let cost = |row: &String| row.split(',').next().and_then(|c| c.parse::<PicoUsd>().ok()).expect("a cost");
        assert_eq!(rows(&allocation).iter().map(cost).sum::<PicoUsd>(), PicoUsd(113));
    }
}
