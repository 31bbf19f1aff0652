//! Tables of the ledger, and how an older file becomes a current one.

use rusqlite::Connection;

use super::{hours, save};
use crate::ledger::LedgerError;

/// One script for each schema version; a file at version `n` is brought up to date by those from index `n` on.
fn migrations() -> [String; 7] {
    let (sums, days, parts) = (hours::schema(), hours::schema_of_days(), hours::schema_of_parts());
    [V1.to_owned(), V2.to_owned(), V3.to_owned(), sums, V5.to_owned(), days, parts]
}

/// What each index is for: `leases_by_holder` and `open_calls_by_holder`, the end of a holder; `open_calls_by_lease`, a lease that is asked for
/// again after it was forgotten; `calls_by_time`, the ends of a query's stretch, sums that are made anew, exports, and the end of old calls;
/// `outcomes_by_time`, outcomes of a stretch; `accounts_by_end`, accounts that may be forgotten. Those in PostgreSQL are the same, with
/// `accounts_by_base` for the values of a split, which the key's own order tells SQLite.
///
/// Amounts that may exceed 64 bits (sums of pico-dollars) are decimal text and added up in Rust. A single call's cost is
/// kept as whole micro-dollars and the pico-dollars beyond, so that SQL sums are exact and cannot overflow.
const V1: &str = "
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), seen_ms INTEGER NOT NULL);
INSERT INTO clock VALUES (1, 0);

CREATE TABLE leases (
  lease TEXT PRIMARY KEY, holder TEXT NOT NULL, seq INTEGER NOT NULL, answer TEXT NOT NULL,
  usd TEXT NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL, touched_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX leases_by_holder ON leases (holder);

-- The limits of each lease. `bucket` is the start of a fixed window, and -1 for a rolling one.
CREATE TABLE lease_limits (
  lease TEXT NOT NULL, key TEXT NOT NULL, unit TEXT NOT NULL, span TEXT NOT NULL, bucket INTEGER NOT NULL,
  PRIMARY KEY (lease, key)
) WITHOUT ROWID;
CREATE INDEX lease_limits_by_key ON lease_limits (key, bucket);

CREATE TABLE open_calls (
  call TEXT PRIMARY KEY, lease TEXT NOT NULL, holder TEXT NOT NULL, usd TEXT NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX open_calls_by_lease ON open_calls (lease);
CREATE INDEX open_calls_by_holder ON open_calls (holder);

-- What was settled, by limit and window (fixed) or bucket (rolling), in the limit's unit.
CREATE TABLE accounts (key TEXT NOT NULL, bucket INTEGER NOT NULL, settled TEXT NOT NULL, PRIMARY KEY (key, bucket)) WITHOUT ROWID;

-- Charges of calls whose end is unknown, to be reversed should the end become known.
CREATE TABLE unknown_charges (call TEXT NOT NULL, key TEXT NOT NULL, unit TEXT NOT NULL, bucket INTEGER NOT NULL, amount TEXT NOT NULL, PRIMARY KEY (call, key)) WITHOUT ROWID;

CREATE TABLE calls (
  id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, holder TEXT NOT NULL,
  namespace TEXT NOT NULL, workload TEXT NOT NULL,
  feature TEXT NOT NULL, team TEXT NOT NULL, process TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL,
  route TEXT NOT NULL, backend TEXT NOT NULL, shared INTEGER NOT NULL, requested_model TEXT NOT NULL, model TEXT NOT NULL,
  requested_tier TEXT NOT NULL, tier TEXT NOT NULL, needed_tier TEXT NOT NULL, complexity INTEGER,
  outcome TEXT NOT NULL, status INTEGER NOT NULL, unpriced INTEGER NOT NULL,
  input INTEGER NOT NULL, cached_read INTEGER NOT NULL, cache_write INTEGER NOT NULL, cache_write_long INTEGER NOT NULL, output INTEGER NOT NULL,
  cost_micro INTEGER NOT NULL, cost_pico INTEGER NOT NULL, bytes INTEGER NOT NULL, duration_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX calls_by_time ON calls (at_ms);

CREATE TABLE outcomes (
  id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, outcome TEXT NOT NULL, namespace TEXT NOT NULL, workload TEXT NOT NULL,
  feature TEXT NOT NULL, team TEXT NOT NULL, process TEXT NOT NULL, agent TEXT NOT NULL, session TEXT NOT NULL, count INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX outcomes_by_time ON outcomes (at_ms);
";

/// Meters that came later; calls from before have none of them.
const V2: &str = "
ALTER TABLE calls ADD COLUMN audio_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN image_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN audio_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN image_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN web_searches INTEGER NOT NULL DEFAULT 0;
";

/// A lease carries its limits and what its open calls have reserved; an account, what leases hold, so that no statement sums over
/// leases (`save::recount` fills these in); an open call, all that is charged should its end never be learnt.
const V3: &str = "
ALTER TABLE accounts ADD COLUMN outstanding TEXT NOT NULL DEFAULT '0';
ALTER TABLE accounts ADD COLUMN reserved TEXT NOT NULL DEFAULT '0';

ALTER TABLE leases ADD COLUMN reserved_usd TEXT NOT NULL DEFAULT '0';
ALTER TABLE leases ADD COLUMN reserved_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN reserved_requests INTEGER NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN limits TEXT NOT NULL DEFAULT '[]';
UPDATE leases SET limits = (
  SELECT json_group_array(json_object('key', key, 'unit', unit, 'span', json(span)))
  FROM (SELECT key, unit, span FROM lease_limits AS l WHERE l.lease = leases.lease ORDER BY key)
);
DROP TABLE lease_limits;

-- `lease` is empty for a call that draws on none.
ALTER TABLE open_calls ADD COLUMN unleased TEXT NOT NULL DEFAULT '[]';
ALTER TABLE open_calls ADD COLUMN draft TEXT;

-- Charges of calls whose end is unknown, to be reversed should the end become known.
CREATE TABLE unknown_calls (call TEXT PRIMARY KEY, charges TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO unknown_calls
  SELECT call, json_group_array(json_object('account', json_object('limit', key, 'bucket', bucket), 'unit', unit, 'amount', amount))
  FROM unknown_charges GROUP BY call;
DROP TABLE unknown_charges;
";

/// Until when an account is needed (`machine::forget`); those from before are kept for ever, since their windows are not known.
const V5: &str = "
ALTER TABLE accounts ADD COLUMN until_ms INTEGER NOT NULL DEFAULT 9223372036854775807;
CREATE INDEX accounts_by_end ON accounts (until_ms);
";

/// What connections that read and those that write have in common.
pub fn settle_down(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // All of the ledger's statements stay prepared; there are some thirty.
    connection.set_prepared_statement_cache_capacity(64);
    // The operator's root file system is read-only, so there is no place for temporary files: without this a savepoint that
    // touches more than 64 KiB, or a large sort, fails and takes its whole transaction with it.
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Sets up a connection that writes: durable before it answers, and current.
///
/// # Errors
/// When the file cannot be used, or was written by a newer release.
pub fn prepare(connection: &mut Connection, path: &str) -> Result<(), LedgerError> {
    let unusable = |e: rusqlite::Error| LedgerError::Open { path: path.to_owned(), reason: e.to_string() };
    connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
    // FULL, not NORMAL: an answer that was given survives the power being cut.
    connection.pragma_update(None, "synchronous", "FULL").map_err(unusable)?;
    settle_down(connection).map_err(unusable)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
    let migrations = migrations();
    let known = migrations.len() as i64;
    if found > known {
        return Err(LedgerError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (index, script) in migrations.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction().map_err(unusable)?;
        transaction.execute_batch(script).map_err(unusable)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1).map_err(unusable)?;
        transaction.commit().map_err(unusable)?;
    }
    count(connection, found < known)
}

/// What is held must be the sum over the leases. A file that was just brought up to date has it counted for the first time;
/// otherwise a difference is a defect or somebody else's work, and the leases are right.
fn count(connection: &mut Connection, is_first: bool) -> Result<(), LedgerError> {
    let transaction = connection.transaction()?;
    let wrong = save::recount(&transaction)?;
    transaction.commit()?;
    if wrong > 0 && !is_first {
        tracing::error!(rows = wrong, "what the ledger's accounts held was not what its leases hold; it was counted anew");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call::{CallId, CallOutcome};
    use crate::core::lease::LeaseId;
    use crate::core::limit::LimitKey;
    use crate::ledger::conformance::record;
    use crate::ledger::known::Known;
    use crate::ledger::machine::{Account, Ended, Request};
    use crate::ledger::sqlite::load;
    use crate::ledger::usage::{DAY_MS, Summed};
    use crate::ledger::{Entry, HolderId};

    /// What a file of version 1 or 2 holds: a call, a lease under a day's and a rolling limit with a call open on it, and a call
    /// whose end is unknown.
    const HELD: &str = r#"
        INSERT INTO leases VALUES ('l', 'h', 3, '"Expired"', '20000000000000000000000', 7, 2, 5);
        INSERT INTO leases VALUES ('other', 'h', 1, '"Expired"', '5', 0, 0, 5);
        INSERT INTO lease_limits VALUES ('l', 'a/b/day', 'Usd', '{"Fixed":{"start_ms":0,"end_ms":86400000}}', 0);
        INSERT INTO lease_limits VALUES ('l', 'a/b/rolling', 'Tokens', '{"Rolling":{"length_ms":60,"bucket_ms":1}}', -1);
        INSERT INTO lease_limits VALUES ('other', 'a/b/day', 'Usd', '{"Fixed":{"start_ms":0,"end_ms":86400000}}', 0);
        INSERT INTO open_calls VALUES ('o', 'l', 'h', '8', 4, 1);
        INSERT INTO accounts VALUES ('a/b/day', 0, '30000000000000000000000');
        INSERT INTO unknown_charges VALUES ('u', 'a/b/day', 'Usd', 0, '20000000000000000000001');
        INSERT INTO unknown_charges VALUES ('u', 'a/b/rolling', 'Tokens', 9, '7');
    "#;

    fn file_of(scripts: &[&str], call: &str) -> Connection {
        let connection = Connection::open_in_memory().expect("a connection");
        for script in scripts {
            connection.execute_batch(script).expect("an older schema");
        }
        connection.pragma_update(None, "user_version", scripts.len() as i64).expect("a version");
        connection.execute_batch(HELD).expect("what it holds");
        connection.execute_batch(call).expect("a call");
        connection
    }

    #[test]
    fn a_file_of_any_earlier_release_is_brought_up_to_date_and_keeps_what_it_holds() {
        let first = "INSERT INTO calls VALUES ('c', 1, 'h', 'n', 'w', '', '', '', '', '', 'r', 'b', 0, 'm', 'm', '', '', '', NULL, 'completed', 200, 0,
            10, 0, 0, 0, 5, 7, 0, 100, 3)";
        let second = first.replace("100, 3)", "100, 3, 0, 0, 0, 0, 0)");
        for mut connection in [file_of(&[V1], first), file_of(&[V1, V2], &second)] {
            prepare(&mut connection, "file").expect("up to date");
            let found = connection.query_row("SELECT input, output, audio_input, web_searches FROM calls", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            });
            assert_eq!(found, Ok((10, 5, 0, 0)));
            let gone = Request::HolderGone { holder: HolderId("h".into()), now_ms: 50 };
            let settled = Entry::Settled { record: record("u", 1, CallOutcome::Completed), lease: None, unleased: vec![] };
            let report = Request::Report { holder: HolderId("h".into()), entries: vec![settled], now_ms: 50 };
            let rows = load::rows(&connection, &Known::default(), [gone, report].iter()).expect("rows");
            let lease = rows.leases.get(&LeaseId("l".into())).expect("the lease");
            assert_eq!((lease.outstanding.usd.0, lease.reserved.usd.0, lease.reserved.tokens), (20_000_000_000_000_000_000_000, 8, 4));
            let day = rows.standing(&LimitKey("a/b/day".into()), lease.limits[0].span, 50);
            let (settled, outstanding) = (30_000_000_000_000_000_000_000, 20_000_000_000_000_000_000_005);
            assert_eq!(day, Account { settled, outstanding, reserved: 8 });
            let rolling = rows.standing(&LimitKey("a/b/rolling".into()), lease.limits[1].span, 50);
            assert_eq!(rolling, Account { settled: 0, outstanding: 7, reserved: 4 });
            let Some(Ended::Unknown { charges }) = rows.ended.get(&CallId("u".into())) else { panic!("{:?}", rows.ended) };
            assert_eq!(charges.iter().map(|c| c.amount).collect::<Vec<_>>(), [20_000_000_000_000_000_000_001, 7]);
            prepare(&mut connection, "file").expect("nothing to do");
        }
    }

    #[test]
    fn days_that_an_earlier_release_summed_are_summed() {
        for days in [0, 2] {
            let mut connection = Connection::open_in_memory().expect("a connection");
            let scripts = migrations();
            scripts[..6].iter().for_each(|script| connection.execute_batch(script).expect("an older schema"));
            connection.pragma_update(None, "user_version", 6).expect("a version");
            for day in 0..days {
                let row = format!("INSERT INTO usage_days VALUES ({}, '[]', 7,0,0,0,0,0,0,0,0,0,0,0,0, 0, 0, 5, 5)", day * DAY_MS);
                connection.execute_batch(&row).expect("a day");
            }
            prepare(&mut connection, "file").expect("up to date");
            assert_eq!(hours::summed(&connection), Ok(Summed { day: days * DAY_MS, group: String::new() }));
        }
    }

    #[test]
    fn a_sum_that_is_not_that_of_the_leases_is_counted_anew() {
        let mut connection = file_of(&[V1], "SELECT 1 WHERE 0");
        prepare(&mut connection, "file").expect("up to date");
        assert_eq!(save::recount(&connection), Ok(0));
        connection.execute("UPDATE accounts SET outstanding = '1' WHERE key = 'a/b/day'", []).expect("changed");
        connection.execute("UPDATE leases SET reserved_tokens = 9 WHERE lease = 'l'", []).expect("changed");
        assert_eq!(save::recount(&connection), Ok(2));
        assert_eq!(save::recount(&connection), Ok(0));
        let text = "SELECT settled || ' ' || outstanding FROM accounts WHERE key = 'a/b/day'";
        let day: String = connection.query_row(text, [], |row| row.get(0)).expect("an account");
        assert_eq!(day, "30000000000000000000000 20000000000000000000005");
    }

    #[test]
    fn no_temporary_file_is_needed() {
        let connection = Connection::open_in_memory().expect("a connection");
        settle_down(&connection).expect("settings");
        let store: i64 = connection.pragma_query_value(None, "temp_store", |row| row.get(0)).expect("a value");
        assert_eq!(store, 2, "2 is MEMORY");
    }
}
