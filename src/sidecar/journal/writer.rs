//! The end of a segment, where lines are appended.
//!
//! The file is mapped into memory, a window at a time: a line is copied into the kernel's cache of it, which outlives the process as
//! well as what `write` puts there, and no call goes into the kernel for it. Blocks are allocated before a window is mapped, so that a
//! full disk is an error here as it is with `write`. What is allocated and not written is zeros, which no line holds. File systems that
//! cannot allocate ahead are written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, compiler_fence};

use memmap2::{Advice, MmapMut, MmapOptions};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Bytes that are mapped at once: some fifty calls. A multiple of every page's size.
const WINDOW: u64 = 64 << 10;

/// Appends to a file that nobody else writes.
pub struct Writer {
    file: File,
    /// Bytes that were appended.
    length: u64,
    /// Bytes that the file has blocks for.
    allocated: u64,
    /// The window that holds the end, and where it begins; `None` before the first line, and where files are not mapped.
    window: Option<(u64, MmapMut)>,
    is_mapped: bool,
}

impl Writer {
    /// For a file that is empty, and open for reading and writing.
    pub fn new(file: File) -> Writer {
        Writer { file, length: 0, allocated: 0, window: None, is_mapped: true }
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
                self.window = Some((begin, map(&self.file, begin)?));
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
        self.window = None;
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
    fn a_file_that_cannot_be_written_is_an_error_and_nothing_is_appended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Writer::new(File::open(file.path()).unwrap());
        assert!(writer.append(b"line\n").is_err());
        assert_eq!((writer.length(), fs::read(file.path()).unwrap()), (0, vec![]));
    }
}
