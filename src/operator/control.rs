//! The control channel's server: policies and credentials out, lease requests and reports in.
//!
//! A caller is whom its token proves, in every call; what it may lease is what its own pod's policy names. Nothing that a
//! sidecar sends says who it is.

mod auth;
mod reports;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::context::{Context, now_ms};
use super::credentials::Credentials;
use super::metrics::Metrics;
use super::news::News;
use super::roster::{Member, Roster};
use super::tls::TlsListener;
use crate::channel::convert::{Malformed, decision_to_wire};
use crate::channel::message::LeaseAsk;
use crate::channel::proto;
use crate::channel::proto::control_server::{Control, ControlServer};
use crate::core::amount::Amount;
use crate::core::call::CallRecord;
use crate::core::limit::LimitKey;
use crate::ledger::{Decision, HolderId, LedgerError};
use auth::{AuthError, Authenticator, Caller};

/// How long a token may be ahead of the watch that tells of its pod.
const WATCH_LAG: Duration = Duration::from_secs(5);
/// How long watches may be behind the API server before a sidecar is told to connect again.
const CATCH_UP: Duration = Duration::from_secs(10);
/// A connection that is silent for so long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The service.
pub struct ControlService {
    context: Arc<Context>,
    roster: Arc<Roster>,
    credentials: Arc<Credentials>,
    authenticator: Authenticator,
    metrics: Arc<Metrics>,
    /// When the last look of [`catch_up`](Self::catch_up) began, and how it ended.
    looked: tokio::sync::Mutex<Option<(Instant, Result<(), Status>)>>,
    generation: AtomicU64,
    stopping: watch::Receiver<bool>,
}

/// Whether a call makes sense for a pod that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Required,
    /// Reports may arrive late.
    WasThere,
}

impl ControlService {
    /// `stopping` turns true when streams must end.
    pub fn new(
        context: Arc<Context>,
        roster: Arc<Roster>,
        credentials: Arc<Credentials>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
    ) -> ControlService {
        let authenticator = Authenticator::new(context.client.clone());
        ControlService {
            context,
            roster,
            credentials,
            authenticator,
            metrics,
            looked: tokio::sync::Mutex::default(),
            generation: AtomicU64::new(0),
            stopping,
        }
    }

    /// Serves until `stopping` turns true and calls under way have ended.
    pub async fn serve(self, listener: TlsListener) -> Result<(), tonic::transport::Error> {
        let mut stopping = self.stopping.clone();
        let stopped = async move {
            // An error means that whoever stops the operator is gone already.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .add_service(ControlServer::new(Arc::new(self)))
            .serve_with_incoming_shutdown(listener.into_stream(), stopped)
            .await
    }

    /// Grows with every policy of this replica, over restarts too: milliseconds since 1970, or one more than the last.
    fn next_generation(&self) -> u64 {
        let now = u64::try_from(now_ms()).unwrap_or(0);
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.generation.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_else(|last| last);
        now.max(last + 1)
    }

    /// The pod that calls, as its token proves it.
    async fn caller(&self, metadata: &MetadataMap, presence: Presence) -> Result<Arc<Member>, Status> {
        let member = self.identified(metadata, presence).await;
        if let Err(status) = &member {
            self.metrics.rejected.with_label_values(&[&format!("{:?}", status.code())]).inc();
            tracing::debug!(reason = status.message(), "a call on the control channel was turned away");
        }
        member
    }

    async fn identified(&self, metadata: &MetadataMap, presence: Presence) -> Result<Arc<Member>, Status> {
        let token = metadata.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = token.ok_or(AuthError::NoToken).map_err(unauthenticated)?;
        let caller = self.authenticator.caller(token).await.map_err(unauthenticated)?;
        let known = match presence {
            Presence::WasThere => self.was_there(&caller.uid),
            Presence::Required => None,
        };
        let member = match known {
            Some(member) => Some(member),
            None => self.roster.member_within(&caller.uid, WATCH_LAG).await,
        };
        admitted(&caller, member, presence)
    }

    /// A pod as it was last, even if it is gone and another replica served it.
    fn was_there(&self, uid: &str) -> Option<Arc<Member>> {
        self.roster.member_or_late(uid).or_else(|| self.context.index.departed(uid).map(|pod| self.roster.as_member(pod)))
    }

    /// `member`, once this replica knows of every limit in `keys`: the sidecar may have its policy from one that was told sooner. What is
    /// unknown then is gone.
    async fn knowing<'a>(&self, member: Arc<Member>, mut keys: impl Iterator<Item = &'a LimitKey>) -> Result<Arc<Member>, Status> {
        if keys.all(|key| member.budgets.terms(key, 0).is_some()) {
            return Ok(member);
        }
        self.catch_up().await?;
        Ok(self.roster.member(&member.pod.origin.pod_uid).unwrap_or(member))
    }

    /// Waits until policies are made of every budget that exists now: a pod whose budget was made before it is held by it from
    /// its first call. Those that wait share one look at the API server.
    async fn catch_up(&self) -> Result<(), Status> {
        let asked = Instant::now();
        let mut looked = self.looked.lock().await;
        if let Some((_, result)) = looked.as_ref().filter(|(began, _)| *began >= asked) {
            return result.clone();
        }
        let began = Instant::now();
        let caught_up = tokio::time::timeout(CATCH_UP, async {
            let change = self.context.index.caught_up(&self.context.client).await?;
            self.roster.seen(change).await;
            Ok::<_, kube::Error>(())
        });
        let result = match caught_up.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Status::unavailable(format!("the API server cannot be asked for budgets: {error}"))),
            Err(_) => Err(Status::unavailable("the watches are behind the API server; connect again")),
        };
        *looked = Some((began, result.clone()));
        result
    }

    /// What follows from a lease decision besides the answer: metrics, the memory of refusals, and recalls.
    fn follow_up(&self, member: &Member, need: Amount, decision: &Decision) {
        let name = match decision {
            Decision::Granted { .. } => "granted",
            Decision::Refused { .. } => "refused",
            Decision::Expired => "expired",
        };
        self.metrics.leases.with_label_values(&[name]).inc();
        let Decision::Refused { shortfalls } = decision else { return };
        for shortfall in shortfalls {
            self.metrics.refusals.with_label_values(&[shortfall.key.base()]).inc();
        }
        let news = News::of_refusal(shortfalls, need);
        self.context.recalls.ask(Some(&member.pod.origin.pod_uid), news.scarce());
        self.context.heard(news, now_ms());
    }

    fn count_call(&self, member: &Member, record: &CallRecord) {
        let origin = &member.pod.origin;
        let labels = [origin.namespace.as_str(), &origin.workload, &record.model];
        let micro_usd = u64::try_from(record.cost.0 / 1_000_000).unwrap_or(0);
        self.metrics.cost.with_label_values(&labels).inc_by(micro_usd);
        self.metrics.calls.with_label_values(&[labels[0], labels[1], labels[2], record.outcome.name()]).inc();
    }
}

/// `member` if it is the pod that `caller` proved to be.
fn admitted(caller: &Caller, member: Option<Arc<Member>>, presence: Presence) -> Result<Arc<Member>, Status> {
    let Caller { namespace, pod, uid } = caller;
    let Some(member) = member else {
        return Err(Status::permission_denied(format!(
            "pod {namespace}/{pod} (UID {uid}) is not known to have a sidecar: it lacks the label spendkeeper.dev/injected=true, which the \
             admission webhook sets, or it is gone"
        )));
    };
    let origin = &member.pod.origin;
    if (&origin.namespace, &origin.pod) != (namespace, pod) {
        return Err(Status::permission_denied(format!(
            "the token is of pod {namespace}/{pod}, but UID {uid} belongs to {}/{}",
            origin.namespace, origin.pod
        )));
    }
    if presence == Presence::Required && member.pod.ended {
        return Err(Status::permission_denied(format!("pod {namespace}/{pod} has ended; it can report, but spend no more")));
    }
    Ok(member)
}

fn unauthenticated(error: AuthError) -> Status {
    match error {
        AuthError::Unavailable(_) => Status::unavailable(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}

fn ledger_status(error: LedgerError) -> Status {
    match error {
        LedgerError::Rejected(_) => Status::permission_denied(error.to_string()),
        LedgerError::Stopped | LedgerError::Unreachable(_) => Status::unavailable(error.to_string()),
        _ => {
            tracing::error!(%error, "the ledger failed");
            Status::internal(error.to_string())
        }
    }
}

#[tonic::async_trait]
impl Control for Arc<ControlService> {
    type WatchStream = stream::Pushes;
    type ReportStream = reports::Answers;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<stream::Pushes>, Status> {
        let member = self.caller(request.metadata(), Presence::Required).await?;
        self.catch_up().await?;
        let version: String = request.get_ref().sidecar_version.chars().take(32).collect();
        tracing::info!(pod = %member.pod.origin.pod, namespace = %member.pod.origin.namespace, %version, "a sidecar connected");
        Ok(Response::new(stream::start(self, &member)))
    }

    async fn acquire(&self, request: Request<proto::AcquireRequest>) -> Result<Response<proto::AcquireResponse>, Status> {
        let timer = self.metrics.lease_seconds.with_label_values::<&str>(&[]).start_timer();
        let member = self.caller(request.metadata(), Presence::Required).await?;
        let malformed = |error: Malformed| Status::invalid_argument(error.to_string());
        let ask = LeaseAsk::try_from(request.into_inner()).map_err(malformed)?;
        let need = ask.need;
        let member = self.knowing(member, ask.limits.iter()).await?;
        let now = now_ms();
        let holder = HolderId(member.pod.origin.pod_uid.clone());
        let acquire = ask.into_acquire(holder, |key| member.budgets.terms(key, now), now);
        let acquire = acquire.map_err(|unknown| Status::permission_denied(unknown.to_string()))?;
        let decision = self.context.outages.wrote(self.context.ledger.acquire(acquire).await, now).map_err(|error| {
            self.metrics.leases.with_label_values(&["failed"]).inc();
            ledger_status(error)
        })?;
        self.follow_up(&member, need, &decision);
        timer.observe_duration();
        Ok(Response::new(decision_to_wire(decision, now)))
    }

    async fn report(&self, request: Request<Streaming<proto::ReportRequest>>) -> Result<Response<reports::Answers>, Status> {
        let (metadata, _, reports) = request.into_parts();
        Ok(Response::new(reports::answers(self, &metadata, reports, reports::LIFE).await?))
    }
}

#[cfg(test)]
mod tests;
