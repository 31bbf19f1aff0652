//! Who approved: the one annotation that nobody can forge, and what a decision is. Pure.

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

    #[test]
    fn taking_a_decision_back_is_no_decision() {
        let old = annotations(&[("approve", "1")]);
        assert!(decisions(&old, &annotations(&[])).is_empty());
        assert!(decisions(&old, &annotations(&[("approve", "")])).is_empty());
        let new = annotations(&[("approve", "1"), ("reject", "2")]);
        assert_eq!(decisions(&old, &new), [(annotation::REJECT, "2")]);
    }
}
