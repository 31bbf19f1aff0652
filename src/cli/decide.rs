//! `approve`, `reject`, `rollback`: one annotation on the resource that carries the recommendation.
//!
//! Whether the caller may is the API server's to say: the admission webhook asks it for the verb `approve`.

use kube::Client;

use super::find::{self, Found};
use super::{CliError, Namespaces};
use crate::api::annotation;
use crate::api::common::{Recommendation, RecommendationState};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Approve,
    Reject,
    Rollback,
}

impl Verdict {
    fn annotation(self) -> &'static str {
        match self {
            Verdict::Approve => annotation::APPROVE,
            Verdict::Reject => annotation::REJECT,
            Verdict::Rollback => annotation::ROLLBACK,
        }
    }

    fn done(self) -> &'static str {
        match self {
            Verdict::Approve => "approved",
            Verdict::Reject => "rejected",
            Verdict::Rollback => "rolled back",
        }
    }

    /// What a recommendation must be for this verdict to mean something; the operator checks again.
    fn applies_to(self, state: RecommendationState) -> bool {
        match self {
            Verdict::Approve | Verdict::Reject => state == RecommendationState::Proposed,
            Verdict::Rollback => matches!(state, RecommendationState::Applied | RecommendationState::Verified),
        }
    }
}

pub async fn run(client: Client, namespaces: &Namespaces, id: &str, verdict: Verdict) -> Result<String, CliError> {
    let found = find::recommendations(&client, namespaces).await?;
    let chosen = select(&found, id).ok_or_else(|| CliError::NoSuchRecommendation { id: id.to_owned(), place: namespaces.describe() })?;
    let state = chosen.recommendation.state;
    if state == RecommendationState::Expired {
        let newer = found.iter().map(|f| &f.recommendation).find(|r| replaces(r, &chosen.recommendation));
        let instead = newer.map_or("nothing is proposed now".to_owned(), |r| format!("proposed now is {}: {}", r.id, r.summary));
        return Err(CliError::Expired { id: id.to_owned(), instead });
    }
    if !verdict.applies_to(state) {
        return Err(CliError::WrongState { id: id.to_owned(), state: format!("{state:?}"), wanted: verdict.done() });
    }
    find::annotate(&client, chosen, verdict.annotation(), &chosen.recommendation.id).await?;
    let Found { kind, namespace, name, recommendation } = chosen;
    let target = &recommendation.target;
    let mut text = format!("{}/{name} in {namespace}: recommendation {} {}\n", kind.word(), recommendation.id, verdict.done());
    if verdict == Verdict::Approve {
        text.push_str(&format!(
            "The operator checks {}/{} again and then applies it; watch with:\n  kubectl spend recommendations -n {namespace}\n",
            target.kind, target.name
        ));
    }
    Ok(text)
}

/// True when `newer` is proposed for what `expired` was about.
fn replaces(newer: &Recommendation, expired: &Recommendation) -> bool {
    newer.state == RecommendationState::Proposed && (newer.kind, &newer.target) == (expired.kind, &expired.target)
}

/// The recommendation with that id; the same proposal can stand in two resources, and one that can still be decided wins.
fn select<'a>(found: &'a [Found], id: &str) -> Option<&'a Found> {
    let settled = |f: &&Found| f.recommendation.state != RecommendationState::Proposed;
    found.iter().filter(|f| f.recommendation.id == id).min_by_key(settled)
}
