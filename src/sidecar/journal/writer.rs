//! The end of a segment, where lines are appended.
//!
//! The file is mapped into memory, a window at a time: a line is copied into the kernel's cache of it, which outlives the process as
//! well as what `write` puts there, and no call goes into the kernel for it. Blocks are allocated before a window is mapped, so that a
//! full disk is an error here as it is with `write`. What is allocated and not written is zeros, which no line holds. File systems that
//! cannot allocate ahead are written to.
//!
//! To map a window takes the kernel as long as some calls take as a whole. The reporter, for whom no call waits, has the [next](Next) one to
//! prepare, without the lock that all calls share. Where calls are more than it keeps up with, the one that comes near the end of a window does so
//! after its line is written; and should it not be there in time, it is mapped when it is needed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use memmap2::{Advice, MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Bytes that are mapped at once: some 300 calls, which is more than the reporter lets go by between two of its looks at it unless there are
/// ten thousand a second. A multiple of every page's size.
const WINDOW: u64 = 128 << 10;
/// So far into a window a call prepares the next one: the reporter had time to, and a fast one is not through the rest of it meanwhile.
const NEAR_END: u64 = WINDOW / 4 * 3;

/// Appends to a file that nobody else writes.
pub struct Writer {
    file: Arc<File>,
    /// Bytes that were appended.
    length: u64,
    /// Bytes that the file has blocks for.
    allocated: u64,
    /// The window that holds the end, and where it begins; `None` before the first line, and where files are not mapped.
    window: Option<(u64, MmapMut)>,
    /// The one after it, once it is prepared.
    next: Option<(u64, MmapMut)>,
    /// The one before it, until somebody has time to unmap it.
    before: Option<MmapMut>,
    is_preparing: bool,
    is_mapped: bool,
}

/// Who asks whether a window is to be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// A call, which has no time for it unless it will be needed soon.
    Call,
    /// The reporter, which has.
    Reporter,
}

/// A window that will be needed soon.
#[must_use = "nobody else prepares it"]
pub struct Next {
    file: Arc<File>,
    begin: u64,
    map: Option<MmapMut>,
    /// What is not needed any more.
    before: Option<MmapMut>,
}

impl Next {
    /// Allocates and maps it. What fails here is tried again when it is needed, and is an error then.
    pub fn prepare(mut self) -> Next {
        self.before = None;
        let is_allocated = fallocate(&self.file, FallocateFlags::empty(), self.begin, WINDOW).is_ok();
        self.map = is_allocated.then(|| map(&self.file, self.begin).ok()).flatten();
        self
    }
}

impl Writer {
    /// For a file that is empty, and open for reading and writing.
    pub fn new(file: File) -> Writer {
        Writer {
            file: Arc::new(file),
            length: 0,
            allocated: 0,
            window: None,
            next: None,
            before: None,
            is_preparing: false,
            is_mapped: true,
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends a whole group of lines. Should the process die meanwhile, its last byte, the newline, is not there.
    ///
    /// # Errors
    /// When there is no room, or the file cannot be written; then nothing is appended.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let Some((newline, text)) = text.split_last() else { return Ok(()) };
        if !self.allocate(self.length + text.len() as u64 + 1)? {
            return self.write(&[text, &[*newline]].concat());
        }
        let mut at = self.length;
        for piece in [text, &[*newline]] {
            at = self.copy(at, piece)?;
            // The machine's code keeps this order, and a process that is killed has done all that came before.
            compiler_fence(Ordering::SeqCst);
        }
        self.length = at;
        Ok(())
    }

    /// The window to prepare, if it is time for that and nobody does.
    pub fn wanted(&mut self, asking: Asking) -> Option<Next> {
        let (begin, _) = self.window.as_ref()?;
        let is_time = asking == Asking::Reporter || self.length >= begin + NEAR_END;
        let begin = begin + WINDOW;
        if !is_time || self.is_preparing || self.next.as_ref().is_some_and(|(next, _)| *next == begin) {
            return None;
        }
        self.is_preparing = true;
        Some(Next { file: Arc::clone(&self.file), begin, map: None, before: self.before.take() })
    }

    /// Takes a window that was prepared, if it is of this file; gives back what is not needed, to be unmapped elsewhere.
    pub fn prepared(&mut self, next: Next) -> Option<MmapMut> {
        if !Arc::ptr_eq(&self.file, &next.file) {
            return next.map;
        }
        self.is_preparing = false;
        let map = next.map?;
        if self.allocated != next.begin {
            // It comes too late.
            return Some(map);
        }
        self.allocated = next.begin + WINDOW;
        self.next.replace((next.begin, map)).map(|(_, before)| before)
    }

    /// Makes room up to `end`; false where the file system cannot, so that the file must be written.
    fn allocate(&mut self, end: u64) -> io::Result<bool> {
        while self.is_mapped && self.allocated < end {
            match fallocate(&self.file, FallocateFlags::empty(), self.allocated, WINDOW) {
                Ok(()) => self.allocated += WINDOW,
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => (self.window, self.is_mapped) = (None, false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.is_mapped)
    }

    fn copy(&mut self, mut at: u64, mut text: &[u8]) -> io::Result<u64> {
        while !text.is_empty() {
            let begin = at - at % WINDOW;
            if self.window.as_ref().is_none_or(|(mapped, _)| *mapped != begin) {
                self.before = self.window.take().map(|(_, map)| map);
                self.window = Some(match self.next.take_if(|(next, _)| *next == begin) {
                    Some(next) => next,
                    None => (begin, map(&self.file, begin)?),
                });
            }
            let Some((_, window)) = &mut self.window else { continue };
            let free = &mut window[(at - begin) as usize..];
            let (now, later) = text.split_at(text.len().min(free.len()));
            free[..now.len()].copy_from_slice(now);
            (at, text) = (at + now.len() as u64, later);
        }
        Ok(at)
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(text, self.length);
        if written.is_err() {
            // Half a line would swallow the next one.
            self.file.set_len(self.length)?;
        }
        written?;
        self.length += text.len() as u64;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        (self.window, self.next, self.before) = (None, None, None);
        // Whoever reads the file bears the zeros that a process leaves which had no time for this.
        if let Err(error) = self.file.set_len(self.length) {
            tracing::debug!(%error, "a segment of the journal ends with zeros");
        }
    }
}

fn map(file: &File, begin: u64) -> io::Result<MmapMut> {
    // SAFETY: the bytes are only written, through this mapping alone: nobody else writes the file, which is locked, and in a directory
    // of the sidecar's own. Blocks are allocated for all of them. Whoever cut the file off nevertheless would end this process, and the
    // calls that are open are known from what was written.
    let window = unsafe { MmapOptions::new().offset(begin).len(WINDOW as usize).map_mut(file) }?;
    // One fault for all pages instead of one for each; kernels before 5.14 know no such advice.
    let _ = window.advise(Advice::PopulateWrite);
    Ok(window)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn writer() -> (tempfile::NamedTempFile, Writer) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Writer::new(file.reopen().unwrap());
        (file, writer)
    }

    #[test]
    fn what_is_appended_is_in_the_file_at_once_across_windows_and_without_zeros_at_the_end() {
        for is_mapped in [true, false] {
            let (file, mut writer) = writer();
            writer.is_mapped = is_mapped;
            let mut expected = Vec::new();
            for line in 0..3_000_usize {
                let text = format!("{line} {}\n", "x".repeat(line % 97)).into_bytes();
                writer.append(&text).unwrap();
                expected.extend_from_slice(&text);
            }
            let large = [vec![b'y'; 3 * WINDOW as usize], vec![b'\n']].concat();
            writer.append(&large).unwrap();
            expected.extend_from_slice(&large);
            writer.append(b"").unwrap();
            assert_eq!(writer.length(), expected.len() as u64);
            let now = fs::read(file.path()).unwrap();
            assert!(now.starts_with(&expected) && now[expected.len()..].iter().all(|byte| *byte == 0));
            drop(writer);
            assert_eq!(fs::read(file.path()).unwrap(), expected);
        }
    }

    #[test]
    fn the_reporter_prepares_a_window_long_before_a_call_has_to() {
        let (_file, mut writer) = writer();
        assert!(writer.wanted(Asking::Reporter).is_none(), "nothing is written yet");
        writer.append(b"line\n").unwrap();
        assert!(writer.wanted(Asking::Call).is_none());
        let next = writer.wanted(Asking::Reporter).unwrap().prepare();
        assert!(writer.prepared(next).is_none() && writer.next.is_some());
        while writer.length() < WINDOW - 1_000 {
            writer.append(format!("{:0999}\n", 0).as_bytes()).unwrap();
            assert!(writer.wanted(Asking::Call).is_none() && writer.wanted(Asking::Reporter).is_none(), "it is there");
        }
    }

    #[test]
    fn a_window_that_is_prepared_is_used_and_one_that_comes_too_late_is_not() {
        let expected = |lines: usize| (0..lines).flat_map(|line| format!("{line:0999}\n").into_bytes()).collect::<Vec<u8>>();
        for is_late in [false, true] {
            let (file, mut writer) = writer();
            let (mut prepared, mut waiting) = (0, None);
            for line in 0..2_000 {
                writer.append(format!("{line:0999}\n").as_bytes()).unwrap();
                if let Some(next) = writer.wanted(Asking::Call) {
                    assert!(writer.wanted(Asking::Reporter).is_none(), "one at a time");
                    let next = next.prepare();
                    assert!(next.map.is_some());
                    if is_late {
                        waiting = Some((line, next));
                    } else {
                        prepared += usize::from(writer.prepared(next).is_none());
                    }
                }
                // A whole window later.
                if let Some((_, next)) = waiting.take_if(|(wanted, _)| line == *wanted + WINDOW / 1_000 + 1) {
                    assert!(writer.prepared(next).is_some());
                    prepared += 1;
                }
            }
            assert!(prepared >= 7, "{prepared}");
            let another = Writer::new(file.reopen().unwrap());
            let of_another = Next { file: Arc::clone(&another.file), begin: 0, map: None, before: None };
            assert!(writer.prepared(of_another.prepare()).is_some(), "it is of another file");
            drop(writer);
            assert!(fs::read(file.path()).unwrap() == expected(2_000));
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_and_nothing_is_appended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(File::open(file.path()).unwrap());
        assert!(writer.append(b"line\n").is_err());
        assert_eq!((writer.length(), fs::read(file.path()).unwrap()), (0, vec![]));
    }
}
