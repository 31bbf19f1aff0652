//! The provider that is called: answers OpenAI chat completions as fast as it can, whole or in 64 events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Events with text in a streamed answer.
const EVENTS: usize = 64;
/// Bytes of a request that are looked at.
const HEAD: usize = 256;
/// Where completions are.
pub const PATH: &str = "/v1/chat/completions";
/// A request whose body begins so is answered in events.
pub const STREAMED_PREFIX: &str = r#"{"stream":true,"#;

/// Runs a provider on a thread of its own, until the process ends.
pub fn start() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("provider".to_owned()).spawn(move || runtime.block_on(serve(listener)))?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (whole, events) = (Bytes::from(whole()), events());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (whole, events) = (whole.clone(), events.clone());
        let service = service_fn(move |request| answer(request, whole.clone(), events.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(request: Request<Incoming>, whole: Bytes, events: VecDeque<Bytes>) -> Result<Response<Answer>, hyper::Error> {
    let mut body = request.into_body();
    let mut head = Vec::with_capacity(HEAD);
    while let Some(frame) = body.frame().await {
        let data = frame?.into_data().unwrap_or_default();
        head.extend_from_slice(&data[..data.len().min(HEAD - head.len())]);
    }
    let (content_type, frames) = match is_streamed(&head) {
        true => ("text/event-stream", events),
        false => ("application/json", VecDeque::from([whole])),
    };
    let mut response = Response::new(Answer { frames });
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    Ok(response)
}

/// The sidecar puts members of its own before the first one.
fn is_streamed(head: &[u8]) -> bool {
    head.windows(STREAMED_PREFIX.len() - 1).any(|window| window == &STREAMED_PREFIX.as_bytes()[1..])
}

fn whole() -> String {
    let text = "word ".repeat(EVENTS);
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench-model","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}],"usage":{}}}"#,
        usage()
    )
}

fn events() -> VecDeque<Bytes> {
    let event = |choices: &str, usage: &str| {
        Bytes::from(format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-model\",\
             \"system_fingerprint\":\"fp_1\",\"choices\":{choices},\"usage\":{usage}}}\n\n"
        ))
    };
    let text = event(r#"[{"index":0,"delta":{"content":"word "},"logprobs":null,"finish_reason":null}]"#, "null");
    let mut events: VecDeque<Bytes> = std::iter::repeat_n(text, EVENTS).collect();
    events.push_back(event("[]", &usage()));
    events.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    events
}

fn usage() -> String {
    format!(
        r#"{{"prompt_tokens":200,"completion_tokens":{EVENTS},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":0}}}}"#,
        200 + EVENTS
    )
}

/// An answer in frames that are all there.
struct Answer {
    frames: VecDeque<Bytes>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.frames.len() {
            1 => SizeHint::with_exact(self.frames[0].len() as u64),
            _ => SizeHint::default(),
        }
    }
}
