//! The provider that is called: answers OpenAI chat completions as fast as it can.
//!
//! It is written on the bare socket, because what it takes of the CPUs is missing from the proxies that share them, and so that
//! each event is one write: a provider whose model hands over one token after another sends them so, and a proxy has to decide
//! at each whether to pass it on or to wait for more.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use spendkeeper::sidecar::http1::framing::Framing;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::secured::Secured;

/// Where completions are.
pub const PATH: &str = "/v1/chat/completions";
/// What callers have for one: LiteLLM takes none that is shorter.
pub const API_KEY: &str = "sk-5f0d1c9be84a4e61a2c7b35d90f6e8417c2a9b0d3e5f61728394a5b6c7d8e9f0";
/// Events of a streamed answer: those with text, one with the usage, and the one that says that there is no more.
pub const EVENTS: usize = 50;
/// Of those, the ones with text.
pub const TEXT_EVENTS: usize = EVENTS - 2;
/// Events of a held answer that come before it is held.
pub const EVENTS_BEFORE_HELD: usize = 10;
/// Between two events of a paced answer.
pub const PACE: Duration = Duration::from_millis(2);
/// What a quick model takes for its first word: large ones take tens of times as long.
pub const THINKING: Duration = Duration::from_millis(10);
/// In an event of a paced answer: what comes before the [`stamp`], and its digits.
pub const STAMP: &str = r#""content":"t"#;
pub const STAMP_DIGITS: usize = 16;

/// Both ends of a request's body are looked at this far: proxies put members before the first or after the last.
const LOOKED_AT: usize = 256;
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How a call is answered, which the request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Whole,
    /// In events, one write after the other.
    Stream,
    /// In events, with a pause before each, which says when it was sent.
    Paced,
    /// In events, of which the last ones come only when [`Provider::release`] is called.
    Held,
    /// In events, of which the first is sent as soon as the call is there, and the others when the caller had time to read it.
    Prompt,
    /// The same, after [`THINKING`].
    Thought,
}

impl Answer {
    /// As shapes are called.
    pub fn name(self) -> &'static str {
        match self {
            Answer::Whole => "whole",
            Answer::Stream => "stream",
            Answer::Paced => "paced",
            Answer::Held => "held",
            Answer::Prompt => "prompt",
            Answer::Thought => "thought",
        }
    }

    /// The members that ask for it.
    pub fn members(self) -> &'static str {
        match self {
            Answer::Whole => "",
            Answer::Stream => r#""stream":true,"#,
            Answer::Paced => r#""stream":true,"user":"paced","#,
            Answer::Held => r#""stream":true,"user":"held","#,
            Answer::Prompt => r#""stream":true,"user":"prompt","#,
            Answer::Thought => r#""stream":true,"user":"thought","#,
        }
    }

    fn asked_for(body: &[u8]) -> Answer {
        let (first, last) = (&body[..body.len().min(LOOKED_AT)], &body[body.len().saturating_sub(LOOKED_AT)..]);
        let holds = |text: &str| [first, last].iter().any(|part| memmem::find(part, text.as_bytes()).is_some());
        // Python's and JavaScript's proxies write the body anew.
        match holds(r#""stream":true"#) || holds(r#""stream": true"#) {
            false => Answer::Whole,
            true if holds(r#""user":"paced""#) => Answer::Paced,
            true if holds(r#""user":"held""#) => Answer::Held,
            true if holds(r#""user":"prompt""#) => Answer::Prompt,
            true if holds(r#""user":"thought""#) => Answer::Thought,
            true => Answer::Stream,
        }
    }
}

/// Nanoseconds on a clock that calls and provider share.
pub fn stamp() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A provider on a thread of its own, until the process ends.
#[derive(Clone)]
pub struct Provider {
    pub address: SocketAddr,
    answers: Arc<Answers>,
}

impl Provider {
    pub fn start() -> Result<Provider> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let answers = Arc::new(Answers { whole: whole(), events: events(), released: watch::channel(0).0 });
        let provider = Provider { address: listener.local_addr()?, answers: Arc::clone(&answers) };
        LazyLock::force(&EPOCH);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = move || runtime.block_on(serve(listener, answers));
        std::thread::Builder::new().name("provider".to_owned()).spawn(serving)?;
        Ok(provider)
    }

    /// Lets the answers that are held now come to their end.
    pub fn release(&self) {
        self.answers.released.send_modify(|times| *times += 1);
    }

    /// The same behind TLS, over `protocol` (ALPN).
    pub fn secured(&self, protocol: &'static [u8]) -> Result<Secured> {
        let answers = Arc::clone(&self.answers);
        Secured::start("secured", protocol, move |listener| async move {
            let mut connections = std::pin::pin!(listener.into_stream());
            while let Some(stream) = connections.next().await.transpose()? {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    match protocol {
                        b"h2" => answers.converse_http2(stream).await,
                        _ => answers.converse(stream).await,
                    }
                });
            }
            Ok(())
        })
    }
}

/// All that is ever sent, framed.
struct Answers {
    whole: Vec<u8>,
    events: Vec<Vec<u8>>,
    released: watch::Sender<usize>,
}

async fn serve(listener: std::net::TcpListener, answers: Arc<Answers>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            // A proxy may close its connections when it likes; whoever waits for an answer learns of it.
            let _ = answers.converse(stream).await;
        });
    }
}

impl Answers {
    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let mut received = Vec::with_capacity(4 << 10);
        while let Some(body) = read_request(&mut stream, &mut received).await? {
            let (asked_for, end) = (Answer::asked_for(&received[body.clone()]), body.end);
            received.drain(..end);
            match asked_for {
                Answer::Whole => stream.write_all(&self.whole).await?,
                Answer::Stream => {
                    stream.write_all(STREAM_HEAD).await?;
                    for event in &self.events {
                        stream.write_all(event).await?;
                    }
                }
                Answer::Paced => self.paced(&mut stream).await?,
                Answer::Held => self.held(&mut stream).await?,
                Answer::Prompt => self.prompt(&mut stream).await?,
                Answer::Thought => {
                    // Tokio's timers are good to a millisecond. Only one call at a time is answered so, and nobody else waits.
                    std::thread::sleep(THINKING);
                    self.prompt(&mut stream).await?;
                }
            }
            // TLS keeps what it cannot write at once.
            stream.flush().await?;
        }
        Ok(())
    }

    /// The same over HTTP/2: whole, paced, or in events.
    async fn converse_http2(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<()> {
        let answer = service_fn(move |request: Request<Incoming>| {
            let answers = Arc::clone(&self);
            async move {
                let asked = Answer::asked_for(&request.into_body().collect().await?.to_bytes());
                let (kind, count) = if asked == Answer::Whole { ("application/json", 1) } else { ("text/event-stream", EVENTS) };
                let pieces = futures::stream::iter(0..count).then(move |number| {
                    let answers = Arc::clone(&answers);
                    async move {
                        match asked {
                            Answer::Paced => tokio::time::sleep(PACE).await,
                            // So that each goes by itself.
                            _ => tokio::task::yield_now().await,
                        }
                        let piece = if asked == Answer::Whole { body_of(&answers.whole) } else { data_of(&answers.event(asked, number)) };
                        Ok::<_, hyper::Error>(Frame::data(piece))
                    }
                });
                Response::builder().header(header::CONTENT_TYPE, kind).body(StreamBody::new(Box::pin(pieces))).map_err(anyhow::Error::from)
            }
        });
        Ok(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await?)
    }

    async fn paced(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        stream.write_all(STREAM_HEAD).await?;
        for number in 0..EVENTS {
            tokio::time::sleep(PACE).await;
            stream.write_all(&self.event(Answer::Paced, number)).await?;
        }
        Ok(())
    }

    /// The caller would else wait for the CPU on which the rest is written, and the time to its first byte would be of that.
    async fn prompt(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        stream.write_all(STREAM_HEAD).await?;
        stream.write_all(&self.events[0]).await?;
        tokio::time::sleep(PACE).await;
        for event in &self.events[1..] {
            stream.write_all(event).await?;
        }
        Ok(())
    }

    /// An event, as it is when it is sent now.
    fn event(&self, asked: Answer, number: usize) -> Cow<'_, [u8]> {
        match asked {
            Answer::Paced if number < TEXT_EVENTS => text_event(&format!("t{:0STAMP_DIGITS$}", stamp())).into(),
            _ => (&self.events[number]).into(),
        }
    }

    async fn held(&self, stream: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let mut released = self.released.subscribe();
        let before = *released.borrow_and_update();
        stream.write_all(STREAM_HEAD).await?;
        for event in &self.events[..EVENTS_BEFORE_HELD] {
            stream.write_all(event).await?;
        }
        released.wait_for(|times| *times > before).await?;
        for event in &self.events[EVENTS_BEFORE_HELD..] {
            stream.write_all(event).await?;
        }
        Ok(())
    }
}

/// Where the body of the next request is in `received`; `None` when there is no further request.
async fn read_request(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> Result<Option<Range<usize>>> {
    let head = loop {
        if let Some(at) = memmem::find(received, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    };
    let end = head + content_length(&received[..head])?;
    received.reserve(end.saturating_sub(received.len()));
    while received.len() < end {
        ensure!(stream.read_buf(received).await? > 0, "the connection was closed within a request");
    }
    Ok(Some(head..end))
}

fn content_length(head: &[u8]) -> Result<usize> {
    let lines = std::str::from_utf8(head)?.lines().filter_map(|line| line.split_once(':'));
    let value = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value).next();
    Ok(value.context("a request has no content-length")?.trim().parse()?)
}

fn whole() -> Vec<u8> {
    let body = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{{"index":0,"message":{{"role":"assistant","content":"{}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{}}}"#,
        "word ".repeat(TEXT_EVENTS),
        usage()
    );
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn events() -> Vec<Vec<u8>> {
    let mut events: Vec<Vec<u8>> = (0..TEXT_EVENTS).map(|_| text_event("word ")).collect();
    events.push(event("[]", &usage()));
    let mut last = chunk("data: [DONE]\n\n");
    last.extend_from_slice(b"0\r\n\r\n");
    events.push(last);
    events
}

fn text_event(text: &str) -> Vec<u8> {
    event(&format!(r#"[{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}]"#), "null")
}

fn event(choices: &str, usage: &str) -> Vec<u8> {
    chunk(&format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-model\",\
         \"system_fingerprint\":\"fp_1\",\"choices\":{choices},\"usage\":{usage}}}\n\n"
    ))
}

/// What follows an answer's head.
fn body_of(answer: &[u8]) -> Bytes {
    let body = memmem::find(answer, b"\r\n\r\n").map_or(answer, |head| &answer[head + 4..]);
    Bytes::copy_from_slice(body)
}

/// What is in a chunk.
fn data_of(chunk: &[u8]) -> Bytes {
    let mut chunk = Bytes::copy_from_slice(chunk);
    let data = Framing::chunked().take(&mut chunk);
    data.ok().flatten().unwrap_or_default()
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

fn usage() -> String {
    format!(
        r#"{{"prompt_tokens":200,"completion_tokens":{TEXT_EVENTS},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":0}}}}"#,
        200 + TEXT_EVENTS
    )
}
