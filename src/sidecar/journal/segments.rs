//! The journal's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use super::line::{Line, Reading, State, from_text, to_text};
use super::writer::{Asking, Next, Writer};
use super::{JournalError, Position};

const EXTENSION: &str = "journal";
const LOCK: &str = "lock";
/// What is read of a file at once, in bytes.
const BUFFER: usize = 64 << 10;

/// Files by the position at which they start; only the last is written.
pub struct Segments {
    directory: PathBuf,
    starts: Vec<Position>,
    active: Writer,
    /// Of the line that the last file begins with.
    state_bytes: u64,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Segments {
    /// Opens the files of `directory`, and reads the lines that are there.
    pub fn open(directory: &Path) -> Result<(Segments, Vec<Line>), JournalError> {
        let unusable = |e: io::Error| JournalError::Directory { directory: directory.display().to_string(), reason: e.to_string() };
        fs::create_dir_all(directory).map_err(unusable)?;
        let lock = File::create(directory.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(JournalError::InUse { directory: directory.display().to_string() }),
            Err(fs::TryLockError::Error(e)) => return Err(unusable(e)),
        }
        let starts = starts(directory).map_err(unusable)?;
        let (mut lines, mut end) = (Vec::new(), 0);
        for start in &starts {
            let text = fs::read(path(directory, *start)).map_err(unusable)?;
            // What follows the last newline was being written when the process died, or never: then it is zeros.
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
            lines.extend(text[..whole].split(|b| *b == b'\n').filter(|group| !group.is_empty()).flat_map(from_text));
            end = start + text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1) as Position;
        }
        let (start, active) = create(directory, end).map_err(unusable)?;
        let mut starts = starts;
        if starts.last() != Some(&start) {
            starts.push(start);
        }
        Ok((Segments { directory: directory.to_owned(), starts, active: Writer::new(active), state_bytes: 0, _lock: lock }, lines))
    }

    /// Begins a new segment with the state at this moment.
    pub fn begin(&mut self, state: &State) -> io::Result<()> {
        if self.active.length() > 0 {
            let (start, active) = create(&self.directory, self.end())?;
            self.starts.push(start);
            self.active = Writer::new(active);
        }
        self.append(&to_text(&[Line::State(Box::new(state.said_once()))]))?;
        self.state_bytes = self.active.length();
        Ok(())
    }

    /// Appends a whole group of lines.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.active.append(text)
    }

    /// What is to be prepared for lines to come; see [`Next`].
    pub fn wanted(&mut self, asking: Asking) -> Option<Next> {
        self.active.wanted(asking)
    }

    /// Takes what was prepared; gives back what is to be dropped elsewhere.
    pub fn prepared(&mut self, next: Next) -> Option<MmapMut> {
        self.active.prepared(next)
    }

    pub fn first(&self) -> Position {
        self.starts.first().copied().unwrap_or(0)
    }

    pub fn end(&self) -> Position {
        self.active() + self.active.length()
    }

    /// Where the segment that is written begins.
    pub fn active(&self) -> Position {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Bytes of the state that the last file begins with.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Bytes of what follows it.
    pub fn lines_bytes(&self) -> u64 {
        self.active.length() - self.state_bytes
    }

    /// Takes leave of segments all of which is before `position`, for [`remove`] to remove.
    pub fn forget_before(&mut self, position: Position) -> Vec<PathBuf> {
        let forgotten = self.starts.windows(2).take_while(|starts| starts[1] <= position).count();
        self.starts.drain(..forgotten).map(|start| path(&self.directory, start)).collect()
    }

    /// Reads from `from` to the end of its segment: `kept` goes on, if that is where it stands.
    pub fn reader(&self, from: Position, kept: Option<Reader>) -> io::Result<Reader> {
        let from = from.clamp(self.first(), self.end());
        let index = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let (start, end) = (self.starts[index], self.starts.get(index + 1).copied().unwrap_or(self.end()));
        let mut reader = match kept.filter(|reader| (reader.start, reader.position()) == (start, from)) {
            Some(reader) => reader,
            None => Reader::new(File::open(path(&self.directory, start))?, start, from),
        };
        reader.goes_to(end);
        Ok(reader)
    }
}

/// Removes files that nobody reads any more.
pub fn remove(files: Vec<PathBuf>) {
    for file in files {
        if let Err(error) = fs::remove_file(&file) {
            tracing::warn!(%error, "a segment of the journal that is done with cannot be removed");
        }
    }
}

/// A segment that is read, as far as it went when it was last asked for.
pub struct Reader {
    file: BufReader<io::Take<File>>,
    reading: Reading,
    start: Position,
    /// Where lines are asked for from.
    from: Position,
    /// Where the next line begins.
    at: Position,
    end: Position,
}

impl Reader {
    fn new(file: File, start: Position, from: Position) -> Reader {
        let file = BufReader::with_capacity(BUFFER, file.take(0));
        Reader { file, reading: Reading::default(), start, from, at: start, end: start }
    }

    fn goes_to(&mut self, end: Position) {
        let file = self.file.get_mut();
        file.set_limit(file.limit() + end.saturating_sub(self.end));
        self.end = end.max(self.end);
    }

    /// The position after the last line.
    pub fn position(&self) -> Position {
        self.at.max(self.from)
    }

    /// About `limit` lines, whole groups. What is before is read for the calls that were opened there: of a call that is like another, and
    /// of an end, only what is new is written.
    pub fn lines(&mut self, limit: usize) -> io::Result<Vec<Line>> {
        let (mut lines, mut group) = (Vec::new(), Vec::new());
        while lines.len() < limit {
            group.clear();
            let read = self.file.read_until(b'\n', &mut group)?;
            if read == 0 {
                break;
            }
            let is_before = self.at < self.from;
            self.at += read as Position;
            // Without a newline it was torn when the process died, and the segment ends here.
            if group.pop() != Some(b'\n') {
                continue;
            }
            for line in from_text(&group) {
                let line = self.reading.next(line);
                if !is_before {
                    lines.push(line);
                }
            }
        }
        Ok(lines)
    }
}

fn path(directory: &Path, start: Position) -> PathBuf {
    directory.join(format!("{start:016x}.{EXTENSION}"))
}

fn create(directory: &Path, start: Position) -> io::Result<(Position, File)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path(directory, start))?;
    Ok((start, file))
}

fn starts(directory: &Path) -> io::Result<Vec<Position>> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == EXTENSION) {
            let start = path.file_stem().and_then(|s| s.to_str()).and_then(|s| Position::from_str_radix(s, 16).ok());
            starts.extend(start);
        }
    }
    starts.sort_unstable();
    Ok(starts)
}
