//! Conditions, and the Events that their changes cause: every state of every condition stands in [`STATES`], every Event
//! about a recommendation in [`RECOMMENDATION_EVENTS`], and the reference in `docs/` is generated from the two.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::common::{Condition, condition};

/// A state of a condition: the reason that it is given with, and what it means. A change to it is an Event of that reason.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub kind: &'static str,
    pub type_: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    /// True when the Event is a warning.
    pub warning: bool,
    pub meaning: &'static str,
}

const fn state(kind: &'static str, type_: &'static str, holds: bool, reason: &'static str, warning: bool, meaning: &'static str) -> State {
    State { kind, type_, holds, reason, warning, meaning }
}

/// Every state of every condition.
pub const STATES: [State; 24] = [
    state("AIBudget", condition::READY, true, "InForce", false, "The budget is valid, and every matching call must fit it."),
    state("AIBudget", condition::READY, false, "Invalid", true, "The spec means nothing; the message names each field and its remedy."),
    state(
        "AIBudget",
        condition::EXHAUSTED,
        true,
        "LimitReached",
        true,
        "A limit has less left than a call needed that it refused in this window.",
    ),
    state("AIBudget", condition::EXHAUSTED, false, "Within", false, "Every limit has room for the calls that are made."),
    state(
        "AIBudget",
        condition::ALERTING,
        true,
        "ThresholdCrossed",
        true,
        "A threshold of `spec.alerts` is crossed; the message names the limit.",
    ),
    state("AIBudget", condition::ALERTING, false, "BelowThresholds", false, "No threshold of `spec.alerts` is crossed."),
    state(
        "AIBudget",
        condition::RUNAWAY,
        true,
        "RunningAway",
        true,
        "Somebody spends many times what it usually does and its outcomes do not keep step, or spends as ever and brings none any more (`spec.runaway`); the message names it.",
    ),
    state("AIBudget", condition::RUNAWAY, false, "Calm", false, "Nobody has run away, or whoever did has been calm for five minutes."),
    state("AIBudget", condition::LEDGER_AVAILABLE, true, "Reachable", false, "Sidecars reach the ledger, as far as they have told."),
    state(
        "AIBudget",
        condition::LEDGER_AVAILABLE,
        false,
        "CallsRefused",
        true,
        "Within the last five minutes a sidecar told that it could not reach the ledger, and refused calls (`onLedgerUnavailable: FailClosed`).",
    ),
    state(
        "AIBudget",
        condition::LEDGER_AVAILABLE,
        false,
        "CallsLetThrough",
        true,
        "Within the last five minutes a sidecar told that it could not reach the ledger, and let calls through (`FailOpen`); they are charged.",
    ),
    state(
        "AIBudget",
        condition::LEDGER_AVAILABLE,
        false,
        "NoSpace",
        true,
        "The ledger's volume is full. Enlarge it, or keep single calls for less long (`ledger.keepCallsDays`).",
    ),
    state(
        "AIBudget",
        condition::LEDGER_AVAILABLE,
        false,
        "ReadOnly",
        true,
        "The ledger cannot be written: its volume is mounted read-only, or the database is a standby.",
    ),
    state(
        "AIBudget",
        condition::LEDGER_AVAILABLE,
        false,
        "Corrupt",
        true,
        "The ledger holds what it did not write. Restore it from a backup.",
    ),
    state("AIBudget", condition::LEDGER_AVAILABLE, false, "Unreachable", true, "The database does not answer."),
    state("AIBudget", condition::LEDGER_AVAILABLE, false, "Failing", true, "The ledger fails for another reason, which the message gives."),
    state("ModelRoute", condition::READY, true, "InForce", false, "Calls of the selected pods take this route."),
    state("ModelRoute", condition::READY, false, "Invalid", true, "The spec means nothing; the message names each field and its remedy."),
    state(
        "ModelRoute",
        condition::BACKENDS_HEALTHY,
        true,
        "Answering",
        false,
        "No backend failed more than half of its calls of the last five minutes.",
    ),
    state(
        "ModelRoute",
        condition::BACKENDS_HEALTHY,
        false,
        "Failing",
        true,
        "A backend failed more than half of its calls of the last five minutes; the message names it.",
    ),
    state("CostAllocation", condition::READY, true, "InForce", false, "The period's costs are allocated."),
    state(
        "CostAllocation",
        condition::READY,
        false,
        "Invalid",
        true,
        "The spec means nothing; the message names each field and its remedy.",
    ),
    state(
        "CostAllocation",
        condition::BALANCED,
        true,
        "AddsUp",
        false,
        "Owners, idle and unallocated add up to the cost, to the pico-dollar.",
    ),
    state(
        "CostAllocation",
        condition::BALANCED,
        false,
        "DoesNotAddUp",
        true,
        "They do not: a defect of Spendkeeper. Report it with the status.",
    ),
];

/// Every Event about a recommendation: its reason, whether it is a warning, and what it means.
pub const RECOMMENDATION_EVENTS: [(&str, bool, &str); 6] = [
    (
        "RecommendationApproved",
        false,
        "Somebody entitled to it approved, and the operator applies nothing (`rbac.applyApproved`): the patch is yours to apply.",
    ),
    ("RecommendationRejected", false, "Somebody entitled to it rejected it; the same change is not proposed again."),
    ("RecommendationApplied", false, "Somebody entitled to it approved, and the patch was applied."),
    ("RecommendationVerified", false, "The target is well half a minute or more after the change."),
    ("RecommendationRolledBack", true, "The change was undone, by request or because its target was not well within five minutes."),
    ("RecommendationExpired", true, "It was approved, but its target is no longer what the evidence describes, so nothing was changed."),
];

/// What a reconciler says of its resource in one respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub type_: &'static str,
    pub holds: bool,
    /// One word in CamelCase, for machines.
    pub reason: &'static str,
    /// One sentence for people: what is the case, and what to do about it where something is wrong.
    pub message: String,
    /// True when it is the condition's being true that calls for attention (`Exhausted`), not its being false (`Ready`).
    pub is_alarm: bool,
}

/// A condition that changed, as an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub reason: &'static str,
    pub message: String,
    pub warning: bool,
}

/// The conditions that follow from `findings`; one whose truth is the same as in `before` keeps its time.
pub fn conditions(before: &[Condition], findings: &[Finding], generation: Option<i64>, now_ms: i64) -> (Vec<Condition>, Vec<Transition>) {
    let mut transitions = Vec::new();
    let mut conditions = Vec::new();
    for finding in findings {
        debug_assert!(is_declared(finding), "{finding:?} is not in STATES: add it, so that the reference has it");
        let known = before.iter().find(|c| c.type_ == finding.type_);
        let status = if finding.holds { "True" } else { "False" };
        let changed = known.is_none_or(|c| c.status != status);
        let time = known.filter(|_| !changed).map(|c| c.last_transition_time.clone());
        conditions.push(Condition {
            type_: finding.type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: time.unwrap_or_else(|| Time(timestamp(now_ms))),
        });
        // That nothing is wrong is worth an Event only after something was, or when the resource comes into force.
        let is_well = finding.holds != finding.is_alarm;
        let news = changed && (known.is_some() || !is_well || finding.type_ == condition::READY);
        if news {
            transitions.push(Transition {
                reason: finding.reason,
                message: finding.message.clone(),
                warning: finding.holds == finding.is_alarm,
            });
        }
    }
    (conditions, transitions)
}

fn is_declared(finding: &Finding) -> bool {
    let is_it = |s: &State| {
        (s.type_, s.holds, s.reason, s.warning) == (finding.type_, finding.holds, finding.reason, finding.holds == finding.is_alarm)
    };
    STATES.iter().any(is_it)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_second(ms.div_euclid(1_000)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(holds: bool) -> Finding {
        let reason = if holds { "LimitReached" } else { "Within" };
        Finding { type_: condition::EXHAUSTED, holds, reason, message: "m".into(), is_alarm: true }
    }

    #[test]
    fn every_event_about_a_recommendation_is_declared() {
        let source = include_str!("reconcile/approvals.rs");
        let given: std::collections::BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("Recommendation")).collect();
        let declared = RECOMMENDATION_EVENTS.iter().map(|(reason, ..)| *reason).collect();
        assert_eq!(given, declared);
    }

    #[test]
    fn time_moves_only_when_the_truth_changes() {
        let (first, events) = conditions(&[], &[finding(false)], Some(1), 1_000);
        assert!(events.is_empty(), "all being well from the start is no news");
        let (second, events) = conditions(&first, &[finding(false)], Some(2), 9_000);
        assert!(events.is_empty());
        assert_eq!(
            (second[0].last_transition_time.clone(), second[0].observed_generation),
            (first[0].last_transition_time.clone(), Some(2))
        );
        let (third, events) = conditions(&second, &[finding(true)], Some(2), 9_000);
        assert_ne!(third[0].last_transition_time, second[0].last_transition_time);
        assert!(events[0].warning);
        let (_, events) = conditions(&third, &[finding(false)], Some(2), 10_000);
        assert!(!events[0].warning);
    }
}
