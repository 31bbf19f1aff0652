//! Two operators on one PostgreSQL, behind their Service: one dies and all are replaced, and apps notice nothing.

use spendkeeper::core::money::PicoUsd;

use crate::caller::{rules, start_named};
use crate::cluster::{Namespace, apply, eventually, get, helm, kill_container, kubectl, kubectl_with, try_kubectl};
use crate::export::{cost, exported};
use crate::postgres::{Network, Server};
use crate::provider::bill;

const RELEASE: [&str; 3] = ["spendkeeper", "-n", "spendkeeper-system"];
const LABEL: &str = "replicas";
/// The node, as tests/cluster/up makes it, and the pods on it.
const NODE: &str = "10.99.0.1";
const PODS: &str = "10.244.0.0/16";

/// Four workers that call until the pod ends, and try nothing again.
const TRAFFIC: &str = r#"
import os, threading, time, openai
client = openai.OpenAI(max_retries=0)
lock, answered, failed = threading.Lock(), 0, 0
def work():
    global answered, failed
    while True:
        try:
            client.chat.completions.create(model="gpt-5.4", user=os.environ["LABEL"], max_completion_tokens=200,
                messages=[{"role": "user", "content": f"Where is parcel {answered}? Answer in about 40 words."}])
            with lock: answered += 1
        except openai.APIError as error:
            with lock: failed += 1
            print("failed:", type(error).__name__, error, flush=True)
        time.sleep(0.05)
for _ in range(4): threading.Thread(target=work, daemon=True).start()
while True:
    time.sleep(0.5)
    print("answered", answered, "failed", failed, flush=True)
"#;

/// The release as it was, once this is dropped: the database goes with the test.
struct AsBefore(String);

impl Drop for AsBefore {
    fn drop(&mut self) {
        let said = helm(&["rollback", RELEASE[0], &self.0, "-n", RELEASE[2], "--wait", "--timeout", "3m"]);
        if !said.ok {
            eprintln!("the release is not as it was: {said:?}");
        }
    }
}

fn revision() -> String {
    let said = helm(&[["get", "metadata"].as_slice(), &RELEASE, &["-o", "json"]].concat());
    let metadata: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    metadata["revision"].to_string()
}

/// How many calls of a pod were answered.
fn answered(namespace: &Namespace, pod: &str) -> u64 {
    let log = try_kubectl(&["logs", "-n", &namespace.0, pod, "-c", "app", "--tail=1"]).out;
    log.strip_prefix("answered ").and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0)
}

fn leader() -> String {
    let spec = &get("spendkeeper-system", "lease/spendkeeper-operator")["spec"];
    spec["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn no_call_fails_while_the_leader_is_killed_and_every_operator_replaced() {
    let network =
        Network { namespace: std::env::var("CLUSTER_NETNS").expect("its name"), address: NODE.to_owned(), clients: PODS.to_owned() };
    let _database = Server::start_on(&std::env::temp_dir(), Some(network));
    let url = format!("postgres://postgres@{NODE}:5432/postgres?sslmode=disable");
    let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ledger", "namespace": "spendkeeper-system"},
        "stringData": {"url": url}});
    apply(&secret.to_string());
    let _release = AsBefore(revision());
    let settings = ["--reuse-values", "--set", "operator.replicas=2,ledger.postgresql.existingSecret=ledger", "--wait", "--timeout", "3m"];
    let said = helm(&[["upgrade", RELEASE[0], "charts/spendkeeper"].as_slice(), &RELEASE[1..], &settings].concat());
    assert!(said.ok, "{said:?}");

    let namespace = Namespace::new("replicas");
    rules(&namespace, "50.00");
    let (pods, billed_before) = (["one", "two"], bill(LABEL).usd);
    for pod in pods {
        start_named(&namespace, pod, LABEL, TRAFFIC);
    }
    let go_on = |what: &str| {
        let before = pods.map(|pod| answered(&namespace, pod));
        eventually(what, || pods.iter().zip(before).all(|(pod, before)| answered(&namespace, pod) >= before + 50).then_some(()));
    };
    go_on("there is traffic");
    kill_container("spendkeeper-system", &leader(), "containerStatuses", "operator");
    go_on("traffic goes on without the leader");
    kubectl(&["rollout", "status", "-n", "spendkeeper-system", "deployment/spendkeeper-operator", "--timeout=120s"]);
    let before = leader();
    kubectl(&["rollout", "restart", "-n", "spendkeeper-system", "deployment/spendkeeper-operator"]);
    kubectl(&["rollout", "status", "-n", "spendkeeper-system", "deployment/spendkeeper-operator", "--timeout=180s"]);
    eventually("another operator leads", || (!leader().is_empty() && leader() != before).then_some(()));
    go_on("traffic goes on with the new operators");
    let logs = pods.map(|pod| kubectl(&["logs", "-n", &namespace.0, pod, "-c", "app"]));
    let failed: Vec<&str> = logs.iter().flat_map(|log| log.lines()).filter(|line| line.starts_with("failed")).collect();
    assert!(failed.is_empty(), "{failed:#?}");

    for pod in pods {
        kubectl_with(&["delete", "pod", "-n", &namespace.0, pod], "");
    }
    let spent = |limit: &serde_json::Value| limit["spent"].as_str()?.trim_start_matches('$').parse::<PicoUsd>().ok();
    let (spent, billed) = eventually("everything is settled", || {
        let limit = get(&namespace.0, "aibudget/total")["status"]["limits"].get(0)?.clone();
        (limit["reserved"] == "$0.000000").then(|| Some((spent(&limit)?, bill(LABEL).usd - billed_before)))?
    });
    // What a status shows is rounded, and a call that its pod's end cut off is charged as reserved.
    println!("billed {}, charged {}", billed.to_decimal(), spent.to_decimal());
    assert!(
        PicoUsd(spent.0 + 1_000_000) >= billed && billed > PicoUsd::ZERO,
        "billed {}, charged {}",
        billed.to_decimal(),
        spent.to_decimal()
    );
    // Either replica's pod reads the database.
    let exported = cost(&exported(&namespace.0));
    assert!((exported.0 - spent.0).abs() <= 1_000_000, "exported {}, charged {}", exported.to_decimal(), spent.to_decimal());
}
