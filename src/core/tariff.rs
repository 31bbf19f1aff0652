//! What a model's tokens cost: by meter, by service tier, by the length of the input, by place; what a call costs, and the most
//! that it can cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::money::PicoUsd;
use super::usage::Usage;

/// Everything that a model's tokens can cost: by service tier, by the length of the input, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tariff {
    /// The standard tier's.
    #[serde(flatten)]
    pub standard: Schedule,
    /// Other service tiers that the provider prices apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<ServiceTier, Schedule>,
    /// Percent on every token where inference is bound to a region.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub regional_uplift_percent: u32,
    /// USD for each web search that the provider makes; `None` when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_search: Option<PicoUsd>,
}

fn is_zero(percent: &u32) -> bool {
    *percent == 0
}

/// Rates of one service tier by the length of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    #[serde(flatten)]
    pub rates: Rates,
    /// From more input tokens than this on, the whole request has these rates; ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// Rates of requests with a long input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Input tokens of every kind.
    pub above: u64,
    #[serde(flatten)]
    pub rates: Rates,
}

/// How fast, how soon or how surely a provider serves a call, where that has a price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub enum ServiceTier {
    #[default]
    Standard,
    /// Within a day.
    Batch,
    /// When there is room.
    Flex,
    /// Before others.
    Priority,
    /// Faster output (Anthropic's fast mode).
    Fast,
}

/// How the provider says that it billed a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billing {
    pub tier: ServiceTier,
    /// Inference was bound to a region.
    pub regional: bool,
}

/// The service tier that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedTier {
    /// None: what the provider's project is set to, which the request does not tell.
    Unsaid,
    /// This one, or the standard one where the provider falls back to it.
    Said(ServiceTier),
}

/// What of a call's input the provider may write to its prompt cache, which costs more than to read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheWrites {
    /// Nothing: the request would have to ask for it.
    Never,
    /// With the short time to live.
    Short,
    /// With any.
    #[default]
    Any,
}

/// What bounds a call's cost before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostBound {
    /// Input tokens at most.
    pub input: u64,
    /// Output tokens at most.
    pub output: u64,
    /// Sound or images may be among them.
    pub media: bool,
    pub web_searches: u64,
    pub tier: AskedTier,
    pub cache: CacheWrites,
    /// Inference may be bound to a region.
    pub regional: bool,
}

impl Tariff {
    /// One price for every length, tier and place.
    pub fn flat(rates: Rates) -> Tariff {
        Tariff { standard: Schedule { rates, steps: Vec::new() }, ..Tariff::default() }
    }

    /// The standard tier's rates for short inputs.
    pub fn list(&self) -> &Rates {
        &self.standard.rates
    }

    /// The exact cost of a call. A tier that the model has no price of costs what the standard one does.
    pub fn cost(&self, usage: &Usage, billing: Billing) -> PicoUsd {
        let schedule = self.tiers.get(&billing.tier).unwrap_or(&self.standard);
        let tokens = schedule.at(usage.total_input()).cost(usage);
        let fees = self.web_search.unwrap_or_default() * usage.web_searches;
        self.placed(tokens, billing.regional) + fees
    }

    /// The most that a call within `bound` can cost: in the dearest tier that may serve it, at the dearest step that its input can
    /// reach, with no cache hit and the dearest cache write.
    pub fn worst_case(&self, bound: &CostBound) -> PicoUsd {
        let schedules = self.reachable(bound.tier).flat_map(|schedule| schedule.reachable(bound.input));
        let tokens = schedules.map(|rates| rates.highest_input(bound) * bound.input + rates.highest_output(bound.media) * bound.output);
        let fees = self.web_search.unwrap_or_default() * bound.web_searches;
        self.placed(tokens.max().unwrap_or_default(), bound.regional) + fees
    }

    /// As [`Tariff::worst_case`], once the provider has said what the input was; `bound.input` is not looked at.
    pub fn worst_case_after(&self, input: &Usage, bound: &CostBound) -> PicoUsd {
        let rates = self.reachable(bound.tier).map(|schedule| schedule.at(input.total_input()));
        let tokens = rates.map(|rates| rates.cost(input) + rates.highest_output(bound.media) * bound.output);
        let fees = self.web_search.unwrap_or_default() * bound.web_searches;
        self.placed(tokens.max().unwrap_or_default(), bound.regional) + fees
    }

    /// The most that one more output token can add to [`Tariff::worst_case`].
    pub fn highest_output(&self, bound: &CostBound) -> PicoUsd {
        let schedules = self.reachable(bound.tier).flat_map(|schedule| schedule.reachable(bound.input));
        let highest = schedules.map(|rates| rates.highest_output(bound.media)).max().unwrap_or_default();
        self.placed(highest, bound.regional)
    }

    /// The schedules of the tiers that a provider may serve the request in.
    fn reachable(&self, asked: AskedTier) -> impl Iterator<Item = &Schedule> {
        let other = self.tiers.iter().filter(move |(tier, _)| match asked {
            AskedTier::Unsaid => matches!(tier, ServiceTier::Flex | ServiceTier::Priority),
            AskedTier::Said(said) => **tier == said,
        });
        std::iter::once(&self.standard).chain(other.map(|(_, schedule)| schedule))
    }

    /// With the uplift of a region, where there is one; a fraction of a pico-dollar counts as a whole one.
    fn placed(&self, amount: PicoUsd, regional: bool) -> PicoUsd {
        let percent = if regional { i128::from(self.regional_uplift_percent) } else { 0 };
        PicoUsd((amount.0 * (100 + percent) + 99).div_euclid(100))
    }
}

impl Schedule {
    /// The rates of a request with so many input tokens.
    fn at(&self, input: u64) -> &Rates {
        self.steps.iter().rev().find(|step| input > step.above).map_or(&self.rates, |step| &step.rates)
    }

    /// Every set of rates that a request of at most so many input tokens may have.
    fn reachable(&self, input: u64) -> impl Iterator<Item = &Rates> {
        let steps = self.steps.iter().filter(move |step| input > step.above);
        std::iter::once(&self.rates).chain(steps.map(|step| &step.rates))
    }
}

/// Pico-dollars per token, by meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RatesInFile", into = "RatesInFile")]
pub struct Rates {
    pub input: PicoUsd,
    pub cached_read: PicoUsd,
    pub cache_write: PicoUsd,
    pub cache_write_long: PicoUsd,
    pub audio_input: PicoUsd,
    pub image_input: PicoUsd,
    pub output: PicoUsd,
    pub audio_output: PicoUsd,
    pub image_output: PicoUsd,
}

impl Rates {
    /// Rates of a model whose tokens cost the same, whatever they are of and wherever they come from.
    pub fn plain(input: PicoUsd, output: PicoUsd) -> Rates {
        Rates {
            input,
            cached_read: input,
            cache_write: input,
            cache_write_long: input,
            audio_input: input,
            image_input: input,
            output,
            audio_output: output,
            image_output: output,
        }
    }

    /// The exact cost of the tokens in `usage`.
    pub fn cost(&self, usage: &Usage) -> PicoUsd {
        self.input * usage.input
            + self.cached_read * usage.cached_read
            + self.cache_write * usage.cache_write
            + self.cache_write_long * usage.cache_write_long
            + self.audio_input * usage.audio_input
            + self.image_input * usage.image_input
            + self.output * usage.output
            + self.audio_output * usage.audio_output
            + self.image_output * usage.image_output
    }

    /// Meter by meter, the dearer of both.
    pub fn max(&self, other: &Rates) -> Rates {
        self.with(other, PicoUsd::max)
    }

    /// So many percent of each rate; a fraction of a pico-dollar counts as a whole one.
    pub fn percent(&self, percent: u32) -> Rates {
        self.with(self, |rate, _| PicoUsd((rate.0 * i128::from(percent) + 99).div_euclid(100)))
    }

    fn with(&self, other: &Rates, each: impl Fn(PicoUsd, PicoUsd) -> PicoUsd) -> Rates {
        Rates {
            input: each(self.input, other.input),
            cached_read: each(self.cached_read, other.cached_read),
            cache_write: each(self.cache_write, other.cache_write),
            cache_write_long: each(self.cache_write_long, other.cache_write_long),
            audio_input: each(self.audio_input, other.audio_input),
            image_input: each(self.image_input, other.image_input),
            output: each(self.output, other.output),
            audio_output: each(self.audio_output, other.audio_output),
            image_output: each(self.image_output, other.image_output),
        }
    }

    fn highest_input(&self, bound: &CostBound) -> PicoUsd {
        let read = self.input.max(self.cached_read);
        let text = match bound.cache {
            CacheWrites::Never => read,
            CacheWrites::Short => read.max(self.cache_write),
            CacheWrites::Any => read.max(self.cache_write).max(self.cache_write_long),
        };
        if bound.media { text.max(self.audio_input).max(self.image_input) } else { text }
    }

    fn highest_output(&self, media: bool) -> PicoUsd {
        if media { self.output.max(self.audio_output).max(self.image_output) } else { self.output }
    }
}

/// Rates as files have them: USD per million tokens as decimal text. What is left out costs what it is a kind of.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RatesInFile {
    input: PerMillion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cached_read: Option<PerMillion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write: Option<PerMillion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_write_long: Option<PerMillion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audio_input: Option<PerMillion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_input: Option<PerMillion>,
    output: PerMillion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audio_output: Option<PerMillion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_output: Option<PerMillion>,
}

/// A price per token that is written per million tokens.
#[derive(Clone, Copy)]
struct PerMillion(PicoUsd);

impl From<RatesInFile> for Rates {
    fn from(file: RatesInFile) -> Rates {
        let (input, output) = (file.input.0, file.output.0);
        let or = |rate: Option<PerMillion>, other: PicoUsd| rate.map_or(other, |rate| rate.0);
        let cache_write = or(file.cache_write, input);
        Rates {
            input,
            cached_read: or(file.cached_read, input),
            cache_write,
            cache_write_long: or(file.cache_write_long, cache_write),
            audio_input: or(file.audio_input, input),
            image_input: or(file.image_input, input),
            output,
            audio_output: or(file.audio_output, output),
            image_output: or(file.image_output, output),
        }
    }
}

impl From<Rates> for RatesInFile {
    fn from(rates: Rates) -> RatesInFile {
        let unless = |rate: PicoUsd, other: PicoUsd| (rate != other).then_some(PerMillion(rate));
        RatesInFile {
            input: PerMillion(rates.input),
            cached_read: unless(rates.cached_read, rates.input),
            cache_write: unless(rates.cache_write, rates.input),
            cache_write_long: unless(rates.cache_write_long, rates.cache_write),
            audio_input: unless(rates.audio_input, rates.input),
            image_input: unless(rates.image_input, rates.input),
            output: PerMillion(rates.output),
            audio_output: unless(rates.audio_output, rates.output),
            image_output: unless(rates.image_output, rates.output),
        }
    }
}

impl Serialize for PerMillion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&PicoUsd(self.0.0 * 1_000_000).to_decimal())
    }
}

impl<'de> Deserialize<'de> for PerMillion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PerMillion, D::Error> {
        let text = String::deserialize(deserializer)?;
        PicoUsd::per_token_from_per_million(&text).map(PerMillion).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
