//! The journal's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::line::{Line, State, from_text, to_text};
use super::{JournalError, Position};

const EXTENSION: &str = "journal";
const LOCK: &str = "lock";

/// Files by the position at which they start; only the last is written.
pub struct Segments {
    directory: PathBuf,
    starts: Vec<Position>,
    active: File,
    end: Position,
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
            // What follows the last newline was being written when the process died.
            let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
            lines.extend(text[..whole].split(|b| *b == b'\n').filter(|group| !group.is_empty()).flat_map(from_text));
            end = start + text.len() as Position;
        }
        let (start, active) = create(directory, end).map_err(unusable)?;
        let mut starts = starts;
        if starts.last() != Some(&start) {
            starts.push(start);
        }
        Ok((Segments { directory: directory.to_owned(), starts, active, end, _lock: lock }, lines))
    }

    /// Begins a new segment with the state at this moment.
    pub fn begin(&mut self, state: &State) -> io::Result<()> {
        if self.active_bytes() > 0 {
            let (start, active) = create(&self.directory, self.end)?;
            self.starts.push(start);
            self.active = active;
        }
        self.append(&to_text(&[Line::State(Box::new(state.clone()))]))
    }

    /// Appends whole groups of lines.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let written = self.active.write_all(text);
        if written.is_err() {
            // Half a line would swallow the next one.
            self.active.set_len(self.active_bytes())?;
        }
        written?;
        self.end += text.len() as Position;
        Ok(())
    }

    pub fn first(&self) -> Position {
        self.starts.first().copied().unwrap_or(self.end)
    }

    pub fn end(&self) -> Position {
        self.end
    }

    pub fn active_bytes(&self) -> u64 {
        self.end - self.starts.last().copied().unwrap_or(self.end)
    }

    /// Removes segments all of which is before `position`.
    pub fn remove_before(&mut self, position: Position) {
        while self.starts.len() > 1 && self.starts[1] <= position {
            let start = self.starts.remove(0);
            if let Err(error) = fs::remove_file(path(&self.directory, start)) {
                tracing::warn!(%error, "a segment of the journal that is done with cannot be removed");
            }
        }
    }

    /// Reads from `from` to the end of its segment.
    pub fn reader(&self, from: Position) -> io::Result<Reader> {
        let from = from.clamp(self.first(), self.end);
        let index = self.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let (start, end) = (self.starts[index], self.starts.get(index + 1).copied().unwrap_or(self.end));
        let mut file = File::open(path(&self.directory, start))?;
        file.seek(SeekFrom::Start(from - start))?;
        Ok(Reader { file, from, end })
    }
}

/// A part of a segment that does not change any more.
pub struct Reader {
    file: File,
    from: Position,
    end: Position,
}

impl Reader {
    /// About `limit` lines, whole groups, and the position after them.
    pub fn lines(self, limit: usize) -> io::Result<(Vec<Line>, Position)> {
        let mut file = BufReader::with_capacity(64 << 10, self.file.take(self.end - self.from));
        let (mut lines, mut position, mut group) = (Vec::new(), self.from, Vec::new());
        while lines.len() < limit {
            group.clear();
            let read = file.read_until(b'\n', &mut group)?;
            if read == 0 {
                break;
            }
            position += read as Position;
            // Without a newline it was torn when the process died, and the segment ends here.
            if group.pop() == Some(b'\n') {
                lines.extend(from_text(&group));
            }
        }
        Ok((lines, position))
    }
}

fn path(directory: &Path, start: Position) -> PathBuf {
    directory.join(format!("{start:016x}.{EXTENSION}"))
}

fn create(directory: &Path, start: Position) -> io::Result<(Position, File)> {
    let file = OpenOptions::new().append(true).create(true).open(path(directory, start))?;
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
