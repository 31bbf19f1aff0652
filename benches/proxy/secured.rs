//! Servers with TLS, as providers and operators are, whose authority is made here.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustls::sign::SingleCertAndKey;
use spendkeeper::operator::certs::Authority;
use spendkeeper::operator::tls::TlsListener;

/// Where one is, and who vouches for it.
pub struct Secured {
    pub address: SocketAddr,
    /// PEM.
    pub ca: String,
}

impl Secured {
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Listens on loopback, offers `protocol` (ALPN), and has `serve` do the rest: on a thread of that name, until the process ends.
    pub fn start<F>(name: &str, protocol: &'static [u8], serve: impl FnOnce(TlsListener) -> F + Send + 'static) -> Result<Secured>
    where
        F: Future<Output = Result<()>>,
    {
        let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
        let authority = Authority::generate(now)?;
        let certificate = authority.issue(&["127.0.0.1".to_owned()], now)?.key;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tell, told) = mpsc::channel();
        let running = move || {
            runtime.block_on(async {
                let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
                let listener = TlsListener::bind(anywhere, Arc::new(SingleCertAndKey::from(certificate)), &[protocol]).await?;
                tell.send(listener.address())?;
                serve(listener).await
            })
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(running)?;
        Ok(Secured { address: told.recv().context("nobody can listen on loopback")?, ca: authority.certificate_pem })
    }
}
