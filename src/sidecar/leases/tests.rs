use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;

use super::*;
use crate::channel::message::Reported;
use crate::core::amount::Unit;
use crate::core::money::PicoUsd;

/// A ledger of one limit, `a`, under which every lease is; it can be away.
struct Fake {
    left: Mutex<i128>,
    /// What other sidecars hold and do not need.
    idle: Mutex<i128>,
    away: Mutex<bool>,
    valid_for_ms: i64,
    /// The number of each lease's last give-back; as in the ledger, none that comes after a later one is heeded.
    heard: Mutex<HashMap<LeaseId, u64>>,
    requests: AtomicUsize,
}

#[async_trait]
impl LeaseSource for Fake {
    async fn acquire(&self, ask: LeaseAsk) -> Result<Decision, SourceError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Others arrive meanwhile.
        tokio::time::sleep(Duration::from_millis(5)).await;
        if *lock(&self.away) {
            return Err(SourceError::Unavailable("away".into()));
        }
        let mut left = lock(&self.left);
        if ask.min.usd.0 > *left {
            let shortfall =
                Shortfall { key: LimitKey("a".into()), unit: Unit::Usd, left: *left, idle: *lock(&self.idle), resets_at_ms: None };
            return Ok(Decision::Refused { shortfalls: vec![shortfall] });
        }
        let granted = ask.want.min(Amount { usd: PicoUsd(*left), ..ask.want }).max(ask.min);
        *left -= granted.usd.0;
        Ok(Decision::Granted { granted, valid_for_ms: self.valid_for_ms, left: None })
    }

    async fn report(&self, entries: Vec<Reported>) -> Result<(), SourceError> {
        for entry in entries {
            let Reported::GivenBack { lease, seq, amount } = entry else { continue };
            let mut heard = lock(&self.heard);
            let last = heard.entry(lease).or_default();
            if seq > *last {
                *last = seq;
                *lock(&self.left) += amount.usd.0;
            }
        }
        Ok(())
    }
}

fn bench(left: i128) -> (Arc<Leases>, Arc<Fake>, tempfile::TempDir) {
    bench_with(left, 60_000)
}

fn bench_with(left: i128, valid_for_ms: i64) -> (Arc<Leases>, Arc<Fake>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(directory.path()).unwrap());
    let fake = Arc::new(Fake {
        left: Mutex::new(left),
        idle: Mutex::new(0),
        away: Mutex::new(false),
        valid_for_ms,
        heard: Mutex::default(),
        requests: AtomicUsize::new(0),
    });
    let source: Arc<dyn LeaseSource> = fake.clone();
    tokio::spawn(reporter::run(Arc::clone(&journal), Arc::clone(&source)));
    let leases = Leases::new(source, journal, Arc::new(Metrics::new()), Clock::start());
    (Arc::new(leases), fake, directory)
}

fn need(usd: i128) -> Amount {
    Amount { usd: PicoUsd(usd), tokens: 0, requests: 0 }
}

fn set(names: &[&str]) -> Vec<LimitKey> {
    names.iter().map(|n| LimitKey((*n).to_owned())).collect()
}

async fn draw_at_once(leases: &Arc<Leases>, calls: usize, usd: i128) -> usize {
    let draws = (0..calls).map(|_| {
        let leases = Arc::clone(leases);
        tokio::spawn(async move { leases.draw(&set(&["a"]), need(usd)).await.is_ok() })
    });
    futures::future::join_all(draws).await.into_iter().filter(|drawn| *drawn.as_ref().unwrap()).count()
}

#[tokio::test]
async fn sixty_four_calls_at_once_ask_a_few_times() {
    let (leases, fake, _directory) = bench(1_000);
    assert_eq!(draw_at_once(&leases, 64, 10).await, 64);
    assert!(fake.requests.load(Ordering::Relaxed) <= 3, "{}", fake.requests.load(Ordering::Relaxed));
}

#[tokio::test]
async fn exactly_as_many_calls_are_let_through_as_there_is_money_for() {
    let (leases, _fake, _directory) = bench(105);
    assert_eq!(draw_at_once(&leases, 64, 10).await, 10);
}

#[tokio::test]
async fn a_refusal_answers_everyone_who_waited_for_it() {
    let (leases, fake, _directory) = bench(5);
    assert_eq!(draw_at_once(&leases, 64, 10).await, 0);
    assert!(fake.requests.load(Ordering::Relaxed) <= 2, "{}", fake.requests.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_call_is_not_refused_while_this_sidecar_holds_what_it_needs_elsewhere() {
    let (leases, fake, _directory) = bench(100);
    let other = leases.draw(&set(&["a", "b"]), need(90)).await.unwrap();
    leases.settle(&other, need(90), need(0));
    assert!(leases.draw(&set(&["a"]), need(95)).await.is_ok());
    assert_eq!(*lock(&fake.left) + leases.free(&set(&["a"])).usd.0, 5);
}

#[tokio::test]
async fn a_refused_call_waits_until_what_others_hold_idle_has_come_back() {
    let (leases, fake, _directory) = bench(0);
    *lock(&fake.idle) = 30;
    let call = {
        let leases = Arc::clone(&leases);
        tokio::spawn(async move { leases.draw(&set(&["a"]), need(30)).await })
    };
    while fake.requests.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (*lock(&fake.left), *lock(&fake.idle)) = (30, 0);
    assert!(call.await.unwrap().is_ok());
    *lock(&fake.idle) = 29;
    let asked = fake.requests.load(Ordering::Relaxed);
    assert!(leases.draw(&set(&["a"]), need(30)).await.is_err());
    assert_eq!(fake.requests.load(Ordering::Relaxed), asked + 1, "what is idle is not enough, so nobody waits for it");
}

#[tokio::test]
async fn a_refusal_counts_what_lies_here_as_left() {
    let (leases, _fake, _directory) = bench(30);
    let lease = leases.draw(&set(&["a"]), need(20)).await.unwrap();
    leases.settle(&lease, need(20), need(0));
    match leases.draw(&set(&["a"]), need(31)).await {
        Err(Denied::Short(shortfalls)) => assert_eq!(shortfalls[0].left, 30),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_whose_answer_was_missed_is_sent_again_and_its_grant_comes_back() {
    let (leases, fake, _directory) = bench(100);
    *lock(&fake.away) = true;
    assert!(matches!(leases.draw(&set(&["a"]), need(10)).await, Err(Denied::Unavailable(_))));
    *lock(&fake.away) = false;
    leases.repeat_unanswered().await;
    assert_eq!((leases.held(), *lock(&fake.left)), (need(90), 10));
    leases.close_all();
    let position = leases.journal.given_back();
    assert!(reporter::reported(&leases.journal, position, FLUSH_LIMIT).await);
    assert_eq!(*lock(&fake.left), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_end_at_once_on_a_closing_lease_give_back_all_that_they_did_not_need() {
    const CALLS: i128 = 4_000;
    let (leases, fake, _directory) = bench(10 * CALLS);
    let lease = leases.draw(&set(&["a"]), need(10 * CALLS)).await.unwrap();
    leases.close_all();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (leases, lease) = (Arc::clone(&leases), lease.clone());
            std::thread::spawn(move || {
                for call in 0..CALLS / 8 {
                    // Half of them learn first that they need less.
                    leases.release(&lease, need(2));
                    leases.settle(&lease, need(8), need(0));
                    leases.settle(&lease, need(10), need(call % 2));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let position = leases.journal.given_back();
    assert!(reporter::reported(&leases.journal, position, FLUSH_LIMIT).await);
    assert_eq!((leases.held(), *lock(&fake.left)), (Amount::ZERO, 10 * CALLS - CALLS / 4));
}

/// So long may a limit that was lowered go on unnoticed, and no longer: the ledger grants nothing for more than a minute.
#[tokio::test]
async fn a_sidecar_that_hears_nothing_draws_on_what_it_holds_only_while_that_is_valid() {
    let valid_for = Duration::from_millis(300);
    let (leases, fake, _directory) = bench_with(1_000_000, 300);
    let asked = std::time::Instant::now();
    leases.draw(&set(&["a"]), need(500_000)).await.unwrap();
    *lock(&fake.away) = true;
    let (mut drawn, mut last) = (0, Duration::ZERO);
    let denied = loop {
        let now = asked.elapsed();
        match leases.draw(&set(&["a"]), need(1)).await {
            Ok(lease) => {
                leases.settle(&lease, need(1), Amount::ZERO);
                (drawn, last) = (drawn + 1, now);
            }
            Err(denied) => break denied,
        }
    };
    assert!(matches!(denied, Denied::Unavailable(_)), "{denied:?}");
    assert!(drawn > 0 && last < valid_for, "{drawn} draws, the last after {last:?}");
}
