//! What the tests do with the cluster: `kubectl`, `helm` and the plugin as a user types them, and waiting for conditions.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a condition may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);

/// What a command printed, and whether it succeeded.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Said {
    fn from(output: Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }
}

fn folder() -> PathBuf {
    std::env::var_os("E2E_CLUSTER").expect("E2E_CLUSTER is not set: run these tests with `make test-e2e`").into()
}

fn run(mut command: Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    // A command that reads nothing closes its end first, which is no fault.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    Said::from(child.wait_with_output().expect("the command ends"))
}

/// `kubectl` with these arguments, whatever comes of it.
pub fn try_kubectl(arguments: &[&str]) -> Said {
    kubectl_with(arguments, "")
}

/// `kubectl` with something on its standard input.
pub fn kubectl_with(arguments: &[&str], input: &str) -> Said {
    let mut command = Command::new(folder().join("kubectl"));
    command.args(arguments);
    run(command, input)
}

/// What `kubectl` prints; it must succeed.
pub fn kubectl(arguments: &[&str]) -> String {
    let said = try_kubectl(arguments);
    assert!(said.ok, "kubectl {arguments:?}: {}{}", said.out, said.err);
    said.out
}

pub fn helm(arguments: &[&str]) -> Said {
    let mut command = Command::new(folder().join("helm"));
    command.args(arguments);
    run(command, "")
}

/// Applies manifests; they must be taken.
pub fn apply(manifests: &str) {
    let said = kubectl_with(&["apply", "-f", "-"], manifests);
    assert!(said.ok, "kubectl apply: {}\n{manifests}", said.err);
}

/// An object of the cluster; null when there is none.
pub fn get(namespace: &str, object: &str) -> Value {
    let said = try_kubectl(&["get", "-n", namespace, object, "-o", "json"]);
    serde_json::from_str(&said.out).unwrap_or(Value::Null)
}

/// The status of a condition, such as `True`; empty when it is not there.
pub fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.and_then(|c| c["status"].as_str()).unwrap_or_default().to_owned()
}

/// Asks until there is an answer; says what was waited for when there is none in time.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Waits until the admission webhook is reached: after an operator was replaced that takes the node's proxy a moment.
pub fn webhook_answers() {
    const PROBE: &str = "{apiVersion: spendkeeper.dev/v1alpha1, kind: AIBudget, metadata: {name: probe, namespace: spendkeeper-system}, \
                         spec: {limits: [{name: probe, usd: '1', period: Day}]}}";
    eventually("the admission webhook answers", || kubectl_with(&["create", "--dry-run=server", "-f", "-"], PROBE).ok.then_some(()));
}

/// A namespace under restricted pod security that goes with the test.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new(name: &str) -> Namespace {
        webhook_answers();
        let name = format!("e2e-{name}");
        apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n"
        ));
        // Whoever makes a pod at once is told that its service account is missing.
        eventually("the default service account", || try_kubectl(&["get", "-n", &name, "serviceaccount", "default"]).ok.then_some(()));
        Namespace(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = try_kubectl(&["get", "pods,aibudgets,modelroutes,events", "-n", &self.0, "-o", "wide"]);
            eprintln!("namespace {} as it was left:\n{}{}", self.0, said.out, said.err);
        } else {
            try_kubectl(&["delete", "namespace", &self.0, "--wait=false"]);
        }
    }
}

/// Ends a container's process as a crash does; the kubelet starts it again. `statuses` is `containerStatuses` or `initContainerStatuses`.
pub fn kill_container(namespace: &str, pod: &str, statuses: &str, container: &str) {
    let object = get(namespace, &format!("pod/{pod}"));
    let status = object["status"][statuses].as_array().into_iter().flatten().find(|s| s["name"] == container);
    let id = status.and_then(|s| s["containerID"].as_str()).and_then(|id| id.strip_prefix("containerd://"));
    let id = id.unwrap_or_else(|| panic!("{namespace}/{pod} has no container {container} in {statuses}: {}", object["status"]));
    let said = ctr(&["tasks", "kill", "--signal", "SIGKILL", id]);
    assert!(said.ok, "the container is not killed: {}", said.err);
}

/// The process of a container, on the node.
pub fn process_of(namespace: &str, pod: &str, statuses: &str, container: &str) -> u32 {
    let object = get(namespace, &format!("pod/{pod}"));
    let status = object["status"][statuses].as_array().into_iter().flatten().find(|s| s["name"] == container);
    let id = status.and_then(|s| s["containerID"].as_str()).unwrap_or_default().trim_start_matches("containerd://").to_owned();
    let tasks = ctr(&["tasks", "list"]).out;
    let line = tasks.lines().find(|line| line.starts_with(&id)).unwrap_or_else(|| panic!("no task {id:?} in\n{tasks}"));
    line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a process id")
}

/// A pod that cannot reach the operator, until this is dropped. Everything else it reaches.
pub struct Cut {
    process: String,
    address: String,
}

impl Cut {
    /// Also ends what is connected: what the kernel has no way for is dropped.
    pub fn from_operator(namespace: &str, pod: &str) -> Cut {
        let process = process_of(namespace, pod, "containerStatuses", "app").to_string();
        let address = get("spendkeeper-system", "service/spendkeeper-operator")["spec"]["clusterIP"].as_str().map(str::to_owned);
        let cut = Cut { process, address: address.expect("the operator's address") };
        let said = cut.route("add");
        assert!(said.ok, "the network is not cut: {}", said.err);
        cut
    }

    fn route(&self, verb: &str) -> Said {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process, "--net", "ip", "route", verb, "blackhole", &self.address]);
        run(command, "")
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.route("del");
    }
}

fn ctr(arguments: &[&str]) -> Said {
    let mut command = Command::new("ctr");
    command.arg("-a").arg(folder().join("containerd.sock")).args(["-n", "k8s.io"]).args(arguments);
    run(command, "")
}

/// The name of the only pod with these labels that is not about to go; waits for it.
pub fn pod_of(namespace: &str, selector: &str) -> String {
    eventually(&format!("a running pod {selector} in {namespace}"), || {
        let list: Value = serde_json::from_str(&kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "json"])).ok()?;
        let mut staying = list["items"].as_array()?.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
        let pod = staying.next()?;
        let ready = condition(pod, "Ready") == "True";
        (ready && staying.next().is_none()).then(|| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    })
}
