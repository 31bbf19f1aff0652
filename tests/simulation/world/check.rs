//! What must hold in the world, at every moment and at the end.

use super::ledger::Books;
use super::{Event, Heard, TrueCall, Truth, World, key, usd};

/// A promise that was broken, in words.
pub type Breach = String;

/// Looks of the keeper until everything has come to rest, each after more than the time in which money becomes idle.
const ROUNDS: usize = 16;

impl<L: Books> World<L> {
    /// What must hold at every moment.
    ///
    /// # Errors
    /// The promise that does not.
    pub fn check(&self) -> Result<(), Breach> {
        for ((limit, window), ceiling) in &self.truth.ceilings {
            let (settled, outstanding) = self.ledger.standing(&self.terms(*limit, *window));
            if settled + outstanding > *ceiling {
                return Err(format!("I1: limit {limit} of {ceiling} has {settled} settled and {outstanding} set aside in window {window}"));
            }
            let billed: i128 = self.calls_under(*limit, *window).filter(|call| self.is_known(call)).map(|call| call.billed).sum();
            if billed > settled + outstanding {
                return Err(format!(
                    "I2: providers charged {billed} under limit {limit}; {settled} are settled and {outstanding} set aside"
                ));
            }
        }
        Ok(())
    }

    fn calls_under(&self, limit: usize, window: i64) -> impl Iterator<Item = &TrueCall> {
        let Truth { calls, leases, .. } = &self.truth;
        let key = key(limit);
        calls.values().filter(move |call| leases.get(&call.lease).is_some_and(|(of, keys)| *of == window && keys.contains(&key)))
    }

    /// Not known to its provider alone: its pod is there, or told of it before it ended.
    fn is_known(&self, call: &TrueCall) -> bool {
        self.sidecars[call.sidecar].there || call.heard.is_some()
    }

    /// Lets the dust settle: processes come back, messages arrive, calls end, what is idle goes back. Then nothing may be stranded, each call
    /// is charged once, and what is left can be spent.
    ///
    /// # Errors
    /// The promise that does not hold.
    pub fn settle_down(&mut self) -> Result<(), Breach> {
        for _ in 0..ROUNDS {
            if self.check_at_rest().is_ok() {
                break;
            }
            for sidecar in 0..self.sidecars.len() {
                if self.can(Event::Restart { sidecar }) {
                    self.step(Event::Restart { sidecar });
                }
                while self.can(Event::End { sidecar, call: 0, percent: 50 }) {
                    self.step(Event::End { sidecar, call: 0, percent: 50 });
                }
                if self.sidecars[sidecar].up {
                    self.step(Event::Tick { sidecar });
                }
            }
            self.deliver_all();
            self.check()?;
            self.now_ms += 2_500;
        }
        self.check_at_rest()?;
        self.check_that_the_rest_can_be_spent()
    }

    fn deliver_all(&mut self) {
        for sidecar in 0..self.sidecars.len() {
            if self.can(Event::Report { sidecar }) {
                self.step(Event::Report { sidecar });
            }
        }
        while let Some(message) = self.network.len().checked_sub(1) {
            self.step(Event::Deliver { message, again: false });
        }
    }

    fn check_at_rest(&self) -> Result<(), Breach> {
        if !self.network.is_empty() {
            return Err(format!("{} messages are on their way", self.network.len()));
        }
        for sidecar in self.sidecars.iter().filter(|sidecar| sidecar.there) {
            if !(sidecar.queue.is_empty()
                && sidecar.waiting.is_empty()
                && sidecar.journal.leases.is_empty()
                && sidecar.book.held().is_zero())
            {
                return Err(format!("I3: {} never comes to rest: {:?}", sidecar.holder.0, sidecar.journal.leases));
            }
        }
        for (id, call) in &self.truth.calls {
            if let (true, said, heard) = (self.sidecars[call.sidecar].there, call.said, call.heard)
                && heard != said.map(Heard::Settled)
            {
                return Err(format!("I2: {id} cost {said:?}, and the ledger heard {heard:?}"));
            }
        }
        for (limit, window) in self.truth.ceilings.keys() {
            let (settled, outstanding) = self.ledger.standing(&self.terms(*limit, *window));
            if outstanding != 0 {
                return Err(format!("I3: {outstanding} are stranded under limit {limit} in window {window}"));
            }
            let charged = |call: &TrueCall| match call.heard {
                Some(Heard::Open(reserved)) => reserved,
                Some(Heard::Settled(cost)) => cost,
                None => 0,
            };
            let due: i128 = self.calls_under(*limit, *window).map(charged).sum();
            if settled != due {
                return Err(format!("I2: {settled} are settled under limit {limit} in window {window}, and calls cost {due}"));
            }
        }
        Ok(())
    }

    fn check_that_the_rest_can_be_spent(&mut self) -> Result<(), Breach> {
        let Some(sidecar) = (0..self.sidecars.len()).find(|sidecar| self.sidecars[*sidecar].up) else { return Ok(()) };
        let left = |limit: &usize| {
            let terms = self.terms(*limit, self.window());
            let (settled, outstanding) = self.ledger.standing(&terms);
            terms.limit - settled - outstanding
        };
        let need = self.sets[0].iter().map(left).min().unwrap_or(0);
        if need > 0 {
            self.step(Event::Call { sidecar, set: 0, need });
            self.deliver_all();
            if self.sidecars[sidecar].calls.iter().all(|call| call.held != usd(need)) {
                return Err(format!("I3: a call of {need} is refused, and so much is left under {}", key(self.sets[0][0])));
            }
        }
        self.check()
    }
}
