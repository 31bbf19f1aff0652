//! A sidecar under test, and a client for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use spendkeeper::channel::message::{BackendCredential, Pushed};
use spendkeeper::channel::secret::Secret;
use spendkeeper::core::call::CallOutcome;
use spendkeeper::core::limit::LimitKey;
use spendkeeper::core::policy::Policy;
use spendkeeper::ledger::query::{CallQuery, CallTotals, LimitBalance};
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::ledger::{HolderId, Ledger};
use spendkeeper::sidecar::call::{Settings, Sidecar};
use spendkeeper::sidecar::clock::Clock;
use spendkeeper::sidecar::config::{InForce, put_in_force};
use spendkeeper::sidecar::file;
use spendkeeper::sidecar::journal::Journal;
use spendkeeper::sidecar::source::LocalSource;
use spendkeeper::sidecar::start::{Parts, assemble, run};
use spendkeeper::sidecar::telemetry::{self, Target};
use spendkeeper::sidecar::upstream::Upstream;
use spendkeeper::sidecar::watch::take;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::provider::Provider;

/// Several times as many as a test has callers: a client may open one connection more while another becomes free.
pub const MAX_CONNECTIONS: usize = 256;

/// A route to the provider with three tiers over both protocols, at 10 USD per million tokens of any kind; `economy` at 1.
pub fn policy(provider: &Provider, budgets: &str) -> String {
    policy_at(&provider.address, budgets, 0)
}

pub fn policy_at(address: &str, budgets: &str, attempts: u32) -> String {
    let models = |prefix: &str| {
        let model = |name: &str, tier: &str, price: u32| {
            format!(
                "{{name: {prefix}{name}, tier: {tier}, contextWindow: 200000, maxOutput: 100000, price: {{input: \"{price}\", output: \"{price}\"}}}}"
            )
        };
        format!("[{}, {}]", model("big", "frontier", 10), model("small", "economy", 1))
    };
    format!(
        "{budgets}---\nkind: ModelRoute\nmetadata: {{name: r}}\nspec:\n  backends:\n\
         \x20 - {{name: one, provider: OpenAI, endpoint: \"{address}\", credentials: {{name: one}}, models: {}}}\n\
         \x20 - {{name: two, provider: Anthropic, endpoint: \"{address}\", models: {}}}\n\
         \x20 fallback: {{attempts: {attempts}}}\n",
        models("o-"),
        models("a-")
    )
}

/// A budget with one limit for ever.
pub fn budget(limit: &str, more: &str) -> String {
    format!("kind: AIBudget\nmetadata: {{name: b}}\nspec:\n  limits: [{{name: total, {limit}, period: Lifetime}}]\n{more}")
}

/// A sidecar that runs in this process.
pub struct Bench {
    pub url: String,
    pub ledger: Arc<SqliteLedger>,
    pub sidecar: Arc<Sidecar>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<std::io::Result<()>>,
    pub client: Client<HttpConnector, Full<Bytes>>,
    directory: TempDir,
}

impl Bench {
    pub async fn start(policy: &str) -> Bench {
        Bench::telling(policy, None).await
    }

    /// A sidecar that tells a collector of its calls.
    pub async fn telling(policy: &str, collector: Option<telemetry::Settings>) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("policy.yaml");
        std::fs::write(&config, policy).unwrap();
        let loaded = file::load(&config, |name| (name == "SPENDKEEPER_CREDENTIAL_ONE_API_KEY").then(|| "sk-real".to_owned())).unwrap();
        let (in_force, clock) = (InForce::default(), Clock::start());
        put_in_force(&in_force, loaded.policy, &loaded.credentials).unwrap();
        let ledger = Arc::new(SqliteLedger::open(&directory.path().join("ledger.db")).unwrap());
        let source = LocalSource { ledger: ledger.clone(), holder: HolderId("test".into()), snapshot: Arc::clone(&in_force), clock };
        let settings = Settings {
            max_connections: MAX_CONNECTIONS,
            body_limit: 1 << 20,
            request_timeout: Duration::from_secs(1),
            default_max_output: 1_000,
            answer_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(30),
        };
        let journal = Arc::new(Journal::open(&directory.path().join("journal")).unwrap());
        let upstream = Upstream::new(None).unwrap();
        let collector = collector.map(|settings| Target::new(settings, &upstream).unwrap());
        let sidecar = assemble(Parts { source: Arc::new(source), journal, in_force, upstream, settings, clock, collector }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let running = tokio::spawn(run(Arc::clone(&sidecar), listener, None, stopped, Duration::from_secs(5)));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Bench { url, ledger, sidecar, stop, running, client, directory }
    }

    /// The operator pushes the policy in force, changed.
    pub fn push(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.sidecar.in_force.load_full().unwrap().policy.clone();
        policy.generation += 1;
        change(&mut policy);
        let value = Secret::new("sk-real".to_owned());
        let credentials = vec![BackendCredential { route: policy.routes[0].key.clone(), backend: "one".to_owned(), value }];
        take(&self.sidecar, Pushed { policy: Some(policy), credentials, recall: vec![], operator_version: "test".to_owned() });
    }

    pub async fn send(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Response<Incoming> {
        let mut request = Request::post(format!("{}{path}", self.url)).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.request(request.body(Full::new(body.to_string().into())).unwrap()).await.unwrap()
    }

    /// An OpenAI call with an output cap.
    pub async fn chat(&self, text: &str, cap: u64) -> Answer {
        Answer::of(self.send("/v1/chat/completions", &[], openai("o-big", text, cap)).await).await
    }

    /// The limit `total` of budget `b`.
    pub async fn balance(&self) -> LimitBalance {
        self.balance_of("default/b/total").await
    }

    pub async fn balance_of(&self, key: &str) -> LimitBalance {
        let now_ms = Clock::start().unix_ms();
        let snapshot = self.sidecar.in_force.load_full().unwrap();
        let terms = snapshot.budgets.terms(&LimitKey(key.into()), now_ms).unwrap();
        self.ledger.balances(&[terms], now_ms).await.unwrap().into_iter().find(|b| b.key.0 == key).unwrap_or_else(|| {
            panic!("nothing is known of {key}");
        })
    }

    /// Waits until everything is reported and only what is settled is left in the ledger.
    pub async fn settled(&self) -> Vec<CallTotals> {
        let journal = &self.sidecar.accounts.journal;
        until("every call has ended", || self.sidecar.accounts.metrics.calls_open.get() == 0).await;
        self.sidecar.accounts.leases.close_all();
        until("everything is reported", || *journal.acknowledged().borrow() >= journal.end()).await;
        self.totals().await
    }

    pub async fn totals(&self) -> Vec<CallTotals> {
        let query = CallQuery { from_ms: 0, to_ms: i64::MAX, route: None };
        self.ledger.totals(&query).await.unwrap()
    }

    /// Calls that ended in this way, once all have ended.
    pub async fn ended(&self, outcome: CallOutcome) -> u64 {
        self.settled().await.iter().filter(|t| t.outcome == outcome).map(|t| t.calls).sum()
    }

    /// Stops in order; returns the ledger as it was left, and the directory that it is in.
    pub async fn stop(self) -> (Arc<SqliteLedger>, TempDir) {
        let _ = self.stop.send(());
        // Connections that are kept alive would be waited for.
        drop(self.client);
        self.running.await.unwrap().unwrap();
        (self.ledger, self.directory)
    }
}

pub fn openai(model: &str, text: &str, cap: u64) -> Value {
    json!({"model": model, "max_completion_tokens": cap, "messages": [{"role": "user", "content": text}]})
}

pub fn streamed(mut request: Value) -> Value {
    request["stream"] = json!(true);
    request
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response<Incoming>) -> Answer {
        let (parts, body) = response.into_parts();
        let text = body.collect().await.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// Polls a condition; panics when it does not hold within ten seconds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
