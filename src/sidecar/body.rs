//! The bodies that the sidecar answers with.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::meter::MeteredBody;
use super::passthrough::PassedBody;
use super::shared::CountedBody;

/// What can go wrong while a body streams.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body for a caller.
pub enum ProxyBody {
    /// All of it is here: what is still to be sent.
    Whole(Bytes),
    /// A model's answer, metered as it streams.
    Metered(Box<MeteredBody>),
    /// A shared service's answer, its bytes counted as it streams.
    Counted(Box<CountedBody>),
    /// What a provider answered to a request that is no call to a model.
    Passed(Box<PassedBody>),
}

impl ProxyBody {
    pub fn whole(body: impl Into<Bytes>) -> ProxyBody {
        ProxyBody::Whole(body.into())
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ProxyBody::Whole(rest) => {
                let piece = std::mem::take(rest);
                Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
            }
            ProxyBody::Metered(body) => Pin::new(body.as_mut()).poll_frame(context),
            ProxyBody::Counted(body) => Pin::new(body.as_mut()).poll_frame(context),
            ProxyBody::Passed(body) => Pin::new(body.as_mut()).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ProxyBody::Whole(rest) => rest.is_empty(),
            // Their ends are looked at by the one who counts, so they must be polled to it.
            ProxyBody::Metered(_) | ProxyBody::Counted(_) | ProxyBody::Passed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ProxyBody::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            ProxyBody::Metered(_) => SizeHint::default(),
            ProxyBody::Counted(body) => body.size_hint(),
            ProxyBody::Passed(body) => body.size_hint(),
        }
    }
}
