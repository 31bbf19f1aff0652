//! Setting a call's worst case aside, in every budget that matches it, before a byte goes upstream.

use std::sync::Arc;

use super::admit::Admitted;
use super::call::Sidecar;
use super::config::Snapshot;
use super::credential::{can_be_passed_on, not_passed_on};
use super::estimate::Lesson;
use super::leases;
use super::refusal::Refusal;
use super::route::Plan;
use super::settle::Reservation;
use crate::core::amount::{Amount, Unit};
use crate::core::budget::Applicable;
use crate::core::cel::CallFacts;
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::policy::{Backend, Model, ReservationMode, UnpricedModels};
use crate::core::route::Candidate;
use crate::core::tariff::{AskedTier, CostBound, Tariff};
use crate::core::usage::Usage;
use crate::llm::{ErrorKind, Request, words};

/// A call whose answer is cut shorter than this is not worth making.
const LEAST_OUTPUT: u64 = 16;
/// How often an output cap is lowered to what is left, while others draw on the same budget.
const FITTINGS: usize = 3;

/// A call's worst case with one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// `bound.output` is the cap of every choice.
    pub bound: CostBound,
    /// Cap of one choice.
    pub cap: u64,
    pub choices: u64,
    /// True when the request takes another cap.
    pub takes_cap: bool,
    /// True when the model reads its input once, so that its size is known when the provider first says it.
    pub one_pass: bool,
    /// `None` when the model has no price.
    pub tariff: Option<Arc<Tariff>>,
}

impl WorstCase {
    /// Every token of the bound, counted once.
    pub fn usage(&self) -> Usage {
        Usage { input: self.bound.input, output: self.bound.output, web_searches: self.bound.web_searches, ..Usage::default() }
    }

    pub fn amount(&self) -> Amount {
        let usd = self.tariff.as_ref().map(|tariff| tariff.worst_case(&self.bound)).unwrap_or_default();
        Amount { usd, tokens: tokens(self.bound.input.saturating_add(self.bound.output)), requests: 1 }
    }

    /// What it still may cost once the provider has said what the input was; `None` when there may be more input to come.
    pub fn amount_after(&self, input: &Usage) -> Option<Amount> {
        let usd = self.tariff.as_ref().map(|tariff| tariff.worst_case_after(input, &self.bound)).unwrap_or_default();
        let amount = Amount { usd, tokens: tokens(input.total_input().saturating_add(self.bound.output)), requests: 1 };
        self.one_pass.then_some(amount)
    }

    /// With a closer bound on its input, if that is one.
    fn with_input(&self, input: u64) -> WorstCase {
        WorstCase { bound: CostBound { input: self.bound.input.min(input), ..self.bound }, ..self.clone() }
    }

    fn with_cap(&self, cap: u64) -> WorstCase {
        WorstCase { cap, bound: CostBound { output: cap.saturating_mul(self.choices), ..self.bound }, ..self.clone() }
    }

    /// The largest cap that fits into what is left; `None` when not even [`LEAST_OUTPUT`] does.
    fn fitted(&self, shortfalls: &[Shortfall]) -> Option<WorstCase> {
        let mut cap = self.cap.checked_sub(1).filter(|_| self.takes_cap)?;
        for shortfall in shortfalls {
            let (fixed, each) = match shortfall.unit {
                Unit::Usd => {
                    let tariff = self.tariff.as_ref()?;
                    (tariff.worst_case(&CostBound { output: 0, ..self.bound }).0, tariff.highest_output(&self.bound).0)
                }
                Unit::Tokens => (self.bound.input.into(), 1),
                // A call counts as one however short it is.
                Unit::Requests => return None,
            };
            let left = shortfall.left.checked_sub(fixed).filter(|left| *left > 0)?;
            // Without a price for output a smaller cap saves nothing.
            let affordable = left.checked_div(each.saturating_mul(self.choices.into()))?;
            cap = cap.min(u64::try_from(affordable).unwrap_or(u64::MAX));
        }
        (cap >= LEAST_OUTPUT).then(|| self.with_cap(cap))
    }
}

fn tokens(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A call that may be made.
pub struct Reserved {
    pub reservation: Reservation,
    pub worst: WorstCase,
    /// The limits that it was drawn under.
    pub limits: Vec<LimitKey>,
    /// The output cap, where it was lowered to what is left.
    pub lowered: Option<u64>,
    /// What its figures teach, where its budgets want that.
    pub lesson: Option<Lesson>,
}

/// A call that may not be made with this model.
pub struct Refused {
    pub refusal: Refusal,
    /// Every budget that has too little left says `Fit`: a cheaper model may be tried.
    pub fit: bool,
}

/// Reserves a call's worst case with a candidate.
///
/// # Errors
/// When a budget has too little left, or the ledger cannot say, or the model has no price, or its backend no credential.
pub async fn reserve(
    sidecar: &Sidecar,
    snapshot: &Snapshot,
    call: &Admitted,
    plan: &Plan<'_>,
    candidate: &Candidate,
    request: &Request,
) -> Result<Reserved, Refused> {
    let backend = &plan.route.route.backends[candidate.backend];
    let model = &backend.models[candidate.model];
    if backend.has_credential && plan.route.backends[candidate.backend].credential.is_none() {
        // The app's own key is a placeholder: the provider would refuse it with words that help nobody.
        let message = format!(
            "the credential of backend {} of ModelRoute {} is not there; make the Secret that its spec.backends[].credentials names, with that key",
            backend.name, plan.route.route.key
        );
        return Err(Refused { refusal: Refusal::passing(ErrorKind::NoCredential, message), fit: false });
    }
    if plan.route.backends[candidate.backend].credential.is_none() && !can_be_passed_on(&call.headers) {
        return Err(Refused { refusal: Refusal::new(ErrorKind::InvalidRequest, not_passed_on(&backend.name)), fit: false });
    }
    let facts = CallFacts {
        origin: &snapshot.policy.origin,
        dimensions: &call.dimensions,
        model: &model.name,
        backend: &backend.name,
        tier: Some(model.tier),
    };
    let budgets = snapshot.budgets.applicable(&facts);
    check_price(&budgets, request, &model.name, candidate)?;
    let cap = match request.max_output() {
        None if request.takes_cap() => candidate.output_limit.min(sidecar.settings.default_max_output),
        _ => candidate.output_limit,
    };
    let tier = match (request.tier(), backend.service_tier) {
        (AskedTier::Unsaid, Some(tier)) => AskedTier::Said(tier),
        (asked, _) => asked,
    };
    let bound = CostBound {
        input: request.billable_input(model.context_window),
        output: 0,
        media: request.has_media(),
        web_searches: request.web_searches(),
        tier,
        cache: request.cache_writes(),
        regional: plan.route.backends[candidate.backend].may_be_regional,
    };
    let one_pass = request.reads_input_once();
    let (choices, takes_cap) = (request.choices(), request.takes_cap());
    let worst = WorstCase { bound, cap: 0, choices, takes_cap, one_pass, tariff: candidate.tariff.clone() }.with_cap(cap);
    let wants_lesson = budgets.reservation == ReservationMode::Calibrated && !budgets.leased.is_empty();
    let shape = wants_lesson.then(|| request.shape()).flatten();
    let lesson = shape.map(|shape| Lesson::new(&sidecar.estimates, &plan.route.backends[candidate.backend].id, &model.name, shape));
    let closer = || closer_input(backend, model, request, lesson.as_ref().and_then(Lesson::estimate));
    let reserved = draw(sidecar, snapshot, budgets, worst, closer).await?;
    Ok(Reserved { lesson, ..reserved })
}

/// Input tokens at most by the closest bound that there is: by words where the tokenizer is public, and what was learnt.
fn closer_input(backend: &Backend, model: &Model, request: &Request, estimate: Option<u64>) -> u64 {
    let is_public = words::are_tokens_of(backend.provider, &backend.endpoint, model.priced_as());
    let sound = if is_public { request.billable_by_words(model.context_window) } else { request.billable_input(model.context_window) };
    estimate.map_or(sound, |estimate| estimate.min(sound))
}

/// Draws a call's worst case, under a bound of its input that is closer than the cheap one if what is held here does not cover that.
async fn draw(
    sidecar: &Sidecar,
    snapshot: &Snapshot,
    budgets: Applicable,
    mut worst: WorstCase,
    closer: impl FnOnce() -> u64,
) -> Result<Reserved, Refused> {
    let asked = worst.cap;
    let reserved = |worst: WorstCase, limits, lease, unleased| Reserved {
        lowered: Some(worst.cap).filter(|cap| *cap < asked),
        reservation: Reservation::new(Arc::clone(&sidecar.accounts), worst.amount(), lease, unleased),
        worst,
        limits,
        lesson: None,
    };
    if budgets.leased.is_empty() {
        return Ok(reserved(worst, Vec::new(), None, budgets.warned));
    }
    if !sidecar.accounts.leases.free(&budgets.leased).covers(&worst.amount()) {
        worst = worst.with_input(closer());
    }
    let mut fittings = 0;
    loop {
        match sidecar.accounts.leases.draw(&budgets.leased, worst.amount()).await {
            Ok(lease) => return Ok(reserved(worst, budgets.leased, Some(lease), budgets.warned)),
            Err(leases::Denied::Unavailable(reason)) if budgets.fail_open => {
                tracing::warn!(%reason, "the ledger is away and every budget fails open: the call goes on and is charged later");
                sidecar.accounts.metrics.unleased.inc();
                return Ok(reserved(worst, Vec::new(), None, [budgets.leased, budgets.warned].concat()));
            }
            Err(leases::Denied::Unavailable(reason)) => {
                let message = format!("the ledger cannot be reached ({reason}), and a budget of this call fails closed; try again shortly");
                let refusal = Refusal { unasked: budgets.leased, ..Refusal::passing(ErrorKind::LedgerUnavailable, message) };
                return Err(Refused { refusal, fit: false });
            }
            Err(leases::Denied::Short(shortfalls)) => {
                fittings += 1;
                let may_shrink = budgets.may_shrink(&shortfalls);
                match worst.fitted(&shortfalls).filter(|_| may_shrink && fittings <= FITTINGS) {
                    Some(fitted) => worst = fitted,
                    None => {
                        let now_ms = sidecar.accounts.clock.unix_ms();
                        let refusal = Refusal::over_budget(snapshot, &shortfalls, worst.amount(), now_ms);
                        return Err(Refused { refusal, fit: may_shrink });
                    }
                }
            }
        }
    }
}

/// What has no price cannot be held to a budget, unless the budget says so.
fn check_price(budgets: &Applicable, request: &Request, model: &str, candidate: &Candidate) -> Result<(), Refused> {
    if budgets.leased.is_empty() || budgets.unpriced == UnpricedModels::Allow {
        return Ok(());
    }
    let refused = |message: String| Err(Refused { refusal: Refusal::new(ErrorKind::Unpriced, message), fit: false });
    let Some(tariff) = &candidate.tariff else {
        return refused(format!(
            "model {model:?} has no price, so no budget can be kept with it; give it one in the ModelRoute's \
             spec.backends[].models[].price, or set unpricedModels: Allow in the AIBudget"
        ));
    };
    let searches = (request.web_searches() > 0 && tariff.web_search.is_none()).then_some("web search");
    let unpriced: Vec<&str> = request.surcharges().iter().map(String::as_str).chain(searches).collect();
    if unpriced.is_empty() {
        return Ok(());
    }
    refused(format!(
        "{} is billed beyond the call's tokens, and nothing bounds its cost here; leave it out, limit its uses where it has such a limit, \
         or set unpricedModels: Allow in the AIBudget",
        unpriced.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::limit::LimitKey;
    use crate::core::money::PicoUsd;
    use crate::core::policy::{Protocol, Provider, Tier};
    use crate::core::tariff::{CacheWrites, Rates, ServiceTier};
    use crate::llm::{Addressed, parse};

    fn worst(cap: u64, choices: u64) -> WorstCase {
        let rates = Rates { cache_write: PicoUsd(3), ..Rates::plain(PicoUsd(2), PicoUsd(10)) };
        let bound = CostBound {
            input: 100,
            output: 0,
            media: false,
            web_searches: 0,
            tier: AskedTier::Said(ServiceTier::Standard),
            cache: CacheWrites::Any,
            regional: false,
        };
        WorstCase { bound, cap, choices, takes_cap: true, one_pass: true, tariff: Some(Arc::new(Tariff::flat(rates))) }.with_cap(cap)
    }

    fn short(unit: Unit, left: i128) -> Shortfall {
        Shortfall { key: LimitKey("a/b/c".into()), unit, left, idle: 0, resets_at_ms: None }
    }

    #[test]
    fn the_worst_case_takes_the_dearest_input_and_the_cap_of_every_choice() {
        let amount = worst(50, 2).amount();
        assert_eq!((amount.usd.0, amount.tokens, amount.requests), (300 + 1_000, 200, 1));
    }

    #[test]
    fn a_closer_bound_lowers_the_input_and_nothing_else() {
        let worst = worst(50, 2);
        assert_eq!(worst.with_input(40), WorstCase { bound: CostBound { input: 40, ..worst.bound }, ..worst.clone() });
        assert_eq!(worst.with_input(u64::MAX), worst);
    }

    #[test]
    fn words_count_where_the_tokenizer_is_public_and_an_estimate_only_where_it_is_lower() {
        let model = Model {
            name: "gpt-5".into(),
            tier: Tier::Standard,
            capabilities: Default::default(),
            context_window: 400_000,
            max_output: 1_000,
            base_model: None,
            residency: String::new(),
        };
        let backend = |endpoint: &str| Backend {
            name: "b".into(),
            provider: Provider::OpenAI,
            service_tier: None,
            endpoint: endpoint.to_owned(),
            has_credential: false,
            models: Vec::new(),
        };
        let text = "When was the report about the new market sent to the board? ".repeat(20);
        let body = serde_json::json!({ "model": "gpt-5", "messages": [{ "role": "user", "content": text }] });
        let request = parse(Addressed::plain(Protocol::OpenAIChat), body.to_string().into()).unwrap();
        let closer = |endpoint, estimate| closer_input(&backend(endpoint), &model, &request, estimate);
        let (bytes, words) = (request.billable_input(400_000), request.billable_by_words(400_000));
        assert!(words * 3 < bytes, "{words} of {bytes}");
        assert_eq!([closer("https://api.openai.com", None), closer("http://vllm:8000", None)], [words, bytes]);
        assert_eq!([closer("https://api.openai.com", Some(9)), closer("https://api.openai.com", Some(bytes))], [9, words]);
    }

    #[test]
    fn a_cap_is_lowered_to_what_is_left_but_not_below_what_is_worth_a_call() {
        let fitted = |shortfalls: &[Shortfall]| worst(1_000, 2).fitted(shortfalls).map(|w| w.cap);
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 100)]), Some(100));
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 100), short(Unit::Tokens, 100 + 2 * 50)]), Some(50));
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 15)]), None);
        assert_eq!(fitted(&[short(Unit::Usd, -5)]), None);
        assert_eq!(fitted(&[short(Unit::Requests, 0)]), None);
        let uncapped = WorstCase { takes_cap: false, ..worst(1_000, 2) };
        assert_eq!(uncapped.fitted(&[short(Unit::Usd, 300 + 20 * 100)]), None);
    }

    proptest! {
        #[test]
        fn what_was_fitted_fits(left in -10i128..1_000_000, cap in 1u64..100_000, choices in 1u64..5) {
            if let Some(fitted) = worst(cap, choices).fitted(&[short(Unit::Usd, left)]) {
                prop_assert!(fitted.amount().usd.0 <= left);
                prop_assert!(fitted.cap < cap && fitted.cap >= LEAST_OUTPUT);
            }
        }
    }
}
