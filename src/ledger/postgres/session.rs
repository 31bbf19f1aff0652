//! A connection that writes, and what it may take for granted.
//!
//! Mostly one replica writes. It is *alone* then, which one row says, the fence: what it wrote last is what is there, so it remembers
//! rows instead of reading them, and a batch is one round trip. Whoever else writes changes the fence first.
//!
//! ```text
//!   connected ──nobody is in a transaction──▶ alone ──the fence is not its own any more──▶ shared ──after AGAIN──▶ as connected
//!       └──────────somebody is────────────────────────────────────────────────────────────▶ (locks and reads every row)
//! ```
//!
//! Why that is sound: every transaction locks the fence in share mode until it ends. Who is alone finds its own name there, which is
//! that of this one connection; who is not finds no name. To change the fence takes a lock that waits for all of them. So between two
//! transactions of whoever is alone there was none of anybody else, not even one of its own that was sent on a connection before.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::{Database, Failure};
use super::hours;
use super::line::Line;
use super::statements::Statements;
use crate::ledger::known::Known;
use crate::ledger::usage::GROUPS_OF_A_PART;

/// Who met another replica looks so much later whether it is alone.
const AGAIN: Duration = Duration::from_secs(60);

/// Every statement of a writer finds rows by their keys, however many: to plan it anew for each batch costs more than to carry it out.
/// Engines that know no such setting are left alone.
const PLANS: &str =
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', false) WHERE current_setting('plan_cache_mode', true) IS NOT NULL";

pub struct Session {
    pub client: Client,
    pub statements: Statements,
    /// Nothing, unless it is alone.
    pub known: Known,
    pub is_alone: bool,
    name: String,
    /// When it may look whether it is alone.
    look: Instant,
    /// Ledger time as it was written down when it last looked.
    clock_ms: i64,
}

impl Session {
    /// Connects. Whatever is asked on it is asked [`during`](Line::during) its line.
    ///
    /// # Errors
    /// When the database is out of reach, or the tables are not what they should be.
    pub async fn open(database: &Database) -> Result<(Session, Line), Failure> {
        let (client, mut line) = database.connect_in_line().await?;
        let prepared = async {
            client.batch_execute(PLANS).await?;
            Statements::prepare(&client).await
        };
        let statements = line.during(prepared).await?;
        let name = Uuid::new_v4().to_string();
        Ok((Session { client, statements, known: Known::default(), is_alone: false, name, look: Instant::now(), clock_ms: i64::MIN }, line))
    }

    /// Becomes alone, when it is time for that and nobody is in a transaction; ledger time as it was written down then.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn look_around(&mut self) -> Result<i64, Failure> {
        if self.is_alone || Instant::now() < self.look {
            return Ok(self.clock_ms);
        }
        self.look = Instant::now() + AGAIN;
        self.is_alone = self.client.execute(&self.statements.be_alone, &[&self.name]).await? == 1;
        let clock = self.client.query_one(&self.statements.clock, &[]).await?;
        self.clock_ms = clock.try_get(0)?;
        Ok(self.clock_ms)
    }

    /// Forgets what is known after a transaction that failed, and finds out whether this session is alone still. If not, no other is
    /// afterwards.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn settle(&mut self) -> Result<(), Failure> {
        self.known.forget();
        if self.is_alone {
            self.is_alone = self.client.query_one(&self.statements.is_alone, &[&self.name]).await?.try_get(0)?;
        }
        if !self.is_alone {
            self.client.execute(&self.statements.be_shared, &[]).await?;
        }
        Ok(())
    }

    /// Begins a transaction; ledger time as all replicas know it, unless this one is alone and knows better.
    ///
    /// # Errors
    /// A conflict when the fence is not as it should be: then see [`Session::settle`].
    pub async fn begin(&self) -> Result<Option<i64>, Failure> {
        let begin = self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
        if self.is_alone {
            // Fails where the name is not found, so that what is sent along with it comes to nothing.
            let name: [&(dyn ToSql + Sync); 1] = [&self.name];
            futures::try_join!(begin, self.client.query_one(&self.statements.begin_alone, &name))?;
            return Ok(None);
        }
        let ((), row) = futures::try_join!(begin, self.client.query_one(&self.statements.begin_shared, &[]))?;
        let alone: &str = row.try_get(0)?;
        if !alone.is_empty() {
            return Err(Failure::Conflict("another replica takes itself for alone".to_owned()));
        }
        Ok(Some(row.try_get(1)?))
    }

    /// Deletes accounts that nobody needs since `before_ms`, `most` at a time; how many.
    ///
    /// # Errors
    /// When the database does not do so; then the transaction is to be rolled back.
    pub async fn forget_accounts(&mut self, before_ms: i64, most: i64) -> Result<u64, Failure> {
        self.begin().await?;
        let deleted = self.client.execute(&self.statements.forget_accounts, &[&before_ms, &most]).await?;
        self.client.batch_execute("COMMIT").await?;
        if deleted > 0 {
            self.known.forget();
        }
        Ok(deleted)
    }

    /// Sums a part of a day that was over before `over_ms`, while nobody else writes; whether there was one, and nobody did.
    ///
    /// # Errors
    /// When the database does not do so; then the transaction is to be rolled back.
    pub async fn sum_a_part(&self, over_ms: i64) -> Result<bool, Failure> {
        self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let is_here_alone = self.client.query_opt(&self.statements.keep_others_out, &[&self.name]).await?.is_some();
        let is_summed = is_here_alone && hours::sum_a_part(&self.client, over_ms, GROUPS_OF_A_PART).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(is_summed)
    }

    /// What the fence says while it is alone.
    pub fn name(&self) -> &String {
        &self.name
    }

    /// False when that cannot be done, so that the connection is of no use any more.
    pub async fn roll_back(&self) -> bool {
        self.client.batch_execute("ROLLBACK").await.is_ok()
    }
}
