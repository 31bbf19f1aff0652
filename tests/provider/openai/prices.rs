//! What OpenAI's calls cost beyond a flat price a token: service tiers, long inputs, searches, images and sound.

use crate::models::{Input, Model, Rates, Vendor};
use crate::refusal::Refusal;

/// Longer inputs of gpt-5.4 have other prices, all of their tokens.
const LONG: u64 = 272_000;

/// Models that are not for chat, in nano-dollars a token.
pub static MORE_MODELS: [Model; 5] = [
    plain("text-embedding-3-small", 20, 0, 8_192, 1),
    plain("text-embedding-3-large", 130, 0, 8_192, 1),
    plain("gpt-3.5-turbo-instruct", 1_500, 2_000, 4_096, 4_096),
    // Text in, images out.
    plain("gpt-image-1", 5_000, 40_000, 32_000, 16_000),
    // Text in, text out; sound in has a price of its own.
    plain("gpt-4o-transcribe", 2_500, 10_000, 16_000, 2_000),
];

/// Pico-dollars for a token of sound that gpt-4o-transcribe is given: six dollars per million.
pub const AUDIO_INPUT: u64 = 6_000_000;

const fn plain(name: &'static str, input_nano: u64, output_nano: u64, context_window: u64, max_output: u64) -> Model {
    let (input, output) = (input_nano * 1_000, output_nano * 1_000);
    Model {
        name,
        vendor: Vendor::OpenAi,
        input,
        cached_read: input,
        cache_write: input,
        cache_write_long: input,
        output,
        context_window,
        max_output,
    }
}

/// How soon a call is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    #[default]
    Default,
    Flex,
    Priority,
}

impl Tier {
    pub fn asked(name: Option<&str>) -> Result<Tier, Refusal> {
        const NAMES: [&str; 5] = ["auto", "default", "flex", "priority", "fast"];
        match name {
            None | Some("auto" | "default") => Ok(Tier::Default),
            Some("flex") => Ok(Tier::Flex),
            Some("priority" | "fast") => Ok(Tier::Priority),
            Some(other) => Err(Refusal::NotOneOf { field: "service_tier".to_owned(), got: other.to_owned(), allowed: &NAMES }),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Tier::Default => "default",
            Tier::Flex => "flex",
            Tier::Priority => "priority",
        }
    }
}

/// What a call's tokens cost in a tier, with so much input. Where no figure is known, flex is half and priority twice the list price.
pub fn rates(model: &Model, tier: Tier, input: &Input) -> Rates {
    let nano = |input: u64, cached: u64, output: u64| Rates {
        input: input * 1_000,
        cached_read: cached * 1_000,
        cache_write: input * 1_000,
        cache_write_long: input * 1_000,
        output: output * 1_000,
    };
    match (model.name, tier) {
        ("gpt-5.4", Tier::Default) if input.tokens() > LONG => nano(5_000, 500, 22_500),
        ("gpt-5.4", Tier::Priority) => nano(5_000, 500, 30_000),
        ("gpt-5.4", Tier::Flex) if input.tokens() > LONG => nano(2_500, 250, 11_250),
        ("gpt-5.4", Tier::Flex) => nano(1_250, 130, 7_500),
        ("gpt-5", Tier::Priority) => nano(2_500, 250, 20_000),
        (_, Tier::Default) => model.rates(),
        (_, Tier::Priority) => scaled(model, 2, 1),
        (_, Tier::Flex) => scaled(model, 1, 2),
    }
}

fn scaled(model: &Model, times: u64, over: u64) -> Rates {
    let of = |rate: u64| rate * times / over;
    let list = model.rates();
    Rates {
        input: of(list.input),
        cached_read: of(list.cached_read),
        cache_write: of(list.cache_write),
        cache_write_long: of(list.cache_write_long),
        output: of(list.output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::find;

    #[test]
    fn tiers_and_long_inputs_have_their_own_prices() {
        let rates = |name: &str, tier, tokens| {
            let rates = rates(find(Vendor::OpenAi, name).unwrap(), tier, &Input { fresh: tokens, ..Input::default() });
            (rates.input, rates.cached_read, rates.output)
        };
        for (name, tier, tokens, expected) in [
            ("gpt-5.4", Tier::Default, 272_000, (2_500_000, 250_000, 15_000_000)),
            ("gpt-5.4", Tier::Default, 272_001, (5_000_000, 500_000, 22_500_000)),
            ("gpt-5.4", Tier::Priority, 9, (5_000_000, 500_000, 30_000_000)),
            ("gpt-5.4", Tier::Flex, 9, (1_250_000, 130_000, 7_500_000)),
            ("gpt-5", Tier::Priority, 9, (2_500_000, 250_000, 20_000_000)),
            ("gpt-5", Tier::Flex, 9, (625_000, 62_500, 5_000_000)),
            ("gpt-5-nano", Tier::Flex, 9, (25_000, 2_500, 200_000)),
            ("text-embedding-3-small", Tier::Default, 9, (20_000, 20_000, 0)),
            ("text-embedding-3-large", Tier::Default, 9, (130_000, 130_000, 0)),
        ] {
            assert_eq!(rates(name, tier, tokens), expected, "{name} {tier:?}");
        }
    }
}
