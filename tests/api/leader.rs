//! One leader at a time.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use super::cluster::{Cluster, SYSTEM, disrupted};
use super::operator::{Operator, Ports, get};
use super::scene::Scene;
use super::wait::until;

#[tokio::test]
async fn a_second_operator_leads_only_once_the_first_has_stopped_and_then_within_seconds() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let first = cluster.operator("first", Ports::free());
    let scene = Scene::on(cluster, "leader", json!({})).await;
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), SYSTEM);
    let holder = async || leases.get("spendkeeper-operator").await.unwrap().spec.unwrap().holder_identity.unwrap_or_default();
    assert_eq!(holder().await, "first");

    let second = Operator::start(cluster, "second", Ports::free());
    until("the second operator has looked at the lease", async || {
        let told = second.log().contains("another operator leads");
        if told { Ok(()) } else { Err(second.readiness()) }
    })
    .await;
    assert_eq!(get(second.ports.http, "/healthz").unwrap().0, 200, "to wait is no failure");
    let waiting = second.readiness().unwrap_err();
    assert!(waiting.contains("the leader's lease"), "{waiting}");
    assert!(get(second.ports.control, "/").is_none(), "it serves nobody");
    assert_eq!((first.readiness(), holder().await.as_str()), (Ok(()), "first"));

    let start = Instant::now();
    assert!(first.terminate().success());
    let second = second.ready();
    assert_eq!(holder().await, "second");
    assert!(start.elapsed() < Duration::from_secs(10), "a lease that was not given back holds for 15 s: {:?}", start.elapsed());
    assert!(second.terminate().success());
}
