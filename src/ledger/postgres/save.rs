//! Writes what a batch of requests changed, and commits: one round trip, each row once.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Statement};

use super::columns::{Columns, Form, NO_TEXTS, Parameter, Taken, Value, parameters};
use super::connect::Failure;
use super::hours::ToSumAnew;
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
        return Writes::send_at_once(session, statement, &parts).await;
    }
    // A call that is replaced was read, so that the transaction has begun.
    let anew = ToSumAnew::of(client, statements, books).await?;
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
        anew.send(client, statements),
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

impl Writes {
    /// The one statement that writes all of it, and what its parts take: when leases and accounts change, and calls are opened or end,
    /// and that is all.
    fn at_once<'a>(&'a self, statements: &'a Statements) -> Option<(&'a Statement, Vec<Taken<'a>>)> {
        let others = [
            &self.new_leases,
            &self.changed_open_calls,
            &self.new_unknown_calls,
            &self.deleted_unknown_calls,
            &self.new_accounts,
            &self.replaced_calls,
            &self.new_outcomes,
        ];
        if !others.iter().all(|columns| columns.is_empty()) {
            return None;
        }
        let (opened, ended) = (self.new_open_calls.rows(), self.new_calls.rows());
        let is_end = ended > 0 || self.deleted_open_calls.rows() > 0;
        let is_one = self.changed_leases.rows() <= 1;
        let (statement, is_one) = match (opened, is_end) {
            (0, false) => (&statements.top_up, is_one),
            (_, false) => (&statements.opened, is_one && opened == 1),
            (0, true) => (&statements.settled, is_one && ended == 1),
            (_, true) => return None,
        };
        let form = if is_one { Form::Row } else { Form::Arrays };
        let mut parts = vec![(&self.changed_leases, 10, form), (&self.changed_accounts, 5, Form::Arrays)];
        if opened > 0 {
            parts.push((&self.new_open_calls, 8, form));
        }
        if is_end {
            let (closed, calls) = ((&self.deleted_open_calls, 1, Form::Arrays), TEXTS.len() + NUMBERS.len() + 1);
            parts.extend([closed, (&self.new_calls, calls, form), closed, (&self.hours, 5 + usage::COUNTS.len(), form)]);
        }
        Some((if is_one { &statement.of_one } else { &statement.of_many }, parts))
    }

    /// Carries it out; it is a transaction by itself.
    async fn send_at_once(session: &Session, statement: &Statement, parts: &[Taken<'_>]) -> Result<(), Failure> {
        session.client.query_one(statement, &parameters(session.name(), statement, parts)).await?;
        Ok(())
    }

    async fn send_new_calls(&self, client: &Client, statement: &Statement) -> Result<(), Failure> {
        if self.new_calls.is_empty() {
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
                        [id.0.as_ref().into(), row.holder.0.as_str().into(), encode(&row.answer)?.into(), encode(&row.limits)?.into()];
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
                        [id.0.as_ref().into(), encode(&row.answer)?.into(), row.seq.cast_signed().into(), row.touched_ms.into()];
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
                    let first = [id.0.as_ref().into(), call.holder.0.as_str().into(), lease.into()];
                    new_open_calls.push(first.into_iter().chain(amounts(call.reserved)).chain([encode(&call.unleased)?.into(), draft]));
                }
                Change::Changed(call) => changed_open_calls.push([Value::from(id.0.as_ref())].into_iter().chain(amounts(call.reserved))),
                Change::Deleted => deleted_open_calls.push([id.0.as_ref().into()]),
            }
        }
        let [mut new_unknown_calls, mut deleted_unknown_calls] = <[Columns; 2]>::default();
        for (id, change) in rows.ended.changes() {
            match change {
                Change::New(Ended::Unknown { charges }) => new_unknown_calls.push([id.0.as_ref().into(), encode(charges)?.into()]),
                Change::Changed(Ended::Known) => deleted_unknown_calls.push([id.0.as_ref().into()]),
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
            replaced.push([id.0.as_ref().into()]);
        }
        let (texts, numbers) = (texts(record, holder).map(Value::from), numbers(record, *at_ms).map(Value::Number));
        debug_assert_eq!((texts.len(), numbers.len()), (TEXTS.len(), NUMBERS.len()));
        calls.push(texts.into_iter().chain(numbers).chain([record.cost.0.into()]));
    }
    (replaced, calls, outcomes)
}
