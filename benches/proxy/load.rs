//! The load: connections that are kept alive, each of which sends its next call when the last one is answered, or when it is time for it.
//!
//! The client is no more than a benchmark needs, so that the CPU time goes to what is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Interval;

use super::provider::{API_KEY, Answer, PATH, STAMP, STAMP_DIGITS, TEXT_EVENTS, stamp};

/// What the calls of a measurement have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub connections: usize,
    /// Bytes of the request's body.
    pub body: usize,
    pub answer: Answer,
}

impl Shape {
    /// Such as `1024/whole/16`.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.body, self.answer.name(), self.connections)
    }

    /// A request's body.
    pub fn body(&self) -> String {
        let members = self.answer.members();
        let head = format!(r#"{{{members}"model":"bench-model","max_completion_tokens":256,"messages":[{{"role":"user","content":""#);
        let tail = "\"}]}";
        let prose = "The train was late again, and nobody on the platform knew why it had been. ";
        let text: String = prose.chars().cycle().take(self.body.saturating_sub(head.len() + tail.len())).collect();
        format!("{head}{text}{tail}")
    }

    /// The request, head and body; `headers` are whole lines that the target wants besides.
    pub fn request(&self, headers: &str) -> Bytes {
        let body = self.body();
        Bytes::from(format!(
            "POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer {API_KEY}\r\n\
             user-agent: bench\r\naccept: */*\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

/// Where calls go.
#[derive(Clone, Debug)]
pub struct Destination {
    pub address: SocketAddr,
    pub headers: String,
}

/// Lengths of time, in order.
pub struct Durations(Vec<Duration>);

impl Durations {
    pub fn of(mut durations: Vec<Duration>) -> Result<Durations> {
        ensure!(!durations.is_empty(), "nothing was answered while it was measured");
        durations.sort_unstable();
        Ok(Durations(durations))
    }

    /// In microseconds.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.0.len() as f64
    }

    /// In microseconds, what so many of a hundred do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len()) - 1;
        self.0[index].as_secs_f64() * 1e6
    }
}

/// One repetition.
pub struct Sample {
    /// Calls a second.
    pub rate: f64,
    /// Calls, those of the warm-up included.
    pub calls: usize,
    /// From the first byte sent to the last received.
    pub latency: Durations,
    /// From the first byte sent to the first of the answer's body.
    pub first_byte: Durations,
}

/// Calls for `warm_up`, and then for `measured`.
///
/// # Errors
/// When a call is not answered as it should be.
pub async fn run(to: &Destination, shape: Shape, warm_up: Duration, measured: Duration) -> Result<Sample> {
    run_at(to, shape, None, warm_up, measured).await
}

/// The same, with a call each `pace`: the connections take turns.
///
/// # Errors
/// When a call is not answered as it should be.
pub async fn run_at(to: &Destination, shape: Shape, pace: Option<Duration>, warm_up: Duration, measured: Duration) -> Result<Sample> {
    let request = shape.request(&to.headers);
    let mut connections = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        connections.push(Connection::open(to.address).await?);
    }
    let begin = Instant::now() + warm_up;
    let end = begin + measured;
    let callers = connections.into_iter().enumerate().map(|(place, connection)| {
        let turns = pace.map(|pace| {
            tokio::time::interval_at(
                tokio::time::Instant::now() + pace * u32::try_from(place).unwrap_or(0),
                pace * u32::try_from(shape.connections).unwrap_or(1),
            )
        });
        tokio::spawn(connection.call_until(request.clone(), turns, begin, end))
    });
    let callers: Vec<_> = callers.collect();
    let (mut calls, mut latencies, mut first_bytes) = (0, Vec::new(), Vec::new());
    for caller in callers {
        let (warming_up, timings) = caller.await??;
        calls += warming_up + timings.len();
        latencies.extend(timings.iter().map(|timing| timing.whole));
        first_bytes.extend(timings.iter().map(|timing| timing.first_byte));
    }
    let rate = latencies.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(Sample { rate, calls, latency: Durations::of(latencies)?, first_byte: Durations::of(first_bytes)? })
}

/// One call, and its answer as it came.
///
/// # Errors
/// When it is not answered as it should be.
pub async fn once(to: &Destination, shape: Shape) -> Result<String> {
    let mut connection = Connection::open(to.address).await?;
    connection.call(&shape.request(&to.headers)).await?;
    Ok(String::from_utf8_lossy(&connection.answer).into_owned())
}

/// How long the events of one repetition took from the provider to the caller.
pub struct Delays {
    pub delay: Durations,
    /// Of a hundred events, those that came in one piece with an earlier one.
    pub together: f64,
}

/// Paced streams, for `measured`.
///
/// # Errors
/// When a call is not answered as it should be.
pub async fn follow(to: &Destination, shape: Shape, measured: Duration) -> Result<Delays> {
    let request = shape.request(&to.headers);
    let mut followers = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        let connection = Connection::open(to.address).await?;
        followers.push(tokio::spawn(connection.follow_until(request.clone(), Instant::now() + measured)));
    }
    let (mut delays, mut together) = (Vec::new(), 0);
    for follower in followers {
        let (own, own_together) = follower.await??;
        delays.extend(own);
        together += own_together;
    }
    let together = 100.0 * f64::from(together) / delays.len().max(1) as f64;
    Ok(Delays { delay: Durations::of(delays)?, together })
}

/// One call's.
struct Timing {
    first_byte: Duration,
    whole: Duration,
}

/// A connection, and what came on it since the last request.
pub struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Vec::with_capacity(16 << 10) })
    }

    /// Calls before `begin`, and the times of those that ended later; the last is the one that was under way at `end`, however
    /// long it took.
    async fn call_until(
        mut self,
        request: Bytes,
        mut turns: Option<Interval>,
        begin: Instant,
        end: Instant,
    ) -> Result<(usize, Vec<Timing>)> {
        let (mut before, mut timings) = (0, Vec::with_capacity(4096));
        loop {
            if let Some(turns) = &mut turns {
                turns.tick().await;
            }
            let sent = Instant::now();
            let first_byte = self.call(&request).await? - sent;
            let answered = Instant::now();
            if answered < begin {
                before += 1;
            } else {
                timings.push(Timing { first_byte, whole: answered - sent });
            }
            if answered >= end {
                return Ok((before, timings));
            }
        }
    }

    /// When the body's first byte was there.
    async fn call(&mut self, request: &[u8]) -> Result<Instant> {
        let (head, framing) = self.ask(request).await?;
        while self.answer.len() == head {
            self.read().await?;
        }
        let first_byte = Instant::now();
        while !framing.is_complete(&self.answer[head..]) {
            self.read().await?;
        }
        Ok(first_byte)
    }

    /// Sends a request, and reads until the answer's head is there; where it ends, and how the body's end is known.
    async fn ask(&mut self, request: &[u8]) -> Result<(usize, Framing)> {
        self.answer.clear();
        self.stream.write_all(request).await?;
        loop {
            self.read().await?;
            if let Some(head) = memmem::find(&self.answer, b"\r\n\r\n") {
                let framing = framing(&self.answer[..head]).with_context(|| String::from_utf8_lossy(&self.answer).into_owned())?;
                return Ok((head + 4, framing));
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the connection was closed within an answer");
        Ok(())
    }

    /// Sends a request for a held stream and reads until `events` of it are there.
    ///
    /// # Errors
    /// When it is not answered as it should be.
    pub async fn begin(&mut self, request: &[u8], events: usize) -> Result<()> {
        self.ask(request).await?;
        while memmem::find_iter(&self.answer, b"data: ").count() < events {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads a stream that was [begun](Connection::begin) to its end.
    ///
    /// # Errors
    /// When it does not end as it should.
    pub async fn finish(mut self) -> Result<()> {
        while !Framing::Chunked.is_complete(&self.answer) {
            self.read().await?;
        }
        Ok(())
    }

    /// How long each event took that came before `end`, and how many came together with an earlier one.
    async fn follow_until(mut self, request: Bytes, end: Instant) -> Result<(Vec<Duration>, u32)> {
        let (mut delays, mut together) = (Vec::new(), 0);
        while Instant::now() < end {
            let (head, framing) = self.ask(&request).await?;
            let (mut looked_at, mut events) = (head, 0);
            loop {
                let now = stamp();
                let (sent, until) = stamps(&self.answer, looked_at);
                looked_at = until;
                events += sent.len();
                together += u32::try_from(sent.len().saturating_sub(1))?;
                delays.extend(sent.iter().map(|sent| Duration::from_nanos(now.saturating_sub(*sent))));
                if framing.is_complete(&self.answer[head..]) {
                    break;
                }
                self.read().await?;
            }
            ensure!(events == TEXT_EVENTS, "{events} events of a stream came as they were sent, not {TEXT_EVENTS}");
        }
        Ok((delays, together))
    }
}

/// The stamps in an answer from `begin` on, and up to where there is none that is not among them.
fn stamps(answer: &[u8], begin: usize) -> (Vec<u64>, usize) {
    let (mut found, mut at) = (Vec::new(), begin);
    while let Some(next) = memmem::find(&answer[at..], STAMP.as_bytes()) {
        let digits = at + next + STAMP.len();
        let Some(text) = answer.get(digits..digits + STAMP_DIGITS) else { return (found, at) };
        found.extend(std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok()));
        at = digits + STAMP_DIGITS;
    }
    (found, at.max(answer.len().saturating_sub(STAMP.len())))
}

/// How the end of a body is known.
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

impl Framing {
    fn is_complete(self, body: &[u8]) -> bool {
        match self {
            Framing::Length(length) => body.len() >= length,
            // No event of the provider's holds these bytes. What else is in a body may be cut by a proxy's own chunks.
            Framing::Chunked => body.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

fn framing(head: &[u8]) -> Result<Framing> {
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "a call was refused");
    for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(Framing::Length(value.trim().parse()?));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Framing::Chunked);
        }
    }
    bail!("an answer has no length")
}
