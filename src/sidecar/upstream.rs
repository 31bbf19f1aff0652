//! The client for everything that is upstream: connections that are kept alive, HTTP/2 where the server offers it, TLS with the
//! system's roots, forward proxies where the environment names them.

mod connect;
pub mod head;
mod idle;
mod link;
mod sending;
mod shared;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::proxy::matcher::Matcher;

use super::admit::detach;
use super::body::BodyError;
use super::caller::CallerBody;
use crate::llm::Pieces;
use connect::{Connector, speaks_http2};
use idle::{Idle, Place};
use link::{Link, Unanswered};
use shared::{Lane, Shared};

pub use link::Answer;

/// The body of a request.
pub enum UpstreamBody {
    /// All of it is here, as a call's is.
    Whole(Pieces),
    /// It streams through.
    Streamed(CallerBody),
}

/// The client.
#[derive(Clone)]
pub struct Upstream {
    connector: Connector,
    idle: Arc<Idle>,
    shared: Arc<Shared>,
}

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("SPENDKEEPER_UPSTREAM_CA is not a certificate in PEM: {0}")]
    ExtraCa(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing was sent.
    #[error("no connection could be made")]
    Connect(#[source] BodyError),
    /// The server may have got the request.
    #[error("the connection broke off")]
    Broken(#[source] BodyError),
}

/// A way to a server.
enum Way {
    Own(Box<Link>),
    Shared(Lane),
}

impl Upstream {
    /// A client that trusts the system's certificate authorities and those in `extra_ca_pem`, and goes through the proxies that the
    /// environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// When `extra_ca_pem` holds no certificate.
    pub fn new(extra_ca_pem: Option<&str>) -> Result<Upstream, TrustError> {
        Upstream::through(extra_ca_pem, Matcher::from_env())
    }

    fn through(extra_ca_pem: Option<&str>, proxies: Matcher) -> Result<Upstream, TrustError> {
        Ok(Upstream { connector: Connector::new(extra_ca_pem, proxies)?, idle: Arc::default(), shared: Arc::default() })
    }

    /// Sends a request to where its URI says; ready when the answer's head is there.
    ///
    /// # Errors
    /// When there is none; the error tells whether anything was sent.
    pub async fn send(&self, mut request: Request<UpstreamBody>) -> Result<Response<Answer>, SendError> {
        let place = self.address(&mut request)?;
        loop {
            let (way, was_idle) = match self.existing(&place) {
                Some(way) => (way, true),
                None => (Box::pin(self.connect(&place)).await?, false),
            };
            let Unanswered { error, unsent } = match way {
                Way::Own(link) => {
                    // The answer takes the place along, of which the host is a part.
                    let sent = link.send(request, &place.host()).await;
                    match sent {
                        Ok((head, carried)) => return Ok(head.map(|()| Answer::own(carried, Arc::clone(&self.idle), place))),
                        Err(unanswered) => unanswered,
                    }
                }
                Way::Shared(lane) => match send_shared(lane, request, &place.host()).await {
                    Ok(answer) => return Ok(answer),
                    Err(unanswered) => unanswered,
                },
            };
            match unsent {
                // The server had closed it meanwhile, and has not seen the request.
                Some(unsent) if was_idle => request = unsent,
                Some(_) => return Err(SendError::Connect(error)),
                None => return Err(SendError::Broken(error)),
            }
        }
    }

    fn existing(&self, place: &Place) -> Option<Way> {
        self.idle.take(place).map(Way::Own).or_else(|| self.shared.take(place).map(Way::Shared))
    }

    async fn connect(&self, place: &Place) -> Result<Way, SendError> {
        let socket = self.connector.open(place).await.map_err(SendError::Connect)?;
        if speaks_http2(&socket) {
            return self.shared.add(place, socket).await.map(Way::Shared).map_err(|error| SendError::Connect(error.into()));
        }
        Ok(Way::Own(Box::new(Link::new(socket))))
    }

    /// Where a request goes; its URI is then only the path (but for a proxy's, which gets it whole).
    fn address(&self, request: &mut Request<UpstreamBody>) -> Result<Place, SendError> {
        let parts = request.uri().clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(SendError::Connect("the URI names no server".into()));
        };
        let place = Place::here(scheme, authority);
        match self.connector.plain_proxy(&place) {
            Some(proxy) => {
                if let Some(auth) = proxy.basic_auth() {
                    request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
                }
            }
            None => *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"))),
        }
        Ok(place)
    }
}

/// Sends a request on a connection that others use too. HTTP/2 wants the host in the URI, and knows no header of it.
async fn send_shared(lane: Lane, mut request: Request<UpstreamBody>, host: &str) -> Result<Response<Answer>, Unanswered> {
    let Lane { mut sender, place_taken } = lane;
    request.headers_mut().remove(header::HOST);
    if let Ok(authority) = Authority::try_from(host) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(authority));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    match sender.try_send_request(request).await {
        Ok(answer) => {
            let mut answer = answer.map(|body| Answer::shared(body, place_taken));
            detach(answer.headers_mut());
            Ok(answer)
        }
        Err(mut error) => {
            let unsent = error.take_message();
            Err(Unanswered { error: error.into_error().into(), unsent })
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            UpstreamBody::Whole(body) => Poll::Ready(body.pop().map(|piece| Ok(Frame::data(piece)))),
            UpstreamBody::Streamed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            UpstreamBody::Whole(body) => !body.has_remaining(),
            UpstreamBody::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            UpstreamBody::Whole(body) => SizeHint::with_exact(body.remaining() as u64),
            UpstreamBody::Streamed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
