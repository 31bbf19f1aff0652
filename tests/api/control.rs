//! The control channel: who may use it, and that each pod is told what is its own, soon.

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use spendkeeper::api::AIBudget;
use spendkeeper::channel::TOKEN_AUDIENCE;
use spendkeeper::channel::client::ClientError;
use spendkeeper::channel::message::{LeaseAsk, Pushed, Reported};
use spendkeeper::core::amount::Amount;
use spendkeeper::core::limit::LimitKey;
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::Policy;
use spendkeeper::ledger::{Decision, LeaseId};

use super::cluster::{SYSTEM, shared};
use super::scene::{CREDENTIAL, Scene, budget, ours, route};
use super::wait::LONG;
use super::workload::{Workload, injected, pod, record};

/// The next push whose policy is as wanted.
async fn pushed(pushes: &mut (impl Stream<Item = Result<Pushed, ClientError>> + Unpin), wanted: impl Fn(&Policy) -> bool) -> Pushed {
    let next = async {
        loop {
            let push = pushes.next().await.expect("the stream goes on").unwrap();
            if push.policy.as_ref().is_some_and(&wanted) {
                return push;
            }
        }
    };
    tokio::time::timeout(LONG, next).await.expect("a push in time")
}

fn usd(text: &str) -> Amount {
    Amount { usd: text.parse::<PicoUsd>().unwrap(), ..Amount::ZERO }
}

fn ask(lease: &str, seq: u64, limit: &str, amount: &str) -> LeaseAsk {
    LeaseAsk {
        lease: LeaseId(lease.into()),
        seq,
        limits: vec![LimitKey(limit.into())],
        min: usd(amount),
        want: usd(amount),
        need: usd(amount),
    }
}

#[tokio::test]
async fn only_a_token_that_is_bound_to_a_pod_with_a_sidecar_opens_the_channel() {
    let scene = Scene::new("tokens").await;
    let good = Workload::start(&scene, injected("good")).await;
    let gone = Workload::start(&scene, injected("gone")).await;
    scene.api::<Pod>().delete("gone", &DeleteParams::default().grace_period(0)).await.unwrap();
    let plain = scene.create(pod("plain", json!({}))).await.unwrap();
    scene.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})).await.unwrap();
    let secret = scene.api::<Secret>().get("s").await.unwrap().uid().unwrap();
    let table = [
        (
            "one for the API server",
            scene.token("https://kubernetes.default.svc", Some(("Pod", &good.name, &good.uid))).await,
            "does not accept",
        ),
        ("one for somebody else", scene.token("vault", Some(("Pod", &good.name, &good.uid))).await, "does not accept"),
        ("an unbound one", scene.token(TOKEN_AUDIENCE, None).await, "must be one that is bound to a pod"),
        ("one bound to a Secret", scene.token(TOKEN_AUDIENCE, Some(("Secret", "s", &secret))).await, "must be one that is bound to a pod"),
        (
            "one of a pod without a sidecar",
            scene.token(TOKEN_AUDIENCE, Some(("Pod", "plain", &plain.uid().unwrap()))).await,
            "is not known to have a sidecar",
        ),
        ("one of a pod that is gone", gone.token.clone(), "does not accept"),
        ("no token", "abc".to_owned(), "does not accept"),
    ];
    let answers = table.iter().map(|(_, token, _)| async {
        let Err(error) = good.channel_with(&scene, token).watch().await else { return "it was accepted".to_owned() };
        error.to_string()
    });
    for ((what, _, expected), answer) in table.iter().zip(futures::future::join_all(answers).await) {
        assert!(answer.contains(expected), "{what}: {answer}");
    }
    assert!(shared().operator.metric("spendkeeper_channel_rejections_total", "") >= 7.0);
    good.channel().watch().await.map(drop).expect("the right one is accepted");
}

#[tokio::test]
async fn a_sidecar_is_told_of_its_own_namespaces_resources_and_of_no_others() {
    let (mine, theirs) = (Scene::new("mine").await, Scene::new("theirs").await);
    for scene in [&mine, &theirs] {
        let name = format!("of-{}", scene.namespace);
        scene.create(budget(&name, json!({"usd": "1"}))).await.unwrap();
        scene.create(route(&name, "http://127.0.0.1:1")).await.unwrap();
    }
    let mut elsewhere = budget("elsewhere", json!({"usd": "1"}));
    elsewhere["spec"]["scope"] = json!({"workloads": {"pods": {"matchLabels": {"app": "other"}}}});
    mine.create(elsewhere).await.unwrap();
    // A resource in the operator's namespace may reach out, and this one does.
    let mut company = budget("company", json!({"usd": "5"}));
    company["metadata"]["namespace"] = json!(SYSTEM);
    company["spec"]["scope"] = json!({"workloads": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "mine"}}}});
    mine.create(company).await.unwrap();

    let keys = |policy: &Policy| {
        let budgets = policy.budgets.iter().map(|b| b.key.to_string());
        budgets.chain(policy.routes.iter().map(|r| r.key.to_string())).collect::<Vec<_>>()
    };
    let workload = Workload::start(&mine, injected("bot")).await;
    let mut pushes = Box::pin(workload.channel().watch().await.unwrap());
    let push = pushed(&mut pushes, |p| p.budgets.len() == 2 && p.routes.len() == 1).await;
    let policy = push.policy.unwrap();
    assert_eq!(keys(&policy), ["mine/of-mine", "spendkeeper-system/company", "mine/of-mine"]);
    assert_eq!((policy.origin.namespace.as_str(), policy.origin.workload.as_str()), ("mine", "Pod/bot"));
}

#[tokio::test]
async fn a_changed_budget_is_pushed_within_a_second() {
    let scene = Scene::new("pushed").await;
    scene.create(budget("b", json!({"requests": 1}))).await.unwrap();
    let workload = Workload::start(&scene, injected("bot")).await;
    let mut pushes = Box::pin(workload.channel().watch().await.unwrap());
    let amount = |policy: &Policy| policy.budgets.first().map(|b| b.limits[0].amount);
    let mut generation = pushed(&mut pushes, |p| amount(p) == Some(1)).await.policy.unwrap().generation;
    let mut times = Vec::new();
    for requests in 2..=6 {
        let limits = json!([{"name": "total", "requests": requests, "period": "Lifetime"}]);
        scene.merge::<AIBudget>(&scene.client, "b", json!({"spec": {"limits": limits}})).await.unwrap();
        let start = Instant::now();
        let push = pushed(&mut pushes, |p| amount(p) == Some(requests)).await;
        times.push(start.elapsed());
        assert!(push.recall.contains(&LimitKey("pushed/b/total".into())), "what is held under the old limit comes back");
        let next = push.policy.unwrap().generation;
        assert!(next > generation);
        generation = next;
    }
    // The median: a machine may be busy for once.
    times.sort();
    assert!(times[2] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn a_credential_reaches_the_sidecars_that_need_it_and_nobody_else() {
    let (scene, other) = (Scene::new("credentials").await, Scene::new("no-credentials").await);
    let secret =
        |value: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "provider"}, "stringData": {"key": value}});
    scene.create(secret(&format!("{CREDENTIAL}-1"))).await.unwrap();
    let with_credential = || {
        let mut route = route("models", "http://127.0.0.1:1");
        route["spec"]["backends"][0]["credentials"] = json!({"name": "provider", "key": "key"});
        route
    };
    scene.create(with_credential()).await.unwrap();
    // The same names in another namespace, where there is no such Secret.
    other.create(with_credential()).await.unwrap();
    let workload = Workload::start(&scene, injected("bot")).await;
    let mut pushes = Box::pin(workload.channel().watch().await.unwrap());
    let push = pushed(&mut pushes, |p| p.routes.len() == 1).await;
    let known: Vec<_> = push.credentials.iter().map(|c| (c.route.to_string(), c.backend.as_str(), c.value.expose())).collect();
    assert_eq!(known, [("credentials/models".to_owned(), "one", format!("{CREDENTIAL}-1").as_str())]);

    let workload = Workload::start(&other, injected("bot")).await;
    let mut pushes = Box::pin(workload.channel().watch().await.unwrap());
    assert!(pushed(&mut pushes, |p| p.routes.len() == 1).await.credentials.is_empty());
    // That it is in no log line is what the end of every scene checks.
    let everything = scene.kubectl(&["get", "pods,modelroutes,aibudgets,events.events.k8s.io", "--all-namespaces", "-o", "json"]);
    assert!(!super::server::succeeded(&everything).contains(CREDENTIAL));
}

#[tokio::test]
async fn a_lease_is_granted_within_the_limit_and_what_is_reported_is_spent_once() {
    let scene = Scene::new("leases").await;
    scene.create(budget("b", json!({"usd": "1"}))).await.unwrap();
    let channel = Workload::start(&scene, injected("bot")).await.channel();
    let other = Workload::start(&scene, injected("other")).await.channel();
    let mut pushes = Box::pin(channel.watch().await.unwrap());
    pushed(&mut pushes, |p| p.budgets.len() == 1).await;
    let limit = "leases/b/total";

    let granted = channel.acquire(ask("l1", 1, limit, "0.75"), || 0).await.unwrap();
    assert!(matches!(granted, Decision::Granted { granted, .. } if granted == usd("0.75")), "{granted:?}");
    let again = channel.acquire(ask("l1", 1, limit, "0.75"), || 0).await.unwrap();
    assert!(
        matches!(again, Decision::Granted { granted, .. } if granted == usd("0.75")),
        "the same question has the same answer: {again:?}"
    );
    let refused = other.acquire(ask("l2", 1, limit, "0.5"), || 0).await.unwrap();
    let Decision::Refused { shortfalls } = refused else { panic!("{refused:?}") };
    assert_eq!((shortfalls[0].key.0.as_str(), shortfalls[0].left), (limit, 250_000_000_000));
    let foreign = other.report(vec![Reported::GivenBack { lease: LeaseId("l1".into()), seq: 2, amount: usd("0.75") }]).await;
    assert!(foreign.is_err(), "a lease is its holder's");
    let unknown = channel.acquire(ask("l3", 1, "theirs/b/total", "0.01"), || 0).await;
    assert!(unknown.expect_err("another namespace's limit").to_string().contains("no budget that selects this pod"));

    let status = scene.once::<AIBudget>("the limit is exhausted", "b", |b| {
        let conditions = b.status.iter().flat_map(|s| &s.conditions);
        conditions.into_iter().any(|c| c.type_ == "Exhausted" && c.status == "True")
    });
    let limits = status.await.status.unwrap().limits;
    assert_eq!((limits[0].reserved.as_str(), limits[0].remaining.as_str()), ("$0.750000", "$0.250000"));
    let told = scene.told("b", "LimitReached").await;
    assert!(told.type_.as_deref() == Some("Warning") && told.note.unwrap().contains("Raise the limit"));

    let settled = || Reported::Settled { record: record("c1", "", "chat", "0.25"), lease: Some(LeaseId("l1".into())), unleased: vec![] };
    let back = || Reported::GivenBack { lease: LeaseId("l1".into()), seq: 2, amount: usd("0.5") };
    for _ in 0..2 {
        channel.report(vec![settled(), back()]).await.unwrap();
    }
    let spent = |b: &AIBudget| b.status.as_ref().is_some_and(|s| s.limits[0].spent == "$0.250000" && s.limits[0].reserved == "$0.000000");
    let limits = scene.once::<AIBudget>("what was reported is spent", "b", spent).await.status.unwrap().limits;
    assert_eq!((limits[0].remaining.as_str(), limits[0].percent_spent), ("$0.750000", 25));
}

#[tokio::test]
async fn what_a_pod_that_is_gone_held_is_free_again_within_seconds() {
    let scene = Scene::new("departed").await;
    scene.create(budget("b", json!({"usd": "1"}))).await.unwrap();
    let channel = Workload::start(&scene, injected("bot")).await.channel();
    let mut pushes = Box::pin(channel.watch().await.unwrap());
    pushed(&mut pushes, |p| p.budgets.len() == 1).await;
    channel.acquire(ask("l", 1, "departed/b/total", "0.75"), || 0).await.unwrap();
    let reserved = |b: &AIBudget, amount: &str| b.status.as_ref().is_some_and(|s| s.limits[0].reserved == amount);
    scene.once::<AIBudget>("the lease shows", "b", |b| reserved(b, "$0.750000")).await;
    scene.api::<Pod>().delete("bot", &DeleteParams::default().grace_period(0)).await.unwrap();
    scene.once::<AIBudget>("the lease is free again", "b", |b| reserved(b, "$0.000000")).await;
    let end = async { while pushes.next().await.is_some_and(|push| push.is_ok()) {} };
    tokio::time::timeout(LONG, end).await.expect("the stream ends with the pod");
}

#[tokio::test]
async fn a_price_list_in_the_operators_namespace_reaches_the_sidecars() {
    let scene = Scene::new("prices").await;
    let list = json!({"prices-model": {"input_cost_per_token": 0.000_003, "output_cost_per_token": 0.000_009, "max_input_tokens": 1000, "max_output_tokens": 100}});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prices-test", "namespace": SYSTEM, "labels": {"spendkeeper.dev/prices": "true"}},
        "data": {"list.json": list.to_string()}});
    scene.create(map).await.unwrap();
    // Its sizes are in the list, too.
    let model = json!({"name": "prices-model", "tier": "economy"});
    let backend = json!({"name": "one", "provider": "OpenAI", "endpoint": "http://127.0.0.1:1", "models": [model]});
    scene.create(ours("ModelRoute", "models", json!({"backends": [backend]}))).await.unwrap();
    let workload = Workload::start(&scene, injected("bot")).await;
    let mut pushes = Box::pin(workload.channel().watch().await.unwrap());
    let push = pushed(&mut pushes, |p| p.routes.len() == 1 && !p.prices.is_empty()).await;
    let price = &push.policy.unwrap().prices[0];
    assert_eq!((price.model.as_str(), price.tariff.list().input.0, price.tariff.list().output.0), ("prices-model", 3_000_000, 9_000_000));
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(scene.client.clone(), SYSTEM);
    maps.delete("prices-test", &DeleteParams::default()).await.unwrap();
}
