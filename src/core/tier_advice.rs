//! Which features pay for more model than their calls need, and the rule of the route that would stop it.
//!
//! Recorded calls are replayed: those that ran above the tier that they needed are priced again, token for token, on the cheapest
//! model of a cheaper tier. The difference is what the rule would have saved, exactly, had the answers been as long. Whether they
//! would have been as good is for the owner to say: the tier that a call needs is a prior (see [`complexity`](super::complexity)).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::dimensions::{Dimension, Dimensions, MAX_VALUE_BYTES, UNRECOGNISED};
use super::money::PicoUsd;
use super::policy::{Protocol, Route, Tier};
use super::price::Catalogue;
use super::recommend::{Evidence, Proposal, RecommendationKind, Risk, TargetRef, rfc3339};
use super::route::{cheapest_in_tier, matches};
use super::usage::Usage;

/// Fewer calls are no evidence.
const MIN_CALLS: u64 = 20;
/// The month that savings are stated for: 30 days, in milliseconds.
const MONTH_MS: i128 = 30 * 24 * 60 * 60 * 1_000;

/// Answered calls of the route with the same dimensions, models and tiers, summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierUsage {
    pub dimensions: Dimensions,
    pub backend: String,
    pub model: String,
    /// The tier that answered.
    pub tier: Option<Tier>,
    /// The tier that the calls' complexity asked for.
    pub needed_tier: Option<Tier>,
    pub calls: u64,
    pub usage: Usage,
    pub cost: PicoUsd,
}

/// Proposes rules for `route` from the calls that ended in `from_ms ≤ t < to_ms`; the largest saving of each feature, and of
/// each team whose calls have no feature.
pub fn advise(route: &Route, rows: &[TierUsage], catalogue: &Catalogue, from_ms: i64, to_ms: i64) -> Vec<Proposal> {
    if to_ms <= from_ms {
        return Vec::new();
    }
    let groups = grouped(rows);
    let best = |(group, rows): (&Group, &Vec<&TierUsage>)| {
        let replays = [Tier::Standard, Tier::Economy].into_iter().filter_map(|tier| Replay::of(route, group, rows, catalogue, tier));
        let enough = replays.filter(|replay| replay.moved >= MIN_CALLS && replay.saved() > PicoUsd::ZERO);
        // The first of equals: the smaller step.
        let replay = enough.reduce(|best, next| if next.saved() > best.saved() { next } else { best })?;
        Some(replay.proposal(route, group, from_ms, to_ms))
    };
    groups.iter().filter_map(best).collect()
}

/// Rows by the rule that would match them. A rule for a team also matches the team's calls that have a feature, so only a team
/// whose calls have none is a group: the evidence is about every call that the rule would reach.
fn grouped(rows: &[TierUsage]) -> BTreeMap<Group, Vec<&TierUsage>> {
    let mut groups: BTreeMap<Group, Vec<&TierUsage>> = BTreeMap::new();
    let mut teams_with_features = BTreeSet::new();
    for row in rows {
        let Some(group) = Group::of(&row.dimensions) else { continue };
        if group.dimension == Dimension::Feature {
            teams_with_features.extend(row.dimensions.get(Dimension::Team));
        }
        groups.entry(group).or_default().push(row);
    }
    groups.retain(|group, _| group.dimension == Dimension::Feature || !teams_with_features.contains(group.value.as_str()));
    groups
}

/// The calls that one rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    dimension: Dimension,
    value: String,
}

impl Group {
    fn of(dimensions: &Dimensions) -> Option<Group> {
        let named = |dimension| {
            let value = dimensions.get(dimension).filter(|value| !value.is_empty() && *value != UNRECOGNISED)?;
            Some(Group { dimension, value: value.to_owned() })
        };
        named(Dimension::Feature).or_else(|| named(Dimension::Team))
    }

    /// The rule's name: at most 63 bytes, as the kind demands, and different for different values.
    fn rule_name(&self) -> String {
        let name = format!("{}-{}", self.dimension, self.value);
        if name.len() <= MAX_VALUE_BYTES {
            return name;
        }
        let hash = Sha256::digest(self.value.as_bytes());
        let kept: String = name.chars().take(MAX_VALUE_BYTES - 9).collect();
        format!("{kept}-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    }

    /// The field of a route's rule that lists such values.
    fn rule_field(&self) -> &'static str {
        match self.dimension {
            Dimension::Team => "teams",
            _ => "features",
        }
    }
}

/// A group's calls as they would have been under a rule.
struct Replay {
    max_tier: Tier,
    /// Calls that the rule would have moved.
    moved: u64,
    /// All calls of the group.
    calls: u64,
    measured: PicoUsd,
    replayed: PicoUsd,
    from_models: BTreeSet<String>,
    to_models: BTreeSet<String>,
    /// True when a call would skip a tier.
    two_tiers: bool,
}

impl Replay {
    /// `None` when the route has no cheaper model for any of the calls.
    fn of(route: &Route, group: &Group, rows: &[&TierUsage], catalogue: &Catalogue, max_tier: Tier) -> Option<Replay> {
        let mut by_protocol: BTreeMap<Protocol, (Usage, Vec<&TierUsage>)> = BTreeMap::new();
        for row in rows.iter().filter(|row| would_move(row, max_tier) && is_reached(route, group, row, max_tier)) {
            if let Some(backend) = route.backends.iter().find(|backend| *backend.name == *row.backend) {
                let (usage, moved) = by_protocol.entry(backend.provider.formats()[0]).or_default();
                *usage = usage.saturating_add(&row.usage);
                moved.push(row);
            }
        }
        let mut replay = Replay {
            max_tier,
            moved: 0,
            calls: rows.iter().map(|row| row.calls).sum(),
            measured: PicoUsd::ZERO,
            replayed: PicoUsd::ZERO,
            from_models: BTreeSet::new(),
            to_models: BTreeSet::new(),
            two_tiers: false,
        };
        for (protocol, (usage, moved)) in by_protocol {
            let Some((model, cost)) = cheapest_in_tier(route, protocol, max_tier, catalogue, |tariff| tariff.list().cost(&usage)) else {
                continue;
            };
            replay.replayed += cost;
            replay.to_models.insert(model.name.to_string());
            for row in moved {
                replay.moved += row.calls;
                replay.measured += row.cost;
                replay.from_models.insert(row.model.clone());
                replay.two_tiers |= row.tier.and_then(Tier::below) != Some(max_tier);
            }
        }
        (!replay.to_models.is_empty()).then_some(replay)
    }

    fn saved(&self) -> PicoUsd {
        self.measured - self.replayed
    }

    fn proposal(&self, route: &Route, group: &Group, from_ms: i64, to_ms: i64) -> Proposal {
        let tier = self.max_tier.name();
        let (namespace, name) = (route.key.namespace(), route.key.name());
        let rule = json!({
            "name": group.rule_name(),
            group.rule_field(): [group.value],
            "maxTier": tier,
            "onlyIfSufficient": true,
        });
        // An older rule of this name, with its own highest tier, comes back on a roll-back; without one, the rule goes.
        let before = route.rules.iter().find(|rule| rule.name == group.rule_name()).map(|old| {
            json!({
                "name": group.rule_name(),
                group.rule_field(): [group.value],
                "maxTier": old.max_tier.name(),
                "onlyIfSufficient": old.only_if_sufficient,
            })
        });
        Proposal {
            kind: RecommendationKind::ModelTier,
            target: TargetRef {
                api_version: "spendkeeper.dev/v1alpha1".to_owned(),
                kind: "ModelRoute".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            summary: format!(
                "Send calls of {} {} that need no more to {tier} models: {} of its {} calls ran above the tier that they needed",
                group.dimension, group.value, self.moved, self.calls
            ),
            patch: patch(namespace, name, Some(rule)),
            revert: patch(namespace, name, before),
            evidence: self.evidence(route, from_ms, to_ms),
            estimated_monthly_savings: per_month(self.saved(), from_ms, to_ms),
            risk: if self.two_tiers { Risk::High } else { Risk::Medium },
        }
    }

    fn evidence(&self, route: &Route, from_ms: i64, to_ms: i64) -> Evidence {
        let names = |models: &BTreeSet<String>| models.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let figures = [
            ("calls", self.calls.to_string()),
            ("callsAboveNeed", self.moved.to_string()),
            ("modelsNow", names(&self.from_models)),
            ("modelsThen", names(&self.to_models)),
            ("costMeasuredUsd", self.measured.to_decimal()),
            ("costReplayedUsd", self.replayed.to_decimal()),
        ];
        Evidence {
            from: rfc3339(from_ms),
            to: rfc3339(to_ms),
            window_seconds: (to_ms - from_ms) / 1_000,
            samples: i64::try_from(self.moved).unwrap_or(i64::MAX),
            source: format!("calls that ModelRoute {} served, as the ledger recorded them, priced again with the same tokens", route.key),
            figures: figures.map(|(name, figure)| (name.to_owned(), figure)).into(),
        }
    }
}

/// A rule for sufficient tiers moves calls that ran above it and need no more than it.
fn would_move(row: &TierUsage, max_tier: Tier) -> bool {
    row.tier.is_some_and(|tier| tier > max_tier) && row.needed_tier.is_some_and(|needed| needed <= max_tier)
}

/// False when another rule of the route decides first, or this one is there already. A new rule comes last in the list, where the
/// first that matches holds.
fn is_reached(route: &Route, group: &Group, row: &TierUsage, max_tier: Tier) -> bool {
    match route.rules.iter().find(|rule| matches(rule, &row.dimensions)) {
        Some(first) => first.name == group.rule_name() && first.max_tier > max_tier,
        None => true,
    }
}

/// Server-side apply of one rule; `spec.policy.rules` is a map by name, so the others stay. It needs a field manager of its own
/// (see `Recommendation::field_manager`): applied without the rule, by the manager that added it, it takes the rule away.
fn patch(namespace: &str, name: &str, rule: Option<serde_json::Value>) -> String {
    json!({
        "apiVersion": "spendkeeper.dev/v1alpha1",
        "kind": "ModelRoute",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "policy": { "rules": rule.into_iter().collect::<Vec<_>>() } },
    })
    .to_string()
}

fn per_month(saved: PicoUsd, from_ms: i64, to_ms: i64) -> PicoUsd {
    PicoUsd(saved.0.saturating_mul(MONTH_MS) / i128::from(to_ms - from_ms))
}

#[cfg(test)]
mod tests;
