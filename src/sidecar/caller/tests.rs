//! Callers that do what callers seldom do, or never should.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::*;

/// A served connection, from the caller's side.
struct Bench {
    caller: TcpStream,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

impl Bench {
    async fn start<F>(handle: impl Fn(Request<CallerBody>) -> F + Send + Sync + 'static) -> Bench
    where
        F: Future<Output = Response<ProxyBody>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        caller.set_nodelay(true).unwrap();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let served = tokio::spawn(async move { serve(stream, &stopping, handle).await });
        Bench { caller, stop, served }
    }

    /// One that answers with the method, the path and the body of each request.
    async fn echoing() -> Bench {
        Bench::start(async |request: Request<CallerBody>| {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_else(|error| error.to_string().into());
            let text = format!("{} {} {}", parts.method, parts.uri, String::from_utf8_lossy(&body));
            Response::new(ProxyBody::whole(text))
        })
        .await
    }

    async fn says(&mut self, text: &str) {
        self.caller.write_all(text.as_bytes()).await.unwrap();
    }

    /// What is answered until it ends with `end`.
    async fn hears(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            let read = self.caller.read_buf(&mut heard).await.unwrap();
            assert!(read > 0, "the connection was closed after {:?}", String::from_utf8_lossy(&heard));
        }
        String::from_utf8(heard).unwrap()
    }

    /// All that is answered until the connection is closed.
    async fn hears_all(&mut self) -> String {
        let mut heard = Vec::new();
        self.caller.read_to_end(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap()
    }
}

const CHUNKED: &str = "POST /b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nt: 1\r\n\r\n";

#[tokio::test]
async fn requests_follow_each_other_however_they_are_cut() {
    let long = "x".repeat(200_000);
    let requests = [
        ("GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(), "GET /a?b ".to_owned()),
        (CHUNKED.to_owned(), "POST /b hello".to_owned()),
        ("\r\nPOST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".to_owned(), "POST /c hello".to_owned()),
        (format!("PUT /d HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{long}", long.len()), format!("PUT /d {long}")),
    ];
    let mut bench = Bench::echoing().await;
    for size in [1, 7, 4_000, usize::MAX] {
        for (request, answer) in requests.iter().filter(|(request, _)| request.len() / size < 10_000) {
            for piece in request.as_bytes().chunks(size) {
                bench.caller.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let heard = bench.hears(answer).await;
            assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
            assert!(heard.contains(&format!("\r\ncontent-length: {}\r\n", answer.len())), "{}", &heard[..200]);
        }
    }
    // All at once, too.
    bench.says(&requests.iter().map(|(request, _)| request.as_str()).collect::<String>()).await;
    let heard = bench.hears(&requests[3].1).await;
    let at = requests.iter().map(|(_, answer)| heard.find(answer).unwrap()).collect::<Vec<_>>();
    assert!(at.is_sorted(), "{at:?}");
}

#[tokio::test]
async fn a_caller_that_waits_for_a_word_gets_it_when_its_body_is_wanted() {
    let mut bench = Bench::echoing().await;
    bench.says("POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(bench.hears("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    bench.says("ok").await;
    assert!(bench.hears("POST /a ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    // Of one that nobody wants it hears only what that is answered with.
    let mut bench = Bench::start(async |_: Request<CallerBody>| plain_error(StatusCode::PAYLOAD_TOO_LARGE, "large", "no")).await;
    bench.says("POST /a HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    let heard = bench.hears("}}").await;
    assert!(heard.starts_with("HTTP/1.1 413") && heard.contains("connection: close"), "{heard}");
}

#[tokio::test]
async fn a_caller_reads_why_it_is_refused_though_it_still_sends() {
    let mut bench = Bench::start(async |_: Request<CallerBody>| plain_error(StatusCode::PAYLOAD_TOO_LARGE, "large", "no")).await;
    let body = "x".repeat(20 << 20);
    bench.says(&format!("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    bench.says(&body).await;
    let heard = bench.hears_all().await;
    assert!(heard.starts_with("HTTP/1.1 413") && heard.ends_with("}}"), "{heard}");
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_ends_the_connection() {
    for (text, status) in [
        ("not http\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/3.0\r\nhost: h\r\n\r\n".to_owned(), "505"),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)), "431"),
        (format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}", "y".repeat(1 << 20)), "431"),
    ] {
        let mut bench = Bench::echoing().await;
        bench.says(&text).await;
        bench.caller.shutdown().await.unwrap();
        let heard = bench.hears_all().await;
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}")) && heard.contains("connection: close"), "{heard}");
    }
    // A body that is none breaks off: what follows is not a request.
    let mut bench = Bench::echoing().await;
    bench.says("POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nx\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n").await;
    bench.caller.shutdown().await.unwrap();
    let heard = bench.hears_all().await;
    assert!(!heard.contains("GET /b"), "{heard}");
}

#[tokio::test]
async fn a_call_is_dropped_when_its_caller_hangs_up() {
    struct Tell(Option<oneshot::Sender<()>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.take().map(|tell| tell.send(()));
        }
    }
    let (tell, told) = oneshot::channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let bench = Bench::start(move |_| {
        let guard = Tell(tell.lock().unwrap().take());
        begin.send(()).unwrap();
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Response::new(ProxyBody::whole(""))
        }
    })
    .await;
    let Bench { mut caller, served, .. } = bench;
    caller.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    begun.recv().await.unwrap();
    drop(caller);
    told.await.unwrap();
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_ends_when_it_is_to_and_a_call_is_answered_first() {
    let mut bench = Bench::echoing().await;
    bench.says("GET /a HTTP/1.1\r\nhost: h\r\n\r\n").await;
    bench.hears("GET /a ").await;
    bench.stop.cancel();
    assert_eq!(bench.hears_all().await, "");
    bench.served.await.unwrap().unwrap();

    let (go, gone) = oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    let (begin, mut begun) = mpsc::unbounded_channel();
    let mut bench = Bench::start(move |_| {
        let gone = gone.lock().unwrap().take();
        begin.send(()).unwrap();
        async move {
            gone.unwrap().await.unwrap();
            Response::new(ProxyBody::whole("late"))
        }
    })
    .await;
    bench.says("GET /a HTTP/1.1\r\nhost: h\r\n\r\n").await;
    begun.recv().await.unwrap();
    bench.stop.cancel();
    go.send(()).unwrap();
    let heard = bench.hears_all().await;
    assert!(heard.contains("connection: close") && heard.ends_with("late"), "{heard}");
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn old_callers_and_those_that_ask_for_heads_only_are_answered_in_their_way() {
    let mut bench = Bench::echoing().await;
    bench.says("HEAD /a HTTP/1.1\r\nhost: h\r\n\r\nGET /b HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /c HTTP/1.0\r\n\r\n").await;
    let heard = bench.hears_all().await;
    let (to_head, rest) = heard.split_once("\r\n\r\n").unwrap();
    assert!(to_head.starts_with("HTTP/1.1 200 OK\r\n"), "{to_head}");
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.contains("connection: keep-alive\r\n"), "{rest}");
    assert!(rest.contains("GET /b ") && rest.ends_with("GET /c "), "{rest}");
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_is_not_read_ends_the_connection_after_the_answer() {
    let mut bench = Bench::start(async |request: Request<CallerBody>| {
        assert_eq!(request.method(), Method::POST);
        Response::new(ProxyBody::Whole(Bytes::from_static(b"enough")))
    })
    .await;
    bench.says("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 30\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\n\r\n").await;
    bench.caller.shutdown().await.unwrap();
    let heard = bench.hears_all().await;
    assert!(heard.ends_with("enough") && heard.matches("HTTP/1.1").count() == 1, "{heard}");
}
