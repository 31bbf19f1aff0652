//! A Service: a port on loopback that leads to whoever of several is there.

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// It ends, with its connections, when it is dropped.
pub struct Service {
    pub port: u16,
    _forwarding: JoinSet<()>,
}

impl Service {
    /// Leads each connection to the first of these ports that takes it.
    pub async fn start(backends: &[u16]) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut forwarding = JoinSet::new();
        forwarding.spawn(forward(listener, backends.to_vec()));
        Service { port, _forwarding: forwarding }
    }
}

async fn forward(listener: TcpListener, backends: Vec<u16>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let backends = backends.clone();
        connections.spawn(async move {
            for port in backends {
                if let Ok(mut backend) = TcpStream::connect(("127.0.0.1", port)).await {
                    // Either end may go at any time.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
                    return;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
