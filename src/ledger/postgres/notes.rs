//! What replicas of the operator tell each other: rows that live for a minute. Nothing that holds money depends on them.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use super::connect::Failure;
use crate::ledger::Note;

pub const SCHEMA: &str = "CREATE TABLE notes (
  writer text NOT NULL, number bigint NOT NULL, text text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (writer, number)
)";
/// One in so many notes deletes the old ones, of all replicas.
const SWEEP: i64 = 50;

/// Writes a note, unless it is there: its answer may have been lost.
///
/// # Errors
/// When the database does not take it.
pub async fn write(client: &Client, note: &Note) -> Result<(), Failure> {
    const WRITE: &str = "INSERT INTO notes (writer, number, text) VALUES ($1, $2, $3) ON CONFLICT (writer, number) DO NOTHING";
    client.execute(WRITE, &[&note.writer, &note.number, &note.text]).await?;
    if note.number % SWEEP == 0 {
        client.execute("DELETE FROM notes WHERE at < now() - interval '1 minute'", &[]).await?;
    }
    Ok(())
}

/// Notes of others that come after the known ones. A writer's are numbered in the order in which they were written, so that none is
/// passed over; between writers there is no order. With the age of each, in milliseconds.
///
/// # Errors
/// When the database does not answer.
pub async fn read(client: &Client, reader: &str, known: &BTreeMap<String, i64>) -> Result<Vec<(Note, i64)>, Failure> {
    const READ: &str = "SELECT n.writer, n.number, n.text, (extract(epoch FROM now() - n.at) * 1000)::bigint FROM notes AS n
        LEFT JOIN unnest($2::text[], $3::bigint[]) AS k (writer, number) ON k.writer = n.writer
        WHERE n.writer <> $1 AND n.number > coalesce(k.number, -1) ORDER BY n.writer, n.number";
    let (writers, numbers): (Vec<&str>, Vec<i64>) = known.iter().map(|(writer, number)| (writer.as_str(), *number)).unzip();
    let rows = client.query(READ, &[&reader, &writers, &numbers]).await?;
    let note = |row: &Row| Ok((Note { writer: row.try_get(0)?, number: row.try_get(1)?, text: row.try_get(2)? }, row.try_get(3)?));
    rows.iter().map(note).collect()
}
