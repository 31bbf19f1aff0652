//! At the load at which agentgateway states what it adds, and at the one at which it states how much it carries.

use std::time::Duration;

use anyhow::Result;

use super::common::{Figure, Row};
use super::compare::{REPETITIONS, added, added_ratio, in_turns};
use super::load::{self, Sample, Shape};
use super::provider::Answer;
use super::targets::Target;

const SHAPE: Shape = Shape { connections: 32, body: 1 << 10, answer: Answer::Whole };
/// Between two requests, whichever connection they are on.
const PACE: Duration = Duration::from_millis(1);
const WARM_UP: Duration = Duration::from_millis(300);

/// How often each target has its turn, and for how long.
struct Load {
    name: &'static str,
    pace: Option<Duration>,
    repetitions: usize,
    measured: Duration,
}

/// A p99 is what a machine's other guests spoil first: many short turns, so that what most of them show is not that.
const PACED: Load =
    Load { name: "1,000 requests a second", pace: Some(PACE), repetitions: 3 * REPETITIONS, measured: Duration::from_secs(1) };
const FULL: Load = Load { name: "as many as possible", pace: None, repetitions: REPETITIONS, measured: Duration::from_secs(2) };

/// A thousand requests a second, and as many as possible, over 32 connections. Beside what each proxy adds stands what the sidecar adds
/// divided by that.
pub async fn rates(targets: &[Target]) -> Result<Vec<Row>> {
    let targets: Vec<&Target> = targets.iter().filter(|target| !target.slow).collect();
    let sidecar = targets.iter().position(|target| target.charges);
    let mut rows = Vec::new();
    for Load { name, pace, repetitions, measured } in [PACED, FULL] {
        let turns = in_turns(&targets, repetitions, async |target| load::run_at(&target.to, SHAPE, pace, WARM_UP, measured).await).await?;
        rows.extend(targets.iter().zip(&turns).enumerate().map(|(index, (target, own))| {
            let added = |figure: fn(&Sample) -> f64| added(target, own, &turns[0], figure);
            let compared = sidecar.filter(|sidecar| *sidecar != index);
            let ratio = |figure: fn(&Sample) -> f64| compared.and_then(|sidecar| added_ratio(&turns[sidecar], own, &turns[0], figure));
            Row::default()
                .label("target", target.name)
                .label("load", name)
                .label("connections", SHAPE.connections)
                .figure("rps", Figure::of(own.iter().map(|turn| turn.rate)))
                .figure("added_mean_us", added(mean))
                .figure("added_p50_us", added(|turn| turn.latency.percentile(50)))
                .figure("added_p99_us", added(p99))
                .figure("sidecar_to_it_mean", ratio(mean))
                .figure("sidecar_to_it_p99", ratio(p99))
        }));
    }
    Ok(rows)
}

fn mean(turn: &Sample) -> f64 {
    turn.latency.mean()
}

fn p99(turn: &Sample) -> f64 {
    turn.latency.percentile(99)
}
