//! What owners decided about recommendations, carried out: approve → apply → verify, or undo.

use std::collections::BTreeMap;

use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::{ReconcileError, Round};
use crate::api::annotation;
use crate::core::reach;
use crate::core::recommend::{Event, Recommendation, RecommendationState, rfc3339};
use crate::core::window::from_rfc3339;
use crate::operator::apply::{self, Applied, Health};
use crate::operator::conditions::Transition;

/// A change is verified when its target is well this long after it.
const VERIFY_AFTER_MS: i64 = 30_000;
/// A change whose target is not well this long after it is undone.
const GIVE_UP_AFTER_MS: i64 = 300_000;

/// A resource as it is now, and its recommendations after what was decided about them.
pub struct Decided<K> {
    /// Read anew, when there was something to decide; else the one from the round's snapshot is good enough.
    pub resource: Option<K>,
    pub existing: Vec<Recommendation>,
}

impl Round<'_> {
    /// Heeds the resource's annotations and carries out what they ask for.
    pub(super) async fn decided<K>(
        &self,
        resource: &K,
        recommendations: impl Fn(&K) -> Option<Vec<Recommendation>>,
    ) -> Result<Decided<K>, ReconcileError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let existing = recommendations(resource).unwrap_or_default();
        if !has_work(&existing, resource.annotations()) {
            return Ok(Decided { resource: None, existing });
        }
        // A snapshot may be older than our own last write, and to decide twice is to apply twice: read again.
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &namespace);
        let fresh = api.get(&resource.name_any()).await?;
        let mut existing = recommendations(&fresh).unwrap_or_default();
        let now = rfc3339(self.now_ms);
        heed(&mut existing, fresh.annotations(), &now);
        for recommendation in &mut existing {
            let before = recommendation.state;
            let undo = asks_for(fresh.annotations(), annotation::ROLLBACK, recommendation);
            self.carry_out(recommendation, &namespace, undo, fresh.annotations(), &now).await?;
            // `heed` may have moved it on just now; an annotation that stays after it was heeded is no news.
            if recommendation.state != before || recommendation.transition_time.as_deref() == Some(&now) {
                self.publisher.event(&fresh, &news(recommendation)).await;
            }
        }
        Ok(Decided { resource: Some(fresh), existing })
    }

    async fn carry_out(
        &self,
        recommendation: &mut Recommendation,
        namespace: &str,
        undo: bool,
        annotations: &BTreeMap<String, String>,
        now: &str,
    ) -> Result<(), ReconcileError> {
        let client = &self.context.client;
        if let Err(why) = reach::check(recommendation, namespace) {
            if recommendation.state == RecommendationState::Approved {
                advance(recommendation, Event::Expire, now);
                recommendation.observed = Some(format!("not applied: {why}"));
            }
            return Ok(());
        }
        match recommendation.state {
            RecommendationState::Approved if self.context.apply_approved => match apply::apply(client, recommendation).await? {
                Applied::Done => {
                    advance(recommendation, Event::Apply, now);
                    recommendation.observed = None;
                }
                Applied::TargetChanged(why) => {
                    advance(recommendation, Event::Expire, now);
                    recommendation.observed = Some(format!("not applied: {why}"));
                }
            },
            RecommendationState::Applied | RecommendationState::Verified if undo => {
                apply::roll_back(client, recommendation).await?;
                advance(recommendation, Event::RollBack, now);
                recommendation.approved_by = annotations.get(annotation::APPROVED_BY).cloned();
                recommendation.observed = Some("undone by request".to_owned());
            }
            RecommendationState::Applied => self.watch(recommendation, now).await?,
            _ => {}
        }
        Ok(())
    }

    /// Looks at how a changed target fares; a change that does it harm is undone.
    async fn watch(&self, recommendation: &mut Recommendation, now: &str) -> Result<(), ReconcileError> {
        let applied_ms = recommendation.transition_time.as_deref().and_then(from_rfc3339).unwrap_or(self.now_ms);
        let age_ms = self.now_ms - applied_ms;
        if age_ms < VERIFY_AFTER_MS {
            return Ok(());
        }
        let health = apply::health(&self.context.client, recommendation).await?;
        match health {
            Health::Good(how) => {
                advance(recommendation, Event::Verify, now);
                recommendation.observed = Some(how);
            }
            Health::NotYet | Health::Bad(_) if age_ms < GIVE_UP_AFTER_MS => {}
            Health::NotYet | Health::Bad(_) => {
                let why = if let Health::Bad(why) = health { why } else { "its rollout did not end".to_owned() };
                apply::roll_back(&self.context.client, recommendation).await?;
                advance(recommendation, Event::RollBack, now);
                recommendation.observed = Some(format!("undone: {why}"));
            }
        }
        Ok(())
    }
}

/// Callers only ask for events that the state allows.
fn advance(recommendation: &mut Recommendation, event: Event, now: &str) {
    if let Err(refused) = recommendation.advance(event, now) {
        tracing::error!(id = recommendation.id, %refused, "a recommendation was left as it is");
    }
}

fn asks_for(annotations: &BTreeMap<String, String>, annotation: &str, recommendation: &Recommendation) -> bool {
    annotations.get(annotation).is_some_and(|id| *id == recommendation.id)
}

fn has_work(recommendations: &[Recommendation], annotations: &BTreeMap<String, String>) -> bool {
    recommendations.iter().any(|r| match r.state {
        RecommendationState::Proposed => asks_for(annotations, annotation::APPROVE, r) || asks_for(annotations, annotation::REJECT, r),
        RecommendationState::Approved | RecommendationState::Applied => true,
        RecommendationState::Verified => asks_for(annotations, annotation::ROLLBACK, r),
        RecommendationState::Rejected | RecommendationState::Expired | RecommendationState::RolledBack => false,
    })
}

/// Approves and rejects as the annotations say. Without the webhook's word on who it was, nothing is decided (I5).
fn heed(recommendations: &mut [Recommendation], annotations: &BTreeMap<String, String>, now: &str) {
    let Some(who) = annotations.get(annotation::APPROVED_BY) else { return };
    for (name, event) in [(annotation::REJECT, Event::Reject), (annotation::APPROVE, Event::Approve)] {
        let asked = recommendations.iter_mut().find(|r| r.state == RecommendationState::Proposed && asks_for(annotations, name, r));
        if let Some(recommendation) = asked {
            advance(recommendation, event, now);
            recommendation.approved_by = Some(who.clone());
        }
    }
}

fn news(recommendation: &Recommendation) -> Transition {
    let Recommendation { id, kind, target, state, summary, .. } = recommendation;
    let by = recommendation.approved_by.as_deref().map(|who| format!(" ({who})")).unwrap_or_default();
    let observed = recommendation.observed.as_deref().map(|o| format!(" – {o}")).unwrap_or_default();
    let (reason, warning) = match state {
        RecommendationState::Approved => ("RecommendationApproved", false),
        RecommendationState::Rejected => ("RecommendationRejected", false),
        RecommendationState::Applied => ("RecommendationApplied", false),
        RecommendationState::Verified => ("RecommendationVerified", false),
        RecommendationState::RolledBack => ("RecommendationRolledBack", true),
        RecommendationState::Expired | RecommendationState::Proposed => ("RecommendationExpired", true),
    };
    Transition { reason, message: format!("{kind:?} {id} for {}/{}{by}: {summary}{observed}", target.kind, target.name), warning }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recommendation(id: &str, state: &str) -> Recommendation {
        serde_json::from_value(json!({"id": id, "kind": "ModelTier", "summary": "s", "patch": "{}", "revert": "{}",
            "target": {"apiVersion": "spendkeeper.dev/v1alpha1", "kind": "ModelRoute", "namespace": "shop", "name": "r"},
            "evidence": {"from": "", "to": "", "windowSeconds": 1, "samples": 1, "source": "", "figures": {}},
            "estimatedMonthlySavings": "1", "risk": "Low", "state": state}))
        .expect("a recommendation")
    }

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_approval_counts_only_with_the_webhooks_word_on_who_it_was() {
        let mut found = [recommendation("a", "Proposed"), recommendation("b", "Proposed")];
        heed(&mut found, &annotations(&[(annotation::APPROVE, "a")]), "now");
        assert_eq!(found[0].state, RecommendationState::Proposed);
        heed(&mut found, &annotations(&[(annotation::APPROVE, "a"), (annotation::APPROVED_BY, "ada")]), "now");
        assert_eq!((found[0].state, found[0].approved_by.as_deref()), (RecommendationState::Approved, Some("ada")));
        assert_eq!(found[1].state, RecommendationState::Proposed, "an approval is for one recommendation");
    }

    #[test]
    fn no_outranks_yes() {
        let mut found = [recommendation("a", "Proposed")];
        heed(&mut found, &annotations(&[(annotation::APPROVE, "a"), (annotation::REJECT, "a"), (annotation::APPROVED_BY, "ada")]), "now");
        assert_eq!(found[0].state, RecommendationState::Rejected);
    }

    #[test]
    fn what_is_settled_makes_no_work() {
        let asked = annotations(&[(annotation::APPROVE, "a"), (annotation::APPROVED_BY, "ada")]);
        for (state, expected) in
            [("Proposed", true), ("Approved", true), ("Applied", true), ("Verified", false), ("Rejected", false), ("RolledBack", false)]
        {
            assert_eq!(has_work(&[recommendation("a", state)], &asked), expected, "{state}");
        }
    }
}
