//! Pods of every kind get the sidecar, real SDKs find it, and nothing else changes for them.

use serde_json::{Value, json};

use crate::caller::{ONE_CALL, rules, template};
use crate::cluster::{Namespace, apply, eventually, get, kubectl, pod_of, process_of};

#[test]
fn the_example_apps_run_unchanged_beside_a_native_sidecar() {
    for (namespace, app) in [("helpdesk", "support-bot"), ("engineering", "code-assistant"), ("engineering", "runaway-agent")] {
        let pod = get(namespace, &format!("pod/{}", pod_of(namespace, &format!("app={app}"))));
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!((sidecar["name"].as_str(), sidecar["restartPolicy"].as_str()), (Some("spendkeeper-sidecar"), Some("Always")));
        let variables: Vec<_> = pod["spec"]["containers"][0]["env"].as_array().into_iter().flatten().map(|v| &v["name"]).collect();
        assert!(variables.contains(&&json!("OPENAI_BASE_URL")) && variables.contains(&&json!("ANTHROPIC_BASE_URL")), "{variables:?}");
        // The provider's keys are in no container of the pod (invariant I6).
        assert!(!pod.to_string().contains("demo-openai-key") && !pod.to_string().contains("demo-anthropic-key"));
    }
}

#[test]
fn every_call_is_attributed_to_its_owner() {
    eventually("all three owners have calls of their own", || {
        let status = get("spendkeeper-system", "costallocation/company")["status"].clone();
        let owners = status["owners"].as_array()?.clone();
        (owners.len() == 3 && owners.iter().all(|o| o["calls"].as_i64() > Some(0) && o["tokens"].as_i64() > Some(0))).then_some(())
    });
    let route = get("helpdesk", "modelroute/models")["status"].clone();
    assert!(route["frontierPercent"].as_i64() > Some(0) && route["frontierNeededPercent"].as_i64() < Some(50), "{route}");
}

#[test]
fn a_job_with_a_sidecar_completes_and_a_stateful_set_has_one_too() {
    let namespace = Namespace::new("kinds");
    rules(&namespace, "1.00");
    let mut set = template("kinds-set", "import time; time.sleep(3600)");
    set["spec"]["restartPolicy"] = json!("Always");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": namespace.0},
        "spec": {"backoffLimit": 0, "template": template("kinds-job", ONE_CALL)}});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "set", "namespace": namespace.0},
        "spec": {"serviceName": "set", "selector": {"matchLabels": {"app": "kinds-set"}}, "template": set}});
    apply(&format!("{job}\n---\n{set}"));
    eventually("the Job is complete", || (get(&namespace.0, "job/once")["status"]["succeeded"] == 1).then_some(()));
    let log = kubectl(&["logs", "-n", &namespace.0, "job/once", "-c", "app"]);
    assert!(log.contains("answered"), "{log}");
    let sidecars = |pod: &Value| pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    assert_eq!(sidecars(&get(&namespace.0, &format!("pod/{}", pod_of(&namespace.0, "app=kinds-set")))), 1);
}

#[test]
fn an_idle_sidecar_is_under_15_mib() {
    let namespace = Namespace::new("idle");
    rules(&namespace, "1.00");
    crate::caller::start(&namespace, "idle", "import time; time.sleep(3600)");
    let pod = pod_of(&namespace.0, "app=idle");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", process_of(&namespace.0, &pod, "initContainerStatuses", "spendkeeper-sidecar")));
    let status = status.expect("the process is there");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("an idle sidecar has {kib} KiB resident");
    assert!(kib < 15 * 1024, "{kib} KiB");
}
