//! One history: a world made by a seed, and events drawn by it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::random::Random;
use crate::world::ledger::Books;
use crate::world::{Event, SidecarFault, World};

pub struct Schedule {
    random: Random,
    events: usize,
    /// Faults are rare in some histories and the rule in others.
    trouble: usize,
}

pub enum Outcome {
    Held { steps: u64 },
    Broken { breach: String, history: String },
}

impl Schedule {
    pub fn of(seed: u64) -> Schedule {
        let mut random = Random::new(seed);
        Schedule { events: 8 + random.below(40), trouble: random.of(&[2, 5, 12, 40]), random }
    }

    pub fn run<L: Books>(mut self, ledger: L, fault: SidecarFault) -> Outcome {
        let mut world = World { fault, ..self.world(ledger) };
        let mut history = Vec::with_capacity(self.events);
        let held = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..self.events {
                let event = self.event(&world);
                if world.can(event) {
                    history.push(event);
                    world.step(event);
                    world.check()?;
                }
            }
            world.settle_down()
        }));
        let breach = match held {
            Ok(Ok(())) => return Outcome::Held { steps: history.len() as u64 },
            Ok(Err(breach)) => breach,
            Err(panic) => panic.downcast_ref::<String>().map_or_else(|| "a panic".to_owned(), |said| format!("panicked: {said}")),
        };
        let limits = format!("{} sidecars, limits {:?}, sets {:?}", world.sidecars.len(), world.limits, world.sets);
        Outcome::Broken { breach, history: format!("{limits}\n{}", history.iter().map(|e| format!("    {e:?}\n")).collect::<String>()) }
    }

    fn world<L: Books>(&mut self, ledger: L) -> World<L> {
        let sidecars = 1 + self.random.below(4);
        let limit = self.random.of(&[10, 50, 400]);
        match self.random.below(3) {
            0 => World::new(ledger, sidecars, vec![limit], vec![vec![0]]),
            1 => World::new(ledger, sidecars, vec![limit, limit / 2], vec![vec![0], vec![0, 1]]),
            _ => World::new(ledger, sidecars, vec![limit, limit], vec![vec![0], vec![1], vec![0, 1]]),
        }
    }

    fn event<L>(&mut self, world: &World<L>) -> Event {
        let sidecar = self.random.below(world.sidecars.len());
        let calls = world.sidecars[sidecar].calls.len();
        if self.random.one_in(self.trouble) {
            return self.fault(world, sidecar);
        }
        match self.random.below(20) {
            0..=4 => {
                let need = 1 + self.random.below(self.random_need(world)) as i128;
                Event::Call { sidecar, set: self.random.below(world.sets.len()), need }
            }
            5..=7 => Event::End { sidecar, call: self.random.below(calls), percent: self.random.of(&[0, 10, 50, 100]) },
            8 => Event::Less { sidecar, call: self.random.below(calls), percent: self.random.of(&[0, 30, 100]) },
            9..=10 => Event::Report { sidecar },
            11..=16 => Event::Deliver { message: self.random.below(world.network.len()), again: false },
            17 => Event::Tick { sidecar },
            18 => Event::Wait { ms: self.random.of(&[20, 250, 2_000, 2_500]) },
            _ => Event::Recall { sidecar, limit: self.random.below(world.limits.len()) },
        }
    }

    fn random_need<L>(&self, world: &World<L>) -> usize {
        usize::try_from(world.limits[0]).unwrap_or(1).div_ceil(3)
    }

    fn fault<L>(&mut self, world: &World<L>, sidecar: usize) -> Event {
        let message = self.random.below(world.network.len());
        match self.random.below(13) {
            0 => Event::Exchange { message, answered: false },
            1..=2 => Event::Deliver { message, again: true },
            3..=4 => Event::Lose { message },
            5 => Event::Crash { sidecar },
            6..=7 => Event::Restart { sidecar },
            8 => Event::Gone { sidecar },
            9 => Event::Wait { ms: self.random.of(&[60_000, 300_000, 600_000]) },
            10 => match self.random.below(3) {
                0 => Event::OperatorRestart,
                _ => Event::Unknown { sidecar, call: self.random.below(world.sidecars[sidecar].calls.len()) },
            },
            _ => {
                let limit = self.random.below(world.limits.len());
                Event::SetLimit { limit, amount: world.limits[limit] * self.random.of(&[0, 50, 200]) / 100 }
            }
        }
    }
}
