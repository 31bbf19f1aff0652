//! How much a call sets aside for its input, against what OpenAI's public tokenizers count: the bound by bytes, the bound by words, and
//! what is learnt from use. Nothing is timed, and every run gives the same figures.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "nothing here is measured more than once")]
mod common;
mod corpus;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bpe_openai::{Tokenizer, cl100k_base, o200k_base};
use common::Row;
use corpus::{Call, Draw, KINDS};
use spendkeeper::core::calibration::Calibration;
use spendkeeper::core::policy::Protocol;
use spendkeeper::core::shape::Shape;
use spendkeeper::llm::{Addressed, parse};

/// Calls of each kind.
const CALLS: usize = 1_500;
const WINDOW: u64 = 400_000;
const MODES: [&str; 3] = ["bytes", "words", "calibrated"];

/// What was set aside for each token that was billed.
#[derive(Default)]
struct Ratios(Vec<f64>);

impl Ratios {
    fn add(&mut self, reserved: u64, billed: u64) {
        self.0.push(reserved as f64 / billed as f64);
    }

    fn under(&self) -> usize {
        self.0.iter().filter(|ratio| **ratio < 1.0).count()
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0.get((self.0.len() * percent / 100).min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

/// One line of the report: a kind of text with one vocabulary, by mode. Of the calibrated mode only calls with an estimate.
type Line = [Ratios; MODES.len()];

/// What is counted by one vocabulary.
struct Count {
    vocabulary: &'static str,
    tokenizer: &'static Tokenizer,
    calibration: Calibration,
    lines: BTreeMap<&'static str, Line>,
}

impl Count {
    fn new(vocabulary: &'static str, tokenizer: &'static Tokenizer) -> Count {
        Count { vocabulary, tokenizer, calibration: Calibration::default(), lines: BTreeMap::new() }
    }

    fn add(&mut self, call: &Call, shape: Shape, (bytes, words): (u64, u64)) {
        let billed = call.framing + call.read.iter().map(|text| self.tokenizer.count(text.as_str()) as u64).sum::<u64>();
        let line = self.lines.entry(call.kind).or_default();
        line[0].add(bytes, billed);
        line[1].add(words, billed);
        if let Some(estimate) = self.calibration.estimate("m", shape) {
            line[2].add(estimate.min(words), billed);
        }
        self.calibration.learn("m", shape, billed);
    }

    fn rows(mut self) -> Vec<Row> {
        let mut all = Line::default();
        for line in self.lines.values() {
            all.iter_mut().zip(line).for_each(|(all, one)| all.0.extend(&one.0));
        }
        let lines = KINDS.iter().filter_map(|(kind, _)| Some((*kind, self.lines.remove(kind)?))).chain([("all", all)]);
        lines.map(|(kind, line)| row(self.vocabulary, kind, line)).collect()
    }
}

fn main() -> Result<()> {
    let mut counts = [Count::new("o200k_base", o200k_base()), Count::new("cl100k_base", cl100k_base())];
    // In one stream, as calls of one pod come.
    let mut draw = Draw::new(0x5eed);
    for _ in 0..CALLS * KINDS.len() {
        let kind = draw.below(KINDS.len());
        let call = corpus::call(&mut draw, kind);
        let request = parse(Addressed::plain(Protocol::OpenAIChat), call.body.to_string().into())?;
        let bounds = (request.billable_input(WINDOW), request.billable_by_words(WINDOW));
        let shape = request.shape().with_context(|| format!("{} is not all text", call.kind))?;
        counts.iter_mut().for_each(|count| count.add(&call, shape, bounds));
    }
    let mut rows = Vec::new();
    for count in counts {
        let name = count.vocabulary;
        let these = count.rows();
        common::print(name, &these);
        rows.extend(these);
    }
    common::write("reservation.json", &rows)?;
    Ok(())
}

fn row(vocabulary: &str, kind: &str, mut line: Line) -> Row {
    const NAMES: [[&str; 4]; MODES.len()] = [
        ["bytes_under", "bytes_mean", "bytes_p50", "bytes_p99"],
        ["words_under", "words_mean", "words_p50", "words_p99"],
        ["calibrated_under", "calibrated_mean", "calibrated_p50", "calibrated_p99"],
    ];
    let calls = line[0].0.len();
    let mut row = Row::default().label("vocabulary", vocabulary).label("text", kind).label("calls", calls);
    row = row.label("calibrated_calls", line[2].0.len());
    for ([under, mean, median, high], ratios) in NAMES.into_iter().zip(&mut line) {
        let two = |value: f64| serde_json::json!((value * 100.0).round() / 100.0);
        row = row.label(under, ratios.under()).label(mean, two(ratios.mean()));
        row = row.label(median, two(ratios.percentile(50))).label(high, two(ratios.percentile(99)));
    }
    row
}
