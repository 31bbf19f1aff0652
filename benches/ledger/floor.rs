//! What an engine allows at most: one bare insert for each caller, as durable as the ledger's own writes.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tokio_postgres::{Client, NoTls, Statement};

use crate::{Began, MEASURED, Turn};

/// About as much as a record of a call weighs.
const BODY: &str = "{\"feature\":\"chat\",\"team\":\"support\",\"workload\":\"Deployment/bot\",\"route\":\"shop/models\",\"backend\":\"openai\",\
    \"model\":\"gpt-5-mini\",\"tier\":\"standard\",\"input\":900,\"output\":100,\"cost\":1000,\"bytes\":4000,\"duration\":800}";

/// Inserts in SQLite: `together` in each transaction.
pub fn sqlite(path: &Path, together: usize) -> Result<Turn> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, body TEXT NOT NULL)", [])?;
    let (began, mut latencies) = (Began::now(), Vec::new());
    while began.at.elapsed() < MEASURED {
        let start = Instant::now();
        let transaction = connection.transaction()?;
        for _ in 0..together {
            transaction.prepare_cached("INSERT INTO floor (body) VALUES (?1)")?.execute([BODY])?;
        }
        transaction.commit()?;
        latencies.extend(std::iter::repeat_n(start.elapsed(), together));
    }
    Turn::of(latencies, began)
}

async fn client(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub async fn execute(url: &str, sql: &str) -> Result<()> {
    Ok(client(url).await?.batch_execute(sql).await?)
}

/// Inserts in PostgreSQL: `connections` at once, each with `together` rows in one statement, which is one transaction.
pub async fn postgres(url: &str, connections: usize, together: usize) -> Result<Turn> {
    execute(url, "CREATE TABLE IF NOT EXISTS floor (id bigserial PRIMARY KEY, body text NOT NULL)").await?;
    let bodies = vec![BODY; together];
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let client = client(url).await?;
        let statement = client.prepare("INSERT INTO floor (body) SELECT unnest($1::text[])").await?;
        client.execute(&statement, &[&bodies]).await?;
        clients.push((client, statement));
    }
    let began = Began::now();
    let tasks: Vec<_> =
        clients.into_iter().map(|(client, statement)| tokio::spawn(insert(client, statement, bodies.clone(), began.at))).collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    Turn::of(latencies, began)
}

async fn insert(client: Client, statement: Statement, bodies: Vec<&'static str>, began: Instant) -> Result<Vec<std::time::Duration>> {
    let mut latencies = Vec::new();
    while began.elapsed() < MEASURED {
        let start = Instant::now();
        client.execute(&statement, &[&bodies]).await?;
        latencies.extend(std::iter::repeat_n(start.elapsed(), bodies.len()));
    }
    Ok(latencies)
}
