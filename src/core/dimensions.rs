//! Who a call belongs to.
//!
//! A dimension's value comes from the pod's annotations, or, where the pod's owner left that dimension free, from the
//! call's headers. A caller can therefore never charge another team: see [`DimensionPolicy::resolve`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A dimension that callers may set, where the pod's owner lets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Dimension {
    Feature,
    Team,
    Process,
    Agent,
    Session,
}

impl Dimension {
    pub const ALL: [Dimension; 5] = [Dimension::Feature, Dimension::Team, Dimension::Process, Dimension::Agent, Dimension::Session];

    /// The name in annotations (`spendkeeper.dev/<name>`), headers (`x-spend-<name>`), CEL (`call.<name>`) and baggage.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Feature => "feature",
            Dimension::Team => "team",
            Dimension::Process => "process",
            Dimension::Agent => "agent",
            Dimension::Session => "session",
        }
    }

    pub fn from_name(name: &str) -> Option<Dimension> {
        Dimension::ALL.into_iter().find(|d| d.name() == name)
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The longest value of a dimension, in bytes: as long as a Kubernetes label value.
pub const MAX_VALUE_BYTES: usize = 63;
/// What a value outside the pod's list of allowed values counts as.
pub const UNRECOGNISED: &str = "unrecognised";

/// Where a call comes from, which nobody but the cluster can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Origin {
    pub namespace: String,
    /// `Deployment/support-bot`, or `Pod/name` for a bare pod.
    pub workload: String,
    pub pod: String,
    pub pod_uid: String,
}

/// The dimensions of one call, as recorded. Calls whose headers say nothing of them share their pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dimensions(Arc<BTreeMap<Dimension, String>>);

impl Dimensions {
    pub fn get(&self, dimension: Dimension) -> Option<&str> {
        self.0.get(&dimension).map(String::as_str)
    }

    pub fn contains(&self, dimension: Dimension) -> bool {
        self.0.contains_key(&dimension)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Dimension, &str)> {
        self.0.iter().map(|(dimension, value)| (*dimension, value.as_str()))
    }

    pub fn set(&mut self, dimension: Dimension, value: String) {
        Arc::make_mut(&mut self.0).insert(dimension, value);
    }
}

impl FromIterator<(Dimension, String)> for Dimensions {
    fn from_iter<I: IntoIterator<Item = (Dimension, String)>>(named: I) -> Dimensions {
        Dimensions(Arc::new(named.into_iter().collect()))
    }
}

impl<const N: usize> From<[(Dimension, String); N]> for Dimensions {
    fn from(named: [(Dimension, String); N]) -> Dimensions {
        named.into_iter().collect()
    }
}

/// What the pod's owner says of each dimension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DimensionPolicy {
    /// Values from the pod's annotations. A dimension with a value here is pinned, unless it is also in `free`.
    pub defaults: Dimensions,
    /// Dimensions with a default that callers may still override.
    pub free: BTreeSet<Dimension>,
    /// For a dimension that callers set: the values that count; others become [`UNRECOGNISED`].
    pub allowed: BTreeMap<Dimension, BTreeSet<String>>,
}

impl DimensionPolicy {
    /// True when a caller's value for `dimension` is ignored.
    pub fn is_pinned(&self, dimension: Dimension) -> bool {
        self.defaults.contains(dimension) && !self.free.contains(&dimension)
    }

    /// The dimensions of a call, given what its headers claim (`claim` is asked once for each free dimension).
    pub fn resolve<'a>(&self, mut claim: impl FnMut(Dimension) -> Option<&'a str>) -> Dimensions {
        let mut resolved = self.defaults.clone();
        for dimension in Dimension::ALL {
            if self.is_pinned(dimension) {
                continue;
            }
            if let Some(value) = claim(dimension).map(str::trim).filter(|v| !v.is_empty()) {
                resolved.set(dimension, self.admitted(dimension, value));
            }
        }
        resolved
    }

    fn admitted(&self, dimension: Dimension, value: &str) -> String {
        let well_formed = value.len() <= MAX_VALUE_BYTES && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let listed = self.allowed.get(&dimension).is_none_or(|values| values.contains(value));
        if well_formed && listed { value.to_owned() } else { UNRECOGNISED.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> DimensionPolicy {
        DimensionPolicy {
            defaults: Dimensions::from([(Dimension::Team, "support".into()), (Dimension::Feature, "chat".into())]),
            free: BTreeSet::from([Dimension::Feature]),
            allowed: BTreeMap::from([(Dimension::Feature, BTreeSet::from(["chat".into(), "search".into()]))]),
        }
    }

    fn resolve(claims: &[(Dimension, &'static str)]) -> Dimensions {
        policy().resolve(|d| claims.iter().find(|(c, _)| *c == d).map(|(_, v)| *v))
    }

    #[test]
    fn a_caller_cannot_charge_another_team() {
        assert_eq!(resolve(&[(Dimension::Team, "finance")]).get(Dimension::Team), Some("support"));
    }

    #[test]
    fn a_free_dimension_takes_the_callers_value_and_else_the_default() {
        assert_eq!(resolve(&[(Dimension::Feature, "search")]).get(Dimension::Feature), Some("search"));
        assert_eq!(resolve(&[]).get(Dimension::Feature), Some("chat"));
    }

    #[test]
    fn a_call_that_claims_nothing_shares_its_pods_dimensions_and_one_that_does_leaves_them_alone() {
        let policy = policy();
        assert!(Arc::ptr_eq(&policy.resolve(|_| None).0, &policy.defaults.0));
        let claimed = policy.resolve(|dimension| (dimension == Dimension::Feature).then_some("search"));
        assert_eq!((claimed.get(Dimension::Feature), policy.defaults.get(Dimension::Feature)), (Some("search"), Some("chat")));
    }

    #[test]
    fn values_outside_the_list_and_malformed_values_are_unrecognised() {
        assert_eq!(resolve(&[(Dimension::Feature, "made-up")]).get(Dimension::Feature), Some(UNRECOGNISED));
        assert_eq!(resolve(&[(Dimension::Session, "a\u{7f}b")]).get(Dimension::Session), Some(UNRECOGNISED));
    }
}
