//! How often a thousand sidecars ask for leases, and how much of a limit they can use, in `target/bench/leases.json`.
//!
//! A simulation (`tests/simulation/fleet.rs`) of the product's lease books and ledger machine: its figures do not depend on the machine that
//! it runs on. Repeated with other seeds.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/simulation/fleet.rs"]
mod fleet;
#[path = "../../tests/simulation/random.rs"]
#[allow(dead_code, reason = "the simulation draws more kinds of numbers")]
mod random;
#[path = "../../tests/simulation/record.rs"]
mod record;

use anyhow::Result;
use common::{Figure, Row};
use fleet::{Figures, Fleet};

const SEEDS: std::ops::Range<u64> = 1..6;

fn main() -> Result<()> {
    println!("{}; {} seeds", common::machine(), SEEDS.count());
    let runs = |fleet: fn(u64) -> Fleet| SEEDS.map(|seed| fleet(seed).run()).collect::<Vec<Figures>>();
    let row = |name: &str, runs: &[Figures]| {
        let figure = |of: fn(&Figures) -> f64| Figure::of(runs.iter().map(of));
        Row::default()
            .label("fleet", name)
            .figure("calls", figure(|f| f.calls as f64))
            .figure("refused", figure(|f| f.refused as f64))
            .figure("asks_per_call", figure(|f| f.asks_per_call))
            .figure("used_percent", figure(|f| f.used_percent))
            .figure("settled_percent", figure(|f| f.settled_percent))
            .figure("settled_at_last_percent", figure(|f| f.settled_at_last_percent))
    };
    let rows = [row("far from its limit", &runs(Fleet::far_from_its_limit)), row("up to its limit", &runs(Fleet::up_to_its_limit))];
    common::print("a thousand sidecars that share a limit", &rows);
    common::write("leases.json", &rows)?;
    Ok(())
}
