//! Conditions, and the Events that their changes cause.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::api::common::Condition;

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
        // That nothing is wrong is worth an Event only after something was.
        let news = changed && (known.is_some() || finding.holds == finding.is_alarm || !finding.is_alarm);
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

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_second(ms.div_euclid(1_000)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(holds: bool) -> Finding {
        Finding { type_: "Exhausted", holds, reason: "R", message: "m".into(), is_alarm: true }
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
