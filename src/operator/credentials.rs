//! Provider credentials, read from the Secrets that ModelRoutes name and held in memory only.
//!
//! The operator may `get` Secrets by name but never list or watch them: whoever takes it over still cannot enumerate a
//! cluster's secrets. The price is that a changed Secret is noticed by reading it again, within [`REFRESH`]; one that is not
//! there yet, within [`MISSING`], since a route is often created just before its Secret.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use super::policies::{CredentialSource, Needed};
use crate::channel::message::BackendCredential;
use crate::channel::secret::Secret;

/// How long a credential may be out of date.
const REFRESH: Duration = Duration::from_secs(60);
/// Pause between two looks for credentials that could not be read.
const MISSING: Duration = Duration::from_secs(3);
/// Longest wait for a Secret; what was known before stays in use.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// The API server has not answered yet.
    Unread,
    Absent,
    Value(Secret),
}

/// The credentials that the routes in force name.
pub struct Credentials {
    client: Client,
    known: Mutex<BTreeMap<CredentialSource, Known>>,
    changes: watch::Sender<u64>,
}

impl Credentials {
    pub fn new(client: Client) -> Arc<Credentials> {
        Arc::new(Credentials { client, known: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// A counter that grows when a credential changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Those of `needed` that there are.
    pub fn of(&self, needed: &[Needed]) -> Vec<BackendCredential> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = needed.iter().filter_map(|need| {
            let Known::Value(value) = known.get(&need.source)?.clone() else { return None };
            Some(BackendCredential { route: need.route.clone(), backend: need.backend.clone(), value })
        });
        found.collect()
    }

    /// From now on these are wanted: new ones are read at once, others are forgotten.
    pub async fn want(&self, sources: BTreeSet<CredentialSource>) {
        let new: BTreeSet<_> = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|source, _| sources.contains(source));
            let new: BTreeSet<_> = sources.into_iter().filter(|source| !known.contains_key(source)).collect();
            // Wanted from now on, even if this first look at it fails.
            known.extend(new.iter().map(|source| (source.clone(), Known::Unread)));
            new
        };
        self.read(new).await;
    }

    /// Reads what is wanted again and again; never returns.
    pub async fn keep_current(self: Arc<Self>) {
        let mut refreshed = Instant::now();
        loop {
            tokio::time::sleep(MISSING).await;
            let all = refreshed.elapsed() >= REFRESH;
            if all {
                refreshed = Instant::now();
            }
            self.read(self.due(all)).await;
        }
    }

    /// Everything that is wanted, or only what there is no value of.
    fn due(&self, all: bool) -> BTreeSet<CredentialSource> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(_, value)| all || !matches!(value, Known::Value(_))).map(|(source, _)| source.clone()).collect()
    }

    /// Reads each Secret once, however many of its keys are wanted, all at the same time.
    async fn read(&self, sources: BTreeSet<CredentialSource>) {
        let mut secrets: BTreeMap<(String, String), Vec<CredentialSource>> = BTreeMap::new();
        for source in sources {
            secrets.entry((source.namespace.clone(), source.secret.clone())).or_default().push(source);
        }
        let reads = secrets.into_iter().map(|((namespace, name), sources)| async move {
            let api: Api<SecretObject> = Api::namespaced(self.client.clone(), &namespace);
            match tokio::time::timeout(ANSWER, api.get_opt(&name)).await {
                Ok(Ok(secret)) => self.keep(sources, secret.as_ref()),
                Ok(Err(error)) => tracing::warn!(%namespace, secret = %name, %error, "a provider's credential cannot be read"),
                Err(_) => tracing::warn!(%namespace, secret = %name, "a provider's credential was not answered in time"),
            }
        });
        futures::future::join_all(reads).await;
    }

    fn keep(&self, sources: Vec<CredentialSource>, secret: Option<&SecretObject>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for source in sources {
            let value = credential(secret, &source.key).map_or(Known::Absent, Known::Value);
            // One that is wanted no longer stays forgotten.
            let Some(before) = known.get_mut(&source).filter(|before| **before != value) else { continue };
            if value == Known::Absent {
                let CredentialSource { namespace, secret, key } = &source;
                tracing::warn!(%namespace, %secret, %key, "a ModelRoute names a credential that does not exist; its backend will be refused");
            }
            *before = value;
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

/// The text under `key`, without the line end that editors and `echo` leave; `None` when there is no usable text.
fn credential(secret: Option<&SecretObject>, key: &str) -> Option<Secret> {
    let bytes = &secret?.data.as_ref()?.get(key)?.0;
    let text = std::str::from_utf8(bytes).ok()?.trim();
    (!text.is_empty()).then(|| Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_the_text_under_its_key_without_line_ends() {
        let secret: SecretObject =
            serde_json::from_value(serde_json::json!({"data": {"good": "c2stMQo=", "blank": "Cg==", "binary": "/w=="}})).expect("a Secret");
        assert_eq!(credential(Some(&secret), "good"), Some(Secret::new("sk-1".into())));
        for key in ["blank", "binary", "absent"] {
            assert_eq!(credential(Some(&secret), key), None, "{key}");
        }
        assert_eq!(credential(None, "good"), None);
    }
}
