//! The targets beside each other, shape by shape: latency, throughput, CPU time and the time to a stream's first byte.
//!
//! Nothing is compared across repetitions: a difference or a ratio is one of two turns of the same repetition, and the figures
//! are the median, the least and the most of those.

use std::time::Duration;

use anyhow::Result;

use super::common::{Figure, Row};
use super::load::{self, Sample, Shape};
use super::process::Process;
use super::provider::Answer;
use super::targets::Target;

const CONNECTIONS: [usize; 3] = [1, 16, 256];
pub const BODIES: [usize; 2] = [1 << 10, 32 << 10];
pub const REPETITIONS: usize = 5;
pub const WARM_UP: Duration = Duration::from_millis(150);
pub const MEASURED: Duration = Duration::from_millis(700);

/// Every shape that is measured.
pub fn shapes() -> impl Iterator<Item = Shape> {
    let bodies = BODIES.into_iter().flat_map(|body| [Answer::Whole, Answer::Stream].map(|answer| (body, answer)));
    bodies.flat_map(|(body, answer)| CONNECTIONS.map(|connections| Shape { connections, body, answer }))
}

/// Slow targets take part in the small shapes.
pub fn is_small(shape: Shape) -> bool {
    shape.body == BODIES[0] && shape.connections <= 16
}

/// What a target did in a shape: one turn for each repetition.
struct Turns<'a> {
    target: &'a Target,
    turns: Vec<Turn>,
}

/// One repetition of a target.
struct Turn {
    sample: Sample,
    /// Of the proxy's processes, for each call.
    cpu_us: Option<f64>,
}

/// The tables' rows of one shape: each target, and the sidecar's ratios to the other proxies.
pub async fn compare(targets: &[Target], shape: Shape) -> Result<(Vec<Row>, Vec<Row>)> {
    let targets: Vec<&Target> = targets.iter().filter(|target| !target.slow || is_small(shape)).collect();
    let turns = in_turns(&targets, REPETITIONS, async |target| turn(target, shape).await).await?;
    let all: Vec<Turns> = targets.into_iter().zip(turns).map(|(target, turns)| Turns { target, turns }).collect();
    Ok((all.iter().map(|own| row(own, &all, shape)).collect(), ratios(&all, shape)))
}

/// What each target does in each repetition.
///
/// # Errors
/// Those of a turn.
pub async fn in_turns<T>(targets: &[&Target], repetitions: usize, turn: impl AsyncFn(&Target) -> Result<T>) -> Result<Vec<Vec<T>>> {
    let mut turns: Vec<Vec<T>> = targets.iter().map(|_| Vec::new()).collect();
    for repetition in 0..repetitions {
        // Who comes first changes, because whoever comes after a busy one may find the CPUs warm or throttled.
        for turn_of in 0..targets.len() {
            let index = (repetition + turn_of) % targets.len();
            turns[index].push(turn(targets[index]).await?);
        }
    }
    Ok(turns)
}

/// What a proxy adds to what the same takes without one; `None` where there is no proxy.
pub fn added<T>(target: &Target, own: &[T], none: &[T], figure: impl Fn(&T) -> f64) -> Option<Figure> {
    let differences = own.iter().zip(none).map(|(own, none)| figure(own) - figure(none));
    target.process.is_some().then(|| Figure::of(differences))
}

/// What one proxy adds divided by what another adds, in the same repetition: without end where the other added nothing, and `None` where that
/// is so in most repetitions.
pub fn added_ratio<T>(own: &[T], other: &[T], none: &[T], figure: impl Fn(&T) -> f64) -> Option<Figure> {
    let added = own.iter().zip(other).zip(none).map(|((own, other), none)| (figure(own) - figure(none), figure(other) - figure(none)));
    let ratio = Figure::of(added.map(|(own, other)| if other > 0.0 { own / other } else { f64::INFINITY }));
    ratio.median.is_finite().then_some(ratio)
}

/// CPU time is that of all calls of the turn, those of the warm-up included.
async fn turn(target: &Target, shape: Shape) -> Result<Turn> {
    let cpu = |target: &Target| target.process.as_ref().map(Process::cpu_us).transpose();
    let before = cpu(target)?;
    let sample = load::run(&target.to, shape, WARM_UP, MEASURED).await?;
    let cpu_us = before.zip(cpu(target)?).map(|(before, after)| (after - before) / sample.calls as f64);
    Ok(Turn { sample, cpu_us })
}

fn row(own: &Turns, all: &[Turns], shape: Shape) -> Row {
    let of = |figure: fn(&Turn) -> f64| Figure::of(own.turns.iter().map(figure));
    let added = |figure: fn(&Turn) -> f64| added(own.target, &own.turns, &all[0].turns, figure);
    let in_stream = |figure: Option<Figure>| figure.filter(|_| shape.answer == Answer::Stream);
    shaped(Row::default().label("target", own.target.name), shape)
        .figure("rps", of(|turn| turn.sample.rate))
        .figure("p50_us", of(p50))
        .figure("p99_us", of(p99))
        .figure("added_p50_us", added(p50))
        .figure("added_p99_us", added(p99))
        .figure("cpu_us", own.turns.iter().map(|turn| turn.cpu_us).collect::<Option<Vec<_>>>().map(Figure::of))
        .figure("first_byte_us", in_stream(Some(of(first_byte))))
        .figure("added_first_byte_us", in_stream(added(first_byte)))
}

/// How the sidecar compares with each other proxy: its figure divided by the other's.
fn ratios(all: &[Turns], shape: Shape) -> Vec<Row> {
    let (sidecars, others): (Vec<&Turns>, Vec<&Turns>) =
        all.iter().filter(|turns| turns.target.process.is_some()).partition(|turns| turns.target.charges);
    let rows = sidecars.iter().flat_map(|sidecar| others.iter().map(move |other| (sidecar, other))).map(|(sidecar, other)| {
        let ratio = |figure: fn(&Turn) -> f64| Some(paired(sidecar, other, |own, other| figure(own) / figure(other)));
        let added = |figure: fn(&Turn) -> f64| added_ratio(&sidecar.turns, &other.turns, &all[0].turns, figure);
        shaped(Row::default().label("target", sidecar.target.name).label("to", other.target.name), shape)
            .figure("rps", ratio(|turn| turn.sample.rate))
            .figure("added_p50", added(p50))
            .figure("added_p99", added(p99))
            .figure("cpu", ratio(|turn| turn.cpu_us.unwrap_or(f64::NAN)))
            .figure("first_byte", ratio(first_byte).filter(|_| shape.answer == Answer::Stream))
            .figure("added_first_byte", added(first_byte).filter(|_| shape.answer == Answer::Stream))
    });
    rows.collect()
}

fn shaped(row: Row, shape: Shape) -> Row {
    row.label("body", shape.body).label("answer", shape.answer.name()).label("connections", shape.connections)
}

/// A figure of two turns in each repetition.
fn paired(own: &Turns, other: &Turns, figure: impl Fn(&Turn, &Turn) -> f64) -> Figure {
    Figure::of(own.turns.iter().zip(&other.turns).map(|(own, other)| figure(own, other)))
}

fn p50(turn: &Turn) -> f64 {
    turn.sample.latency.percentile(50)
}

fn p99(turn: &Turn) -> f64 {
    turn.sample.latency.percentile(99)
}

fn first_byte(turn: &Turn) -> f64 {
    turn.sample.first_byte.percentile(50)
}
