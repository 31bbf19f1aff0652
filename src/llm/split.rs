//! Events out of network chunks that may end anywhere; what ends one is up to the framing.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// An event longer than this is passed on unread. The last event of a streamed response repeats the whole answer, images included.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// Finds the end of the first event in some bytes.
pub type End = fn(&[u8]) -> Option<usize>;

/// What has to be looked at to find an event's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsBy {
    /// The event's beginning, which says how long it is.
    Length,
    /// So many bytes at most, wherever they stand.
    Mark(usize),
}

/// What of an event goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    All,
    /// All but these of its bytes.
    Without(Range<usize>),
    Nothing,
}

/// Cuts a stream into events, each with what ends it.
#[derive(Debug)]
pub struct Splitter {
    end: End,
    by: EndsBy,
    /// The beginning of an event whose end has not arrived.
    begun: BytesMut,
    /// Set once an event was too long: from there on nothing is cut any more.
    overflowed: bool,
}

impl Splitter {
    pub fn new(end: End, by: EndsBy) -> Splitter {
        Splitter { end, by, begun: BytesMut::new(), overflowed: false }
    }

    /// Shows the events that `chunk` completes to `look`, in order, and returns what it says is visible of them. Nothing is copied of what
    /// lies side by side.
    ///
    /// What has begun is neither copied nor searched again, so that a long event takes no longer for coming in many chunks.
    pub fn push(&mut self, chunk: &Bytes, mut look: impl FnMut(&[u8]) -> Visible) -> Bytes {
        if self.overflowed {
            return Bytes::new();
        }
        let joined;
        let all = if self.begun.is_empty() {
            chunk
        } else {
            let unsearched = match self.by {
                EndsBy::Length => 0,
                EndsBy::Mark(bytes) => self.begun.len().saturating_sub(bytes - 1),
            };
            self.begun.extend_from_slice(chunk);
            if (self.end)(&self.begun[unsearched..]).is_none() {
                self.overflowed = self.begun.len() > MAX_EVENT_BYTES;
                return Bytes::new();
            }
            joined = self.begun.split().freeze();
            &joined
        };
        let (mut visible, mut at) = (Parts::of(all), 0);
        while let Some(length) = (self.end)(&all[at..]) {
            let end = at + length;
            match look(&all[at..end]) {
                Visible::All => visible.add(at..end),
                Visible::Without(hidden) => {
                    visible.add(at..at + hidden.start);
                    visible.add(at + hidden.end..end);
                }
                Visible::Nothing => {}
            }
            at = end;
        }
        let rest = &all[at..];
        self.overflowed = rest.len() > MAX_EVENT_BYTES;
        self.begun.extend_from_slice(rest);
        visible.together()
    }

    /// True when an event was too long to be read.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// What is left of a stream that ended within an event, or of an event that was too long.
    pub fn take_rest(&mut self) -> Bytes {
        self.begun.split().freeze()
    }
}

/// Parts of some bytes, in their order.
struct Parts<'a> {
    all: &'a Bytes,
    /// Copies of those before the last.
    copied: Vec<u8>,
    last: Range<usize>,
}

impl Parts<'_> {
    fn of(all: &Bytes) -> Parts<'_> {
        Parts { all, copied: Vec::new(), last: 0..0 }
    }

    fn add(&mut self, part: Range<usize>) {
        if part.start == self.last.end {
            self.last.end = part.end;
            return;
        }
        if self.copied.capacity() == 0 {
            // Mostly this is the only gap; memory that is full at the end is kept as it is.
            self.copied.reserve_exact(self.all.len() - (part.start - self.last.end));
        }
        self.copied.extend_from_slice(&self.all[self.last.clone()]);
        self.last = part;
    }

    fn together(mut self) -> Bytes {
        if self.copied.is_empty() {
            return self.all.slice(self.last);
        }
        self.copied.extend_from_slice(&self.all[self.last]);
        self.copied.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::llm::sse;

    /// Lines as events: `-` at the beginning hides one, and what is between brackets is hidden.
    fn look(event: &[u8]) -> Visible {
        let place = |byte| event.iter().position(|found| *found == byte);
        match (event, place(b'('), place(b')')) {
            ([b'-', ..], ..) => Visible::Nothing,
            (_, Some(begin), Some(end)) if begin < end => Visible::Without(begin..end + 1),
            _ => Visible::All,
        }
    }

    fn visible(splitter: &mut Splitter, chunks: &[&[u8]]) -> Vec<u8> {
        let mut seen: Vec<u8> = chunks.iter().flat_map(|chunk| splitter.push(&Bytes::copy_from_slice(chunk), look)).collect();
        seen.extend_from_slice(&splitter.take_rest());
        seen
    }

    fn lines() -> Splitter {
        Splitter::new(sse::end_of_line, EndsBy::Mark(1))
    }

    #[test]
    fn what_is_hidden_is_missing_and_nothing_else() {
        for (text, expected) in [
            ("", ""),
            ("a\nb\n", "a\nb\n"),
            ("-a\nb\n", "b\n"),
            ("a\n-b\n", "a\n"),
            ("a\n-b\nc\n", "a\nc\n"),
            ("-a\n-b\n", ""),
            ("(a)b\n", "b\n"),
            ("a(b)c\nd(e)\nrest", "ac\nd\nrest"),
            ("(a\n)\n", "(a\n)\n"),
        ] {
            assert_eq!(visible(&mut lines(), &[text.as_bytes()]), expected.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn what_lies_side_by_side_is_not_copied() {
        let chunk = Bytes::from_static(b"-a\nb\nc\n-d\nrest");
        let seen = lines().push(&chunk, look);
        assert_eq!(seen, "b\nc\n");
        assert_eq!(seen.as_ptr(), chunk[3..].as_ptr());
    }

    #[test]
    fn an_event_that_is_too_long_is_given_back_and_nothing_is_cut_after_it() {
        let mut splitter = lines();
        let half = Bytes::from(vec![b'x'; MAX_EVENT_BYTES / 2 + 1]);
        assert!(splitter.push(&half, look).is_empty() && !splitter.overflowed());
        assert!(splitter.push(&half, look).is_empty() && splitter.overflowed());
        assert_eq!(splitter.take_rest().len(), 2 * half.len());
        assert!(splitter.push(&Bytes::from_static(b"a\n"), |_| panic!("it is not cut")).is_empty());
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_the_same_is_visible(text in "[-ab()\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..6)) {
            let whole = visible(&mut lines(), &[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(visible(&mut lines(), &chunks), whole);
        }
    }
}
