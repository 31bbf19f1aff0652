//! The embedded price catalogue, and the formats that price lists come in.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::money::PicoUsd;
use super::price::{Catalogue, ModelPrice, Rates};

/// Why a price list cannot be used; nothing of it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceListError {
    #[error("not a price list: {0}")]
    Malformed(String),
    #[error(
        "model {model}: {field} is {text}, which is no exact number of pico-dollars per token; prices have up to six decimals per million tokens"
    )]
    Inexact { model: String, field: &'static str, text: String },
}

/// List prices as of the release; see the file for their sources.
pub fn embedded() -> &'static Catalogue {
    static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
        let prices = from_yaml(include_str!("catalogue.yaml")).expect("the embedded catalogue is valid: a test reads it");
        Catalogue::new(prices)
    });
    &EMBEDDED
}

/// Reads a list in Spendkeeper's own format, that of `catalogue.yaml`.
///
/// # Errors
/// When it is not such a list.
pub fn from_yaml(text: &str) -> Result<Vec<ModelPrice>, PriceListError> {
    serde_saphyr::from_str(text).map_err(|e| PriceListError::Malformed(e.to_string()))
}

/// Fields of LiteLLM's price map that are used, US dollars per token.
#[derive(Deserialize)]
struct LiteLlmEntry<'a> {
    #[serde(borrow)]
    input_cost_per_token: Option<&'a RawValue>,
    #[serde(borrow)]
    output_cost_per_token: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_read_input_token_cost: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_token_cost: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_creation_input_token_cost_above_1hr: Option<&'a RawValue>,
    max_input_tokens: Option<serde_json::Value>,
    max_output_tokens: Option<serde_json::Value>,
    source: Option<String>,
}

/// Reads a list in the format of LiteLLM's `model_prices_and_context_window.json`. Models without a price for input and
/// output are left out, and so are prices of zero: hosted models are not free, so a zero means "unknown".
///
/// # Errors
/// When it is not such a map, or a price is finer than a pico-dollar per token.
pub fn from_litellm(json: &str, effective_from: &str) -> Result<Vec<ModelPrice>, PriceListError> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|e| PriceListError::Malformed(e.to_string()))?;
    let mut prices = Vec::new();
    for (model, entry) in entries {
        let Ok(entry) = serde_json::from_str::<LiteLlmEntry<'_>>(entry.get()) else { continue };
        let rate = |field, value: Option<&RawValue>| per_token(&model, field, value);
        let (Some(input), Some(output)) =
            (rate("input_cost_per_token", entry.input_cost_per_token)?, rate("output_cost_per_token", entry.output_cost_per_token)?)
        else {
            continue;
        };
        let cached_read = rate("cache_read_input_token_cost", entry.cache_read_input_token_cost)?.unwrap_or(input);
        let cache_write = rate("cache_creation_input_token_cost", entry.cache_creation_input_token_cost)?.unwrap_or(input);
        let long =
            rate("cache_creation_input_token_cost_above_1hr", entry.cache_creation_input_token_cost_above_1hr)?.unwrap_or(cache_write);
        let tokens = |value: &Option<serde_json::Value>| value.as_ref().and_then(serde_json::Value::as_u64);
        prices.push(ModelPrice {
            effective_from: effective_from.to_owned(),
            source: entry.source.clone().unwrap_or_default(),
            rates: Rates { input, cached_read, cache_write, cache_write_long: long, output },
            context_window: tokens(&entry.max_input_tokens),
            max_output: tokens(&entry.max_output_tokens),
            model,
        });
    }
    Ok(prices)
}

/// A positive price from JSON's own digits (`2.5e-06`), never through a float.
fn per_token(model: &str, field: &'static str, value: Option<&RawValue>) -> Result<Option<PicoUsd>, PriceListError> {
    // The map's sample entry describes its fields in sentences.
    let Some(value) = value.filter(|v| v.get() != "null" && !v.get().starts_with('"')) else { return Ok(None) };
    let inexact = || PriceListError::Inexact { model: model.to_owned(), field, text: value.get().to_owned() };
    let pico = pico_of_json_number(value.get()).ok_or_else(inexact)?;
    Ok((pico > 0).then_some(PicoUsd(pico)))
}

/// A JSON number of dollars as pico-dollars; `None` when it is negative, finer than a pico-dollar, or no number.
fn pico_of_json_number(text: &str) -> Option<i128> {
    const PICO_DECIMALS: i32 = 12;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 30 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: i128 = digits.parse().ok()?;
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(PICO_DECIMALS)?;
    let power = 10_i128.checked_pow(shift.unsigned_abs().min(38))?;
    match shift {
        0.. => value.checked_mul(power),
        _ if value % power == 0 => Some(value / power),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_catalogue_is_complete_and_has_no_free_models() {
        assert!(embedded().iter().count() >= 45);
        for price in embedded().iter() {
            let r = price.rates;
            for rate in [r.input, r.cached_read, r.cache_write, r.cache_write_long, r.output] {
                assert!(rate > PicoUsd::ZERO, "{}", price.model);
            }
            assert!(price.context_window.is_some() && price.max_output.is_some(), "{}", price.model);
        }
    }

    #[test]
    fn figures_are_those_of_the_list() {
        let opus = embedded().latest("claude-opus-5").expect("a price").rates;
        let per_million = |text| PicoUsd::per_token_from_per_million(text).expect("a price");
        assert_eq!((opus.input, opus.cached_read, opus.output), (per_million("5"), per_million("0.5"), per_million("25")));
        assert_eq!((opus.cache_write, opus.cache_write_long), (per_million("6.25"), per_million("10")));
    }

    #[test]
    fn a_litellm_map_is_read_digit_by_digit() {
        let json = r#"{"sample_spec": {"input_cost_per_token": "a number"},
            "gpt-x": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 0.000015, "cache_read_input_token_cost": 2.5E-7, "max_input_tokens": 1000},
            "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0}, "embedder": {"input_cost_per_token": 1e-7}}"#;
        let prices = from_litellm(json, "2026-11-24").expect("a list");
        assert_eq!(prices.len(), 1);
        let r = prices[0].rates;
        assert_eq!((r.input.0, r.cached_read.0, r.cache_write.0, r.output.0), (2_500_000, 250_000, 2_500_000, 15_000_000));
        let fine = r#"{"m": {"input_cost_per_token": 1.5e-12, "output_cost_per_token": 1e-6}}"#;
        assert!(matches!(from_litellm(fine, "2026-11-24"), Err(PriceListError::Inexact { .. })));
    }
}
