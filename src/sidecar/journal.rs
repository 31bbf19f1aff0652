//! What must survive the sidecar's death: open calls, leases, and what was not yet reported.
//!
//! The journal is an append-only log of JSON lines, and also the queue of the [`reporter`](super::reporter): what happened is
//! written here once, and read back from here when it is sent, so that an operator that is away for hours costs disk, not
//! memory. A position is a number of bytes since the journal began; the log is cut into segments named by the position
//! at which they start, and a segment goes when all of it is acknowledged. Each segment begins with the [`State`] at that
//! moment, so that those before it are not needed to recover.
//!
//! A line is [copied](writer) into the kernel's cache of the file in the caller's own task; a writer thread would cost two wake-ups.
//! There is no `fsync`: the journal survives the process. When the whole machine dies, the pod's end becomes known to the operator, which
//! then charges what was open as reserved.

mod line;
mod segments;
mod tail;
mod writer;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use line::{Begun, COMPARED, Reading};
pub use line::{Ended, Held, Line, OpenedCall, State, reported};
use segments::{Reader, Segments};
use tail::{Done, Tail};
use writer::{Asking, Next};

use crate::channel::message::{LeaseAsk, Reported};
use crate::core::amount::Amount;
use crate::core::call::CallRecord;
use crate::core::lease::{GiveBack, LeaseId};
use crate::core::limit::LimitKey;

/// A segment whose lines are more than this is followed by a new one; and they are more than the state that it begins with, so that what is
/// written for that is a part of what is written for calls, however many are open.
const SEGMENT_BYTES: u64 = 4 << 20;

/// A number of bytes since the journal began.
pub type Position = u64;

/// Why the journal does not take or give a line.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal in {directory} cannot be used: {reason}; check that the directory is writable and has space")]
    Directory { directory: String, reason: String },
    #[error("another sidecar uses the journal in {directory}; give each its own --state-dir")]
    InUse { directory: String },
    #[error("the journal cannot be written: {0}")]
    Write(std::io::Error),
    #[error("the journal cannot be read: {0}")]
    Read(std::io::Error),
}

/// What is to be reported, and where it ends.
#[derive(Debug)]
pub struct Batch {
    pub entries: Vec<Reported>,
    /// The position after the last line that was looked at.
    pub end: Position,
    /// There was nothing behind it.
    pub is_all: bool,
}

/// The journal of one sidecar.
pub struct Journal {
    inner: Mutex<Inner>,
    written: Notify,
    hurried: Notify,
    acknowledged: watch::Sender<Position>,
}

struct Inner {
    segments: Segments,
    /// A segment that was read, to go on from there, until what is read is in memory again.
    reader: Option<Reader>,
    /// Calls of the segment that is written which others are likely to be like; the latest first.
    written_out: VecDeque<Arc<OpenedCall>>,
    /// The latest lines, for a reporter that keeps up: it need not read them back.
    tail: Tail,
    state: State,
    /// The position after the last give-back.
    given_back: Position,
}

impl Journal {
    /// Opens the journal in `directory` and brings back the state in which the last process left it.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn open(directory: &Path) -> Result<Journal, JournalError> {
        let (mut segments, lines) = Segments::open(directory)?;
        let mut reading = Reading::default();
        for line in lines {
            reading.next(line);
        }
        let state = reading.state;
        let from = state.acknowledged.clamp(segments.first(), segments.end());
        segments.begin(&state).map_err(JournalError::Write)?;
        let given_back = segments.end();
        Ok(Journal {
            inner: Mutex::new(Inner {
                segments,
                reader: None,
                written_out: VecDeque::new(),
                tail: Tail::new(given_back),
                state,
                given_back,
            }),
            written: Notify::new(),
            hurried: Notify::new(),
            acknowledged: watch::channel(from).0,
        })
    }

    /// A call is about to go upstream. `draft` says what is to be charged if nothing more is ever learnt of it. Of one that is like another but
    /// for its figures, only those are written.
    ///
    /// # Errors
    /// When the line is not written; the call must not be made then.
    pub fn opened(&self, draft: Arc<CallRecord>, lease: Option<&LeaseId>, unleased: &[LimitKey]) -> Result<(), JournalError> {
        let call = Arc::new(OpenedCall { record: draft, lease: lease.cloned(), unleased: unleased.to_vec() });
        let whole = || Line::Opened(Arc::clone(&call));
        let (before, begun) = {
            let inner = self.lock();
            (inner.segments.active(), inner.written_out.iter().find_map(|like| Begun::of(&call, like)))
        };
        let mut is_whole = begun.is_none();
        let mut text = line::to_text(&[begun.map_or_else(whole, |begun| Line::Begun(Box::new(begun)))]);
        let mut inner = self.lock();
        let segment = inner.segments.active();
        if !is_whole && segment != before {
            // What it is like is written out in a segment that may go before this one does.
            (text, is_whole) = (line::to_text(&[whole()]), true);
        }
        let _done_with = inner.append(&text, vec![whole()])?;
        if is_whole && inner.segments.active() == segment {
            inner.written_out.truncate(COMPARED - 1);
            inner.written_out.push_front(call);
        }
        self.wrote(inner);
        Ok(())
    }

    /// A call has ended as `record` says; false when it was not open any more, and nothing is written. Of a record that is the draft's but
    /// for what an end adds, only that is.
    ///
    /// # Errors
    /// When the line is not written.
    pub fn ended(&self, record: Arc<CallRecord>, lease: Option<LeaseId>, unleased: Vec<LimitKey>) -> Result<bool, JournalError> {
        let Some(opened) = self.lock().state.open.get(&record.id).cloned() else { return Ok(false) };
        let short = Ended::of(&record, &opened).filter(|_| (&opened.lease, &opened.unleased) == (&lease, &unleased));
        let line = Line::Reported(Reported::Settled { record, lease, unleased });
        let text = match short {
            Some(ended) => line::to_text(&[Line::Ended(Box::new(ended))]),
            None => line::to_text(std::slice::from_ref(&line)),
        };
        let mut inner = self.lock();
        if !inner.state.open.contains_key(&opened.record.id) {
            return Ok(false);
        }
        let _done_with = inner.append(&text, vec![line])?;
        self.wrote(inner);
        Ok(true)
    }

    /// A request for a lease is about to be sent.
    ///
    /// # Errors
    /// When the line is not written.
    pub fn asked(&self, ask: LeaseAsk) -> Result<(), JournalError> {
        self.append(vec![Line::Asked { lease: ask.lease, seq: ask.seq, limits: ask.limits, min: ask.min, want: ask.want }])
    }

    /// A request was answered; `granted` is zero when it was refused.
    ///
    /// # Errors
    /// When the line is not written.
    pub fn answered(&self, lease: LeaseId, granted: Amount) -> Result<(), JournalError> {
        self.append(vec![Line::Answered { lease, granted }])
    }

    /// Money goes back to the ledger.
    ///
    /// # Errors
    /// When the lines are not written.
    pub fn give_back(&self, backs: impl IntoIterator<Item = GiveBack>) -> Result<(), JournalError> {
        let line = |b: GiveBack| Line::Reported(Reported::GivenBack { lease: b.lease, seq: b.seq, amount: b.amount });
        self.append(backs.into_iter().map(line).collect())
    }

    /// Writes lines that belong together: after a crash all of them are there, or none.
    ///
    /// # Errors
    /// When they are not written; then none of them is.
    pub fn append(&self, lines: Vec<Line>) -> Result<(), JournalError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = line::to_text(&lines);
        let mut inner = self.lock();
        let _done_with = inner.append(&text, lines)?;
        self.wrote(inner);
        Ok(())
    }

    /// What is to be reported from `from` on: at most `limit` entries, none when there is nothing new.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read(&self, from: Position, limit: usize) -> Result<Batch, JournalError> {
        // What was found is looked at, and segments are read by their own handles, while calls go on writing.
        let (latest_or_reader, last) = {
            let mut inner = self.lock();
            let kept = inner.reader.take();
            (inner.tail.read(from, limit).ok_or_else(|| inner.segments.reader(from, kept)), inner.segments.end())
        };
        match latest_or_reader {
            Ok(latest) => Ok(Batch { entries: latest.reported(), end: latest.end, is_all: latest.end == last }),
            Err(reader) => {
                let mut reader = reader.map_err(JournalError::Read)?;
                let lines = reader.lines(limit).map_err(JournalError::Read)?;
                let end = reader.position();
                let batch = Batch { entries: line::reported(lines.iter()), end, is_all: end == last };
                self.lock().reader = Some(reader);
                Ok(batch)
            }
        }
    }

    /// Everything up to `position` was reported.
    pub fn acknowledge(&self, position: Position) {
        let mut inner = self.lock();
        let line = Line::Acknowledged(position);
        inner.state.apply(&line);
        // If this is lost, entries are reported again, which changes nothing.
        match inner.segments.append(&line::to_text(&[line])) {
            Ok(()) => {
                let end = inner.segments.end();
                let _done_with = inner.tail.push(end, Vec::new());
            }
            Err(error) => tracing::warn!(%error, "the journal cannot note what was reported"),
        }
        let (files, _done_with) = (inner.segments.forget_before(position), inner.tail.forget_before(position));
        let next = inner.segments.wanted(Asking::Reporter);
        drop(inner);
        self.acknowledged.send_replace(position);
        segments::remove(files);
        self.prepare(next);
    }

    /// As [`Journal::acknowledge`], without a note of it: nothing before `position` is worth reporting again.
    pub fn reached(&self, position: Position) {
        let _done_with = self.lock().tail.forget_before(position);
        self.acknowledged.send_replace(position);
    }

    /// Waits until something was written since this was last called.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    /// Somebody waits until what is written is reported.
    pub fn hurry(&self) {
        self.hurried.notify_one();
    }

    /// Waits until somebody waits.
    pub async fn hurried(&self) {
        self.hurried.notified().await;
    }

    /// Up to where everything was reported.
    pub fn acknowledged(&self) -> watch::Receiver<Position> {
        self.acknowledged.subscribe()
    }

    /// The position after the last line.
    pub fn end(&self) -> Position {
        self.lock().segments.end()
    }

    /// The position after the last give-back: when it is acknowledged, the ledger has everything that this sidecar gave back.
    pub fn given_back(&self) -> Position {
        self.lock().given_back
    }

    /// Bytes that are written and not reported.
    pub fn backlog(&self) -> u64 {
        self.end().saturating_sub(*self.acknowledged.borrow())
    }

    /// The state at this moment.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Settles every call that is still open as its draft says. Returns how many there were.
    ///
    /// # Errors
    /// When the lines are not written.
    pub fn settle_open_calls(&self) -> Result<usize, JournalError> {
        let open = self.state().open;
        let calls = open.len();
        for call in open.into_values() {
            self.append(vec![call.settled()])?;
        }
        Ok(calls)
    }

    /// What is to be done after lines were appended, by whoever appended them and without the lock.
    fn wrote(&self, mut inner: MutexGuard<'_, Inner>) {
        let next = inner.segments.wanted(Asking::Call);
        drop(inner);
        self.written.notify_one();
        self.prepare(next);
    }

    fn prepare(&self, next: Option<Next>) {
        if let Some(next) = next {
            let next = next.prepare();
            // Dropped once the lock is free again.
            let _not_needed = self.lock().segments.prepared(next);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held leaves whole lines behind.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    /// Appends `text`, which means `lines`.
    fn append(&mut self, text: &[u8], lines: Vec<Line>) -> Result<Done, JournalError> {
        self.segments.append(text).map_err(JournalError::Write)?;
        let end = self.segments.end();
        for line in &lines {
            self.state.apply(line);
            if matches!(line, Line::Reported(Reported::GivenBack { .. })) {
                self.given_back = end;
            }
        }
        let done_with = self.tail.push(end, lines);
        if self.segments.lines_bytes() > SEGMENT_BYTES.max(self.segments.state_bytes()) {
            self.segments.begin(&self.state).map_err(JournalError::Write)?;
            self.written_out.clear();
            drop(self.tail.push(self.segments.end(), Vec::new()));
        }
        Ok(done_with)
    }
}

#[cfg(test)]
mod tests;
