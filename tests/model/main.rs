//! Every history of a few calls: the machines that hold money, in each order that a network, a crash, a clock and an owner allow.
//!
//! The state is the world of `tests/simulation`, the checker is stateright. A message that was sent may arrive at any time, any number of
//! times, or never: what is delivered stays on its way. In each state what must always hold is looked at, and the dust is let settle.

#[path = "../simulation/record.rs"]
mod record;
#[path = "../simulation/world/mod.rs"]
#[allow(dead_code, reason = "what is lost here never arrives: it needs no event of its own")]
mod world;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::process::ExitCode;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

use world::check::Breach;
use world::faults::{Broken, LedgerFault};
use world::ledger::{Books, Machine};
use world::sidecar::Sidecar;
use world::{Event, Message, SidecarFault, World};

/// What may happen in a scenario, and how often.
#[derive(Clone, Debug)]
struct Scenario {
    name: &'static str,
    sidecars: usize,
    limits: Vec<i128>,
    sets: Vec<Vec<usize>>,
    /// Worst cases of calls to choose from.
    needs: Vec<i128>,
    /// Shares of its worst case that a call may cost, in percent.
    costs: Vec<i128>,
    most: Counts,
    /// Lengths of waits to choose from.
    waits: Vec<i64>,
    /// What limit 0 may be changed to.
    new_limits: Vec<i128>,
    /// Much may happen between a reply and its arrival; otherwise it is there at once, or lost.
    slow_replies: bool,
}

/// How often what is bounded happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Counts {
    calls: u8,
    less: u8,
    unknown: u8,
    ticks: u8,
    waits: u8,
    recalls: u8,
    crashes: u8,
    gone: u8,
    changes: u8,
}

#[derive(Clone, Debug, Hash)]
#[expect(clippy::derived_hash_with_manual_eq, reason = "equal is what has equal hashes")]
struct State<L> {
    world: World<L>,
    happened: Counts,
    broken: Option<Breach>,
}

impl<L: Hash> PartialEq for State<L> {
    /// As the checker tells states apart: by what is hashed of them.
    fn eq(&self, other: &State<L>) -> bool {
        let hash = |state: &State<L>| BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
        hash(self) == hash(other)
    }
}

struct Checked<L> {
    scenario: Scenario,
    ledger: L,
    fault: SidecarFault,
}

impl<L: Books + Clone> Checked<L> {
    fn count(counts: &mut Counts, event: Event) -> Option<&mut u8> {
        match event {
            Event::Call { .. } => Some(&mut counts.calls),
            Event::Less { .. } => Some(&mut counts.less),
            Event::Unknown { .. } => Some(&mut counts.unknown),
            Event::Tick { .. } => Some(&mut counts.ticks),
            Event::Wait { .. } => Some(&mut counts.waits),
            Event::Recall { .. } => Some(&mut counts.recalls),
            Event::Crash { .. } => Some(&mut counts.crashes),
            Event::Gone { .. } => Some(&mut counts.gone),
            Event::SetLimit { .. } => Some(&mut counts.changes),
            _ => None,
        }
    }

    fn events(&self, state: &State<L>) -> Vec<Event> {
        let Scenario { sidecars, sets, needs, costs, waits, new_limits, .. } = &self.scenario;
        let world = &state.world;
        let deliver = |message: usize| match &world.network[message] {
            // A stream says each thing once.
            Message::Revoke { .. } => vec![Event::Deliver { message, again: false }],
            request if request.is_request() && !self.scenario.slow_replies => {
                vec![Event::Exchange { message, answered: true }, Event::Exchange { message, answered: false }]
            }
            _ => vec![Event::Deliver { message, again: true }],
        };
        let mut events: Vec<Event> = (0..world.network.len()).flat_map(deliver).collect();
        // Sidecars that have done nothing yet are alike: the first of them stands for all.
        let fresh = |sidecar: usize| is_fresh(&world.sidecars[sidecar]);
        let first_fresh = (0..*sidecars).find(|s| fresh(*s)).unwrap_or(*sidecars);
        for sidecar in (0..*sidecars).filter(|s| !fresh(*s) || *s == first_fresh) {
            for set in 0..sets.len() {
                events.extend(needs.iter().map(|need| Event::Call { sidecar, set, need: *need }));
            }
            if fresh(sidecar) {
                continue;
            }
            for call in 0..world.sidecars[sidecar].calls.len() {
                events.extend(costs.iter().map(|percent| Event::End { sidecar, call, percent: *percent }));
                events.extend([Event::Unknown { sidecar, call }, Event::Less { sidecar, call, percent: 50 }]);
            }
            events.extend([Event::Report { sidecar }, Event::Tick { sidecar }, Event::Recall { sidecar, limit: 0 }]);
            events.extend([Event::Crash { sidecar }, Event::Restart { sidecar }, Event::Gone { sidecar }]);
        }
        events.extend(waits.iter().map(|ms| Event::Wait { ms: *ms }));
        events.extend(new_limits.iter().map(|amount| Event::SetLimit { limit: 0, amount: *amount }));
        events.retain(|event| {
            let (mut most, mut happened) = (self.scenario.most, state.happened);
            let allowed = Self::count(&mut happened, *event).is_none_or(|n| Self::count(&mut most, *event).is_some_and(|m| *n < *m));
            allowed && world.can(*event)
        });
        events
    }
}

impl<L: Books + Clone + Hash> Model for Checked<L> {
    type State = State<L>;
    type Action = Event;

    fn init_states(&self) -> Vec<State<L>> {
        let Scenario { sidecars, limits, sets, .. } = self.scenario.clone();
        let world = World { fault: self.fault, ..World::new(self.ledger.clone(), sidecars, limits, sets) };
        vec![State { world, happened: Counts::default(), broken: None }]
    }

    fn actions(&self, state: &State<L>, actions: &mut Vec<Event>) {
        if state.broken.is_none() {
            actions.extend(self.events(state));
        }
    }

    fn next_state(&self, last: &State<L>, event: Event) -> Option<State<L>> {
        let mut state = last.clone();
        if let Some(count) = Self::count(&mut state.happened, event) {
            *count += 1;
        }
        state.world.step(event);
        state.broken = state.world.check().err();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SAFE, |_, state: &State<L>| state.broken.is_none()),
            Property::always(SETTLES, |_, state: &State<L>| state.broken.is_some() || state.world.clone().settle_down().is_ok()),
        ]
    }
}

/// True while nothing ever happened to it.
fn is_fresh(sidecar: &Sidecar) -> bool {
    let idle = sidecar.taken == 0 && sidecar.queue.is_empty() && sidecar.waiting.is_empty() && sidecar.calls.is_empty();
    sidecar.up && sidecar.there && idle && sidecar.journal.leases.is_empty()
}

const SAFE: &str = "nothing is overspent or lost";
const SETTLES: &str = "nothing is stranded or charged twice";

fn scenarios() -> Vec<Scenario> {
    let plain = Scenario {
        name: "",
        sidecars: 1,
        limits: vec![10],
        sets: vec![vec![0]],
        needs: vec![4],
        costs: vec![50],
        most: Counts::default(),
        waits: vec![],
        new_limits: vec![],
        slow_replies: false,
    };
    vec![
        Scenario { name: "a process dies", most: Counts { calls: 2, crashes: 1, ..Counts::default() }, ..plain.clone() },
        Scenario {
            name: "two sidecars, one limit",
            sidecars: 2,
            needs: vec![6],
            most: Counts { calls: 2, recalls: 1, ..Counts::default() },
            ..plain.clone()
        },
        Scenario {
            name: "three sidecars, one limit",
            sidecars: 3,
            needs: vec![6],
            costs: vec![100],
            most: Counts { calls: 3, crashes: 1, recalls: 1, ..Counts::default() },
            ..plain.clone()
        },
        Scenario {
            name: "replies take their time",
            slow_replies: true,
            most: Counts { calls: 1, recalls: 1, changes: 1, ..Counts::default() },
            new_limits: vec![3],
            ..plain.clone()
        },
        Scenario {
            name: "a pod ends",
            sidecars: 2,
            needs: vec![6],
            most: Counts { calls: 2, crashes: 1, gone: 1, ..Counts::default() },
            ..plain.clone()
        },
        Scenario {
            name: "two limits at once",
            limits: vec![10, 6],
            sets: vec![vec![0], vec![0, 1]],
            most: Counts { calls: 2, ..Counts::default() },
            ..plain.clone()
        },
        Scenario {
            name: "a call learns that it needs less",
            most: Counts { calls: 1, less: 1, unknown: 1, recalls: 1, ..Counts::default() },
            ..plain.clone()
        },
        Scenario {
            name: "a limit is changed",
            most: Counts { calls: 1, changes: 2, ..Counts::default() },
            new_limits: vec![3, 20],
            ..plain.clone()
        },
        Scenario {
            name: "leases expire, and a window ends",
            most: Counts { calls: 1, waits: 2, ticks: 1, ..Counts::default() },
            waits: vec![2_500, world::WINDOW_MS - 2_000],
            ..plain
        },
    ]
}

struct Checkup {
    states: usize,
    depth: usize,
    seconds: f64,
    /// A promise that is broken, and how.
    broken: Option<String>,
}

fn check<L>(scenario: Scenario, ledger: L, fault: SidecarFault) -> Checkup
where
    L: Books + Clone + Hash + std::fmt::Debug + Send + Sync + 'static,
{
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker =
        Checked { scenario, ledger, fault }.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let broken = checker.discoveries().into_iter().next().map(|(name, path)| {
        let last = path.last_state();
        let breach = last.broken.clone().or_else(|| last.world.clone().settle_down().err()).unwrap_or_default();
        let events: String = path.into_actions().iter().map(|event| format!("    {event:?}\n")).collect();
        format!("{name}: {breach}\n{events}")
    });
    Checkup { states: checker.unique_state_count(), depth: checker.max_depth(), seconds: begun.elapsed().as_secs_f64(), broken }
}

fn main() -> ExitCode {
    let only = std::env::var("MODEL_SCENARIO").unwrap_or_default();
    let mut failed = false;
    println!("{:<36} {:>9} {:>6} {:>8}", "scenario", "states", "depth", "seconds");
    let (mut states, begun) = (0, Instant::now());
    for scenario in scenarios().into_iter().filter(|scenario| scenario.name.contains(&only)) {
        let name = scenario.name;
        let done = check(scenario, Machine::default(), SidecarFault::None);
        states += done.states;
        println!("{name:<36} {:>9} {:>6} {:>8.1}", done.states, done.depth, done.seconds);
        if let Some(broken) = done.broken {
            failed = true;
            println!("{broken}");
        }
    }
    println!("{states} states in {:.1} s", begun.elapsed().as_secs_f64());
    let ledgers = LedgerFault::ALL.map(|fault| (format!("{fault:?}"), Some(fault), SidecarFault::None));
    let sidecars = SidecarFault::ALL.map(|fault| (format!("{fault:?}"), None, fault));
    println!("{:<36} found in", "what is broken on purpose");
    for (name, ledger, sidecar) in ledgers.into_iter().chain(sidecars).filter(|_| only.is_empty()) {
        let found = scenarios().into_iter().find(|scenario| {
            let done = match ledger {
                Some(fault) => check(scenario.clone(), Broken::new(Machine::default(), fault), sidecar),
                None => check(scenario.clone(), Machine::default(), sidecar),
            };
            done.broken.is_some()
        });
        failed |= found.is_none();
        println!("{name:<36} {}", found.map_or("nothing: the model proves nothing of it", |scenario| scenario.name));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
