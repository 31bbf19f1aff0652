//! How long it takes until a lowered limit binds: from the answer of the API server to the first refusal.

use std::time::{Duration, Instant};

use serde_json::json;
use spendkeeper::api::AIBudget;

use super::cluster::{Cluster, disrupted};
use super::replicas::Replicas;
use super::scene::Scene;
use super::sidecar::Sidecar;
use super::wait::until;

const ROUNDS: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_is_lowered_binds_sidecars_of_every_replica_within_a_second() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let replicas = Replicas::start(cluster).await;
    let scene = Scene::on(cluster, "lowered", json!({})).await;
    let _provider = scene.provider().await;
    scene.budget_in_force("b", json!({"usd": "100"})).await;
    let (_ways, sidecars) = replicas.sidecars(&scene).await;
    let set = async |usd: &str| {
        let limits = json!([{"name": "total", "usd": usd, "period": "Lifetime"}]);
        scene.merge::<AIBudget>(&scene.client, "b", json!({"spec": {"limits": limits}})).await.unwrap();
        Instant::now()
    };
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        set("100").await;
        for sidecar in &sidecars {
            // A lease for many more calls lies there then.
            until("calls are answered", async || match sidecar.chat(10).await {
                answer if answer.status == 200 => Ok(()),
                answer => Err(answer.text),
            })
            .await;
        }
        let lowered = set("0.000001").await;
        let refused = async |sidecar: &Sidecar| {
            while sidecar.chat(10).await.status == 200 {}
            lowered.elapsed()
        };
        let (one, two) = tokio::join!(refused(&sidecars[0]), refused(&sidecars[1]));
        times.extend([one, two]);
    }
    times.sort();
    let (median, max) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!("a lowered limit bound after min {:?}, median {median:?}, max {max:?}", times[0]);
    assert!(max <= Duration::from_secs(1), "{times:?}");
}
