//! An API server with its etcd, for as long as somebody holds it: at the latest until this process ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

static STARTED: AtomicU32 = AtomicU32::new(0);

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub struct Server {
    /// Everything that is about this server; removed when it ends.
    pub directory: PathBuf,
    process: Child,
}

impl Server {
    pub fn start() -> Server {
        let name = format!("api-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::SeqCst));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let log = directory.with_extension("log");
        let mut process = Command::new(repository("tests/cluster/api-up"))
            .arg(&directory)
            .env("FOREGROUND", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let problems = std::fs::read_to_string(&log).unwrap();
        assert_eq!(line, "ready\n", "the API server does not start: {problems}");
        std::fs::remove_file(&log).unwrap();
        Server { directory, process }
    }

    /// The kubeconfig of whoever may do everything.
    pub fn admin(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// Writes a kubeconfig for a bearer token.
    pub fn kubeconfig(&self, user: &str, token: &str) -> PathBuf {
        let admin = Kubeconfig::read_from(self.admin()).unwrap();
        let server = admin.clusters[0].cluster.as_ref().unwrap().server.clone();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": self.directory.join("pki/ca.crt")}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let path = self.directory.join(format!("{user}.kubeconfig"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// kubectl with something to read.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(repository("target/cluster/bin/kubectl"))
            .arg("--kubeconfig")
            .arg(self.admin())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        kubectl.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        kubectl.wait_with_output().unwrap()
    }

    /// What kubectl says when all is well.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        succeeded(&self.kubectl(arguments))
    }

    pub fn apply(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        succeeded(&self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &list.to_string()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A client with the rights of a kubeconfig, or of a user and their groups whom it may impersonate. It lives in the test's own runtime.
pub async fn client(kubeconfig: &Path, user: Option<&str>) -> Client {
    // Whoever was first has installed the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(config).unwrap()
}
