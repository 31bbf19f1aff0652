//! Several operators on one PostgreSQL: each serves sidecars, one leads, and what one is told all of them know.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use spendkeeper::api::AIBudget;
use spendkeeper::channel::message::LeaseAsk;
use spendkeeper::core::amount::Amount;
use spendkeeper::core::limit::LimitKey;
use spendkeeper::core::money::PicoUsd;
use spendkeeper::ledger::{Decision, LeaseId};
use tokio::task::JoinSet;

use super::cluster::{Cluster, disrupted};
use super::operator::{Operator, Ports};
use super::postgres;
use super::scene::{Scene, budget};
use super::server::succeeded;
use super::service::Service;
use super::sidecar::Sidecar;
use super::wait::{LONG, until};
use super::workload::{Workload, injected, pod};

/// Two operators, one database, and the Service before them.
pub struct Replicas<'a> {
    cluster: &'a Cluster,
    database: postgres::Server,
    operators: HashMap<&'static str, Operator>,
    ports: [Ports; 2],
    _webhooks: Service,
}

pub const ONE: &str = "replica-one";
pub const TWO: &str = "replica-two";

impl<'a> Replicas<'a> {
    /// Both are ready, and know of each other.
    pub async fn start(cluster: &'a Cluster) -> Replicas<'a> {
        let database = postgres::Server::start(&std::env::temp_dir());
        let ports = [Ports::free(), Ports::free()];
        let webhooks = Service::start(&ports.map(|ports| ports.webhook)).await;
        cluster.call_webhooks_at(webhooks.port);
        let mut replicas = Replicas { cluster, database, operators: HashMap::new(), ports, _webhooks: webhooks };
        for name in [ONE, TWO] {
            replicas.run(name);
        }
        replicas.settled().await;
        replicas
    }

    /// Starts one of the two.
    pub fn run(&mut self, name: &'static str) {
        let ports = self.ports[usize::from(name == TWO)];
        let operator = Operator::start_on(&self.database.url("public"), self.cluster, name, ports);
        self.operators.insert(name, operator);
    }

    pub fn take(&mut self, name: &str) -> Operator {
        self.operators.remove(name).unwrap()
    }

    fn metric(&self, name: &str, metric: &str) -> f64 {
        self.operators[name].metric(metric, "")
    }

    /// Waits until both are ready and know of each other.
    pub async fn settled(&self) {
        until("both replicas are ready and know of each other", async || {
            for (name, operator) in &self.operators {
                operator.readiness().map_err(|why| format!("{name}: {why}"))?;
                match self.metric(name, "spendkeeper_replicas") {
                    2.0 => {}
                    n => return Err(format!("{name} knows of {n}")),
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until one of them leads.
    pub async fn leader(&self) -> &'static str {
        until("somebody leads", async || {
            let leading: Vec<&'static str> =
                self.operators.keys().copied().filter(|name| self.metric(name, "spendkeeper_leader") == 1.0).collect();
            if let [leader] = leading[..] { Ok(leader) } else { Err(format!("these lead: {leading:?}")) }
        })
        .await
    }

    /// A way to the control channel: to `name` while that is there, else to the other.
    pub async fn way_to(&self, name: &str) -> Service {
        let [one, two] = self.ports.map(|ports| ports.control);
        Service::start(&if name == ONE { [one, two] } else { [two, one] }).await
    }

    /// A sidecar at each of the two, and their ways there.
    pub async fn sidecars(&self, scene: &Scene<'_>) -> ([Service; 2], [Sidecar; 2]) {
        let ways = [self.way_to(ONE).await, self.way_to(TWO).await];
        let start = async |name, way: &Service| {
            let workload = Workload::start(scene, injected(name)).await.by_way_of(way.port);
            Sidecar::start(scene, &workload).await
        };
        let sidecars = [start(ONE, &ways[0]).await, start(TWO, &ways[1]).await];
        (ways, sidecars)
    }

    /// Every call that the database has, as the operator exports it: what they cost together, in pico-dollars, and how many they are.
    fn exported(&self) -> (i128, usize) {
        let url = self.database.url("public");
        let export = ["export-calls", "--ledger", &url, "--format", "json"];
        let output = Command::new(env!("CARGO_BIN_EXE_spendkeeper-operator")).args(export).output().unwrap();
        let lines = succeeded(&output);
        let calls: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let cost = |call: &Value| call["cost_usd"].as_str().unwrap().parse::<PicoUsd>().unwrap().0;
        (calls.iter().map(cost).sum(), calls.len())
    }

    fn connected(&self, name: &str) -> f64 {
        self.metric(name, "spendkeeper_connected_sidecars")
    }
}

/// Callers that go on until they are told to stop, and what became of their calls.
struct Callers {
    refused: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Callers {
    fn start(sidecars: &[Arc<Sidecar>]) -> Callers {
        let (refused, enough) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for sidecar in sidecars.iter().chain(sidecars) {
            let (sidecar, refused, enough) = (Arc::clone(sidecar), Arc::clone(&refused), Arc::clone(&enough));
            tasks.spawn(async move {
                while !enough.load(Ordering::SeqCst) {
                    let answer = sidecar.chat(400).await;
                    if answer.status != 200 && refused.fetch_add(1, Ordering::SeqCst) == 0 {
                        eprintln!("the first refusal: {}", answer.text);
                    }
                    // An app is not a benchmark.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Callers { refused, enough, tasks }
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    async fn stop(mut self) {
        self.enough.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

fn limit(micro_usd: i64) -> serde_json::Value {
    let usd = format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000);
    json!({"spec": {"limits": [{"name": "total", "usd": usd, "period": "Lifetime"}]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_serves_and_while_the_leader_dies_or_is_replaced_nothing_is_refused_and_nothing_overspent() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let mut replicas = Replicas::start(cluster).await;
    let scene = Scene::on(cluster, "replicas", json!({})).await;
    let provider = scene.provider().await;
    scene.budget_in_force("b", json!({"usd": "1000"})).await;
    let (_ways, sidecars) = replicas.sidecars(&scene).await;
    let sidecars = sidecars.map(Arc::new);
    assert_eq!([ONE, TWO].map(|name| replicas.connected(name)), [1.0, 1.0], "each serves one");

    let callers = Callers::start(&sidecars);
    let goes_on = async |what: &str| {
        let before = provider.billed_micro();
        until(what, async || provider.has_billed(before + 200_000)).await;
    };
    goes_on("there is traffic").await;
    let first = replicas.leader().await;
    replicas.take(first).kill();
    let killed = Instant::now();
    goes_on("traffic goes on with one replica").await;
    let second = replicas.leader().await;
    assert_ne!(first, second);
    eprintln!("after a leader was killed the other led within {:.1} s", killed.elapsed().as_secs_f64());
    replicas.run(first);
    replicas.settled().await;
    goes_on("traffic goes on with both").await;
    let told = Instant::now();
    assert!(replicas.take(second).terminate().success());
    assert_eq!(replicas.leader().await, first);
    assert!(told.elapsed() < Duration::from_secs(10), "a lease that was not given back holds for 15 s: {:?}", told.elapsed());
    goes_on("traffic goes on while one is replaced").await;
    replicas.run(second);
    replicas.settled().await;
    goes_on("traffic goes on with both again").await;
    assert_eq!(callers.refused(), 0, "the budget had room all the while");

    // Half a dollar more is all that there is.
    let end = provider.billed_micro() + 500_000;
    scene.merge::<AIBudget>(&scene.client, "b", limit(end)).await.unwrap();
    until("nearly everything is spent", async || provider.has_billed(end - 10_000)).await;
    until("calls are refused", async || if callers.refused() > 10 { Ok(()) } else { Err(provider.billed_micro()) }).await;
    callers.stop().await;
    let billed = provider.billed_micro();
    assert!((end - 10_000..=end).contains(&billed), "{billed} of {end} was billed");
    let spent = format!("${}.{:06}", billed / 1_000_000, billed % 1_000_000);
    let agrees = |b: &AIBudget| b.status.as_ref().is_some_and(|s| s.limits[0].spent == spent);
    scene.once::<AIBudget>("what was billed is what was spent", "b", agrees).await;
    let exhausted = |b: &AIBudget| b.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Exhausted" && c.status == "True");
    scene.once::<AIBudget>("the leader knows of refusals by both", "b", exhausted).await;
    let (exported, calls) = replicas.exported();
    assert_eq!(exported, i128::from(billed) * 1_000_000, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sidecar_of_one_replica_holds_idle_is_called_back_for_one_of_the_other() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let replicas = Replicas::start(cluster).await;
    let scene = Scene::on(cluster, "recalled", json!({})).await;
    scene.budget_in_force("b", json!({"usd": "1"})).await;
    let (one, two) = (replicas.way_to(ONE).await, replicas.way_to(TWO).await);
    let holder = Workload::start(&scene, injected("holder")).await.by_way_of(one.port).channel();
    let asker = Workload::start(&scene, injected("asker")).await.by_way_of(two.port).channel();
    let mut pushes = Box::pin(holder.watch().await.unwrap());
    assert!(pushes.next().await.unwrap().unwrap().policy.is_some());
    let key = LimitKey("recalled/b/total".into());
    let ask = |lease: &str, seq: u64, usd: &str| {
        let amount = Amount { usd: usd.parse().unwrap(), ..Amount::ZERO };
        LeaseAsk { lease: LeaseId(lease.into()), seq, limits: vec![key.clone()], min: amount, want: amount, need: amount }
    };
    assert!(matches!(holder.acquire(ask("held", 1, "0.75"), || 0).await, Ok(Decision::Granted { .. })));
    let mut times = Vec::new();
    for seq in 1..=9 {
        let asked = Instant::now();
        assert!(matches!(asker.acquire(ask("asked", seq, "0.50"), || 0).await, Ok(Decision::Refused { .. })));
        let push = tokio::time::timeout(LONG, pushes.next()).await.expect("a recall").unwrap().unwrap();
        times.push(asked.elapsed());
        assert_eq!(push.recall, std::slice::from_ref(&key));
        // A limit is not called back again so soon.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    times.sort();
    eprintln!("a recall by way of another replica: min {:?}, median {:?}, max {:?}", times[0], times[4], times[8]);
    assert!(times[4] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_away_at_one_replica_is_held_back_at_every_other() {
    let turn = disrupted().await;
    let cluster: &Cluster = &turn;
    let replicas = Replicas::start(cluster).await;
    let scene = Scene::on(cluster, "runaways", json!({})).await;
    let provider = scene.provider().await;
    let mut watched = budget("b", json!({"usd": "1"}));
    watched["spec"]["runaway"] = json!({"by": "agent", "action": "Throttle"});
    scene.create(watched).await.unwrap();
    let agent = json!({"spendkeeper.dev/inject": "true", "spendkeeper.dev/agent": "looping"});
    let (one, two) = (replicas.way_to(ONE).await, replicas.way_to(TWO).await);
    let running = Workload::start(&scene, pod("running", agent.clone())).await.by_way_of(one.port);
    let other = Workload::start(&scene, pod("other", agent)).await.by_way_of(two.port);
    let (running, other) = (Sidecar::start(&scene, &running).await, Sidecar::start(&scene, &other).await);
    let stopped = |answer: super::sidecar::Answer| match answer {
        answer if answer.status == 200 => Err(answer.text),
        answer => Ok(answer),
    };
    until("the loop is stopped", async || stopped(running.chat(400).await)).await;
    let refusal = until("the agent is stopped elsewhere, too", async || stopped(other.chat(400).await)).await;
    assert!(refusal.text.contains("budget runaways/b~"), "{}", refusal.text);
    let runs = |b: &AIBudget| b.status.iter().flat_map(|s| &s.conditions).any(|c| c.type_ == "Runaway" && c.message.contains("looping"));
    scene.once::<AIBudget>("the leader says who", "b", runs).await;
    assert!(provider.billed_micro() < 900_000, "the budget itself had room: {}", provider.billed_micro());
}
