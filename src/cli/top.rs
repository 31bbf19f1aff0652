//! `top`: budgets by how much of them is used, owners by what they cost.

use kube::api::ListParams;
use kube::{Client, ResourceExt};

use super::table::{Table, or_dash};
use super::{CliError, Namespaces};
use crate::api::{AIBudget, CostAllocation};

pub async fn run(client: Client, namespaces: &Namespaces) -> Result<String, CliError> {
    let budgets = namespaces.api::<AIBudget>(&client).list(&ListParams::default()).await.map_err(CliError::api)?;
    let allocations = namespaces.api::<CostAllocation>(&client).list(&ListParams::default()).await.map_err(CliError::api)?;
    Ok(format!("{}\n{}", budget_table(&budgets.items), owner_table(&allocations.items)))
}

fn budget_table(budgets: &[AIBudget]) -> String {
    let mut rows: Vec<_> = budgets
        .iter()
        .flat_map(|b| {
            b.status
                .iter()
                .flat_map(|s| &s.limits)
                .map(move |limit| (limit.percent_spent, b.namespace().unwrap_or_default(), b.name_any(), limit))
        })
        .collect();
    rows.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| (&a.1, &a.2).cmp(&(&b.1, &b.2))));
    let mut table =
        Table::new(["NAMESPACE", "BUDGET", "LIMIT", "FOR", "WINDOW", "AMOUNT", "SPENT", "USED", "RESERVED", "REMAINING", "FORECAST"]);
    for (percent, namespace, name, limit) in rows {
        table.row([
            namespace,
            name,
            limit.name.clone(),
            or_dash(limit.split.as_deref()),
            limit.window.clone(),
            limit.limit.clone(),
            limit.spent.clone(),
            format!("{percent}%"),
            limit.reserved.clone(),
            limit.remaining.clone(),
            or_dash(limit.forecast.as_deref()),
        ]);
    }
    if table.is_empty() { "No budgets.\n".to_owned() } else { table.render() }
}

fn owner_table(allocations: &[CostAllocation]) -> String {
    let mut rows: Vec<_> =
        allocations.iter().flat_map(|a| a.status.iter().flat_map(move |s| s.owners.iter().map(move |owner| (a, s, owner)))).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.2.total));
    let mut table = Table::new(["NAMESPACE", "ALLOCATION", "PERIOD", "OWNER", "CALLS", "TOKENS", "MODELS", "SHARED", "TOTAL"]);
    for (allocation, status, owner) in rows {
        table.row([
            allocation.namespace().unwrap_or_default(),
            allocation.name_any(),
            status.period.clone(),
            owner.name.clone(),
            owner.calls.to_string(),
            owner.tokens.to_string(),
            owner.direct.to_string(),
            owner.shared.to_string(),
            owner.total.to_string(),
        ]);
    }
    if table.is_empty() { "No allocated costs.\n".to_owned() } else { table.render() }
}
