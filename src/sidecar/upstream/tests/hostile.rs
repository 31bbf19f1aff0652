//! Servers that do what servers seldom do, or never should.

use std::time::Duration;

use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::*;

/// What happens when a server reads a call and writes this, in pieces, and then closes the connection.
async fn answered(pieces: Vec<Vec<u8>>) -> Result<Vec<u8>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        for piece in pieces {
            // Whoever has heard enough closes it.
            if stream.write_all(&piece).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let upstream = Upstream::new(None).unwrap();
    let caller = async {
        let answer = upstream.send(request(address)).await.map_err(|error| crate::sidecar::forward::with_causes(&error))?;
        let body = answer.into_body().collect().await.map_err(|error| crate::sidecar::forward::with_causes(&*error))?;
        Ok(body.to_bytes().to_vec())
    };
    tokio::join!(caller, server).0
}

fn pieces(text: &str, length: usize) -> Vec<Vec<u8>> {
    text.as_bytes().chunks(length).map(<[u8]>::to_vec).collect()
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte_after_interim_ones_or_end_with_its_connection() {
    let large = "x".repeat(300_000);
    for (text, expected) in [
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), "ok"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x\r\nk\r\n0\r\nt: 1\r\n\r\n".to_owned(), "ok"),
        ("HTTP/1.0 200 OK\r\n\r\nok".to_owned(), "ok"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{large}", large.len()), &large),
        (format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len()), &large),
        (format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "y".repeat(40_000)), "ok"),
    ] {
        for length in [1, 7, 5_000, usize::MAX].into_iter().filter(|length| text.len() / length < 100_000) {
            assert_eq!(answered(pieces(&text, length)).await.unwrap(), expected.as_bytes(), "{length}");
        }
    }
}

#[tokio::test]
async fn what_is_no_whole_answer_is_an_error_that_says_why() {
    for (text, reason) in [
        ("HTTP/1.1 200 OK\r\ncontent-le", "closed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", "closed"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "closed"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n", "chunks"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", "two lengths"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "another protocol"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
    ] {
        let error = answered(pieces(text, 9)).await.unwrap_err();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    let endless = vec![b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(20_000)];
    assert!(answered(endless).await.unwrap_err().contains("larger than"));
}

#[tokio::test]
async fn a_connection_on_which_something_was_sent_unasked_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::new(None).unwrap();
    let stale = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale";
    let mut held = Vec::new();
    for asked in [[ANSWER, stale].concat(), ANSWER.to_vec()] {
        let (answer, stream) = tokio::join!(upstream.send(request(address)), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream).await;
            stream.write_all(&asked).await.unwrap();
            stream
        });
        assert_eq!(text(answer.unwrap()).await, "ok");
        held.push(stream);
    }
}

/// Callers' bodies come from a server; one that streams is had by being sent to one.
async fn streamed(pieces: Vec<&'static str>, length: Option<u64>) -> (CallerBody, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (give, given) = tokio::sync::oneshot::channel();
    let give = std::sync::Mutex::new(Some(give));
    let server = tokio::spawn(async move {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            if let Some(give) = give.lock().unwrap().take() {
                let _ = give.send(request.into_body());
            }
            std::future::pending::<Result<Response<String>, std::convert::Infallible>>()
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).await;
    });
    let frames = futures::stream::iter(pieces).map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece.as_bytes()))));
    let mut request = Request::post("/").body(StreamBody::new(frames)).unwrap();
    if let Some(length) = length {
        request.headers_mut().insert("content-length", length.into());
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection);
    tokio::spawn(async move { sender.send_request(request).await });
    (CallerBody::Multiplexed(given.await.unwrap()), server)
}

#[tokio::test]
async fn a_body_that_streams_goes_on_as_it_comes_with_its_length_or_in_chunks() {
    for (length, framed, body) in
        [(Some(5), "content-length: 5", "hello"), (None, "transfer-encoding: chunked", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")]
    {
        let (stream, _server) = streamed(vec!["he", "llo"], length).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request = Request::post(format!("http://{address}/v1/files")).body(UpstreamBody::Streamed(stream)).unwrap();
        let upstream = Upstream::new(None).unwrap();
        let (answer, sent) = tokio::join!(upstream.send(request), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = Vec::new();
            while !sent.ends_with(b"llo\r\n0\r\n\r\n") && !sent.ends_with(b"hello") {
                assert!(stream.read_buf(&mut sent).await.unwrap() > 0, "the client closed");
            }
            stream.write_all(ANSWER).await.unwrap();
            String::from_utf8(sent).unwrap()
        });
        assert_eq!(text(answer.unwrap()).await, "ok");
        let (head, sent) = sent.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains(framed), "{head}");
        // Two pieces may come as one.
        assert!(sent == body || sent == "5\r\nhello\r\n0\r\n\r\n", "{sent:?}");
    }
}

#[tokio::test]
async fn a_server_may_answer_before_it_has_read_all_and_close_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // More than fits into what lies between two sockets.
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    let request = Request::post(format!("http://{address}/")).body(UpstreamBody::Whole(large.into())).unwrap();
    let upstream = Upstream::new(None).unwrap();
    let (answer, _stream) = tokio::join!(upstream.send(request), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await.unwrap();
        stream
    });
    let answer = tokio::time::timeout(Duration::from_secs(20), answer.unwrap().into_body().collect()).await.unwrap();
    assert_eq!(answer.unwrap().to_bytes(), "no");
}
