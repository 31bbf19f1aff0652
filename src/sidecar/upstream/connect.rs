//! New connections: direct or through a forward proxy, with TLS where the server wants it, in the version of HTTP that both speak.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Scheme, Uri};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::TrustError;
use super::idle::Place;
use crate::sidecar::body::BodyError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket, with TLS where the server wants it.
pub type Socket = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    http: HttpConnector,
    tls: ClientConfig,
    proxies: Arc<Matcher>,
}

impl Connector {
    /// A connector that trusts the system's certificate authorities and those in `extra_ca_pem`, and goes where `proxies` says.
    pub fn new(extra_ca_pem: Option<&str>, proxies: Matcher) -> Result<Connector, TrustError> {
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots(extra_ca_pem)?)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Connector { http, tls, proxies: Arc::new(proxies) })
    }

    /// The proxy that stands between here and a server without TLS: it gets whole URIs.
    pub fn plain_proxy(&self, Place { scheme, authority, .. }: &Place) -> Option<Intercept> {
        if *scheme != Scheme::HTTP {
            return None;
        }
        self.proxies.intercept(&root(scheme, authority).ok()?)
    }

    /// A connection to where a place is.
    pub async fn open(&self, Place { scheme, authority, .. }: &Place) -> Result<Socket, BodyError> {
        let uri = root(scheme, authority)?;
        match self.proxies.intercept(&uri) {
            None => self.secured(self.http.clone(), uri).await,
            Some(proxy) if proxy.uri().scheme() != Some(&Scheme::HTTP) => {
                Err(format!("the proxy of {authority} is no http:// proxy, and no other kind is spoken here").into())
            }
            // Without TLS the proxy itself is the server that is spoken to.
            Some(proxy) if *scheme == Scheme::HTTP => self.secured(self.http.clone(), proxy.uri().clone()).await,
            Some(proxy) => {
                let tunnel = Tunnel::new(proxy.uri().clone(), self.http.clone());
                let tunnel = match proxy.basic_auth() {
                    Some(auth) => tunnel.with_auth(auth.clone()),
                    None => tunnel,
                };
                self.secured(tunnel, uri).await
            }
        }
    }

    async fn secured<C>(&self, connector: C, uri: Uri) -> Result<Socket, BodyError>
    where
        C: Service<Uri, Response = TokioIo<TcpStream>> + Clone + Send + 'static,
        C::Future: Send,
        C::Error: Into<BodyError>,
    {
        let builder = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone()).https_or_http();
        let mut connector = builder.enable_all_versions().wrap_connector(connector);
        std::future::poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(uri).await
    }
}

/// True when the server chose HTTP/2, which it can only with TLS.
pub fn speaks_http2(socket: &Socket) -> bool {
    socket.connected().is_negotiated_h2()
}

fn root(scheme: &Scheme, authority: &http::uri::Authority) -> Result<Uri, http::Error> {
    Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build()
}

fn roots(extra_ca_pem: Option<&str>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the system's certificate authorities cannot be read");
    }
    let (trusted, _) = roots.add_parsable_certificates(native.certs);
    if trusted == 0 && extra_ca_pem.is_none() {
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
