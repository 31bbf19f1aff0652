//! What people see with `kubectl`: columns, conditions, documentation, and errors that say what to do.

use crate::cluster::{eventually, kubectl, kubectl_with, webhook_answers};

#[test]
fn the_three_kinds_have_columns_worth_reading() {
    let budgets = kubectl(&["get", "aibudgets", "-A"]);
    for column in ["WINDOW", "LIMIT", "SPENT", "REMAINING", "USED%", "EXHAUSTED"] {
        assert!(budgets.contains(column), "{budgets}");
    }
    let routes = kubectl(&["get", "modelroutes", "-A"]);
    assert!(routes.contains("FRONTIER%") && routes.contains("NEEDED%"), "{routes}");
    let allocations = kubectl(&["get", "costallocations", "-A"]);
    assert!(allocations.contains("UNALLOCATED") && allocations.contains("COST/OUTCOME"), "{allocations}");
    let all = kubectl(&["get", "spendkeeper", "-A"]);
    for resource in ["aibudget.spendkeeper.dev/runaway", "modelroute.spendkeeper.dev/models", "costallocation.spendkeeper.dev/company"] {
        assert!(all.contains(resource), "the category lists {resource}: {all}");
    }
}

#[test]
fn describe_shows_conditions_and_events_and_wait_understands_them() {
    kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", "engineering", "aibudget/runaway", "modelroute/models"]);
    let described = eventually("the Event of the limit", || {
        let described = kubectl(&["describe", "aibudget", "runaway", "-n", "engineering"]);
        described.contains("LimitReached").then_some(described)
    });
    assert!(described.contains("Raise the limit") && described.contains("Events:"), "{described}");
}

#[test]
fn explain_reads_like_documentation() {
    let explained = kubectl(&["explain", "aibudget.spec.limits"]);
    assert!(explained.contains("DESCRIPTION") && explained.contains("US dollars"), "{explained}");
}

/// Bad resources, and what the answer must contain: the field, and the remedy.
const BAD: [(&str, &str, &[&str]); 6] = [
    ("AIBudget", "{limits: [{name: x, usd: '1.00', period: Day, timeZone: Mars/Olympus}]}", &["timeZone", "Mars/Olympus"]),
    ("AIBudget", "{limits: [{name: x, usd: 'ten', period: Day}]}", &["usd"]),
    ("AIBudget", "{scope: {match: 'call.teem == 1'}, limits: [{name: x, usd: '1', period: Day}]}", &["match", "teem"]),
    (
        "ModelRoute",
        "{backends: [{name: a, provider: OpenAI, endpoint: 'ftp://x', models: [{name: m, tier: economy}]}]}",
        &["endpoint", "http"],
    ),
    (
        "ModelRoute",
        "{backends: [{name: a, provider: OpenAI, endpoint: 'https://x', models: [{name: m, tier: cheap}]}]}",
        &["tier", "economy"],
    ),
    ("CostAllocation", "{owners: [{name: a, match: 'true'}, {name: a, match: 'false'}]}", &["owners", "same name"]),
];

#[test]
fn a_bad_resource_is_refused_with_its_field_and_the_remedy() {
    webhook_answers();
    for (kind, spec, expected) in BAD {
        let manifest =
            format!("apiVersion: spendkeeper.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: bad, namespace: helpdesk}}\nspec: {spec}\n");
        let said = kubectl_with(&["apply", "-f", "-"], &manifest);
        assert!(!said.ok, "{kind} {spec} was taken");
        for part in expected {
            assert!(said.err.contains(part), "{kind} {spec}: {part:?} is not in {:?}", said.err);
        }
    }
}
