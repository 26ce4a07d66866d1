//! The ring: the newest part of a session's records, in memory, bounded.
//!
//! Invariant: batches are contiguous in offsets and in indexes; the oldest go when the bytes exceed the limit, but the
//! newest one always stays.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::record::{Batch, Marks};

/// A reader's place in a session's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The batch in the ring that is next; none before the reader has found the ring.
    index: Option<u64>,
    /// The offset up to which the reader has all.
    pub offset: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Something: it was appended to the output.
    Records,
    /// Nothing new.
    Nothing,
    /// What comes next has left the ring, or came before this hub: the ring starts here.
    Older(u64),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Ring {
    batches: VecDeque<Batch>,
    first: u64,
    bytes: usize,
    limit: usize,
    head: u64,
    marks: Marks,
    /// The newest batches as one, from the first index to behind the last: made once for all who read them together.
    joined: Option<(u64, u64, Bytes)>,
}

/// Batches are joined where there are so many at least, and so many bytes of them at most.
const JOINED: (usize, usize) = (4, 32 << 10);

impl Ring {
    /// An empty ring for a sequence that ends at `head` so far.
    #[must_use]
    pub fn new(head: u64, limit: usize) -> Self {
        Self { batches: VecDeque::new(), first: 0, bytes: 0, limit, head, marks: Marks::default(), joined: None }
    }

    /// Appends a batch. One that does not start at the head is cut or, where bytes are missing, taken as it is: what
    /// the source could not give is in the sequence as a dropped record.
    pub fn push(&mut self, batch: Batch) {
        self.head = batch.to;
        self.bytes += batch.bytes.len();
        self.marks.append(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.limit && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes.len();
                self.first += 1;
            }
        }
    }

    /// The offset at which the sequence ends.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The records without length that stand at the head.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks.clone()
    }

    /// The newest batch.
    #[must_use]
    pub fn last(&self) -> Option<Batch> {
        self.batches.back().cloned()
    }

    /// The place of a reader that has all up to `offset`.
    #[must_use]
    pub fn cursor(offset: u64) -> Cursor {
        Cursor { index: None, offset }
    }

    /// Appends what follows the cursor to `out`, at most `max` bytes but at least one batch, and moves the cursor.
    pub fn read(&mut self, cursor: &mut Cursor, max: usize, out: &mut Vec<Bytes>) -> Found {
        let oldest = self.batches.front().map_or(self.head, |batch| batch.from);
        let index = match cursor.index {
            Some(index) if index >= self.first => index,
            // Lost its place: it is found again by the offset.
            _ if cursor.offset < oldest => return Found::Older(oldest),
            _ => self.seek(cursor.offset),
        };
        let skip = (index - self.first) as usize;
        cursor.index = Some(index);
        if let Some(joined) = self.joined(skip, cursor.offset) {
            out.push(joined);
            *cursor = Cursor { index: Some(self.first + self.batches.len() as u64), offset: self.head };
            return Found::Records;
        }
        let mut taken = 0;
        for batch in self.batches.range(skip..) {
            if taken > 0 && taken + batch.bytes.len() > max {
                break;
            }
            let rest =
                if batch.from < cursor.offset { batch.clone().after(cursor.offset).bytes } else { batch.bytes.clone() };
            taken += rest.len();
            out.push(rest);
            *cursor = Cursor { index: cursor.index.map(|index| index + 1), offset: batch.to.max(cursor.offset) };
        }
        if taken > 0 { Found::Records } else { Found::Nothing }
    }

    /// All batches but the first `skip` as one, where they are many and short: a copy for all readers, instead of many
    /// parts for each.
    fn joined(&mut self, skip: usize, offset: u64) -> Option<Bytes> {
        let (from, to) = (self.first + skip as u64, self.first + self.batches.len() as u64);
        let first = self.batches.get(skip).filter(|_| to - from >= JOINED.0 as u64)?;
        if first.from < offset {
            return None;
        }
        if let Some((has_from, has_to, bytes)) = &self.joined
            && (*has_from, *has_to) == (from, to)
        {
            return Some(bytes.clone());
        }
        let mut len = 0;
        let short = |batch: &Batch| {
            len += batch.bytes.len();
            len <= JOINED.1
        };
        if !self.batches.range(skip..).all(short) {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(len);
        self.batches.range(skip..).for_each(|batch| bytes.extend_from_slice(&batch.bytes));
        let bytes = bytes.freeze();
        self.joined = Some((from, to, bytes.clone()));
        Some(bytes)
    }

    /// The index of the first batch of which a reader at `offset` has not all.
    fn seek(&self, offset: u64) -> u64 {
        let has =
            |batch: &Batch| batch.to < offset || (batch.to == offset && batch.from < offset && batch.marks_len == 0);
        self.first + self.batches.partition_point(has) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Payload, Record, Size, Stream};

    fn output(offset: u64, len: usize) -> Batch {
        let data = (0..len).map(|at| (offset + at as u64) as u8).collect::<Vec<_>>();
        Batch::of(&Record { offset, time: 0, payload: Payload::Output(Stream::Stdout, data.into()) })
    }

    fn text(out: &[Bytes]) -> (u64, Vec<u8>) {
        let batch = Batch::parse(out.concat().into()).expect("whole records");
        let output = batch.records().filter_map(|record| match record.payload {
            Payload::Output(_, data) => Some(data.to_vec()),
            _ => None,
        });
        (batch.from, output.flatten().collect())
    }

    #[test]
    fn a_reader_gets_all_that_is_new_in_one_read() {
        let mut ring = Ring::new(0, 1 << 20);
        let mut cursor = Ring::cursor(0);
        assert_eq!(ring.read(&mut cursor, 1000, &mut Vec::new()), Found::Nothing);
        for at in 0..10 {
            ring.push(output(at * 10, 10));
        }
        let mut out = Vec::new();
        assert_eq!(ring.read(&mut cursor, 1 << 20, &mut out), Found::Records);
        assert_eq!(text(&out), (0, (0..100).collect()));
        assert_eq!(ring.read(&mut cursor, 1 << 20, &mut out), Found::Nothing);
    }

    #[test]
    fn readers_at_one_place_share_what_was_joined_and_others_get_their_own() {
        let mut ring = Ring::new(0, 1 << 20);
        (0..10).for_each(|at| ring.push(output(at * 10, 10)));
        let read = |ring: &mut Ring, from: u64| {
            let (mut cursor, mut out) = (Ring::cursor(from), Vec::new());
            assert_eq!(ring.read(&mut cursor, 1 << 20, &mut out), Found::Records);
            assert_eq!(text(&out), (from, (from as u8..100).collect()));
            assert_eq!(cursor.offset, 100);
            out
        };
        let (one, other) = (read(&mut ring, 0), read(&mut ring, 0));
        assert_eq!((one.len(), one[0].as_ptr()), (1, other[0].as_ptr()), "one copy for both");
        assert_eq!(read(&mut ring, 40).len(), 1);
        assert!(read(&mut ring, 45).len() > 1, "a batch that is cut is not shared");
        ring.push(output(100, 10));
        let (mut cursor, mut out) = (Ring::cursor(0), Vec::new());
        assert_eq!(ring.read(&mut cursor, 1 << 20, &mut out), Found::Records);
        assert_eq!((text(&out).1.len(), cursor.offset), (110, 110));
    }

    #[test]
    fn a_reader_joins_in_the_middle_of_a_record() {
        let mut ring = Ring::new(0, 1 << 20);
        ring.push(output(0, 100));
        let mut out = Vec::new();
        assert_eq!(ring.read(&mut Ring::cursor(37), 1 << 20, &mut out), Found::Records);
        assert_eq!(text(&out), (37, (37..100).collect()));
    }

    #[test]
    fn what_left_the_ring_is_told_with_where_the_ring_starts() {
        let mut ring = Ring::new(0, 300);
        let mut cursor = Ring::cursor(0);
        for at in 0..10 {
            ring.push(output(at * 100, 100));
        }
        assert_eq!(ring.read(&mut cursor, 1000, &mut Vec::new()), Found::Older(800));
        cursor.offset = 800;
        assert_eq!(ring.read(&mut cursor, 1000, &mut Vec::new()), Found::Records);
        assert_eq!(cursor.offset, 1000);
    }

    #[test]
    fn records_without_length_are_passed_once_by_a_live_reader() {
        let mut ring = Ring::new(0, 1000);
        let mut cursor = Ring::cursor(0);
        for time in 0..3 {
            ring.push(Batch::of(&Record { offset: 0, time, payload: Payload::Resize(Size::DEFAULT) }));
            let mut out = Vec::new();
            assert_eq!(ring.read(&mut cursor, 1000, &mut out), Found::Records);
            assert_eq!(out.len(), 1);
        }
    }
}
