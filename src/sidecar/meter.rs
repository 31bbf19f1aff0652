//! Reading what an answer used, by the provider's own figures, while it passes to the caller.
//!
//! A streamed answer goes through chunk by chunk; when its caller hangs up, the rest is read on without it, so that the
//! call is charged for what was generated. An answer in one piece is read whole before its head goes out, so that the
//! head can say what it cost.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::alarm::Alarm;
use super::body::{BodyError, ProxyBody};
use super::config::Snapshot;
use super::estimate::Lesson;
use super::forward::Head;
use super::refusal::Refusal;
use super::reserve::WorstCase;
use super::route::Outgoing;
use super::settle::{Ending, OpenCall};
use super::upstream::Answer;
use crate::core::call::CallOutcome;
use crate::core::money::PicoUsd;
use crate::core::policy::Protocol;
use crate::core::tariff::{AskedTier, Billing, ServiceTier};
use crate::core::usage::Usage;
use crate::llm::translate::Translation;
use crate::llm::{ErrorKind, Framing, ReportedUsage, StreamEnd, StreamMeter, usage_of_body, usage_of_headers};

/// The largest answer in one piece.
const WHOLE_LIMIT: usize = 64 << 20;

/// Room that is made for an answer because its provider says that it is so long.
const TRUSTED: usize = 256 << 10;

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two pieces of it.
    pub idle: Duration,
    /// For all of it.
    pub total: Duration,
    /// For the rest of it after its caller hung up.
    pub drain: Duration,
}

/// How an answer is read, priced and given to its caller.
pub struct Metering {
    pub patience: Patience,
    snapshot: Arc<Snapshot>,
    /// The provider's format.
    protocol: Protocol,
    translation: Option<Translation>,
    worst: WorstCase,
    /// What can be learnt from the provider's figures, where a budget wants that.
    lesson: Option<Lesson>,
    /// Calls cost a region's uplift unless the provider says otherwise.
    regional: bool,
    status: u16,
}

impl Metering {
    pub fn new(
        snapshot: &Arc<Snapshot>,
        outgoing: &Outgoing<'_>,
        (worst, lesson): (WorstCase, Option<Lesson>),
        regional: bool,
        (status, patience): (StatusCode, Patience),
    ) -> Metering {
        Metering {
            patience,
            snapshot: Arc::clone(snapshot),
            protocol: outgoing.request.protocol(),
            translation: outgoing.translation.clone(),
            worst,
            lesson,
            regional,
            status: status.as_u16(),
        }
    }

    /// The format of the caller.
    fn asked(&self) -> Protocol {
        self.translation.as_ref().map_or(self.protocol, |translation| translation.asked)
    }

    /// An end with figures, from which the calls to come may learn.
    fn completed(&self, reported: &ReportedUsage) -> Ending {
        if let Some(lesson) = &self.lesson {
            lesson.learn(reported.usage.total_input());
        }
        let mut reported = reported.clone();
        if self.protocol == Protocol::OpenAIChat {
            // Its answers do not count searches; a search model makes the one that it was asked for.
            reported.usage.web_searches = reported.usage.web_searches.max(self.worst.bound.web_searches);
        }
        let beyond = reported.beyond.iter().map(|beyond| &beyond.usage);
        let usage = beyond.fold(reported.usage, |sum, more| sum.saturating_add(more));
        Ending::completed(self.status, usage, self.cost(&reported))
    }

    /// What the provider will bill. A tier that it does not name is the one that was asked for, and a model without a price of its own
    /// costs what the one that was called does. Without any price a call costs nothing: its budget lets it through.
    /// Nor does it on capacity that was bought ahead.
    fn cost(&self, reported: &ReportedUsage) -> PicoUsd {
        let Some(tariff) = self.worst.tariff.as_ref().filter(|_| !reported.prepaid) else { return PicoUsd::ZERO };
        let asked = match self.worst.bound.tier {
            AskedTier::Said(tier) => tier,
            AskedTier::Unsaid => ServiceTier::Standard,
        };
        let billing = Billing { tier: reported.tier.unwrap_or(asked), regional: reported.regional.unwrap_or(self.regional) };
        let price_of = |model: Option<&String>| self.snapshot.catalogue.latest(model?).map(|price| &price.tariff);
        let beyond = reported.beyond.iter().map(|b| price_of(b.model.as_ref()).unwrap_or(tariff).cost(&b.usage, billing));
        tariff.cost(&reported.usage, billing) + beyond.sum()
    }

    /// What a stream's end means. Figures count only if they are final: at the format's end, or where the format says so.
    fn ending(&self, end: &StreamEnd) -> Ending {
        match &end.reported {
            Some(reported) if end.complete && !end.failed => self.completed(reported),
            Some(reported) => Ending { outcome: CallOutcome::Interrupted, ..self.completed(reported) },
            None if end.complete && !end.failed => Ending::as_reserved(CallOutcome::Unknown, self.status),
            None => Ending::as_reserved(CallOutcome::Interrupted, self.status),
        }
    }
}

/// The body of an answer in one piece, or why there is none.
pub type Whole = Result<Bytes, String>;

/// An error of the provider's, which it does not charge.
pub fn error_answer(open: OpenCall, mut head: Head, body: Whole, metering: &Metering) -> Response<ProxyBody> {
    open.settle(Ending::failed(metering.status));
    match (body, &metering.translation) {
        (Ok(body), None) => head.with(ProxyBody::whole(body)),
        (Ok(body), Some(translation)) => {
            head.is_json();
            head.with(ProxyBody::whole(translation.error(metering.status, &body)))
        }
        (Err(reason), _) => broken_off(metering.asked(), &reason),
    }
}

/// An answer in one piece.
pub fn whole_answer(open: OpenCall, mut head: Head, body: Whole, metering: &Metering) -> Response<ProxyBody> {
    let body = match body {
        Ok(body) => body,
        Err(reason) => {
            open.settle(Ending::as_reserved(CallOutcome::Interrupted, 502));
            return broken_off(metering.asked(), &reason);
        }
    };
    if let Some(transcript) = open.transcript() {
        transcript.lock().unwrap_or_else(PoisonError::into_inner).read(&body);
    }
    let of_headers = || usage_of_headers(metering.protocol, metering.worst.choices, &|name| head.header(name));
    let ending = match usage_of_body(metering.protocol, &body).or_else(of_headers) {
        Some(reported) => metering.completed(&reported),
        None => Ending::as_reserved(CallOutcome::Unknown, metering.status),
    };
    let cost = ending.charge.map(|(_, cost)| cost.to_decimal());
    open.settle(ending);
    if let Some(cost) = cost.and_then(|cost| HeaderValue::from_str(&cost).ok()) {
        head.headers_mut().insert("x-spend-cost-usd", cost);
    }
    let Some(translation) = &metering.translation else { return head.with(ProxyBody::whole(body)) };
    match translation.answer(&body) {
        Ok(body) => {
            head.is_json();
            head.with(ProxyBody::whole(body))
        }
        Err(reason) => broken_off(metering.asked(), &reason),
    }
}

/// Reads an answer that does not stream.
pub async fn read_whole(open: &mut OpenCall, body: &mut Answer, patience: Patience) -> Whole {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut whole = BytesMut::new();
    let deadline = Instant::now() + patience.total;
    loop {
        let until = deadline.min(Instant::now() + patience.idle);
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
            return Err("the provider went silent within its answer".to_owned());
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|e| super::forward::with_causes(&*e))?;
        let Ok(data) = frame.into_data() else { continue };
        open.count_bytes(data.len());
        if whole.len() + data.len() > WHOLE_LIMIT {
            return Err(format!("it is larger than {WHOLE_LIMIT} bytes"));
        }
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        if whole.is_empty() {
            whole.reserve(expected.min(TRUSTED).max(data.len()));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn broken_off(protocol: Protocol, reason: &str) -> Response<ProxyBody> {
    let message = format!("the provider's answer broke off: {reason}");
    Refusal::passing(ErrorKind::UpstreamUnreachable, message).into_response(protocol)
}

/// An answer that streams.
pub fn streamed_answer(
    open: OpenCall,
    mut head: Head,
    body: Answer,
    metering: Metering,
    framing: Framing,
    hide_usage: bool,
) -> Response<ProxyBody> {
    let meter = match &metering.translation {
        None => StreamMeter::new(metering.protocol, framing, hide_usage),
        Some(translation) => {
            head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            StreamMeter::translating(metering.protocol, framing, translation.stream())
        }
    };
    let meter = match open.transcript() {
        Some(transcript) => meter.transcribed(transcript),
        None => meter,
    };
    let stream = Stream { upstream: body, meter, open, metering, input_known: false };
    let wait = Wait::new(stream.metering.patience);
    head.with(ProxyBody::Metered(Box::new(MeteredBody { stream: Some(stream), wait })))
}

/// A stream on its way to the caller. Dropped before its end, it is read to its end without the caller.
pub struct MeteredBody {
    /// `None` once it is settled.
    stream: Option<Stream>,
    wait: Wait,
}

/// When a stream was last heard of, and when that is too long ago.
struct Wait {
    patience: Patience,
    last: Instant,
    deadline: Instant,
    alarm: Alarm,
}

impl Wait {
    fn new(patience: Patience) -> Wait {
        let now = Instant::now();
        Wait { patience, last: now, deadline: now + patience.total, alarm: Alarm::default() }
    }

    /// Ready when the stream has been silent, or has gone on, for too long.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll(self.deadline.min(self.last + self.patience.idle), context)
    }
}

struct Stream {
    upstream: Answer,
    meter: StreamMeter,
    open: OpenCall,
    metering: Metering,
    /// The provider has said what the input was.
    input_known: bool,
}

impl Stream {
    fn take_in(&mut self, frame: Frame<Bytes>) -> Option<Bytes> {
        let data = frame.into_data().ok()?;
        self.open.count_bytes(data.len());
        let shown = self.meter.push(data);
        if !self.input_known
            && let Some(input) = self.meter.tally().input
        {
            self.input_known = true;
            if let Some(worst) = self.metering.worst.amount_after(&input) {
                self.open.needs_no_more_than(worst, Usage { output: self.metering.worst.bound.output, ..input });
            }
        }
        Some(shown).filter(|shown| !shown.is_empty())
    }

    fn settle(self) {
        let end = self.meter.finish();
        self.open.settle(self.metering.ending(&end));
    }

    /// Reads to the end for nobody.
    async fn drain(mut self, limit: Duration) {
        let drained = tokio::time::timeout(limit, async {
            while let Some(Ok(frame)) = self.upstream.frame().await {
                self.take_in(frame);
            }
        });
        if drained.await.is_err() {
            tracing::warn!(seconds = limit.as_secs(), "an answer without a caller went on for too long; it is charged as reserved");
        }
        self.settle();
    }
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(&mut stream.upstream).poll_frame(context) else {
                std::task::ready!(this.wait.poll_over(context));
                tracing::warn!(
                    "a provider went silent within its answer, or did not come to its end; the call is charged by what is known"
                );
                if let Some(stream) = this.stream.take() {
                    stream.settle();
                }
                return Poll::Ready(Some(Err("the provider went silent within its answer".into())));
            };
            this.wait.last = Instant::now();
            match frame {
                Some(Ok(frame)) => {
                    if let Some(shown) = stream.take_in(frame) {
                        return Poll::Ready(Some(Ok(Frame::data(shown))));
                    }
                }
                ended => {
                    let rest = stream.meter.flush();
                    if let Some(stream) = this.stream.take() {
                        stream.settle();
                    }
                    return Poll::Ready(match ended {
                        Some(Err(error)) => Some(Err(error)),
                        _ if !rest.is_empty() => Some(Ok(Frame::data(rest))),
                        _ => None,
                    });
                }
            }
        }
    }
}

impl Drop for MeteredBody {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        // Without a runtime the process is ending; the open call then charges itself as reserved.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let limit = stream.metering.patience.drain;
            runtime.spawn(stream.drain(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::Policy;
    use crate::core::tariff::{CacheWrites, CostBound, Rates, Tariff};
    use crate::llm::usage::Beyond;

    fn metering() -> Metering {
        let bound = CostBound {
            input: 100,
            output: 100,
            media: false,
            web_searches: 0,
            tier: AskedTier::Unsaid,
            cache: CacheWrites::Any,
            regional: false,
        };
        let tariff = Some(Arc::new(Tariff::flat(Rates::plain(PicoUsd(2), PicoUsd(2)))));
        let second = Duration::from_secs(1);
        Metering {
            patience: Patience { idle: second, total: second, drain: second },
            snapshot: Arc::new(Snapshot::new(Policy::default(), &[]).unwrap()),
            protocol: Protocol::OpenAIChat,
            translation: None,
            worst: WorstCase { bound, cap: 100, choices: 1, takes_cap: true, one_pass: true, tariff },
            lesson: None,
            regional: false,
            status: 200,
        }
    }

    fn usage() -> Usage {
        Usage { input: 3, output: 4, ..Usage::default() }
    }

    #[test]
    fn a_stream_is_charged_by_final_figures_and_else_as_reserved() {
        use CallOutcome::{Completed, Interrupted, Unknown};
        for (figures, complete, failed, outcome, cost) in [
            (true, true, false, Completed, Some(PicoUsd(14))),
            (true, false, false, Interrupted, Some(PicoUsd(14))),
            (false, false, false, Interrupted, None),
            (false, true, true, Interrupted, None),
            (false, true, false, Unknown, None),
        ] {
            let reported = figures.then(|| ReportedUsage::of(usage(), None));
            let ending = metering().ending(&StreamEnd { reported, complete, failed });
            assert_eq!((ending.outcome, ending.charge.map(|(_, cost)| cost)), (outcome, cost), "{figures} {complete} {failed}");
        }
    }

    #[test]
    fn a_search_that_the_answer_does_not_count_has_its_fee() {
        let mut metering = metering();
        metering.worst.bound.web_searches = 1;
        metering.worst.tariff =
            Some(Arc::new(Tariff { web_search: Some(PicoUsd(100)), ..Tariff::flat(Rates::plain(PicoUsd(2), PicoUsd(2))) }));
        let (used, cost) = metering.completed(&ReportedUsage::of(usage(), None)).charge.unwrap();
        assert_eq!((used.web_searches, cost), (1, PicoUsd(114)));
    }

    #[test]
    fn tokens_of_capacity_that_was_bought_ahead_are_counted_and_cost_nothing() {
        let ending = metering().completed(&ReportedUsage { prepaid: true, ..ReportedUsage::of(usage(), None) });
        assert_eq!(ending.charge, Some((usage(), PicoUsd::ZERO)));
    }

    #[test]
    fn passes_of_other_models_are_charged_at_their_own_price_and_all_tokens_are_counted() {
        let opus = crate::core::catalogue::embedded().latest("claude-opus-5").unwrap();
        let beyond = vec![Beyond { model: Some("claude-opus-5".to_owned()), usage: usage() }, Beyond { model: None, usage: usage() }];
        let ending = metering().completed(&ReportedUsage { beyond, ..ReportedUsage::of(usage(), None) });
        let (used, cost) = ending.charge.unwrap();
        assert_eq!((used.input, used.output), (9, 12));
        assert_eq!(cost, PicoUsd(28) + opus.tariff.cost(&usage(), Billing::default()));
    }
}
