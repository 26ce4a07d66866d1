//! Which records come next: each byte once, and what is missing by name.

use bytes::Buf;

use crate::record::{Payload, Record};

/// Where a viewer stands in a session's sequence.
#[derive(Debug, Default)]
pub struct Sequence {
    next: Option<u64>,
}

/// What a record is to a viewer that stands somewhere.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It follows, or what is left of it does.
    Take(Record),
    /// All of it is known already.
    Known,
    /// Something before it is missing: the connection must be made anew.
    Hole {
        /// The first offset that is missing.
        from: u64,
        /// Where the record stands.
        to: u64,
    },
}

impl Sequence {
    /// A viewer that wants `from` next; none: wherever the first record stands.
    #[must_use]
    pub fn new(from: Option<u64>) -> Self {
        Self { next: from }
    }

    /// The first offset that it has not got, once it knows.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Takes the next record off the connection.
    pub fn step(&mut self, mut record: Record) -> Step {
        if matches!(record.payload, Payload::Snapshot(..)) {
            self.next = Some(record.offset);
            return Step::Take(record);
        }
        let next = self.next.unwrap_or(record.offset);
        let end = record.end();
        if record.offset > next {
            return Step::Hole { from: next, to: record.offset };
        }
        let has_length = matches!(record.payload, Payload::Output(..) | Payload::Dropped { .. });
        if has_length && end <= next {
            return if end == record.offset { Step::Take(record) } else { Step::Known };
        }
        if let Payload::Output(_, data) = &mut record.payload {
            data.advance((next - record.offset) as usize);
        }
        if has_length {
            record.offset = next;
        }
        self.next = Some(end.max(next));
        Step::Take(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Reason, Size, Stream};

    fn record(offset: u64, payload: Payload) -> Record {
        Record { offset, time: 0, payload }
    }

    fn output(offset: u64, text: &'static str) -> Record {
        record(offset, Payload::Output(Stream::Stdout, text.as_bytes().into()))
    }

    #[test]
    fn what_comes_again_is_cut() {
        let mut sequence = Sequence::new(Some(0));
        assert_eq!(sequence.step(output(0, "abc")), Step::Take(output(0, "abc")));
        assert_eq!(sequence.step(output(0, "abc")), Step::Known);
        assert_eq!(sequence.step(output(1, "bcde")), Step::Take(output(3, "de")));
        assert_eq!(sequence.next(), Some(5));
    }

    #[test]
    fn a_hole_is_not_passed_over() {
        let mut sequence = Sequence::new(Some(2));
        assert_eq!(sequence.step(output(3, "d")), Step::Hole { from: 2, to: 3 });
        assert_eq!(sequence.next(), Some(2));
    }

    #[test]
    fn a_gap_is_told_once() {
        let gap = |offset| record(offset, Payload::Dropped { to: 9, reason: Reason::SpoolFull });
        let mut sequence = Sequence::new(Some(2));
        assert_eq!(sequence.step(gap(0)), Step::Take(gap(2)));
        assert_eq!(sequence.step(gap(0)), Step::Known);
        assert_eq!(sequence.next(), Some(9));
    }

    #[test]
    fn records_without_length_come_as_often_as_they_are_sent() {
        let resize = || record(4, Payload::Resize(Size::DEFAULT));
        let mut sequence = Sequence::new(Some(4));
        assert_eq!(sequence.step(resize()), Step::Take(resize()));
        assert_eq!(sequence.step(resize()), Step::Take(resize()));
        assert_eq!(sequence.next(), Some(4));
    }

    #[test]
    fn a_snapshot_moves_the_viewer() {
        let snapshot = || record(70, Payload::Snapshot(Size::DEFAULT, "x".into()));
        let mut sequence = Sequence::new(None);
        assert_eq!(sequence.step(snapshot()), Step::Take(snapshot()));
        assert_eq!(sequence.step(output(70, "y")), Step::Take(output(70, "y")));
        assert_eq!(sequence.next(), Some(71));
    }
}
