//! Where the body of a message over HTTP/1.1 ends (RFC 9112, sections 6 and 7), and what of the bytes that were read is it.

use bytes::Bytes;

/// Bytes of all chunk extensions and of all trailers, neither of which anybody reads.
const IGNORED_LIMIT: u32 = 16 << 10;

/// The rest of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// All that comes until the server closes the connection; only an answer ends so.
    UntilClose,
}

/// Where among the chunks the next byte is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    next: Next,
    ignored: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A digit of the size, of which there have been some.
    Size {
        size: u64,
        digits: u8,
    },
    /// What may follow a size.
    Extension {
        size: u64,
    },
    /// The line feed after a size.
    SizeEnd {
        size: u64,
    },
    /// So many bytes, and one at least.
    Data {
        left: u64,
    },
    /// The carriage return, and the line feed, after data.
    DataReturn,
    DataEnd,
    /// A trailer's line, of which there have been some bytes.
    Trailer {
        begun: bool,
    },
    /// The line feed after a trailer, or after the last.
    TrailerEnd {
        begun: bool,
    },
    Nothing,
}

/// Chunks that are none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its chunks are malformed")]
pub struct Malformed;

impl Framing {
    pub fn length(bytes: u64) -> Framing {
        Framing::Length(bytes)
    }

    pub fn chunked() -> Framing {
        Framing::Chunked(Chunks { next: Next::Size { size: 0, digits: 0 }, ignored: 0 })
    }

    pub fn until_close() -> Framing {
        Framing::UntilClose
    }

    /// True when nothing more of the body can come.
    pub fn is_done(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => chunks.next == Next::Nothing,
            Framing::UntilClose => false,
        }
    }

    /// What is known of how much is to come.
    pub fn exact(&self) -> Option<u64> {
        match self {
            Framing::Length(left) => Some(*left),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// The next piece of the body, taken from the front of what was read; `None` when there is none in it. What is left in `read` once
    /// the body is done was sent without having been asked for.
    ///
    /// # Errors
    /// When it is none.
    pub fn take(&mut self, read: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
        match self {
            Framing::Length(left) => {
                let piece = read.split_to(within(*left, read.len()));
                *left -= piece.len() as u64;
                Ok(Some(piece).filter(|piece| !piece.is_empty()))
            }
            Framing::UntilClose => Ok(Some(std::mem::take(read)).filter(|piece| !piece.is_empty())),
            Framing::Chunked(chunks) => chunks.take(read),
        }
    }

    /// Moves all of the body that was read to the front, so that many small pieces become one.
    pub fn compact(&mut self, read: &mut [u8]) -> Compacted {
        match self {
            Framing::Length(left) => {
                let body = within(*left, read.len());
                *left -= body as u64;
                Compacted { body, seen: body }
            }
            Framing::UntilClose => Compacted { body: read.len(), seen: read.len() },
            Framing::Chunked(chunks) => chunks.compact(read),
        }
    }
}

/// What of some bytes that were read is the body, once it was moved to their front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the body.
    pub body: usize,
    /// Bytes that were looked at. Those behind them are no part of the body, or are malformed: [`Framing::take`] tells.
    pub seen: usize,
}

/// The smaller of two, of which one is in memory.
fn within(left: u64, here: usize) -> usize {
    usize::try_from(left).map_or(here, |left| left.min(here))
}

impl Chunks {
    fn take(&mut self, read: &mut Bytes) -> Result<Option<Bytes>, Malformed> {
        let mut at = 0;
        while let Some(byte) = read.get(at) {
            let data = self.data(read.len() - at);
            if data > 0 {
                let mut piece = read.split_to(at + data);
                return Ok(Some(piece.split_off(at)));
            }
            if self.next == Next::Nothing {
                break;
            }
            self.next = self.after(*byte)?;
            at += 1;
        }
        let _ = read.split_to(at);
        Ok(None)
    }

    fn compact(&mut self, read: &mut [u8]) -> Compacted {
        let (mut body, mut at) = (0, 0);
        while at < read.len() && self.next != Next::Nothing {
            let data = self.data(read.len() - at);
            if data > 0 {
                read.copy_within(at..at + data, body);
                (body, at) = (body + data, at + data);
                continue;
            }
            let Ok(next) = self.after(read[at]) else { break };
            self.next = next;
            at += 1;
        }
        Compacted { body, seen: at }
    }

    /// How many of the next `here` bytes are data, which are passed.
    fn data(&mut self, here: usize) -> usize {
        let Next::Data { left } = self.next else { return 0 };
        let data = within(left, here);
        self.next = if left == data as u64 { Next::DataReturn } else { Next::Data { left: left - data as u64 } };
        data
    }

    /// What comes after a byte that is not data.
    fn after(&mut self, byte: u8) -> Result<Next, Malformed> {
        Ok(match (self.next, byte) {
            (Next::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // Sixteen digits fill the number.
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                if digits == 16 {
                    return Err(Malformed);
                }
                Next::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Next::Size { digits: 0, .. }, _) => return Err(Malformed),
            (Next::Size { size, .. } | Next::Extension { size }, b'\r') => Next::SizeEnd { size },
            (Next::Size { size, .. }, b';' | b' ' | b'\t') => Next::Extension { size },
            (Next::Extension { size }, byte) if byte != b'\n' => {
                self.ignore()?;
                Next::Extension { size }
            }
            (Next::SizeEnd { size: 0 }, b'\n') => Next::Trailer { begun: false },
            (Next::SizeEnd { size }, b'\n') => Next::Data { left: size },
            (Next::DataReturn, b'\r') => Next::DataEnd,
            (Next::DataEnd, b'\n') => Next::Size { size: 0, digits: 0 },
            (Next::Trailer { begun }, b'\r') => Next::TrailerEnd { begun },
            (Next::Trailer { .. }, byte) if byte != b'\n' => {
                self.ignore()?;
                Next::Trailer { begun: true }
            }
            (Next::TrailerEnd { begun: true }, b'\n') => Next::Trailer { begun: false },
            (Next::TrailerEnd { begun: false }, b'\n') => Next::Nothing,
            _ => return Err(Malformed),
        })
    }

    fn ignore(&mut self) -> Result<(), Malformed> {
        self.ignored += 1;
        if self.ignored > IGNORED_LIMIT { Err(Malformed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body of what is read in these pieces, whether it is done, and what is left over.
    fn decoded(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
        let (taken, taken_until) = read(framing.clone(), pieces, false);
        let (compacted, compacted_until) = read(framing, pieces, true);
        assert_eq!((&taken, &taken_until), (&compacted, &compacted_until));
        taken_until.map(|(is_done, left)| (taken, is_done, left))
    }

    type Until = Result<(bool, Vec<u8>), Malformed>;

    /// The body as far as it can be read, moved to the front or in pieces, and how it ends.
    fn read(mut framing: Framing, pieces: &[&[u8]], compacts: bool) -> (Vec<u8>, Until) {
        let (mut body, mut left) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            if compacts {
                let Compacted { body: length, seen } = framing.compact(&mut piece);
                body.extend_from_slice(&piece[..length]);
                piece.drain(..seen);
            }
            let mut read = Bytes::from(piece);
            loop {
                match framing.take(&mut read) {
                    Ok(Some(data)) => body.extend_from_slice(&data),
                    Ok(None) => break,
                    Err(error) => return (body, Err(error)),
                }
            }
            left.extend_from_slice(&read);
        }
        (body, Ok((framing.is_done(), left)))
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        assert_eq!(decoded(Framing::length(4), &[b"ab", b"cdef"]), Ok((b"abcd".to_vec(), true, b"ef".to_vec())));
        assert_eq!(decoded(Framing::length(4), &[b"ab"]), Ok((b"ab".to_vec(), false, vec![])));
        assert_eq!(decoded(Framing::length(0), &[b"x"]), Ok((vec![], true, b"x".to_vec())));
        assert_eq!(decoded(Framing::until_close(), &[b"ab", b"c"]), Ok((b"abc".to_vec(), false, vec![])));
    }

    #[test]
    fn chunks_may_have_extensions_and_trailers_which_nobody_reads() {
        let text = b"4;name=\"a;b\"\r\nabcd\r\n00A\t\r\n0123456789\r\n0 ;x\r\nTrailer: y\r\nOther: z\r\n\r\nmore";
        assert_eq!(decoded(Framing::chunked(), &[text]), Ok((b"abcd0123456789".to_vec(), true, b"more".to_vec())));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x4\r\n",
            "1\nA",
            "1\r\nAB",
            "1\r\nA\n",
            "1\r\r\nA\r\n",
            "12345678901234567\r\n",
            "1;a\nA\r\n",
            "0\r\n\n",
            "0\r\na\nb\r\n\r\n",
        ] {
            assert_eq!(decoded(Framing::chunked(), &[text.as_bytes()]), Err(Malformed), "{text:?}");
        }
        let extension = format!("1;{}", "x".repeat(IGNORED_LIMIT as usize + 1));
        let trailer = format!("0\r\n{}", "x".repeat(IGNORED_LIMIT as usize + 1));
        for text in [extension, trailer] {
            assert_eq!(decoded(Framing::chunked(), &[text.as_bytes()]), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_the_body_is_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(0_usize..400, 0..12),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decoded(Framing::chunked(), &pieces), Ok((chunks.concat(), true, vec![])));
        }
    }
}
