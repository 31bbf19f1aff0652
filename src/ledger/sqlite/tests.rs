//! The promises of the port, kept on a file.

use std::time::Duration;

use super::*;
use crate::core::call::CallOutcome;
use crate::ledger::conformance::{Home, holder, keeps_promises, record};
use crate::ledger::usage::{DAY_MS, HOUR_MS};

struct Directory(tempfile::TempDir);

#[async_trait]
impl Home for Directory {
    async fn new() -> Directory {
        Directory(tempfile::tempdir().expect("a directory"))
    }

    async fn open(&self) -> Arc<dyn Ledger> {
        Arc::new(SqliteLedger::open(&self.0.path().join("ledger.db")).expect("a ledger"))
    }
}

keeps_promises!(Directory, cfg(test));

#[tokio::test]
async fn a_file_from_a_newer_release_is_refused() {
    let home = Directory::new().await;
    home.open().await.close().await;
    let path = home.0.path().join("ledger.db");
    Connection::open(&path).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("a version");
    assert!(matches!(SqliteLedger::open(&path), Err(LedgerError::NewerSchema { found: 99, .. })));
}

async fn report(ledger: &dyn Ledger, call: &str, at_ms: i64) {
    let entry = Entry::Settled { record: record(call, 5, CallOutcome::Completed), lease: None, unleased: vec![] };
    ledger.report(&holder("pod"), vec![entry], at_ms).await.expect("reported");
}

#[tokio::test]
async fn sums_stay_when_the_calls_are_deleted() {
    let home = Directory::new().await;
    let ledger = home.open().await;
    for hour in 0..4 {
        report(ledger.as_ref(), &format!("c{hour}"), hour * HOUR_MS + 7).await;
    }
    let query = CallQuery { from_ms: 0, to_ms: 4 * HOUR_MS, route: None };
    let before = ledger.totals(&query).await.expect("totals");
    assert_eq!(before[0].calls, 4);
    let connection = Connection::open(home.0.path().join("ledger.db")).expect("a connection");
    let pruned = |most| hours::prune(&connection, 3 * HOUR_MS, most).expect("deleted");
    assert_eq!((pruned(2), pruned(2), pruned(2)), (2, 1, 0));
    assert_eq!(ledger.totals(&query).await.expect("totals"), before);
    assert_eq!(ledger.totals(&CallQuery { from_ms: 3 * HOUR_MS + 1, ..query }).await.expect("totals")[0].calls, 1, "an hour that is kept");
}

#[tokio::test]
async fn days_that_are_over_are_summed_in_their_order_and_in_parts_that_nobody_reads_before_the_day_is_whole() {
    const GROUPS: i64 = 25;
    let home = Directory::new().await;
    let ledger = home.open().await;
    for (call, at_ms) in [("a", 7), ("b", 3 * HOUR_MS), ("c", 2 * DAY_MS + 7), ("d", 3 * DAY_MS)] {
        report(ledger.as_ref(), call, at_ms).await;
    }
    let connection = Connection::open(home.0.path().join("ledger.db")).expect("a connection");
    let summed = |over_ms| hours::sum_a_part(&connection, over_ms, 10).expect("summed");
    let days = || -> String {
        let sql =
            "SELECT group_concat(day || ':' || calls) FROM (SELECT day / 86400000 AS day, sum(calls) AS calls FROM usage_days GROUP BY 1)";
        connection.query_row(sql, [], |row| row.get(0)).expect("days")
    };
    while summed(3 * DAY_MS) {}
    assert_eq!(days(), "0:2,2:1", "the third day is not over");
    assert!(!summed(4 * DAY_MS - 1) && summed(4 * DAY_MS));
    assert_eq!(days(), "0:2,2:1,3:1");
    // An hour of many groups, and one of a few among them.
    report(ledger.as_ref(), "e", 5 * DAY_MS).await;
    for (hour, one_in) in [(5 * DAY_MS, 1), (5 * DAY_MS + 3 * HOUR_MS, 5)] {
        let copies = format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {GROUPS})
             INSERT INTO usage_hours SELECT {hour}, json_replace(dimensions, '$[2]', 'chat-' || n), 1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
             FROM usage_hours, n WHERE hour = {} AND dimensions NOT LIKE '%chat-%' AND n % {one_in} = 0",
            5 * DAY_MS
        );
        assert_eq!(connection.execute(&copies, []).expect("inserted") as i64, GROUPS / one_in);
    }
    let query = CallQuery { from_ms: 0, to_ms: 6 * DAY_MS, route: None };
    let before = ledger.totals(&query).await.expect("totals");
    assert_eq!(before.iter().map(|totals| totals.calls).sum::<u64>(), 5 + 30);
    for part in 1.. {
        let (more, wholly) = (summed(9 * DAY_MS), hours::summed(&connection).expect("how far").day);
        assert_eq!(ledger.totals(&query).await.expect("totals"), before, "after part {part}");
        assert_eq!((more, wholly > 5 * DAY_MS), (part <= 3, part >= 3), "26 groups of an hour, ten at a time: part {part}");
        if !more {
            break;
        }
    }
    assert_eq!(days(), "0:2,2:1,3:1,5:31");
}

#[tokio::test]
async fn a_copy_that_is_made_while_the_ledger_works_is_whole() {
    let (home, copy) = (Directory::new().await, Directory::new().await);
    let ledger = home.open().await;
    report(ledger.as_ref(), "before", 1).await;
    let online = Connection::open(home.0.path().join("ledger.db")).expect("a connection");
    online.execute("VACUUM INTO ?1", [copy.0.path().join("ledger.db").display().to_string()]).expect("a copy");
    report(ledger.as_ref(), "after", 2).await;
    let query = CallQuery { from_ms: 0, to_ms: i64::MAX, route: None };
    let calls = |totals: Vec<CallTotals>| totals.iter().map(|t| t.calls).sum::<u64>();
    let restored = copy.open().await;
    assert_eq!(calls(restored.totals(&query).await.expect("totals")), 1);
    assert_eq!(calls(ledger.totals(&query).await.expect("totals")), 2);
}

#[tokio::test]
async fn a_writer_deletes_calls_that_need_not_be_kept_any_more() {
    let home = Directory::new().await;
    let ledger = home.open().await;
    report(ledger.as_ref(), "old", 7).await;
    ledger.close().await;
    let path = home.0.path().join("ledger.db");
    let ledger = SqliteLedger::open_with(&path, Options { keep_calls: Some(Duration::from_hours(2)), ca: None }).expect("a ledger");
    report(&ledger, "new", 5 * HOUR_MS).await;
    // What the writer does after a batch is done once it has closed the file.
    ledger.close().await;
    let connection = Connection::open(&path).expect("a connection");
    let kept: String = connection.query_row("SELECT group_concat(id) FROM calls", [], |row| row.get(0)).expect("calls");
    assert_eq!(kept, "new");
}
