//! Random histories of the machines that hold money: every step is checked, and at the end of each the dust must settle.
//!
//! `SIM_SCHEDULES` says how many, `SIM_SEED` where they begin: schedule `n` of a run is the first of a run with seed `SIM_SEED + n`. One that
//! breaks a promise is printed with its seed and its events. `SIM_STORED` says how many of them the stored ledgers go through.

mod fleet;
mod random;
mod record;
mod reference;
mod schedule;
#[path = "../postgres/server.rs"]
#[allow(dead_code, reason = "the server's crashes are tested with its adapter")]
mod server;
mod stored;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use fleet::Fleet;
use reference::Compared;
use schedule::{Outcome, Schedule};
use stored::{File, Schema, Stored};
use world::SidecarFault;
use world::faults::{Broken, LedgerFault};
use world::ledger::Machine;

/// Most schedules that a thread takes at once.
const CHUNK: u64 = 256;
/// One in so many has the reference beside the machine, which takes as long as the rest.
const COMPARED: u64 = 8;
/// A fault that so many schedules do not notice is not noticed.
const ENOUGH: u64 = 20_000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> ExitCode {
    // What panics is caught, and told with its history.
    std::panic::set_hook(Box::new(|_| {}));
    let (seed, schedules) = (variable("SIM_SEED", 1), variable("SIM_SCHEDULES", 1_000_000));
    println!("{:<44} {:>9} {:>11} {:>8}", "histories, of seeds from here on", "schedules", "events", "seconds");
    let mut ok = run("the ledger's machine", seed, schedules, &|seed| {
        let schedule = Schedule::of(seed);
        match seed.is_multiple_of(COMPARED) {
            true => schedule.run(Compared::new(Machine::default()), SidecarFault::None),
            false => schedule.run(Machine::default(), SidecarFault::None),
        }
    });
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime"));
    let stored = variable("SIM_STORED", 100).min(schedules);
    ok &= run("the SQLite adapter beside the reference", seed, stored, &|seed| {
        Schedule::of(seed).run(Compared::new(Stored::at(File::new(), &runtime)), SidecarFault::None)
    });
    let server = server::Server::start(&std::env::temp_dir());
    ok &= run("the PostgreSQL adapter beside the reference", seed, stored, &|seed| {
        Schedule::of(seed).run(Compared::new(Stored::at(Schema::on(&server, &runtime), &runtime)), SidecarFault::None)
    });
    drop(server);
    ok &= faults_are_noticed(seed);
    ok &= a_fleet_shares_a_limit(seed);
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs schedules on every CPU; false when one breaks a promise.
fn run(name: &str, seed: u64, schedules: u64, one: &(impl Fn(u64) -> Outcome + Sync)) -> bool {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failed, events) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    let chunk = (schedules / 64).clamp(1, CHUNK);
    let work = || {
        loop {
            let from = next.fetch_add(chunk, Ordering::Relaxed);
            if from >= schedules || failed.load(Ordering::Relaxed) {
                return;
            }
            for seed in (from..(from + chunk).min(schedules)).map(|n| seed.wrapping_add(n)) {
                match one(seed) {
                    Outcome::Held { steps } => drop(events.fetch_add(steps, Ordering::Relaxed)),
                    Outcome::Broken { breach, history } => {
                        failed.store(true, Ordering::Relaxed);
                        eprintln!("{name}: {breach}\nSIM_SEED={seed} SIM_SCHEDULES=1 repeats it; what happened:\n{history}");
                        return;
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!("{name:<44} {schedules:>9} {:>11} {:>8.1}", events.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    !failed.load(Ordering::Relaxed)
}

/// What is broken on purpose must be found, or finding nothing means nothing.
fn faults_are_noticed(seed: u64) -> bool {
    println!("{:<44} noticed after", "what is broken on purpose");
    let ledgers = LedgerFault::ALL.map(|fault| (format!("{fault:?}"), Some(fault), SidecarFault::None));
    let sidecars = SidecarFault::ALL.map(|fault| (format!("{fault:?}"), None, fault));
    let mut all = true;
    for (name, ledger, sidecar) in ledgers.into_iter().chain(sidecars) {
        let noticed = (0..ENOUGH).find(|n| {
            let schedule = Schedule::of(seed.wrapping_add(*n));
            let outcome = match ledger {
                Some(fault) => schedule.run(Broken::new(Machine::default(), fault), sidecar),
                None => schedule.run(Machine::default(), sidecar),
            };
            matches!(outcome, Outcome::Broken { .. })
        });
        all &= noticed.is_some();
        println!("{name:<44} {}", noticed.map_or(format!("not within {ENOUGH} schedules"), |n| format!("{} schedules", n + 1)));
    }
    all
}

/// A thousand unequal sidecars share a limit: far from it they seldom ask, and nearly all of it can be used before anybody is refused that
/// need not be.
fn a_fleet_shares_a_limit(seed: u64) -> bool {
    let (far, near) = (Fleet::far_from_its_limit(seed).run(), Fleet::up_to_its_limit(seed).run());
    println!(
        "a thousand sidecars, far from their limit: {:.4} requests a call (of {} calls); less than 0.01 wanted",
        far.asks_per_call, far.calls
    );
    println!(
        "up to it: {:.2} % settled or reserved by calls in flight when the first was refused that this would have covered; 99 % wanted\n\
         {:.2} % settled when the first was refused that what was not settled would have covered, {:.2} % at last; {} calls, {} refused",
        near.used_percent, near.settled_percent, near.settled_at_last_percent, near.calls, near.refused
    );
    far.asks_per_call < 0.01 && far.refused == 0 && near.used_percent >= 99.0
}
