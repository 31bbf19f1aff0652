//! An API server with Spendkeeper installed on it as the chart says: the CRDs by the chart's hook, and the operator's account
//! with exactly the rights that the chart gives it.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::chart;
use super::operator::{Operator, Ports};
use super::process::Process;
use super::server::{Server, repository};
use super::wait::until_blocking;

/// The operator's namespace.
pub const SYSTEM: &str = "spendkeeper-system";
/// A namespace with resources that were there before the webhook, so that nobody refused them.
pub const EARLIER: &str = "before-the-webhook";

const RBAC: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

pub struct Cluster {
    pub server: Server,
    /// The operator's kubeconfig.
    pub account: PathBuf,
    /// The operator's variables, as the chart sets them.
    pub environment: Vec<(String, String)>,
    chart: Vec<Value>,
}

impl Cluster {
    pub fn start() -> Cluster {
        let server = Server::start();
        std::fs::create_dir(server.directory.join("operators")).unwrap();
        let chart = chart::render(&[]);
        let mut objects = vec![namespace(SYSTEM, json!({})), namespace(EARLIER, json!({}))];
        objects.extend(chart.iter().filter(|o| RBAC.iter().any(|kind| o["kind"] == **kind)).cloned());
        server.apply(&objects);
        let account = account(&server, "spendkeeper-operator");
        let cluster = Cluster { environment: chart::environment(&chart), account, chart, server };
        assert_eq!(cluster.install_crds(), Some(0), "{}", cluster.log());
        cluster.wait_for_rights();
        cluster
    }

    /// Runs `install-crds` with the rights of the chart's hook; the exit code.
    pub fn install_crds(&self) -> Option<i32> {
        let hook = account(&self.server, "spendkeeper-crds");
        let environment = [("KUBECONFIG".to_owned(), hook.display().to_string())];
        let arguments = ["install-crds".to_owned()];
        Process::start(env!("CARGO_BIN_EXE_spendkeeper-operator"), &arguments, &environment, &self.log_file("install-crds")).end().code()
    }

    /// The API server learns of new roles by a watch; before that it would refuse what it will allow.
    fn wait_for_rights(&self) {
        let account = self.account.display().to_string();
        let question = ["--kubeconfig", &account, "auth", "can-i", "create", "secrets", "--namespace", SYSTEM];
        until_blocking("the operator's account has its rights", || {
            let answer = self.server.kubectl(&question);
            if answer.status.success() { Ok(()) } else { Err(answer) }
        });
    }

    /// Applies the chart's webhook configurations, with a port on loopback in place of the Service.
    pub fn call_webhooks_at(&self, port: u16) {
        let mut configurations: Vec<Value> =
            self.chart.iter().filter(|o| o["apiVersion"] == "admissionregistration.k8s.io/v1").cloned().collect();
        for webhook in configurations.iter_mut().flat_map(|c| c["webhooks"].as_array_mut().unwrap()) {
            let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
            webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}{path}")});
        }
        self.server.apply(&configurations);
    }

    /// An operator that leads and whose webhooks are called; with a ledger of its own.
    pub fn operator(&self, name: &str, ports: Ports) -> Operator {
        self.call_webhooks_at(ports.webhook);
        Operator::start(self, name, ports).ready()
    }

    /// Where the operator of this name logs.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.server.directory.join("operators").join(name).with_extension("log")
    }

    /// What all operators have logged.
    pub fn log(&self) -> String {
        let logs = std::fs::read_dir(self.server.directory.join("operators")).unwrap();
        logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect()
    }
}

/// A kubeconfig with a token of a service account of the chart's.
fn account(server: &Server, name: &str) -> PathBuf {
    let token = server.kubectl_ok(&["create", "token", name, "--namespace", SYSTEM, "--duration", "2h"]);
    server.kubeconfig(name, token.trim())
}

pub fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// The cluster that most tests share, and its operator.
pub struct Shared {
    pub cluster: Cluster,
    pub operator: Operator,
}

pub fn shared() -> &'static Shared {
    // When it cannot be started once, nobody tries again.
    static SHARED: LazyLock<Shared> = LazyLock::new(|| {
        let cluster = Cluster::start();
        let invalid = std::fs::read_to_string(repository("tests/api/earlier.yaml")).unwrap();
        cluster.server.apply(&chart::documents(&invalid));
        let operator = cluster.operator("shared", Ports::free());
        Shared { cluster, operator }
    });
    &SHARED
}

/// The cluster of tests that stop or kill operators, one test at a time.
pub async fn disrupted() -> MutexGuard<'static, LazyLock<Cluster>> {
    static DISRUPTED: Mutex<LazyLock<Cluster>> = Mutex::const_new(LazyLock::new(Cluster::start));
    DISRUPTED.lock().await
}
