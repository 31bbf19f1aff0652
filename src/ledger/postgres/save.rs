//! Writes what a batch of requests changed, and commits: one round trip, each row once.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::connect::Failure;
use super::session::Session;
use super::statements::Statements;
use crate::core::amount::Amount;
use crate::core::call::CallId;
use crate::ledger::columns::{NUMBERS, TEXTS, dimensions, numbers, texts};
use crate::ledger::encoded::encode;
use crate::ledger::machine::forget::Needed;
use crate::ledger::machine::{Account, Booking, Change, Ended, Rows};
use crate::ledger::usage;

/// What is added to a table, and what is changed or deleted in it, as one array a column.
struct Writes {
    new_leases: Columns,
    changed_leases: Columns,
    new_open_calls: Columns,
    changed_open_calls: Columns,
    deleted_open_calls: Columns,
    new_unknown_calls: Columns,
    deleted_unknown_calls: Columns,
    new_accounts: Columns,
    changed_accounts: Columns,
    replaced_calls: Columns,
    new_calls: Columns,
    new_outcomes: Columns,
    hours: Columns,
}

/// Writes all of it and ends the transaction, which begins here unless it `is_begun`. `tick` is the clock, when it is time to write it
/// down; leases that were empty before `forget_ms` are dropped.
pub async fn all(
    session: &Session,
    is_begun: bool,
    rows: &Rows,
    needed: &Needed,
    books: &[Booking],
    tick: Option<i64>,
    forget_ms: Option<i64>,
) -> Result<(), Failure> {
    let Session { client, statements, .. } = session;
    let writes = Writes::of(rows, needed, books)?;
    if session.is_alone
        && !is_begun
        && (tick, forget_ms) == (None, None)
        && let Some((statement, parts)) = writes.at_once(statements)
    {
        return Writes::send_at_once(session, statement, parts).await;
    }
    // A call that is replaced was read, so that the transaction has begun.
    let (anew_hours, anew_days) = to_sum_anew(client, statements, books).await?;
    // In this order; should one fail, the server makes the commit a roll-back, and the failure is what is returned.
    futures::try_join!(
        async { if is_begun { Ok(None) } else { session.begin().await } },
        writes.new_leases.send(client, &statements.new_leases),
        writes.changed_leases.send(client, &statements.changed_leases),
        writes.new_open_calls.send(client, &statements.new_open_calls),
        writes.changed_open_calls.send(client, &statements.changed_open_calls),
        writes.deleted_open_calls.send(client, &statements.deleted_open_calls),
        writes.new_unknown_calls.send(client, &statements.new_unknown_calls),
        writes.deleted_unknown_calls.send(client, &statements.deleted_unknown_calls),
        writes.new_accounts.send(client, &statements.new_accounts),
        writes.changed_accounts.send(client, &statements.changed_accounts),
        writes.replaced_calls.send(client, &statements.replaced_calls),
        writes.send_new_calls(client, &statements.new_calls),
        writes.new_outcomes.send(client, &statements.new_outcomes),
        writes.hours.send(client, &statements.add_hours),
        anew_hours.send(client, &statements.delete_hours),
        anew_hours.send(client, &statements.sum_hours),
        anew_days.send(client, &statements.delete_days),
        anew_days.send(client, &statements.sum_days),
        at(client, &statements.forget, forget_ms),
        at(client, &statements.tick, tick),
        async { Ok(client.batch_execute("COMMIT").await?) },
    )?;
    Ok(())
}

async fn at(client: &Client, statement: &Statement, time_ms: Option<i64>) -> Result<(), Failure> {
    if let Some(time_ms) = time_ms {
        client.execute(statement, &[&time_ms]).await?;
    }
    Ok(())
}

/// One column of rows.
enum Column {
    Texts(Vec<Option<String>>),
    Numbers(Vec<Option<i64>>),
}

/// A value of a row.
enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(Some(text.to_owned()))
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(Some(text))
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(Some(number))
    }
}
impl From<i128> for Value {
    fn from(number: i128) -> Value {
        Value::Text(Some(number.to_string()))
    }
}

#[derive(Default)]
struct Columns(Vec<Column>);

impl Columns {
    fn push(&mut self, row: impl IntoIterator<Item = Value>) {
        for (index, value) in row.into_iter().enumerate() {
            if self.0.len() == index {
                self.0.push(if matches!(value, Value::Text(_)) { Column::Texts(Vec::new()) } else { Column::Numbers(Vec::new()) });
            }
            match (&mut self.0[index], value) {
                (Column::Texts(column), Value::Text(text)) => column.push(text),
                (Column::Numbers(column), Value::Number(number)) => column.push(number),
                _ => unreachable!("a column has values of one type: each table's rows are made in one place"),
            }
        }
    }

    async fn send(&self, client: &Client, statement: &Statement) -> Result<(), Failure> {
        if self.0.is_empty() {
            return Ok(());
        }
        client.execute(statement, &self.arrays()).await?;
        Ok(())
    }

    fn arrays(&self) -> Vec<Parameter<'_>> {
        fn array(column: &Column) -> Parameter<'_> {
            match column {
                Column::Texts(texts) => texts,
                Column::Numbers(numbers) => numbers,
            }
        }
        self.0.iter().map(array).collect()
    }
}

type Parameter<'a> = &'a (dyn ToSql + Sync);

const NO_TEXTS: &Vec<Option<String>> = &Vec::new();
const NO_NUMBERS: &Vec<Option<i64>> = &Vec::new();

impl Writes {
    /// The one statement that writes all of it, and its parts, each with the number of its arrays: when leases and accounts change, and
    /// calls are opened or end, and that is all.
    fn at_once<'a>(&'a self, statements: &'a Statements) -> Option<(&'a Statement, Vec<(&'a Columns, usize)>)> {
        let others = [
            &self.new_leases,
            &self.changed_open_calls,
            &self.new_unknown_calls,
            &self.deleted_unknown_calls,
            &self.new_accounts,
            &self.replaced_calls,
            &self.new_outcomes,
        ];
        let ends = [&self.deleted_open_calls, &self.new_calls, &self.hours];
        let is_empty = |columns: &&Columns| columns.0.is_empty();
        let (opens, ends) = (!self.new_open_calls.0.is_empty(), !ends.iter().all(is_empty));
        let both = vec![(&self.changed_leases, 10), (&self.changed_accounts, 5)];
        match (others.iter().all(is_empty), opens, ends) {
            (true, false, false) => Some((&statements.top_up, both)),
            (true, true, false) => Some((&statements.opened, [both, vec![(&self.new_open_calls, 8)]].concat())),
            (true, false, true) => {
                let closed = (&self.deleted_open_calls, 1);
                let calls = (&self.new_calls, TEXTS.len() + NUMBERS.len() + 1);
                Some((&statements.settled, [both, vec![closed, calls, closed, (&self.hours, 5 + usage::COUNTS.len())]].concat()))
            }
            _ => None,
        }
    }

    /// Carries it out; it is a transaction by itself.
    async fn send_at_once(session: &Session, statement: &Statement, parts: Vec<(&Columns, usize)>) -> Result<(), Failure> {
        let mut parameters: Vec<Parameter<'_>> = vec![session.name()];
        for (part, width) in parts {
            let given = part.arrays();
            let types = statement.params().iter().skip(parameters.len()).take(width - given.len());
            let empty = |of: &Type| if *of == Type::TEXT_ARRAY { NO_TEXTS as Parameter<'_> } else { NO_NUMBERS };
            parameters.extend(given.into_iter().chain(types.map(empty)));
        }
        session.client.query_one(statement, &parameters).await?;
        Ok(())
    }

    async fn send_new_calls(&self, client: &Client, statement: &Statement) -> Result<(), Failure> {
        if self.new_calls.0.is_empty() {
            return Ok(());
        }
        let closed = self.deleted_open_calls.arrays();
        let closed = closed.first().copied().unwrap_or(NO_TEXTS);
        let parameters: Vec<Parameter<'_>> = self.new_calls.arrays().into_iter().chain([closed]).collect();
        client.execute(statement, &parameters).await?;
        Ok(())
    }

    fn of(rows: &Rows, needed: &Needed, books: &[Booking]) -> Result<Writes, Failure> {
        let [mut new_leases, mut changed_leases] = <[Columns; 2]>::default();
        for (id, change) in rows.leases.changes() {
            match change {
                Change::New(row) => {
                    let first =
                        [id.0.as_str().into(), row.holder.0.as_str().into(), encode(&row.answer)?.into(), encode(&row.limits)?.into()];
                    new_leases.push(
                        first
                            .into_iter()
                            .chain([row.seq.cast_signed().into(), row.touched_ms.into()])
                            .chain(amounts(row.outstanding))
                            .chain(amounts(row.reserved)),
                    );
                }
                Change::Changed(row) => {
                    let first: [Value; 4] =
                        [id.0.as_str().into(), encode(&row.answer)?.into(), row.seq.cast_signed().into(), row.touched_ms.into()];
                    changed_leases.push(first.into_iter().chain(amounts(row.outstanding)).chain(amounts(row.reserved)));
                }
                // The machine deletes none: they are forgotten later, by how long they have been empty.
                Change::Deleted => {}
            }
        }
        let [mut new_open_calls, mut changed_open_calls, mut deleted_open_calls] = <[Columns; 3]>::default();
        for (id, change) in rows.open.changes() {
            match change {
                Change::New(call) => {
                    let lease = call.lease.as_ref().map_or("", |lease| &lease.0);
                    let draft = Value::Text(call.draft.as_deref().map(encode).transpose()?);
                    let first = [id.0.as_str().into(), call.holder.0.as_str().into(), lease.into()];
                    new_open_calls.push(first.into_iter().chain(amounts(call.reserved)).chain([encode(&call.unleased)?.into(), draft]));
                }
                Change::Changed(call) => changed_open_calls.push([Value::from(id.0.as_str())].into_iter().chain(amounts(call.reserved))),
                Change::Deleted => deleted_open_calls.push([id.0.as_str().into()]),
            }
        }
        let [mut new_unknown_calls, mut deleted_unknown_calls] = <[Columns; 2]>::default();
        for (id, change) in rows.ended.changes() {
            match change {
                Change::New(Ended::Unknown { charges }) => new_unknown_calls.push([id.0.as_str().into(), encode(charges)?.into()]),
                Change::Changed(Ended::Known) => deleted_unknown_calls.push([id.0.as_str().into()]),
                // That a call has ended is what its record says; what is unknown of it never changes but to be known.
                Change::New(Ended::Known) | Change::Changed(Ended::Unknown { .. }) | Change::Deleted => {}
            }
        }
        let [mut new_accounts, mut changed_accounts] = <[Columns; 2]>::default();
        for (key, change) in rows.accounts.changes() {
            let first: [Value; 2] = [key.limit.0.as_str().into(), key.bucket.into()];
            match change {
                Change::New(account) => {
                    let more: [Value; 2] = [key.limit.base().into(), needed.until_ms(key).into()];
                    new_accounts.push(first.into_iter().chain(more).chain(sums(account)));
                }
                Change::Changed(account) => changed_accounts.push(first.into_iter().chain(sums(account))),
                Change::Deleted => {}
            }
        }
        let (replaced_calls, new_calls, new_outcomes) = booked(books);
        Ok(Writes {
            new_leases,
            changed_leases,
            new_open_calls,
            changed_open_calls,
            deleted_open_calls,
            new_unknown_calls,
            deleted_unknown_calls,
            new_accounts,
            changed_accounts,
            replaced_calls,
            new_calls,
            new_outcomes,
            hours: by_hour(books)?,
        })
    }
}

fn by_hour(books: &[Booking]) -> Result<Columns, Failure> {
    let mut columns = Columns::default();
    for ((hour, group), sum) in usage::by_hour(books)? {
        let first: [Value; 3] = [hour.into(), group.into(), sum.cost.0.into()];
        let times: [Value; 2] = [sum.first_ms.into(), sum.last_ms.into()];
        columns.push(first.into_iter().chain(usage::counts(&sum).map(Value::from)).chain(times));
    }
    Ok(columns)
}

/// The hours in which a call is replaced, and their days; seldom any.
async fn to_sum_anew(client: &Client, statements: &Statements, books: &[Booking]) -> Result<(Columns, Columns), Failure> {
    let mut hours = usage::hours_of_replaced(books);
    if !hours.is_empty() {
        let replaced = books.iter().filter_map(|booking| match booking {
            Booking::Call { record, replaces: true, .. } => Some(record.id.0.as_str()),
            _ => None,
        });
        let replaced: Vec<&str> = replaced.collect();
        for row in &client.query(&statements.times_of_calls, &[&replaced]).await? {
            hours.insert(usage::hour_of(row.try_get(0)?));
        }
    }
    let days: BTreeSet<i64> = hours.iter().map(|hour| usage::day_of(*hour)).collect();
    let column = |starts: BTreeSet<i64>| {
        let mut column = Columns::default();
        starts.into_iter().for_each(|start| column.push([start.into()]));
        column
    };
    Ok((column(hours), column(days)))
}

fn amounts(amount: Amount) -> [Value; 3] {
    [amount.usd.0.into(), amount.tokens.into(), amount.requests.into()]
}

fn sums(account: &Account) -> [Value; 3] {
    [account.settled.into(), account.outstanding.into(), account.reserved.into()]
}

/// Records to delete first, then those to add, and outcomes. Of a call that is booked twice in one batch, the last counts.
fn booked(books: &[Booking]) -> (Columns, Columns, Columns) {
    let [mut replaced, mut calls, mut outcomes] = <[Columns; 3]>::default();
    let mut last: BTreeMap<&CallId, (bool, &Booking)> = BTreeMap::new();
    for booking in books {
        match booking {
            Booking::Call { record, replaces, .. } => {
                last.entry(&record.id).and_modify(|(_, last)| *last = booking).or_insert((*replaces, booking));
            }
            Booking::Outcome { id, outcome, count, origin, dimensions: values, at_ms } => {
                let first = [id, outcome, &origin.namespace, &origin.workload].map(|text| Value::from(text.as_str()));
                let count = i64::try_from(*count).unwrap_or(i64::MAX);
                let numbers: [Value; 2] = [(*at_ms).into(), count.into()];
                outcomes.push(first.into_iter().chain(dimensions(values).map(Value::from)).chain(numbers));
            }
        }
    }
    for (id, (replaces, booking)) in last {
        let Booking::Call { record, holder, at_ms, .. } = booking else { continue };
        if replaces {
            replaced.push([id.0.as_str().into()]);
        }
        let (texts, numbers) = (texts(record, holder).map(Value::from), numbers(record, *at_ms).map(Value::Number));
        debug_assert_eq!((texts.len(), numbers.len()), (TEXTS.len(), NUMBERS.len()));
        calls.push(texts.into_iter().chain(numbers).chain([record.cost.0.into()]));
    }
    (replaced, calls, outcomes)
}
