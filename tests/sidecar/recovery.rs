//! What was spent stays spent, whatever becomes of the process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use spendkeeper::core::call::CallOutcome;
use spendkeeper::ledger::Ledger;
use spendkeeper::ledger::query::CallQuery;
use spendkeeper::ledger::sqlite::SqliteLedger;

use super::bench::{Answer, Bench, budget, openai, policy, streamed};
use super::provider::Provider;

/// The real binary, in laptop mode, with its state in a directory.
struct Laptop {
    process: Child,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Laptop {
    fn start(directory: &std::path::Path, policy: &str) -> Laptop {
        let config = directory.join("policy.yaml");
        std::fs::write(&config, policy).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (listen, admin) = (free(), free());
        let mut process = Command::new(env!("CARGO_BIN_EXE_spendkeeper"))
            .args(["--config".as_ref(), config.as_os_str(), "--state-dir".as_ref(), directory.join("state").as_os_str()])
            .args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string(), "--log", "warn"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says how to use it once it listens.
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("Point your SDKs at it"), "{line}");
        Laptop { process, url: format!("http://{listen}"), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn request(&self, text: &str) -> hyper_util::client::legacy::ResponseFuture {
        let request = Request::post(format!("{}/v1/chat/completions", self.url));
        self.client.request(request.body(Full::new(openai("o-big", text, 400).to_string().into())).unwrap())
    }

    /// The status of a call.
    async fn call(&self, text: &str) -> u16 {
        Answer::of(self.request(text).await.unwrap()).await.status
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn terminate(mut self) -> std::process::ExitStatus {
        let kill = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(kill.success());
        self.process.wait().unwrap()
    }
}

async fn spent(directory: &std::path::Path) -> Vec<(CallOutcome, u64, i128)> {
    let ledger = SqliteLedger::open(&directory.join("state/ledger.db")).unwrap();
    let totals = ledger.totals(&CallQuery { from_ms: 0, to_ms: i64::MAX, route: None }).await.unwrap();
    ledger.close().await;
    let mut spent: Vec<_> = totals.into_iter().map(|t| (t.outcome, t.calls, t.cost.0)).collect();
    spent.sort_by_key(|(outcome, ..)| outcome.name());
    spent
}

#[tokio::test]
async fn budgets_survive_a_restart_and_the_end_is_orderly() {
    let provider = Provider::start().await;
    let directory = tempfile::tempdir().unwrap();
    let policy = policy(&provider, &budget("requests: 2", ""));
    let first = Laptop::start(directory.path(), &policy);
    assert_eq!([first.call("answer").await, first.call("answer").await], [200, 200]);
    assert!(first.terminate().success());
    let second = Laptop::start(directory.path(), &policy);
    assert_eq!(second.call("answer").await, 429);
    second.kill();
}

#[tokio::test]
async fn a_call_that_was_under_way_when_the_sidecar_was_killed_is_charged_as_reserved_and_nothing_else_is_lost() {
    let provider = Provider::start().await;
    let directory = tempfile::tempdir().unwrap();
    let policy = policy(&provider, &budget("usd: \"0.05\"", ""));
    let first = Laptop::start(directory.path(), &policy);
    assert_eq!(first.call("answer").await, 200);
    let hanging = tokio::spawn(first.request("hang"));
    provider.called(2).await;
    first.kill();
    hanging.abort();
    let second = Laptop::start(directory.path(), &policy);
    // Its money is neither lost nor stranded: calls are answered until the budget is used up.
    let mut answered = 0;
    while second.call("answer").await == 200 {
        answered += 1;
    }
    assert!(answered >= 5, "{answered}");
    assert!(second.terminate().success());
    assert!(provider.billed_micro() <= 50_000);
    let spent = spent(directory.path()).await;
    let of = |wanted| spent.iter().filter(|(outcome, ..)| *outcome == wanted).map(|(_, calls, cost)| (*calls, *cost)).next();
    assert_eq!(of(CallOutcome::Completed).map(|(calls, _)| calls), Some(answered + 1));
    let (unknown, charged) = of(CallOutcome::Unknown).unwrap();
    assert!(unknown == 1 && charged >= 4_000_000_000, "400 output tokens at least: {charged}");
}

#[tokio::test]
async fn at_the_end_calls_under_way_are_waited_for_and_every_lease_goes_back() {
    let provider = Provider::start().await;
    let bench = Bench::start(&policy(&provider, &budget("usd: \"1\"", ""))).await;
    let slow = bench.send("/v1/chat/completions", &[], streamed(openai("o-big", "slow", 100))).await;
    let caller = tokio::spawn(Answer::of(slow));
    let end = tokio::spawn(bench.stop());
    provider.finish.send_replace(true);
    let (ledger, _directory) = end.await.unwrap();
    assert!(caller.await.unwrap().text.ends_with("data: [DONE]\n\n"));
    assert_eq!(ledger.holders().await.unwrap(), vec![]);
    let totals = ledger.totals(&CallQuery { from_ms: 0, to_ms: i64::MAX, route: None }).await.unwrap();
    assert_eq!(totals.iter().map(|t| (t.outcome, t.calls)).collect::<Vec<_>>(), [(CallOutcome::Completed, 1)]);
}
