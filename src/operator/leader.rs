//! One leader at a time, by a Lease in the cluster: it reconciles and writes, and where the ledger has one writer it is that.
//!
//! The rules are those of client-go: a candidate takes a lease over once nobody renewed it for its duration, *as the
//! candidate's own clock measured it*, so that clocks need not agree; every write carries the resource version that the
//! decision was made on, so that of two candidates one wins. A leader that could not renew for [`RENEW_DEADLINE`]
//! stops, well before anybody else may take over. So does a replica that serves beside the leader and could not even look at the lease
//! for so long: it would hold sidecars to budgets as they were.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a lease holds without being renewed.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it gives up; shorter than [`LEASE_DURATION`].
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at the lease.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(4);

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    lease: String,
    identity: String,
    seen: Option<Observation>,
}

/// A lease as last seen, and since when it has been so.
#[derive(Clone, Debug)]
struct Observation {
    lease: Lease,
    since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is free, or nobody renewed it in time.
    Take,
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// What `identity` does about a lease that has been as it is for `unchanged`.
fn decide(identity: &str, spec: &LeaseSpec, unchanged: Duration) -> Step {
    let duration = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(LEASE_DURATION, Duration::from_secs);
    match spec.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) if unchanged >= duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The lease that `identity` writes in place of `spec`.
fn claimed(identity: &str, spec: &LeaseSpec, step: Step, now: Timestamp) -> LeaseSpec {
    let taken = step == Step::Take;
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: if taken { Some(MicroTime(now)) } else { spec.acquire_time.clone() },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(taken)),
        ..spec.clone()
    }
}

impl Candidate {
    /// `identity` must be unique to this process, for example the pod's name.
    pub fn new(client: Client, namespace: &str, lease: &str, identity: &str) -> Candidate {
        let api = Api::namespaced(client, namespace);
        Candidate { api, lease: lease.to_owned(), identity: identity.to_owned(), seen: None }
    }

    /// Returns true once this candidate leads; false when the API server could not be asked for `patience`.
    pub async fn lead(&mut self, patience: Duration) -> bool {
        let (mut told, mut answered) = (String::new(), Instant::now());
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {
                    answered = Instant::now();
                    let holder = self.holder();
                    if holder != told {
                        tracing::info!(%holder, lease = %self.lease, "another operator leads; waiting for its lease to end");
                        told = holder;
                    }
                }
                Err(error) => tracing::warn!(%error, lease = %self.lease, "the leader's lease cannot be taken; trying again"),
            }
            if answered.elapsed() >= patience {
                return false;
            }
            sleep(RETRY).await;
        }
    }

    /// Renews the lease for as long as that works; returns when this candidate leads no longer.
    pub async fn keep_leading(&mut self) {
        let mut deadline = Instant::now() + RENEW_DEADLINE;
        loop {
            sleep(RETRY).await;
            let asked = Instant::now();
            match timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => deadline = asked + RENEW_DEADLINE,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(%error, lease = %self.lease, "the leader's lease cannot be renewed; trying again"),
            }
        }
    }

    /// Lets the next candidate lead at once.
    pub async fn resign(&mut self) {
        let Some(Observation { lease: mut held, .. }) = self.seen.take() else { return };
        let Some(spec) = held.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) else { return };
        spec.holder_identity = None;
        if let Err(error) = timeout(ANSWER, self.api.replace(&self.lease, &PostParams::default(), &held)).await {
            tracing::warn!(%error, "the leader's lease was not given back; the next leader waits until it ends");
        }
    }

    /// One look at the lease and, if due, one write. True when this candidate leads afterwards.
    async fn attempt(&mut self) -> Result<bool, LeaderError> {
        let Some(lease) = timeout(ANSWER, self.api.get_opt(&self.lease)).await?? else { return self.create().await };
        let unchanged = self.observe(&lease);
        let spec = lease.spec.clone().unwrap_or_default();
        let step = decide(&self.identity, &spec, unchanged);
        if step == Step::Wait {
            return Ok(false);
        }
        let next = Lease { spec: Some(claimed(&self.identity, &spec, step, Timestamp::now())), ..lease };
        match timeout(ANSWER, self.api.replace(&self.lease, &PostParams::default(), &next)).await? {
            Ok(written) => {
                self.observe(&written);
                Ok(true)
            }
            // Somebody else was faster: the next look tells who leads.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn create(&mut self) -> Result<bool, LeaderError> {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.lease.clone());
        lease.spec = Some(claimed(&self.identity, &LeaseSpec::default(), Step::Take, Timestamp::now()));
        match timeout(ANSWER, self.api.create(&PostParams::default(), &lease)).await? {
            Ok(written) => {
                self.observe(&written);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers the lease; returns for how long it has been seen as it is.
    fn observe(&mut self, lease: &Lease) -> Duration {
        match &self.seen {
            Some(seen) if seen.lease.resource_version() == lease.resource_version() => seen.since.elapsed(),
            _ => {
                self.seen = Some(Observation { lease: lease.clone(), since: Instant::now() });
                Duration::ZERO
            }
        }
    }

    fn holder(&self) -> String {
        let spec = self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
    }
}

/// Why a look at the lease failed.
#[derive(Debug, thiserror::Error)]
enum LeaderError {
    #[error("the API server did not answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.into()), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
    }

    #[test]
    fn a_lease_is_taken_over_only_when_nobody_renewed_it_for_its_duration() {
        let table = [
            (LeaseSpec::default(), 0, Step::Take),
            (held_by(""), 0, Step::Take),
            (held_by("me"), 0, Step::Renew),
            (held_by("me"), 99, Step::Renew),
            (held_by("other"), 14, Step::Wait),
            (held_by("other"), 15, Step::Take),
        ];
        for (spec, seconds, expected) in table {
            assert_eq!(decide("me", &spec, Duration::from_secs(seconds)), expected, "{spec:?} after {seconds} s");
        }
    }

    #[test]
    fn a_leader_stops_before_anybody_may_take_over() {
        assert!(RENEW_DEADLINE + RETRY < LEASE_DURATION);
    }

    #[test]
    fn a_take_over_is_a_transition_and_a_renewal_is_not() {
        let first = Timestamp::from_second(1).expect("a time");
        let later = Timestamp::from_second(2).expect("a time");
        let taken = claimed("me", &held_by("other"), Step::Take, first);
        let renewed = claimed("me", &taken, Step::Renew, later);
        assert_eq!((taken.lease_transitions, renewed.lease_transitions), (Some(1), Some(1)));
        assert_eq!(renewed.acquire_time, taken.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
    }
}
