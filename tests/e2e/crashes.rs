//! Parts that die in the middle: nothing is lost, nothing is overspent (invariants I1 and I2).

use serde_json::{Value, json};
use spendkeeper::core::money::PicoUsd;

use crate::caller::{rules, start};
use crate::cluster::{Namespace, eventually, get, kill_container, kubectl, pod_of};
use crate::provider::{Faults, bill};

/// Four workers until 160 calls are answered; what fails is tried again.
const TRAFFIC: &str = r#"
import os, threading, time, openai
client = openai.OpenAI()
lock, answered, failed = threading.Lock(), 0, 0
def work():
    global answered, failed
    while answered < 160:
        try:
            client.chat.completions.create(model="gpt-5.4", user=os.environ["LABEL"], max_completion_tokens=200,
                messages=[{"role": "user", "content": f"Where is parcel {answered}? Answer in about 40 words."}])
            with lock:
                answered += 1
                if answered % 20 == 0: print("answered", answered, "failed", failed, flush=True)
        except openai.APIError as error:
            with lock: failed += 1
            print("failed:", type(error).__name__, error, flush=True)
            time.sleep(0.5)
workers = [threading.Thread(target=work) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
print("done", flush=True)
"#;

/// One long streamed answer, then one short call to see that the sidecar works again.
const STREAM: &str = r#"
import os, time, openai
client = openai.OpenAI(max_retries=0)
def ask(words, stream):
    return client.chat.completions.create(model="gpt-5.4", user=os.environ["LABEL"], max_completion_tokens=4000, stream=stream,
        messages=[{"role": "user", "content": f"Tell me of the sea in about {words} words."}])
try:
    chunks = 0
    for _ in ask(2500, True):
        chunks += 1
        if chunks == 5: print("streaming", flush=True)
    print("ended", flush=True)
except (openai.APIError, Exception) as error:
    print("cut:", type(error).__name__, flush=True)
while True:
    try:
        ask(20, False); break
    except openai.APIError as error:
        print("again:", type(error).__name__, flush=True); time.sleep(0.5)
print("done", flush=True)
time.sleep(3600)
"#;

/// What the ledger charged to the namespace's route, exactly.
fn charged(namespace: &Namespace) -> PicoUsd {
    let route = get(&namespace.0, "modelroute/models");
    let tiers = route["status"]["tiers"].as_array().cloned().unwrap_or_default();
    tiers.iter().map(|t| t["cost"].as_str().and_then(|c| c.parse().ok()).unwrap_or(PicoUsd::ZERO)).sum()
}

fn log(namespace: &Namespace, pod: &str) -> String {
    kubectl(&["logs", "-n", &namespace.0, pod, "-c", "app"])
}

#[test]
fn an_operator_that_is_killed_in_mid_traffic_loses_and_overspends_nothing() {
    let namespace = Namespace::new("operator-killed");
    rules(&namespace, "5.00");
    start(&namespace, "operator-killed", TRAFFIC);
    eventually("traffic flows", || log_if_there(&namespace, "operator-killed").contains("answered 20").then_some(()));
    let operator = pod_of("spendkeeper-system", "app.kubernetes.io/component=operator");
    kill_container("spendkeeper-system", &operator, "containerStatuses", "operator");
    eventually("the app has its 160 answers", || log(&namespace, "operator-killed").contains("done").then_some(()));
    eventually("what the ledger charged is what the provider would bill", || {
        let (charged, billed) = (charged(&namespace), bill("operator-killed"));
        (charged == billed.usd && billed.calls >= 160).then_some(())
    });
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
    assert!(restarts(&get("spendkeeper-system", &format!("pod/{operator}"))) > Some(0), "the operator was killed");
}

fn log_if_there(namespace: &Namespace, pod: &str) -> String {
    crate::cluster::try_kubectl(&["logs", "-n", &namespace.0, pod, "-c", "app"]).out
}

#[test]
fn a_sidecar_that_is_killed_in_mid_stream_still_pays_for_it() {
    let namespace = Namespace::new("sidecar-killed");
    rules(&namespace, "2.00");
    start(&namespace, "sidecar-killed", STREAM);
    eventually("the answer streams", || log_if_there(&namespace, "sidecar-killed").contains("streaming").then_some(()));
    kill_container(&namespace.0, "sidecar-killed", "initContainerStatuses", "spendkeeper-sidecar");
    eventually("the app gets an answer from the sidecar that is back", || log(&namespace, "sidecar-killed").contains("done").then_some(()));
    assert!(log(&namespace, "sidecar-killed").contains("cut:"), "the stream was cut");
    // The end of the stream was never seen, so it is charged as reserved: no less than what the provider generated.
    let (spent, billed) = eventually("both calls are charged", || {
        let calls = get(&namespace.0, "modelroute/models")["status"]["calls"].as_i64();
        (calls == Some(2)).then(|| (charged(&namespace), bill("sidecar-killed").usd))
    });
    assert!(spent >= billed && spent <= PicoUsd::from_usd(2), "charged {}, billed {}", spent.to_decimal(), billed.to_decimal());
}

#[test]
fn provider_errors_cost_nothing_and_a_cut_stream_is_charged() {
    let namespace = Namespace::new("faults");
    rules(&namespace, "2.00");
    let _faults = Faults::set(&json!([
        {"kind": "Status500", "label": "faults", "times": 1},
        {"kind": "CutStream", "label": "faults", "afterTokens": 20, "times": 1},
    ]));
    start(&namespace, "faults", STREAM);
    eventually("the app gets its answer in the end", || log_if_there(&namespace, "faults").contains("done").then_some(()));
    eventually("what is charged covers what the provider would bill", || {
        let (spent, billed) = (charged(&namespace), bill("faults").usd);
        (billed > PicoUsd::ZERO && spent >= billed && spent < PicoUsd::from_usd(1)).then_some(())
    });
}
