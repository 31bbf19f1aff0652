//! Where leases come from and where reports go: the operator, or a ledger of one's own.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;

use super::clock::Clock;
use super::config::Snapshot;
use crate::channel::client::{ClientError, OperatorClient};
use crate::channel::message::{LeaseAsk, Reported};
use crate::core::limit::{LimitKey, LimitTerms};
use crate::ledger::{Decision, HolderId, Ledger, LedgerError};

/// Grants leases and takes reports. Both are safe to repeat.
#[async_trait]
pub trait LeaseSource: Send + Sync {
    /// The decision's times are on this machine's clock.
    async fn acquire(&self, ask: LeaseAsk) -> Result<Decision, SourceError>;

    /// Takes entries in order, all of them or none.
    async fn report(&self, entries: Vec<Reported>) -> Result<(), SourceError>;
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// May work later, unchanged.
    #[error("{0}")]
    Unavailable(String),
    /// Will never work unchanged.
    #[error("{0}")]
    Rejected(String),
}

impl From<ClientError> for SourceError {
    fn from(error: ClientError) -> SourceError {
        match error {
            ClientError::Rejected(_) => SourceError::Rejected(error.to_string()),
            _ => SourceError::Unavailable(error.to_string()),
        }
    }
}

impl From<LedgerError> for SourceError {
    fn from(error: LedgerError) -> SourceError {
        match error {
            LedgerError::Rejected(_) => SourceError::Rejected(error.to_string()),
            _ => SourceError::Unavailable(error.to_string()),
        }
    }
}

/// The operator's ledger, over the control channel.
pub struct RemoteSource {
    pub client: OperatorClient,
    pub clock: Clock,
}

#[async_trait]
impl LeaseSource for RemoteSource {
    async fn acquire(&self, ask: LeaseAsk) -> Result<Decision, SourceError> {
        Ok(self.client.acquire(ask, || self.clock.unix_ms()).await?)
    }

    async fn report(&self, entries: Vec<Reported>) -> Result<(), SourceError> {
        Ok(self.client.report(entries).await?)
    }
}

/// A ledger in this process, for a sidecar without a cluster.
pub struct LocalSource {
    pub ledger: Arc<dyn Ledger>,
    pub holder: HolderId,
    pub snapshot: Arc<ArcSwapOption<Snapshot>>,
    pub clock: Clock,
}

impl LocalSource {
    fn terms(&self, key: &LimitKey, now_ms: i64) -> Option<LimitTerms> {
        self.snapshot.load().as_ref()?.budgets.terms(key, now_ms)
    }
}

#[async_trait]
impl LeaseSource for LocalSource {
    async fn acquire(&self, ask: LeaseAsk) -> Result<Decision, SourceError> {
        let now_ms = self.clock.unix_ms();
        let acquire = ask.into_acquire(self.holder.clone(), |key| self.terms(key, now_ms), now_ms);
        let acquire = acquire.map_err(|unknown| SourceError::Rejected(unknown.to_string()))?;
        Ok(self.ledger.acquire(acquire).await?)
    }

    async fn report(&self, entries: Vec<Reported>) -> Result<(), SourceError> {
        let now_ms = self.clock.unix_ms();
        let origin = self.snapshot.load().as_ref().map(|s| s.policy.origin.clone()).unwrap_or_default();
        let entries = entries.into_iter().map(|e| e.into_entry(&origin, |key| self.terms(key, now_ms), now_ms)).collect();
        self.ledger.report(&self.holder, entries, now_ms).await?;
        Ok(())
    }
}
