//! A node that is lost without a word: the sidecar on it with its journal, and what it held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use spendkeeper::api::AIBudget;
use spendkeeper::core::money::PicoUsd;

use super::cluster::shared;
use super::provider::UNANSWERED;
use super::scene::Scene;
use super::sidecar::Sidecar;
use super::wait::until;
use super::workload::{Workload, injected};

const LIMIT_MICRO: i64 = 100_000;
const OPEN: i64 = 3;
/// Of a call: its output cap, and what it may cost.
const CAP: u64 = 400;
/// As `operator/departures.rs` has it: longer than any lease is valid, and then the next look.
const GRACE: Duration = Duration::from_secs(65);
const SWEEP: Duration = Duration::from_secs(5);
/// What a machine that is busy with other tests takes for a look at it all.
const BUSY: Duration = Duration::from_secs(15);

/// What is spent and what is held under the budget, as its status says, in millionths of a dollar.
fn standing(budget: &AIBudget) -> Option<(i64, i64)> {
    let limit = budget.status.as_ref()?.limits.first()?;
    let micro = |text: &str| Some(i64::try_from(text.trim_start_matches('$').parse::<PicoUsd>().ok()?.0 / 1_000_000).unwrap());
    Some((micro(&limit.spent)?, micro(&limit.reserved)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_node_held_is_charged_or_freed_in_time_and_the_limit_holds() {
    let scene = Scene::new("lost").await;
    let provider = scene.provider().await;
    scene.budget_in_force("b", json!({"usd": "0.10"})).await;
    let workload = Workload::start(&scene, injected("lost")).await;
    // A kubelet would say so: whoever never ran can hold nothing.
    let ran = json!({"status": {"phase": "Running", "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}]}});
    scene.api::<Pod>().patch_status("lost", &PatchParams::default(), &Patch::Merge(ran)).await.unwrap();
    let sidecar = Arc::new(Sidecar::start(&scene, &workload).await);
    assert_eq!(sidecar.chat(CAP).await.status, 200);
    let answered = provider.billed_micro();
    let open = (0..OPEN).map(|_| {
        let sidecar = Arc::clone(&sidecar);
        let body = json!({"model": "big", "max_completion_tokens": CAP, "messages": [{"role": "user", "content": UNANSWERED}]});
        tokio::spawn(async move { sidecar.post(body).await })
    });
    let open: Vec<_> = open.collect();
    let each = (UNANSWERED.len() as i64 + 400) * 10;
    until("the calls are open and reported", async || {
        let gauges = ["calls_open", "journal_backlog_bytes"].map(|name| sidecar.gauge(&format!("spendkeeper_sidecar_{name}")));
        let seen = (provider.billed_micro() - answered, gauges);
        if seen == (OPEN * each, [Some(OPEN as f64), Some(0.0)]) { Ok(()) } else { Err(seen) }
    })
    .await;
    for call in &open {
        call.abort();
    }
    for call in open {
        assert!(call.await.unwrap_err().is_cancelled());
    }
    Arc::into_inner(sidecar).unwrap().lose();
    scene.api::<Pod>().delete("lost", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    let lost = Instant::now();
    let before = scene.once::<AIBudget>("something is held", "b", |b| standing(b).is_some_and(|(_, held)| held > 0)).await;
    let (spent, held) = standing(&before).unwrap();
    assert_eq!(spent, answered);

    let after = scene.once::<AIBudget>("nothing is held any more", "b", |b| standing(b).is_some_and(|(_, held)| held == 0)).await;
    let took = lost.elapsed();
    eprintln!("what a lost node held was freed after {took:?}");
    assert!((GRACE - SWEEP..=GRACE + SWEEP + BUSY).contains(&took), "{took:?}");
    let charged = standing(&after).unwrap().0 - spent;
    // Each as reserved, which is its input by the byte and its output cap: no less than what was billed.
    assert!(charged % OPEN == 0 && charged >= OPEN * each && charged < held, "{charged} of {held} was charged, {each} billed for each");

    // All the rest is there for others, and no more.
    let other = Sidecar::start(&scene, &Workload::start(&scene, injected("other")).await).await;
    while other.chat(CAP).await.status == 200 {}
    let full = scene
        .once::<AIBudget>("all of it is settled", "b", |b| standing(b).is_some_and(|(spent, held)| held == 0 && spent > LIMIT_MICRO / 2));
    let (spent, _) = standing(&full.await).unwrap();
    let least = charged / OPEN;
    assert!((LIMIT_MICRO - 2 * least..=LIMIT_MICRO).contains(&spent), "{spent} of {LIMIT_MICRO} was spent; a call takes {least}");
    assert!(provider.billed_micro() <= LIMIT_MICRO);
    assert!(shared().operator.metric("spendkeeper_unknown_calls_total", "") >= OPEN as f64);
    assert!(other.terminate().success());
}
