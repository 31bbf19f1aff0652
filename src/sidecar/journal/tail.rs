//! The journal's latest lines, in memory.
//!
//! Lines are made by the threads that carry calls, and done with on another. An allocator takes memory back best on the thread that it gave
//! it to, and has one thread wait for another where it is not: so each gets its own back, some with each line that it appends.

use std::collections::VecDeque;
use std::sync::Arc;

use super::line::reported;
use super::{Line, Position};
use crate::channel::message::Reported;
use crate::sidecar::workers::this_thread;

/// Groups of lines that are kept. A reporter that falls behind further reads the files, which takes it longer than to read these: it should come
/// to that only when the operator is away.
const KEPT: usize = 8_192;
/// Groups that are done with and wait for their thread to drop them. Beyond it they are dropped by whoever is done with them.
const DONE: usize = 4_096;
/// Of those, how many go with each that is appended: more than one, so that they become fewer.
const DROPPED: usize = 2;
/// Threads that are told apart here.
const THREADS: usize = 4;

/// Lines that belong together. They are shared, so that what is to be reported of them can be found out when nobody waits for the journal.
type Lines = Arc<Vec<Line>>;

struct Group {
    /// The position after it.
    end: Position,
    /// The thread that made it.
    thread: usize,
    lines: Lines,
}

/// The groups from a position on.
pub struct Tail {
    from: Position,
    groups: VecDeque<Group>,
    done: [Vec<Lines>; THREADS],
}

/// Lines that follow each other, and the position after them.
pub struct Latest {
    groups: Vec<Lines>,
    pub end: Position,
}

impl Latest {
    /// What is to be reported of them.
    pub fn reported(&self) -> Vec<Reported> {
        reported(self.groups.iter().flat_map(|lines| lines.iter()))
    }
}

/// What was done with, to be dropped when nobody waits for it.
#[must_use = "to be dropped without the journal's lock"]
pub struct Done(#[allow(dead_code, reason = "it is there to be dropped")] Vec<Lines>);

impl Tail {
    /// Of a journal that ends at `end`.
    pub fn new(end: Position) -> Tail {
        Tail { from: end, groups: VecDeque::new(), done: Default::default() }
    }

    /// A group was appended by this thread; `end` is the position after it.
    pub fn push(&mut self, end: Position, lines: Vec<Line>) -> Done {
        let thread = this_thread() % THREADS;
        let own = &mut self.done[thread];
        let mut done = own.split_off(own.len().saturating_sub(DROPPED));
        if self.groups.len() == KEPT
            && let Some(group) = self.groups.pop_front()
        {
            self.from = group.end;
            done.push(group.lines);
        }
        self.groups.push_back(Group { end, thread, lines: Arc::new(lines) });
        Done(done)
    }

    /// Nothing before `position` is asked for any more.
    pub fn forget_before(&mut self, position: Position) -> Done {
        let mut too_many = Vec::new();
        let forgotten = self.groups.partition_point(|group| group.end <= position);
        for group in self.groups.drain(..forgotten) {
            self.from = group.end;
            let own = &mut self.done[group.thread];
            if own.len() < DONE { own.push(group.lines) } else { too_many.push(group.lines) }
        }
        Done(too_many)
    }

    /// About `limit` lines from `from` on; `None` when these are not here.
    pub fn read(&self, from: Position, limit: usize) -> Option<Latest> {
        let first = match from == self.from {
            true => 0,
            false => self.groups.binary_search_by_key(&from, |group| group.end).ok()? + 1,
        };
        let (mut latest, mut lines) = (Latest { groups: Vec::new(), end: from }, 0);
        for group in self.groups.range(first..) {
            if lines >= limit {
                break;
            }
            latest.end = group.end;
            lines += group.lines.iter().filter(|line| line.is_reported()).count();
            latest.groups.push(Arc::clone(&group.lines));
        }
        Some(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: u64) -> Line {
        Line::Reported(Reported::Outcome { id: value.to_string(), outcome: "o".into(), count: value, dimensions: Default::default() })
    }

    #[test]
    fn what_is_kept_is_read_from_wherever_a_group_begins_and_what_is_not_is_not_here() {
        let mut tail = Tail::new(10);
        for group in 1..=KEPT as u64 + 2 {
            drop(tail.push(10 + group * 5, vec![line(group)]));
        }
        assert!(tail.read(10, 5).is_none(), "the first two groups are gone");
        assert!(tail.read(21, 5).is_none(), "no group begins there");
        let latest = tail.read(20, 2).unwrap();
        assert_eq!((latest.reported().len(), latest.end), (2, 30));
        assert!(matches!(latest.reported()[0], Reported::Outcome { count: 3, .. }));
        let last = 10 + (KEPT as u64 + 2) * 5;
        assert_eq!(tail.read(last, 5).map(|latest| (latest.reported(), latest.end)), Some((vec![], last)));
        assert_eq!(tail.forget_before(last - 1).0.len(), KEPT - 1 - DONE);
        assert_eq!((tail.groups.len(), tail.read(last - 5, 5).map(|latest| latest.reported().len())), (1, Some(1)));
        // Those that wait to be dropped become fewer with each that comes, until there are none.
        for more in 1..=DONE as u64 {
            assert_eq!(tail.push(last + more, vec![line(more)]).0.len(), if more * 2 <= DONE as u64 { DROPPED } else { 0 });
        }
    }
}
