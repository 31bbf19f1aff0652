//! A JSON array that arrives element by element.

use bytes::Bytes;

/// Not read yet.
#[derive(Debug, Default)]
pub struct Elements {}

impl Elements {
    /// The elements that `chunk` completes.
    pub fn push(&mut self, _: &Bytes) -> Vec<Bytes> {
        Vec::new()
    }

    pub fn overflowed(&self) -> bool {
        false
    }
}
