//! Invariant I1, on the provider's own count: what it would bill never passes the budget.

use spendkeeper::core::money::PicoUsd;

use crate::cluster::{condition, eventually, get, kubectl};
use crate::provider;

#[test]
fn a_runaway_agent_with_64_calls_in_flight_is_stopped_at_its_dollar() {
    eventually("the budget is exhausted", || (condition(&get("engineering", "aibudget/runaway"), "Exhausted") == "True").then_some(()));
    // It goes on trying, as runaways do; the rest of the dollar is spent by calls that still fit.
    let bill = eventually("the provider's bill is near a dollar", || {
        let bill = provider::bill("runaway-agent");
        (bill.usd >= "0.90".parse().expect("money")).then_some(bill)
    });
    assert!(bill.usd <= PicoUsd::from_usd(1), "the provider would bill {}", bill.usd.to_decimal());
    assert_eq!(bill.max_in_flight, 64, "the agent had {} calls in flight at most", bill.max_in_flight);

    let log = kubectl(&["logs", "-n", "engineering", "deployment/runaway-agent", "-c", "app", "--tail=-1"]);
    let told = log.lines().find(|line| line.contains("Spendkeeper")).unwrap_or_else(|| panic!("its SDK was told nothing:\n{log}"));
    assert!(told.contains("engineering/runaway") && told.contains("RateLimitError"), "{told}");
    let events = kubectl(&["get", "events", "-n", "engineering", "--field-selector", "involvedObject.kind=AIBudget,reason=LimitReached"]);
    assert!(events.contains("aibudget/runaway"), "{events}");
}

#[test]
fn what_the_ledger_charged_is_what_the_provider_would_bill() {
    // The agent is at its limit, so both stand still once the calls under way have ended.
    eventually("ledger and bill agree to the pico-dollar", || {
        let allocation = get("spendkeeper-system", "costallocation/company");
        let owners = allocation["status"]["owners"].as_array()?.clone();
        let research = owners.iter().find(|o| o["name"] == "research")?["direct"].as_str()?.parse::<PicoUsd>().ok()?;
        (research == provider::bill("runaway-agent").usd && research > PicoUsd::ZERO).then_some(())
    });
}
