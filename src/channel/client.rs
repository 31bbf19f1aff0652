//! The sidecar's end of the control channel.

mod reports;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt};
use tokio::time::sleep;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::convert::{self, Malformed};
use super::message::{LeaseAsk, Pushed, Reported};
use super::proto::control_client::ControlClient;
use super::proto::{AcquireRequest, AcquireResponse, WatchRequest};
use crate::ledger::Decision;
use reports::Reports;

/// A call waits for a lease, so an operator that does not answer counts as away soon.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// An operator that has not answered by then may be gone without a word, with its node: a new connection may lead to another. Longer than an
/// operator waits for its database, so that what is wrong with that is heard.
const SILENT: Duration = Duration::from_millis(2_300);
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
/// Within a cluster; an operator whose node is gone does not answer, and the next attempt may reach another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For so long a request for a lease is sent again when its operator went away: another, or the same one again, may be there at once.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_PAUSE: Duration = Duration::from_millis(50);
/// A connection that does not answer a ping is dead; without pings a vanished operator would go unnoticed.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token is used before its file is looked at again. The kubelet replaces it when a fifth of its life is left, which is minutes.
const TOKEN_KEPT: Duration = Duration::from_secs(10);
/// The largest policy that is accepted.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How to reach the operator.
#[derive(Clone, Debug)]
pub struct OperatorAddress {
    /// `https://spendkeeper-operator.spendkeeper-system.svc:9443`
    pub url: String,
    /// The certificate authority that the operator's certificate must be from, PEM. Unused with an `http:` URL.
    pub ca_pem: String,
    /// The file with the bound service-account token. It is read again and again, because the kubelet replaces it.
    pub token_file: PathBuf,
}

/// Why the operator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the operator's address {url:?} is unusable: {reason}; check SPENDKEEPER_OPERATOR and SPENDKEEPER_CA")]
    Address { url: String, reason: String },
    #[error("the service-account token {} cannot be read: {reason}", .path.display())]
    Token { path: PathBuf, reason: String },
    /// May work later, unchanged.
    #[error("the operator is unavailable: {0}")]
    Unavailable(String),
    /// Will never work unchanged.
    #[error("the operator refused the request: {0}")]
    Rejected(String),
    #[error("the operator's answer cannot be understood: {0}")]
    Malformed(#[from] Malformed),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> ClientError {
        let text = format!("{}: {}", status.code(), status.message());
        if is_final(&status) { ClientError::Rejected(text) } else { ClientError::Unavailable(text) }
    }
}

/// A connection to the operator; it is made when it is first needed, and made again when it breaks.
#[derive(Clone, Debug)]
pub struct OperatorClient {
    endpoint: Endpoint,
    control: Arc<ArcSwap<ControlClient<Channel>>>,
    token: Arc<Token>,
    /// No operator was there for [`AGAIN`]: until one is, nobody waits for it.
    is_away: Arc<AtomicBool>,
    /// Where reports go; none before the first, and after one that failed.
    reports: Arc<tokio::sync::Mutex<Option<Reports>>>,
}

/// A token as it was last read.
#[derive(Debug)]
struct Token {
    file: PathBuf,
    read: Mutex<Option<(Instant, AsciiMetadataValue)>>,
}

impl OperatorClient {
    /// # Errors
    /// When the address or the certificate authority cannot be used. Nothing is sent yet.
    pub fn new(address: OperatorAddress) -> Result<OperatorClient, ClientError> {
        let unusable = |e: tonic::transport::Error| {
            let reason = std::error::Error::source(&e).map_or_else(|| e.to_string(), |source| format!("{e}: {source}"));
            ClientError::Address { url: address.url.clone(), reason }
        };
        let mut endpoint = Endpoint::from_shared(address.url.clone())
            .map_err(unusable)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        if address.url.starts_with("https:") {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&address.ca_pem));
            endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        }
        let control = Arc::new(ArcSwap::from_pointee(connection(&endpoint)));
        let token = Arc::new(Token { file: address.token_file, read: Mutex::default() });
        Ok(OperatorClient { endpoint, control, token, is_away: Arc::default(), reports: Arc::default() })
    }

    /// What is asked from now on goes over a new connection, maybe to another of several operators; what is under way ends on the old one.
    pub fn connect_anew(&self) {
        self.control.store(Arc::new(connection(&self.endpoint)));
    }

    fn control(&self) -> ControlClient<Channel> {
        ControlClient::clone(&self.control.load())
    }

    /// Policy, credentials and recalls, from now until the connection breaks.
    ///
    /// # Errors
    /// When the operator cannot be reached or does not accept the token.
    pub async fn watch(&self) -> Result<impl Stream<Item = Result<Pushed, ClientError>> + use<>, ClientError> {
        let request = self.request(WatchRequest { sidecar_version: env!("CARGO_PKG_VERSION").to_owned() })?;
        let pushes = self.token.heed(self.control().watch(request).await)?.into_inner();
        Ok(pushes.map(|push| Ok(Pushed::try_from(push?)?)))
    }

    /// Asks for a lease. `now_ms` is the clock on which a refusal's times are given.
    ///
    /// # Errors
    /// When there is no answer. The lease may have been granted nevertheless: ask again with the same sequence number.
    pub async fn acquire(&self, ask: LeaseAsk, now_ms: impl Fn() -> i64) -> Result<Decision, ClientError> {
        let answer = match self.token.heed(within(ACQUIRE_TIMEOUT, self.insist(AcquireRequest::from(ask))).await??) {
            // No budget of this pod has such a limit any more: the next policy will say so.
            Err(status) if status.code() == Code::PermissionDenied => return Err(ClientError::Rejected(status.message().to_owned())),
            answer => answer?,
        };
        Ok(convert::decision_from_wire(answer.into_inner(), now_ms())?)
    }

    /// Reports entries in order, all of them or none.
    ///
    /// # Errors
    /// When there is no answer. The entries may have been taken nevertheless: report them again.
    pub async fn report(&self, entries: Vec<Reported>) -> Result<(), ClientError> {
        // It is put back when the report was answered: what is answered later, if ever, would be taken for the answer to another.
        let mut kept = self.reports.lock().await;
        *kept = Some(within(REPORT_TIMEOUT, self.send(kept.take(), &entries)).await??);
        Ok(())
    }

    /// Sends a report on the stream that is open, or on a new one.
    async fn send(&self, open: Option<Reports>, entries: &[Reported]) -> Result<Reports, ClientError> {
        let (over, token) = (self.control.load_full(), self.token.bearer()?);
        if let Some(mut reports) = open.filter(|reports| reports.is_of(&over, &token)) {
            match reports.send(convert::report_to_wire(entries)).await {
                Ok(()) => return Ok(reports),
                Err(status) if is_final(&status) => return Err(status.into()),
                // It has ended since the last report, as it does each minute, and with its operator.
                Err(_) => {}
            }
        }
        let mut reports = self.token.heed(Reports::open(over, token).await)?;
        reports.send(convert::report_to_wire(entries)).await?;
        Ok(reports)
    }

    /// Sends a request until there is an answer, for a while.
    async fn insist(&self, message: AcquireRequest) -> Result<Result<Response<AcquireResponse>, Status>, ClientError> {
        let began = Instant::now();
        loop {
            let mut control = self.control();
            let Ok(answer) = tokio::time::timeout(SILENT, control.acquire(self.request(message.clone())?)).await else {
                self.connect_anew();
                continue;
            };
            let is_lost = answer.as_ref().is_err_and(went_away);
            if is_lost && began.elapsed() < AGAIN && !self.is_away.load(Ordering::Relaxed) {
                sleep(AGAIN_PAUSE).await;
                continue;
            }
            self.is_away.store(is_lost, Ordering::Relaxed);
            return Ok(answer);
        }
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, ClientError> {
        Ok(proven(message, self.token.bearer()?))
    }
}

fn proven<T>(message: T, token: AsciiMetadataValue) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token);
    request
}

fn connection(endpoint: &Endpoint) -> ControlClient<Channel> {
    ControlClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Whether the same request would be refused again.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}

/// Whether nobody answered; the request may have been carried out nevertheless.
fn went_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, ClientError> {
    let late = |_| ClientError::Unavailable(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, answer).await.map_err(late)
}

impl Token {
    fn bearer(&self) -> Result<AsciiMetadataValue, ClientError> {
        let mut kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((read, value)) if read.elapsed() < TOKEN_KEPT => Ok(value.clone()),
            _ => {
                let value = bearer(&self.file)?;
                *kept = Some((Instant::now(), value.clone()));
                Ok(value)
            }
        }
    }

    /// Reads the file anew after an answer that says that the token is none.
    fn heed<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        if answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        answer
    }
}

fn bearer(path: &Path) -> Result<AsciiMetadataValue, ClientError> {
    let unusable = |reason: String| ClientError::Token { path: path.to_owned(), reason };
    let token = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|e| unusable(e.to_string()))?);
    let header = zeroize::Zeroizing::new(format!("Bearer {}", token.trim()));
    // The reason says nothing of the text, which is a secret.
    let mut value: AsciiMetadataValue = header.parse().map_err(|_| unusable("it is not a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
