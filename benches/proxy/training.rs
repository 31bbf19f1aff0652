//! What a release is optimised for: a sidecar that was built to count what it does gets the calls of applications, over everything that
//! they come and go by. `benches/proxy/train` builds it, and merges what it counted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::{Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::load::{self, Destination, Shape};
use super::provider::{API_KEY, Answer, PATH, Provider};
use super::targets::{Endpoint, Target};
use super::{SIDECAR, common, compare, streams};

const WARM_UP: Duration = Duration::ZERO;
/// For each shape: the counts matter relative to each other.
const EACH: Duration = Duration::from_millis(700);
/// Between two calls of a load that leaves the CPUs idle in between.
const PACE: Duration = Duration::from_millis(2);
/// Calls at once on a connection over HTTP/2.
const AT_ONCE: usize = 16;

/// Puts every load on the sidecar, through each kind of endpoint. What it counted is written when it ends.
pub async fn train() -> Result<()> {
    streams::allow_files();
    let directory = tempfile::tempdir_in(common::directory()?)?;
    let provider = Provider::start()?;
    let (http1, http2) = (provider.secured(b"http/1.1")?, provider.secured(b"h2")?);
    for (name, endpoint) in [("plain", Endpoint::plain(provider.address)), ("http1", http1.into()), ("http2", http2.into())] {
        train_through(name, &endpoint, directory.path()).await.with_context(|| format!("through {name}"))?;
        println!("trained through {name}");
    }
    Ok(())
}

async fn train_through(name: &'static str, endpoint: &Endpoint, directory: &Path) -> Result<()> {
    let sidecar = Target::sidecar(name, &SIDECAR, endpoint, directory).await?;
    for shape in compare::shapes() {
        load::run(&sidecar.to, shape, WARM_UP, EACH).await?;
    }
    for shape in compare::shapes().filter(|shape| shape.connections == 1) {
        load::run_at(&sidecar.to, shape, Some(PACE), WARM_UP, EACH).await?;
        over_http2(&sidecar.to, shape, EACH).await?;
    }
    load::follow(&sidecar.to, streams::PACED, EACH).await?;
    Ok(())
}

/// Calls over one connection with HTTP/2, for so long.
async fn over_http2(to: &Destination, shape: Shape, limit: Duration) -> Result<()> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(TcpStream::connect(to.address).await?)).await?;
    let driven = tokio::spawn(connection);
    let end = Instant::now() + limit;
    let request = Request::post(format!("http://{}{PATH}", to.address))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {API_KEY}"))
        .body(Full::<Bytes>::from(shape.body()))?;
    let callers = (0..AT_ONCE).map(|_| {
        let (mut sender, request) = (sender.clone(), request.clone());
        async move {
            while Instant::now() < end {
                let answer = sender.send_request(request.clone()).await?;
                ensure!(answer.status().is_success(), "a call was refused: {}", answer.status());
                let body = answer.into_body().collect().await?.to_bytes();
                let is_stream = body.starts_with(b"data: ");
                ensure!(is_stream == (shape.answer == Answer::Stream), "an answer is not what was asked for");
            }
            anyhow::Ok(())
        }
    });
    try_join_all(callers).await?;
    driven.abort();
    Ok(())
}
