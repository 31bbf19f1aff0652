//! Grants, resets and debt while calls are in flight: what a limit is may change under them, and no account forgets anything.

use std::sync::Arc;

use serde_json::json;
use spendkeeper::api::budget::AIBudgetSpec;
use spendkeeper::api::parse;
use spendkeeper::core::amount::Amount;
use spendkeeper::core::budget::BudgetSet;
use spendkeeper::core::call::{CallId, CallKind, CallOutcome, CallRecord};
use spendkeeper::core::dimensions::{Dimensions, Origin};
use spendkeeper::core::lease::LeaseId;
use spendkeeper::core::limit::LimitKey;
use spendkeeper::core::money::PicoUsd;
use spendkeeper::core::policy::ResourceKey;
use spendkeeper::ledger::query::LimitBalance;
use spendkeeper::ledger::sqlite::SqliteLedger;
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId, Ledger};

/// Dollars that the limit allows for ever.
const LIMIT: i64 = 10;

struct Bench {
    ledger: SqliteLedger,
    budgets: BudgetSet,
    _directory: tempfile::TempDir,
}

impl Bench {
    /// A limit for ever of a budget with these fields besides.
    fn new(limit: serde_json::Value, more: serde_json::Value) -> Bench {
        let mut spec = json!({"limits": [{"name": "l", "usd": LIMIT.to_string(), "period": "Lifetime"}]});
        spec["limits"][0].as_object_mut().unwrap().extend(limit.as_object().unwrap().clone());
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: AIBudgetSpec = serde_json::from_value(spec).unwrap();
        let budget = parse::budget(ResourceKey::new("shop", "b"), &spec).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(&directory.path().join("ledger.db")).unwrap();
        Bench { ledger, budgets: BudgetSet::compile(vec![budget]).unwrap(), _directory: directory }
    }

    /// Asks for dollars as of a second of 1970.
    async fn acquire(&self, lease: &str, seq: u64, dollars: i64, second: i64) -> Decision {
        let terms = self.budgets.terms(&LimitKey("shop/b/l".into()), second * 1_000).unwrap();
        let min = Amount { usd: PicoUsd::from_usd(dollars), ..Amount::ZERO };
        let request = Acquire {
            lease: LeaseId(lease.into()),
            seq,
            holder: HolderId("pod".into()),
            limits: vec![terms],
            min,
            want: min,
            now_ms: second * 1_000,
        };
        self.ledger.acquire(request).await.unwrap()
    }

    async fn report(&self, entry: Entry, second: i64) {
        self.ledger.report(&HolderId("pod".into()), vec![entry], second * 1_000).await.unwrap();
    }

    /// Dollars that are settled, and that are left.
    async fn balance(&self, second: i64) -> (i128, i128) {
        let terms = self.budgets.terms(&LimitKey("shop/b/l".into()), second * 1_000).unwrap();
        let balance: LimitBalance = self.ledger.balances(&[terms], second * 1_000).await.unwrap().remove(0);
        (balance.settled / PicoUsd::from_usd(1).0, balance.left() / PicoUsd::from_usd(1).0)
    }
}

fn is_granted(decision: &Decision) -> bool {
    matches!(decision, Decision::Granted { .. })
}

fn opened(call: &str, lease: &str, dollars: i64) -> Entry {
    let reserved = Amount { usd: PicoUsd::from_usd(dollars), ..Amount::ZERO };
    Entry::Opened { call: CallId(call.into()), lease: Some(LeaseId(lease.into())), reserved, draft: None, unleased: vec![] }
}

fn settled(call: &str, lease: &str, dollars: i64) -> Entry {
    let begun = CallRecord::begun(CallId(call.into()), Origin::default(), Dimensions::default(), CallKind::Shared, 0);
    let record = CallRecord { cost: PicoUsd::from_usd(dollars), outcome: CallOutcome::Completed, status: 200, ..begun };
    Entry::Settled { record: Arc::new(record), lease: Some(LeaseId(lease.into())), unleased: vec![] }
}

#[tokio::test]
async fn a_reset_counts_anew_and_a_call_that_was_in_flight_counts_in_the_window_that_it_was_leased_in() {
    let bench = Bench::new(json!({"resetAt": "1970-01-01T00:01:40Z"}), json!({}));
    assert!(is_granted(&bench.acquire("before", 1, 10, 90).await));
    bench.report(opened("in flight", "before", 10), 90).await;
    assert_eq!(bench.balance(99).await, (0, 0));
    // The window has ended under the lease: it gets no more, and a new one has the whole limit, but no dollar beyond it.
    assert!(matches!(bench.acquire("before", 2, 1, 100).await, Decision::Expired));
    assert!(is_granted(&bench.acquire("after", 1, 10, 100).await));
    assert!(!is_granted(&bench.acquire("more", 1, 1, 101).await));
    bench.report(settled("in flight", "before", 9), 102).await;
    assert_eq!((bench.balance(99).await, bench.balance(102).await), ((9, 0), (0, 0)));
    bench.report(settled("later", "after", 7), 103).await;
    assert_eq!(bench.balance(103).await, (7, 0), "three are still leased");
}

#[tokio::test]
async fn a_lease_does_not_outlive_the_reset_that_is_to_come() {
    let bench = Bench::new(json!({"resetAt": "1970-01-01T00:01:40Z"}), json!({}));
    let Decision::Granted { valid_for_ms, .. } = bench.acquire("a", 1, 1, 90).await else { panic!("not granted") };
    assert_eq!(valid_for_ms, 10_000);
}

#[tokio::test]
async fn a_grant_that_ends_while_calls_are_in_flight_leaves_a_debt_that_is_carried() {
    let grant = json!({"limit": "l", "usd": "5", "from": "1970-01-01T00:00:00Z", "until": "1970-01-01T00:01:40Z", "reason": "launch"});
    let bench = Bench::new(json!({}), json!({"grants": [grant]}));
    assert!(is_granted(&bench.acquire("a", 1, 14, 90).await), "ten and five");
    bench.report(opened("in flight", "a", 14), 90).await;
    assert_eq!(bench.balance(100).await, (0, -4), "the grant is over and the call is not");
    bench.report(settled("in flight", "a", 14), 110).await;
    assert_eq!(bench.balance(110).await, (14, -4));
    assert!(!is_granted(&bench.acquire("b", 1, 1, 111).await));
}

#[tokio::test]
async fn what_a_provider_charges_beyond_its_own_cap_is_charged_in_full() {
    let bench = Bench::new(json!({}), json!({}));
    assert!(is_granted(&bench.acquire("a", 1, 8, 1).await));
    bench.report(opened("dear", "a", 8), 1).await;
    bench.report(settled("dear", "a", 13), 2).await;
    assert_eq!(bench.balance(2).await, (13, -3));
    let Decision::Refused { shortfalls } = bench.acquire("b", 1, 1, 3).await else { panic!("granted") };
    assert_eq!(shortfalls[0].left, -3 * PicoUsd::from_usd(1).0);
}
