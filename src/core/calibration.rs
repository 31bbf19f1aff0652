//! Learning from use how many tokens a model counts: for each model and class of text, what 99.9 % of the calls did not exceed.
//!
//! A call is compared by its [`Shape`], tokens billed to quarters of pieces. The estimate is an order statistic: of `n` earlier ratios the
//! one that `k` exceed is exceeded by the next with probability `(k + 1) / (n + 1)`, whatever their distribution, as long as calls come
//! from the same one (S. S. Wilks, *Determination of Sample Sizes for Setting Tolerance Limits*, Annals of Mathematical Statistics 12,
//! 1941). So nothing is estimated before [`ENOUGH`] calls of a kind, and then one in [`ONE_IN`] is exceeded at most.
//!
//! Ratios are kept in a histogram with steps of a thirty-second, in two windows of calls: what a model did before them is forgotten. All
//! is integers, so that the same calls give the same estimate.

use std::collections::BTreeMap;

use super::shape::{Class, Shape};

/// Of so many calls one may cost more than its estimate.
pub const ONE_IN: u64 = 1_000;
/// Calls of a kind before there is an estimate.
pub const ENOUGH: u64 = ONE_IN - 1;
/// Calls that a window takes.
const WINDOW: u64 = 8_192;
/// Models that are learnt; of further ones nothing is.
const MOST_MODELS: usize = 64;
/// Steps of the histogram: ratios from a thirty-second of a token to about eight tokens a quarter.
const STEPS: usize = 172;
/// What an edge is a fraction of.
const SCALE: u64 = 1_024;

/// The largest ratio of each step.
const EDGES: [u64; STEPS] = {
    let mut edges = [SCALE / 32; STEPS];
    let mut step = 1;
    while step < STEPS {
        let before = edges[step - 1];
        edges[step] = before + before.div_ceil(32);
        step += 1;
    }
    edges
};

/// What is known of every model's tokens.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    models: BTreeMap<String, [Option<Box<Ratios>>; Class::ALL.len()]>,
}

impl Calibration {
    /// A call of this shape was billed so many input tokens.
    pub fn learn(&mut self, model: &str, shape: Shape, billed: u64) {
        if !self.models.contains_key(model) {
            if self.models.len() >= MOST_MODELS {
                return;
            }
            self.models.insert(model.to_owned(), Default::default());
        }
        if let Some(classes) = self.models.get_mut(model) {
            classes[shape.class as usize].get_or_insert_default().add(shape, billed);
        }
    }

    /// Input tokens that 99.9 % of the calls of this shape do not exceed; `None` before enough is known.
    pub fn estimate(&self, model: &str, shape: Shape) -> Option<u64> {
        let edge = self.models.get(model)?[shape.class as usize].as_ref()?.edge()?;
        Some(shape.quarters.saturating_mul(edge).div_ceil(SCALE))
    }
}

/// Ratios of tokens to quarters, in the window under way and the one before.
#[derive(Clone, Debug, Default)]
struct Ratios {
    current: Window,
    before: Window,
}

#[derive(Clone, Debug)]
struct Window {
    calls: u64,
    /// Calls whose ratio is not above the edge of the step, and above that of the one before; the last have no edge.
    steps: [u16; STEPS + 1],
}

impl Default for Window {
    fn default() -> Window {
        Window { calls: 0, steps: [0; STEPS + 1] }
    }
}

impl Ratios {
    fn add(&mut self, shape: Shape, billed: u64) {
        if self.current.calls == WINDOW {
            self.before = std::mem::take(&mut self.current);
        }
        let ratio = u128::from(billed) * u128::from(SCALE);
        let step = EDGES.partition_point(|edge| u128::from(*edge) * u128::from(shape.quarters) < ratio);
        self.current.calls += 1;
        self.current.steps[step] += 1;
    }

    /// The edge that few enough calls exceed; `None` when the calls are too few, or some of those few beyond every edge.
    fn edge(&self) -> Option<u64> {
        let calls = self.current.calls + self.before.calls;
        let mut may_exceed = ((calls + 1) / ONE_IN).checked_sub(1)?;
        for step in (0..=STEPS).rev() {
            let here = u64::from(self.current.steps[step]) + u64::from(self.before.steps[step]);
            match may_exceed.checked_sub(here) {
                Some(left) => may_exceed = left,
                None => return EDGES.get(step).copied(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
