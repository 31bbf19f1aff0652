//! Prices by model, with the dates from which they hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tariff::Tariff;

/// List prices of one model, from a date on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrice {
    pub model: String,
    /// First day on which these figures hold, `YYYY-MM-DD`.
    pub effective_from: String,
    /// Where the figures were read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(flatten)]
    pub tariff: Arc<Tariff>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
}

/// Prices by model name, each with its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// By model, newest last.
    prices: BTreeMap<String, Vec<ModelPrice>>,
}

impl Catalogue {
    pub fn new(prices: impl IntoIterator<Item = ModelPrice>) -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.overlay(prices);
        catalogue
    }

    /// Adds prices; one with a model and a date that are already there replaces it.
    pub fn overlay(&mut self, prices: impl IntoIterator<Item = ModelPrice>) {
        for price in prices {
            let history = self.prices.entry(price.model.clone()).or_default();
            history.retain(|p| p.effective_from != price.effective_from);
            history.push(price);
            history.sort_by(|a, b| a.effective_from.cmp(&b.effective_from));
        }
    }

    /// The newest price of `model` (its exact name, or the name without a dated suffix such as `-2026-05-01`).
    pub fn latest(&self, model: &str) -> Option<&ModelPrice> {
        self.history(model).and_then(|history| history.last())
    }

    /// The newest price of this very name.
    pub fn exactly(&self, model: &str) -> Option<&ModelPrice> {
        self.prices.get(model)?.last()
    }

    /// The price of `model` on a day (`YYYY-MM-DD`).
    pub fn on(&self, model: &str, day: &str) -> Option<&ModelPrice> {
        self.history(model).and_then(|history| history.iter().rev().find(|p| p.effective_from.as_str() <= day))
    }

    pub fn iter(&self) -> impl Iterator<Item = &ModelPrice> {
        self.prices.values().flatten()
    }

    fn history(&self, model: &str) -> Option<&Vec<ModelPrice>> {
        self.prices.get(model).or_else(|| self.prices.get(without_date(model)?))
    }
}

/// `gpt-5-2026-05-01` and `claude-haiku-4-5-20251001` without their date.
fn without_date(model: &str) -> Option<&str> {
    let is_date = |suffix: &str| {
        let digits = suffix.bytes().filter(u8::is_ascii_digit).count();
        digits == 8 && suffix.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    };
    [11, 9].into_iter().find_map(|length| {
        let (name, suffix) = model.split_at_checked(model.len().checked_sub(length)?)?;
        (suffix.starts_with('-') && is_date(suffix)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::money::PicoUsd;
    use crate::core::tariff::Rates;

    fn price(model: &str, from: &str, input: &str) -> ModelPrice {
        let input = PicoUsd::per_token_from_per_million(input).unwrap();
        ModelPrice {
            model: model.into(),
            effective_from: from.into(),
            source: String::new(),
            tariff: Arc::new(Tariff::flat(Rates::plain(input, input))),
            context_window: None,
            max_output: None,
        }
    }

    #[test]
    fn a_past_day_is_priced_with_the_figures_of_that_day() {
        let catalogue = Catalogue::new([price("m", "2026-06-01", "2"), price("m", "2026-01-01", "1")]);
        let input_on = |day| catalogue.on("m", day).map(|p| p.tariff.list().input.0);
        assert_eq!(input_on("2025-12-31"), None);
        assert_eq!(input_on("2026-05-31"), Some(1_000_000));
        assert_eq!(input_on("2026-06-01"), Some(2_000_000));
        assert_eq!(catalogue.latest("m").map(|p| p.tariff.list().input.0), Some(2_000_000));
    }

    #[test]
    fn a_dated_name_has_the_price_of_its_model() {
        let catalogue = Catalogue::new([price("gpt-5", "2026-01-01", "1")]);
        for name in ["gpt-5", "gpt-5-2026-05-01", "gpt-5-20260501"] {
            assert!(catalogue.latest(name).is_some(), "{name}");
        }
        for name in ["gpt-5-mini", "gpt-5-2026", "gpt", "2026-05-01", ""] {
            assert!(catalogue.latest(name).is_none(), "{name}");
        }
    }
}
