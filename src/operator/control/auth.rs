//! Who is calling: a pod, by its bound service-account token, as the API server confirms it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::channel::TOKEN_AUDIENCE;

/// How long the API server's answer holds: as long as a token of a pod that is gone may still be believed.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Most answers that are held.
const MOST: usize = 20_000;
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The user names of service accounts: this, the namespace, a colon, the name.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A pod, as its token proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
}

/// Why a caller is not believed.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the call has no token; send the pod's service-account token (audience {TOKEN_AUDIENCE}) as `authorization: Bearer …`")]
    NoToken,
    #[error("the API server does not accept the token: {0}")]
    Rejected(String),
    #[error("the token is not for the audience {TOKEN_AUDIENCE}, but for {0}")]
    Audience(String),
    #[error("the token belongs to {0}, which is not a pod; it must be one that is bound to a pod, as projected volumes hold it")]
    NotAPod(String),
    #[error("the API server cannot be asked about the token: {0}")]
    Unavailable(#[from] kube::Error),
}

/// Asks the API server, and remembers its answers for a while.
pub struct Authenticator {
    client: Client,
    /// By the token's hash: the token itself is not kept.
    believed: Mutex<HashMap<[u8; 32], (Caller, Instant)>>,
}

impl Authenticator {
    pub fn new(client: Client) -> Authenticator {
        Authenticator { client, believed: Mutex::default() }
    }

    /// The pod whose token this is.
    pub async fn caller(&self, token: &str) -> Result<Caller, AuthError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(caller) = self.remembered(&hash) {
            return Ok(caller);
        }
        let asked = Instant::now();
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let caller = caller_of(&answer.status.unwrap_or_default())?;
        self.remember(hash, caller.clone(), asked + REMEMBERED);
        Ok(caller)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Caller> {
        let believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed.get(hash).filter(|(_, until)| Instant::now() < *until).map(|(caller, _)| caller.clone())
    }

    fn remember(&self, hash: [u8; 32], caller: Caller, until: Instant) {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        if believed.len() >= MOST {
            let now = Instant::now();
            believed.retain(|_, (_, until)| now < *until);
        }
        if believed.len() < MOST {
            believed.insert(hash, (caller, until));
        }
    }
}

/// The pod that the API server's answer names.
fn caller_of(status: &TokenReviewStatus) -> Result<Caller, AuthError> {
    if status.authenticated != Some(true) {
        return Err(AuthError::Rejected(status.error.clone().unwrap_or_else(|| "it is not valid, or no longer".to_owned())));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(AuthError::Audience(if audiences.is_empty() { "none".to_owned() } else { audiences.join(", ") }));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().cloned();
    let namespace = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')).map(|(namespace, _)| namespace.to_owned());
    match (namespace, extra(POD_NAME), extra(POD_UID)) {
        (Some(namespace), Some(pod), Some(uid)) => Ok(Caller { namespace, pod, uid }),
        _ => Err(AuthError::NotAPod(if name.is_empty() { "nobody".to_owned() } else { name })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(value: Value) -> TokenReviewStatus {
        serde_json::from_value(value).expect("a status")
    }

    fn pod_user() -> Value {
        json!({"username": "system:serviceaccount:shop:default", "extra": {POD_NAME: ["bot-1"], POD_UID: ["u1"]}})
    }

    #[test]
    fn a_bound_token_for_our_audience_proves_a_pod() {
        let caller = caller_of(&status(json!({"authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": pod_user()})));
        assert_eq!(caller.ok(), Some(Caller { namespace: "shop".into(), pod: "bot-1".into(), uid: "u1".into() }));
    }

    #[test]
    fn anything_else_is_turned_away_with_the_reason() {
        let bare = json!({"username": "system:serviceaccount:shop:default"});
        let person = json!({"username": "alice", "extra": {POD_NAME: ["p"], POD_UID: ["u"]}});
        let table = [
            (json!({"error": "token has expired"}), "token has expired"),
            (json!({"authenticated": false}), "not valid"),
            (json!({"authenticated": true, "audiences": ["kubernetes"], "user": pod_user()}), "but for kubernetes"),
            (json!({"authenticated": true, "user": pod_user()}), "but for none"),
            (json!({"authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": bare}), "bound to a pod"),
            (json!({"authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": person}), "alice"),
        ];
        for (answer, expected) in table {
            let message = caller_of(&status(answer)).expect_err("a refusal").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
