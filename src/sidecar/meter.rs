//! Reading what an answer used, by the provider's own figures, while it passes to the caller.
//!
//! A streamed answer goes through chunk by chunk; when its caller hangs up, the rest is read on without it, so that the
//! call is charged for what was generated. An answer in one piece is read whole before its head goes out, so that the
//! head can say what it cost.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};

use super::body::{BodyError, ProxyBody};
use super::forward::Head;
use super::refusal::Refusal;
use super::settle::{Ending, OpenCall};
use super::upstream::Answer;
use crate::core::call::CallOutcome;
use crate::core::policy::Protocol;
use crate::core::price::Rates;
use crate::core::usage::Usage;
use crate::llm::{ErrorKind, StreamEnd, StreamMeter, usage_of_body};

/// The largest answer in one piece.
const WHOLE_LIMIT: usize = 64 << 20;

/// How an answer is read and priced.
#[derive(Clone, Copy, Debug)]
pub struct Metering {
    pub protocol: Protocol,
    /// `None` costs nothing: the budget lets the model through without a price.
    pub rates: Option<Rates>,
    pub status: u16,
}

impl Metering {
    fn completed(&self, usage: Usage) -> Ending {
        let cost = self.rates.map(|rates| rates.cost(&usage)).unwrap_or_default();
        Ending::completed(self.status, usage, cost)
    }

    /// What a stream's end means. Figures count only if they are final: at the protocol's end, or where the protocol says so.
    fn ending(&self, end: &StreamEnd) -> Ending {
        let is_final = end.complete || self.protocol == Protocol::AnthropicMessages;
        match end.usage.filter(|_| is_final) {
            Some(usage) if end.complete && !end.failed => self.completed(usage),
            Some(usage) => Ending { outcome: CallOutcome::Interrupted, ..self.completed(usage) },
            None if end.complete && !end.failed => Ending::as_reserved(CallOutcome::Unknown, self.status),
            None => Ending::as_reserved(CallOutcome::Interrupted, self.status),
        }
    }
}

/// An error of the provider's, which it does not charge.
pub async fn error_answer(mut open: OpenCall, head: Head, body: Answer, protocol: Protocol) -> Response<ProxyBody> {
    let status = head.status().as_u16();
    let read = read_whole(&mut open, body).await;
    open.settle(Ending::failed(status));
    match read {
        Ok(body) => head.with(ProxyBody::Full(Full::new(body))),
        Err(reason) => broken_off(protocol, &reason),
    }
}

/// An answer in one piece.
pub async fn whole_answer(mut open: OpenCall, mut head: Head, body: Answer, metering: Metering) -> Response<ProxyBody> {
    let body = match read_whole(&mut open, body).await {
        Ok(body) => body,
        Err(reason) => {
            open.settle(Ending::as_reserved(CallOutcome::Interrupted, 502));
            return broken_off(metering.protocol, &reason);
        }
    };
    let ending = match usage_of_body(metering.protocol, &body) {
        Some(reported) => metering.completed(reported.usage),
        None => Ending::as_reserved(CallOutcome::Unknown, metering.status),
    };
    let cost = ending.charge.map(|(_, cost)| cost.to_decimal());
    open.settle(ending);
    if let Some(cost) = cost.and_then(|cost| HeaderValue::from_str(&cost).ok()) {
        head.headers_mut().insert("x-spend-cost-usd", cost);
    }
    head.with(ProxyBody::Full(Full::new(body)))
}

async fn read_whole(open: &mut OpenCall, mut body: Answer) -> Result<Bytes, String> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| super::forward::with_causes(&e))?;
        let Ok(data) = frame.into_data() else { continue };
        open.count_bytes(data.len());
        if whole.len() + data.len() > WHOLE_LIMIT {
            return Err(format!("it is larger than {WHOLE_LIMIT} bytes"));
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
    head: Head,
    body: Answer,
    metering: Metering,
    hide_usage: bool,
    drain_timeout: Duration,
) -> Response<ProxyBody> {
    let meter = StreamMeter::new(metering.protocol, hide_usage);
    let stream = Stream { upstream: body, meter, open, metering };
    head.with(ProxyBody::Metered(Box::new(MeteredBody { stream: Some(stream), drain_timeout })))
}

/// A stream on its way to the caller. Dropped before its end, it is read to its end without the caller.
pub struct MeteredBody {
    /// `None` once it is settled.
    stream: Option<Stream>,
    drain_timeout: Duration,
}

struct Stream {
    upstream: Answer,
    meter: StreamMeter,
    open: OpenCall,
    metering: Metering,
}

impl Stream {
    fn take_in(&mut self, frame: Frame<Bytes>) -> Option<Bytes> {
        let data = frame.into_data().ok()?;
        self.open.count_bytes(data.len());
        Some(self.meter.push(data)).filter(|shown| !shown.is_empty())
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
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(&mut stream.upstream).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Some(shown) = stream.take_in(frame) {
                        return Poll::Ready(Some(Ok(Frame::data(shown))));
                    }
                }
                ended => {
                    let rest = stream.meter.flush();
                    if let Some(stream) = self.stream.take() {
                        stream.settle();
                    }
                    return Poll::Ready(match ended {
                        Some(Err(error)) => Some(Err(error.into())),
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
            runtime.spawn(stream.drain(self.drain_timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::money::PicoUsd;

    fn metering(protocol: Protocol) -> Metering {
        let price = PicoUsd(2);
        let rates = Rates { input: price, cached_read: price, cache_write: price, cache_write_long: price, output: price };
        Metering { protocol, rates: Some(rates), status: 200 }
    }

    fn end(usage: bool, complete: bool, failed: bool) -> StreamEnd {
        let usage = usage.then_some(Usage { input: 3, output: 4, ..Usage::default() });
        StreamEnd { usage, complete, failed, ..StreamEnd::default() }
    }

    #[test]
    fn a_stream_is_charged_by_final_figures_and_else_as_reserved() {
        use CallOutcome::{Completed, Interrupted, Unknown};
        use Protocol::{AnthropicMessages, OpenAIChat};
        let figures = Some(PicoUsd(14));
        for (protocol, end, outcome, cost) in [
            (OpenAIChat, end(true, true, false), Completed, figures),
            (AnthropicMessages, end(true, true, false), Completed, figures),
            (OpenAIChat, end(true, false, false), Interrupted, None),
            (AnthropicMessages, end(true, false, false), Interrupted, figures),
            (OpenAIChat, end(false, false, false), Interrupted, None),
            (OpenAIChat, end(false, true, true), Interrupted, None),
            (OpenAIChat, end(false, true, false), Unknown, None),
        ] {
            let ending = metering(protocol).ending(&end);
            assert_eq!((ending.outcome, ending.charge.map(|(_, cost)| cost)), (outcome, cost), "{protocol:?} {end:?}");
        }
    }
}
