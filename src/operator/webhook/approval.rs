//! Who approved: the one annotation that nobody can forge, what a decision is, and who raised a limit for a while. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::inject::pointer_segment;
use crate::api::annotation;

/// Annotations whose setting is a decision about a recommendation.
const DECISIONS: [&str; 3] = [annotation::APPROVE, annotation::REJECT, annotation::ROLLBACK];

type Annotations = BTreeMap<String, String>;

/// The decisions that a change from `old` to `new` makes: annotation and recommendation's id. Taking one back is none.
pub fn decisions<'a>(old: &Annotations, new: &'a Annotations) -> Vec<(&'static str, &'a str)> {
    let value = |name: &'static str| Some((name, new.get(name)?.as_str()));
    let made = |(name, id): &(&'static str, &str)| !id.is_empty() && old.get(*name).map(String::as_str) != Some(*id);
    DECISIONS.into_iter().filter_map(value).filter(made).collect()
}

/// The patch (RFC 6902) after which `approved-by` names `user` if the change decides something, and else what it was.
pub fn stamp(old: &Annotations, new: &Annotations, user: &str) -> Vec<Value> {
    let decided = !decisions(old, new).is_empty();
    let wanted = if decided { Some(user) } else { old.get(annotation::APPROVED_BY).map(String::as_str) };
    let path = format!("/metadata/annotations/{}", pointer_segment(annotation::APPROVED_BY));
    match (wanted, new.get(annotation::APPROVED_BY).map(String::as_str)) {
        (wanted, found) if wanted == found => vec![],
        (Some(wanted), _) if new.is_empty() => {
            vec![json!({"op": "add", "path": "/metadata/annotations", "value": {annotation::APPROVED_BY: wanted}})]
        }
        (Some(wanted), _) => vec![json!({"op": "add", "path": path, "value": wanted})],
        (None, _) => vec![json!({"op": "remove", "path": path})],
    }
}

/// The grants of an AIBudget's spec.
fn grants(spec: &Value) -> &[Value] {
    spec.get("grants").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

const APPROVED_BY: &str = "approvedBy";

/// Who approved each grant of `new`: whoever did in `old`, for grants that were there, else `None`. What a grant itself says of that
/// is not looked at.
fn approvers<'a>(old: &'a Value, new: &'a Value) -> Vec<Option<Option<&'a str>>> {
    let terms = |grant: &Value| {
        let mut terms = grant.clone();
        terms.as_object_mut().and_then(|grant| grant.remove(APPROVED_BY));
        terms
    };
    let mut known: Vec<(Value, Option<&str>)> =
        grants(old).iter().map(|grant| (terms(grant), grant.get(APPROVED_BY).and_then(Value::as_str))).collect();
    // Each grant that was there stands for one that is: a second one of the same terms raises the limit again.
    let known = |grant: &Value| {
        let index = known.iter().position(|(of, _)| *of == terms(grant))?;
        Some(known.swap_remove(index).1)
    };
    grants(new).iter().map(known).collect()
}

/// Whether a change of an AIBudget's spec lets more be spent by way of a grant or a reset. (To raise a limit itself is to edit the budget.)
pub fn raises(old: &Value, new: &Value) -> bool {
    let resets = |spec: &Value| -> BTreeMap<String, Value> {
        let limits = spec.get("limits").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let reset = |limit: &Value| Some((limit.get("name")?.as_str()?.to_owned(), limit.get("resetAt")?.clone()));
        limits.iter().filter_map(reset).collect()
    };
    approvers(old, new).contains(&None) || resets(old) != resets(new)
}

/// The patch after which each grant says who approved it: `user`, if it is new, and else whoever did.
pub fn stamp_grants(old: &Value, new: &Value, user: &str) -> Vec<Value> {
    let stamps = grants(new).iter().zip(approvers(old, new)).enumerate().filter_map(|(index, (grant, approver))| {
        let wanted = approver.unwrap_or(Some(user));
        let path = format!("/spec/grants/{index}/{APPROVED_BY}");
        match (wanted, grant.get(APPROVED_BY).and_then(Value::as_str)) {
            (wanted, found) if wanted == found => None,
            (Some(wanted), _) => Some(json!({"op": "add", "path": path, "value": wanted})),
            (None, _) => Some(json!({"op": "remove", "path": path})),
        }
    });
    stamps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(name, value)| (format!("spendkeeper.dev/{name}"), (*value).to_owned())).collect()
    }

    fn stamped(old: &[(&str, &str)], new: &[(&str, &str)]) -> Option<String> {
        let new = annotations(new);
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(stamp(&annotations(old), &new, "alice"))).expect("a patch");
        let mut object = json!({"metadata": {"annotations": new}});
        json_patch::patch(&mut object, &patch).expect("the patch applies");
        object["metadata"]["annotations"][annotation::APPROVED_BY].as_str().map(str::to_owned)
    }

    #[test]
    fn the_approver_is_who_the_api_server_says_and_nobody_else() {
        type Pairs = &'static [(&'static str, &'static str)];
        let table: [(Pairs, Pairs, Option<&str>); 9] = [
            (&[], &[("approve", "1")], Some("alice")),
            (&[], &[("approve", "1"), ("approved-by", "bob")], Some("alice")),
            (&[("approve", "1"), ("approved-by", "bob")], &[("approve", "2"), ("approved-by", "bob")], Some("alice")),
            (&[("approve", "1"), ("approved-by", "bob")], &[("approve", "1"), ("approved-by", "alice")], Some("bob")),
            (&[("approve", "1"), ("approved-by", "bob")], &[("approve", "1")], Some("bob")),
            (&[("approve", "1"), ("approved-by", "bob")], &[("approved-by", "bob")], Some("bob")),
            (&[("approve", "1"), ("approved-by", "bob")], &[], Some("bob")),
            (&[], &[("approved-by", "eve")], None),
            (&[], &[("rollback", "1")], Some("alice")),
        ];
        for (old, new, expected) in table {
            assert_eq!(stamped(old, new).as_deref(), expected, "{old:?} → {new:?}");
        }
    }

    fn spec(grants: &[(&str, Option<&str>)]) -> Value {
        let grant = |(reason, by): &(&str, Option<&str>)| match by {
            Some(by) => json!({"limit": "l", "usd": "5", "reason": reason, "approvedBy": by}),
            None => json!({"limit": "l", "usd": "5", "reason": reason}),
        };
        json!({"limits": [], "grants": grants.iter().map(grant).collect::<Vec<_>>()})
    }

    #[test]
    fn a_grant_says_who_added_it_whatever_its_author_wrote() {
        type Grants = &'static [(&'static str, Option<&'static str>)];
        let table: [(Grants, Grants, bool, Grants); 8] = [
            (&[], &[("a", None)], true, &[("a", Some("alice"))]),
            (&[], &[("a", Some("eve"))], true, &[("a", Some("alice"))]),
            (&[("a", Some("bob"))], &[("a", None)], false, &[("a", Some("bob"))]),
            (&[("a", Some("bob"))], &[("a", Some("eve"))], false, &[("a", Some("bob"))]),
            (&[("a", Some("bob"))], &[("b", Some("bob"))], true, &[("b", Some("alice"))]),
            (&[("a", Some("bob"))], &[("a", Some("bob")), ("a", Some("bob"))], true, &[("a", Some("bob")), ("a", Some("alice"))]),
            (&[("a", None)], &[("a", Some("eve"))], false, &[("a", None)]),
            (&[("a", Some("bob")), ("b", Some("bob"))], &[("b", Some("bob"))], false, &[("b", Some("bob"))]),
        ];
        for (old, new, decides, expected) in table {
            let (old, new) = (spec(old), spec(new));
            assert_eq!(raises(&old, &new), decides, "{old} → {new}");
            let patch: json_patch::Patch = serde_json::from_value(Value::Array(stamp_grants(&old, &new, "alice"))).expect("a patch");
            let mut object = json!({"spec": new});
            json_patch::patch(&mut object, &patch).expect("the patch applies");
            assert_eq!(object["spec"], spec(expected), "{old} → {new}");
        }
        assert!(!raises(&Value::Null, &json!({"limits": []})) && stamp_grants(&Value::Null, &Value::Null, "alice").is_empty());
    }

    #[test]
    fn to_set_move_or_remove_a_reset_is_a_decision() {
        let spec = |reset: Option<&str>| match reset {
            Some(at) => json!({"limits": [{"name": "l", "usd": "1", "resetAt": at}]}),
            None => json!({"limits": [{"name": "l", "usd": "1"}]}),
        };
        for (old, new, decides) in [
            (None, None, false),
            (None, Some("1"), true),
            (Some("1"), Some("1"), false),
            (Some("1"), Some("2"), true),
            (Some("1"), None, true),
        ] {
            assert_eq!(raises(&spec(old), &spec(new)), decides, "{old:?} → {new:?}");
        }
    }

    #[test]
    fn taking_a_decision_back_is_no_decision() {
        let old = annotations(&[("approve", "1")]);
        assert!(decisions(&old, &annotations(&[])).is_empty());
        assert!(decisions(&old, &annotations(&[("approve", "")])).is_empty());
        let new = annotations(&[("approve", "1"), ("reject", "2")]);
        assert_eq!(decisions(&old, &new), [(annotation::REJECT, "2")]);
    }
}
