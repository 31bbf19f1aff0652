//! The real sidecar as a child process in a pod's place, and an app that calls through it.

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::operator::get;
use super::process::{Process, free_port};
use super::scene::Scene;
use super::wait::until;
use super::workload::Workload;

pub struct Sidecar {
    url: String,
    admin: u16,
    journal: PathBuf,
    client: Client<HttpConnector, Full<Bytes>>,
    process: Process,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Sidecar {
    /// Starts it and waits until it has its policy.
    pub async fn start(scene: &Scene<'_>, workload: &Workload) -> Sidecar {
        let (port, admin) = (free_port(), free_port());
        let directory = scene.cluster.server.directory.join(&workload.uid);
        let state = directory.join("journal");
        std::fs::create_dir_all(&state).unwrap();
        let arguments = [
            ("--token-file", workload.token_file.display().to_string()),
            ("--state-dir", state.display().to_string()),
            ("--listen", format!("127.0.0.1:{port}")),
            ("--admin-listen", format!("127.0.0.1:{admin}")),
        ];
        let arguments: Vec<String> = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        // As the webhook put them into the pod.
        let environment = [("SPENDKEEPER_OPERATOR", &workload.operator), ("SPENDKEEPER_CA", &workload.ca)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.clone()));
        let log = directory.join("sidecar.log");
        let mut process = Process::start(env!("CARGO_BIN_EXE_spendkeeper-sidecar"), &arguments, &environment, &log);
        until("the sidecar has its policy", async || match get(admin, "/readyz") {
            Some((200, _)) => Ok(()),
            answer => {
                assert!(process.ended().is_none(), "{}", std::fs::read_to_string(&log).unwrap());
                Err(answer)
            }
        })
        .await;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Sidecar { url: format!("http://127.0.0.1:{port}"), admin, journal: state, client, process }
    }

    /// A call to the frontier model with an output cap.
    pub async fn chat(&self, cap: u64) -> Answer {
        self.post(json!({"model": "big", "max_completion_tokens": cap, "messages": [{"role": "user", "content": "answer"}]})).await
    }

    /// A chat completion.
    pub async fn post(&self, body: Value) -> Answer {
        let request = Request::post(format!("{}/v1/chat/completions", self.url)).header("authorization", "Bearer spendkeeper");
        let request = request.header("content-type", "application/json").body(Full::new(body.to_string().into())).unwrap();
        let (parts, body) = self.client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8_lossy(&body).into_owned() }
    }

    /// Everything that it tells of itself.
    pub fn metrics(&self) -> String {
        get(self.admin, "/metrics").unwrap().1
    }

    /// A gauge of those, without labels.
    pub fn gauge(&self, name: &str) -> Option<f64> {
        self.metrics().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Ends it where it stands, and its journal with it.
    pub fn lose(mut self) {
        self.process.signal("KILL");
        self.process.end();
        std::fs::remove_dir_all(&self.journal).unwrap();
    }

    /// Stops it in order.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        self.process.signal("TERM");
        self.process.end()
    }
}
