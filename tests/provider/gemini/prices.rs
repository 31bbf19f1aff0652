//! Google's models and what their tokens cost.

use crate::models::{Model, Rates, Vendor};

const K: u64 = 1_000;
/// From more input tokens than this on, the whole request of a Pro model has other prices.
const LONG: u64 = 200_000;
/// Pico-dollars for a prompt that is answered from searches, however many; these models are from before searches were counted.
pub const GROUNDED_PROMPT: u128 = 35_000_000_000;

/// In nano-dollars a token (1,250 is 1.25 USD per million). Writing to the cache costs what reading anew does.
const fn google(name: &'static str, [input, cached_read, output]: [u64; 3], context_window: u64, max_output: u64) -> Model {
    let (input, cached_read, output) = (input * K, cached_read * K, output * K);
    let vendor = Vendor::Google;
    Model { name, vendor, input, cached_read, cache_write: input, cache_write_long: input, output, context_window, max_output }
}

pub static MODELS: [Model; 3] = [
    google("gemini-2.5-pro", [1_250, 125, 10_000], 1_048_576, 65_535),
    google("gemini-2.5-flash", [300, 30, 2_500], 1_048_576, 65_535),
    google("gemini-embedding-001", [150, 150, 0], 2_048, 1),
];

/// What a call's tokens cost, by the length of its input.
pub fn rates(model: &Model, input_tokens: u64) -> Rates {
    if model.name == "gemini-2.5-pro" && input_tokens > LONG {
        let input = 2_500 * K;
        return Rates { input, cached_read: 250 * K, cache_write: input, cache_write_long: input, output: 15_000 * K };
    }
    model.rates()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Input, find};

    #[test]
    fn a_long_input_reprices_the_whole_request() {
        let pro = find(Vendor::Google, "gemini-2.5-pro").unwrap();
        let cost = |fresh| {
            let input = Input { fresh, ..Input::default() };
            let rates = rates(pro, input.tokens());
            (rates.input_cost(&input), rates.output_cost(1))
        };
        assert_eq!(cost(200_000), (250_000_000_000, 10_000_000));
        assert_eq!(cost(200_001), (500_002_500_000, 15_000_000));
        let flash = find(Vendor::Google, "gemini-2.5-flash").unwrap();
        assert_eq!(rates(flash, 900_000), flash.rates());
    }
}
