//! A text in several places: a large request in which little is changed is sent from where it is.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in order, none of whose pieces is empty.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    first: Bytes,
    /// Empty where one piece is all.
    rest: VecDeque<Bytes>,
}

impl Pieces {
    /// All of it in one piece; copied if it is not.
    pub fn into_whole(mut self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.remaining());
        while let Some(piece) = self.pop() {
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let next = self.rest.pop_front().unwrap_or_default();
        Some(std::mem::replace(&mut self.first, next)).filter(|piece| !piece.is_empty())
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Pieces {
        Pieces { first: whole, rest: VecDeque::new() }
    }
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Pieces {
        let mut rest: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Pieces { first: rest.pop_front().unwrap_or_default(), rest }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.rest.iter().fold(self.first.len(), |sum, piece| sum + piece.len())
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = std::iter::once(&self.first).filter(|piece| !piece.is_empty()).chain(&self.rest);
        slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        while count >= self.first.len() && !self.rest.is_empty() {
            count -= self.first.len();
            self.pop();
        }
        self.first.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_what_they_are_together(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 0..6),
            steps in proptest::collection::vec(0_usize..9, 0..9),
        ) {
            let whole = pieces.concat();
            let mut cut: Pieces = pieces.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(&cut.clone().into_whole()[..], &whole[..]);
            let mut left = &whole[..];
            for step in steps {
                let step = step.min(left.len());
                cut.advance(step);
                left = &left[step..];
                prop_assert_eq!(cut.remaining(), left.len());
                let mut slices = [IoSlice::new(&[]); 8];
                let used = cut.chunks_vectored(&mut slices);
                prop_assert_eq!(slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>(), left);
                prop_assert!(slices[..used].iter().all(|slice| !slice.is_empty()));
                prop_assert_eq!(cut.has_remaining(), !left.is_empty());
            }
            prop_assert_eq!(&cut.into_whole()[..], left);
        }
    }
}
