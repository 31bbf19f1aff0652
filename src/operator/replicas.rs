//! What replicas of the operator tell each other, as notes in the ledger that they share: what sidecars told one of them
//! ([`News`]), within a few tenths of a second. Each writes its own notes and reads those of the others; a replica that knows of no
//! other tells nothing but that it is there.
//!
//! Nothing that holds money depends on notes: when one is lost, a recall comes with the next refusal, a runaway is seen later, and a
//! status is late.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::context::{Context, now_ms};
use super::metrics::Metrics;
use super::news::News;
use crate::ledger::{LedgerError, Note};

/// Pause between two notes, and between two looks for those of others: a sidecar that is refused waits for what others give back for a
/// second at most.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause between two looks of a replica that is alone.
const ALONE: Duration = Duration::from_secs(1);
/// A replica whose ledger was written tells of it so often, that the leader may look at statuses; the same pause as between its rounds.
const ECHO: Duration = Duration::from_secs(1);
/// A replica that has nothing to say tells so often that it is there.
const PULSE: Duration = Duration::from_secs(5);
/// Who was not heard of for so long is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// Longer than notes are kept: then nothing of a writer can come again.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// This replica among the others.
pub struct Replicas {
    /// As no other process is called.
    name: String,
    outbox: Mutex<News>,
    others: Mutex<HashMap<String, Instant>>,
    heard: watch::Sender<u64>,
}

impl Default for Replicas {
    fn default() -> Replicas {
        let name = uuid::Uuid::new_v4().to_string();
        Replicas { name, outbox: Mutex::default(), others: Mutex::default(), heard: watch::Sender::new(0) }
    }
}

impl Replicas {
    /// Tells the others, if there are any.
    pub fn tell(&self, news: News) {
        if !news.is_empty() && self.others(Instant::now()) > 0 {
            self.outbox.lock().unwrap_or_else(PoisonError::into_inner).add(news);
        }
    }

    /// Grows when another replica told something, be it only that it wrote the ledger.
    pub fn heard(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    /// How many others were heard of lately.
    fn others(&self, now: Instant) -> usize {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.values().filter(|at| now - **at < SILENCE).count()
    }

    fn note_others<'a>(&self, known: &mut BTreeMap<String, i64>, notes: impl Iterator<Item = &'a Note>, now: Instant) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        for note in notes {
            known.insert(note.writer.clone(), note.number);
            others.insert(note.writer.clone(), now);
        }
        others.retain(|_, at| now - *at < FORGOTTEN);
        known.retain(|writer, _| others.contains_key(writer));
    }
}

/// Tells and listens; never returns.
pub async fn converse(context: Arc<Context>, metrics: Arc<Metrics>) {
    tokio::join!(tell(&context), listen(&context, &metrics));
}

async fn tell(context: &Context) {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = context.ledger_changes.clone();
    let (mut number, mut told) = (0, None::<Instant>);
    loop {
        ticks.tick().await;
        let news = std::mem::take(&mut *context.replicas.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        let is_echo = context.replicas.others(Instant::now()) > 0 && written.has_changed().unwrap_or(false);
        let due = if is_echo { ECHO } else { PULSE };
        if news.is_empty() && told.is_some_and(|at| at.elapsed() < due) {
            continue;
        }
        written.mark_unchanged();
        // What cannot be written as JSON is a mistake of this program; that it is there is told nevertheless.
        let text = serde_json::to_string(&news).unwrap_or_default();
        let note = Note { writer: context.replicas.name.clone(), number, text };
        persist("a note to the other replicas waits", || context.ledger.tell(&note)).await;
        (number, told) = (number + 1, Some(Instant::now()));
    }
}

async fn listen(context: &Context, metrics: &Metrics) {
    let mut known = BTreeMap::new();
    // What was told before this replica was there is not its concern.
    let before = persist("notes of other replicas wait", || context.ledger.told(&context.replicas.name, &known)).await;
    context.replicas.note_others(&mut known, before.iter().map(|(note, _)| note), Instant::now());
    loop {
        let others = context.replicas.others(Instant::now());
        metrics.replicas.with_label_values::<&str>(&[]).set(i64::try_from(others + 1).unwrap_or(i64::MAX));
        sleep(if others > 0 { PAUSE } else { ALONE }).await;
        let notes = persist("notes of other replicas wait", || context.ledger.told(&context.replicas.name, &known)).await;
        context.replicas.note_others(&mut known, notes.iter().map(|(note, _)| note), Instant::now());
        for (note, age_ms) in &notes {
            // A newer release may say what this one does not know.
            match serde_json::from_str::<News>(&note.text) {
                Ok(news) => context.heard_elsewhere(&news, now_ms() - age_ms),
                Err(error) => tracing::debug!(%error, writer = note.writer, "a note of another replica is not understood"),
            }
        }
        if !notes.is_empty() {
            context.replicas.heard.send_modify(|count| *count += 1);
        }
    }
}

/// Tries until the ledger does it.
async fn persist<T, F: Future<Output = Result<T, LedgerError>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let mut is_told = false;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) if is_told => tracing::debug!(%error, "{what}"),
            Err(error) => {
                tracing::warn!(%error, "{what}");
                is_told = true;
            }
        }
        sleep(ALONE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::amount::{Amount, Unit};
    use crate::core::limit::{LimitKey, Shortfall};

    fn refusal() -> News {
        let shortfall = Shortfall { key: LimitKey("a/b/c".into()), unit: Unit::Usd, left: 1, idle: 1, resets_at_ms: None };
        News::of_refusal(&[shortfall], Amount::ZERO)
    }

    fn waiting(replicas: &Replicas) -> usize {
        replicas.outbox.lock().expect("whole").refused.len()
    }

    #[test]
    fn a_replica_that_is_alone_has_nobody_to_tell() {
        let (replicas, mut known, now) = (Replicas::default(), BTreeMap::new(), Instant::now());
        replicas.tell(refusal());
        assert_eq!(waiting(&replicas), 0);
        let note = Note { writer: "other".into(), number: 7, text: String::new() };
        replicas.note_others(&mut known, [&note].into_iter(), now);
        assert_eq!(known, BTreeMap::from([("other".to_owned(), 7)]));
        replicas.tell(refusal());
        assert_eq!((waiting(&replicas), replicas.others(now)), (1, 1));
        assert_eq!(replicas.others(now + SILENCE), 0);
        replicas.note_others(&mut known, [].into_iter(), now + SILENCE);
        assert_eq!(known.len(), 1, "its notes may still be there");
        replicas.note_others(&mut known, [].into_iter(), now + FORGOTTEN);
        assert!(known.is_empty());
    }
}
