//! The models on offer, and what a token of each costs.
//!
//! Written by hand from the vendors' list prices, and deliberately not read from Spendkeeper's catalogue: a figure that is
//! wrong there does not agree with this bill.

/// Pico-dollars a token for a price of one micro-dollar a token, which is one dollar per million.
const USD_PER_MILLION: u64 = 1_000_000;

/// Pico-dollars for a web search at the provider: ten dollars for a thousand.
pub const WEB_SEARCH: u128 = 10_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    OpenAi,
    Anthropic,
    Google,
    Ollama,
    /// Bedrock's, whoever made them.
    Amazon,
}

/// Prices in pico-dollars a token.
#[derive(Debug)]
pub struct Model {
    pub name: &'static str,
    pub vendor: Vendor,
    pub input: u64,
    pub cached_read: u64,
    pub cache_write: u64,
    pub cache_write_long: u64,
    pub output: u64,
    pub context_window: u64,
    pub max_output: u64,
}

const K: u64 = 1_000;

/// OpenAI caches without a charge for the write, and reads at a tenth.
const fn openai(name: &'static str, input_nano: u64, output_nano: u64, context_window: u64) -> Model {
    let (input, output) = (input_nano * K, output_nano * K);
    let vendor = Vendor::OpenAi;
    Model {
        name,
        vendor,
        input,
        cached_read: input / 10,
        cache_write: input,
        cache_write_long: input,
        output,
        context_window,
        max_output: 128 * K,
    }
}

/// Anthropic reads at a tenth, writes for five minutes at five quarters and for an hour at twice the input price.
const fn anthropic(name: &'static str, input_usd: u64, output_usd: u64, context_window: u64, max_output: u64) -> Model {
    let (input, output) = (input_usd * USD_PER_MILLION, output_usd * USD_PER_MILLION);
    let vendor = Vendor::Anthropic;
    Model {
        name,
        vendor,
        input,
        cached_read: input / 10,
        cache_write: input / 4 * 5,
        cache_write_long: input * 2,
        output,
        context_window,
        max_output,
    }
}

/// A model on Bedrock, in nano-dollars a token: input, cached read, cache write for five minutes and for an hour, output.
const fn bedrock(name: &'static str, nano: [u64; 5], context_window: u64, max_output: u64) -> Model {
    let [input, cached_read, cache_write, cache_write_long, output] = nano;
    let vendor = Vendor::Amazon;
    Model {
        name,
        vendor,
        input: input * K,
        cached_read: cached_read * K,
        cache_write: cache_write * K,
        cache_write_long: cache_write_long * K,
        output: output * K,
        context_window,
        max_output,
    }
}

/// OpenAI's in nano-dollars a token (2,500 is 2.50 USD per million), Anthropic's in dollars per million.
pub static MODELS: [Model; 15] = [
    openai("gpt-5.4", 2_500, 15_000, 1_050 * K),
    openai("gpt-5.4-mini", 750, 4_500, 272 * K),
    openai("gpt-5.4-nano", 200, 1_250, 272 * K),
    openai("gpt-5", 1_250, 10_000, 272 * K),
    openai("gpt-5-mini", 250, 2_000, 272 * K),
    openai("gpt-5-nano", 50, 400, 272 * K),
    anthropic("claude-opus-5", 5, 25, 1_000 * K, 128 * K),
    anthropic("claude-opus-4-8", 5, 25, 1_000 * K, 128 * K),
    anthropic("claude-sonnet-5", 2, 10, 1_000 * K, 128 * K),
    anthropic("claude-haiku-4-5", 1, 5, 200 * K, 64 * K),
    bedrock("us.anthropic.claude-haiku-4-5-20251001-v1:0", [1_100, 110, 1_375, 2_200, 5_500], 200 * K, 64 * K),
    bedrock("anthropic.claude-haiku-4-5-20251001-v1:0", [1_000, 100, 1_250, 2_000, 5_000], 200 * K, 64 * K),
    bedrock("amazon.nova-lite-v1:0", [60, 15, 60, 60, 240], 300 * K, 10 * K),
    bedrock("mistral.mistral-7b-instruct-v0:2", [150, 150, 150, 150, 200], 32 * K, 8 * K),
    bedrock("amazon.titan-embed-text-v2:0", [20, 20, 20, 20, 0], 8_192, 1),
];

pub fn of_vendor(vendor: Vendor) -> impl Iterator<Item = &'static Model> {
    MODELS
        .iter()
        .chain(&crate::openai::prices::MORE_MODELS)
        .chain(&crate::gemini::prices::MODELS)
        .filter(move |model| model.vendor == vendor)
}

pub fn find(vendor: Vendor, name: &str) -> Option<&'static Model> {
    of_vendor(vendor).find(|model| model.name == name)
}

/// The input of a call by what it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    pub fresh: u64,
    pub cached_read: u64,
    pub cache_write: u64,
    pub cache_write_long: u64,
}

impl Input {
    pub fn add(&mut self, more: &Input) {
        self.fresh += more.fresh;
        self.cached_read += more.cached_read;
        self.cache_write += more.cache_write;
        self.cache_write_long += more.cache_write_long;
    }

    pub fn tokens(&self) -> u64 {
        self.fresh + self.cached_read + self.cache_write + self.cache_write_long
    }
}

/// What the tokens of one call cost, in pico-dollars each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    pub input: u64,
    pub cached_read: u64,
    pub cache_write: u64,
    pub cache_write_long: u64,
    pub output: u64,
}

impl Model {
    /// The list price.
    pub fn rates(&self) -> Rates {
        let Model { input, cached_read, cache_write, cache_write_long, output, .. } = *self;
        Rates { input, cached_read, cache_write, cache_write_long, output }
    }

    #[cfg(test)]
    pub fn input_cost(&self, input: &Input) -> u128 {
        self.rates().input_cost(input)
    }

    #[cfg(test)]
    pub fn output_cost(&self, tokens: u64) -> u128 {
        self.rates().output_cost(tokens)
    }
}

impl Rates {
    pub fn input_cost(&self, input: &Input) -> u128 {
        let meters = [
            (input.fresh, self.input),
            (input.cached_read, self.cached_read),
            (input.cache_write, self.cache_write),
            (input.cache_write_long, self.cache_write_long),
        ];
        meters.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum()
    }

    pub fn output_cost(&self, tokens: u64) -> u128 {
        u128::from(tokens) * u128::from(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_tokens_cost_the_list_price() {
        let million = Input { fresh: 1_000_000, ..Input::default() };
        let cents = |vendor, name: &str| {
            let model = find(vendor, name).unwrap();
            (model.input_cost(&million) / 10_u128.pow(10), model.output_cost(1_000_000) / 10_u128.pow(10))
        };
        assert_eq!(cents(Vendor::OpenAi, "gpt-5.4"), (250, 1_500));
        assert_eq!(cents(Vendor::OpenAi, "gpt-5.4-mini"), (75, 450));
        assert_eq!(cents(Vendor::OpenAi, "gpt-5.4-nano"), (20, 125));
        assert_eq!(cents(Vendor::OpenAi, "gpt-5"), (125, 1_000));
        assert_eq!(cents(Vendor::OpenAi, "gpt-5-mini"), (25, 200));
        assert_eq!(cents(Vendor::OpenAi, "gpt-5-nano"), (5, 40));
        assert_eq!(cents(Vendor::Anthropic, "claude-opus-5"), (500, 2_500));
        assert_eq!(cents(Vendor::Anthropic, "claude-opus-4-8"), (500, 2_500));
        assert_eq!(cents(Vendor::Anthropic, "claude-sonnet-5"), (200, 1_000));
        assert_eq!(cents(Vendor::Anthropic, "claude-haiku-4-5"), (100, 500));
        assert_eq!(cents(Vendor::Amazon, "us.anthropic.claude-haiku-4-5-20251001-v1:0"), (110, 550));
        assert_eq!(cents(Vendor::Amazon, "amazon.nova-lite-v1:0"), (6, 24));
        assert_eq!(cents(Vendor::Amazon, "amazon.titan-embed-text-v2:0"), (2, 0));
    }

    #[test]
    fn what_the_cache_holds_has_its_own_prices() {
        let opus = find(Vendor::Anthropic, "claude-opus-5").unwrap();
        assert_eq!((opus.cached_read, opus.cache_write, opus.cache_write_long), (500_000, 6_250_000, 10_000_000));
        let input = Input { fresh: 1, cached_read: 10, cache_write: 100, cache_write_long: 1_000 };
        assert_eq!(opus.input_cost(&input), 5_000_000 + 5_000_000 + 625_000_000 + 10_000_000_000);
        let gpt = find(Vendor::OpenAi, "gpt-5.4-mini").unwrap();
        assert_eq!(gpt.cached_read, 75_000);
    }
}
