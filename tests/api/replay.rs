//! Traffic as it was, played faster through twenty sidecars against a budget worth two thirds of it: refusals begin when the money is
//! gone and not before, and nothing is overspent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use spendkeeper::api::AIBudget;
use spendkeeper::core::forecast::Pace;
use spendkeeper::core::money::PicoUsd;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::cluster::disrupted;
use super::operator::{Ports, get};
use super::process::{Process, free_port};
use super::scene::{Scene, route};
use super::sidecar::Sidecar;
use super::wait::until;
use super::workload::{Workload, injected};

const SIDECARS: usize = 20;
/// Pico-dollars of the simulated provider for a token of `gpt-5`, in and out: OpenAI's list.
const INPUT: i128 = 1_250_000;
const OUTPUT: i128 = 10_000_000;
/// What the provider counts beside the words of a prompt: a request, its message and the words that ask for a length.
const FEWEST: u64 = 7 + 3;

/// A call of a trace.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Since the first call.
    at: Duration,
    context: u64,
    generated: u64,
}

impl Row {
    fn cost(&self) -> i128 {
        i128::from(self.context.max(FEWEST)) * INPUT + i128::from(self.generated) * OUTPUT
    }

    /// A text of exactly the row's tokens, by the provider's tokenizer; each call's begins with a word of its own, so that none is cached.
    fn prompt(&self, number: usize) -> String {
        let words = (self.context.max(FEWEST) - FEWEST) as usize;
        let ask = format!("about {} words", self.generated);
        if words == 0 { ask } else { format!("n{number:05x}{} {ask}", " lease".repeat(words - 1)) }
    }
}

/// Lines of TIMESTAMP,ContextTokens,GeneratedTokens.
fn read(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parsed = text.lines().skip(1).map(|line| {
        let mut fields = line.split(',');
        let mut field = || fields.next().unwrap_or_else(|| panic!("{line:?} has fewer than three fields"));
        let at: Timestamp = format!("{}Z", field().replace(' ', "T")).parse().unwrap_or_else(|error| panic!("{line:?}: {error}"));
        (at, field().parse().unwrap(), field().trim().parse().unwrap())
    });
    let mut rows: Vec<(Timestamp, u64, u64)> = parsed.collect();
    rows.sort_by_key(|row| row.0);
    let first = rows[0].0;
    rows.into_iter().map(|(at, context, generated)| Row { at: at.duration_since(first).unsigned_abs(), context, generated }).collect()
}

/// A trace of the same shape: bursts, and sizes with long tails.
fn generate(count: usize) -> Vec<Row> {
    let mut state = 1_u64;
    let mut draw = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut at = Duration::ZERO;
    let rows = (0..count).map(|_| {
        at += Duration::from_millis(if draw(5) == 0 { draw(900) } else { draw(50) });
        let long = draw(10) == 0;
        Row { at, context: 20 + draw(if long { 8_000 } else { 1_200 }), generated: 7 + draw(if long { 900 } else { 300 }) }
    });
    rows.collect()
}

/// When the budget first refused a call, and where the bill stood.
struct Refusal {
    at: Duration,
    billed: i128,
}

struct Provider {
    port: u16,
    _process: Process,
}

impl Provider {
    fn start(directory: &Path) -> Provider {
        let port = free_port();
        let arguments = ["--listen", &format!("127.0.0.1:{port}"), "--first-token-ms", "20", "--tokens-per-second", "2000"];
        let arguments = arguments.map(str::to_owned);
        let quiet = [("RUST_LOG".to_owned(), "warn".to_owned())];
        let log = directory.join("replay-provider.log");
        let process = Process::start(env!("CARGO_BIN_EXE_spendkeeper-test-provider"), &arguments, &quiet, &log);
        super::wait::until_blocking("the provider listens", || get(port, "/healthz").ok_or("it does not"));
        Provider { port, _process: process }
    }

    /// Pico-dollars, and calls in flight.
    fn bill(&self) -> (i128, i64) {
        let (_, body) = get(self.port, "/admin/bill").unwrap();
        let page: Value = serde_json::from_str(&body).unwrap();
        (page["total"]["picoUsd"].as_str().unwrap().parse().unwrap(), page["total"]["inFlight"].as_i64().unwrap())
    }
}

/// When a limit of which so much was spent so far is used up, as a budget that is an hour old is told it (its status rounds to minutes):
/// milliseconds since the beginning.
fn exhausted_at_ms(limit: i128, spent: i128, elapsed: Duration) -> Option<i64> {
    let now_ms = i64::try_from(elapsed.as_millis()).unwrap();
    let pace = Pace { limit, spent, since_ms: 0, now_ms, end_ms: None, rolling_ms: None };
    pace.straight_to_exhaustion_ms()
}

async fn replay(rows: Vec<Row>, speed: f64, marks: &[u64]) -> Value {
    let turn = disrupted().await;
    let operator = turn.operator("replay", Ports::free());
    let scene = Scene::on(&turn, "replay", json!({})).await;
    let provider = Arc::new(Provider::start(&turn.server.directory));
    let span = rows.last().unwrap().at;
    let worth: i128 = rows.iter().filter(|row| row.at <= span * 2 / 3).map(Row::cost).sum();
    // A budget is in millionths at least.
    let limit = worth / 1_000_000 * 1_000_000;
    let mut models = route("models", &format!("http://127.0.0.1:{}", provider.port));
    models["spec"]["backends"][0]["serviceTier"] = json!("Standard");
    models["spec"]["backends"][0]["models"] = json!([{"name": "gpt-5", "tier": "frontier"}]);
    scene.create(models).await.unwrap();
    scene.budget_in_force("b", json!({"usd": format!("{}.{:06}", limit / 1_000_000_000_000, limit / 1_000_000 % 1_000_000)})).await;
    let mut sidecars = Vec::new();
    for number in 0..SIDECARS {
        let workload = Workload::start(&scene, injected(&format!("bot-{number}"))).await;
        sidecars.push(Arc::new(Sidecar::start(&scene, &workload).await));
    }

    let (refusal, answered) = (Arc::new(OnceCell::new()), Arc::new(AtomicUsize::new(0)));
    let start = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    let mut forecasts = Vec::new();
    let mut marks = marks.iter().map(|minute| Duration::from_secs(minute * 60)).peekable();
    for (number, row) in rows.iter().copied().enumerate() {
        while let Some(mark) = marks.next_if(|mark| *mark <= row.at) {
            forecasts.push((mark, exhausted_at_ms(limit, provider.bill().0, start.elapsed())));
        }
        tokio::time::sleep_until(start + row.at.div_f64(speed)).await;
        // Unequal, as pods are: the first has as much as the last ten.
        let sidecar = Arc::clone(&sidecars[(number * number / 7 + number) % (1 + number % SIDECARS)]);
        let (provider, refusal, answered) = (Arc::clone(&provider), Arc::clone(&refusal), Arc::clone(&answered));
        calls.spawn(async move {
            let message = json!({"role": "user", "content": row.prompt(number)});
            let answer = sidecar.post(json!({"model": "gpt-5", "max_completion_tokens": row.generated, "messages": [message]})).await;
            match answer.status {
                200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                429 => drop(refusal.get_or_init(async || Refusal { at: start.elapsed(), billed: provider.bill().0 }).await.at),
                other => panic!("call {number} has status {other}: {}", answer.text),
            };
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    until("the provider has nothing in flight", async || match provider.bill() {
        (_, 0) => Ok(()),
        (_, more) => Err(more),
    })
    .await;
    let billed = provider.bill().0;
    // A status is in millionths, rounded.
    let is_billed = |spent: &str| spent.trim_start_matches('$').parse().is_ok_and(|spent: PicoUsd| (spent.0 - billed).abs() <= 1_000_000);
    let agrees = |b: &AIBudget| b.status.as_ref().is_some_and(|s| is_billed(&s.limits[0].spent) && s.limits[0].reserved == "$0.000000");
    scene.once::<AIBudget>("what was billed is what was spent", "b", agrees).await;
    let refusal = refusal.get().expect("a budget of two thirds is used up");
    let percent = |part: i128| (part * 10_000 / limit) as f64 / 100.0;
    let error = |(mark, forecast_ms): &(Duration, Option<i64>)| {
        // Minutes of the trace between what was forecast and what came.
        let wrong = forecast_ms.map(|ms| ((ms as f64 / 1_000.0 - refusal.at.as_secs_f64()) * speed / 6.0).round() / 10.0);
        json!({"after_min": mark.as_secs() / 60, "exhaustion_error_min": wrong})
    };
    let round_trips: f64 = operator.metric("spendkeeper_lease_requests_total", "");
    let report = json!({
        "calls": rows.len(),
        "sidecars": SIDECARS,
        "speed": speed,
        "limit_pico_usd": limit.to_string(),
        "billed_pico_usd": billed.to_string(),
        "overspent_pico_usd": (billed - limit).max(0).to_string(),
        "used_percent": percent(billed),
        "used_percent_at_first_refusal": percent(refusal.billed),
        "first_refusal_min": (refusal.at.as_secs_f64() * speed / 6.0).round() / 10.0,
        "answered": answered.load(Ordering::Relaxed),
        "lease_requests": round_trips,
        "forecasts": forecasts.iter().map(error).collect::<Vec<_>>(),
    });
    for sidecar in sidecars {
        assert!(Arc::into_inner(sidecar).unwrap().terminate().success());
    }
    assert!(operator.terminate().success());
    assert!(billed <= limit, "overspent: {report}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sidecars_spend_a_budget_to_its_end_and_no_further() {
    let report = replay(generate(1_500), 30.0, &[]).await;
    println!("{report:#}");
    assert!(report["used_percent"].as_f64().unwrap() >= 99.0, "{report:#}");
}

/// `make bench-replay TRACE=…`: an hour, in six minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and a trace: make bench-replay TRACE=…"]
async fn an_hour_of_real_traffic() {
    let path = PathBuf::from(std::env::var_os("TRACE").expect("TRACE is a file of TIMESTAMP,ContextTokens,GeneratedTokens"));
    let speed = std::env::var("SPEED").map_or(10.0, |speed| speed.parse().expect("SPEED is a number"));
    let report = replay(read(&path), speed, &[10, 20, 30]).await;
    println!("{report:#}");
    let out = super::server::repository("target/bench/replay.json");
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    std::fs::write(&out, format!("[\n{report}\n]\n")).unwrap();
    assert!(report["used_percent"].as_f64().unwrap() >= 99.0, "{report:#}");
}
