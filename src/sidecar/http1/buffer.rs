//! What a thread reads into: a few buffers for all of its connections, so that one that waits has none.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// For how long what was read is held.
#[derive(Clone, Copy, Debug)]
pub enum Held {
    /// Until it is passed on.
    Briefly,
    /// Until a provider answers.
    Long,
}

impl Held {
    /// A read that filled so much of a buffer takes its part away; of less a copy is cheaper, or holds less memory.
    const fn large(self) -> usize {
        match self {
            Held::Briefly => 4 << 10,
            Held::Long => READ / 2,
        }
    }
}

/// Buffers of which parts were taken away that a thread keeps, to read into them again when nothing of them is held any more: one for each
/// of as many large requests at once. The system gives memory that it has just had back more slowly than the reading takes.
const KEPT: usize = 4;

thread_local! {
    /// The one that was used last is the first.
    static BUFFERS: RefCell<VecDeque<BytesMut>> = RefCell::default();
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
pub fn read<S: AsyncRead + Unpin>(socket: &mut S, context: &mut Context<'_>, held: Held) -> Poll<io::Result<Bytes>> {
    filled(socket, context, |buffer| match buffer.len() < held.large() {
        true => Bytes::copy_from_slice(buffer),
        false => buffer.split().freeze(),
    })
}

fn filled<S: AsyncRead + Unpin, T>(
    socket: &mut S,
    context: &mut Context<'_>,
    take: impl FnOnce(&mut BytesMut) -> T,
) -> Poll<io::Result<T>> {
    BUFFERS.with_borrow_mut(|buffers| {
        let mut buffer = free(buffers);
        // It has no state: it is made anew whenever it is polled.
        let read = pin!(socket.read_buf(&mut buffer)).poll(context);
        let taken = read.map_ok(|_| take(&mut buffer));
        buffers.push_front(buffer);
        taken
    })
}

/// The first buffer nothing of which is held, or a new one.
fn free(buffers: &mut VecDeque<BytesMut>) -> BytesMut {
    for _ in 0..buffers.len() {
        let Some(mut buffer) = buffers.pop_front() else { break };
        buffer.clear();
        if buffer.capacity() >= READ || buffer.try_reclaim(READ) {
            return buffer;
        }
        buffers.push_back(buffer);
    }
    buffers.truncate(KEPT - 1);
    BytesMut::with_capacity(READ)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_is_small_is_copied_and_what_is_large_is_not_and_neither_changes_afterwards() {
        let mut context = Context::from_waker(Waker::noop());
        const LARGE: usize = Held::Briefly.large();
        let texts = [vec![b'a'; LARGE - 1], vec![b'b'; LARGE], vec![b'c'; READ], vec![b'd'; 5]];
        let mut kept = Vec::new();
        for text in &texts {
            let Poll::Ready(Ok(bytes)) = read(&mut &text[..], &mut context, Held::Briefly) else { panic!("a slice is always ready") };
            kept.push(bytes);
            let Poll::Ready(Ok(length)) = lend(&mut &[b'x'; 100][..], &mut context, <[u8]>::len) else { panic!("a slice is always ready") };
            assert_eq!(length, 100);
        }
        assert_eq!(kept, texts);
        assert!(matches!(read(&mut &[][..], &mut context, Held::Long), Poll::Ready(Ok(end)) if end.is_empty()));
    }
    #[test]
    fn buffers_are_read_into_again_when_nothing_of_them_is_held() {
        let mut context = Context::from_waker(Waker::noop());
        let mut large = || match read(&mut &[b'x'; Held::Long.large()][..], &mut context, Held::Long) {
            Poll::Ready(Ok(bytes)) => bytes,
            _ => panic!("a slice is always ready"),
        };
        let held = [large(), large(), large()];
        let before: Vec<_> = held.iter().map(|bytes| bytes.as_ptr()).collect();
        drop(held);
        let again = [large(), large(), large()];
        assert!(again.iter().all(|bytes| before.contains(&bytes.as_ptr())));
        // However many are held, a few are kept.
        let held: Vec<_> = (0..20).map(|_| large()).collect();
        BUFFERS.with_borrow(|buffers| assert!(buffers.len() <= KEPT, "{}", buffers.len()));
        assert!(held.iter().all(|bytes| bytes.iter().all(|byte| *byte == b'x')));
    }
}
