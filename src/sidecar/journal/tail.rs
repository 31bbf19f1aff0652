//! The journal's latest lines, in memory.

use std::collections::VecDeque;

use super::line::reported;
use super::{Line, Position};
use crate::channel::message::Reported;

/// Groups of lines that are kept. A reporter that falls behind further reads the files.
const KEPT: usize = 2_048;

/// The groups from a position on, each with the position after it.
pub struct Tail {
    from: Position,
    groups: VecDeque<(Position, Vec<Line>)>,
}

impl Tail {
    /// Of a journal that ends at `end`.
    pub fn new(end: Position) -> Tail {
        Tail { from: end, groups: VecDeque::new() }
    }

    /// A group was appended; `end` is the position after it.
    pub fn push(&mut self, end: Position, lines: Vec<Line>) {
        if self.groups.len() == KEPT
            && let Some((end, _)) = self.groups.pop_front()
        {
            self.from = end;
        }
        self.groups.push_back((end, lines));
    }

    /// Nothing before `position` is asked for any more. What was kept of it is the caller's to drop, when nobody waits for it.
    #[must_use = "to be dropped without the journal's lock"]
    pub fn forget_before(&mut self, position: Position) -> VecDeque<(Position, Vec<Line>)> {
        let kept = self.groups.split_off(self.groups.partition_point(|(end, _)| *end <= position));
        let forgotten = std::mem::replace(&mut self.groups, kept);
        if let Some((end, _)) = forgotten.back() {
            self.from = *end;
        }
        forgotten
    }

    /// What is to be reported of about `limit` lines from `from` on, and the position after them; `None` when that is not here.
    pub fn read(&self, from: Position, limit: usize) -> Option<(Vec<Reported>, Position)> {
        let first = match from == self.from {
            true => 0,
            false => self.groups.binary_search_by_key(&from, |(end, _)| *end).ok()? + 1,
        };
        let (mut groups, mut lines, mut end) = (0, 0, from);
        for (after, group) in self.groups.range(first..) {
            if lines >= limit {
                break;
            }
            (groups, end) = (groups + 1, *after);
            lines += group.iter().filter(|line| line.is_reported()).count();
        }
        let looked_at = self.groups.range(first..first + groups);
        Some((reported(looked_at.flat_map(|(_, lines)| lines)), end))
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
            tail.push(10 + group * 5, vec![line(group)]);
        }
        assert_eq!(tail.read(10, 5), None, "the first two groups are gone");
        assert_eq!(tail.read(21, 5), None, "no group begins there");
        let (entries, end) = tail.read(20, 2).unwrap();
        assert_eq!((entries.len(), end), (2, 30));
        assert!(matches!(entries[0], Reported::Outcome { count: 3, .. }));
        let last = 10 + (KEPT as u64 + 2) * 5;
        assert_eq!(tail.read(last, 5), Some((vec![], last)));
        assert_eq!(tail.forget_before(last - 1).len(), KEPT - 1);
        assert_eq!((tail.groups.len(), tail.read(last - 5, 5).map(|(entries, _)| entries.len())), (1, Some(1)));
    }
}
