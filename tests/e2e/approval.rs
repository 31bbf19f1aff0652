//! What is proposed rests on what was measured, and happens only when somebody entitled to it says so (invariant I5).

use serde_json::Value;

use crate::cluster::{Said, apply, eventually, get, kubectl, try_kubectl};

const ROLES: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: approver, namespace: helpdesk}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: spendkeeper-approve}
subjects: [{kind: User, name: olga, apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editor, namespace: helpdesk}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: spendkeeper-edit}
subjects: [{kind: User, name: eddie, apiGroup: rbac.authorization.k8s.io}]
"#;

fn recommendation(object: &str, kind: &str, state: &str) -> Value {
    eventually(&format!("{object} has a {kind} that is {state}"), || {
        let object = get("helpdesk", object);
        let all = object["status"]["recommendations"].as_array()?.clone();
        all.into_iter().find(|r| r["kind"] == kind && r["state"] == state)
    })
}

fn spend(user: &str, verb: &str, id: &str) -> Said {
    try_kubectl(&["spend", verb, id, "-n", "helpdesk", "--as", user])
}

#[test]
fn recorded_calls_propose_a_cheaper_tier() {
    // Another test may have approved it by now.
    let found = eventually("the route has a ModelTier recommendation", || {
        let all = get("helpdesk", "modelroute/models")["status"]["recommendations"].as_array()?.clone();
        all.into_iter().find(|r| r["kind"] == "ModelTier")
    });
    assert!(found["evidence"]["samples"].as_i64().is_some_and(|n| n >= 20), "{found}");
    assert!(found["patch"].as_str().is_some_and(|p| p.contains("support-chat") && p.contains("maxTier")), "{found}");
    let figure = |name: &str| found["evidence"]["figures"][name].as_str().and_then(|n| n.parse::<i64>().ok()).expect("a number");
    let (calls, above) = (figure("calls"), figure("callsAboveNeed"));
    assert!(above * 2 > calls && above < calls, "most tickets are easy, and some are not: {found}");
    assert_ne!(found["estimatedMonthlySavings"], "0.00");
}

#[test]
fn measured_use_proposes_requests_and_only_an_approver_gets_them_applied() {
    apply(ROLES);
    let found = recommendation("costallocation/support-bot", "WorkloadResources", "Proposed");
    let id = found["id"].as_str().expect("an id");
    let sized = get("helpdesk", "costallocation/support-bot")["status"]["rightSizing"][0].clone();
    assert!(sized["historySeconds"].as_i64().is_some_and(|s| s >= 30), "the status says how long the history is: {sized}");
    assert!(found["evidence"]["windowSeconds"].as_i64().is_some_and(|s| s >= 30), "{found}");
    let requested =
        || get("helpdesk", "deployment/support-bot")["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"].clone();
    let before = requested();

    // An editor may write the annotation, and yet not approve.
    let refused = spend("eddie", "approve", id);
    assert!(!refused.ok && refused.err.contains("eddie") && refused.err.contains("approve"), "{refused:?}");
    assert_eq!(requested(), before);

    let approved = spend("olga", "approve", id);
    assert!(approved.ok, "{approved:?}");
    let applied = eventually("it is applied", || {
        let object = get("helpdesk", "costallocation/support-bot");
        let all = object["status"]["recommendations"].as_array()?.clone();
        all.into_iter().find(|r| r["id"] == id && (r["state"] == "Applied" || r["state"] == "Verified"))
    });
    assert_eq!(applied["approvedBy"], "olga");
    let after = requested();
    assert_ne!(after, before, "the Deployment has the requests that were approved");
    let patch: Value = serde_json::from_str(applied["patch"].as_str().expect("a patch")).expect("JSON");
    let wanted = &patch["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"];
    assert!(wanted.as_object().expect("requests").iter().all(|(name, amount)| after[name] == *amount), "{after} is not {wanted}");

    let verified = recommendation("costallocation/support-bot", "WorkloadResources", "Verified");
    assert!(verified["observed"].as_str().is_some_and(|o| o.contains("replicas")), "{verified}");
    let events = kubectl(&["get", "events", "-n", "helpdesk", "--field-selector", "involvedObject.name=support-bot"]);
    assert!(events.contains("RecommendationApplied") && events.contains("RecommendationVerified"), "{events}");

    let undone = spend("olga", "rollback", id);
    assert!(undone.ok, "{undone:?}");
    eventually("the requests are what they were", || (requested() == before).then_some(()));
}

#[test]
fn nobody_approves_in_another_name() {
    apply(ROLES);
    let found = recommendation("modelroute/models", "ModelTier", "Proposed");
    let id = format!("spendkeeper.dev/approve={}", found["id"].as_str().expect("an id"));
    let forged = ["annotate", "modelroute/models", "-n", "helpdesk", &id, "spendkeeper.dev/approved-by=olga", "--overwrite", "--as"];
    let refused = try_kubectl(&[forged.as_slice(), &["eddie"]].concat());
    assert!(!refused.ok && refused.err.contains("approve"), "{refused:?}");
    // Whoever may approve does so in their own name, whatever the object claims.
    let said = try_kubectl(&[forged.as_slice(), &["olga"]].concat());
    assert!(said.ok, "{said:?}");
    let route = get("helpdesk", "modelroute/models");
    assert_eq!(route["metadata"]["annotations"]["spendkeeper.dev/approved-by"], "olga");
    eventually("the rule is in the route", || get("helpdesk", "modelroute/models")["spec"]["policy"]["rules"].as_array().map(drop));
}
