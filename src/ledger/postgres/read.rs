//! Queries: on a connection of their own, beside the writer.

use tokio_postgres::{Client, Row};

use super::connect::Failure;
use super::{hours, load};
use crate::core::dimensions::Origin;
use crate::core::limit::{LimitKey, LimitTerms};
use crate::core::money::PicoUsd;
use crate::core::usage::Usage;
use crate::ledger::columns::{to_count, to_dimensions, to_outcome, to_tier};
use crate::ledger::encoded::integer;
use crate::ledger::machine::rows::{counted_buckets, held_account};
use crate::ledger::machine::{AccountKey, Rows};
use crate::ledger::query::{CallQuery, CallTotals, LimitBalance, MAX_SPLITS, OutcomeCount};
use crate::ledger::{HolderId, usage};

pub async fn holders(client: &Client) -> Result<Vec<HolderId>, Failure> {
    const SQL: &str =
        "SELECT holder FROM leases WHERE usd <> 0 OR tokens <> 0 OR requests <> 0 UNION SELECT holder FROM open_calls ORDER BY holder";
    client.query(SQL, &[]).await?.iter().map(|row| Ok(HolderId(row.try_get(0)?))).collect()
}

pub async fn balances(client: &Client, terms: &[LimitTerms], now_ms: i64) -> Result<Vec<LimitBalance>, Failure> {
    let mut balances = Vec::new();
    for terms in terms {
        for key in keys_of(client, &terms.key).await? {
            balances.push(balance(client, terms, key, now_ms).await?);
        }
    }
    Ok(balances)
}

/// The limit itself, or every split of it that was ever used.
async fn keys_of(client: &Client, key: &LimitKey) -> Result<Vec<LimitKey>, Failure> {
    const SQL: &str = "SELECT DISTINCT key FROM accounts WHERE base = $1 AND key <> base ORDER BY key LIMIT $2";
    let found = client.query(SQL, &[&key.0, &(MAX_SPLITS as i64)]).await?;
    let mut splits = found.iter().map(|row| Ok(LimitKey(row.try_get(0)?))).collect::<Result<Vec<_>, Failure>>()?;
    // The database orders as its language does.
    splits.sort_unstable();
    Ok(if splits.is_empty() { vec![key.clone()] } else { splits })
}

async fn balance(client: &Client, terms: &LimitTerms, key: LimitKey, now_ms: i64) -> Result<LimitBalance, Failure> {
    const SQL: &str = "SELECT bucket, settled::text, outstanding::text, reserved::text FROM accounts
        WHERE key = $1 AND (bucket = $2 OR bucket BETWEEN $3 AND $4)";
    let (from, to) = counted_buckets(terms.span, now_ms);
    let held = held_account(&key, terms.span).bucket;
    let mut rows = Rows::default();
    for row in &client.query(SQL, &[&key.0, &held, &from, &to]).await? {
        rows.accounts.load(AccountKey { limit: key.clone(), bucket: row.try_get(0)? }, load::account(row, 1)?);
    }
    Ok(LimitBalance::of(terms, rows.standing(&key, terms.span, now_ms), key, now_ms))
}

pub async fn totals(client: &Client, query: &CallQuery) -> Result<Vec<CallTotals>, Failure> {
    let mut summed_ms = hours::summed(client).await?.day;
    loop {
        let stretch = usage::stretch(query.from_ms, query.to_ms, summed_ms);
        let mut sums = hours::read_days(client, stretch.days).await?;
        for hours in stretch.hours {
            sums.extend(hours::read(client, hours).await?);
        }
        for (from_ms, to_ms) in stretch.ends {
            sums.extend(totals_of_calls(client, from_ms, to_ms).await?);
        }
        // A day that was summed meanwhile, or is to be summed anew, must not be missing nor counted with its hours.
        let before_ms = std::mem::replace(&mut summed_ms, hours::summed(client).await?.day);
        if summed_ms == before_ms {
            sums.retain(|totals| query.route.as_ref().is_none_or(|route| *route == totals.route));
            return Ok(usage::together(sums));
        }
    }
}

/// The same, from single calls.
pub async fn totals_of_calls(client: &Client, from_ms: i64, to_ms: i64) -> Result<Vec<CallTotals>, Failure> {
    const SQL: &str = "SELECT namespace, workload, feature, team, process, agent, session, route, backend, shared, requested_model, model,
          requested_tier, tier, needed_tier, outcome,
          count(*), sum(input)::bigint, sum(cached_read)::bigint, sum(cache_write)::bigint, sum(cache_write_long)::bigint, sum(output)::bigint,
          sum(audio_input)::bigint, sum(image_input)::bigint, sum(audio_output)::bigint, sum(image_output)::bigint, sum(web_searches)::bigint,
          sum(cost)::text, sum(bytes)::bigint, sum(duration_ms)::bigint, min(at_ms), max(at_ms)
        FROM calls WHERE at_ms >= $1 AND at_ms < $2
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16";
    client.query(SQL, &[&from_ms, &to_ms]).await?.iter().map(total).collect()
}

fn total(row: &Row) -> Result<CallTotals, Failure> {
    let count = |column: usize| -> Result<u64, Failure> { Ok(to_count(row.try_get(column)?)?) };
    let text = |column: usize| -> Result<String, Failure> { Ok(row.try_get(column)?) };
    Ok(CallTotals {
        origin: Origin { namespace: text(0)?, workload: text(1)?, ..Origin::default() },
        dimensions: to_dimensions([text(2)?, text(3)?, text(4)?, text(5)?, text(6)?]),
        route: text(7)?,
        backend: text(8)?,
        shared: row.try_get::<_, i64>(9)? != 0,
        requested_model: text(10)?,
        model: text(11)?,
        requested_tier: to_tier(row.try_get(12)?),
        tier: to_tier(row.try_get(13)?),
        needed_tier: to_tier(row.try_get(14)?),
        outcome: to_outcome(row.try_get(15)?)?,
        calls: count(16)?,
        usage: Usage {
            input: count(17)?,
            cached_read: count(18)?,
            cache_write: count(19)?,
            cache_write_long: count(20)?,
            output: count(21)?,
            audio_input: count(22)?,
            image_input: count(23)?,
            audio_output: count(24)?,
            image_output: count(25)?,
            web_searches: count(26)?,
        },
        cost: PicoUsd(integer(row.try_get(27)?)?),
        bytes: count(28)?,
        duration_ms: count(29)?,
        first_ms: row.try_get(30)?,
        last_ms: row.try_get(31)?,
    })
}

pub async fn outcomes(client: &Client, from_ms: i64, to_ms: i64) -> Result<Vec<OutcomeCount>, Failure> {
    const SQL: &str = "SELECT outcome, namespace, workload, feature, team, process, agent, session, sum(count)::bigint FROM outcomes
        WHERE at_ms >= $1 AND at_ms < $2 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8";
    let found = client.query(SQL, &[&from_ms, &to_ms]).await?;
    let outcome = |row: &Row| {
        Ok(OutcomeCount {
            outcome: row.try_get(0)?,
            origin: Origin { namespace: row.try_get(1)?, workload: row.try_get(2)?, ..Origin::default() },
            dimensions: to_dimensions([row.try_get(3)?, row.try_get(4)?, row.try_get(5)?, row.try_get(6)?, row.try_get(7)?]),
            count: to_count(row.try_get(8)?)?,
        })
    };
    found.iter().map(outcome).collect()
}
