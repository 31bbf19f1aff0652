//! The embedded price catalogue, and the formats that price lists come in.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::value::RawValue;

use super::money::PicoUsd;
use super::price::{Catalogue, ModelPrice};
use super::tariff::{Rates, Schedule, ServiceTier, Step, Tariff};

/// Why a price list, or a price in it, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceListError {
    #[error("not a price list: {0}")]
    Malformed(String),
    #[error(
        "model {model}: {field} is {text}, which is no exact number of pico-dollars per token; prices have up to six decimals per million tokens"
    )]
    Inexact { model: String, field: &'static str, text: String },
}

/// The list that people read and change.
pub const SOURCE: &str = include_str!("catalogue.yaml");

/// List prices as of the release; see [`SOURCE`] for where they are from. It is generated as JSON, which a sidecar reads for other reasons too.
pub fn embedded() -> &'static Catalogue {
    static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
        let prices: Vec<ModelPrice> =
            serde_json::from_str(include_str!("catalogue.json")).expect("the embedded catalogue is valid: a test reads it");
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

/// Reads a list in the format of LiteLLM's `model_prices_and_context_window.json`. Models without a price for input and
/// output are left out, and so are prices of zero: hosted models are not free, so a zero means "unknown". Only what embeds text
/// has no price for output. A model with a price that is finer than a pico-dollar per token (out of another currency) is left out,
/// and so has no price; the second list says why.
///
/// # Errors
/// When it is not such a map.
pub fn from_litellm(json: &str, effective_from: &str) -> Result<(Vec<ModelPrice>, Vec<PriceListError>), PriceListError> {
    let entries: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|e| PriceListError::Malformed(e.to_string()))?;
    let (mut prices, mut left_out) = (Vec::new(), Vec::new());
    for (model, entry) in entries {
        let Ok(fields) = serde_json::from_str(entry.get()) else { continue };
        let entry = LiteLlmEntry { model: &model, fields };
        let tariff = match entry.tariff() {
            Ok(Some(tariff)) => tariff,
            Ok(None) => continue,
            Err(error) => {
                left_out.push(error);
                continue;
            }
        };
        prices.push(ModelPrice {
            effective_from: effective_from.to_owned(),
            source: entry.text("source").unwrap_or_default(),
            tariff: Arc::new(tariff),
            context_window: entry.tokens("max_input_tokens"),
            max_output: entry.tokens("max_output_tokens"),
            model,
        });
    }
    Ok((prices, left_out))
}

/// A model of LiteLLM's map. Its prices are US dollars per token, under names put together of meter, context step and service tier:
/// `cache_read_input_token_cost_above_272k_tokens_priority`.
struct LiteLlmEntry<'a> {
    model: &'a str,
    fields: BTreeMap<String, &'a RawValue>,
}

impl LiteLlmEntry<'_> {
    /// `None` for what has no price.
    fn tariff(&self) -> Result<Option<Tariff>, PriceListError> {
        let Some(input) = self.price("input_cost_per_token", "")? else { return Ok(None) };
        let Some(output) = self.output("")? else { return Ok(None) };
        let standard = self.schedule(&Rates::plain(input, output), "")?;
        let mut tiers = BTreeMap::new();
        for (tier, suffix) in [(ServiceTier::Batch, "_batches"), (ServiceTier::Flex, "_flex"), (ServiceTier::Priority, "_priority")] {
            let own = self.price("input_cost_per_token", suffix)?;
            if let (Some(input), Some(output)) = (own, self.output(suffix)?) {
                let mut schedule = self.schedule(&Rates::plain(input, output), suffix)?;
                // A step that the tier has no figures of is at least as dear as the standard one's.
                if schedule.steps.is_empty() {
                    schedule.steps = standard.steps.iter().map(|s| Step { above: s.above, rates: s.rates.max(&schedule.rates) }).collect();
                }
                tiers.insert(tier, schedule);
            }
        }
        let multiplier = |name| self.specific(name).map_or(Ok(None), |value| hundredths(self.model, name, value).map(Some));
        if let Some(percent) = multiplier("fast")? {
            let times = |step: &Step| Step { above: step.above, rates: step.rates.percent(percent) };
            let fast = Schedule { rates: standard.rates.percent(percent), steps: standard.steps.iter().map(times).collect() };
            tiers.insert(ServiceTier::Fast, fast);
        }
        let regional = [
            multiplier("us")?,
            self.uplift("regional_processing_uplift_multiplier_eu")?,
            self.uplift("regional_processing_uplift_multiplier_us")?,
        ];
        let uplift = regional.into_iter().flatten().max().unwrap_or(100).saturating_sub(100);
        Ok(Some(Tariff { standard, tiers, regional_uplift_percent: uplift, web_search: self.web_search()? }))
    }

    /// The rates of a tier, by the suffix of its fields; `plain` has its input and output.
    fn schedule(&self, plain: &Rates, suffix: &str) -> Result<Schedule, PriceListError> {
        let rates = self.rates(plain, "", suffix)?;
        let mut steps = Vec::new();
        for name in self.fields.keys() {
            let Some(thousands) =
                name.strip_prefix("input_cost_per_token_above_").and_then(|n| n.strip_suffix(&format!("k_tokens{suffix}")))
            else {
                continue;
            };
            let (Ok(thousands), step) = (thousands.parse::<u64>(), format!("_above_{thousands}k_tokens")) else { continue };
            let Some(input) = self.price("input_cost_per_token", &format!("{step}{suffix}"))? else { continue };
            let output = self.price("output_cost_per_token", &format!("{step}{suffix}"))?.unwrap_or(plain.output);
            steps.push(Step { above: thousands * 1_000, rates: self.rates(&Rates::plain(input, output), &step, suffix)? });
        }
        steps.sort_by_key(|step| step.above);
        Ok(Schedule { rates, steps })
    }

    fn rates(&self, plain: &Rates, step: &str, suffix: &str) -> Result<Rates, PriceListError> {
        let rate =
            |name: &'static str, other: PicoUsd| Ok::<_, PriceListError>(self.price(name, &format!("{step}{suffix}"))?.unwrap_or(other));
        let cache_write = rate("cache_creation_input_token_cost", plain.input)?;
        let hour = rate("cache_creation_input_token_cost_above_1hr", cache_write)?;
        Ok(Rates {
            input: plain.input,
            cached_read: rate("cache_read_input_token_cost", plain.input)?,
            cache_write: cache_write.max(plain.input),
            cache_write_long: hour.max(rate("cache_creation_input_token_cost_above_12hr", hour)?).max(cache_write).max(plain.input),
            audio_input: rate("input_cost_per_audio_token", plain.input)?,
            image_input: rate("input_cost_per_image_token", plain.input)?,
            output: plain.output,
            audio_output: rate("output_cost_per_audio_token", plain.output)?,
            image_output: rate("output_cost_per_image_token", plain.output)?,
        })
    }

    /// What a token of text costs that is put out; for what only draws, that of an image, and for what only embeds, nothing.
    fn output(&self, suffix: &str) -> Result<Option<PicoUsd>, PriceListError> {
        let embeds = self.text("mode").as_deref() == Some("embedding");
        let image = self.price("output_cost_per_image_token", suffix)?;
        Ok(self.price("output_cost_per_token", suffix)?.or(image).or(embeds.then_some(PicoUsd::ZERO)))
    }

    /// A positive price; `None` where there is none, or zero.
    fn price(&self, name: &'static str, suffix: &str) -> Result<Option<PicoUsd>, PriceListError> {
        per_token(self.model, name, self.fields.get(&format!("{name}{suffix}")).copied())
    }

    /// The dearest of the search's context sizes.
    fn web_search(&self) -> Result<Option<PicoUsd>, PriceListError> {
        let Some(sizes) = self.fields.get("search_context_cost_per_query") else { return Ok(None) };
        let sizes: BTreeMap<String, &RawValue> = serde_json::from_str(sizes.get()).unwrap_or_default();
        let prices = sizes.into_values().map(|size| per_token(self.model, "search_context_cost_per_query", Some(size)));
        Ok(prices.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().max())
    }

    /// A multiplier in `provider_specific_entry`.
    fn specific(&self, name: &str) -> Option<&RawValue> {
        let specific: BTreeMap<String, &RawValue> = serde_json::from_str(self.fields.get("provider_specific_entry")?.get()).ok()?;
        specific.get(name).copied()
    }

    fn uplift(&self, name: &'static str) -> Result<Option<u32>, PriceListError> {
        self.fields.get(name).map(|value| hundredths(self.model, name, value)).transpose()
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.fields.get(name)?.get()).ok()
    }

    fn tokens(&self, name: &str) -> Option<u64> {
        serde_json::from_str(self.fields.get(name)?.get()).ok()
    }
}

/// A multiplier such as `1.1` in hundredths.
fn hundredths(model: &str, field: &'static str, value: &RawValue) -> Result<u32, PriceListError> {
    const PICO_PER_HUNDREDTH: i128 = 10_000_000_000;
    let exact = pico_of_json_number(value.get()).filter(|pico| pico % PICO_PER_HUNDREDTH == 0);
    let hundredths = exact.and_then(|pico| u32::try_from(pico / PICO_PER_HUNDREDTH).ok());
    hundredths.ok_or_else(|| PriceListError::Inexact { model: model.to_owned(), field, text: value.get().to_owned() })
}

/// A positive price from JSON's own digits (`2.5e-06`), never through a float.
fn per_token(model: &str, field: &'static str, value: Option<&RawValue>) -> Result<Option<PicoUsd>, PriceListError> {
    // The map's sample entry describes its fields in sentences.
    let Some(value) = value.filter(|v| v.get() != "null" && !v.get().starts_with('"')) else { return Ok(None) };
    let inexact = || PriceListError::Inexact { model: model.to_owned(), field, text: value.get().to_owned() };
    let pico = pico_of_json_number(value.get()).filter(|pico| *pico <= PicoUsd::MOST_PER_TOKEN.0).ok_or_else(inexact)?;
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
            let r = price.tariff.list();
            for rate in [r.input, r.cached_read, r.cache_write, r.cache_write_long] {
                assert!(rate > PicoUsd::ZERO, "{}", price.model);
            }
            // What embeds text puts none out, and what draws has no window.
            let embeds = r.output == PicoUsd::ZERO;
            let draws = price.model.starts_with("gpt-image");
            assert_eq!(price.max_output.is_none(), embeds || draws, "{}", price.model);
            assert_eq!(price.context_window.is_none(), draws, "{}", price.model);
        }
    }

    #[test]
    fn figures_are_those_of_the_list() {
        let opus = *embedded().latest("claude-opus-5").expect("a price").tariff.list();
        let per_million = |text| PicoUsd::per_token_from_per_million(text).expect("a price");
        assert_eq!((opus.input, opus.cached_read, opus.output), (per_million("5"), per_million("0.5"), per_million("25")));
        assert_eq!((opus.cache_write, opus.cache_write_long), (per_million("6.25"), per_million("10")));
    }

    #[test]
    fn a_litellm_map_is_read_digit_by_digit() {
        let json = r#"{"sample_spec": {"input_cost_per_token": "a number"},
            "gpt-x": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 0.000015, "cache_read_input_token_cost": 2.5E-7, "max_input_tokens": 1000},
            "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0}, "embedder": {"input_cost_per_token": 1e-7}}"#;
        let (prices, left_out) = from_litellm(json, "2026-11-24").expect("a list");
        assert_eq!(left_out, []);
        assert_eq!(prices.len(), 1);
        let r = *prices[0].tariff.list();
        assert_eq!((r.input.0, r.cached_read.0, r.cache_write.0, r.output.0), (2_500_000, 250_000, 2_500_000, 15_000_000));
        let fine = r#"{"m": {"input_cost_per_token": 1.5e-12, "output_cost_per_token": 1e-6}}"#;
        let (prices, left_out) = from_litellm(fine, "2026-11-24").expect("a list");
        assert!(prices.is_empty() && matches!(left_out[..], [PriceListError::Inexact { .. }]));
        let absurd = r#"{"m": {"input_cost_per_token": 0.01e40, "output_cost_per_token": 1e-6}}"#;
        assert!(from_litellm(absurd, "2026-11-24").expect("a list").0.is_empty());
    }
}
