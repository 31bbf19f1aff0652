//! Servers with TLS, of both versions of HTTP, and behind a forward proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server for `localhost` that says by which version of HTTP it was asked, and how many connections it has had.
struct Server {
    address: SocketAddr,
    ca_pem: String,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(alpn: &[&[u8]]) -> Server {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let (listener, connections) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(AtomicUsize::new(0)));
        let server = Server { address: listener.local_addr().unwrap(), ca_pem, connections: Arc::clone(&connections) };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(async |request: Request<Incoming>| {
                        let text = format!("{:?} {}", request.version(), request.uri().path());
                        request.into_body().collect().await?;
                        Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(text))))
                    });
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        server
    }

    fn request(&self) -> Request<UpstreamBody> {
        Request::post(format!("https://localhost:{}/v1/x", self.address.port()))
            .body(UpstreamBody::Whole(Bytes::from("{}").into()))
            .unwrap()
    }
}

fn direct() -> Matcher {
    Matcher::builder().build()
}

#[tokio::test]
async fn calls_share_a_connection_where_the_server_speaks_http2_and_take_turns_where_it_does_not() {
    for (alpn, version) in
        [(&[b"h2".as_slice(), b"http/1.1"][..], "HTTP/2.0"), (&[b"http/1.1".as_slice()][..], "HTTP/1.1"), (&[][..], "HTTP/1.1")]
    {
        let server = Server::start(alpn).await;
        let upstream = Upstream::through(Some(&server.ca_pem), direct()).unwrap();
        for _ in 0..3 {
            assert_eq!(text(upstream.send(server.request()).await.unwrap()).await, format!("{version} /v1/x"));
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 1, "{version}");
        let (a, b) = tokio::join!(upstream.send(server.request()), upstream.send(server.request()));
        assert!(a.is_ok() && b.is_ok());
        let expected = if version == "HTTP/2.0" { 1 } else { 2 };
        assert_eq!(server.connections.load(Ordering::SeqCst), expected, "{version}");
    }
}

#[tokio::test]
async fn a_server_whose_authority_is_not_trusted_gets_nothing() {
    let server = Server::start(&[b"h2"]).await;
    let upstream = Upstream::through(None, direct()).unwrap();
    assert!(matches!(upstream.send(server.request()).await, Err(SendError::Connect(_))));
}

/// A forward proxy that connects once, and tells what it was asked.
async fn proxy(to: SocketAddr) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut asked, mut stream) = (String::new(), BufReader::new(stream));
        while !asked.ends_with("\r\n\r\n") {
            stream.read_line(&mut asked).await.unwrap();
        }
        let mut stream = stream.into_inner();
        if asked.starts_with("CONNECT") {
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut server).await });
        } else {
            stream.write_all(ANSWER).await.unwrap();
        }
        asked
    });
    (address, asked)
}

#[tokio::test]
async fn a_proxy_tunnels_what_is_secret_and_passes_on_what_is_not() {
    let server = Server::start(&[b"h2"]).await;
    let (address, asked) = proxy(server.address).await;
    let matcher = Matcher::builder().https(format!("http://user:word@{address}")).no("unproxied.example").build();
    let upstream = Upstream::through(Some(&server.ca_pem), matcher).unwrap();
    assert_eq!(text(upstream.send(server.request()).await.unwrap()).await, "HTTP/2.0 /v1/x");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", server.address.port())), "{asked}");
    assert!(asked.to_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk"), "{asked}");

    let (address, asked) = proxy(server.address).await;
    let upstream = Upstream::through(None, Matcher::builder().http(format!("http://{address}")).build()).unwrap();
    let plain = Request::post("http://models.example/v1/x?y=1").body(UpstreamBody::Whole(Bytes::from("{}").into())).unwrap();
    assert_eq!(text(upstream.send(plain).await.unwrap()).await, "ok");
    assert!(asked.await.unwrap().starts_with("POST http://models.example/v1/x?y=1 HTTP/1.1\r\n"));
}
