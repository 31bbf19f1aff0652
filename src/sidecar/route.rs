//! Choosing who answers: the first route that knows the model is asked, by the rules of [`core::route`](crate::core::route).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::admit::Admitted;
use super::call::new_id;
use super::config::{ReadyRoute, Snapshot};
use super::refusal::Refusal;
use crate::core::call::Classification;
use crate::core::classify::classify;
use crate::core::policy::{Backend, Capability, Protocol, Tier};
use crate::core::route::{Ask, Candidate, Choice, RouteError, choose, choose_below};
use crate::llm::translate::{self, AnswerId, Translation};
use crate::llm::{ErrorKind, Request};

/// Who answers a call, and who stands by.
pub struct Plan<'a> {
    pub route: &'a ReadyRoute,
    pub classification: Classification,
    pub choice: Choice,
    call: &'a Admitted,
    snapshot: &'a Snapshot,
    /// What the call needs of a model.
    required: &'a BTreeSet<Capability>,
    /// Formats that the call cannot be translated into, and why.
    untranslatable: BTreeMap<Protocol, String>,
}

/// A call as it goes to a provider.
pub struct Outgoing<'a> {
    pub request: Cow<'a, Request>,
    /// How its answer becomes one of the caller's format; `None` where the provider speaks that itself.
    pub translation: Option<Translation>,
}

/// Plans a call. `healthy` is asked by `namespace/route/backend`.
///
/// # Errors
/// When no route offers the model, or none of its models may answer.
pub fn plan<'a>(snapshot: &'a Snapshot, call: &'a Admitted, healthy: impl Fn(&str) -> bool) -> Result<Plan<'a>, Refusal> {
    let (mut unknown, prompt) = (None, call.request.prompt());
    for route in &snapshot.routes {
        let classification = classify(&prompt, route.route.complexity, &route.detectors);
        let (required, untranslatable) = (call.request.required(), obstacles(route, &call.request));
        let ask = ask(call, &classification, required, &untranslatable);
        match choose(&route.route, &ask, &snapshot.catalogue, |b| healthy(&id(route, b))) {
            Ok(choice) => return Ok(Plan { route, classification, choice, call, snapshot, required, untranslatable }),
            Err(error @ (RouteError::UnknownModel { .. } | RouteError::OtherProtocol { .. })) => {
                // Of several routes that lack the model, one that has it over another protocol says more.
                if unknown.is_none() || matches!(error, RouteError::OtherProtocol { .. }) {
                    unknown = Some(error);
                }
            }
            Err(error) => return Err(refusal(&error)),
        }
    }
    Err(match unknown {
        Some(_) if snapshot.routes.len() > 1 => nobody_offers(snapshot, call),
        Some(error) => refusal(&error),
        None => Refusal::new(ErrorKind::NoRoute, "no ModelRoute selects this pod, so no model can be called; create one in this namespace"),
    })
}

impl Plan<'_> {
    /// Who else could answer when the budget cannot pay for `tier`.
    pub fn below(&self, tier: Tier, healthy: impl Fn(&str) -> bool) -> Option<Choice> {
        let ask = ask(self.call, &self.classification, self.required, &self.untranslatable);
        choose_below(&self.route.route, &ask, &self.snapshot.catalogue, |b| healthy(&id(self.route, b)), tier).ok()
    }

    /// The call in the format that a candidate takes.
    ///
    /// # Errors
    /// When it cannot be translated.
    pub fn outgoing(&self, candidate: &Candidate) -> Result<Outgoing<'_>, Refusal> {
        let (asked, provider) = (self.call.request.protocol(), self.route.route.backends[candidate.backend].provider);
        let upstream = provider.upstream_format(asked).unwrap_or(asked);
        if upstream == asked {
            return Ok(Outgoing { request: Cow::Borrowed(&self.call.request), translation: None });
        }
        let answer = AnswerId { id: new_id().0.to_string(), unix_s: self.call.started_at_ms.div_euclid(1_000) };
        let (translation, request) = translate::request(&self.call.request, upstream, answer).map_err(|error| {
            let error = RouteError::Untranslatable {
                route: self.route.key().to_string(),
                asked: self.call.request.model().to_owned(),
                protocol: asked,
                what: error.to_string(),
            };
            refusal(&error)
        })?;
        Ok(Outgoing { request: Cow::Owned(request), translation: Some(translation) })
    }
}

/// What is in the way of translations that the call may need. A model that is offered in the caller's own format needs none, and
/// should it fail, a fallback that cannot take the call is passed over then.
fn obstacles(route: &ReadyRoute, request: &Request) -> BTreeMap<Protocol, String> {
    let asked = request.protocol();
    let has_it = |backend: &&Backend| backend.models.iter().any(|model| *model.name == *request.model());
    let native = |backend: &Backend| backend.provider.upstream_format(asked) == Some(asked);
    if route.route.backends.iter().filter(has_it).any(native) {
        return BTreeMap::new();
    }
    let formats =
        route.route.backends.iter().filter_map(|backend| backend.provider.upstream_format(asked)).filter(|format| *format != asked);
    let formats: BTreeSet<Protocol> = formats.collect();
    formats
        .into_iter()
        .filter_map(|format| Some((format, translate::request(request, format, AnswerId::default()).err()?.to_string())))
        .collect()
}

fn ask<'a>(
    call: &'a Admitted,
    classification: &'a Classification,
    required: &'a BTreeSet<Capability>,
    untranslatable: &'a BTreeMap<Protocol, String>,
) -> Ask<'a> {
    Ask {
        protocol: call.request.protocol(),
        requested_model: call.request.model(),
        dimensions: &call.dimensions,
        classification,
        required,
        input_bound: call.request.input_bound(),
        output_cap: call.request.max_output(),
        untranslatable,
    }
}

fn id(route: &ReadyRoute, backend: &str) -> String {
    format!("{}/{backend}", route.key())
}

fn refusal(error: &RouteError) -> Refusal {
    let kind = match error {
        RouteError::Sensitive { .. } => ErrorKind::Sensitive,
        RouteError::NotCapable { .. } => ErrorKind::InvalidRequest,
        RouteError::Untranslatable { .. } => ErrorKind::Untranslatable,
        _ => ErrorKind::NoRoute,
    };
    Refusal::new(kind, error.to_string())
}

fn nobody_offers(snapshot: &Snapshot, call: &Admitted) -> Refusal {
    let offered: Vec<String> = offered(snapshot, call.request.protocol()).into_iter().map(|o| o.name).collect();
    let message = format!(
        "no ModelRoute of this pod offers {:?} over {}; ask for one of {}",
        call.request.model(),
        call.request.protocol().path(),
        offered.join(", ")
    );
    Refusal::new(ErrorKind::NoRoute, message)
}

/// A name that callers may ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offered {
    pub name: String,
    /// The backend, or the route of an alias.
    pub owner: String,
}

/// Every name that may be asked for over a protocol, each once.
pub fn offered(snapshot: &Snapshot, protocol: Protocol) -> Vec<Offered> {
    let mut all = Vec::new();
    for route in snapshot.routes.iter().map(|r| &r.route) {
        let speaks: Vec<_> = route.backends.iter().filter(|b| b.provider.upstream_format(protocol).is_some()).collect();
        for backend in &speaks {
            all.extend(backend.models.iter().map(|m| Offered { name: m.name.to_string(), owner: backend.name.to_string() }));
        }
        if !speaks.is_empty() {
            all.extend(route.aliases.keys().map(|alias| Offered { name: alias.clone(), owner: route.key.to_string() }));
        }
    }
    all.sort();
    all.dedup_by(|a, b| a.name == b.name);
    all
}
