mod hostile;
mod tls;

use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

fn request(address: std::net::SocketAddr) -> Request<UpstreamBody> {
    Request::post(format!("http://{address}/v1/x?y=1")).body(UpstreamBody::Whole(Bytes::from("{}").into())).unwrap()
}

/// Reads one request and returns it.
async fn read(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"{}") {
        assert!(stream.read_buf(&mut request).await.unwrap() > 0, "the client closed");
    }
    String::from_utf8(request).unwrap()
}

async fn text(answer: Response<Answer>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = String::new();
        for answer in [ANSWER, CHUNKED, ANSWER] {
            first = read(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        }
        first
    });
    let upstream = Upstream::new(None).unwrap();
    for _ in 0..3 {
        assert_eq!(text(upstream.send(request(address)).await.unwrap()).await, "ok");
    }
    let request = server.await.unwrap().to_lowercase();
    assert!(request.starts_with("post /v1/x?y=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
}

#[tokio::test]
async fn a_call_is_sent_anew_when_its_connection_was_closed_while_it_was_idle() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
        }
    });
    let upstream = Upstream::new(None).unwrap();
    for _ in 0..20 {
        assert_eq!(text(upstream.send(request(address)).await.unwrap()).await, "ok");
    }
}

#[tokio::test]
async fn an_answer_that_is_given_up_does_not_leave_its_rest_to_the_next_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::new(None).unwrap();
    let (given_up, first) = (upstream.send(request(address)), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
        stream
    });
    let (answer, _stream) = tokio::join!(given_up, first);
    drop(answer.unwrap());
    let (answer, ()) = tokio::join!(upstream.send(request(address)), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
        stream.write_all(ANSWER).await.unwrap();
    });
    assert_eq!(text(answer.unwrap()).await, "ok");
}

#[tokio::test]
async fn it_is_told_whether_anything_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::new(None).unwrap();
    let (answer, ()) = tokio::join!(upstream.send(request(address)), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream).await;
    });
    assert!(matches!(answer, Err(SendError::Broken(_))));
    drop(listener);
    assert!(matches!(upstream.send(request(address)).await, Err(SendError::Connect(_))));
}

#[test]
fn the_host_has_a_port_where_it_is_not_the_schemes_own() {
    for (uri, expected) in [
        ("https://h", "h"),
        ("https://h:443", "h"),
        ("http://h:443", "h:443"),
        ("http://h:80", "h"),
        ("https://[::1]:8443", "[::1]:8443"),
        ("http://user@h:80", "h"),
        ("http://user:word@h:81", "h:81"),
    ] {
        let parts = uri.parse::<Uri>().unwrap().into_parts();
        assert_eq!(Place::here(parts.scheme.unwrap(), parts.authority.unwrap()).host(), expected);
    }
}
