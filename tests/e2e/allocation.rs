//! Invariant I4 on real calls: three owners, one vector store, one price of a resolved ticket.

use serde_json::Value;
use spendkeeper::core::money::PicoUsd;

use crate::cluster::{condition, eventually, get};

fn usd(value: &Value) -> PicoUsd {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not an amount: {value}"))
}

/// The allocation, once all three owners have called the vector store and a ticket is resolved.
fn allocated() -> Value {
    eventually("three owners share, and a ticket is resolved", || {
        let status = get("spendkeeper-system", "costallocation/company")["status"].clone();
        let shares = status["sharedCosts"][0]["shares"].as_array()?;
        let all = shares.len() == 3 && shares.iter().all(|share| share["usage"] != "0");
        (all && status["outcomes"][0]["count"].as_i64()? > 0).then_some(status)
    })
}

#[test]
fn three_owners_share_the_vector_store_by_measured_calls_and_it_adds_up_exactly() {
    let status = allocated();
    let store = &status["sharedCosts"][0];
    let shares = store["shares"].as_array().expect("shares");
    let sum: PicoUsd = shares.iter().map(|share| usd(&share["cost"])).sum();
    assert_eq!(sum + usd(&store["idle"]) + usd(&store["unallocated"]), PicoUsd::from_usd(300), "{store}");

    // Each share is the cost times its part of the calls: the largest remainder decides who gets the last pico-dollar.
    let calls = |share: &Value| share["usage"].as_str().and_then(|n| n.parse::<i128>().ok()).expect("a number of calls");
    let all: i128 = shares.iter().map(calls).sum();
    for share in shares {
        let exact = (PicoUsd::from_usd(300) - usd(&store["unallocated"])).0 * calls(share) / all;
        assert!((usd(&share["cost"]).0 - exact).abs() <= 1, "{share} of {all} calls");
    }

    let owners = status["owners"].as_array().expect("owners");
    let total: PicoUsd = owners.iter().map(|owner| usd(&owner["total"])).sum();
    assert_eq!(total + usd(&status["idle"]) + usd(&status["unallocated"]), usd(&status["total"]));
    let allocation = get("spendkeeper-system", "costallocation/company");
    assert_eq!(condition(&allocation, "Balanced"), "True");
}

#[test]
fn a_resolved_ticket_has_a_cost_and_the_division_leaves_nothing_over() {
    let status = allocated();
    let ticket = &status["outcomes"][0];
    let count = ticket["count"].as_i64().expect("a count");
    let cost = usd(&ticket["cost"]);
    assert_eq!(PicoUsd(usd(&ticket["costPerOutcome"]).0 * i128::from(count)) + usd(&ticket["remainder"]), cost);
    let owner = status["owners"].as_array().into_iter().flatten().find(|o| o["name"] == ticket["owner"]).expect("its owner");
    assert_eq!(usd(&owner["total"]), cost, "the cost is all that its owner's calls and share cost");
}
