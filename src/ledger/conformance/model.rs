//! Random histories against a model that is too simple to be wrong: after every step the ledger must agree with it, and
//! nothing may be overspent.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::ledger::{Decision, Entry, Ledger};

const LIMIT: i128 = 1_000;
const LEASES: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        lease: u8,
        min: i128,
        more: i128,
    },
    /// Opens a call within what the lease has free, and settles it for at most what it reserved.
    Call {
        lease: u8,
        share: u8,
        cost_share: u8,
    },
    /// Opens a call and leaves it open; then it learns that it needs only a share of that.
    Hang {
        lease: u8,
        share: u8,
        needed_share: u8,
    },
    GiveBack {
        lease: u8,
        share: u8,
    },
    Gone {
        lease: u8,
    },
    /// Sends the last report once more.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let lease = 0..LEASES;
    let share = 0_u8..=100;
    prop_oneof![
        (lease.clone(), 1..200_i128, 0..400_i128).prop_map(|(lease, min, more)| Step::Acquire { lease, min, more }),
        (lease.clone(), share.clone(), share.clone()).prop_map(|(lease, share, cost_share)| Step::Call { lease, share, cost_share }),
        (lease.clone(), share.clone(), share.clone()).prop_map(|(lease, share, needed_share)| Step::Hang { lease, share, needed_share }),
        (lease.clone(), share).prop_map(|(lease, share)| Step::GiveBack { lease, share }),
        lease.prop_map(|lease| Step::Gone { lease }),
        Just(Step::Again),
    ]
}

/// What a lease holds, and what its open calls have reserved of it.
#[derive(Clone, Debug, Default)]
struct Lease {
    held: i128,
    open: i128,
    seq: u64,
}

#[derive(Default)]
struct Model {
    number: u32,
    settled: i128,
    leases: BTreeMap<u8, Lease>,
    calls: u32,
    last: Option<(HolderId, Vec<Entry>)>,
}

impl Model {
    fn limit(&self) -> LimitTerms {
        limit(&format!("ns/b/{}", self.number), LIMIT)
    }

    fn pod(&self, lease: u8) -> HolderId {
        holder(&format!("pod-{}-{lease}", self.number))
    }

    fn share(&self, lease: u8, percent: u8) -> i128 {
        self.leases.get(&lease).map_or(0, |l| (l.held - l.open) * i128::from(percent) / 100)
    }

    async fn report(&mut self, ledger: &dyn Ledger, lease: u8, entries: Vec<Entry>) {
        let of = self.pod(lease);
        ledger.report(&of, entries.clone(), 2_000).await.expect("reported");
        self.last = Some((of, entries));
    }

    async fn step(&mut self, ledger: &dyn Ledger, step: Step) {
        let number = self.number;
        let id = |lease: u8| LeaseId(format!("lease-{number}-{lease}").into());
        match step {
            Step::Acquire { lease, min, more } => {
                let (limits, state) = ([self.limit()], self.leases.entry(lease).or_default());
                state.seq += 1;
                let mut request = acquire(&id(lease).0, state.seq, &limits, min, min + more);
                request.holder = self.pod(lease);
                let left = LIMIT - self.settled - self.leases.values().map(|l| l.held).sum::<i128>();
                match ledger.acquire(request).await.expect("an answer") {
                    Decision::Granted { granted, .. } => {
                        assert!(granted.usd.0 >= min && granted.usd.0 <= left, "granted {granted:?} of {left}");
                        self.leases.entry(lease).or_default().held += granted.usd.0;
                    }
                    Decision::Refused { .. } => assert!(left < min, "refused {min} of {left}"),
                    Decision::Expired => panic!("nothing expires here"),
                }
            }
            Step::Call { lease, share, cost_share } => {
                let reserved = self.share(lease, share);
                let cost = reserved * i128::from(cost_share) / 100;
                self.calls += 1;
                let call = format!("call-{number}-{}", self.calls);
                let settled =
                    Entry::Settled { record: record(&call, cost, CallOutcome::Completed), lease: Some(id(lease)), unleased: vec![] };
                self.report(
                    ledger,
                    lease,
                    vec![
                        Entry::Opened {
                            call: CallId(call.into()),
                            lease: Some(id(lease)),
                            reserved: usd(reserved),
                            draft: None,
                            unleased: vec![],
                        },
                        settled,
                    ],
                )
                .await;
                if let Some(state) = self.leases.get_mut(&lease) {
                    state.held -= cost;
                    self.settled += cost;
                }
            }
            Step::Hang { lease, share, needed_share } => {
                let reserved = self.share(lease, share);
                let needed = reserved * i128::from(needed_share) / 100;
                self.calls += 1;
                let call = CallId(format!("call-{number}-{}", self.calls).into());
                let opened = |reserved| Entry::Opened {
                    call: call.clone(),
                    lease: Some(id(lease)),
                    reserved: usd(reserved),
                    draft: None,
                    unleased: vec![],
                };
                self.report(ledger, lease, vec![opened(reserved), opened(needed), opened(reserved)]).await;
                if let Some(state) = self.leases.get_mut(&lease) {
                    state.open += needed;
                }
            }
            Step::GiveBack { lease, share } => {
                let amount = self.share(lease, share);
                let seq = self.leases.get(&lease).map_or(1, |l| l.seq + 1);
                self.report(ledger, lease, vec![Entry::GivenBack { lease: id(lease), seq, amount: usd(amount) }]).await;
                if let Some(state) = self.leases.get_mut(&lease) {
                    state.held -= amount;
                    state.seq = seq;
                }
            }
            Step::Gone { lease } => {
                ledger.holder_gone(&self.pod(lease), 2_000).await.expect("reconciled");
                if let Some(state) = self.leases.get_mut(&lease) {
                    self.settled += state.open;
                    *state = Lease { seq: state.seq, ..Lease::default() };
                }
                // What was reported before is not sent again once its sender is gone.
                self.last = None;
            }
            Step::Again => {
                if let Some((of, entries)) = self.last.clone() {
                    ledger.report(&of, entries, 2_000).await.expect("reported");
                }
            }
        }
    }
}

/// Histories that are tried; all in one ledger, each on a limit of its own.
const HISTORIES: u32 = 48;

pub async fn every_history_agrees_with_the_model_and_nothing_is_overspent<H: Home>() {
    let home = H::new().await;
    let ledger = home.open().await;
    let histories = proptest::collection::vec(step(), 1..40);
    let mut runner = proptest::test_runner::TestRunner::default();
    for number in 0..HISTORIES {
        let steps = histories.new_tree(&mut runner).expect("a history").current();
        let mut model = Model { number, ..Model::default() };
        for step in &steps {
            model.step(ledger.as_ref(), step.clone()).await;
            let balance = ledger.balances(&[model.limit()], 2_000).await.expect("balances").remove(0);
            let held: i128 = model.leases.values().map(|l| l.held).sum();
            let open: i128 = model.leases.values().map(|l| l.open).sum();
            assert_eq!(
                (balance.settled, balance.outstanding, balance.reserved),
                (model.settled, held, open),
                "after {step:?} of {steps:?}"
            );
            assert!(balance.left() >= 0, "overspent after {step:?} of {steps:?}: {balance:?}");
        }
    }
}
