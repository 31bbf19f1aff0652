//! At the load at which agentgateway states what it adds, and at the one at which it states how much it carries.

use std::time::Duration;

use anyhow::Result;

use super::common::{Figure, Row};
use super::compare::{added, in_turns};
use super::load::{self, Sample, Shape};
use super::provider::Answer;
use super::targets::Target;

const SHAPE: Shape = Shape { connections: 32, body: 1 << 10, answer: Answer::Whole };
/// Between two requests, whichever connection they are on.
const PACE: Duration = Duration::from_millis(1);
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(2);

/// A thousand requests a second, and as many as possible, over 32 connections.
pub async fn rates(targets: &[Target]) -> Result<Vec<Row>> {
    let targets: Vec<&Target> = targets.iter().filter(|target| !target.slow).collect();
    let mut rows = Vec::new();
    for (load, pace) in [("1,000 requests a second", Some(PACE)), ("as many as possible", None)] {
        let turns = in_turns(&targets, async |target| load::run_at(&target.to, SHAPE, pace, WARM_UP, MEASURED).await).await?;
        rows.extend(targets.iter().zip(&turns).map(|(target, own)| {
            let added = |figure: fn(&Sample) -> f64| added(target, own, &turns[0], figure);
            Row::default()
                .label("target", target.name)
                .label("load", load)
                .label("connections", SHAPE.connections)
                .figure("rps", Figure::of(own.iter().map(|turn| turn.rate)))
                .figure("added_mean_us", added(|turn| turn.latency.mean()))
                .figure("added_p50_us", added(|turn| turn.latency.percentile(50)))
                .figure("added_p99_us", added(|turn| turn.latency.percentile(99)))
        }));
    }
    Ok(rows)
}
