//! Keeping the policy current: what the operator pushes is put in force; while it is away the last policy holds.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::call::Sidecar;
use super::config::{Snapshot, put_in_force};
use crate::channel::client::{ClientError, OperatorClient};
use crate::channel::message::Pushed;
use crate::core::budget::changed_limits;

/// Another replica of the operator may be there at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection is made anew after so long at least, and twice that at most: sidecars spread over the operators that there are, also
/// over those that came last, and not all at once.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// Follows the operator for ever.
pub async fn follow(sidecar: Arc<Sidecar>, client: OperatorClient) {
    let mut pause = FIRST_PAUSE;
    loop {
        match follow_once(&sidecar, &client).await {
            // The stream lived, so the next attempt need not wait long.
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => tracing::warn!(%error, "the operator cannot be followed; the last policy stays in force"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow_once(sidecar: &Sidecar, client: &OperatorClient) -> Result<(), ClientError> {
    let mut pushes = std::pin::pin!(client.watch().await?);
    let mut old = std::pin::pin!(tokio::time::sleep(CONNECTION_LIFE + random_part(CONNECTION_LIFE)));
    let mut lived = false;
    loop {
        let push = tokio::select! {
            push = pushes.next() => push,
            () = &mut old => {
                client.connect_anew();
                return Ok(());
            }
        };
        let Some(push) = push else { return Ok(()) };
        match push {
            Ok(push) => take(sidecar, push),
            Err(error) if lived => {
                tracing::info!(%error, "the operator's stream broke off");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        lived = true;
    }
}

fn random_part(of: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    of.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Does as the operator says.
pub fn take(sidecar: &Sidecar, push: Pushed) {
    if let Some(policy) = push.policy {
        let generation = policy.generation;
        let before = sidecar.in_force.load_full();
        match put_in_force(&sidecar.in_force, policy, &push.credentials) {
            Ok(()) => {
                tracing::info!(generation, operator = push.operator_version, "a policy is in force");
                revoke_changed(sidecar, before.as_deref());
            }
            Err(error) => tracing::error!(generation, %error, "a policy cannot be used; the one before stays in force"),
        }
    }
    if !push.recall.is_empty() {
        sidecar.accounts.leases.recall(&push.recall);
    }
}

/// What is held under limits that are not what they were is not drawn on any more, so that a lowered limit binds at once.
fn revoke_changed(sidecar: &Sidecar, before: Option<&Snapshot>) {
    let (Some(before), Some(now)) = (before, sidecar.in_force.load_full()) else { return };
    let changed = changed_limits(&before.policy.budgets, &now.policy.budgets);
    if !changed.is_empty() {
        sidecar.accounts.leases.revoke(&changed);
    }
}
