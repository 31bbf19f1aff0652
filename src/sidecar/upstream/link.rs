//! One connection to a server, driven by the call that uses it.
//!
//! It has no task of its own: whoever waits for an answer, or for the next piece of one, also reads the socket. A call so costs no
//! hops between tasks and threads, and events that arrive together leave together. While nobody polls an answer, nothing of
//! its connection moves, the rest of the request's body included.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};

use super::UpstreamBody;
use super::connect::Socket;
use super::idle::{Idle, Place};

/// A connection.
pub struct Link {
    sender: SendRequest<UpstreamBody>,
    /// `None` once it is closed.
    connection: Option<Pin<Box<Connection<Socket, UpstreamBody>>>>,
}

impl Link {
    pub async fn open(socket: Socket) -> Result<Link, hyper::Error> {
        let (sender, connection) = handshake(socket).await?;
        Ok(Link { sender, connection: Some(Box::pin(connection)) })
    }

    /// Sends a request; ready when the answer's head is there. The error has the request when nothing of it was sent.
    pub async fn send(&mut self, request: Request<UpstreamBody>) -> Result<Response<Incoming>, TrySendError<Request<UpstreamBody>>> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        std::future::poll_fn(|context| {
            drive(&mut self.connection, context);
            answer.as_mut().poll(context)
        })
        .await
    }

    /// True when nothing is under way and the server has not closed it. Nobody is woken for it from here on.
    pub fn is_idle(&mut self) -> bool {
        drive(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Reads and writes what can be. How a connection ended is told by the answer that it carried.
fn drive(connection: &mut Option<Pin<Box<Connection<Socket, UpstreamBody>>>>, context: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(context).is_ready()) {
        *connection = None;
    }
}

/// The body of an answer. When all of it was read, its connection is free for the next call.
pub struct Answer {
    body: Incoming,
    /// A connection of its own, until it is given back.
    own: Option<(Link, Arc<Idle>, Place)>,
    /// The place on a connection that is shared.
    _shared: Option<Arc<()>>,
}

impl Answer {
    pub fn own(body: Incoming, link: Link, idle: Arc<Idle>, place: Place) -> Answer {
        Answer { body, own: Some((link, idle, place)), _shared: None }
    }

    pub fn shared(body: Incoming, place_taken: Arc<()>) -> Answer {
        Answer { body, own: None, _shared: Some(place_taken) }
    }

    fn give_back(&mut self) {
        if let Some((link, idle, place)) = self.own.take() {
            idle.put(&place, link);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.body).poll_frame(context);
        if frame.is_pending()
            && let Some((link, _, _)) = &mut this.own
        {
            drive(&mut link.connection, context);
            frame = Pin::new(&mut this.body).poll_frame(context);
        }
        if matches!(frame, Poll::Ready(None)) {
            this.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Where the length is known, nobody asks for what comes after the last byte.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}
