//! From a request that was understood to its answer, whichever protocol it came in: faults, bill, pace, whole or streamed.

use std::io;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::{TryStreamExt, future, stream};
use serde_json::Value;

use crate::answer::{Answer, Wish};
use crate::faults::Fault;
use crate::models::{Input, Model, Rates};
use crate::pace::{Generation, Piece, Step, Usage};
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::server::Provider;

/// What was sent must have left before the connection breaks, or the break would swallow it.
const BEFORE_A_CUT: Duration = Duration::from_millis(30);

/// A request that was understood.
pub struct Ask {
    pub label: String,
    pub model: &'static Model,
    pub prompt: Prompt,
    /// One for each answer.
    pub wishes: Vec<Wish>,
    pub streamed: bool,
}

/// How a protocol writes answers. Events are whole, as lines of text, and may be none at all; [`Dialect::framed`] makes of them what is on
/// the wire.
pub trait Dialect: Send + 'static {
    fn refuse(&self, refusal: &Refusal) -> Response;
    fn whole(&self, answers: &[Answer], usage: &Usage) -> Value;
    fn opening(&mut self, answers: &[Answer], usage: &Usage) -> String;
    fn piece(&mut self, piece: &Piece) -> String;
    /// A piece with what was used so far, for those who tell it all along.
    fn piece_and_usage(&mut self, piece: &Piece, _: &Usage) -> String {
        self.piece(piece)
    }
    fn content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }
    fn closing(&mut self, answers: &[Answer], usage: &Usage) -> String;
    /// What the model reads in all: more than the prompt where tools run between.
    fn all_input(&self, prompt: Input) -> Input {
        prompt
    }
    /// What the call's tokens cost.
    fn rates(&self, model: &Model, _: &Input) -> Rates {
        model.rates()
    }
    /// Pico-dollars beside the tokens.
    fn fees(&self) -> u128 {
        0
    }
    /// The call is served in another service tier than it asked for.
    fn other_tier(&mut self) {}

    /// Headers of an answer in one piece that tell what it used.
    fn metered(&self, _: &Usage) -> HeaderMap {
        HeaderMap::new()
    }

    /// Events as they are on the wire.
    fn framed(&self, events: String) -> Bytes {
        events.into()
    }

    /// From now on nothing is said of usage.
    fn hide_usage(&mut self) {}
    /// The events by which a stream says that it failed.
    fn failure(&mut self) -> String {
        String::new()
    }
}

/// How an answer ends that is not to come to its end.
#[derive(Clone, Copy)]
enum Broken {
    Connection,
    BySaying,
    Silently,
}

pub async fn answer(provider: &Provider, mut ask: Ask, mut dialect: impl Dialect) -> Response {
    let call = provider.bill.open(&ask.label, ask.model);
    let fault = provider.faults.next(&ask.label, ask.model.name);
    if let Some(Fault::Status(refusal)) = &fault {
        return dialect.refuse(refusal);
    }
    let mut pace = provider.pace;
    if let Some(Fault::Slow { delay }) = fault {
        pace.first_token += delay;
    }
    let (cut_after, broken) = match fault {
        Some(Fault::CutStream { after_tokens }) => (Some(after_tokens), Broken::Connection),
        Some(Fault::FailStream { after_tokens }) => (Some(after_tokens), Broken::BySaying),
        Some(Fault::EndStream { after_tokens }) => (Some(after_tokens), Broken::Silently),
        _ => (None, Broken::Connection),
    };
    if fault == Some(Fault::OtherTier) {
        dialect.other_tier();
    }
    let mut input = dialect.all_input(provider.cache.split(ask.model, &ask.prompt, Instant::now()));
    let mut searched = ask.prompt.searched();
    match fault {
        Some(Fault::NoUsage) => dialect.hide_usage(),
        Some(Fault::Free) => {
            (input, searched) = Default::default();
            ask.wishes.iter_mut().for_each(|wish| wish.cap = 0);
        }
        _ => {}
    }
    let call = call.at(dialect.rates(ask.model, &input));
    if fault != Some(Fault::Free) {
        call.bill_fee(dialect.fees());
    }
    let answers = ask.wishes.into_iter().map(Wish::answer).collect();
    let mut generation = Generation::start(call, input, answers, pace, cut_after);
    generation.will_search(searched);
    if fault == Some(Fault::Hang) {
        // Ends when the caller goes away, which drops this call.
        future::pending::<()>().await;
    }
    if ask.streamed { streamed(generation, dialect, broken) } else { whole(generation, dialect).await }
}

async fn whole(mut generation: Generation, dialect: impl Dialect) -> Response {
    generation.first_token().await;
    let mut cut = false;
    while let Some(step) = generation.next().await {
        cut = step == Step::Cut;
        if cut {
            break;
        }
    }
    let body = dialect.whole(generation.answers(), &generation.usage()).to_string();
    let body = if cut { broken_off(body) } else { Body::from(body) };
    ([(CONTENT_TYPE, "application/json")], dialect.metered(&generation.usage()), body).into_response()
}

/// Half of a body, then the end of the connection.
fn broken_off(body: String) -> Body {
    let mut half = body.into_bytes();
    half.truncate(half.len() / 2);
    let break_off = async {
        tokio::time::sleep(BEFORE_A_CUT).await;
        Err(cut())
    };
    Body::from_stream(stream::StreamExt::chain(stream::iter([Ok(Bytes::from(half))]), stream::once(break_off)))
}

enum Stage {
    Opening,
    Writing,
    Closed,
}

fn streamed(generation: Generation, dialect: impl Dialect, broken: Broken) -> Response {
    let content_type = dialect.content_type();
    let events = stream::try_unfold((Stage::Opening, generation, dialect), move |(stage, mut generation, mut dialect)| async move {
        let (events, stage) = match stage {
            Stage::Opening => {
                generation.first_token().await;
                (dialect.opening(generation.answers(), &generation.usage()), Stage::Writing)
            }
            Stage::Writing => match generation.next().await {
                Some(Step::Piece(piece)) => (dialect.piece_and_usage(&piece, &generation.usage()), Stage::Writing),
                Some(Step::Cut) => match broken {
                    Broken::Connection => {
                        tokio::time::sleep(BEFORE_A_CUT).await;
                        return Err(cut());
                    }
                    Broken::BySaying => (dialect.failure(), Stage::Closed),
                    Broken::Silently => (String::new(), Stage::Closed),
                },
                None => (dialect.closing(generation.answers(), &generation.usage()), Stage::Closed),
            },
            Stage::Closed => return Ok(None),
        };
        Ok(Some((dialect.framed(events), (stage, generation, dialect))))
    });
    // An empty chunk would end the body.
    let body = Body::from_stream(events.try_filter(|events| future::ready(!events.is_empty())));
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache")], body).into_response()
}

fn cut() -> io::Error {
    io::Error::other("cut, as the faults ask for")
}
