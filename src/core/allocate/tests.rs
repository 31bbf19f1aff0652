use proptest::prelude::*;

use super::*;
use crate::core::dimensions::Dimension;

fn row(team: &str, calls: u64, cost: i128) -> UsageRow {
    UsageRow {
        dimensions: Dimensions::from([(Dimension::Team, team.to_owned())]),
        model: "m".into(),
        backend: "cloud".into(),
        calls,
        tokens: calls * 100,
        bytes: calls * 1_000,
        cost: PicoUsd(cost),
        ..UsageRow::default()
    }
}

fn service_row(team: &str, calls: u64) -> UsageRow {
    UsageRow { backend: "vectors".into(), shared: true, tokens: 0, ..row(team, calls, 0) }
}

fn charge(driver: CostDriver, cost: i128) -> SharedCharge {
    SharedCharge { name: "store".into(), cost: PicoUsd(cost), driver, service: None, capacity: None, idle: IdlePolicy::Keep }
}

fn owners() -> Vec<String> {
    ["support", "search"].map(str::to_owned).to_vec()
}

/// Teams own what they call; everybody else is nobody.
fn by_team(row: &UsageRow) -> Option<usize> {
    owners().iter().position(|owner| Some(owner.as_str()) == row.dimensions.get(Dimension::Team))
}

/// Cost of each owner's share, idle, unallocated.
fn divided(rows: &[UsageRow], charge: SharedCharge) -> (Vec<i128>, i128, i128) {
    let allocated = allocate(&owners(), rows, &[charge], by_team);
    assert!(allocated.is_balanced(), "{allocated:?}");
    let split = &allocated.shared[0];
    (split.shares.iter().map(|share| share.cost.0).collect(), split.idle.0, split.unallocated.0)
}

#[test]
fn model_calls_are_their_owners_cost_and_those_of_nobody_are_unallocated() {
    let rows = [row("support", 3, 30), row("search", 1, 12), row("support", 1, 5), row("stranger", 2, 7)];
    let allocated = allocate(&owners(), &rows, &[], by_team);
    let direct: Vec<_> = allocated.owners.iter().map(|owner| (owner.name.as_str(), owner.calls, owner.tokens, owner.direct.0)).collect();
    assert_eq!(direct, [("support", 4, 400, 35), ("search", 1, 100, 12)]);
    assert_eq!((allocated.cost.0, allocated.unallocated().0), (54, 7));
    assert!(allocated.is_balanced());
}

#[test]
fn a_shared_cost_is_divided_by_its_driver() {
    let rows = [row("support", 3, 10), row("search", 1, 30)];
    assert_eq!(divided(&rows, charge(CostDriver::Calls, 100)), (vec![75, 25], 0, 0));
    assert_eq!(divided(&rows, charge(CostDriver::Tokens, 100)), (vec![75, 25], 0, 0));
    assert_eq!(divided(&rows, charge(CostDriver::Cost, 100)), (vec![25, 75], 0, 0));
}

#[test]
fn calls_to_the_service_itself_are_the_usage_where_it_is_known() {
    let rows = [row("support", 100, 10), service_row("support", 1), service_row("search", 4)];
    let of_service = |driver| SharedCharge { service: Some("vectors".into()), ..charge(driver, 100) };
    assert_eq!(divided(&rows, of_service(CostDriver::Calls)), (vec![20, 80], 0, 0));
    assert_eq!(divided(&rows, of_service(CostDriver::Bytes)), (vec![20, 80], 0, 0));
    assert_eq!(divided(&rows, of_service(CostDriver::Tokens)), (vec![100, 0], 0, 0), "a service has no tokens: those of model calls");
    assert_eq!(divided(&rows, charge(CostDriver::Calls, 100)), (vec![100, 0], 0, 0), "calls to a service are no model calls");
    let owner = &allocate(&owners(), &rows, &[], by_team).owners[0];
    assert_eq!(owner.calls, 100);
}

#[test]
fn usage_that_no_owner_claims_bears_its_part_and_what_nobody_used_is_unallocated() {
    assert_eq!(divided(&[row("support", 1, 0), row("stranger", 3, 0)], charge(CostDriver::Calls, 100)), (vec![25, 0], 0, 75));
    assert_eq!(divided(&[], charge(CostDriver::Calls, 100)), (vec![0, 0], 0, 100));
}

#[test]
fn idle_capacity_is_kept_or_distributed() {
    let rows = [row("support", 30, 0), row("search", 10, 0)];
    let with = |idle| SharedCharge { capacity: Some(80), idle, ..charge(CostDriver::Calls, 800) };
    assert_eq!(divided(&rows, with(IdlePolicy::Keep)), (vec![300, 100], 400, 0));
    assert_eq!(divided(&rows, with(IdlePolicy::Distribute)), (vec![600, 200], 0, 0));
    assert_eq!(divided(&[], with(IdlePolicy::Keep)), (vec![0, 0], 800, 0));
    assert_eq!(divided(&[], with(IdlePolicy::Distribute)), (vec![0, 0], 800, 0), "there is nobody to distribute to");
    let exceeded = SharedCharge { capacity: Some(10), ..with(IdlePolicy::Keep) };
    assert_eq!(divided(&rows, exceeded), (vec![600, 200], 0, 0), "use beyond the capacity leaves nothing idle");
}

#[test]
fn a_tie_goes_to_the_first_owner_by_name() {
    let rows = [row("support", 1, 0), row("search", 1, 0)];
    assert_eq!(divided(&rows, charge(CostDriver::Calls, 3)), (vec![1, 2], 0, 0));
}

#[test]
fn the_first_rule_that_holds_owns_the_calls() {
    let rule = |name: &str, text| OwnerRule { name: name.into(), claim: Expression::compile(text).unwrap() };
    let rules = [
        rule("support", "call.team == 'support' && call.tier == 'frontier'"),
        rule("search", "call.team.startsWith('s')"),
        rule("vectors", "call.backend == 'vectors'"),
    ];
    let frontier = UsageRow { tier: Some(Tier::Frontier), ..row("support", 1, 1) };
    assert_eq!(first_owner(&rules, &frontier), Some(0));
    assert_eq!(first_owner(&rules, &row("support", 1, 1)), Some(1));
    assert_eq!(first_owner(&rules, &service_row("", 1)), Some(2));
    assert_eq!(first_owner(&rules, &row("", 1, 1)), None);
}

fn any_driver() -> impl Strategy<Value = CostDriver> {
    prop::sample::select(vec![CostDriver::Calls, CostDriver::Tokens, CostDriver::Bytes, CostDriver::Cost])
}

prop_compose! {
    fn any_row()(
        team in prop::sample::select(vec!["support", "search", "stranger", ""]),
        calls in 0..1u64 << 50, tokens: u64, bytes: u64, cost in -1i128 << 60..1i128 << 90, shared: bool,
    ) -> UsageRow {
        let backend = if shared { "vectors" } else { "cloud" };
        UsageRow { calls, tokens: tokens >> 10, bytes: bytes >> 10, shared, backend: backend.into(), ..row(team, 0, cost) }
    }
}

prop_compose! {
    fn any_charge()(
        cost in -1i128 << 60..1i128 << 100, driver in any_driver(), of_service: bool, capacity in prop::option::of(0u64..), keep: bool,
    ) -> SharedCharge {
        SharedCharge {
            service: of_service.then(|| "vectors".to_owned()),
            capacity,
            idle: if keep { IdlePolicy::Keep } else { IdlePolicy::Distribute },
            ..charge(driver, cost)
        }
    }
}

proptest! {
    /// Invariant I4. The total is summed here from the inputs, not taken from the result.
    #[test]
    fn owners_idle_and_unallocated_add_up_to_the_cost(
        rows in prop::collection::vec(any_row(), 0..20), charges in prop::collection::vec(any_charge(), 0..5),
    ) {
        let allocated = allocate(&owners(), &rows, &charges, by_team);
        let put_in: i128 = rows.iter().map(|row| row.cost.0).chain(charges.iter().map(|charge| charge.cost.0)).sum();
        let owned: i128 = allocated.owners.iter().map(|owner| owner.total().0).sum();
        prop_assert_eq!(owned + allocated.idle().0 + allocated.unallocated().0, put_in);
        prop_assert!(allocated.is_balanced());
        for (split, charge) in allocated.shared.iter().zip(&charges) {
            let shares: i128 = split.shares.iter().map(|share| share.cost.0).sum();
            prop_assert_eq!(shares + split.idle.0 + split.unallocated.0, charge.cost.0);
        }
    }

    #[test]
    fn the_order_of_the_records_does_not_matter(rows in prop::collection::vec(any_row(), 0..12), charge in any_charge()) {
        let backwards: Vec<UsageRow> = rows.iter().rev().cloned().collect();
        let charges = [charge];
        prop_assert_eq!(allocate(&owners(), &rows, &charges, by_team), allocate(&owners(), &backwards, &charges, by_team));
    }
}
