//! The journal's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use super::line::{Line, Reading, State, from_text, to_text};
use super::writer::{Next, Writer};
use super::{JournalError, Position};

const EXTENSION: &str = "journal";
const LOCK: &str = "lock";

/// Files by the position at which they start; only the last is written.
pub struct Segments {
    directory: PathBuf,
    starts: Vec<Position>,
    active: Writer,
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
        Ok((Segments { directory: directory.to_owned(), starts, active: Writer::new(active), _lock: lock }, lines))
    }

    /// Begins a new segment with the state at this moment.
    pub fn begin(&mut self, state: &State) -> io::Result<()> {
        if self.active_bytes() > 0 {
            let (start, active) = create(&self.directory, self.end())?;
            self.starts.push(start);
            self.active = Writer::new(active);
        }
        self.append(&to_text(&[Line::State(Box::new(state.clone()))]))
    }

    /// Appends a whole group of lines.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.active.append(text)
    }

    /// What is to be prepared for lines to come; see [`Next`].
    pub fn wanted(&mut self) -> Option<Next> {
        self.active.wanted()
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

    pub fn active_bytes(&self) -> u64 {
        self.active.length()
    }

    /// Takes leave of segments all of which is before `position`, for [`remove`] to remove.
    pub fn forget_before(&mut self, position: Position) -> Vec<PathBuf> {
        let forgotten = self.starts.windows(2).take_while(|starts| starts[1] <= position).count();
        self.starts.drain(..forgotten).map(|start| path(&self.directory, start)).collect()
    }

    /// Reads from `from` to the end of its segment.
    pub fn reader(&self, from: Position) -> io::Result<Reader> {
        let from = from.clamp(self.first(), self.end());
        let index = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let (start, end) = (self.starts[index], self.starts.get(index + 1).copied().unwrap_or(self.end()));
        Ok(Reader { file: File::open(path(&self.directory, start))?, start, from, end })
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

/// A segment, whose end does not change any more.
pub struct Reader {
    file: File,
    start: Position,
    from: Position,
    end: Position,
}

impl Reader {
    /// About `limit` lines from `from` on, whole groups, and the position after them. What is before is read for the calls that were
    /// opened there: of a call that is like another, and of an end, only what is new is written.
    pub fn lines(self, limit: usize) -> io::Result<(Vec<Line>, Position)> {
        let mut file = BufReader::with_capacity(64 << 10, self.file.take(self.end - self.start));
        let (mut reading, mut lines, mut position, mut group) = (Reading::default(), Vec::new(), self.start, Vec::new());
        while lines.len() < limit {
            group.clear();
            let read = file.read_until(b'\n', &mut group)?;
            if read == 0 {
                break;
            }
            let is_before = position < self.from;
            position += read as Position;
            // Without a newline it was torn when the process died, and the segment ends here.
            if group.pop() != Some(b'\n') {
                continue;
            }
            for line in from_text(&group) {
                let line = reading.next(line);
                if !is_before {
                    lines.push(line);
                }
            }
        }
        Ok((lines, position.max(self.from)))
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
