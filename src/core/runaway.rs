//! Runaways: agents that spend many times what they usually do, seen within seconds.
//!
//! Each value of a dimension is compared with its own past: the minutes in which it spent something. One without a past is compared
//! with its peers, and where there are none, with the limit itself. What also brings as many more outcomes is busy, not running away.
//! Pure and bounded; the same events lead to the same findings.

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::burn::{Latch, Level};
use super::dimensions::{Dimension, Dimensions, Origin};
use super::history::{MINUTE_MS, Series};

/// Whose spending is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RunawayBy {
    #[default]
    Agent,
    Session,
    Feature,
    Team,
    Process,
    Workload,
}

/// What is done about a runaway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunawayAction {
    /// Say so.
    #[default]
    Warn,
    /// Say so, and hold it to three times its usual rate until it is calm.
    Throttle,
}

/// What counts as a runaway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runaway {
    pub by: RunawayBy,
    pub action: RunawayAction,
    /// How many times the usual rate is too much.
    pub factor: u16,
}

impl RunawayBy {
    /// The dimension; `None` for workloads, which are no dimension.
    pub fn dimension(self) -> Option<Dimension> {
        match self {
            RunawayBy::Agent => Some(Dimension::Agent),
            RunawayBy::Session => Some(Dimension::Session),
            RunawayBy::Feature => Some(Dimension::Feature),
            RunawayBy::Team => Some(Dimension::Team),
            RunawayBy::Process => Some(Dimension::Process),
            RunawayBy::Workload => None,
        }
    }

    /// As in fields and messages.
    pub fn name(self) -> &'static str {
        self.dimension().map_or("workload", Dimension::name)
    }

    /// Who made a call; `None` when it does not say.
    pub fn value<'a>(self, origin: &'a Origin, dimensions: &'a Dimensions) -> Option<&'a str> {
        match self.dimension() {
            Some(dimension) => dimensions.get(dimension),
            None => Some(origin.workload.as_str()).filter(|workload| !workload.is_empty()),
        }
    }
}

/// The recent past is kept in steps of ten seconds, five minutes of them and the one under way.
const STEP_MS: i64 = 10_000;
const STEPS: usize = 31;
const FIVE_MINUTES_MS: i64 = 5 * MINUTE_MS;
/// Minutes in which something was spent that make up a past, and how many of them are enough of one.
const PAST: usize = 60;
const ENOUGH_PAST: usize = 10;
/// Peers with a past that say what is usual.
const ENOUGH_PEERS: usize = 3;
/// In five minutes, less than this part of the limit is not worth a word; without a past or peers, a tenth.
const MATERIAL: i128 = 100;
const MATERIAL_WITHOUT_PAST: i128 = 10;
/// What a value without a past or peers may usually spend a minute: this part of the limit.
const SHARE: i128 = 500;
/// What is calm for so long has stopped running.
const CALM_MS: i64 = FIVE_MINUTES_MS;
/// Values that are remembered of one budget; whoever was silent longest is forgotten first.
const MAX_VALUES: usize = 1_000;

/// What a usual rate was known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The value's own past.
    Past,
    /// Those of its peers.
    Peers,
    /// The limit.
    Limit,
}

/// Somebody who runs away. Amounts are in the unit of what was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub value: String,
    /// What it spent in the last minute when it was last seen to run.
    pub per_minute: i128,
    /// What is usual in a minute.
    pub usual: i128,
    pub basis: Basis,
    /// What it may spend a minute while it is throttled.
    pub allowance: i128,
}

/// One value's spending.
#[derive(Clone, Debug)]
struct Trail {
    spent: Series,
    /// The dearest call of each step: one dear call is no loop.
    dearest: Series,
    outcomes: Series,
    /// Minutes in which something was spent, the latest last: what, and for how many outcomes.
    past: VecDeque<(i128, u64)>,
    /// The minute under way.
    minute: i64,
    of_minute: (i128, u64),
    last_ms: i64,
    latch: Latch,
    running: Option<Running>,
}

impl Trail {
    fn new(at_ms: i64) -> Trail {
        let series = || Series::new(STEP_MS, STEPS);
        Trail {
            spent: series(),
            dearest: series(),
            outcomes: series(),
            past: VecDeque::new(),
            minute: at_ms.div_euclid(MINUTE_MS),
            of_minute: (0, 0),
            last_ms: at_ms,
            latch: Latch::default(),
            running: None,
        }
    }

    /// A minute that is over becomes part of the past, but not while it runs away: nobody gets used to that.
    fn turn(&mut self, at_ms: i64) {
        let minute = at_ms.div_euclid(MINUTE_MS);
        if minute <= self.minute {
            return;
        }
        if self.of_minute.0 > 0 && !self.latch.is_on() {
            self.past.push_back(self.of_minute);
            self.past.drain(..self.past.len().saturating_sub(PAST));
        }
        (self.minute, self.of_minute) = (minute, (0, 0));
    }

    /// The median of the minutes in which it spent something.
    fn usual(&self) -> Option<i128> {
        (self.past.len() >= ENOUGH_PAST).then(|| median(self.past.iter().map(|(spent, _)| *spent)))
    }

    fn last(series: &Series, lookback_ms: i64, now_ms: i64) -> i128 {
        series.sum(now_ms - lookback_ms, (now_ms.div_euclid(STEP_MS) + 1) * STEP_MS)
    }

    /// Outcomes of the last minutes cost less than half as many times more than usual as would be a runaway.
    fn is_busy(&self, five_minutes: i128, factor: i128, now_ms: i64) -> bool {
        let (spent, outcomes) = self.past.iter().fold((0i128, 0i128), |(s, o), (spent, outcomes)| (s + spent, o + i128::from(*outcomes)));
        let recent = Trail::last(&self.outcomes, FIVE_MINUTES_MS, now_ms);
        // five_minutes / recent < factor / 2 · spent / outcomes, without fractions.
        five_minutes.saturating_mul(outcomes).saturating_mul(2) < spent.saturating_mul(factor).saturating_mul(recent)
    }

    fn look(&mut self, value: &str, factor: i128, limit: i128, peers: Option<i128>, now_ms: i64) {
        self.turn(now_ms);
        let by_limit = (limit / SHARE).max(1);
        let (usual, basis) = match (self.usual(), peers) {
            (Some(own), _) => (own, Basis::Past),
            (None, Some(peers)) => (peers, Basis::Peers),
            (None, None) => (by_limit, Basis::Limit),
        };
        let minute = Trail::last(&self.spent, MINUTE_MS, now_ms);
        let five_minutes = Trail::last(&self.spent, FIVE_MINUTES_MS, now_ms);
        let material = if basis == Basis::Limit { limit / MATERIAL_WITHOUT_PAST } else { limit / MATERIAL };
        let dearest = self.dearest.largest(now_ms - MINUTE_MS, now_ms);
        let too_fast = minute - dearest >= usual.saturating_mul(factor) && five_minutes >= material.max(1);
        let runs = too_fast && !self.is_busy(five_minutes, factor, now_ms);
        // Who runs is measured by what was usual when it began.
        let before = self.running.as_ref().map_or(usual, |running| running.usual);
        let level = if runs {
            Level::Met
        } else if minute.saturating_mul(2) < before.saturating_mul(3) {
            Level::Over
        } else {
            Level::Between
        };
        self.latch = self.latch.after(level, now_ms, CALM_MS);
        if !self.latch.is_on() {
            self.running = None;
        } else if self.running.is_none() {
            let allowance = usual.saturating_mul(3).max(limit / 1_000).max(1);
            self.running = Some(Running { value: value.to_owned(), per_minute: minute, usual, basis, allowance });
        }
    }
}

fn median(values: impl Iterator<Item = i128>) -> i128 {
    let mut values: Vec<i128> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Every value of one budget.
#[derive(Clone, Debug, Default)]
pub struct Watch(BTreeMap<String, Trail>);

impl Watch {
    fn trail(&mut self, value: &str, at_ms: i64) -> &mut Trail {
        if !self.0.contains_key(value) && self.0.len() >= MAX_VALUES {
            let silent = self.0.iter().min_by_key(|(_, trail)| (trail.latch.is_on(), trail.last_ms)).map(|(value, _)| value.clone());
            silent.and_then(|value| self.0.remove(&value));
        }
        self.0.entry(value.to_owned()).or_insert_with(|| Trail::new(at_ms))
    }

    /// A call of `value` ended and cost `amount`.
    pub fn spent(&mut self, value: &str, amount: i128, at_ms: i64) {
        let trail = self.trail(value, at_ms);
        trail.turn(at_ms);
        trail.spent.add(at_ms, amount);
        trail.dearest.raise(at_ms, amount);
        trail.of_minute.0 += amount;
        trail.last_ms = at_ms;
    }

    /// `value` brought so many outcomes; of somebody who never spent anything, none are kept.
    pub fn outcomes(&mut self, value: &str, count: u64, at_ms: i64) {
        if let Some(trail) = self.0.get_mut(value) {
            trail.turn(at_ms);
            trail.outcomes.add(at_ms, count.into());
            trail.of_minute.1 = trail.of_minute.1.saturating_add(count);
        }
    }

    /// Who runs away now. `limit` is the limit that says what is worth a word, in the unit of what was noted.
    pub fn look(&mut self, rule: &Runaway, limit: i128, now_ms: i64) -> Vec<Running> {
        let usual: Vec<i128> = self.0.values().filter_map(Trail::usual).collect();
        let peers = (usual.len() >= ENOUGH_PEERS).then(|| median(usual.into_iter()));
        for (value, trail) in &mut self.0 {
            trail.look(value, rule.factor.into(), limit, peers, now_ms);
        }
        self.0.values().filter_map(|trail| trail.running.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Runaway = Runaway { by: RunawayBy::Agent, action: RunawayAction::Warn, factor: 10 };
    const LIMIT: i128 = 100_000;
    const SECOND: i64 = 1_000;

    /// An hour in which agents spend 20 a minute each, in four calls, with an outcome a minute.
    fn usual_hour(agents: &[&str]) -> (Watch, i64) {
        let mut watch = Watch::default();
        for quarter in 0..240 {
            for agent in agents {
                watch.spent(agent, 5, quarter * 15 * SECOND);
                if quarter % 4 == 0 {
                    watch.outcomes(agent, 1, quarter * 15 * SECOND);
                }
            }
            assert_eq!(watch.look(&RULE, LIMIT, quarter * 15 * SECOND), [], "at quarter {quarter}");
        }
        (watch, 3_600 * SECOND)
    }

    /// The agent makes a call each second from now on; after how many seconds it is found to run.
    fn seconds_until_found(watch: &mut Watch, agent: &str, each: i128, outcomes: u64, now: i64) -> Option<(i64, Running)> {
        (1..=300).find_map(|second| {
            let at = now + second * SECOND;
            watch.spent(agent, each, at);
            watch.outcomes(agent, outcomes, at);
            watch.look(&RULE, LIMIT, at).into_iter().find(|r| r.value == agent).map(|running| (second, running))
        })
    }

    #[test]
    fn an_agent_that_spends_many_times_what_it_did_is_found_within_seconds() {
        let (mut watch, now) = usual_hour(&["a", "b"]);
        let (seconds, running) = seconds_until_found(&mut watch, "a", 100, 0, now).expect("found");
        assert!(seconds <= 15, "after {seconds} s");
        assert_eq!((running.usual, running.basis, running.allowance), (20, Basis::Past, 100));
    }

    #[test]
    fn who_brings_as_many_more_outcomes_is_busy_and_who_spends_little_of_the_limit_is_no_matter() {
        let (mut watch, now) = usual_hour(&["a"]);
        assert_eq!(seconds_until_found(&mut watch.clone(), "a", 100, 5, now), None, "20 a piece, as ever");
        assert_eq!(watch.look(&RULE, LIMIT, now), []);
        for second in 1..=300 {
            watch.spent("a", 4, now + second * SECOND);
            assert_eq!(watch.look(&RULE, 100 * LIMIT, now + second * SECOND), []);
        }
    }

    #[test]
    fn a_new_agent_is_measured_by_its_peers_and_where_there_are_none_by_the_limit() {
        let (mut watch, now) = usual_hour(&["a", "b", "c"]);
        assert_eq!(seconds_until_found(&mut watch.clone(), "new", 3, 0, now), None, "nine times a peer's rate");
        let (_, running) = seconds_until_found(&mut watch, "new", 100, 0, now).expect("found");
        assert_eq!(running.basis, Basis::Peers);
        let mut alone = Watch::default();
        assert_eq!(seconds_until_found(&mut alone.clone(), "first", 30, 0, 0), None, "nine thousand in five minutes are no tenth");
        let (seconds, running) = seconds_until_found(&mut alone, "first", 200, 0, 0).expect("found");
        assert_eq!((seconds, running.basis), (50, Basis::Limit), "a tenth of the limit");
    }

    #[test]
    fn one_dear_call_is_no_loop() {
        let (mut watch, now) = usual_hour(&["a"]);
        for second in 0..120 {
            if second == 1 {
                watch.spent("a", 50_000, now + SECOND);
            } else if second % 15 == 0 {
                watch.spent("a", 5, now + second * SECOND);
            }
            assert_eq!(watch.look(&RULE, LIMIT, now + second * SECOND), []);
        }
    }

    #[test]
    fn it_has_run_once_it_was_calm_for_five_minutes_and_nobody_gets_used_to_it() {
        let (mut watch, now) = usual_hour(&["a"]);
        let (seconds, _) = seconds_until_found(&mut watch, "a", 100, 0, now).expect("found");
        let mut at = now + seconds * SECOND;
        for _ in 0..30 * 60 {
            at += SECOND;
            watch.spent("a", 100, at);
            let running = watch.look(&RULE, LIMIT, at);
            assert_eq!(running.first().map(|r| r.usual), Some(20));
        }
        let stopped = at;
        while !watch.look(&RULE, LIMIT, at).is_empty() {
            at += 5 * SECOND;
        }
        let calm = (at - stopped) / SECOND;
        assert!((300..=370).contains(&calm), "{calm}");
        // It is as quick to see the next.
        assert!(seconds_until_found(&mut watch, "a", 100, 0, at).expect("found").0 <= 15);
    }

    #[test]
    fn a_budget_remembers_so_many_values_and_forgets_the_silent_first() {
        let mut watch = Watch::default();
        for n in 0..2 * MAX_VALUES {
            watch.spent(&format!("s{n}"), 1, n as i64);
        }
        assert_eq!(watch.0.len(), MAX_VALUES);
        assert!(watch.0.contains_key(&format!("s{}", 2 * MAX_VALUES - 1)) && !watch.0.contains_key("s0"));
    }

    proptest! {
        #[test]
        fn nobody_runs_who_never_spends_ten_times_its_usual_minute(
            calls in prop::collection::vec((5..9i128, 1..20i64), 100..600),
        ) {
            // Calls of similar cost, one each second to twenty: a minute costs at most 60 · 8 and its median at least 3 · 5 …
            let (mut watch, mut at) = (Watch::default(), 0);
            for (amount, pause) in calls {
                at += pause * SECOND;
                watch.spent("a", amount, at);
                for running in watch.look(&RULE, 1_000, at) {
                    // … so whoever is found did spend ten times as much.
                    prop_assert!(running.per_minute >= 10 * running.usual);
                }
            }
        }
    }
}
