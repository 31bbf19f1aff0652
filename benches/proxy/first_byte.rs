//! The time to a stream's first byte, of a provider that has it at once and of one that thinks first.

use anyhow::Result;

use super::common::{Figure, Row};
use super::compare::{BODIES, MEASURED, REPETITIONS, WARM_UP, added, in_turns};
use super::load::{self, Sample, Shape};
use super::provider::Answer;
use super::targets::Target;

/// The raw proxy that others are compared with.
const FLOOR: &str = "nginx";

/// One stream at a time.
pub async fn first_bytes(targets: &[Target]) -> Result<Vec<Row>> {
    let targets: Vec<&Target> = targets.iter().filter(|target| !target.slow).collect();
    let mut rows = Vec::new();
    for (body, answer) in BODIES.into_iter().flat_map(|body| [Answer::Prompt, Answer::Thought].map(|answer| (body, answer))) {
        let shape = Shape { connections: 1, body, answer };
        let turns = in_turns(&targets, REPETITIONS, async |target| load::run(&target.to, shape, WARM_UP, MEASURED).await).await?;
        let floor = targets.iter().zip(&turns).find(|(target, _)| target.name == FLOOR).map(|(_, turns)| turns);
        rows.extend(targets.iter().zip(&turns).map(|(target, own)| {
            let of = |figure: fn(&Sample) -> f64| Figure::of(own.iter().map(figure));
            let ratio = floor.map(|floor| Figure::of(own.iter().zip(floor).map(|(own, floor)| p50(own) / p50(floor))));
            Row::default()
                .label("target", target.name)
                .label("body", body)
                .label("answer", answer.name())
                .figure("first_byte_us", of(p50))
                .figure("first_byte_p99_us", of(|turn| turn.first_byte.percentile(99)))
                .figure("added_first_byte_us", added(target, own, &turns[0], p50))
                .figure("to_nginx", ratio)
        }));
    }
    Ok(rows)
}

fn p50(turn: &Sample) -> f64 {
    turn.first_byte.percentile(50)
}
