//! Tables of the ledger, and how an older file becomes a current one.

use rusqlite::Connection;

use crate::ledger::LedgerError;

/// One script for each schema version; a file at version `n` is brought up to date by those from index `n` on.
const MIGRATIONS: [&str; 2] = [V1, V2];

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
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(LedgerError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (index, script) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        let transaction = connection.transaction().map_err(unusable)?;
        transaction.execute_batch(script).map_err(unusable)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1).map_err(unusable)?;
        transaction.commit().map_err(unusable)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_first_release_is_brought_up_to_date_and_keeps_its_calls() {
        let mut connection = Connection::open_in_memory().expect("a connection");
        connection.execute_batch(V1).expect("the first schema");
        connection.pragma_update(None, "user_version", 1).expect("a version");
        let call = "INSERT INTO calls VALUES ('c', 1, 'h', 'n', 'w', '', '', '', '', '', 'r', 'b', 0, 'm', 'm', '', '', '', NULL, 'completed', 200, 0,
            10, 0, 0, 0, 5, 7, 0, 100, 3)";
        connection.execute(call, []).expect("a call");
        prepare(&mut connection, "file").expect("up to date");
        let found = connection.query_row("SELECT input, output, audio_input, web_searches FROM calls", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        assert_eq!(found, Ok((10, 5, 0, 0)));
        prepare(&mut connection, "file").expect("nothing to do");
    }

    #[test]
    fn no_temporary_file_is_needed() {
        let connection = Connection::open_in_memory().expect("a connection");
        settle_down(&connection).expect("settings");
        let store: i64 = connection.pragma_query_value(None, "temp_store", |row| row.get(0)).expect("a value");
        assert_eq!(store, 2, "2 is MEMORY");
    }
}
