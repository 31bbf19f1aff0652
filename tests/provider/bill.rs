//! The provider's own bill: who called, how many tokens, for how much, and how many calls were in flight at once.
//!
//! Input is billed when a call is taken on, output as it is generated, piece by piece: whatever ends a call early, what was
//! generated until then is on the bill and nothing more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::models::{Input, Model, WEB_SEARCH};
use crate::prompt::Searched;

/// Labels that get a line of their own; later ones share [`OTHERS`], so that callers cannot fill the memory.
const MOST_LABELS: usize = 1_000;
const LONGEST_LABEL: usize = 120;
const OTHERS: &str = "(others)";
/// Calls that name no end user.
pub const UNLABELLED: &str = "unlabelled";

/// One line of the bill.
#[derive(Clone, Debug, Default)]
struct Tally {
    calls: u64,
    input: Input,
    output: u64,
    pico_usd: u128,
    in_flight: u64,
    max_in_flight: u64,
}

#[derive(Debug, Default)]
struct Books {
    total: Tally,
    by_label: BTreeMap<String, Tally>,
    by_model: BTreeMap<&'static str, Tally>,
    refused_keys: u64,
}

#[derive(Debug, Default)]
pub struct Bill(Mutex<Books>);

impl Bill {
    /// A call is in flight from now on, until the guard is dropped. It costs nothing yet.
    pub fn open(self: &Arc<Self>, label: &str, model: &'static Model) -> Call {
        let mut books = self.books();
        let mut label: String = label.chars().take(LONGEST_LABEL).collect();
        if books.by_label.len() >= MOST_LABELS && !books.by_label.contains_key(&label) {
            label = OTHERS.to_owned();
        }
        let call = Call { bill: Arc::clone(self), label, model };
        call.enter(&mut books, |tally| {
            tally.in_flight += 1;
            tally.max_in_flight = tally.max_in_flight.max(tally.in_flight);
        });
        drop(books);
        call
    }

    pub fn count_refused_key(&self) {
        self.books().refused_keys += 1;
    }

    /// A new bill; calls still in flight stay counted as such, and what they generate from now on is on the new bill.
    pub fn reset(&self) {
        let mut books = self.books();
        let keep = |tally: &Tally| Tally { in_flight: tally.in_flight, max_in_flight: tally.in_flight, ..Tally::default() };
        books.total = keep(&books.total);
        books.by_label.retain(|_, tally| tally.in_flight > 0);
        books.by_label.values_mut().for_each(|tally| *tally = keep(tally));
        books.by_model.retain(|_, tally| tally.in_flight > 0);
        books.by_model.values_mut().for_each(|tally| *tally = keep(tally));
        books.refused_keys = 0;
    }

    pub fn statement(&self) -> Statement {
        let books = self.books();
        Statement {
            total: Line::of(&books.total),
            by_label: books.by_label.iter().map(|(label, tally)| (label.clone(), Line::of(tally))).collect(),
            by_model: books.by_model.iter().map(|(model, tally)| (*model, Line::of(tally))).collect(),
            refused_keys: books.refused_keys,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in flight, and its way to the bill.
#[derive(Debug)]
pub struct Call {
    bill: Arc<Bill>,
    label: String,
    model: &'static Model,
}

impl Call {
    /// The call is taken on: it counts, and its input is billed.
    pub fn bill_input(&self, input: Input) {
        let cost = self.model.input_cost(&input);
        self.enter(&mut self.bill.books(), |tally| {
            tally.calls += 1;
            tally.input.add(&input);
            tally.pico_usd += cost;
        });
    }

    /// Searches that were made within the call.
    pub fn bill_searches(&self, searched: &Searched) {
        let cost = self.model.input_cost(&searched.input) + u128::from(searched.searches) * WEB_SEARCH;
        self.enter(&mut self.bill.books(), |tally| {
            tally.input.add(&searched.input);
            tally.pico_usd += cost;
        });
    }

    pub fn bill_output(&self, tokens: u64) {
        let cost = self.model.output_cost(tokens);
        self.enter(&mut self.bill.books(), |tally| {
            tally.output += tokens;
            tally.pico_usd += cost;
        });
    }

    fn enter(&self, books: &mut Books, entry: impl Fn(&mut Tally)) {
        entry(&mut books.total);
        entry(books.by_label.entry(self.label.clone()).or_default());
        entry(books.by_model.entry(self.model.name).or_default());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.enter(&mut self.bill.books(), |tally| tally.in_flight -= 1);
    }
}

/// The bill as others read it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    pub total: Line,
    pub by_label: BTreeMap<String, Line>,
    pub by_model: BTreeMap<&'static str, Line>,
    pub refused_keys: u64,
}

/// Amounts are strings: a number in JSON may be read as a float.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub calls: u64,
    pub input_tokens: u64,
    /// Part of the input tokens.
    pub cached_input_tokens: u64,
    /// Part of the input tokens.
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
    pub pico_usd: String,
    pub usd: String,
    pub in_flight: u64,
    pub max_in_flight: u64,
}

impl Line {
    fn of(tally: &Tally) -> Line {
        Line {
            calls: tally.calls,
            input_tokens: tally.input.tokens(),
            cached_input_tokens: tally.input.cached_read,
            cache_write_tokens: tally.input.cache_write + tally.input.cache_write_long,
            output_tokens: tally.output,
            pico_usd: tally.pico_usd.to_string(),
            usd: decimal(tally.pico_usd),
            in_flight: tally.in_flight,
            max_in_flight: tally.max_in_flight,
        }
    }
}

/// Dollars, exactly, with at least two decimals.
fn decimal(pico_usd: u128) -> String {
    const USD: u128 = 1_000_000_000_000;
    let decimals = format!("{:012}", pico_usd % USD);
    let kept = decimals.trim_end_matches('0').len().max(2);
    format!("{}.{}", pico_usd / USD, &decimals[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Vendor, find};

    fn fresh(tokens: u64) -> Input {
        Input { fresh: tokens, ..Input::default() }
    }

    #[test]
    fn a_bill_is_exact_to_the_pico_dollar() {
        let bill = Arc::new(Bill::default());
        let nano = find(Vendor::OpenAi, "gpt-5.4-nano").unwrap();
        let opus = find(Vendor::Anthropic, "claude-opus-5").unwrap();
        for _ in 0..3 {
            let call = bill.open("bot", nano);
            call.bill_input(fresh(7));
            call.bill_output(2);
            call.bill_output(9);
        }
        let call = bill.open("assistant", opus);
        call.bill_input(Input { cached_read: 100, ..fresh(1) });
        let statement = bill.statement();
        assert_eq!(statement.by_label["bot"].pico_usd, (3 * (7 * 200_000 + 11 * 1_250_000)).to_string());
        assert_eq!(statement.by_label["bot"].usd, "0.00004545");
        assert_eq!(statement.by_model["claude-opus-5"].usd, "0.000055");
        assert_eq!(statement.total.usd, "0.00010045");
        assert_eq!((statement.total.calls, statement.total.input_tokens, statement.total.output_tokens), (4, 122, 33));
    }

    #[test]
    fn an_amount_loses_no_digit() {
        assert_eq!(decimal(0), "0.00");
        assert_eq!(decimal(1), "0.000000000001");
        assert_eq!(decimal(998_341_000_000), "0.998341");
        assert_eq!(decimal(12_500_000_000_000), "12.50");
    }

    #[test]
    fn the_most_calls_in_flight_at_once_are_remembered() {
        let bill = Arc::new(Bill::default());
        let model = find(Vendor::OpenAi, "gpt-5").unwrap();
        let calls: Vec<_> = (0..5).map(|_| bill.open("a", model)).collect();
        drop(calls);
        let kept = bill.open("b", model);
        let statement = bill.statement();
        assert_eq!((statement.total.max_in_flight, statement.total.in_flight), (5, 1));
        assert_eq!(statement.by_label["b"].max_in_flight, 1);
        bill.reset();
        assert_eq!(bill.statement().total.max_in_flight, 1);
        drop(kept);
        assert_eq!(bill.statement().total.in_flight, 0);
    }

    #[test]
    fn a_call_that_fails_before_it_is_taken_on_costs_nothing() {
        let bill = Arc::new(Bill::default());
        drop(bill.open("a", find(Vendor::OpenAi, "gpt-5").unwrap()));
        assert_eq!(bill.statement().total.calls, 0);
        assert_eq!(bill.statement().total.usd, "0.00");
    }

    #[test]
    fn labels_cannot_fill_the_memory() {
        let bill = Arc::new(Bill::default());
        let model = find(Vendor::OpenAi, "gpt-5").unwrap();
        for caller in 0..MOST_LABELS + 50 {
            bill.open(&caller.to_string(), model).bill_input(fresh(1));
        }
        assert_eq!(bill.statement().by_label.len(), MOST_LABELS + 1);
        assert_eq!(bill.statement().by_label[OTHERS].calls, 50);
    }
}
