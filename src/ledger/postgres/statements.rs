//! The statements of a transaction, prepared once a connection. Sets of rows come and go as arrays, so that a batch of any size takes
//! the same few statements. Amounts are passed as text: they exceed 64 bits.

use tokio_postgres::{Client, Statement};

use super::connect::Failure;
use super::hours;
use crate::ledger::columns::{NUMBERS, TEXTS};
use crate::ledger::usage::HOUR_MS;

const LEASES: &str = "SELECT lease, holder, seq, answer, limits, touched_ms, usd::text, tokens, requests,
    reserved_usd::text, reserved_tokens, reserved_requests FROM leases WHERE lease = ANY($1::text[]) OR holder = ANY($2::text[])
    ORDER BY lease FOR UPDATE";
const OPEN_CALLS: &str = "SELECT call, holder, lease, usd::text, tokens, requests, unleased, draft FROM open_calls
    WHERE call = ANY($1::text[]) OR holder = ANY($2::text[]) ORDER BY call FOR UPDATE";
const OPEN_CALLS_OF_LEASES: &str = "SELECT call, holder, lease, usd::text, tokens, requests, unleased, draft FROM open_calls
    WHERE lease = ANY($1::text[]) ORDER BY call FOR UPDATE";
const UNKNOWN_CALLS: &str = "SELECT call, charges FROM unknown_calls WHERE call = ANY($1::text[]) ORDER BY call FOR UPDATE";
const ACCOUNTS: &str = "SELECT a.key, a.bucket, a.settled::text, a.outstanding::text, a.reserved::text
    FROM accounts AS a JOIN unnest($1::text[], $2::bigint[]) AS t (key, bucket) ON a.key = t.key AND a.bucket = t.bucket
    ORDER BY a.key, a.bucket FOR UPDATE OF a";
const ACCOUNT_RANGES: &str = "SELECT a.key, a.bucket, a.settled::text, a.outstanding::text, a.reserved::text
    FROM accounts AS a JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS t (key, first, last)
    ON a.key = t.key AND a.bucket BETWEEN t.first AND t.last ORDER BY a.key, a.bucket FOR UPDATE OF a";
const MAKE_HEADS: &str = "INSERT INTO accounts (key, bucket, base, settled, outstanding, reserved)
    SELECT key, -1, base, 0, 0, 0 FROM unnest($1::text[], $2::text[]) AS t (key, base) ORDER BY key ON CONFLICT (key, bucket) DO NOTHING";

const NEW_LEASES: &str = "INSERT INTO leases
    (lease, holder, answer, limits, seq, touched_ms, usd, tokens, requests, reserved_usd, reserved_tokens, reserved_requests)
    SELECT lease, holder, answer, limits, seq, touched_ms, usd::numeric, tokens, requests, reserved_usd::numeric, reserved_tokens, reserved_requests
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::bigint[], $9::bigint[],
      $10::text[], $11::bigint[], $12::bigint[])
    AS t (lease, holder, answer, limits, seq, touched_ms, usd, tokens, requests, reserved_usd, reserved_tokens, reserved_requests)";
const CHANGED_LEASES: &str = "UPDATE leases AS l SET answer = t.answer, seq = t.seq, touched_ms = t.touched_ms,
      usd = t.usd::numeric, tokens = t.tokens, requests = t.requests,
      reserved_usd = t.reserved_usd::numeric, reserved_tokens = t.reserved_tokens, reserved_requests = t.reserved_requests
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[])
    AS t (lease, answer, seq, touched_ms, usd, tokens, requests, reserved_usd, reserved_tokens, reserved_requests)
    WHERE l.lease = t.lease";
const NEW_OPEN_CALLS: &str = "INSERT INTO open_calls (call, holder, lease, usd, tokens, requests, unleased, draft)
    SELECT call, holder, lease, usd::numeric, tokens, requests, unleased, draft
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[])
    AS t (call, holder, lease, usd, tokens, requests, unleased, draft)";
const CHANGED_OPEN_CALLS: &str = "UPDATE open_calls AS o SET usd = t.usd::numeric, tokens = t.tokens, requests = t.requests
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS t (call, usd, tokens, requests) WHERE o.call = t.call";
const NEW_UNKNOWN_CALLS: &str =
    "INSERT INTO unknown_calls (call, charges) SELECT call, charges FROM unnest($1::text[], $2::text[]) AS t (call, charges)";
const NEW_ACCOUNTS: &str = "INSERT INTO accounts (key, bucket, base, settled, outstanding, reserved)
    SELECT key, bucket, base, settled::numeric, outstanding::numeric, reserved::numeric
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[]) AS t (key, bucket, base, settled, outstanding, reserved)
    ORDER BY key, bucket";
const CHANGED_ACCOUNTS: &str = "UPDATE accounts AS a
    SET settled = t.settled::numeric, outstanding = t.outstanding::numeric, reserved = t.reserved::numeric
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[]) AS t (key, bucket, settled, outstanding, reserved)
    WHERE a.key = t.key AND a.bucket = t.bucket";
const NEW_OUTCOMES: &str = "INSERT INTO outcomes (id, outcome, namespace, workload, feature, team, process, agent, session, at_ms, count)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
      $10::bigint[], $11::bigint[])";
/// Leases that have been empty for long, and that no open call draws on.
const FORGET: &str = "DELETE FROM leases WHERE usd = 0 AND tokens = 0 AND requests = 0 AND touched_ms < $1
    AND NOT EXISTS (SELECT 1 FROM open_calls AS o WHERE o.lease = leases.lease)";

pub struct Statements {
    pub clock: Statement,
    pub leases: Statement,
    pub open_calls: Statement,
    pub open_calls_of_leases: Statement,
    pub unknown_calls: Statement,
    pub calls: Statement,
    pub outcomes: Statement,
    pub accounts: Statement,
    pub account_ranges: Statement,
    pub make_heads: Statement,
    pub tick: Statement,
    pub new_leases: Statement,
    pub changed_leases: Statement,
    pub new_open_calls: Statement,
    pub changed_open_calls: Statement,
    pub deleted_open_calls: Statement,
    pub new_unknown_calls: Statement,
    pub deleted_unknown_calls: Statement,
    pub new_accounts: Statement,
    pub changed_accounts: Statement,
    pub replaced_calls: Statement,
    pub new_calls: Statement,
    pub new_outcomes: Statement,
    pub add_hours: Statement,
    pub times_of_calls: Statement,
    pub delete_hours: Statement,
    pub sum_hours: Statement,
    pub forget: Statement,
}

impl Statements {
    /// # Errors
    /// When the connection is lost, or the tables are not what they should be.
    pub async fn prepare(client: &Client) -> Result<Statements, Failure> {
        let new_calls = new_calls();
        Ok(Statements {
            clock: client.prepare("SELECT seen_ms FROM clock WHERE one = 1").await?,
            leases: client.prepare(LEASES).await?,
            open_calls: client.prepare(OPEN_CALLS).await?,
            open_calls_of_leases: client.prepare(OPEN_CALLS_OF_LEASES).await?,
            unknown_calls: client.prepare(UNKNOWN_CALLS).await?,
            calls: client.prepare("SELECT id FROM calls WHERE id = ANY($1::text[])").await?,
            outcomes: client.prepare("SELECT id FROM outcomes WHERE id = ANY($1::text[])").await?,
            accounts: client.prepare(ACCOUNTS).await?,
            account_ranges: client.prepare(ACCOUNT_RANGES).await?,
            make_heads: client.prepare(MAKE_HEADS).await?,
            tick: client.prepare("UPDATE clock SET seen_ms = $1 WHERE one = 1 AND seen_ms < $1").await?,
            new_leases: client.prepare(NEW_LEASES).await?,
            changed_leases: client.prepare(CHANGED_LEASES).await?,
            new_open_calls: client.prepare(NEW_OPEN_CALLS).await?,
            changed_open_calls: client.prepare(CHANGED_OPEN_CALLS).await?,
            deleted_open_calls: client.prepare("DELETE FROM open_calls WHERE call = ANY($1::text[])").await?,
            new_unknown_calls: client.prepare(NEW_UNKNOWN_CALLS).await?,
            deleted_unknown_calls: client.prepare("DELETE FROM unknown_calls WHERE call = ANY($1::text[])").await?,
            new_accounts: client.prepare(NEW_ACCOUNTS).await?,
            changed_accounts: client.prepare(CHANGED_ACCOUNTS).await?,
            replaced_calls: client.prepare("DELETE FROM calls WHERE id = ANY($1::text[])").await?,
            new_calls: client.prepare(&new_calls).await?,
            new_outcomes: client.prepare(NEW_OUTCOMES).await?,
            add_hours: client.prepare(&hours::add()).await?,
            times_of_calls: client.prepare("SELECT at_ms FROM calls WHERE id = ANY($1::text[])").await?,
            delete_hours: client.prepare("DELETE FROM usage_hours WHERE hour = ANY($1::bigint[])").await?,
            sum_hours: client.prepare(&hours::summed_up(&format!("at_ms - at_ms % {HOUR_MS} = ANY($1::bigint[])"))).await?,
            forget: client.prepare(FORGET).await?,
        })
    }
}

/// Records of calls: all text columns, all numbers, then the cost.
fn new_calls() -> String {
    let columns = [TEXTS.as_slice(), &NUMBERS, &["cost"]].concat().join(", ");
    let arrays: Vec<String> = (1..=TEXTS.len() + NUMBERS.len() + 1)
        .map(|n| format!("${n}::{}[]", if n > TEXTS.len() && n <= TEXTS.len() + NUMBERS.len() { "bigint" } else { "text" }))
        .collect();
    let values = columns.replace(", cost", ", cost::numeric");
    format!("INSERT INTO calls ({columns}) SELECT {values} FROM unnest({}) AS t ({columns})", arrays.join(", "))
}
