//! Faults on request: which calls fail, and how.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::refusal::Refusal;

const MOST_RULES: usize = 100;
const DEFAULT_CUT_AFTER: u64 = 8;
const DEFAULT_DELAY_MS: u64 = 2_000;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Refused, and not billed.
    Status(Refusal),
    /// Taken on and billed for its input, never answered.
    Hang,
    /// The connection breaks after so many tokens.
    CutStream { after_tokens: u64 },
    /// After so many tokens a stream says that it failed, and ends in order; an answer in one piece is cut.
    FailStream { after_tokens: u64 },
    /// After so many tokens a stream is over as if that were all of it, without the protocol's end; an answer in one piece is cut.
    EndStream { after_tokens: u64 },
    /// Answered and billed; nothing is said of usage.
    NoUsage,
    /// Answered with nothing, for nothing: all figures of usage are zero.
    Free,
    /// The first token is late.
    Slow { delay: Duration },
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Kind {
    Status429,
    Status500,
    Status529,
    Hang,
    CutStream,
    FailStream,
    EndStream,
    NoUsage,
    Free,
    Slow,
}

/// A rule as it is put: flat, for people to type.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleSpec {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

/// A rule and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    #[serde(flatten)]
    spec: RuleSpec,
    #[serde(skip)]
    fault: Fault,
    /// Calls that it was about.
    matched: u64,
    /// Calls that it broke.
    fired: u64,
}

/// The rules in force. Each counts the calls that it matches; of those that are due at a call, the first fires.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Rule>>);

impl Faults {
    /// Replaces all rules, or says what is wrong with one of them.
    pub fn put(&self, body: &[u8]) -> Result<(), String> {
        let list: Vec<Value> = serde_json::from_slice(body).map_err(|e| format!("put a JSON list of rules: {e}"))?;
        if list.len() > MOST_RULES {
            return Err(format!("{} rules; at most {MOST_RULES} are kept", list.len()));
        }
        let rules = list.into_iter().enumerate().map(|(index, rule)| parse(rule).map_err(|e| format!("rule {index}: {e}")));
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        *self.rules() = rules;
        Ok(())
    }

    pub fn clear(&self) {
        self.rules().clear();
    }

    pub fn list(&self) -> Vec<Rule> {
        self.rules().clone()
    }

    /// What happens to the next call of this label and model.
    pub fn next(&self, label: &str, model: &str) -> Option<Fault> {
        let mut fault = None;
        for rule in self.rules().iter_mut().filter(|rule| rule.matches(label, model)) {
            rule.matched += 1;
            if fault.is_none() && rule.is_due() {
                rule.fired += 1;
                fault = Some(rule.fault.clone());
            }
        }
        fault
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    fn matches(&self, label: &str, model: &str) -> bool {
        self.spec.label.as_deref().is_none_or(|l| l == label) && self.spec.model.as_deref().is_none_or(|m| m == model)
    }

    fn is_due(&self) -> bool {
        self.matched.is_multiple_of(self.spec.every.unwrap_or(1)) && self.spec.times.is_none_or(|times| self.fired < times)
    }
}

fn parse(rule: Value) -> Result<Rule, String> {
    let spec: RuleSpec = serde_json::from_value(rule).map_err(|e| e.to_string())?;
    for (field, value) in [("every", spec.every), ("times", spec.times)] {
        if value == Some(0) {
            return Err(format!("{field} is 0; it must be at least 1"));
        }
    }
    let after_tokens = spec.after_tokens.unwrap_or(DEFAULT_CUT_AFTER);
    let fault = match spec.kind {
        Kind::Status429 => Fault::Status(Refusal::RateLimited),
        Kind::Status500 => Fault::Status(Refusal::ServerError),
        Kind::Status529 => Fault::Status(Refusal::Overloaded),
        Kind::Hang => Fault::Hang,
        Kind::CutStream => Fault::CutStream { after_tokens },
        Kind::FailStream => Fault::FailStream { after_tokens },
        Kind::EndStream => Fault::EndStream { after_tokens },
        Kind::NoUsage => Fault::NoUsage,
        Kind::Free => Fault::Free,
        Kind::Slow => Fault::Slow { delay: Duration::from_millis(spec.delay_ms.unwrap_or(DEFAULT_DELAY_MS)) },
    };
    if spec.after_tokens.is_some() && !matches!(spec.kind, Kind::CutStream | Kind::FailStream | Kind::EndStream) {
        return Err("afterTokens is only for CutStream, FailStream and EndStream".to_owned());
    }
    if spec.delay_ms.is_some() && !matches!(spec.kind, Kind::Slow) {
        return Err("delayMs is only for Slow".to_owned());
    }
    Ok(Rule { spec, fault, matched: 0, fired: 0 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(rules: Value) -> Faults {
        let faults = Faults::default();
        faults.put(rules.to_string().as_bytes()).unwrap();
        faults
    }

    #[test]
    fn each_nth_matching_call_fails_and_only_so_often() {
        let faults = faults(json!([{"kind": "Status429", "every": 3, "times": 2, "label": "bot"}]));
        let mut failed = Vec::new();
        for call in 1..=12 {
            assert_eq!(faults.next("other", "gpt-5"), None);
            if faults.next("bot", "gpt-5").is_some() {
                failed.push(call);
            }
        }
        assert_eq!(failed, [3, 6]);
        assert_eq!(json!(faults.list()), json!([{"kind": "Status429", "every": 3, "times": 2, "label": "bot", "matched": 12, "fired": 2}]));
    }

    #[test]
    fn of_two_rules_that_are_due_the_first_fires_and_both_count() {
        let faults = faults(json!([{"kind": "Hang", "every": 2}, {"kind": "CutStream", "afterTokens": 5, "model": "gpt-5"}]));
        assert_eq!(faults.next("a", "gpt-5"), Some(Fault::CutStream { after_tokens: 5 }));
        assert_eq!(faults.next("a", "gpt-5"), Some(Fault::Hang));
        assert_eq!(faults.next("a", "gpt-5-mini"), None);
        let counts: Vec<_> = faults.list().iter().map(|rule| (rule.matched, rule.fired)).collect();
        assert_eq!(counts, [(3, 1), (2, 1)]);
    }

    #[test]
    fn a_bad_rule_is_told_what_is_wrong_and_what_is_allowed_and_changes_nothing() {
        let faults = faults(json!([{"kind": "Hang"}]));
        let problem = |rules: Value| faults.put(rules.to_string().as_bytes()).unwrap_err();
        assert!(
            problem(json!([{"kind": "Hang"}, {"kind": "Explode"}]))
                .starts_with("rule 1: unknown variant `Explode`, expected one of `Status429`")
        );
        assert!(problem(json!([{"kind": "Hang", "evry": 2}])).contains("unknown field `evry`, expected one of `kind`, `every`"));
        assert_eq!(problem(json!([{"kind": "Hang", "every": 0}])), "rule 0: every is 0; it must be at least 1");
        assert_eq!(problem(json!([{"kind": "Hang", "delayMs": 5}])), "rule 0: delayMs is only for Slow");
        assert_eq!(
            problem(json!([{"kind": "Slow", "afterTokens": 5}])),
            "rule 0: afterTokens is only for CutStream, FailStream and EndStream"
        );
        assert!(problem(json!({"kind": "Hang"})).starts_with("put a JSON list of rules"));
        assert_eq!(faults.list().len(), 1);
    }
}
