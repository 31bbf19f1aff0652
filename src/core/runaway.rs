//! Runaways: agents that spend many times what they usually do, seen within seconds.
//!
//! Each value of a dimension is compared with its own past: the minutes in which it spent something. One without a past is compared
//! with its peers, and where there are none, with the limit itself. What also brings as many more outcomes is busy, not running away; and
//! who goes on spending at its usual rate, but brings none any more, runs away, too ([`drought`]).
//! Pure and bounded; the same events lead to the same findings.

mod drought;

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::burn::{Latch, Level};
use super::dimensions::{Dimension, Dimensions, Origin};
use super::history::{MINUTE_MS, Series};
pub use drought::Drought;
use drought::Stretches;

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
/// What is calm for so long has stopped running.
const CALM_MS: i64 = FIVE_MINUTES_MS;
/// Values that are remembered of one budget; whoever was silent longest is forgotten first.
const MAX_VALUES: usize = 1_000;

/// The limit by which a runaway is worth a word: one that would last for years matters to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// In the unit of what is noted.
    pub limit: i128,
    /// The limit's window; `None` for ever.
    pub window_ms: Option<i64>,
}

impl Scale {
    /// A part of the limit, or, of a longer window, what is spent in `for_ms` at so many times the rate that its window allows, if
    /// that is less.
    fn least(self, part: i128, times: i128, for_ms: i64) -> i128 {
        let share = self.limit / part;
        let at_rate = self.window_ms.map(|window| self.limit.saturating_mul(times * i128::from(for_ms)) / i128::from(window.max(1)));
        at_rate.map_or(share, |at_rate| at_rate.min(share)).max(1)
    }

    /// What five minutes must have cost to be worth a word: a hundredth of the limit, or what the window allows.
    fn material(self) -> i128 {
        self.least(100, 1, FIVE_MINUTES_MS)
    }

    /// The same of somebody of whom nothing is known: a tenth, or fifty times what the window allows.
    fn material_without_past(self) -> i128 {
        self.least(10, 50, FIVE_MINUTES_MS)
    }

    /// What somebody of whom nothing is known may usually spend in a minute: a five-hundredth, or five times what the window allows.
    fn usual_without_past(self) -> i128 {
        self.least(500, 5, MINUTE_MS)
    }
}

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
    /// Set when it was found by its outcomes, not by its rate.
    pub drought: Option<Drought>,
}

/// One value's spending.
#[derive(Clone, Debug)]
struct Trail {
    spent: Series,
    /// The dearest call of each step: one dear call is no loop.
    dearest: Series,
    outcomes: Series,
    stretches: Stretches,
    /// Minutes in which something was spent, the latest last: what, and for how many outcomes.
    past: VecDeque<(i128, u64)>,
    /// The minute under way.
    minute: i64,
    of_minute: (i128, u64),
    last_ms: i64,
    /// When it was last refused because it is held back.
    refused_ms: Option<i64>,
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
            stretches: Stretches::default(),
            past: VecDeque::new(),
            minute: at_ms.div_euclid(MINUTE_MS),
            of_minute: (0, 0),
            last_ms: at_ms,
            refused_ms: None,
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

    fn look(&mut self, value: &str, factor: i128, scale: Scale, peers: Option<i128>, now_ms: i64) {
        self.turn(now_ms);
        let (usual, basis) = match (self.usual(), peers) {
            (Some(own), _) => (own, Basis::Past),
            (None, Some(peers)) => (peers, Basis::Peers),
            (None, None) => (scale.usual_without_past(), Basis::Limit),
        };
        let minute = Trail::last(&self.spent, MINUTE_MS, now_ms);
        let five_minutes = Trail::last(&self.spent, FIVE_MINUTES_MS, now_ms);
        let material = if basis == Basis::Limit { scale.material_without_past() } else { scale.material() };
        let dearest = self.dearest.largest(now_ms - MINUTE_MS, now_ms);
        let too_fast = minute - dearest >= usual.saturating_mul(factor) && five_minutes >= material;
        // Who is silent does not run, whatever it has brought.
        let drought = self.stretches.drought(factor, scale.material()).filter(|_| minute > 0);
        let runs = too_fast && !self.is_busy(five_minutes, factor, now_ms);
        // Who runs is measured by what was usual when it began.
        let before = self.running.as_ref().map_or(usual, |running| running.usual);
        let is_refused = self.refused_ms.is_some_and(|at| now_ms - at < MINUTE_MS);
        let level = if runs || drought.is_some() {
            Level::Met
        } else if is_refused {
            // That it spends little is not its own doing.
            Level::Between
        } else if minute.saturating_mul(2) < before.saturating_mul(3) {
            Level::Over
        } else {
            Level::Between
        };
        self.latch = self.latch.after(level, now_ms, CALM_MS);
        if !self.latch.is_on() {
            self.running = None;
        } else if self.running.is_none() {
            let allowance = usual.saturating_mul(3).max(1);
            let drought = drought.filter(|_| !runs);
            self.running = Some(Running { value: value.to_owned(), per_minute: minute, usual, basis, allowance, drought });
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
        self.spent_together(value, amount, amount, at_ms);
    }

    /// Calls of `value` ended and cost `amount` together, the dearest of them `dearest`.
    pub fn spent_together(&mut self, value: &str, amount: i128, dearest: i128, at_ms: i64) {
        let trail = self.trail(value, at_ms);
        trail.turn(at_ms);
        trail.spent.add(at_ms, amount);
        trail.dearest.raise(at_ms, dearest);
        trail.stretches.spent(amount, dearest);
        trail.of_minute.0 += amount;
        trail.last_ms = at_ms;
    }

    /// `value` brought so many outcomes; of somebody who never spent anything, none are kept.
    pub fn outcomes(&mut self, value: &str, count: u64, at_ms: i64) {
        if let Some(trail) = self.0.get_mut(value) {
            trail.turn(at_ms);
            trail.outcomes.add(at_ms, count.into());
            if count > 0 {
                trail.stretches.outcome(!trail.latch.is_on());
            }
            trail.of_minute.1 = trail.of_minute.1.saturating_add(count);
        }
    }

    /// `value` asked for more than it may spend while it is held back, and was refused: it would run if it could.
    pub fn refused(&mut self, value: &str, at_ms: i64) {
        if let Some(trail) = self.0.get_mut(value) {
            trail.refused_ms = trail.refused_ms.max(Some(at_ms));
        }
    }

    /// Who runs away now.
    pub fn look(&mut self, rule: &Runaway, scale: Scale, now_ms: i64) -> Vec<Running> {
        let usual: Vec<i128> = self.0.values().filter_map(Trail::usual).collect();
        let peers = (usual.len() >= ENOUGH_PEERS).then(|| median(usual.into_iter()));
        for (value, trail) in &mut self.0 {
            trail.look(value, rule.factor.into(), scale, peers, now_ms);
        }
        self.0.values().filter_map(|trail| trail.running.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
