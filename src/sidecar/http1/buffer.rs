//! What a thread reads into: one buffer for all of its connections, so that one that waits has none.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// A read that filled so much of it takes its part of the buffer away; of less a copy is cheaper, and holds nothing else.
pub const LARGE: usize = 4 << 10;

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// Shows what could be read to `take`; nothing at the end of a connection.
///
/// # Errors
/// When the connection cannot be read.
pub fn lend<S: AsyncRead + Unpin, T>(socket: &mut S, context: &mut Context<'_>, take: impl FnOnce(&[u8]) -> T) -> Poll<io::Result<T>> {
    filled(socket, context, |buffer| take(buffer))
}

/// Reads what is there; nothing at the end of a connection.
///
/// # Errors
/// When the connection cannot be read.
pub fn read<S: AsyncRead + Unpin>(socket: &mut S, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    filled(socket, context, |buffer| match buffer.len() < LARGE {
        true => Bytes::copy_from_slice(buffer),
        false => buffer.split().freeze(),
    })
}

/// Shows the buffer to `take`, which may take away of it, when something was read into it; empty at the end of a connection.
///
/// # Errors
/// When the connection cannot be read.
pub fn filled<S: AsyncRead + Unpin, T>(
    socket: &mut S,
    context: &mut Context<'_>,
    take: impl FnOnce(&mut BytesMut) -> T,
) -> Poll<io::Result<T>> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        // Of what was taken away, the room is used again when nothing of it is held any more.
        buffer.reserve(READ);
        // It has no state: it is made anew whenever it is polled.
        ready!(pin!(socket.read_buf(buffer)).poll(context))?;
        Poll::Ready(Ok(take(buffer)))
    })
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_is_small_is_copied_and_what_is_large_is_not_and_neither_changes_afterwards() {
        let mut context = Context::from_waker(Waker::noop());
        let texts = [vec![b'a'; LARGE - 1], vec![b'b'; LARGE], vec![b'c'; READ], vec![b'd'; 5]];
        let mut kept = Vec::new();
        for text in &texts {
            let Poll::Ready(Ok(bytes)) = read(&mut &text[..], &mut context) else { panic!("a slice is always ready") };
            kept.push(bytes);
            let Poll::Ready(Ok(length)) = lend(&mut &[b'x'; 100][..], &mut context, <[u8]>::len) else { panic!("a slice is always ready") };
            assert_eq!(length, 100);
        }
        assert_eq!(kept, texts);
        assert!(matches!(read(&mut &[][..], &mut context), Poll::Ready(Ok(end)) if end.is_empty()));
    }
}
