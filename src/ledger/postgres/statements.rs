//! The statements of a transaction, prepared once a connection. Sets of rows come and go as arrays, so that a batch of any size takes
//! the same few statements. Amounts are passed as text: they exceed 64 bits.

use tokio_postgres::{Client, Statement};

use super::connect::Failure;
use super::hours;
use crate::ledger::columns::{NUMBERS, TEXTS};

const BEGIN_SHARED: &str = "SELECT f.alone, c.ledger_ms FROM fence AS f JOIN clock AS c ON c.one = f.one WHERE f.one = 1 FOR SHARE OF f";
/// The fence, where it has this name; locked until the transaction ends.
const MINE: &str = "SELECT one FROM fence WHERE one = 1 AND alone = $1 FOR SHARE";
const BE_ALONE: &str = "UPDATE fence SET alone = $1 WHERE one = (SELECT one FROM fence WHERE one = 1 FOR UPDATE SKIP LOCKED)";
const KEEP_OTHERS_OUT: &str = "SELECT one FROM fence WHERE one = 1 AND alone IN ('', $1) FOR UPDATE SKIP LOCKED";
const BE_SHARED: &str = "UPDATE fence SET alone = '' WHERE one = 1 AND alone <> ''";

const LEASES: &str = "SELECT lease, holder, seq, answer, limits, touched_ms, usd::text, tokens, requests,
    reserved_usd::text, reserved_tokens, reserved_requests FROM leases WHERE lease = ANY($1::text[]) OR holder = ANY($2::text[])
    ORDER BY lease FOR UPDATE";
const OPEN_CALLS: &str = "SELECT call, holder, lease, usd::text, tokens, requests, unleased, draft FROM open_calls
    WHERE call = ANY($1::text[]) OR holder = ANY($2::text[]) OR lease = ANY($3::text[]) ORDER BY call FOR UPDATE";
const UNKNOWN_CALLS: &str = "SELECT call, charges FROM unknown_calls WHERE call = ANY($1::text[]) ORDER BY call FOR UPDATE";
const ACCOUNTS: &str = "SELECT a.key, a.bucket, a.settled::text, a.outstanding::text, a.reserved::text
    FROM accounts AS a JOIN unnest($1::text[], $2::bigint[]) AS t (key, bucket) ON a.key = t.key AND a.bucket = t.bucket
    ORDER BY a.key, a.bucket FOR UPDATE OF a";
const ACCOUNT_RANGES: &str = "SELECT a.key, a.bucket, a.settled::text, a.outstanding::text, a.reserved::text
    FROM accounts AS a JOIN unnest($1::text[], $2::bigint[], $3::bigint[]) AS t (key, first, last)
    ON a.key = t.key AND a.bucket BETWEEN t.first AND t.last ORDER BY a.key, a.bucket FOR UPDATE OF a";
const MAKE_HEADS: &str = "INSERT INTO accounts (key, bucket, base, until_ms, settled, outstanding, reserved)
    SELECT key, -1, base, until_ms, 0, 0, 0 FROM unnest($1::text[], $2::text[], $3::bigint[]) AS t (key, base, until_ms)
    ORDER BY key ON CONFLICT (key, bucket) DO NOTHING";

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
/// Fails by a division where a call is recorded already.
const NEW_OPEN_CALLS: &str = "INSERT INTO open_calls (call, holder, lease, usd, tokens, requests, unleased, draft)
    SELECT call, holder, lease, usd::numeric, tokens, requests, unleased, draft
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::text[])
    AS t (call, holder, lease, usd, tokens, requests, unleased, draft)
    WHERE 1 / (NOT EXISTS (SELECT 1 FROM calls AS c WHERE c.id = t.call))::int = 1";
const CHANGED_OPEN_CALLS: &str = "UPDATE open_calls AS o SET usd = t.usd::numeric, tokens = t.tokens, requests = t.requests
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS t (call, usd, tokens, requests) WHERE o.call = t.call";
const DELETED_OPEN_CALLS: &str = "DELETE FROM open_calls WHERE call = ANY($1::text[])";
const NEW_UNKNOWN_CALLS: &str =
    "INSERT INTO unknown_calls (call, charges) SELECT call, charges FROM unnest($1::text[], $2::text[]) AS t (call, charges)";
const NEW_ACCOUNTS: &str = "INSERT INTO accounts (key, bucket, base, until_ms, settled, outstanding, reserved)
    SELECT key, bucket, base, until_ms, settled::numeric, outstanding::numeric, reserved::numeric
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[])
    AS t (key, bucket, base, until_ms, settled, outstanding, reserved) ORDER BY key, bucket";
/// What nobody needs since before a time, but for what is held on it at the moment when it goes.
const FORGET_ACCOUNTS: &str = "DELETE FROM accounts AS a
    USING (SELECT key, bucket FROM accounts WHERE until_ms < $1 AND outstanding = 0 AND reserved = 0 ORDER BY until_ms LIMIT $2) AS old
    WHERE a.key = old.key AND a.bucket = old.bucket AND a.outstanding = 0 AND a.reserved = 0";
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

/// A transaction by itself, for who is alone; its parts take their rows as arrays, or one row as it is.
pub struct AtOnce {
    pub of_many: Statement,
    /// Of every part but those that take arrays here, too ([`of_one`]): for each of 70 columns the server makes a store of rows for an
    /// array, which with a single row is half of what it does.
    pub of_one: Statement,
}

impl AtOnce {
    async fn prepare(client: &Client, parts: &[Part<'_>]) -> Result<AtOnce, Failure> {
        let many: Vec<String> = parts.iter().map(|part| part.of_many().to_owned()).collect();
        let one: Vec<String> = parts.iter().map(Part::of_one).collect();
        Ok(AtOnce { of_many: client.prepare(&alone(&many)).await?, of_one: client.prepare(&alone(&one)).await? })
    }
}

/// A part of a transaction.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// A call has one lease, and is one record in one hour.
    OneOrMany(&'a str),
    /// It has any number of limits.
    Many(&'a str),
}

impl Part<'_> {
    fn of_many(&self) -> &str {
        match self {
            Part::OneOrMany(statement) | Part::Many(statement) => statement,
        }
    }

    fn of_one(&self) -> String {
        match self {
            Part::OneOrMany(statement) => of_one(statement),
            Part::Many(statement) => (*statement).to_owned(),
        }
    }
}

pub struct Statements {
    pub begin_alone: Statement,
    pub begin_shared: Statement,
    /// Leases and accounts that change.
    pub top_up: AtOnce,
    /// The same, and calls that are opened. No statement changes a table twice, which some engines do not run.
    pub opened: AtOnce,
    /// The same, and calls that end.
    pub settled: AtOnce,
    pub be_alone: Statement,
    pub be_shared: Statement,
    pub is_alone: Statement,
    pub clock: Statement,
    pub leases: Statement,
    pub open_calls: Statement,
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
    pub forget_accounts: Statement,
    pub replaced_calls: Statement,
    pub new_calls: Statement,
    pub new_outcomes: Statement,
    pub add_hours: Statement,
    pub times_of_calls: Statement,
    pub delete_hours: Statement,
    pub sum_hours: Statement,
    pub groups_of_hours: Statement,
    pub delete_groups_of_days: Statement,
    pub sum_groups_of_days: Statement,
    pub keep_others_out: Statement,
    pub forget: Statement,
}

impl Statements {
    /// # Errors
    /// When the connection is lost, or the tables are not what they should be.
    pub async fn prepare(client: &Client) -> Result<Statements, Failure> {
        let (new_calls, add_hours) = (new_calls(), hours::add());
        let both = [Part::OneOrMany(CHANGED_LEASES), Part::Many(CHANGED_ACCOUNTS)];
        let ends = [Part::Many(DELETED_OPEN_CALLS), Part::OneOrMany(&new_calls), Part::OneOrMany(&add_hours)];
        Ok(Statements {
            begin_alone: client.prepare(&alone(&[])).await?,
            top_up: AtOnce::prepare(client, &both).await?,
            opened: AtOnce::prepare(client, &[&both[..], &[Part::OneOrMany(NEW_OPEN_CALLS)]].concat()).await?,
            settled: AtOnce::prepare(client, &[&both[..], &ends].concat()).await?,
            begin_shared: client.prepare(BEGIN_SHARED).await?,
            be_alone: client.prepare(BE_ALONE).await?,
            keep_others_out: client.prepare(KEEP_OTHERS_OUT).await?,
            be_shared: client.prepare(BE_SHARED).await?,
            is_alone: client.prepare("SELECT alone = $1 FROM fence WHERE one = 1").await?,
            clock: client.prepare("SELECT ledger_ms FROM clock WHERE one = 1").await?,
            leases: client.prepare(LEASES).await?,
            open_calls: client.prepare(OPEN_CALLS).await?,
            unknown_calls: client.prepare(UNKNOWN_CALLS).await?,
            calls: client.prepare("SELECT id FROM calls WHERE id = ANY($1::text[])").await?,
            outcomes: client.prepare("SELECT id FROM outcomes WHERE id = ANY($1::text[])").await?,
            accounts: client.prepare(ACCOUNTS).await?,
            account_ranges: client.prepare(ACCOUNT_RANGES).await?,
            make_heads: client.prepare(MAKE_HEADS).await?,
            tick: client.prepare("UPDATE clock SET ledger_ms = $1 WHERE one = 1 AND ledger_ms < $1").await?,
            new_leases: client.prepare(NEW_LEASES).await?,
            changed_leases: client.prepare(CHANGED_LEASES).await?,
            new_open_calls: client.prepare(NEW_OPEN_CALLS).await?,
            changed_open_calls: client.prepare(CHANGED_OPEN_CALLS).await?,
            deleted_open_calls: client.prepare(DELETED_OPEN_CALLS).await?,
            new_unknown_calls: client.prepare(NEW_UNKNOWN_CALLS).await?,
            deleted_unknown_calls: client.prepare("DELETE FROM unknown_calls WHERE call = ANY($1::text[])").await?,
            new_accounts: client.prepare(NEW_ACCOUNTS).await?,
            changed_accounts: client.prepare(CHANGED_ACCOUNTS).await?,
            forget_accounts: client.prepare(FORGET_ACCOUNTS).await?,
            replaced_calls: client.prepare("DELETE FROM calls WHERE id = ANY($1::text[])").await?,
            new_calls: client.prepare(&new_calls).await?,
            new_outcomes: client.prepare(NEW_OUTCOMES).await?,
            add_hours: client.prepare(&add_hours).await?,
            times_of_calls: client.prepare("SELECT at_ms FROM calls WHERE id = ANY($1::text[])").await?,
            delete_hours: client.prepare("DELETE FROM usage_hours WHERE hour = ANY($1::bigint[])").await?,
            sum_hours: client.prepare(&hours::sum_hours()).await?,
            groups_of_hours: client.prepare("SELECT DISTINCT dimensions FROM usage_hours WHERE hour = ANY($1::bigint[])").await?,
            delete_groups_of_days: client.prepare(&hours::delete_groups_of_days()).await?,
            sum_groups_of_days: client.prepare(&hours::sum_groups_of_days()).await?,
            forget: client.prepare(FORGET).await?,
        })
    }
}

/// Records of calls: all text columns, all numbers, the cost, then which calls are open no more. Fails by a division where another is.
fn new_calls() -> String {
    let columns = [TEXTS.as_slice(), &NUMBERS, &["cost"]].concat().join(", ");
    let arrays: Vec<String> = (1..=TEXTS.len() + NUMBERS.len() + 1)
        .map(|n| format!("${n}::{}[]", if n > TEXTS.len() && n <= TEXTS.len() + NUMBERS.len() { "bigint" } else { "text" }))
        .collect();
    let values = columns.replace(", cost", ", cost::numeric");
    format!(
        "INSERT INTO calls ({columns}) SELECT {values} FROM unnest({}) AS t ({columns})
         WHERE 1 / (NOT EXISTS (SELECT 1 FROM open_calls AS o WHERE o.call = t.id AND o.call <> ALL(${}::text[])))::int = 1",
        arrays.join(", "),
        arrays.len() + 1
    )
}

/// `parts` as one statement and so one transaction, which fails by a division unless the fence has the name that is the first
/// parameter. The parts' own parameters follow, in their order. No part sees what another does.
fn alone(parts: &[String]) -> String {
    let mut before = 1;
    let mut with = vec![format!("mine AS ({MINE})")];
    for (index, part) in parts.iter().enumerate() {
        let (part, parameters) = shifted(part, before);
        with.push(format!("part_{index} AS ({part})"));
        before += parameters;
    }
    format!("WITH {} SELECT 1 / count(*) FROM mine", with.join(", "))
}

/// A statement that takes the one row of its arrays as it is.
fn of_one(statement: &str) -> String {
    let arrays = statement.split_once("unnest(").and_then(|(before, rest)| Some((before, rest.split_once(')')?)));
    let (before, (arrays, after)) = arrays.expect("what takes rows as arrays unnests them");
    format!("{before}(VALUES ({})){after}", arrays.replace("[]", ""))
}

/// A statement whose parameters count from `$by + 1` on, and how many it has.
fn shifted(statement: &str, by: usize) -> (String, usize) {
    let mut pieces = statement.split('$');
    let (mut text, mut most) = (pieces.next().unwrap_or_default().to_owned(), 0);
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        let number: usize = number.parse().expect("a dollar is followed by a parameter's number");
        most = most.max(number);
        text.push_str(&format!("${}{rest}", number + by));
    }
    (text, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_statement_have_parameters_of_their_own() {
        assert_eq!(shifted("a = $1 AND b = $12 OR c = $1", 3), ("a = $4 AND b = $15 OR c = $4".to_owned(), 12));
        let statement = alone(&["UPDATE t SET a = $2 WHERE b = $1", "DELETE FROM t WHERE a = $1"].map(str::to_owned));
        assert!(statement.contains("SET a = $3 WHERE b = $2"), "{statement}");
        assert!(statement.contains("WHERE a = $4"), "{statement}");
    }

    #[test]
    fn a_statement_of_one_row_takes_no_arrays_of_columns() {
        let many = "INSERT INTO t (a, b) SELECT a, b::numeric FROM unnest($1::text[], $2::bigint[]) AS t (a, b) WHERE a <> ALL($3::text[])";
        let one = "INSERT INTO t (a, b) SELECT a, b::numeric FROM (VALUES ($1::text, $2::bigint)) AS t (a, b) WHERE a <> ALL($3::text[])";
        assert_eq!(of_one(many), one);
    }
}
