//! A call to a model from its admission to the head of its answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Response};

use super::admit::Admitted;
use super::body::ProxyBody;
use super::config::{InForce, Snapshot};
use super::estimate::Estimates;
use super::forward::{self, Attempt};
use super::health::Health;
use super::refusal::{Refusal, RefusalLog};
use super::reserve::{self, Refused};
use super::route::{self, Plan};
use super::settle::Accounts;
use super::telemetry::Telemetry;
use super::upstream::Upstream;
use crate::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use crate::core::dimensions::Dimensions;
use crate::core::policy::Tier;
use crate::core::route::Choice;
use crate::llm::ErrorKind;

/// Of the model's name that a caller gives, whatever its length.
const RECORDED_CHARS: usize = 128;

/// What every call needs.
pub struct Sidecar {
    pub accounts: Arc<Accounts>,
    pub in_force: InForce,
    pub health: Health,
    pub refusal_log: RefusalLog,
    pub upstream: Upstream,
    pub settings: Settings,
    pub telemetry: Telemetry,
    pub estimates: Arc<Estimates>,
}

/// What the command line sets.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Callers' connections at once.
    pub max_connections: usize,
    /// Largest body of a request, in bytes.
    pub body_limit: usize,
    /// How long a request's body may take to arrive.
    pub request_timeout: Duration,
    /// Output cap of a call that sets none, in tokens, unless the model's own is lower.
    pub default_max_output: u64,
    /// How long a provider may take to begin its answer.
    pub answer_timeout: Duration,
    /// How long a provider may be silent within its answer.
    pub idle_timeout: Duration,
    /// How long an answer may take as a whole.
    pub total_timeout: Duration,
    /// How long an answer is read on after its caller hung up.
    pub drain_timeout: Duration,
}

impl Sidecar {
    fn healthy(&self) -> impl Fn(&str) -> bool {
        let now_ms = self.accounts.clock.monotonic_ms();
        move |backend| self.health.is_healthy(backend, now_ms)
    }
}

/// Makes a call. Once it is on its way it goes on to its end, even if the returned future is dropped.
pub async fn make(sidecar: Arc<Sidecar>, snapshot: Arc<Snapshot>, call: Admitted) -> Response<ProxyBody> {
    Steadfast::new(async move {
        let protocol = call.request.protocol();
        match answer(&sidecar, &snapshot, &call).await {
            Ok(response) => response,
            Err(refusal) => {
                // What was refused cost nothing. The metric counts all of them; a log line and a record for each of hundreds a
                // second would only fill disks, the ledger's among them.
                if let Some(unsaid) = sidecar.refusal_log.due(refusal.kind, sidecar.accounts.clock.monotonic_ms()) {
                    let (code, model) = (refusal.kind.code(), call.request.model());
                    tracing::info!(code, model, unsaid, "a call was refused: {}", refusal.message);
                    sidecar.accounts.record(refused(&snapshot, &call, refusal.kind.status()), refusal.unasked.clone());
                }
                tell_of_refusal(&snapshot, &call, refusal.kind);
                sidecar.accounts.metrics.refusals.with_label_values(&[refusal.kind.code()]).inc();
                refusal.into_response(protocol)
            }
        }
    })
    .await
}

/// Tries the chosen models in turn: the next when one fails, a cheaper tier when the budget is too small and says `Fit`.
async fn answer(sidecar: &Arc<Sidecar>, snapshot: &Arc<Snapshot>, call: &Admitted) -> Result<Response<ProxyBody>, Refusal> {
    let plan = route::plan(snapshot, call, sidecar.healthy())?;
    let mut candidates = VecDeque::from(plan.choice.candidates.clone());
    let mut failed = None;
    let mut first_refusal = None;
    let mut stepped_down = false;
    while let Some(candidate) = candidates.pop_front() {
        let outgoing = match plan.outgoing(&candidate) {
            Ok(outgoing) => outgoing,
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
                continue;
            }
        };
        match reserve::reserve(sidecar, snapshot, call, &plan, &candidate, &outgoing.request).await {
            Ok(reserved) => {
                let tier = plan.route.route.backends[candidate.backend].models[candidate.model].tier;
                let fit = fit_in_words(reserved.lowered, stepped_down.then_some(tier));
                match forward::attempt(sidecar, snapshot, call, &plan, &candidate, &outgoing, reserved).await {
                    Attempt::Answered(response) => return Ok(with_fit(response, fit)),
                    Attempt::Failed(response) => failed = Some(with_fit(response, fit)),
                }
            }
            // The provider's own error says more than that no second attempt can be paid for.
            Err(_) if failed.is_some() => break,
            Err(Refused { refusal, fit }) => {
                let tier = plan.route.route.backends[candidate.backend].models[candidate.model].tier;
                stepped_down |= fit;
                candidates = fit.then(|| cheaper(sidecar, &plan, tier)).flatten().unwrap_or_default();
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    match (failed, first_refusal) {
        (Some(response), _) => Ok(response),
        (None, Some(refusal)) => Err(refusal),
        (None, None) => unreachable!("a choice has a candidate, and each ends in an answer, a failure or a refusal"),
    }
}

/// What was done so that a call fits its budgets: `output-cap=512`, `tier=economy`, or both.
fn fit_in_words(lowered: Option<u64>, tier: Option<Tier>) -> Option<String> {
    let parts = [lowered.map(|cap| format!("output-cap={cap}")), tier.map(|tier| format!("tier={}", tier.name()))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn with_fit(mut response: Response<ProxyBody>, fit: Option<String>) -> Response<ProxyBody> {
    if let Some(Ok(fit)) = fit.map(|fit| HeaderValue::from_str(&fit)) {
        response.headers_mut().insert("x-spend-fit", fit);
    }
    response
}

fn cheaper(sidecar: &Sidecar, plan: &Plan<'_>, tier: Tier) -> Option<VecDeque<crate::core::route::Candidate>> {
    plan.below(tier, sidecar.healthy()).map(|Choice { candidates, .. }| candidates.into())
}

/// Tells the collector, if there is one, of a call that did not go upstream.
pub fn tell_of_refusal(snapshot: &Snapshot, call: &Admitted, kind: ErrorKind) {
    if let Some(trace) = &call.trace {
        trace.refused(&refused(snapshot, call, kind.status()), call.request.protocol(), kind);
    }
}

/// The record of a call that did not go upstream.
fn refused(snapshot: &Snapshot, call: &Admitted, status: u16) -> CallRecord {
    let mut record = blank(snapshot, call, CallKind::Model { protocol: call.request.protocol() });
    record.duration_ms = super::clock::elapsed_ms(call.started);
    (record.outcome, record.status) = (CallOutcome::Refused, status);
    record
}

/// What is known of a call before anything was chosen for it.
pub fn blank(snapshot: &Snapshot, call: &Admitted, kind: CallKind) -> CallRecord {
    CallRecord {
        requested_model: shortened(call.request.model()).into(),
        bytes: call.request.body().len() as u64,
        outcome: CallOutcome::Unknown,
        ..record_of(snapshot, call.dimensions.clone(), kind, call.started_at_ms)
    }
}

/// A model's name as far as it is recorded.
fn shortened(model: &str) -> &str {
    &model[..model.char_indices().nth(RECORDED_CHARS).map_or(model.len(), |(end, _)| end)]
}

/// The record of something that has only begun.
pub fn record_of(snapshot: &Snapshot, dimensions: Dimensions, kind: CallKind, started_at_ms: i64) -> CallRecord {
    CallRecord::begun(new_id(), snapshot.policy.origin.clone(), dimensions, kind, started_at_ms)
}

/// Version 7: ordered by time, which keeps the ledger's index compact.
pub fn new_id() -> CallId {
    let mut text = uuid::Uuid::encode_buffer();
    CallId((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text)).into())
}

/// A future that goes on by itself when whoever waits for it goes away: a caller that hangs up before the answer's head.
struct Steadfast<F>(Option<Pin<Box<F>>>)
where
    F: Future + Send + 'static,
    F::Output: Send;

impl<F> Steadfast<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn new(future: F) -> Steadfast<F> {
        Steadfast(Some(Box::pin(future)))
    }
}

impl<F> Future for Steadfast<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.0.as_mut().expect("a future is not polled after it is ready");
        let output = std::task::ready!(future.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<F> Drop for Steadfast<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        if let (Some(future), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Its answer has no reader any more; dropping it makes the body drain itself.
            runtime.spawn(async move { drop(future.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_to_fit_a_budget_is_said_in_one_header() {
        let said = |lowered, tier| fit_in_words(lowered, tier).unwrap_or_default();
        assert_eq!([said(None, None), said(Some(512), None)], ["", "output-cap=512"]);
        assert_eq!(
            [said(None, Some(Tier::Economy)), said(Some(16), Some(Tier::Standard))],
            ["tier=economy", "output-cap=16, tier=standard"]
        );
    }

    #[tokio::test]
    async fn a_call_goes_on_when_its_caller_is_gone() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (done, finished) = tokio::sync::oneshot::channel();
        let mut call = Box::pin(Steadfast::new(async move {
            let _ = gone.await;
            let _ = done.send("settled");
        }));
        assert!(futures::poll!(call.as_mut()).is_pending());
        drop(call);
        go.send(()).unwrap();
        assert_eq!(finished.await, Ok("settled"));
    }
}
