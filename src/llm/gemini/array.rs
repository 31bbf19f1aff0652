//! A JSON array that arrives element by element: how Gemini streams to a caller that did not ask for server-sent events.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// An element longer than this is not read, and none after it: no provider sends one, and nothing is held back for it.
const MAX_ELEMENT_BYTES: usize = 1 << 20;

/// Cuts an array into its elements. Each byte is looked at once, and only an element that has begun is kept.
///
/// A body that is no array but an object (an error) is one element. Bare numbers and words are no events, and are passed over.
#[derive(Debug, Default)]
pub struct Elements {
    place: Place,
    /// The beginning of an element whose end has not arrived.
    begun: BytesMut,
    /// Set once an element was too long: from there on nothing is cut any more.
    overflowed: bool,
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the array's bracket.
    #[default]
    Before,
    /// In the array, before an element or the end.
    Between,
    /// In an element, within so many objects and lists of it; `listed` in an array.
    Within { depth: u32, text: Text, listed: bool },
    /// After the array's end.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

impl Elements {
    /// The elements that `chunk` completes, in order. They share the chunk's memory where they lie in it whole.
    pub fn push(&mut self, chunk: &Bytes) -> Vec<Bytes> {
        let mut elements = Vec::new();
        if self.overflowed {
            return elements;
        }
        // Where an element begins in this chunk: at its start, unless it began there.
        let (mut start, mut at) = (0, 0);
        while at < chunk.len() {
            let (place, read) = self.place.next(&chunk[at..]);
            match (self.place.is_element(), place.is_element()) {
                (false, true) => start = at,
                (true, false) => elements.push(self.finish(chunk.slice(start..at + read))),
                _ => {}
            }
            self.place = place;
            at += read;
        }
        if self.place.is_element() {
            self.begun.extend_from_slice(&chunk[start..]);
        }
        if self.begun.len() > MAX_ELEMENT_BYTES {
            (self.overflowed, self.begun) = (true, BytesMut::new());
        }
        elements
    }

    fn finish(&mut self, end: Bytes) -> Bytes {
        if self.begun.is_empty() {
            return end;
        }
        self.begun.extend_from_slice(&end);
        self.begun.split().freeze()
    }

    /// True when an element was too long to be read.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }
}

impl Place {
    fn is_element(self) -> bool {
        matches!(self, Place::Within { .. })
    }

    /// The place after some of `bytes`, which are not empty, and how many that are.
    fn next(self, bytes: &[u8]) -> (Place, usize) {
        let within = |depth, text, listed| Place::Within { depth, text, listed };
        let place = match (self, bytes[0]) {
            (Place::Before, b'[') => Place::Between,
            (Place::Before, b'{') => within(1, Text::Outside, false),
            (Place::Between, b'{' | b'[') => within(1, Text::Outside, true),
            (Place::Between, b'"') => within(0, Text::Inside, true),
            (Place::Between, b']') => Place::After,
            (Place::Within { depth, text: Text::Escaped, listed }, _) => within(depth, Text::Inside, listed),
            (Place::Within { depth, text: Text::Inside, listed }, _) => match memchr2(b'"', b'\\', bytes) {
                None => return (self, bytes.len()),
                Some(at) if bytes[at] == b'\\' => return (within(depth, Text::Escaped, listed), at + 1),
                Some(at) => return (Place::outside(depth, listed), at + 1),
            },
            (Place::Within { depth, text: Text::Outside, listed }, byte) => match byte {
                b'"' => within(depth, Text::Inside, listed),
                b'{' | b'[' => within(depth.saturating_add(1), Text::Outside, listed),
                b'}' | b']' => Place::outside(depth.saturating_sub(1), listed),
                _ => self,
            },
            _ => self,
        };
        (place, 1)
    }

    /// After a string, object or list that may be the element itself.
    fn outside(depth: u32, listed: bool) -> Place {
        match (depth, listed) {
            (0, true) => Place::Between,
            (0, false) => Place::After,
            _ => Place::Within { depth, text: Text::Outside, listed },
        }
    }
}
