//! The promises of the port, kept by a real server; and those that only several replicas, or a server that fails, can break.

#[path = "../../../tests/postgres/server.rs"]
#[allow(dead_code, reason = "other levels reach it over a network")]
mod server;
mod servers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError, Weak};
use std::time::Instant;

use super::*;
use crate::core::call::{CallId, CallOutcome};
use crate::core::limit::{LimitKey, Span};
use crate::ledger::LeaseId;
use crate::ledger::calls::Calls;
use crate::ledger::conformance::{Home, acquire, holder, keeps_promises, limit, record, usd};
use crate::ledger::usage;
use server::Server;

/// Nobody waits for longer: the time that the writer gives a request, an attempt that is under way, and what a busy machine takes.
const ANSWERED: Duration = Duration::from_secs(15);

/// A schema of its own in a server that all tests share; the last of them ends it.
struct Schema {
    server: Arc<Server>,
    name: String,
}

fn shared_server() -> Arc<Server> {
    static SERVER: StdMutex<Weak<Server>> = StdMutex::new(Weak::new());
    let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start(&std::env::temp_dir()));
        *shared = Arc::downgrade(&server);
        server
    })
}

impl Schema {
    async fn on(server: Arc<Server>) -> Schema {
        static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ledger_{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let schema = Schema { server, name };
        schema.execute(&format!("CREATE SCHEMA {}", schema.name)).await;
        schema
    }

    fn url(&self) -> String {
        self.server.url(&self.name)
    }

    async fn execute(&self, sql: &str) {
        let database = Database::parse(&self.url(), None).expect("an address");
        database.connect().await.expect("a connection").batch_execute(sql).await.expect("done");
    }

    async fn number(&self, sql: &str) -> i64 {
        let database = Database::parse(&self.url(), None).expect("an address");
        database.connect().await.expect("a connection").query_one(sql, &[]).await.expect("a row").get(0)
    }

    async fn replica(&self) -> Arc<PostgresLedger> {
        Arc::new(PostgresLedger::open(&self.url(), Options::default()).await.expect("a ledger"))
    }
}

#[async_trait]
impl Home for Schema {
    async fn new() -> Schema {
        Schema::on(tokio::task::spawn_blocking(shared_server).await.expect("a server")).await
    }

    async fn open(&self) -> Arc<dyn Ledger> {
        self.replica().await
    }
}

keeps_promises!(Schema, ignore = "needs PostgreSQL's server: make test-postgres");

fn rolling(key: &str, amount: i128) -> LimitTerms {
    LimitTerms { key: LimitKey(key.into()), span: Span::Rolling { length_ms: 60_000, bucket_ms: 1 }, ..limit(key, amount) }
}

fn settled(call: &str, lease: &str, cost: i128) -> Vec<Entry> {
    let lease = Some(LeaseId(lease.into()));
    let opened = Entry::Opened { call: CallId(call.into()), lease: lease.clone(), reserved: usd(cost), draft: None, unleased: vec![] };
    vec![opened, Entry::Settled { record: record(call, cost, CallOutcome::Completed), lease, unleased: vec![] }]
}

/// Asks until the ledger is there, as a sidecar does; how long the slowest answer took.
async fn insist<T, F: Future<Output = Result<T, LedgerError>>>(slowest: &mut Duration, ask: impl Fn() -> F) -> T {
    loop {
        let began = Instant::now();
        let answer = ask().await;
        *slowest = began.elapsed().max(*slowest);
        match answer {
            Ok(answer) => return answer,
            Err(LedgerError::Unreachable(_)) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A holder that gets leases of two limits and spends them, asking one replica after the other and telling two at once.
struct Spender {
    number: usize,
    replicas: Vec<Arc<PostgresLedger>>,
    limits: Vec<LimitTerms>,
    /// Calls that were settled, and the slowest answer.
    calls: u64,
    slowest: Duration,
}

const COST: i128 = 30;

impl Spender {
    async fn spend(mut self, rounds: usize) -> Spender {
        let (pod, lease) = (holder(&format!("pod-{}", self.number)), format!("lease-{}", self.number));
        for round in 0..rounds {
            let replica = |n: usize| &self.replicas[(self.number + round + n) % self.replicas.len()];
            let now_ms = 1_000 + round as i64;
            let mut request = acquire(&lease, round as u64 + 1, &self.limits, COST, COST);
            (request.holder, request.now_ms) = (pod.clone(), now_ms);
            let decision = insist(&mut self.slowest, || replica(0).acquire(request.clone())).await;
            if !matches!(decision, Decision::Granted { .. }) {
                continue;
            }
            let entries = settled(&format!("call-{}-{round}", self.number), &lease, COST);
            let (mut first, mut second) = (Duration::ZERO, Duration::ZERO);
            tokio::join!(
                insist(&mut first, || replica(0).report(&pod, entries.clone(), now_ms)),
                insist(&mut second, || replica(1).report(&pod, entries.clone(), now_ms)),
            );
            self.slowest = self.slowest.max(first).max(second);
            self.calls += 1;
        }
        self
    }
}

async fn spend_on(
    replicas: &[Arc<PostgresLedger>],
    limits: &[LimitTerms],
    spenders: usize,
    rounds: usize,
) -> tokio::task::JoinSet<Spender> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..spenders {
        let spender = Spender { number, replicas: replicas.to_vec(), limits: limits.to_vec(), calls: 0, slowest: Duration::ZERO };
        tasks.spawn(spender.spend(rounds));
    }
    tasks
}

/// Every call was charged once to each limit, and recorded once; nothing was overspent.
async fn assert_exact(ledger: &PostgresLedger, limits: &[LimitTerms], calls: u64) {
    for balance in ledger.balances(limits, 2_000).await.expect("balances") {
        assert_eq!(balance.settled, i128::from(calls) * COST, "{balance:?}");
        assert_eq!(balance.reserved, 0, "{balance:?}");
        assert!(balance.left() >= 0, "overspent: {balance:?}");
    }
    let totals = ledger.totals(&CallQuery { from_ms: 0, to_ms: i64::MAX, route: None }).await.expect("totals");
    assert_eq!(totals.iter().map(|t| t.calls).sum::<u64>(), calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn replicas_that_write_at_once_never_overspend_and_charge_each_call_once() {
    let schema = Schema::new().await;
    let (first, second, third) = tokio::join!(schema.replica(), schema.replica(), schema.replica());
    let replicas = [first, second, third];
    // Room for 150 of the 12 × 20 calls that are tried.
    let limits = [limit("shop/day/l", 150 * COST), rolling("shop/rolling/l", 150 * COST)];
    let spenders = spend_on(&replicas, &limits, 12, 20).await.join_all().await;
    let calls = spenders.iter().map(|spender| spender.calls).sum();
    assert_eq!(calls, 150, "a limit that refuses has less left than one call needs");
    assert_exact(&replicas[0], &limits, calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_replica_that_was_alone_sees_what_another_wrote() {
    let schema = Schema::new().await;
    let (first, second) = (schema.replica().await, schema.replica().await);
    let terms = limit("shop/b/l", 100);
    let ask = |lease: &str, seq, amount| acquire(lease, seq, std::slice::from_ref(&terms), amount, amount);
    let granted = async |replica: &PostgresLedger, request| match replica.acquire(request).await.expect("an answer") {
        Decision::Granted { granted, .. } => granted.usd.0,
        other => panic!("not granted: {other:?}"),
    };
    let give_back = async |replica: &PostgresLedger, lease: &str, amount| {
        let entry = Entry::GivenBack { lease: LeaseId(lease.into()), seq: 9, amount: usd(amount) };
        replica.report(&holder("pod"), vec![entry], 1_000).await.expect("reported");
    };
    assert_eq!(granted(&first, ask("a", 1, 60)).await, 60);
    assert_eq!(schema.number("SELECT count(*) FROM fence WHERE alone <> ''").await, 1, "it is alone");
    assert_eq!(granted(&first, ask("a", 2, 10)).await, 10);
    let refused = second.acquire(ask("b", 1, 40)).await.expect("an answer");
    assert!(matches!(refused, Decision::Refused { .. }), "70 are held: {refused:?}");
    give_back(&second, "a", 70).await;
    // The first remembers 70 held, the second none: what it gave back is there for both.
    assert_eq!(granted(&first, ask("c", 1, 100)).await, 100);
    let refused = second.acquire(ask("b", 2, 1)).await.expect("an answer");
    assert!(matches!(refused, Decision::Refused { .. }), "100 are held: {refused:?}");
    assert_eq!(schema.number("SELECT count(*) FROM fence WHERE alone = ''").await, 1, "neither is alone after they met");
    give_back(&second, "c", 100).await;
    assert_eq!(granted(&first, ask("d", 1, 100)).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn answers_are_durable_whatever_the_roles_default() {
    let schema = Schema::new().await;
    let careless = format!("{}%20-csynchronous_commit%3Doff", schema.url());
    let client = Database::parse(&careless, None).expect("an address").connect().await.expect("a connection");
    let setting: String = client.query_one("SHOW synchronous_commit", &[]).await.expect("a setting").get(0);
    assert_eq!(setting, "on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_row_that_cannot_be_read_fails_only_those_who_need_it() {
    let schema = Schema::new().await;
    let replica = schema.replica().await;
    let ask = |lease: &str, seq| acquire(lease, seq, &[limit(&format!("shop/{lease}/l"), 100)], 10, 10);
    replica.acquire(ask("a", 1)).await.expect("an answer");
    schema.execute("UPDATE leases SET answer = 'none'").await;
    // One that does not know the row already.
    let replica = schema.replica().await;
    let (a, b, c) = tokio::join!(replica.acquire(ask("a", 2)), replica.acquire(ask("b", 1)), replica.acquire(ask("c", 1)));
    assert!(matches!(a, Err(LedgerError::Corrupt(_))), "{a:?}");
    assert!(matches!((&b, &c), (Ok(Decision::Granted { .. }), Ok(Decision::Granted { .. }))), "{b:?} {c:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_database_from_a_newer_release_is_refused() {
    let schema = Schema::new().await;
    schema.replica().await.close().await;
    schema.execute("UPDATE ledger_version SET version = 99").await;
    let newer = PostgresLedger::open(&schema.url(), Options::default()).await.err();
    assert!(matches!(newer, Some(LedgerError::NewerSchema { found: 99, .. })), "{newer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_database_of_any_earlier_release_is_brought_up_to_date_and_keeps_what_it_holds() {
    let scripts = schema::migrations();
    for version in 1..scripts.len() {
        let home = Schema::new().await;
        for script in &scripts[..version] {
            home.execute(script).await;
        }
        let versions = "CREATE TABLE ledger_version (one int PRIMARY KEY CHECK (one = 1), version bigint NOT NULL)";
        home.execute(&format!("{versions}; INSERT INTO ledger_version VALUES (1, {version})")).await;
        let limits = r#"[{"key":"shop/b/l","unit":"Usd","span":{"Fixed":{"start_ms":0,"end_ms":86400000}}}]"#;
        home.execute(&format!(
            "INSERT INTO leases VALUES ('a', 'pod', 1, '\"Expired\"', '{limits}', 5, 40, 0, 0, 0, 0, 0);
             INSERT INTO accounts (key, bucket, base, settled, outstanding, reserved) VALUES ('shop/b/l', 0, 'shop/b/l', 50, 40, 0)"
        ))
        .await;
        let is_summed_by_day = version >= 5;
        if is_summed_by_day {
            let group = r#"["shop","","","","","","","","","0","","m","","","","completed"]"#;
            home.execute(&format!("INSERT INTO usage_days VALUES (0, '{group}', 7,0,0,0,0,0,0,0,0,0,0,0,0, 35, 5, 5)")).await;
        }
        let replica = home.replica().await;
        replica.report(&holder("pod"), settled("c", "a", 30), 1_000).await.expect("reported");
        let day = CallQuery { from_ms: 0, to_ms: usage::DAY_MS, route: None };
        let calls: u64 = replica.totals(&day).await.expect("totals").iter().map(|totals| totals.calls).sum();
        assert_eq!(calls, if is_summed_by_day { 7 } else { 1 }, "a day that was summed is read as such, from version {version}");
        let balance = replica.balances(&[limit("shop/b/l", 100)], 1_000).await.expect("balances").remove(0);
        assert_eq!((balance.settled, balance.outstanding), (80, 10), "from version {version}");
        // A replica of a release that knows no fence cannot go on beside this one.
        let old = Database::parse(&home.url(), None).expect("an address").connect().await.expect("a connection");
        assert!(old.query("SELECT seen_ms FROM clock WHERE one = 1", &[]).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_writer_deletes_calls_that_need_not_be_kept_any_more_and_their_sums_stay() {
    const HOUR_MS: i64 = 3_600_000;
    let schema = Schema::new().await;
    let report = async |ledger: &PostgresLedger, call: &str, at_ms: i64| {
        let entry = Entry::Settled { record: record(call, 5, CallOutcome::Completed), lease: None, unleased: vec![] };
        ledger.report(&holder("pod"), vec![entry], at_ms).await.expect("reported");
        ledger.close().await;
    };
    report(&*schema.replica().await, "old", 7).await;
    let keep = Options { keep_calls: Some(Duration::from_hours(2)), ca: None };
    report(&PostgresLedger::open(&schema.url(), keep).await.expect("a ledger"), "new", 5 * HOUR_MS).await;
    let client = Database::parse(&schema.url(), None).expect("an address").connect().await.expect("a connection");
    let kept: String = client.query_one("SELECT string_agg(id, ',') FROM calls", &[]).await.expect("calls").get(0);
    assert_eq!(kept, "new");
    let query = CallQuery { from_ms: 0, to_ms: 6 * HOUR_MS, route: None };
    let totals = schema.replica().await.totals(&query).await.expect("totals");
    assert_eq!(totals.iter().map(|t| t.calls).sum::<u64>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn every_call_of_more_than_a_page_is_exported_once_and_in_order() {
    let schema = Schema::new().await;
    let replica = schema.replica().await;
    let name = |n: i64| format!("call-{n:05}");
    // A thousand and more at one moment, which a page must not end with.
    for hundred in 0..25 {
        let record = |n: i64| record(&name(hundred * 100 + n), 1_000_001, CallOutcome::Completed);
        let entries = (0..100).map(|n| Entry::Settled { record: record(n), lease: None, unleased: vec![] }).collect();
        replica.report(&holder("pod"), entries, 1_000 + hundred / 20).await.expect("reported");
    }
    let mut calls = Calls::open(&schema.url(), None, 1_000, 1_002).await.expect("a connection");
    let mut exported = Vec::new();
    loop {
        let page = calls.page().await.expect("a page");
        if page.is_empty() {
            break;
        }
        exported.extend(page);
    }
    assert_eq!(exported.iter().map(|call| call.id().to_owned()).collect::<Vec<_>>(), (0..2_500).map(name).collect::<Vec<_>>());
    assert!(exported.iter().all(|call| call.cost.0 == 1_000_001 && (1_000..=1_001).contains(&call.at_ms())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_note_reaches_every_other_replica_once_and_in_order() {
    let schema = Schema::new().await;
    let (one, other) = (schema.replica().await, schema.replica().await);
    let note = |writer: &str, number| Note { writer: writer.into(), number, text: format!("{writer} {number}") };
    let mut known = BTreeMap::new();
    let mut heard = async |reader: &str| {
        let notes = other.told(reader, &known).await.expect("notes");
        assert!(notes.iter().all(|(_, age_ms)| (0..30_000).contains(age_ms)), "{notes:?}");
        let notes: Vec<Note> = notes.into_iter().map(|(note, _)| note).collect();
        known.extend(notes.iter().map(|note| (note.writer.clone(), note.number)));
        notes
    };
    for (writer, number) in [("a", 0), ("a", 1), ("b", 0), ("a", 1)] {
        one.tell(&note(writer, number)).await.expect("told");
    }
    assert_eq!(heard("b").await, [note("a", 0), note("a", 1)], "nobody hears of its own");
    assert_eq!(heard("b").await, []);
    one.tell(&note("a", 2)).await.expect("told");
    assert_eq!(heard("c").await, [note("a", 2), note("b", 0)]);
    schema.execute("UPDATE notes SET at = now() - interval '2 minutes'").await;
    let all = async || other.told("c", &BTreeMap::new()).await.expect("notes");
    assert!(all().await.iter().all(|(_, age_ms)| *age_ms >= 120_000));
    one.tell(&note("a", 50)).await.expect("told");
    let kept: Vec<Note> = all().await.into_iter().map(|(note, _)| note).collect();
    assert_eq!(kept, [note("a", 50)], "what is old is gone");
}
