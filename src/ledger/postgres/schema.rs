//! Tables of the ledger in PostgreSQL, and how an older database becomes a current one.
//!
//! Amounts are `numeric`, exact at any size. Rows of accounts begin with the limit, so that a distributed engine keeps a
//! budget's rows together.

use tokio_postgres::Client;

use super::connect::Failure;
use super::{hours, notes};
use crate::ledger::LedgerError;
use crate::ledger::columns::{NUMBERS, TEXTS};

/// One script for each schema version; a database at version `n` is brought up to date by those from index `n` on.
pub fn migrations() -> [String; 7] {
    let (sums, days, parts) = (hours::schema(), hours::schema_of_days(), hours::schema_of_parts());
    [first(), sums, FENCE.to_owned(), UNTIL.to_owned(), days, notes::SCHEMA.to_owned(), parts]
}

/// Who is alone (see [`super::session`]), or nobody. The column of the clock gets another name so that a replica of an earlier release,
/// which knows of no fence, fails rather than write beside a newer one.
const FENCE: &str = "
CREATE TABLE fence (one int PRIMARY KEY CHECK (one = 1), alone text NOT NULL);
INSERT INTO fence VALUES (1, '');
ALTER TABLE clock RENAME COLUMN seen_ms TO ledger_ms;
";

/// Until when an account is needed (`machine::forget`); those from before are kept for ever, since their windows are not known.
const UNTIL: &str = "
ALTER TABLE accounts ADD COLUMN until_ms bigint NOT NULL DEFAULT 9223372036854775807;
CREATE INDEX accounts_by_end ON accounts (until_ms);
";

fn first() -> String {
    let texts = TEXTS.iter().filter(|name| **name != "id").map(|name| format!("{name} text NOT NULL"));
    let nullable = |name: &str| if name == "complexity" { "" } else { " NOT NULL" };
    let numbers = NUMBERS.iter().map(|name| format!("{name} bigint{}", nullable(name)));
    let columns = texts.chain(numbers).collect::<Vec<_>>().join(", ");
    format!(
        "
CREATE TABLE clock (one int PRIMARY KEY CHECK (one = 1), seen_ms bigint NOT NULL);
INSERT INTO clock VALUES (1, 0);

CREATE TABLE leases (
  lease text PRIMARY KEY, holder text NOT NULL, seq bigint NOT NULL, answer text NOT NULL, limits text NOT NULL, touched_ms bigint NOT NULL,
  usd numeric NOT NULL, tokens bigint NOT NULL, requests bigint NOT NULL,
  reserved_usd numeric NOT NULL, reserved_tokens bigint NOT NULL, reserved_requests bigint NOT NULL
);
CREATE INDEX leases_by_holder ON leases (holder);

-- `lease` is empty for a call that draws on none.
CREATE TABLE open_calls (
  call text PRIMARY KEY, holder text NOT NULL, lease text NOT NULL, usd numeric NOT NULL, tokens bigint NOT NULL, requests bigint NOT NULL,
  unleased text NOT NULL, draft text
);
CREATE INDEX open_calls_by_lease ON open_calls (lease);
CREATE INDEX open_calls_by_holder ON open_calls (holder);

-- By limit and window (fixed) or bucket (rolling), in the limit's unit; `base` is the limit without its split value.
CREATE TABLE accounts (
  key text NOT NULL, bucket bigint NOT NULL, base text NOT NULL,
  settled numeric NOT NULL, outstanding numeric NOT NULL, reserved numeric NOT NULL, PRIMARY KEY (key, bucket)
);
CREATE INDEX accounts_by_base ON accounts (base, key);

-- Charges of calls whose end is unknown, to be reversed should the end become known.
CREATE TABLE unknown_calls (call text PRIMARY KEY, charges text NOT NULL);

CREATE TABLE calls (id text PRIMARY KEY, {columns}, cost numeric NOT NULL);
CREATE INDEX calls_by_time ON calls (at_ms);

CREATE TABLE outcomes (
  id text PRIMARY KEY, at_ms bigint NOT NULL, outcome text NOT NULL, namespace text NOT NULL, workload text NOT NULL,
  feature text NOT NULL, team text NOT NULL, process text NOT NULL, agent text NOT NULL, session text NOT NULL, count bigint NOT NULL
);
CREATE INDEX outcomes_by_time ON outcomes (at_ms);
"
    )
}

/// Creates the tables, or brings them up to date; several replicas may do so at once.
///
/// # Errors
/// When the database cannot be used, or was written by a newer release.
pub async fn prepare(client: &Client, name: &str) -> Result<(), Failure> {
    let version = "CREATE TABLE IF NOT EXISTS ledger_version (one int PRIMARY KEY CHECK (one = 1), version bigint NOT NULL);
        INSERT INTO ledger_version VALUES (1, 0) ON CONFLICT (one) DO NOTHING";
    client.batch_execute(version).await?;
    client.batch_execute("BEGIN").await?;
    let done = bring_up_to_date(client, name).await;
    client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    done
}

async fn bring_up_to_date(client: &Client, name: &str) -> Result<(), Failure> {
    // Whoever comes second waits here, and finds nothing to do.
    let row = client.query_one("SELECT version FROM ledger_version WHERE one = 1 FOR UPDATE", &[]).await?;
    let found: i64 = row.try_get(0)?;
    let scripts = migrations();
    let known = scripts.len() as i64;
    if found > known {
        return Err(Failure::Fatal(LedgerError::NewerSchema { path: name.to_owned(), found, known }));
    }
    for (index, script) in scripts.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        client.batch_execute(script).await?;
        client.execute("UPDATE ledger_version SET version = $1 WHERE one = 1", &[&(index as i64 + 1)]).await?;
    }
    Ok(())
}
