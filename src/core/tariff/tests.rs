use proptest::prelude::*;

use super::*;

fn rates(input: i128, output: i128) -> Rates {
    let plain = Rates::plain(PicoUsd(input), PicoUsd(output));
    Rates { cached_read: PicoUsd(input / 10), cache_write: PicoUsd(input * 5 / 4), cache_write_long: PicoUsd(input * 2), ..plain }
}

/// Steps at 1,000 tokens; flex at half and priority at twice the price; ten percent more in a region.
fn tariff() -> Tariff {
    let schedule = |input, output| Schedule {
        rates: rates(input, output),
        steps: vec![Step { above: 1_000, rates: rates(2 * input, output * 3 / 2) }],
    };
    Tariff {
        standard: schedule(1_000, 8_000),
        tiers: BTreeMap::from([(ServiceTier::Flex, schedule(500, 4_000)), (ServiceTier::Priority, schedule(2_000, 16_000))]),
        regional_uplift_percent: 10,
        web_search: Some(PicoUsd(7)),
    }
}

fn bound(input: u64, output: u64) -> CostBound {
    CostBound {
        input,
        output,
        media: false,
        web_searches: 0,
        tier: AskedTier::Said(ServiceTier::Standard),
        cache: CacheWrites::Any,
        regional: false,
    }
}

#[test]
fn a_long_input_reprices_the_whole_request() {
    let cost = |input| tariff().cost(&Usage { input, output: 10, ..Usage::default() }, Billing::default()).0;
    assert_eq!(cost(1_000), 1_000 * 1_000 + 10 * 8_000);
    assert_eq!(cost(1_001), 1_001 * 2_000 + 10 * 12_000);
    let cached = Usage { input: 1, cached_read: 1_000, output: 1, ..Usage::default() };
    let cost = tariff().cost(&cached, Billing::default()).0;
    assert_eq!(cost, 2_000 + 1_000 * 200 + 12_000, "cached input counts toward the threshold");
}

#[test]
fn the_tier_that_the_provider_names_is_the_one_that_is_charged() {
    let usage = Usage { input: 100, output: 10, ..Usage::default() };
    let cost = |tier, regional| tariff().cost(&usage, Billing { tier, regional }).0;
    assert_eq!(cost(ServiceTier::Standard, false), 180_000);
    assert_eq!(cost(ServiceTier::Flex, false), 90_000);
    assert_eq!(cost(ServiceTier::Priority, false), 360_000);
    assert_eq!(cost(ServiceTier::Batch, false), 180_000, "a tier without a price of its own costs the list price");
    assert_eq!(cost(ServiceTier::Standard, true), 198_000);
}

#[test]
fn searches_are_a_fee_each_beside_the_tokens() {
    let usage = Usage { input: 1, web_searches: 3, ..Usage::default() };
    assert_eq!(tariff().cost(&usage, Billing { regional: true, ..Billing::default() }).0, 1_100 + 21);
}

#[test]
fn a_bound_looks_at_the_tiers_that_may_serve_the_call() {
    let worst = |tier| tariff().worst_case(&CostBound { tier, ..bound(100, 10) }).0;
    let standard = 100 * 2_000 + 10 * 8_000;
    assert_eq!(worst(AskedTier::Said(ServiceTier::Standard)), standard);
    assert_eq!(worst(AskedTier::Said(ServiceTier::Flex)), standard, "a flex call may be served as a standard one");
    assert_eq!(worst(AskedTier::Said(ServiceTier::Priority)), 2 * standard);
    assert_eq!(worst(AskedTier::Unsaid), 2 * standard, "the project may be set to the dearest");
}

#[test]
fn a_cache_that_is_not_asked_for_is_not_paid_for() {
    let worst = |cache| tariff().worst_case(&CostBound { cache, ..bound(100, 0) }).0;
    assert_eq!([CacheWrites::Never, CacheWrites::Short, CacheWrites::Any].map(worst), [100_000, 125_000, 200_000]);
}

#[test]
fn files_leave_out_what_follows_from_the_rest() {
    let tiers = serde_json::json!({"Flex": {"input": "1.00", "output": "4.00"}});
    let text = serde_json::json!({"input": "2.00", "output": "8.00", "cacheWrite": "2.50", "tiers": tiers});
    let read: Tariff = serde_json::from_value(text.clone()).expect("a tariff");
    assert_eq!(read.list().cache_write_long, read.list().cache_write);
    assert_eq!(read.list().cached_read, read.list().input);
    assert_eq!(serde_json::to_value(&read).expect("JSON"), text);
}

prop_compose! {
    fn usages()(
        input in 0u64..3_000, cached_read in 0u64..3_000, cache_write in 0u64..3_000, cache_write_long in 0u64..3_000,
        (audio_input, image_input) in (0u64..100, 0u64..100), output in 0u64..3_000,
        (audio_output, image_output) in (0u64..100, 0u64..100), web_searches in 0u64..4,
    ) -> Usage {
        Usage { input, cached_read, cache_write, cache_write_long, audio_input, image_input, output, audio_output, image_output, web_searches }
    }
}

/// A tier that is asked for, and one that the provider may then bill.
fn asked_and_billed() -> impl Strategy<Value = (AskedTier, ServiceTier)> {
    use ServiceTier::{Flex, Priority, Standard};
    prop::sample::select(vec![
        (AskedTier::Unsaid, Standard),
        (AskedTier::Unsaid, Flex),
        (AskedTier::Unsaid, Priority),
        (AskedTier::Said(Priority), Standard),
        (AskedTier::Said(Flex), Flex),
        (AskedTier::Said(Standard), Standard),
    ])
}

proptest! {
    #[test]
    fn no_call_within_its_bound_costs_more_than_the_worst_case(
        usage in usages(), more_input in 0u64..2_000, more_output in 0u64..500, regional: bool, (asked, billed) in asked_and_billed(),
    ) {
        let bound = CostBound {
            input: usage.total_input() + more_input,
            output: usage.total_output() + more_output,
            media: true,
            web_searches: usage.web_searches,
            tier: asked,
            cache: CacheWrites::Any,
            regional: true,
        };
        let billing = Billing { tier: billed, regional };
        let (cost, worst) = (tariff().cost(&usage, billing), tariff().worst_case(&bound));
        prop_assert!(cost <= worst);
        let input = Usage { output: 0, audio_output: 0, image_output: 0, web_searches: 0, ..usage };
        let after = tariff().worst_case_after(&input, &bound);
        prop_assert!(cost <= after && after <= worst);
    }
}
