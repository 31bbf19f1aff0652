//! What every adapter of the port must promise, one test a promise; and a model that random histories are checked against.

mod model;
pub mod promises;

use crate::core::amount::{Amount, Unit};
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::{Dimensions, Origin};
use crate::core::limit::{LimitKey, LimitTerms, Span};
use crate::core::money::PicoUsd;
use crate::core::policy::Protocol;
use crate::core::usage::Usage;
use crate::ledger::{Acquire, HolderId, LeaseId, Ledger};
use std::sync::Arc;

/// Where an adapter keeps a ledger, empty at first.
#[async_trait::async_trait]
pub trait Home: Sized + Send + Sync + 'static {
    async fn new() -> Self;
    /// The ledger that is there.
    async fn open(&self) -> Arc<dyn Ledger>;
}

/// A test for each promise, for the ledgers of a [`Home`]; `$attribute` is put on each.
macro_rules! keeps_promises {
    ($home:ty, $attribute:meta) => {
        $crate::ledger::conformance::keeps_promises!(@each $home, $attribute,
            what_was_answered_survives_a_crash,
            a_repeated_request_changes_nothing_and_gets_the_same_answer,
            a_lease_is_granted_under_all_of_its_limits_or_none,
            sixteen_holders_at_once_never_get_more_than_the_limit,
            an_overrun_is_charged_in_full,
            a_call_is_charged_to_the_window_in_which_it_was_admitted,
            a_clock_that_goes_back_opens_no_ended_window,
            a_rolling_window_forgets_only_what_is_older_than_all_of_it,
            open_calls_of_a_lost_holder_are_charged_as_reserved_and_the_rest_is_free,
            what_open_calls_have_reserved_cannot_be_given_back,
            nobody_draws_on_another_holders_lease,
            each_value_of_a_split_limit_stands_alone,
            what_is_reported_again_is_known_to_be_old,
            limits_that_only_warn_are_charged_without_a_lease,
            accounts_that_nobody_needs_are_forgotten_and_no_others,
            calls_add_up_exactly_by_their_dimensions,
            sums_over_any_stretch_are_those_of_its_calls,
            every_history_agrees_with_the_model_and_nothing_is_overspent);
    };
    (@each $home:ty, $attribute:meta, $($promise:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[$attribute]
            async fn $promise() {
                $crate::ledger::conformance::promises::$promise::<$home>().await;
            }
        )+
    };
}
pub(crate) use keeps_promises;

pub const DAY: Span = Span::Fixed { start_ms: 0, end_ms: 86_400_000 };

pub fn usd(pico: i128) -> Amount {
    Amount { usd: PicoUsd(pico), tokens: 0, requests: 0 }
}

pub fn limit(key: &str, amount: i128) -> LimitTerms {
    LimitTerms { key: LimitKey(key.into()), unit: Unit::Usd, limit: amount, span: DAY }
}

pub fn holder(name: &str) -> HolderId {
    HolderId(name.into())
}

pub fn acquire(lease: &str, seq: u64, limits: &[LimitTerms], min: i128, want: i128) -> Acquire {
    Acquire {
        lease: LeaseId(lease.into()),
        seq,
        holder: holder("pod"),
        limits: limits.to_vec(),
        min: usd(min),
        want: usd(want),
        now_ms: 1_000,
    }
}

pub fn record(id: &str, cost: i128, outcome: CallOutcome) -> Arc<CallRecord> {
    let origin = Origin { namespace: "shop".into(), workload: "Deployment/bot".into(), ..Origin::default() };
    let kind = CallKind::Model { protocol: Protocol::OpenAIChat };
    Arc::new(CallRecord {
        duration_ms: 5,
        route: "shop/models".into(),
        backend: "openai".into(),
        requested_model: "m".into(),
        model: "m".into(),
        usage: Usage { input: 10, output: 5, ..Usage::default() },
        cost: PicoUsd(cost),
        reserved: usd(cost),
        bytes: 100,
        outcome,
        status: 200,
        ..CallRecord::begun(CallId(id.into()), origin, Dimensions::default(), kind, 0)
    })
}
