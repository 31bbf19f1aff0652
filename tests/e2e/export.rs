//! Single calls by `kubectl spend export calls`, which runs `kubectl exec` in the operator's pod.

use serde_json::Value;
use spendkeeper::core::money::PicoUsd;

use crate::caller::{ONE_CALL, rules, start};
use crate::cluster::{Namespace, eventually, get, kubectl, try_kubectl};
use crate::provider::bill;

/// Every call of a namespace that the ledger has, as it is exported.
pub fn exported(namespace: &str) -> Vec<Value> {
    let lines = kubectl(&["spend", "export", "calls", "--format", "json"]);
    let calls = lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no object: {line}")));
    calls.filter(|call: &Value| call["namespace"] == namespace).collect()
}

/// What they cost together.
pub fn cost(calls: &[Value]) -> PicoUsd {
    let cost = |call: &Value| call["cost_usd"].as_str().and_then(|text| text.parse::<PicoUsd>().ok()).expect("a cost").0;
    PicoUsd(calls.iter().map(cost).sum())
}

#[test]
fn what_is_exported_through_the_operators_pod_is_what_the_provider_billed_to_the_pico_dollar() {
    const LABEL: &str = "exported";
    let namespace = Namespace::new(LABEL);
    rules(&namespace, "1.00");
    let before = bill(LABEL);
    start(&namespace, LABEL, ONE_CALL);
    eventually("the pod has ended", || (get(&namespace.0, &format!("pod/{LABEL}"))["status"]["phase"] == "Succeeded").then_some(()));
    let calls = eventually("the call is in the ledger", || Some(exported(&namespace.0)).filter(|calls| !calls.is_empty()));
    let billed = bill(LABEL);
    assert_eq!((calls.len() as i64, cost(&calls)), (billed.calls - before.calls, billed.usd - before.usd), "{calls:#?}");
    assert_eq!(
        (&calls[0]["outcome"], &calls[0]["team"], &calls[0]["requested_model"]),
        (&"completed".into(), &LABEL.into(), &"gpt-5.4".into())
    );
    // A header, and as many lines; of a stretch before there was a call, the header alone.
    let csv = |to: &str| kubectl(&["spend", "export", "calls", "--to", to]).lines().filter(|line| line.contains(&namespace.0)).count();
    assert_eq!((csv("2100-01-01"), csv("2000-01-01")), (calls.len(), 0));
    let refused = try_kubectl(&["spend", "export", "calls", "--as", "somebody"]);
    assert!(
        !refused.ok && refused.err.contains("forbidden"),
        "who may not run programs in the operator's pod exports nothing: {refused:?}"
    );
}
