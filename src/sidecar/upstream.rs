//! The client for everything that is upstream: connections that are kept alive, HTTP/2 where the server offers it, TLS with the
//! system's roots, forward proxies where the environment names them.

mod connect;
mod idle;
mod link;
mod shared;

use std::sync::Arc;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper_util::client::proxy::matcher::Matcher;

use super::body::BodyError;
use connect::{Connector, speaks_http2};
use idle::{Idle, Place};
use link::Link;
use shared::{Lane, Shared};

pub use link::Answer;

/// A call's body, which is in memory, or a shared service's, which streams through.
pub type UpstreamBody = Either<Full<Bytes>, Incoming>;

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
    Broken(#[source] hyper::Error),
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
            let mut error = match way {
                Way::Own(mut link) => match link.send(request).await {
                    Ok(answer) => return Ok(answer.map(|body| Answer::own(body, *link, Arc::clone(&self.idle), place))),
                    Err(error) => error,
                },
                Way::Shared(lane) => match send_shared(lane, request).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
            };
            match error.take_message() {
                // The server had closed it meanwhile, and has not seen the request.
                Some(unsent) if was_idle => request = unsent,
                Some(_) => return Err(SendError::Connect(error.into_error().into())),
                None => return Err(SendError::Broken(error.into_error())),
            }
        }
    }

    fn existing(&self, place: &Place) -> Option<Way> {
        self.idle.take(place).map(|link| Way::Own(Box::new(link))).or_else(|| self.shared.take(place).map(Way::Shared))
    }

    async fn connect(&self, place: &Place) -> Result<Way, SendError> {
        let socket = self.connector.open(place).await.map_err(SendError::Connect)?;
        let failed = |error: hyper::Error| SendError::Connect(error.into());
        if speaks_http2(&socket) {
            return self.shared.add(place, socket).await.map(Way::Shared).map_err(failed);
        }
        Link::open(socket).await.map(|link| Way::Own(Box::new(link))).map_err(failed)
    }

    /// Where a request goes; its URI is then only the path (but for a proxy's, which gets it whole), and the host is in its header.
    fn address(&self, request: &mut Request<UpstreamBody>) -> Result<Place, SendError> {
        let parts = request.uri().clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(SendError::Connect("the URI names no server".into()));
        };
        let host = host(&scheme, &authority).map_err(|error| SendError::Connect(error.into()))?;
        request.headers_mut().insert(header::HOST, host);
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
async fn send_shared(lane: Lane, mut request: Request<UpstreamBody>) -> Result<Response<Answer>, TrySendError<Request<UpstreamBody>>> {
    let Lane { mut sender, place_taken } = lane;
    if let Some(host) = request.headers_mut().remove(header::HOST)
        && let Ok(authority) = Authority::try_from(host.as_bytes())
    {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        (parts.scheme, parts.authority) = (Some(Scheme::HTTPS), Some(authority));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    let answer = sender.try_send_request(request).await?;
    Ok(answer.map(|body| Answer::shared(body, place_taken)))
}

/// The host, and its port where it is not the scheme's own.
fn host(scheme: &Scheme, authority: &Authority) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let own = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    match authority.port_u16().filter(|port| *port != own) {
        Some(port) => HeaderValue::from_str(&format!("{}:{port}", authority.host())),
        None => HeaderValue::from_str(authority.host()),
    }
}

#[cfg(test)]
mod tests;
