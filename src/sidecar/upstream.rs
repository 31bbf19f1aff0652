//! The client for everything that is upstream: connections that are kept alive, TLS with the system's roots.

mod idle;
mod link;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::service::TowerToHyperService;
use rustls::{ClientConfig, RootCertStore};

use super::body::BodyError;
use idle::Idle;
use link::Link;

pub use link::Answer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A call's body, which is in memory, or a shared service's, which streams through.
pub type UpstreamBody = Either<Full<Bytes>, Incoming>;

/// The client.
#[derive(Clone)]
pub struct Upstream {
    connector: TowerToHyperService<HttpsConnector<HttpConnector>>,
    idle: Arc<Idle>,
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

impl Upstream {
    /// A client that trusts the system's certificate authorities and those in `extra_ca_pem`.
    ///
    /// # Errors
    /// When `extra_ca_pem` holds no certificate.
    pub fn new(extra_ca_pem: Option<&str>) -> Result<Upstream, TrustError> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots(extra_ca_pem)?)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(http);
        Ok(Upstream { connector: TowerToHyperService::new(connector), idle: Arc::default() })
    }

    /// Sends a request to where its URI says; ready when the answer's head is there.
    ///
    /// # Errors
    /// When there is none; the error tells whether anything was sent.
    pub async fn send(&self, mut request: Request<UpstreamBody>) -> Result<Response<Answer>, SendError> {
        let place = address(&mut request)?;
        loop {
            let idle = self.idle.take(&place);
            let was_idle = idle.is_some();
            let mut link = match idle {
                Some(link) => link,
                None => self.connect(&place).await?,
            };
            let mut error = match link.send(request).await {
                Ok(answer) => return Ok(answer.map(|body| Answer::new(body, link, Arc::clone(&self.idle), place))),
                Err(error) => error,
            };
            match error.take_message() {
                // The server had closed it meanwhile, and has not seen the request.
                Some(unsent) if was_idle => request = unsent,
                Some(_) => return Err(SendError::Connect(error.into_error().into())),
                None => return Err(SendError::Broken(error.into_error())),
            }
        }
    }

    async fn connect(&self, (scheme, authority): &idle::Place) -> Result<Link, SendError> {
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build();
        let uri = uri.map_err(|error| SendError::Connect(error.into()))?;
        let socket = self.connector.call(uri).await.map_err(SendError::Connect)?;
        Link::open(socket).await.map_err(|error| SendError::Connect(error.into()))
    }
}

/// Where a request goes; its URI is then only the path, and the host is in its header.
fn address(request: &mut Request<UpstreamBody>) -> Result<idle::Place, SendError> {
    let parts = std::mem::take(request.uri_mut()).into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
        return Err(SendError::Connect("the URI names no server".into()));
    };
    let host = host(&scheme, &authority).map_err(|error| SendError::Connect(error.into()))?;
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok((scheme, authority))
}

/// The host, and its port where it is not the scheme's own.
fn host(scheme: &Scheme, authority: &Authority) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let own = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    match authority.port_u16().filter(|port| *port != own) {
        Some(port) => HeaderValue::from_str(&format!("{}:{port}", authority.host())),
        None => HeaderValue::from_str(authority.host()),
    }
}

fn roots(extra_ca_pem: Option<&str>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    let (trusted, _) = roots.add_parsable_certificates(native.certs);
    if trusted == 0 {
        tracing::warn!("the system has no certificate authorities: providers on https cannot be verified, and so not called");
    }
    if let Some(pem) = extra_ca_pem {
        let certificates = rustls_pemfile::certs(&mut pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|e| TrustError::ExtraCa(e.to_string()))?;
        if certificates.is_empty() {
            return Err(TrustError::ExtraCa("it has no BEGIN CERTIFICATE".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|e| TrustError::ExtraCa(e.to_string()))?;
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
