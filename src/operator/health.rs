//! `/healthz`, `/readyz` and `/metrics`, in the clear on a port of their own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;

use super::metrics::Metrics;

/// What the operator needs before sidecars and the API server may rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// With a ledger that has one writer, only the leader serves.
    Leadership,
    Ledger,
    /// Every watch has listed everything once.
    Index,
    Certificates,
    /// The webhook configurations carry the current CA.
    WebhookCa,
    ControlChannel,
}

impl Need {
    const ALL: [Need; 6] = [Need::Leadership, Need::Ledger, Need::Index, Need::Certificates, Need::WebhookCa, Need::ControlChannel];

    fn waiting_for(self) -> &'static str {
        match self {
            Need::Leadership => "the leader's lease: a ledger in a file has one operator, and several need PostgreSQL",
            Need::Ledger => "the ledger to open",
            Need::Index => "the first list of the cluster's objects",
            Need::Certificates => "the serving certificate",
            Need::WebhookCa => "the webhook configurations to carry the CA",
            Need::ControlChannel => "the control channel to listen",
        }
    }
}

/// Which needs are met.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<BTreeSet<Need>>);

impl Readiness {
    pub fn met(&self, need: Need) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(need);
    }

    /// What is still missing, in words; empty when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Need::ALL.into_iter().filter(|need| !met.contains(need)).map(Need::waiting_for).collect()
    }
}

/// The three pages.
pub fn pages(readiness: Arc<Readiness>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let missing = readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
    }
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_missing() {
        let readiness = Readiness::default();
        for need in Need::ALL {
            assert!(readiness.missing().contains(&need.waiting_for()), "{need:?}");
            readiness.met(need);
        }
        assert!(readiness.missing().is_empty());
    }
}
