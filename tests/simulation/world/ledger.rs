//! The ledger as the world sees it: the port's operations, and what must be known to check them.

use spendkeeper::core::limit::LimitTerms;
use spendkeeper::ledger::machine::{self, Answer, Request, Rows};
use spendkeeper::ledger::{Acquire, Decision, Entry, HolderId};

/// Something that keeps the ledger's promises. Every operation is durable once it returns.
pub trait Books {
    fn acquire(&mut self, request: Acquire) -> Decision;
    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64);
    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64);
    /// Settled and outstanding under these terms, in their unit.
    fn standing(&self, terms: &LimitTerms) -> (i128, i128);
    /// The process that keeps it dies, and another opens what it stored.
    fn reopen(&mut self) {}
}

/// The product's own rules, over rows in memory: what every adapter does between reading and writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine(Rows);

impl Machine {
    fn apply(&mut self, request: &Request) -> Answer {
        // What is booked for queries decides nothing.
        let answer = machine::apply(&mut self.0, request, &mut Vec::new()).expect("a lease has one holder");
        self.0.saved();
        answer
    }
}

impl Books for Machine {
    fn acquire(&mut self, request: Acquire) -> Decision {
        match self.apply(&Request::Acquire(request)) {
            Answer::Acquired(decision) => decision,
            other => panic!("{other:?}"),
        }
    }

    fn report(&mut self, holder: &HolderId, entries: Vec<Entry>, now_ms: i64) {
        self.apply(&Request::Report { holder: holder.clone(), entries, now_ms });
    }

    fn holder_gone(&mut self, holder: &HolderId, now_ms: i64) {
        self.apply(&Request::HolderGone { holder: holder.clone(), now_ms });
    }

    fn standing(&self, terms: &LimitTerms) -> (i128, i128) {
        let account = self.0.standing(&terms.key, terms.span, self.0.seen_ms);
        (account.settled, account.outstanding)
    }
}
