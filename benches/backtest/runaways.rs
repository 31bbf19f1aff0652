//! The runaway detector on agents that are known to run, and on such that are not.

use spendkeeper::core::runaway::{Runaway, RunawayAction, RunawayBy, Scale, Watch};

use super::common::{Figure, Row};
use super::series::Random;

const RULE: Runaway = Runaway { by: RunawayBy::Agent, action: RunawayAction::Warn, factor: 10 };
const SECOND: i64 = 1_000;
const DAY: i64 = 86_400;
/// Days that each agent behaves, of which the false alarms are.
const DAYS: i64 = 10;
const AGENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// A month's limit: five agents of four calls a minute use half of it.
const LIMIT: Scale = Scale { limit: 2 * 30 * 1_440 * 5 * 4 * 100, window_ms: Some(30 * DAY * SECOND) };

/// How an agent runs away: its name, calls in ten seconds (two are usual within a session), and outcomes for each hundred calls.
const RUNS: [(&str, i64, i64); 5] = [
    ("a loop of 12 times the rate", 24, 0),
    ("a loop of 20 times the rate", 40, 0),
    ("a loop of 50 times the rate", 100, 0),
    ("20 times the rate, and as many more outcomes", 40, 25),
    ("a new agent of 20 times its peers' rate", 40, 0),
];

/// The tables: for people who read the page, and for the file.
pub fn table() -> (String, Vec<Row>) {
    let mut text = String::from("| an agent | found | after seconds: median (least to most) |\n|---|---|---|\n");
    let mut rows = Vec::new();
    let (mut false_alarms, mut found) = (0, vec![Vec::new(); RUNS.len()]);
    const SEEDS: u64 = 4;
    for seed in 0..SEEDS {
        let (watch, alarms, now) = usual_days(seed);
        false_alarms += alarms;
        for (index, (_, tenths, outcomes)) in RUNS.into_iter().enumerate() {
            let agent = if index == RUNS.len() - 1 { "new" } else { "a" };
            found[index].extend(seconds_until_found(watch.clone(), agent, (tenths, outcomes), seed, now));
        }
    }
    for ((name, ..), seconds) in RUNS.into_iter().zip(found) {
        let figure = (!seconds.is_empty()).then(|| Figure::of(seconds.iter().map(|s| *s as f64)));
        let words = figure.map_or_else(|| "–".to_owned(), |Figure { min, median, max }| format!("{median:.0} ({min:.0} to {max:.0})"));
        text += &format!("| {name} | {} of {SEEDS} | {words} |\n", seconds.len());
        rows.push(Row::default().label("runaway", name).label("found", seconds.len()).figure("seconds", figure).figure("a_month", None));
    }
    let agent_months = SEEDS as f64 * AGENTS.len() as f64 * DAYS as f64 / 30.0;
    text += &format!("\nFalse alarms: {:.2} an agent and month, in {agent_months:.1} months.\n", f64::from(false_alarms) / agent_months);
    let per_month = Figure::of([f64::from(false_alarms) / agent_months]);
    rows.push(Row::default().label("runaway", "none").label("found", false_alarms).figure("seconds", None).figure("a_month", per_month));
    (text, rows)
}

/// Agents that make a call every five seconds in sessions of ten minutes each half an hour, at from 20 to 180 a call, and bring an
/// outcome for each four calls; their first day is heeded, too. The watch, how often one was found to run, and the second after all.
fn usual_days(seed: u64) -> (Watch, u32, i64) {
    let (mut watch, mut random, mut alarms) = (Watch::default(), Random(seed), 0);
    let mut running = 0;
    for second in 0..DAYS * DAY {
        for (index, agent) in AGENTS.iter().enumerate() {
            let in_session = (second / 600 + index as i64) % 3 == 0;
            if in_session && random.below(5) == 0 {
                watch.spent(agent, i128::from(20 + random.below(161)), second * SECOND);
                watch.outcomes(agent, u64::from(random.below(4) == 0), second * SECOND);
            }
        }
        if second % 10 == 0 {
            let found = watch.look(&RULE, LIMIT, second * SECOND).len();
            alarms += u32::try_from(found.saturating_sub(running)).unwrap_or(0);
            running = found;
        }
    }
    (watch, alarms, DAYS * DAY)
}

fn seconds_until_found(mut watch: Watch, agent: &str, (tenths, outcomes): (i64, i64), seed: u64, now: i64) -> Option<i64> {
    let mut random = Random(seed + 1_000);
    (1..=600).find(|second| {
        let at = (now + second) * SECOND;
        for _ in 0..tenths / 10 + i64::from(random.below(10) < tenths % 10) {
            watch.spent(agent, i128::from(20 + random.below(161)), at);
            watch.outcomes(agent, u64::from(random.below(100) < outcomes), at);
        }
        watch.look(&RULE, LIMIT, at).iter().any(|r| r.value == agent)
    })
}
