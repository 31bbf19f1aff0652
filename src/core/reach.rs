//! How far a recommendation reaches: the fields that an approval may ever change, whatever its patch says.
//!
//! A status can be written by whoever holds the verb on it, so what stands there is no proof of who proposed it. Before an
//! approved patch is applied it must be about its own target, in the namespace of the resource that carries it, and touch
//! nothing but what recommendations of its kind are about.

use serde_json::Value;

use super::recommend::Recommendation;

/// JSON pointers of leaves that a patch of a Deployment may have.
const DEPLOYMENT: [&str; 5] = [
    "/spec/template/spec/containers/0/name",
    // A leaf when it is empty.
    "/spec/template/spec/containers/0/resources",
    "/spec/template/spec/containers/0/resources/requests/cpu",
    "/spec/template/spec/containers/0/resources/requests/memory",
    "/spec/template/spec/containers/0/resources/limits/memory",
];
/// One rule of a route, or none.
const ROUTE: [&str; 6] = [
    "/spec/policy/rules",
    "/spec/policy/rules/0/name",
    "/spec/policy/rules/0/features/0",
    "/spec/policy/rules/0/teams/0",
    "/spec/policy/rules/0/maxTier",
    "/spec/policy/rules/0/onlyIfSufficient",
];

/// Checks patch and revert of a recommendation that a resource of `namespace` carries.
///
/// # Errors
/// What they would change beyond their reach.
pub fn check(recommendation: &Recommendation, namespace: &str) -> Result<(), String> {
    [&recommendation.patch, &recommendation.revert].into_iter().try_for_each(|text| check_text(recommendation, text, namespace))
}

fn check_text(recommendation: &Recommendation, text: &str, namespace: &str) -> Result<(), String> {
    let target = &recommendation.target;
    if target.namespace != namespace {
        return Err(format!("its target is in namespace {}, and the resource that carries it in {namespace}", target.namespace));
    }
    let fields: &[&str] = match (target.api_version.as_str(), target.kind.as_str()) {
        ("apps/v1", "Deployment") => &DEPLOYMENT,
        ("spendkeeper.dev/v1alpha1", "ModelRoute") => &ROUTE,
        (_, kind) => return Err(format!("no recommendation changes a {kind}")),
    };
    let patch: Value = serde_json::from_str(text).map_err(|e| format!("its patch is not JSON: {e}"))?;
    let identity = [
        ("/apiVersion", target.api_version.as_str()),
        ("/kind", &target.kind),
        ("/metadata/name", &target.name),
        ("/metadata/namespace", &target.namespace),
    ];
    for (pointer, expected) in identity {
        if patch.pointer(pointer).and_then(Value::as_str) != Some(expected) {
            return Err(format!("{pointer} of its patch is not {expected:?}, as its target says"));
        }
    }
    let mut leaves = Vec::new();
    collect(&patch, String::new(), &mut leaves);
    let is_known = |leaf: &String| identity.iter().any(|(pointer, _)| pointer == leaf) || fields.contains(&leaf.as_str());
    match leaves.iter().find(|leaf| !is_known(leaf)) {
        Some(leaf) => Err(format!("its patch would also change {leaf}")),
        None => Ok(()),
    }
}

/// Pointers of everything that holds nothing more.
fn collect(value: &Value, pointer: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members
                .iter()
                .for_each(|(name, value)| collect(value, format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")), leaves));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, value)| collect(value, format!("{pointer}/{index}"), leaves));
        }
        _ => leaves.push(pointer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recommendation(api_version: &str, kind: &str) -> Recommendation {
        serde_json::from_value(json!({"id": "x", "kind": "ModelTier", "summary": "s", "patch": "{}", "revert": "{}",
            "target": {"apiVersion": api_version, "kind": kind, "namespace": "shop", "name": "t"},
            "evidence": {"from": "", "to": "", "windowSeconds": 1, "samples": 1, "source": "", "figures": {}},
            "estimatedMonthlySavings": "1", "risk": "Low", "state": "Approved"}))
        .expect("a recommendation")
    }

    fn deployment(spec: Value) -> String {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "t", "namespace": "shop"}, "spec": spec}).to_string()
    }

    fn containers(container: Value) -> String {
        deployment(json!({"template": {"spec": {"containers": [container]}}}))
    }

    #[test]
    fn what_is_proposed_is_within_reach() {
        let sized = recommendation("apps/v1", "Deployment");
        for resources in [json!({"requests": {"cpu": "5m", "memory": "9Mi"}, "limits": {"memory": "9Mi"}}), json!({})] {
            assert_eq!(check_text(&sized, &containers(json!({"name": "app", "resources": resources})), "shop"), Ok(()));
        }
        let route = recommendation("spendkeeper.dev/v1alpha1", "ModelRoute");
        let rule = json!({"name": "feature-chat", "features": ["chat"], "maxTier": "economy", "onlyIfSufficient": true});
        for rules in [json!([rule]), json!([])] {
            let patch = json!({"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "ModelRoute", "metadata": {"name": "t", "namespace": "shop"},
                "spec": {"policy": {"rules": rules}}});
            assert_eq!(check_text(&route, &patch.to_string(), "shop"), Ok(()));
        }
    }

    #[test]
    fn a_forged_status_changes_nothing_but_what_its_kind_is_about() {
        let sized = recommendation("apps/v1", "Deployment");
        let table = [
            (containers(json!({"name": "app", "image": "evil"})), "shop", "containers/0/image"),
            (deployment(json!({"replicas": 0})), "shop", "/spec/replicas"),
            (deployment(json!({"template": {"spec": {"containers": [{"name": "app"}, {"name": "evil"}]}}})), "shop", "containers/1/name"),
            (containers(json!({"name": "app"})), "other", "namespace"),
            (containers(json!({"name": "app"})).replace(r#""name":"t""#, r#""name":"u""#), "shop", "/metadata/name"),
            ("nonsense".to_owned(), "shop", "not JSON"),
        ];
        for (patch, namespace, expected) in table {
            let refused = check_text(&sized, &patch, namespace).expect_err(&patch);
            assert!(refused.contains(expected), "{patch}: {refused}");
        }
        let binding = recommendation("rbac.authorization.k8s.io/v1", "RoleBinding");
        assert!(check_text(&binding, "{}", "shop").is_err());
    }
}
