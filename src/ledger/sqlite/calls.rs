//! Records of calls and outcomes: written once, and read by queries only.

use std::sync::LazyLock;

use rusqlite::{Connection, params};

use crate::core::call::CallRecord;
use crate::ledger::columns::{NUMBERS, TEXTS, dimensions, numbers, texts};
use crate::ledger::machine::Booking;
use crate::ledger::{HolderId, LedgerError};

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let columns = [TEXTS.as_slice(), &NUMBERS, &["cost_micro", "cost_pico"]].concat();
    let values: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
    format!("INSERT OR REPLACE INTO calls ({}) VALUES ({})", columns.join(", "), values.join(", "))
});

pub fn insert(connection: &Connection, holder: &HolderId, record: &CallRecord, at_ms: i64) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(&INSERT)?;
    let mut column = 0;
    for text in texts(record, holder) {
        column += 1;
        statement.raw_bind_parameter(column, text)?;
    }
    let micro = i64::try_from(record.cost.0.div_euclid(1_000_000)).unwrap_or(i64::MAX);
    let pico = i64::try_from(record.cost.0.rem_euclid(1_000_000)).unwrap_or(0);
    for number in numbers(record, at_ms).into_iter().chain([Some(micro), Some(pico)]) {
        column += 1;
        statement.raw_bind_parameter(column, number)?;
    }
    statement.raw_execute()?;
    Ok(())
}

pub fn insert_outcome(connection: &Connection, booking: &Booking) -> Result<(), LedgerError> {
    let Booking::Outcome { id, outcome, count, origin, dimensions: values, at_ms } = booking else { return Ok(()) };
    let mut statement = connection.prepare_cached("INSERT INTO outcomes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?;
    let [feature, team, process, agent, session] = dimensions(values);
    let count = i64::try_from(*count).unwrap_or(i64::MAX);
    let (namespace, workload) = (&origin.namespace, &origin.workload);
    statement.execute(params![id, at_ms, outcome, namespace, workload, feature, team, process, agent, session, count])?;
    Ok(())
}
