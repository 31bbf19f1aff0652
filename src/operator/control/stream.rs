//! One sidecar's stream: its policy and credentials at once, again after each change of them, and recalls between.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use prometheus::IntGauge;
use tokio::sync::{broadcast, mpsc, watch};
use tonic::Status;

use super::ControlService;
use crate::channel::message::{BackendCredential, Pushed};
use crate::channel::proto;
use crate::core::budget::changed_limits;
use crate::core::limit::LimitKey;
use crate::core::policy::Policy;
use crate::operator::policies::PodPolicy;
use crate::operator::recalls::Recall;
use crate::operator::roster::{Member, View};

/// Messages that may wait for a slow sidecar; after that, later ones are decided when there is room.
const BACKLOG: usize = 4;

/// What the sidecar reads; dropping it ends its task.
pub struct Pushes {
    messages: mpsc::Receiver<Result<proto::Push, Status>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream for Pushes {
    type Item = Result<proto::Push, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(context)
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connected sidecar for as long as it lives.
struct Connected(IntGauge);

impl Connected {
    fn new(gauge: IntGauge) -> Connected {
        gauge.inc();
        Connected(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Begins to push to `member`'s sidecar.
pub fn start(service: &Arc<ControlService>, member: &Member) -> Pushes {
    let (sender, messages) = mpsc::channel(BACKLOG);
    let feed = Feed {
        uid: member.pod.origin.pod_uid.clone(),
        views: service.roster.views(),
        credentials: service.credentials.changes(),
        recalls: service.context.recalls.subscribe(),
        stopping: service.stopping.clone(),
        told: None,
        sender,
        _connected: Connected::new(service.metrics.sidecars.with_label_values::<&str>(&[])),
        service: service.clone(),
    };
    Pushes { messages, task: tokio::spawn(feed.run()) }
}

struct Feed {
    service: Arc<ControlService>,
    uid: String,
    views: watch::Receiver<View>,
    credentials: watch::Receiver<u64>,
    recalls: broadcast::Receiver<Recall>,
    stopping: watch::Receiver<bool>,
    told: Option<Told>,
    sender: mpsc::Sender<Result<proto::Push, Status>>,
    _connected: Connected,
}

/// What the sidecar knows.
#[derive(Debug, PartialEq)]
struct Told {
    policy: PodPolicy,
    credentials: Vec<BackendCredential>,
}

/// What wakes a stream.
enum Event {
    /// Pods, rules or credentials may be different.
    Changed,
    Recall(Recall),
    Stop,
}

impl Feed {
    async fn run(mut self) {
        // The receiver is dropped with the stream, so a message that cannot be sent ends it.
        while self.tell().await.is_some() {
            let sent = match self.next().await {
                Event::Changed => Some(()),
                Event::Recall(recall) => self.pass_on(&recall).await,
                Event::Stop => self.say_goodbye(Status::unavailable("the operator stops; connect again")).await,
            };
            if sent.is_none() {
                return;
            }
        }
    }

    async fn next(&mut self) -> Event {
        use broadcast::error::RecvError;
        tokio::select! {
            changed = self.views.changed() => changed.map_or(Event::Stop, |()| Event::Changed),
            changed = self.credentials.changed() => changed.map_or(Event::Stop, |()| Event::Changed),
            recall = self.recalls.recv() => match recall {
                Ok(recall) => Event::Recall(recall),
                // Some were missed: whoever still lacks something is refused again and recalls again.
                Err(RecvError::Lagged(_)) => Event::Changed,
                Err(RecvError::Closed) => Event::Stop,
            },
            _ = self.stopping.wait_for(|stop| *stop) => Event::Stop,
        }
    }

    /// Pushes the policy if it differs from what the sidecar knows; `None` when the stream is to end.
    async fn tell(&mut self) -> Option<()> {
        self.views.mark_unchanged();
        self.credentials.mark_unchanged();
        let Some(member) = self.service.roster.member(&self.uid) else {
            return self.say_goodbye(Status::permission_denied("the pod is gone")).await;
        };
        let credentials = self.service.credentials.of(&member.told.credentials);
        let now = Told { policy: member.told.clone(), credentials };
        if self.told.as_ref() == Some(&now) {
            return Some(());
        }
        let recall =
            self.told.as_ref().map_or_else(Vec::new, |told| changed_limits(&told.policy.policy.budgets, &now.policy.policy.budgets));
        let policy = Policy { generation: self.service.next_generation(), ..now.policy.policy.clone() };
        self.push("policy", Some(policy), now.credentials.clone(), recall).await?;
        self.told = Some(now);
        Some(())
    }

    /// Pushes a recall if it is about limits of this sidecar's policy.
    async fn pass_on(&self, recall: &Recall) -> Option<()> {
        let Some(member) = self.service.roster.member(&self.uid).filter(|_| recall.by.as_ref() != Some(&self.uid)) else { return Some(()) };
        let mine: BTreeSet<LimitKey> = recall.limits.iter().filter(|key| member.budgets.terms(key, 0).is_some()).cloned().collect();
        if mine.is_empty() {
            return Some(());
        }
        self.push("recall", None, vec![], mine.into_iter().collect()).await
    }

    async fn push(&self, content: &str, policy: Option<Policy>, credentials: Vec<BackendCredential>, recall: Vec<LimitKey>) -> Option<()> {
        let operator_version = env!("CARGO_PKG_VERSION").to_owned();
        let message = proto::Push::from(&Pushed { policy, credentials, recall, operator_version });
        self.sender.send(Ok(message)).await.ok()?;
        self.service.metrics.pushes.with_label_values(&[content]).inc();
        Some(())
    }

    /// Ends the stream with a reason.
    async fn say_goodbye(&self, status: Status) -> Option<()> {
        // An error means that the sidecar has left already.
        let _ = self.sender.send(Err(status)).await;
        None
    }
}
