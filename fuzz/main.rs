//! Every parser of outside bytes, fed with what nobody should send: it must not panic, not take long, and keep its promises.
//!
//! Runs on stable Rust, so without feedback from coverage: inputs are examples of each format, changed at random, several thousand a second.
//! `FUZZ_SECONDS` is the time for each target (one second by default), `FUZZ_SEED` repeats a run, `FUZZ_TARGET` names targets. An input that
//! breaks something is written to `target/fuzz/`; put it into `seeds.rs` with the fix.

mod mutate;
mod seeds;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::{Random, mutated};

/// An input of some kilobytes that takes longer is a way to stop a sidecar. Generous: this is a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(2);

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    let seconds: f64 = variable("FUZZ_SECONDS", 1.0);
    let seed: u64 = variable("FUZZ_SEED", 0x5bee_d1e5);
    let only: String = variable("FUZZ_TARGET", String::new());
    println!("{:<34} {:>10} {:>14}", "target", "inputs", "slowest (µs)");
    let mut failed = false;
    for target in targets::all().into_iter().filter(|target| target.name.contains(&only)) {
        let (mut random, mut inputs, mut slowest) = (Random::new(seed), 0_u64, Duration::ZERO);
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < until {
            // The examples themselves first.
            let input = target.seeds.get(inputs as usize).cloned().unwrap_or_else(|| mutated(&mut random, &target.seeds));
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
            (inputs, slowest) = (inputs + 1, slowest.max(begun.elapsed()));
            if outcome.is_err() || begun.elapsed() > SLOW {
                failed = true;
                report(&target.name, seed, inputs, &input);
                break;
            }
        }
        println!("{:<34} {:>10} {:>14}", target.name, inputs, slowest.as_micros());
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn report(target: &str, seed: u64, number: u64, input: &[u8]) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let file = directory.join(format!("{}.{number}", target.replace('/', "-")));
    let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, input));
    let place = if written.is_ok() { file.display().to_string() } else { "nowhere".to_owned() };
    eprintln!("{target}: input {number} of seed {seed} breaks it; it is in {place}:\n{}", String::from_utf8_lossy(input));
}
