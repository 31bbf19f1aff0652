//! Setting a call's worst case aside, in every budget that matches it, before a byte goes upstream.

use std::sync::Arc;

use super::admit::Admitted;
use super::call::Sidecar;
use super::config::Snapshot;
use super::leases;
use super::refusal::Refusal;
use super::route::Plan;
use super::settle::Reservation;
use crate::core::amount::{Amount, Unit};
use crate::core::budget::Applicable;
use crate::core::cel::CallFacts;
use crate::core::limit::{LimitKey, Shortfall};
use crate::core::policy::UnpricedModels;
use crate::core::price::Rates;
use crate::core::route::Candidate;
use crate::core::usage::Usage;
use crate::llm::ErrorKind;

/// A call whose answer is cut shorter than this is not worth making.
const LEAST_OUTPUT: u64 = 16;
/// How often an output cap is lowered to what is left, while others draw on the same budget.
const FITTINGS: usize = 3;

/// A call's worst case with one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    pub input: u64,
    /// Cap of one choice.
    pub cap: u64,
    pub choices: u64,
    /// `None` when the model has no price.
    pub rates: Option<Rates>,
}

impl WorstCase {
    /// Every token of the bound, counted once.
    pub fn usage(&self) -> Usage {
        Usage { input: self.input, output: self.output(), ..Usage::default() }
    }

    pub fn amount(&self) -> Amount {
        let usd = self.rates.map(|rates| rates.worst_case(self.input, self.output())).unwrap_or_default();
        Amount { usd, tokens: i64::try_from(self.usage().total()).unwrap_or(i64::MAX), requests: 1 }
    }

    fn output(&self) -> u64 {
        self.cap.saturating_mul(self.choices)
    }

    /// The largest cap that fits into what is left; `None` when not even [`LEAST_OUTPUT`] does.
    fn fitted(&self, shortfalls: &[Shortfall]) -> Option<WorstCase> {
        let mut cap = self.cap.checked_sub(1)?;
        for shortfall in shortfalls {
            let (fixed, each) = match shortfall.unit {
                Unit::Usd => (self.rates?.worst_case(self.input, 0).0, self.rates?.output.0),
                Unit::Tokens => (self.input.into(), 1),
                // A call counts as one however short it is.
                Unit::Requests => return None,
            };
            let left = shortfall.left.checked_sub(fixed).filter(|left| *left > 0)?;
            // Without a price for output a smaller cap saves nothing.
            let affordable = left.checked_div(each.saturating_mul(self.choices.into()))?;
            cap = cap.min(u64::try_from(affordable).unwrap_or(u64::MAX));
        }
        (cap >= LEAST_OUTPUT).then_some(WorstCase { cap, ..*self })
    }
}

/// A call that may be made.
pub struct Reserved {
    pub reservation: Reservation,
    pub worst: WorstCase,
    /// The limits that it was drawn under.
    pub limits: Vec<LimitKey>,
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
    let facts = CallFacts {
        origin: &snapshot.policy.origin,
        dimensions: &call.dimensions,
        model: &model.name,
        backend: &backend.name,
        tier: Some(model.tier),
    };
    let budgets = snapshot.budgets.applicable(&facts);
    check_price(&budgets, call, &model.name, candidate)?;
    let cap = match call.request.max_output() {
        Some(_) => candidate.output_limit,
        None => candidate.output_limit.min(sidecar.settings.default_max_output),
    };
    let worst = WorstCase { input: call.request.input_bound(), cap, choices: call.request.choices(), rates: candidate.rates };
    draw(sidecar, snapshot, budgets, worst).await
}

async fn draw(sidecar: &Sidecar, snapshot: &Snapshot, budgets: Applicable, mut worst: WorstCase) -> Result<Reserved, Refused> {
    let reserved = |worst: WorstCase, limits, lease, unleased| Reserved {
        reservation: Reservation::new(Arc::clone(&sidecar.accounts), worst.amount(), lease, unleased),
        worst,
        limits,
    };
    if budgets.leased.is_empty() {
        return Ok(reserved(worst, Vec::new(), None, budgets.warned));
    }
    let mut fittings = 0;
    loop {
        match sidecar.accounts.leases.draw(&budgets.leased, worst.amount()).await {
            Ok(lease) => return Ok(reserved(worst, budgets.leased, Some(lease), budgets.warned)),
            Err(leases::Denied::Unavailable(reason)) if budgets.fail_open => {
                tracing::warn!(%reason, "the ledger is away and every budget fails open: the call goes on and is charged later");
                return Ok(reserved(worst, Vec::new(), None, [budgets.leased, budgets.warned].concat()));
            }
            Err(leases::Denied::Unavailable(reason)) => {
                let message = format!("the ledger cannot be reached ({reason}), and a budget of this call fails closed; try again shortly");
                return Err(Refused { refusal: Refusal::passing(ErrorKind::LedgerUnavailable, message), fit: false });
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
fn check_price(budgets: &Applicable, call: &Admitted, model: &str, candidate: &Candidate) -> Result<(), Refused> {
    if budgets.leased.is_empty() || budgets.unpriced == UnpricedModels::Allow {
        return Ok(());
    }
    let refused = |message: String| Err(Refused { refusal: Refusal::new(ErrorKind::Unpriced, message), fit: false });
    if candidate.rates.is_none() {
        return refused(format!(
            "model {model:?} has no price, so no budget can be kept with it; give it one in the ModelRoute's \
             spec.backends[].models[].price, or set unpricedModels: Allow in the AIBudget"
        ));
    }
    match call.request.surcharges() {
        [] => Ok(()),
        surcharges => refused(format!(
            "{} is billed beyond the tokens at list price, and has no price here; leave it out, or set unpricedModels: Allow in \
             the AIBudget",
            surcharges.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::limit::LimitKey;
    use crate::core::money::PicoUsd;

    fn worst(cap: u64, choices: u64) -> WorstCase {
        let price = PicoUsd(2);
        let rates = Rates { input: price, cached_read: price, cache_write: PicoUsd(3), cache_write_long: price, output: PicoUsd(10) };
        WorstCase { input: 100, cap, choices, rates: Some(rates) }
    }

    fn short(unit: Unit, left: i128) -> Shortfall {
        Shortfall { key: LimitKey("a/b/c".into()), unit, left, resets_at_ms: None }
    }

    #[test]
    fn the_worst_case_takes_the_dearest_input_and_the_cap_of_every_choice() {
        let amount = worst(50, 2).amount();
        assert_eq!((amount.usd.0, amount.tokens, amount.requests), (300 + 1_000, 200, 1));
    }

    #[test]
    fn a_cap_is_lowered_to_what_is_left_but_not_below_what_is_worth_a_call() {
        let fitted = |shortfalls: &[Shortfall]| worst(1_000, 2).fitted(shortfalls).map(|w| w.cap);
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 100)]), Some(100));
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 100), short(Unit::Tokens, 100 + 2 * 50)]), Some(50));
        assert_eq!(fitted(&[short(Unit::Usd, 300 + 20 * 15)]), None);
        assert_eq!(fitted(&[short(Unit::Usd, -5)]), None);
        assert_eq!(fitted(&[short(Unit::Requests, 0)]), None);
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
