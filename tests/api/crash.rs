//! An operator that dies in mid-traffic: nothing is lost and nothing is overspent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use spendkeeper::api::AIBudget;

use super::cluster::{Cluster, disrupted};
use super::operator::{Operator, Ports};
use super::scene::Scene;
use super::sidecar::Sidecar;
use super::wait::until;
use super::workload::{Workload, injected};

const LIMIT_MICRO: i64 = 500_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_in_mid_traffic_loses_nothing_and_overspends_nothing() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let ports = Ports::free();
    let operator = cluster.operator("killed", ports);
    let scene = Scene::on(cluster, "crash", json!({})).await;
    let provider = scene.provider().await;
    scene.budget_in_force("b", json!({"usd": "0.50"})).await;
    let workload = Workload::start(&scene, injected("bot")).await;
    let sidecar = Arc::new(Sidecar::start(&scene, &workload).await);

    let enough = Arc::new(AtomicBool::new(false));
    let callers = (0..4).map(|_| {
        let (sidecar, enough) = (Arc::clone(&sidecar), Arc::clone(&enough));
        tokio::spawn(async move {
            while !enough.load(Ordering::SeqCst) {
                if sidecar.chat(400).await.status != 200 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    until("there is traffic", async || provider.has_billed(LIMIT_MICRO / 10)).await;
    operator.kill();
    let before = provider.billed_micro();
    let operator = Operator::start(cluster, "killed", ports).ready();
    until("traffic goes on", async || provider.has_billed(before + LIMIT_MICRO / 10)).await;
    operator.kill();
    until("what was leased is spent, and calls are refused", async || match sidecar.chat(400).await.status {
        200 => Err("a call is answered"),
        _ => Ok(()),
    })
    .await;
    let operator = Operator::start(cluster, "killed", ports).ready();
    until("nearly everything is spent", async || provider.has_billed(LIMIT_MICRO - 10_000)).await;
    let told = |b: &AIBudget| {
        let conditions = b.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|c| c.type_ == "LedgerAvailable" && c.status == "False" && c.reason == "CallsRefused")
    };
    scene.once::<AIBudget>("the budget tells that calls were refused for lack of the ledger", "b", told).await;
    enough.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }

    let billed = provider.billed_micro();
    let status = scene.api::<AIBudget>().get("b").await.unwrap().status;
    assert!(billed <= LIMIT_MICRO, "billed {billed}; {status:?}");
    let spent = format!("$0.{billed:06}");
    let agrees = |b: &AIBudget| b.status.as_ref().is_some_and(|s| s.limits[0].spent == spent && s.limits[0].reserved == "$0.000000");
    scene.once::<AIBudget>("what was billed is what was spent", "b", agrees).await;
    assert!(Arc::into_inner(sidecar).unwrap().terminate().success());
    assert!(operator.terminate().success());
}
