//! The release itself: its test, and an upgrade that forgets nothing.

use crate::cluster::{eventually, get, helm, kubectl, pod_of, webhook_answers};

const RELEASE: [&str; 3] = ["spendkeeper", "-n", "spendkeeper-system"];

#[test]
fn helm_test_makes_one_call_through_a_sidecar() {
    webhook_answers();
    let said = helm(&[["test"].as_slice(), &RELEASE, &["--timeout", "2m", "--logs"]].concat());
    assert!(said.ok, "{said:?}");
}

#[test]
fn an_upgrade_keeps_what_was_spent() {
    let spent = || get("engineering", "aibudget/runaway")["status"]["tightest"]["percentSpent"].as_i64();
    let before = eventually("the runaway budget is spent", || spent().filter(|percent| *percent >= 90));
    let old = pod_of("spendkeeper-system", "app.kubernetes.io/component=operator");
    let upgrade = ["charts/spendkeeper", "--reuse-values", "--set", "operator.podAnnotations.upgraded=yes", "--wait", "--timeout", "3m"];
    let said = helm(&[["upgrade"].as_slice(), &RELEASE[..1], &upgrade, &RELEASE[1..]].concat());
    assert!(said.ok, "{said:?}");
    let new = pod_of("spendkeeper-system", "app.kubernetes.io/component=operator");
    assert_ne!(new, old, "there is another pod");
    eventually("the new operator writes statuses", || {
        kubectl(&["get", "lease", "spendkeeper-operator", "-n", "spendkeeper-system", "-o", "jsonpath={.spec.holderIdentity}"])
            .contains(&new)
            .then_some(())
    });
    assert!(spent() >= Some(before), "{:?} percent of the budget are spent, {before} before", spent());
}
