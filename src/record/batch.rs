//! Runs of encoded records: cut, continued, and checked by their headers alone.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DROPPED, EXIT, HEADER_LEN, Header, Malformed, Payload, RESIZE, Reason, Record};

/// Whole encoded records that follow one another: what the ring, the journal and the wire carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Where the first record stands.
    pub from: u64,
    /// Where the last one ends.
    pub to: u64,
    /// When the first was made, in microseconds since the Unix epoch.
    pub first_time: u64,
    /// When the last was made.
    pub last_time: u64,
    /// The encoded records.
    pub bytes: Bytes,
    /// Bytes, at the end, of the records without length that stand at `to`.
    pub marks_len: usize,
    /// Whether the last record is the exit.
    pub ends: bool,
    /// Whether there is a resize among the records.
    pub resizes: bool,
    /// Whether there is a dropped range among the records.
    pub drops: bool,
}

impl Batch {
    /// One record as a batch.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let bytes = record.to_bytes();
        Self {
            from: record.offset,
            to: record.end(),
            first_time: record.time,
            last_time: record.time,
            marks_len: if record.end() == record.offset { bytes.len() } else { 0 },
            ends: matches!(record.payload, Payload::Exit(_)),
            resizes: matches!(record.payload, Payload::Resize(_)),
            drops: matches!(record.payload, Payload::Dropped { .. }),
            bytes,
        }
    }

    /// Reads the headers of `bytes` and checks that they are whole records, each where the one before it ended.
    ///
    /// # Errors
    /// [`Malformed`] where they are not.
    pub fn parse(bytes: Bytes) -> Result<Self, Malformed> {
        let mut batch = Self::default();
        let mut rest = &bytes[..];
        let mut first = true;
        while !rest.is_empty() {
            let header = Header::peek(rest)?.ok_or(Malformed::Truncated)?;
            let payload = rest.get(HEADER_LEN..HEADER_LEN + header.len).ok_or(Malformed::Truncated)?;
            if first {
                (batch.from, batch.first_time, first) = (header.offset, header.time, false);
            } else if header.offset != batch.to {
                return Err(Malformed::Payload(header.kind));
            }
            if !header.fits(payload) {
                return Err(Malformed::Payload(header.kind));
            }
            batch.to = header.end(payload);
            batch.last_time = header.time;
            batch.ends = header.kind == EXIT;
            batch.resizes |= header.kind == RESIZE;
            batch.drops |= header.kind == DROPPED;
            batch.marks_len = if batch.to == header.offset { batch.marks_len + HEADER_LEN + header.len } else { 0 };
            rest = &rest[HEADER_LEN + header.len..];
        }
        batch.bytes = bytes;
        Ok(batch)
    }

    /// Whether it has no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether its first record is a dropped range.
    #[must_use]
    pub fn starts_with_gap(&self) -> bool {
        matches!(Header::peek(&self.bytes), Ok(Some(header)) if header.kind == DROPPED)
    }

    /// Why the range that the batch starts with is missing, where it starts with one.
    #[must_use]
    pub fn gap(&self) -> Option<Reason> {
        match self.records().next().filter(|_| self.starts_with_gap())?.payload {
            Payload::Dropped { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Why the dropped ranges among its records are missing, in their order.
    pub fn gaps(&self) -> impl Iterator<Item = Reason> + use<> {
        self.records().filter_map(|record| match record.payload {
            Payload::Dropped { reason, .. } => Some(reason),
            _ => None,
        })
    }

    /// The records, decoded one by one. Ends at the first malformed one.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<> {
        let mut bytes = self.bytes.clone();
        std::iter::from_fn(move || Record::decode(&mut bytes).ok().flatten())
    }

    /// What is left of the batch from `offset` on: whole records before it go, the one that it cuts is framed anew,
    /// and records without length that stand right at it stay.
    #[must_use]
    pub fn after(mut self, offset: u64) -> Self {
        if offset <= self.from {
            return self;
        }
        while let Ok(Some(header)) = Header::peek(&self.bytes) {
            let end = header.end(&self.bytes[HEADER_LEN..]);
            if header.offset >= offset {
                break;
            }
            if end > offset {
                self.cut(header, offset);
                break;
            }
            self.bytes.advance(HEADER_LEN + header.len);
        }
        self.renew();
        self
    }

    /// What is left when records without length that stand at its start, and are among `marks`, are taken off: they
    /// came before, from another place.
    #[must_use]
    pub fn without(mut self, marks: &Marks) -> Self {
        while let Ok(Some(header)) = Header::peek(&self.bytes) {
            let end = HEADER_LEN + header.len;
            if header.offset != marks.offset || !marks.bytes.iter().any(|mark| *mark == self.bytes[..end]) {
                break;
            }
            self.bytes.advance(end);
        }
        self.renew();
        self
    }

    /// Its start, after records were taken off there.
    fn renew(&mut self) {
        match Header::peek(&self.bytes) {
            Ok(Some(header)) => (self.from, self.first_time) = (header.offset, header.time),
            _ => (self.from, self.ends) = (self.to, false),
        }
        self.marks_len = self.marks_len.min(self.bytes.len());
        self.resizes = self.resizes && self.records().any(|record| matches!(record.payload, Payload::Resize(_)));
        self.drops = self.drops && self.gaps().next().is_some();
    }

    /// Frames the first record anew so that it starts at `offset`, which lies within it.
    fn cut(&mut self, header: Header, offset: u64) {
        let mut rest = self.bytes.split_off(HEADER_LEN + header.len);
        std::mem::swap(&mut rest, &mut self.bytes);
        let mut cut = rest;
        cut.advance(HEADER_LEN);
        if header.is_output() {
            cut.advance((offset - header.offset) as usize);
        }
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + cut.len() + self.bytes.len());
        bytes.put_slice(&Header { len: cut.len(), offset, ..header }.encode());
        bytes.put_slice(&cut);
        bytes.put_slice(&self.bytes);
        self.bytes = bytes.freeze();
    }
}

/// How many records without length are known at one place: mostly there are one or two.
const MAX_MARKS: usize = 1024;

/// The records without length that stand at the end of a sequence. Where the sequence is continued from another place,
/// which is found by an offset alone, these come again and are known by their bytes, which hold their time.
/// Only the newest [`MAX_MARKS`] are kept: who has more than that at one place gets them once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    offset: u64,
    bytes: Vec<Bytes>,
}

impl Marks {
    /// Notes that `batch` was appended to the sequence.
    pub fn append(&mut self, batch: &Batch) {
        if batch.to != self.offset {
            *self = Self { offset: batch.to, bytes: Vec::new() };
        }
        let mut rest = batch.bytes.slice(batch.bytes.len() - batch.marks_len..);
        while let Ok(Some(header)) = Header::peek(&rest) {
            self.bytes.push(Bytes::copy_from_slice(&rest.split_to(HEADER_LEN + header.len)));
        }
        if self.bytes.len() > MAX_MARKS {
            self.bytes.drain(..self.bytes.len() - MAX_MARKS);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{STDOUT, Size, Stream};

    fn output(offset: u64, data: &'static str) -> Record {
        Record { offset, time: 7, payload: Payload::Output(Stream::Stdout, Bytes::from_static(data.as_bytes())) }
    }

    #[test]
    fn of_many_marks_at_one_place_the_newest_are_known() {
        let resize = |cols| Record { offset: 5, time: 7, payload: Payload::Resize(Size { cols, rows: 9 }) };
        let mut marks = Marks::default();
        (0..3000).for_each(|cols| marks.append(&batch(&[resize(cols)])));
        assert_eq!(marks.bytes.len(), MAX_MARKS);
        assert!(batch(&[resize(2999)]).without(&marks).is_empty());
        assert!(!batch(&[resize(3000)]).without(&marks).is_empty());
    }

    fn batch(records: &[Record]) -> Batch {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        Batch::parse(bytes.freeze()).expect("whole records")
    }

    #[test]
    fn a_batch_is_cut_at_any_offset() {
        let resize = Record { offset: 3, time: 8, payload: Payload::Resize(Size::DEFAULT) };
        let whole = batch(&[output(0, "abc"), resize.clone(), output(3, "def")]);
        assert_eq!((whole.from, whole.to), (0, 6));
        assert_eq!(whole.clone().after(3), batch(&[resize, output(3, "def")]));
        assert_eq!(whole.clone().after(5), batch(&[output(5, "f")]));
        let end = whole.after(6);
        assert!(end.is_empty());
        assert_eq!((end.from, end.to), (6, 6));
    }

    #[test]
    fn marks_that_come_again_are_taken_off() {
        let resize = |time| Record { offset: 3, time, payload: Payload::Resize(Size::DEFAULT) };
        let mut marks = Marks::default();
        marks.append(&batch(&[output(0, "abc"), resize(8)]));
        marks.append(&batch(&[resize(9)]));
        let again = batch(&[resize(8), resize(9), resize(10), output(3, "def")]);
        assert_eq!(again.clone().without(&marks), batch(&[resize(10), output(3, "def")]));
        marks.append(&batch(&[output(3, "d")]));
        assert_eq!(again.clone().without(&marks), again);
    }

    #[test]
    fn a_cut_gap_keeps_its_end() {
        let gap = Record { offset: 10, time: 1, payload: Payload::Dropped { to: 90, reason: Reason::SpoolFull } };
        let rest = Batch::of(&gap).after(40);
        assert_eq!((rest.drops, rest.gaps().collect::<Vec<_>>()), (true, vec![Reason::SpoolFull]));
        assert_eq!(rest.records().collect::<Vec<_>>(), [Record { offset: 40, ..gap }]);
    }

    #[test]
    fn a_gap_is_known_wherever_it_stands_and_no_more_once_it_is_cut_off() {
        let gap = |offset, to| Record { offset, time: 1, payload: Payload::Dropped { to, reason: Reason::SpoolFull } };
        let batch = batch(&[output(0, "abc"), gap(3, 9), output(9, "def")]);
        assert!(batch.drops && !batch.starts_with_gap());
        assert_eq!(batch.gaps().collect::<Vec<_>>(), [Reason::SpoolFull]);
        assert!(batch.clone().after(8).drops && !batch.after(9).drops);
    }

    #[test]
    fn records_that_do_not_follow_are_refused() {
        let mut bytes = BytesMut::new();
        output(0, "abc").encode(&mut bytes);
        output(4, "def").encode(&mut bytes);
        assert_eq!(Batch::parse(bytes.freeze()), Err(Malformed::Payload(STDOUT)));
    }

    #[test]
    fn a_gap_without_a_whole_end_or_that_ends_before_it_starts_is_refused() {
        let gap = Record { offset: 6, time: 1, payload: Payload::Dropped { to: 6, reason: Reason::SpoolFull } };
        let whole = gap.to_bytes();
        assert!(Batch::parse(whole.clone()).is_ok());
        for len in 0..9 {
            // What follows must not be taken for the rest of it.
            let mut bytes = BytesMut::from(&whole[..HEADER_LEN + len]);
            bytes[4..8].copy_from_slice(&(len as u32).to_be_bytes());
            output(6, "def").encode(&mut bytes);
            assert_eq!(Batch::parse(bytes.freeze()), Err(Malformed::Payload(DROPPED)), "{len} bytes");
        }
        let mut bytes = BytesMut::from(&whole[..]);
        bytes[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&5u64.to_be_bytes());
        assert_eq!(Batch::parse(bytes.freeze()), Err(Malformed::Payload(DROPPED)));
    }

    proptest! {
        #[test]
        fn cutting_loses_no_byte(parts in proptest::collection::vec("[a-z]{1,9}", 1..20), at in 0u64..200) {
            let mut offset = 0;
            let mut bytes = BytesMut::new();
            for part in &parts {
                let data = Bytes::from(part.clone());
                let record = Record { offset, time: 0, payload: Payload::Output(Stream::Stdout, data) };
                record.encode(&mut bytes);
                offset = record.end();
            }
            let at = at.min(offset);
            let text: String = parts.concat();
            let rest = Batch::parse(bytes.freeze()).expect("whole records").after(at);
            let mut seen = Vec::new();
            for record in rest.records() {
                if let Payload::Output(_, data) = record.payload { seen.extend_from_slice(&data) }
            }
            prop_assert_eq!(&text.as_bytes()[at as usize..], &seen[..]);
        }
    }
}
