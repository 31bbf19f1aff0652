//! The simulated provider's own account of what it would bill, and the faults that it can be told to have.

use serde_json::Value;
use spendkeeper::core::money::PicoUsd;

use crate::cluster::{kubectl, kubectl_with};

const ADMIN: &str = "/api/v1/namespaces/ai-platform/services/provider:http/proxy/admin";

/// What a label would be billed for.
#[derive(Debug, Clone)]
pub struct Bill {
    pub usd: PicoUsd,
    pub calls: i64,
    /// The most calls that it had in flight at once.
    pub max_in_flight: i64,
}

pub fn bill(label: &str) -> Bill {
    let page: Value = serde_json::from_str(&kubectl(&["get", "--raw", &format!("{ADMIN}/bill")])).expect("the bill is JSON");
    let entry = &page["byLabel"][label];
    let number = |field: &str| entry[field].as_i64().unwrap_or(0);
    let pico = entry["picoUsd"].as_str().unwrap_or("0").parse().expect("a whole number of pico-dollars");
    Bill { usd: PicoUsd(pico), calls: number("calls"), max_in_flight: number("maxInFlight") }
}

/// Faults that last as long as this lives.
pub struct Faults;

impl Faults {
    pub fn set(rules: &Value) -> Faults {
        let said = kubectl_with(&["replace", "--raw", &format!("{ADMIN}/faults"), "-f", "-"], &rules.to_string());
        assert!(said.ok, "the provider takes no faults: {}", said.err);
        Faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        kubectl_with(&["delete", "--raw", &format!("{ADMIN}/faults")], "");
    }
}
