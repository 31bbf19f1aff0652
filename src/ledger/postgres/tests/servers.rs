//! Servers that crash, hang, are restored, or are not who they should be.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_server_that_crashes_with_requests_under_way_loses_nothing_and_charges_nothing_twice() {
    let server = tokio::task::spawn_blocking(|| Arc::new(Server::start(&std::env::temp_dir()))).await.expect("a server");
    let schema = Schema::on(Arc::clone(&server)).await;
    let replicas = [schema.replica().await, schema.replica().await];
    let limits = [limit("shop/day/l", i128::from(i64::MAX)), rolling("shop/rolling/l", i128::from(i64::MAX))];
    let spenders = spend_on(&replicas, &limits, 8, 60).await;
    let mut changes = replicas[0].changes();
    for _ in 0..3 {
        // In the middle of the work, which then stands still until the server is back.
        let before = *changes.borrow_and_update();
        changes.wait_for(|count| *count > before + 3).await.expect("the ledger works");
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            server.crash();
            server.start_again();
        })
        .await
        .expect("a server");
    }
    let spenders = spenders.join_all().await;
    let calls = spenders.iter().map(|spender| spender.calls).sum();
    assert_eq!(calls, 8 * 60);
    assert_exact(&replicas[1], &limits, calls).await;
    assert!(spenders.iter().all(|spender| spender.slowest < ANSWERED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn whoever_asks_while_the_server_is_gone_is_told_so_and_is_served_when_it_is_back() {
    let server = tokio::task::spawn_blocking(|| Arc::new(Server::start(&std::env::temp_dir()))).await.expect("a server");
    let schema = Schema::on(Arc::clone(&server)).await;
    let replica = schema.replica().await;
    server.crash();
    let began = Instant::now();
    let ask = acquire("a", 1, &[limit("shop/b/l", 100)], 10, 10);
    let (first, read) = tokio::join!(replica.acquire(ask.clone()), replica.holders());
    assert!(matches!(first, Err(LedgerError::Unreachable(_))), "{first:?}");
    assert!(matches!(read, Err(LedgerError::Unreachable(_))), "{read:?}");
    assert!(began.elapsed() < ANSWERED);
    tokio::task::spawn_blocking(move || server.start_again()).await.expect("a server");
    let mut took = Duration::ZERO;
    assert!(matches!(insist(&mut took, || replica.acquire(ask.clone())).await, Decision::Granted { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_server_that_hangs_is_out_of_reach_within_the_bound_and_nothing_is_lost_or_charged_twice() {
    let server = tokio::task::spawn_blocking(|| Arc::new(Server::start(&std::env::temp_dir()))).await.expect("a server");
    let schema = Schema::on(Arc::clone(&server)).await;
    let replicas = [schema.replica().await, schema.replica().await];
    let limits = [limit("shop/day/l", i128::from(i64::MAX)), rolling("shop/rolling/l", i128::from(i64::MAX))];
    let spenders = spend_on(&replicas, &limits, 8, 40).await;
    let mut changes = replicas[0].changes();
    let before = *changes.borrow_and_update();
    changes.wait_for(|count| *count > before + 3).await.expect("the ledger works");
    server.hang(true);
    let ask = acquire("late", 1, &limits, COST, COST);
    let began = Instant::now();
    let (first, read) = tokio::join!(replicas[0].acquire(ask.clone()), replicas[1].acquire(acquire("later", 1, &limits, COST, COST)));
    assert!(matches!((&first, &read), (Err(LedgerError::Unreachable(_)), Err(LedgerError::Unreachable(_)))), "{first:?} {read:?}");
    assert!(began.elapsed() < ANSWERED, "{:?}", began.elapsed());
    server.hang(false);
    let spenders = spenders.join_all().await;
    let calls = spenders.iter().map(|spender| spender.calls).sum();
    assert_eq!(calls, 8 * 40);
    assert!(spenders.iter().all(|spender| spender.slowest < ANSWERED));
    assert_exact(&replicas[1], &limits, calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_ledger_that_is_restored_from_a_dump_goes_on_where_the_dump_was_made() {
    let schema = Schema::new().await;
    let replica = schema.replica().await;
    let limits = [limit("shop/day/l", 1_000), rolling("shop/rolling/l", 1_000)];
    replica.acquire(acquire("a", 1, &limits, 100, 100)).await.expect("an answer");
    let opened = |call: &str| Entry::Opened {
        call: CallId(call.into()),
        lease: Some(LeaseId("a".into())),
        reserved: usd(40),
        draft: None,
        unleased: vec![],
    };
    let report = async |ledger: &PostgresLedger, entries| ledger.report(&holder("pod"), entries, 1_500).await.expect("reported");
    report(&replica, [settled("before", "a", 30), vec![opened("under way")]].concat()).await;
    let (server, name) = (Arc::clone(&schema.server), schema.name.clone());
    // While the ledger is open, and a writer takes itself for alone.
    let dump = tokio::task::spawn_blocking(move || server.dump(&name)).await.expect("a dump");
    report(&replica, settled("after", "a", 20)).await;
    replica.close().await;
    schema.execute(&format!("DROP SCHEMA {} CASCADE", schema.name)).await;
    let server = Arc::clone(&schema.server);
    tokio::task::spawn_blocking(move || server.restore(&dump)).await.expect("restored");

    let restored = schema.replica().await;
    for balance in restored.balances(&limits, 1_500).await.expect("balances") {
        assert_eq!((balance.settled, balance.outstanding, balance.reserved), (30, 70, 40), "{balance:?}");
    }
    // What was answered is answered the same; what was said after the dump and is said again is charged once, what it knew not at all.
    let again = restored.acquire(acquire("a", 1, &limits, 100, 100)).await.expect("an answer");
    assert!(matches!(again, Decision::Granted { granted, .. } if granted == usd(100)), "{again:?}");
    let under_way =
        Entry::Settled { record: record("under way", 35, CallOutcome::Completed), lease: Some(LeaseId("a".into())), unleased: vec![] };
    report(&restored, [settled("before", "a", 30), settled("after", "a", 20), vec![under_way]].concat()).await;
    for balance in restored.balances(&limits, 1_500).await.expect("balances") {
        assert_eq!((balance.settled, balance.outstanding, balance.reserved), (85, 15, 0), "{balance:?}");
    }
    let totals = restored.totals(&CallQuery { from_ms: 0, to_ms: i64::MAX, route: None }).await.expect("totals");
    assert_eq!(totals.iter().map(|t| (t.calls, t.cost.0)).fold((0, 0), |sum, t| (sum.0 + t.0, sum.1 + t.1)), (3, 85));
}

/// An authority of its own, and a certificate for `localhost` that it vouches for.
fn authority() -> (String, server::Tls) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("an authority").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).and_then(|params| params.signed_by(&key, &issuer)).expect("a certificate");
    (ca, server::Tls { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL's server: make test-postgres"]
async fn a_server_is_spoken_to_only_by_tls_and_only_where_its_authority_is_trusted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a folder");
    let ((ca, tls), (other, _)) = (authority(), authority());
    let file = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    let (ca, other) = (file("ca.pem", &ca), file("other.pem", &other));
    let start = move || Arc::new(Server::start_with(&std::env::temp_dir(), Some(tls)));
    let server = tokio::task::spawn_blocking(start).await.expect("a server");
    let schema = Schema::on(Arc::clone(&server)).await;
    let open = async |sslmode: &str, ca: Option<&std::path::Path>| {
        let options = Options { ca: ca.map(Into::into), keep_calls: None };
        PostgresLedger::open(&server.tcp_url(&schema.name, sslmode), options).await
    };
    let ledger = open("verify-full", Some(&ca)).await.expect("a ledger");
    let granted = ledger.acquire(acquire("a", 1, &[limit("shop/b/l", 100)], 10, 10)).await.expect("an answer");
    assert!(matches!(granted, Decision::Granted { .. }), "{granted:?}");
    for (sslmode, ca) in
        [("verify-full", Some(other.as_path())), ("require", Some(other.as_path())), ("verify-full", None), ("prefer", None)]
    {
        let refused = open(sslmode, ca).await.err();
        let Some(LedgerError::Open { reason, .. }) = &refused else { panic!("{sslmode} {ca:?}: {refused:?}") };
        assert!(reason.contains("certificate"), "{sslmode} {ca:?}: {reason}");
    }
    // In the clear it is the server that refuses.
    let refused = open("disable", Some(&ca)).await.err();
    assert!(matches!(refused, Some(LedgerError::Open { .. })), "{refused:?}");
}
