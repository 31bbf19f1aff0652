//! The client for everything that is upstream: pooled connections, TLS with the system's roots.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than servers usually keep idle connections, so that a call is seldom sent on one that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A call's body, which is in memory, or a shared service's, which streams through.
pub type UpstreamBody = Either<Full<Bytes>, Incoming>;

/// The client.
#[derive(Clone)]
pub struct Upstream(Client<HttpsConnector<HttpConnector>, UpstreamBody>);

/// Why there can be no client.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("SPENDKEEPER_UPSTREAM_CA is not a certificate in PEM: {0}")]
    ExtraCa(String),
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
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
        Ok(Upstream(client))
    }

    /// Sends a request; ready when the answer's head is there.
    ///
    /// # Errors
    /// When there is none; [`Error::is_connect`] tells whether anything was sent.
    pub async fn send(&self, request: Request<UpstreamBody>) -> Result<Response<Incoming>, Error> {
        self.0.request(request).await
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
