//! Everything at once against one budget: 320 streams in flight, an operator that is killed, a pod that is cut off from it, a
//! sidecar that is killed in mid-stream. The provider's own bill stays within the limit, and comes near it (invariants I1 and I3).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spendkeeper::core::money::PicoUsd;

use crate::caller::{rules, start_named};
use crate::cluster::{Cut, Namespace, eventually, get, kill_container, kubectl, pod_of, try_kubectl};
use crate::provider::{Bill, Faults, bill};

const PODS: usize = 5;
const LABEL: &str = "attack";
/// How long a pod is cut off from the operator.
const CUT: Duration = Duration::from_secs(30);

/// 64 streams at once, for ever; what fails or is refused is tried again.
const STREAMS: &str = r#"
import asyncio, os, openai
client = openai.AsyncOpenAI(max_retries=0, timeout=120)
counts = {"answered": 0, "refused": 0, "failed": 0}
async def stream(number):
    while True:
        try:
            answer = await client.chat.completions.create(model="gpt-5.4", user=os.environ["LABEL"], max_completion_tokens=110, stream=True,
                messages=[{"role": "user", "content": f"Where is parcel {number}? Answer in about 60 words."}])
            async for _ in answer: pass
            counts["answered"] += 1
        except openai.RateLimitError:
            counts["refused"] += 1
            await asyncio.sleep(1)
        except openai.APIError:
            counts["failed"] += 1
            await asyncio.sleep(0.5)
async def tell():
    while True:
        print(counts, flush=True)
        await asyncio.sleep(2)
async def main():
    await asyncio.gather(tell(), *(stream(number) for number in range(64)))
asyncio.run(main())
"#;

fn usd(text: &str) -> PicoUsd {
    text.parse().expect("money")
}

/// Waits until so much is billed; never more than the limit on the way.
fn billed(at_least: &str) -> Bill {
    let mut last = PicoUsd::ZERO;
    let mut moved = Instant::now();
    loop {
        let bill = bill(LABEL);
        assert!(bill.usd <= PicoUsd::from_usd(5), "the provider would bill {} of a limit of $5", bill.usd.to_decimal());
        if bill.usd >= usd(at_least) {
            return bill;
        }
        if bill.usd > last {
            (last, moved) = (bill.usd, Instant::now());
        }
        assert!(moved.elapsed() < crate::cluster::PATIENCE, "the bill stands at {}, below {at_least}", bill.usd.to_decimal());
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_budget_of_five_dollars_withstands_320_streams_a_killed_operator_a_cut_network_and_a_killed_sidecar() {
    let namespace = Namespace::new("attack");
    rules(&namespace, "5.00");
    // Answers that take their time: the more of them are under way when something is killed.
    let _slow = Faults::set(&json!([{"kind": "Slow", "label": LABEL, "delayMs": 1_500, "every": 1}]));
    let pods: Vec<String> = (0..PODS).map(|pod| format!("{LABEL}-{pod}")).collect();
    for pod in &pods {
        start_named(&namespace, pod, LABEL, STREAMS);
    }
    let log = |pod: &str| try_kubectl(&["logs", "-n", &namespace.0, pod, "-c", "app", "--tail=1"]).out;
    eventually("every pod has answers", || {
        pods.iter().all(|pod| !log(pod).contains("'answered': 0") && !log(pod).is_empty()).then_some(())
    });

    billed("0.50");
    let cut = Cut::from_operator(&namespace.0, &pods[0]);
    let since = Instant::now();
    billed("1.00");
    let operator = pod_of("spendkeeper-system", "app.kubernetes.io/component=operator");
    kill_container("spendkeeper-system", &operator, "containerStatuses", "operator");
    billed("2.00");
    kill_container(&namespace.0, &pods[1], "initContainerStatuses", "spendkeeper-sidecar");
    // The cut lasts as long as it is said to, whatever the others have spent meanwhile.
    std::thread::sleep(CUT.saturating_sub(since.elapsed()));
    drop(cut);
    billed("4.75");

    // With everybody refused, what is charged stands still; then the two books are compared.
    let status = eventually("nothing is in flight and the budget is exhausted", || {
        let budget = get(&namespace.0, "aibudget/total");
        let limit = budget["status"]["limits"].get(0)?.clone();
        let refusing = pods.iter().all(|pod| log(pod).contains("'refused'") && !log(pod).contains("'refused': 0"));
        (refusing && limit["reserved"] == "$0.000000").then_some(limit)
    });
    let restarted = |object: &Value, statuses: &str| object["status"][statuses][0]["restartCount"].as_i64() > Some(0);
    assert!(restarted(&get(&namespace.0, &format!("pod/{}", pods[1])), "initContainerStatuses"), "the sidecar was killed");
    for pod in &pods {
        kubectl(&["delete", "pod", "-n", &namespace.0, pod, "--wait=false"]);
    }
    let bill = billed("4.75");
    let spent = status["spent"].as_str().and_then(|text| text.trim_start_matches('$').parse::<PicoUsd>().ok()).expect("an amount");
    println!("billed {}, charged {}, {} calls", bill.usd.to_decimal(), spent.to_decimal(), bill.calls);
    assert!(bill.max_in_flight >= 64 * (PODS as i64 - 1), "at most {} streams were in flight", bill.max_in_flight);
    // The streams of the killed sidecar are charged as reserved: at least what the provider generated of them.
    assert!(bill.usd <= spent && spent <= PicoUsd::from_usd(5), "billed {}, charged {}", bill.usd.to_decimal(), spent.to_decimal());
    assert!(restarted(&get("spendkeeper-system", &format!("pod/{operator}")), "containerStatuses"), "the operator was killed");
}
