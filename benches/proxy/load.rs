//! The load: connections that are kept alive, each of which sends its next call when the last one is answered.
//!
//! The client is no more than a benchmark needs, so that the CPU time goes to what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::provider::{PATH, STREAMED_PREFIX};

/// What the calls of a measurement have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub connections: usize,
    /// Bytes of the request's body.
    pub body: usize,
    pub stream: bool,
}

/// One repetition.
pub struct Sample {
    /// Calls a second.
    pub rate: f64,
    /// Of every call, in order of length.
    latencies: Vec<Duration>,
}

impl Sample {
    /// Calls that were measured.
    pub fn calls(&self) -> usize {
        self.latencies.len()
    }

    /// The latency, in microseconds, that so many of a hundred calls do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent).div_ceil(100).clamp(1, self.latencies.len()) - 1;
        self.latencies[index].as_secs_f64() * 1e6
    }
}

impl Shape {
    /// Such as `1024/whole/16`.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.body, if self.stream { "stream" } else { "whole" }, self.connections)
    }

    /// The request, head and body.
    pub fn request(&self) -> Bytes {
        let stream = if self.stream { STREAMED_PREFIX } else { "{" };
        let head = format!(r#"{stream}"model":"bench-model","max_completion_tokens":256,"messages":[{{"role":"user","content":""#);
        let tail = "\"}]}";
        let prose = "The train was late again, and nobody on the platform knew why it had been. ";
        let text: String = prose.chars().cycle().take(self.body.saturating_sub(head.len() + tail.len())).collect();
        let body = format!("{head}{text}{tail}");
        Bytes::from(format!(
            "POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer sk-bench\r\n\
             user-agent: bench\r\naccept: */*\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// Calls for `warm_up`, and then for `measured`.
///
/// # Errors
/// When a call is not answered as it should be.
pub async fn run(address: SocketAddr, shape: Shape, warm_up: Duration, measured: Duration) -> Result<Sample> {
    let request = shape.request();
    let mut connections = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        connections.push(Connection::open(address).await?);
    }
    let begin = Instant::now() + warm_up;
    let end = begin + measured;
    let callers: Vec<_> =
        connections.into_iter().map(|connection| tokio::spawn(connection.call_until(request.clone(), begin, end))).collect();
    let mut latencies = Vec::new();
    for caller in callers {
        latencies.extend(caller.await??);
    }
    let took = begin.elapsed();
    latencies.sort_unstable();
    Ok(Sample { rate: latencies.len() as f64 / took.as_secs_f64(), latencies })
}

/// One call, and its answer as it came.
///
/// # Errors
/// When it is not answered as it should be.
pub async fn once(address: SocketAddr, shape: Shape) -> Result<String> {
    let mut connection = Connection::open(address).await?;
    connection.call(&shape.request()).await?;
    Ok(String::from_utf8_lossy(&connection.answer).into_owned())
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Vec::with_capacity(64 << 10) })
    }

    /// The latencies of the calls that ended after `begin`; the last is the one that was under way at `end`, however long it took.
    async fn call_until(mut self, request: Bytes, begin: Instant, end: Instant) -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(4096);
        loop {
            let sent = Instant::now();
            self.call(&request).await?;
            let answered = Instant::now();
            if answered >= begin {
                latencies.push(answered - sent);
            }
            if answered >= end {
                return Ok(latencies);
            }
        }
    }

    async fn call(&mut self, request: &[u8]) -> Result<()> {
        self.answer.clear();
        self.stream.write_all(request).await?;
        let (head, framing) = loop {
            self.read().await?;
            if let Some(head) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break (head + 4, framing(&self.answer[..head])?);
            }
        };
        while !framing.is_complete(&self.answer[head..]) {
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection was closed within an answer");
        Ok(())
    }
}

/// How the end of a body is known.
enum Framing {
    Length(usize),
    Chunked,
}

impl Framing {
    fn is_complete(&self, body: &[u8]) -> bool {
        match self {
            Framing::Length(length) => body.len() >= *length,
            // No event of the provider's holds these bytes.
            Framing::Chunked => body.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

fn framing(head: &[u8]) -> Result<Framing> {
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "a call was answered with {head}");
    for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(Framing::Length(value.trim().parse()?));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Framing::Chunked);
        }
    }
    bail!("an answer has no length: {head}")
}
