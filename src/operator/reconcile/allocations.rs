//! CostAllocation: whose cost it was, what it bought, and which workloads are the wrong size.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;

use super::approvals::Decided;
use super::{ReconcileError, Round, key, quantity};
use crate::api::allocation::{
    CostAllocation, CostAllocationStatus, OutcomeStatus, OwnerStatus, RightSizing, RightSizingStatus, ShareStatus, SharedCostStatus,
};
use crate::api::common::condition;
use crate::api::parse;
use crate::core::allocate::{Allocated, SharedCharge, UsageRow, allocate, first_owner};
use crate::core::allocation::Allocation;
use crate::core::limit::Span;
use crate::core::money::PicoUsd;
use crate::core::outcome::cost_per_outcome;
use crate::core::recommend::{Recommendation, RecommendationKind, RecommendationState, merge, rfc3339};
use crate::core::rightsize::{self, Decision, NodePrice, Observed, Params, Resources, Sample, Workload};
use crate::ledger::query::{CallQuery, CallTotals, OutcomeCount};
use crate::operator::conditions::{Finding, Transition, conditions};
use crate::operator::selection::Selected;

/// What a node's resources cost: Google Cloud's E2 on demand in us-central1 ($0.02181159 a vCPU hour, $0.00292353 a GiB
/// hour), the cheapest of the common general-purpose machines, so that savings are not overstated.
const NODE_PRICE: NodePrice = NodePrice { core_hour: PicoUsd(21_811_590_000), gib_hour: PicoUsd(2_923_530_000) };

/// What the ledger knows of an allocation's period.
struct Period {
    start_ms: i64,
    end_ms: i64,
    totals: Vec<CallTotals>,
    outcomes: Vec<OutcomeCount>,
}

impl Round<'_> {
    pub(super) async fn allocation(&self, resource: &CostAllocation) -> Result<(), ReconcileError> {
        let key = key(resource);
        let parsed = parse::allocation(key.clone(), &resource.spec).map_err(|e| e.to_string());
        let Decided { resource: fresh, existing } =
            self.decided(resource, |r| r.status.as_ref().map(|s| s.recommendations.clone())).await?;
        let before = fresh.as_ref().unwrap_or(resource);
        let previous = before.status.clone().unwrap_or_default();
        let (mut status, mut findings) = match &parsed {
            Ok(allocation) => {
                let selected = Selected::of(before.spec.workloads.as_ref(), key.namespace(), &self.context.namespace, &self.snapshot);
                decide(allocation, &selected, &self.period(allocation).await?)
            }
            Err(problems) => (previous.clone(), vec![ready(Some(problems))]),
        };
        let mut proposed = Vec::new();
        for wanted in &before.spec.right_sizing {
            let (sized, proposal) = self.size(key.namespace(), wanted, &existing).await?;
            status.right_sizing.push(sized);
            proposed.extend(proposal);
        }
        if parsed.is_ok() {
            findings.insert(0, ready(None));
        } else {
            status.right_sizing = previous.right_sizing.clone();
        }
        let (conditions, news): (_, Vec<Transition>) = conditions(&previous.conditions, &findings, before.metadata.generation, self.now_ms);
        status.conditions = conditions;
        status.observed_generation = before.metadata.generation;
        status.recommendations = merge(existing, proposed, &rfc3339(self.now_ms));
        self.publisher.status(before, before.status.as_ref(), &status, &news).await
    }

    async fn period(&self, allocation: &Allocation) -> Result<Period, ReconcileError> {
        let (start_ms, end_ms) = match allocation.schedule.span_at(self.now_ms) {
            Span::Fixed { start_ms, end_ms } => (start_ms, end_ms),
            Span::Rolling { length_ms, .. } => (self.now_ms - length_ms, self.now_ms),
        };
        let totals = self.context.ledger.totals(&CallQuery { from_ms: start_ms, to_ms: end_ms, route: None }).await?;
        let outcomes = self.context.ledger.outcomes(start_ms, end_ms).await?;
        Ok(Period { start_ms, end_ms, totals, outcomes })
    }

    async fn size(
        &self,
        namespace: &str,
        wanted: &RightSizing,
        existing: &[Recommendation],
    ) -> Result<(RightSizingStatus, Option<Recommendation>), ReconcileError> {
        let api: Api<Deployment> = Api::namespaced(self.context.client.clone(), namespace);
        let deployment = api.get_opt(&wanted.deployment).await?;
        let current = deployment.as_ref().and_then(|d| quantity::resources(d, &wanted.container));
        let (Some(deployment), Some(current)) = (deployment, current) else {
            let message = format!("there is no Deployment {} with a container {} in {namespace}", wanted.deployment, wanted.container);
            return Ok((size_status(wanted, &Resources::default(), None, Some(message)), None));
        };
        let workload = format!("Deployment/{}", wanted.deployment);
        let pods: BTreeSet<&str> = self
            .snapshot
            .pods
            .iter()
            .filter(|p| p.origin.namespace == namespace && p.origin.workload == workload)
            .map(|p| p.origin.pod.as_str())
            .collect();
        let samples = self.context.usage.samples(namespace, &wanted.container, |pod| pods.contains(pod));
        let samples: Vec<Sample> =
            samples.iter().map(|s| Sample { at_ms: s.at_ms, cpu_nanocores: s.nanocores, memory_bytes: s.memory_bytes }).collect();
        let params = Params {
            percentile: u8::try_from(wanted.percentile).unwrap_or(99),
            headroom_percent: u32::try_from(wanted.headroom_percent).unwrap_or(0),
            min_history_seconds: wanted.min_history_seconds,
        };
        let replicas = deployment.spec.as_ref().and_then(|s| s.replicas).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let workload = Workload { namespace, deployment: &wanted.deployment, container: &wanted.container, replicas };
        Ok(sized(wanted, &workload, &samples, &current, &params, existing))
    }
}

fn sized(
    wanted: &RightSizing,
    workload: &Workload<'_>,
    samples: &[Sample],
    current: &Resources,
    params: &Params,
    existing: &[Recommendation],
) -> (RightSizingStatus, Option<Recommendation>) {
    let standing = existing.iter().find(|r| {
        r.kind == RecommendationKind::WorkloadResources && r.target.name == wanted.deployment && r.state == RecommendationState::Proposed
    });
    match rightsize::decide(samples, current, params, standing.and_then(|r| rightsize::change_of_patch(&r.patch))) {
        Decision::TooShort { observed, have_seconds, need_seconds } => {
            let message = format!("{have_seconds} s of history; a proposal needs {need_seconds} s");
            (size_status(wanted, current, Some(&observed), Some(message)), None)
        }
        Decision::Fits { observed } => {
            let message = "the requests are within ten percent of what is needed".to_owned();
            (size_status(wanted, current, Some(&observed), Some(message)), None)
        }
        Decision::Propose { observed, change } => {
            let proposal = rightsize::proposal(workload, current, &observed, &change, params, &NODE_PRICE);
            (size_status(wanted, current, Some(&observed), None), Some(Recommendation::from(proposal)))
        }
    }
}

fn size_status(wanted: &RightSizing, current: &Resources, observed: Option<&Observed>, message: Option<String>) -> RightSizingStatus {
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let measured = observed.filter(|o| o.samples > 0);
    RightSizingStatus {
        deployment: wanted.deployment.clone(),
        container: wanted.container.clone(),
        history_seconds: observed.map_or(0, Observed::history_seconds),
        samples: observed.map_or(0, |o| as_i64(o.samples)),
        cpu_request_millicores: current.cpu_request_millicores.map(as_i64),
        memory_request_mib: current.memory_request_mib.map(as_i64),
        cpu_percentile_millicores: measured.map(|o| as_i64(o.cpu_percentile_millicores)),
        memory_max_mib: measured.map(|o| as_i64(o.memory_max_mib)),
        message,
    }
}

fn ready(problems: Option<&String>) -> Finding {
    let (holds, reason, message) = match problems {
        None => (true, "InForce", "The period's costs are allocated.".to_owned()),
        Some(problems) => (false, "Invalid", format!("Not in force: {problems}")),
    };
    Finding { type_: condition::READY, holds, reason, message, is_alarm: false }
}

fn decide(allocation: &Allocation, selected: &Selected, period: &Period) -> (CostAllocationStatus, Vec<Finding>) {
    let answered = period.totals.iter().filter(|t| t.outcome.is_charged() && selected.includes(&t.origin.namespace, &t.origin.workload));
    let rows: Vec<UsageRow> = answered.map(usage_row).collect();
    let charges: Vec<SharedCharge> = allocation.shared.iter().map(charge).collect();
    let names: Vec<String> = allocation.owners.iter().map(|o| o.name.clone()).collect();
    let allocated = allocate(&names, &rows, &charges, |row| first_owner(&allocation.owners, row));
    let shared: PicoUsd = charges.iter().map(|c| c.cost).sum();
    let period_name = rfc3339(period.start_ms).chars().take(10).collect::<String>();
    let status = CostAllocationStatus {
        period: format!("{:?} from {period_name} ({})", allocation.period, allocation.time_zone),
        period_start: rfc3339(period.start_ms),
        period_end: rfc3339(period.end_ms),
        owner_count: i64::try_from(names.len()).unwrap_or(i64::MAX),
        total: allocated.cost,
        unallocated: allocated.unallocated(),
        idle: allocated.idle(),
        display_total: allocated.cost.to_string(),
        display_shared: shared.to_string(),
        display_unallocated: allocated.unallocated().to_string(),
        owners: allocated.owners.iter().map(owner_status).collect(),
        shared_costs: allocated.shared.iter().map(shared_status).collect(),
        outcomes: outcomes(allocation, selected, period, &allocated),
        ..CostAllocationStatus::default()
    };
    (status, vec![balanced(&allocated)])
}

fn usage_row(totals: &CallTotals) -> UsageRow {
    UsageRow {
        origin: totals.origin.clone(),
        dimensions: totals.dimensions.clone(),
        model: totals.model.clone(),
        backend: totals.backend.clone(),
        shared: totals.shared,
        tier: totals.tier,
        calls: totals.calls,
        tokens: totals.usage.total(),
        bytes: totals.bytes,
        cost: totals.cost,
    }
}

fn charge(cost: &crate::core::allocation::SharedCost) -> SharedCharge {
    SharedCharge {
        name: cost.name.clone(),
        cost: cost.cost,
        driver: cost.driver,
        service: cost.endpoint.as_ref().map(|_| cost.name.clone()),
        capacity: cost.capacity,
        idle: cost.idle,
    }
}

fn owner_status(owner: &crate::core::allocate::OwnerCost) -> OwnerStatus {
    let as_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    OwnerStatus {
        name: owner.name.clone(),
        calls: as_i64(owner.calls),
        tokens: as_i64(owner.tokens),
        direct: owner.direct,
        shared: owner.shared,
        total: owner.total(),
    }
}

fn shared_status(split: &crate::core::allocate::SharedSplit) -> SharedCostStatus {
    let share = |s: &crate::core::allocate::Share| ShareStatus { owner: s.owner.clone(), usage: s.usage.to_string(), cost: s.cost };
    SharedCostStatus {
        name: split.name.clone(),
        cost: split.cost,
        driver: split.driver,
        shares: split.shares.iter().map(share).collect(),
        idle: split.idle,
        unallocated: split.unallocated,
    }
}

fn outcomes(allocation: &Allocation, selected: &Selected, period: &Period, allocated: &Allocated) -> Vec<OutcomeStatus> {
    let counted = |name: &str| {
        let of_name = period.outcomes.iter().filter(|o| o.outcome == name && selected.includes(&o.origin.namespace, &o.origin.workload));
        of_name.map(|o| o.count).sum::<u64>()
    };
    let status = |outcome: &crate::core::allocation::Outcome| {
        let cost = allocated.owners.iter().find(|o| o.name == outcome.owner).map_or(PicoUsd::ZERO, |o| o.total());
        let divided = cost_per_outcome(cost, counted(&outcome.name));
        OutcomeStatus {
            name: outcome.name.clone(),
            owner: outcome.owner.clone(),
            count: i64::try_from(divided.count).unwrap_or(i64::MAX),
            cost,
            cost_per_outcome: divided.per_outcome,
            remainder: divided.remainder,
            display_cost_per_outcome: divided.per_outcome.map(|per| per.to_string()).unwrap_or_default(),
        }
    };
    allocation.outcomes.iter().map(status).collect()
}

fn balanced(allocated: &Allocated) -> Finding {
    let holds = allocated.is_balanced();
    let message = if holds {
        "Owners, idle and unallocated add up to the cost, to the pico-dollar."
    } else {
        "Owners, idle and unallocated do not add up to the cost: this is a defect; please report it with this status."
    };
    Finding {
        type_: condition::BALANCED,
        holds,
        reason: if holds { "AddsUp" } else { "DoesNotAddUp" },
        message: message.to_owned(),
        is_alarm: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::CallOutcome;
    use crate::core::dimensions::{Dimension, Dimensions, Origin};
    use crate::operator::index::{NamespaceFacts, Snapshot};
    use serde_json::json;

    fn totals(team: &str, shared: bool, calls: u64, cost: i128) -> CallTotals {
        CallTotals {
            origin: Origin { namespace: "shop".into(), workload: "Deployment/x".into(), ..Origin::default() },
            dimensions: Dimensions::from([(Dimension::Team, team.to_owned())]),
            route: String::new(),
            backend: if shared { "vectors" } else { "openai" }.into(),
            shared,
            requested_model: String::new(),
            model: String::new(),
            requested_tier: None,
            tier: None,
            needed_tier: None,
            outcome: CallOutcome::Completed,
            calls,
            usage: Default::default(),
            bytes: 0,
            cost: PicoUsd(cost),
            duration_ms: 0,
            first_ms: 0,
            last_ms: 0,
        }
    }

    #[test]
    fn three_owners_share_by_measured_calls_and_everything_adds_up() {
        let spec = json!({"owners": [{"name": "a", "match": "call.team == 'a'"}, {"name": "b", "match": "call.team == 'b'"}, {"name": "c", "match": "call.team == 'c'"}],
            "sharedCosts": [{"name": "vectors", "usdPerPeriod": "100", "driver": "Calls", "endpoint": "http://v"}],
            "outcomes": [{"name": "ticket", "owner": "a"}]});
        let spec = serde_json::from_value(spec).expect("a spec");
        let allocation = parse::allocation(crate::core::policy::ResourceKey::new("shop", "x"), &spec).expect("valid");
        let mut rows: Vec<_> = ["a", "b", "c"].iter().flat_map(|team| [totals(team, false, 5, 7), totals(team, true, 1, 0)]).collect();
        rows.push(totals("nobody", false, 1, 11));
        let mut elsewhere = totals("a", false, 1, 1_000);
        elsewhere.origin.namespace = "other".into();
        rows.push(elsewhere);
        let ticket = OutcomeCount { outcome: "ticket".into(), origin: rows[0].origin.clone(), dimensions: Dimensions::default(), count: 3 };
        let period = Period { start_ms: 0, end_ms: 1, totals: rows, outcomes: vec![ticket] };
        let shop = NamespaceFacts { name: "shop".into(), ..NamespaceFacts::default() };
        let selected = Selected::of(None, "shop", "system", &Snapshot { namespaces: vec![shop], ..Snapshot::default() });
        let (status, findings) = decide(&allocation, &selected, &period);
        assert!(findings[0].holds);
        let shares: Vec<i128> = status.shared_costs[0].shares.iter().map(|s| s.cost.0).collect();
        assert_eq!(shares, [33_333_333_333_334, 33_333_333_333_333, 33_333_333_333_333]);
        assert_eq!(status.total, PicoUsd(100_000_000_000_000 + 21 + 11));
        assert_eq!(status.owners.iter().map(|o| o.total).sum::<PicoUsd>() + status.idle + status.unallocated, status.total);
        let outcome = &status.outcomes[0];
        assert_eq!(PicoUsd(outcome.cost_per_outcome.expect("a cost").0 * 3) + outcome.remainder, outcome.cost);
    }
}
