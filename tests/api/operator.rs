//! The real operator as a child process, configured as the chart configures it, but for paths and ports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::cluster::{Cluster, SYSTEM};
use super::process::{Process, free_port};
use super::wait::until_blocking;

#[derive(Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub webhook: u16,
    pub control: u16,
}

impl Ports {
    pub fn free() -> Ports {
        Ports { http: free_port(), webhook: free_port(), control: free_port() }
    }

    pub fn control_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.control)
    }
}

/// An operator. It is killed when it is dropped.
pub struct Operator {
    pub ports: Ports,
    process: Process,
    log: PathBuf,
}

impl Operator {
    /// Starts the pod `name` with a ledger of its own; a pod of the same name finds the same ledger.
    pub fn start(cluster: &Cluster, name: &str, ports: Ports) -> Operator {
        let file = cluster.server.directory.join(name).join("ledger.db").display().to_string();
        Operator::start_on(&file, cluster, name, ports)
    }

    /// Starts the pod `name` with the ledger at an address.
    pub fn start_on(ledger: &str, cluster: &Cluster, name: &str, ports: Ports) -> Operator {
        let at = |port: u16| format!("127.0.0.1:{port}");
        let arguments = [
            ("--namespace", SYSTEM.to_owned()),
            ("--pod-name", name.to_owned()),
            ("--ledger", ledger.to_owned()),
            ("--http-listen", at(ports.http)),
            ("--webhook-listen", at(ports.webhook)),
            ("--control-listen", at(ports.control)),
            ("--control-url", ports.control_url()),
            ("--certificate-names", "127.0.0.1".to_owned()),
            ("--log", "spendkeeper=trace,debug".to_owned()),
            ("--log-format", "text".to_owned()),
        ];
        let arguments: Vec<String> =
            std::iter::once("run".to_owned()).chain(arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value])).collect();
        let mut environment = cluster.environment.clone();
        environment.push(("KUBECONFIG".to_owned(), cluster.account.display().to_string()));
        let log = cluster.log_file(name);
        let process = Process::start(env!("CARGO_BIN_EXE_spendkeeper-operator"), &arguments, &environment, &log);
        Operator { ports, process, log }
    }

    /// Waits until the operator says that it is ready.
    pub fn ready(mut self) -> Operator {
        until_blocking("the operator is ready", || {
            assert!(self.process.ended().is_none(), "the operator ended: {}", self.log());
            self.readiness()
        });
        self
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// What it waits for, as an error.
    pub fn readiness(&self) -> Result<(), String> {
        match get(self.ports.http, "/readyz") {
            Some((200, _)) => Ok(()),
            Some((_, why)) => Err(why),
            None => Err("nothing listens".to_owned()),
        }
    }

    /// A metric: the sum of all its lines that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, page) = get(self.ports.http, "/metrics").unwrap();
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    pub fn kill(mut self) {
        self.process.signal("KILL");
        self.process.end();
    }

    /// Stops it in order.
    pub fn terminate(mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.end()
    }
}

/// Status and body of a page on loopback; `None` when nobody answers.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
