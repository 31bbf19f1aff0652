//! Which pods there are, and what each one's policy is now: the rules of [`policies`](super::policies) kept current.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::context::Context;
use super::credentials::Credentials;
use super::policies::{Fingerprint, PodPolicy, Rules};
use super::selection::PodFacts;
use crate::core::budget::BudgetSet;

/// Changes this close together are looked at once; far below the second within which a sidecar must know.
const COALESCE: Duration = Duration::from_millis(50);
/// How long a pod that is gone is remembered, for reports that are still on their way.
const REMEMBERED: Duration = Duration::from_secs(120);

/// A pod and what it is told.
#[derive(Debug)]
pub struct Member {
    pub pod: Arc<PodFacts>,
    pub told: PodPolicy,
    /// The policy's budgets, compiled.
    pub budgets: BudgetSet,
    rules: Arc<Rules>,
}

impl Member {
    fn new(pod: Arc<PodFacts>, rules: Arc<Rules>) -> Member {
        let told = rules.policy_for(&pod);
        let budgets = BudgetSet::compile(told.policy.budgets.clone())
            .expect("the rules hold only budgets that compile, and keys of limits begin with their budget's name");
        Member { pod, told, budgets, rules }
    }
}

/// Pods by UID under one set of rules.
#[derive(Clone, Debug, Default)]
pub struct View {
    rules: Arc<Rules>,
    pods: Arc<BTreeMap<String, Arc<PodFacts>>>,
}

impl View {
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodFacts>> {
        self.pods.get(uid)
    }
}

/// The roster of pods with a sidecar.
#[derive(Default)]
pub struct Roster {
    view: watch::Sender<View>,
    /// Which of the index's changes the view is of.
    seen: watch::Sender<u64>,
    members: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    member: Arc<Member>,
    gone_since: Option<Instant>,
}

impl Roster {
    /// Changes only when pods or rules did; not with each status.
    pub fn views(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Waits until the view includes this change of the index.
    pub async fn seen(&self, change: u64) {
        // The sender lives in `self`, so waiting can only end with the condition.
        let _ = self.seen.subscribe().wait_for(|seen| *seen >= change).await;
    }

    /// The pod with this UID as of now, if it is there.
    pub fn member(&self, uid: &str) -> Option<Arc<Member>> {
        let view = self.view.borrow().clone();
        let pod = view.pods.get(uid)?.clone();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = members.get(uid).filter(|e| Arc::ptr_eq(&e.member.pod, &pod) && Arc::ptr_eq(&e.member.rules, &view.rules)) {
            return Some(entry.member.clone());
        }
        let member = Arc::new(Member::new(pod, view.rules));
        members.insert(uid.to_owned(), Entry { member: member.clone(), gone_since: None });
        Some(member)
    }

    /// The pod with this UID as it was last, even if it went away lately.
    pub fn member_or_late(&self, uid: &str) -> Option<Arc<Member>> {
        self.member(uid).or_else(|| {
            let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.get(uid).map(|entry| entry.member.clone())
        })
    }

    /// A pod that is not on the roster, under the rules as they are.
    pub fn as_member(&self, pod: PodFacts) -> Arc<Member> {
        Arc::new(Member::new(Arc::new(pod), self.view.borrow().rules.clone()))
    }

    /// Waits until the pod with this UID is known: its token can be here before the watch's event.
    pub async fn member_within(&self, uid: &str, patience: Duration) -> Option<Arc<Member>> {
        let mut views = self.views();
        // The sender lives in `self`, so only the time can run out. What `wait_for` returns locks the view: it is dropped.
        let known = tokio::time::timeout(patience, views.wait_for(|view| view.pods.contains_key(uid))).await.map(drop);
        known.ok().and_then(|()| self.member(uid))
    }

    /// Follows the index; returns only when that is gone. Credentials of new routes are read before anybody is told of them.
    pub async fn keep_current(&self, context: &Context, credentials: &Credentials) {
        let mut changes = context.index.changes();
        let mut throttles = context.runaways.throttles();
        context.index.ready().await;
        let mut fingerprint = None;
        loop {
            let seen = *changes.borrow_and_update();
            let snapshot = context.index.snapshot();
            let held = throttles.borrow_and_update().clone();
            let now = Fingerprint::of(&snapshot, &held);
            let mut rules = self.view.borrow().rules.clone();
            if fingerprint.as_ref() != Some(&now) {
                rules = Arc::new(Rules::of(&snapshot, &context.namespace, &held));
                credentials.want(rules.credential_sources()).await;
                fingerprint = Some(now);
            }
            self.publish(seen, rules, snapshot.pods);
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = throttles.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Puts rules and pods as of a change of the index in force.
    pub(super) fn publish(&self, seen: u64, rules: Arc<Rules>, pods: Vec<PodFacts>) {
        let known = self.view.borrow().pods.clone();
        let keep = |pod: PodFacts| match known.get(&pod.origin.pod_uid) {
            Some(same) if **same == pod => (pod.origin.pod_uid.clone(), same.clone()),
            _ => (pod.origin.pod_uid.clone(), Arc::new(pod)),
        };
        let pods: BTreeMap<_, _> = pods.into_iter().map(keep).collect();
        self.forget(&pods);
        self.view.send_if_modified(|view| {
            let same_pods = *view.pods == pods;
            let changed = !same_pods || !Arc::ptr_eq(&view.rules, &rules);
            *view = View { rules, pods: if same_pods { view.pods.clone() } else { Arc::new(pods) } };
            changed
        });
        self.seen.send_replace(seen);
    }

    fn forget(&self, pods: &BTreeMap<String, Arc<PodFacts>>) {
        let now = Instant::now();
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|uid, entry| {
            entry.gone_since = if pods.contains_key(uid) { None } else { entry.gone_since.or(Some(now)) };
            entry.gone_since.is_none_or(|since| now - since < REMEMBERED)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dimensions::Origin;

    fn pod(uid: &str) -> PodFacts {
        PodFacts { origin: Origin { pod_uid: uid.into(), pod: uid.into(), ..Origin::default() }, ..PodFacts::default() }
    }

    #[test]
    fn nobody_is_woken_while_nothing_changes_for_pods() {
        let roster = Roster::default();
        let rules = Arc::new(Rules::default());
        let mut views = roster.views();
        roster.publish(1, rules.clone(), vec![pod("a")]);
        assert!(views.has_changed().expect("the roster lives"));
        views.mark_unchanged();
        roster.publish(1, rules, vec![pod("a")]);
        assert!(!views.has_changed().expect("the roster lives"));
        roster.publish(1, Arc::new(Rules::default()), vec![pod("a")]);
        assert!(views.has_changed().expect("the roster lives"));
    }

    #[test]
    fn a_member_is_decided_once_for_each_change() {
        let roster = Roster::default();
        roster.publish(1, Arc::default(), vec![pod("a")]);
        let first = roster.member("a").expect("known");
        assert!(Arc::ptr_eq(&first, &roster.member("a").expect("known")));
        let changed = PodFacts { ended: true, ..pod("a") };
        roster.publish(1, Arc::default(), vec![changed]);
        assert!(roster.member("a").expect("known").pod.ended);
    }

    #[test]
    fn a_pod_that_went_away_can_still_be_reported_for() {
        let roster = Roster::default();
        roster.publish(1, Arc::default(), vec![pod("a")]);
        roster.member("a").expect("known");
        roster.publish(1, Arc::default(), vec![]);
        assert!(roster.member("a").is_none());
        assert!(roster.member_or_late("a").is_some());
        assert!(roster.member_or_late("never").is_none());
    }

    #[tokio::test]
    async fn a_pod_whose_token_came_before_the_watchs_event_is_waited_for() {
        let roster = Arc::new(Roster::default());
        let (waiting, late) = (roster.clone(), roster.clone());
        let waiter = tokio::spawn(async move { waiting.member_within("a", Duration::from_secs(60)).await });
        tokio::task::yield_now().await;
        late.publish(1, Arc::default(), vec![pod("a")]);
        assert!(waiter.await.expect("it ended").is_some());
        assert!(roster.member_within("b", Duration::from_millis(1)).await.is_none());
    }
}
