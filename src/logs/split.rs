//! Bytes into lines: for a file, and for the two streams of a session.

use tokio::time::Instant;

use super::line::Stream;
use super::position::SessionAt;
use super::text;
use crate::record::{self, Payload, Record, between};
use crate::store::Micros;

/// The longest line, in bytes. A longer one comes in pieces of this length, each but the last marked with [`CUT`].
pub const MAX_LINE: usize = 64 << 10;

/// What a piece of a longer line ends with.
pub const CUT: &str = "…";

/// The part of a line whose end has not come.
#[derive(Clone, Debug, Default)]
pub struct Held {
    bytes: Vec<u8>,
    start: u64,
    since: Option<Instant>,
    /// A part of this line was let go already: if nothing but its end follows, there is nothing more to say.
    continues: bool,
}

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes, without its end.
    pub bytes: &'a [u8],
    /// Whether the line goes on in the next piece because it is too long.
    pub cut: bool,
    /// The offset behind it, and behind its end.
    pub end: u64,
}

impl Held {
    /// Nothing is held, of a line whose first part was told: its end alone is no line.
    #[must_use]
    pub fn within() -> Self {
        Self { continues: true, ..Self::default() }
    }

    /// Takes bytes that stand at `offset`, and calls `line` with each line that is whole.
    pub fn feed(&mut self, mut data: &[u8], mut offset: u64, mut line: impl FnMut(Piece<'_>)) {
        while !data.is_empty() {
            if self.bytes.is_empty() {
                self.start = offset;
            }
            let room = MAX_LINE - self.bytes.len();
            let found = data.iter().take(room + 1).position(|byte| *byte == b'\n');
            let taken = found.unwrap_or(data.len().min(room));
            let (part, mut rest) = data.split_at(taken);
            offset += taken as u64;
            if found.is_some() {
                (rest, offset) = (&rest[1..], offset + 1);
            }
            // Only what goes on is cut: the end of a line of just this length may be the next byte.
            match found {
                Some(_) => self.tell(part, offset, &mut line),
                None if data.len() > room => self.cut(part, offset, &mut line),
                None => return self.hold(part),
            }
            data = rest;
        }
    }

    fn hold(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Tells a piece of a line that is too long, up to a character that is not whole: its begin is held.
    fn cut(&mut self, part: &[u8], end: u64, line: &mut impl FnMut(Piece<'_>)) {
        self.bytes.extend_from_slice(part);
        let whole = self.bytes.len() - begun(&self.bytes);
        self.start = end - (self.bytes.len() - whole) as u64;
        line(Piece { bytes: &self.bytes[..whole], cut: true, end: self.start });
        self.bytes.drain(..whole);
        (self.continues, self.since) = (true, (!self.bytes.is_empty()).then(Instant::now));
    }

    fn tell(&mut self, part: &[u8], end: u64, line: &mut impl FnMut(Piece<'_>)) {
        let only_the_end = self.continues && self.bytes.is_empty() && part.is_empty();
        (self.continues, self.since) = (false, None);
        if self.bytes.is_empty() {
            if !only_the_end {
                line(Piece { bytes: part, cut: false, end });
            }
            return;
        }
        self.bytes.extend_from_slice(part);
        line(Piece { bytes: &self.bytes, cut: false, end });
        self.bytes.clear();
    }

    /// Lets go of what is held, although its end has not come.
    pub fn let_go(&mut self) -> Option<Vec<u8>> {
        self.since = None;
        self.continues = !self.bytes.is_empty();
        self.continues.then(|| std::mem::take(&mut self.bytes))
    }

    /// Where what is held starts.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        (!self.bytes.is_empty()).then_some(self.start)
    }

    /// Since when something is held.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}

/// Returns how many bytes at the end begin a character that is not whole.
fn begun(bytes: &[u8]) -> usize {
    let is_begun = |tail: &[u8]| {
        std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(|count| is_begun(&bytes[bytes.len() - count..])).unwrap_or(0)
}

/// A line of a session, and where the session stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLine {
    /// When its last byte was written.
    pub time: Micros,
    /// From which output.
    pub stream: Stream,
    /// What it says.
    pub message: String,
    /// Where the session stands.
    pub at: SessionAt,
}

/// Makes lines of a session's records, each of its streams for itself.
#[derive(Clone, Debug)]
pub struct Splitter {
    tty: bool,
    from: SessionAt,
    to: Option<SessionAt>,
    out: Held,
    err: Held,
    read: u64,
    time: Micros,
}

impl Splitter {
    /// For a session, with a terminal or without, that was told up to `from`; what lies behind `to` is left out.
    #[must_use]
    pub fn new(tty: bool, from: SessionAt, to: Option<SessionAt>) -> Self {
        Self { tty, from, to, out: Held::default(), err: Held::default(), read: from.low(), time: 0 }
    }

    /// Where the session stands: what is held is not told.
    #[must_use]
    pub fn at(&self) -> SessionAt {
        self.at_offset(self.read)
    }

    fn at_offset(&self, read: u64) -> SessionAt {
        let (out, err) = (self.out.start().unwrap_or(read), self.err.start().unwrap_or(read));
        SessionAt { out: out.max(self.from.out), err: err.max(self.from.err), begun: true }
    }

    /// Takes a record, and appends the lines that are whole now.
    pub fn feed(&mut self, record: &Record, lines: &mut Vec<SessionLine>) {
        self.time = record.time as Micros;
        match &record.payload {
            Payload::Output(record::Stream::Stdout, data) => self.output(Stream::Stdout, record.offset, data, lines),
            Payload::Output(record::Stream::Stderr, data) => self.output(Stream::Stderr, record.offset, data, lines),
            Payload::Dropped { to, reason } => {
                self.let_go(lines);
                self.read = self.read.max(*to);
                if reason.is_loss() {
                    let why = reason.describe();
                    let message = match between(record.offset.max(self.from.low()), *to) {
                        0 | 1 => format!("some output is missing: {why}"),
                        count => format!("{count} bytes of output are missing: {why}"),
                    };
                    lines.push(SessionLine { time: self.time, stream: Stream::Hub, message, at: self.at() });
                }
            }
            Payload::Exit(_) => self.let_go(lines),
            Payload::Resize(_) | Payload::Snapshot(..) | Payload::Unknown(_) => {}
        }
    }

    fn output(&mut self, stream: Stream, mut offset: u64, data: &[u8], lines: &mut Vec<SessionLine>) {
        let side = |at: SessionAt| if stream == Stream::Stderr { at.err } else { at.out };
        let end = offset + data.len() as u64;
        let to = self.to.map_or(end, |to| side(to).min(end));
        let skipped = side(self.from).saturating_sub(offset).min(data.len() as u64);
        let data = &data[skipped as usize..];
        offset += skipped;
        let data = &data[..(to.saturating_sub(offset) as usize).min(data.len())];
        let held = if stream == Stream::Stderr { &mut self.err } else { &mut self.out };
        let tty = self.tty;
        let mut found = Vec::new();
        held.feed(data, offset, |piece| found.push((message(tty, piece.bytes, piece.cut), piece.end)));
        // What is held now started behind the last line's end, so it does not matter for the lines before it.
        let other = if stream == Stream::Stderr { self.out.start() } else { self.err.start() };
        for (message, end) in found {
            let other = other.unwrap_or(end);
            let (out, err) = if stream == Stream::Stderr { (other, end) } else { (end, other) };
            let at = SessionAt { out: out.max(self.from.out), err: err.max(self.from.err), begun: true };
            lines.push(SessionLine { time: self.time, stream, message, at });
        }
        self.read = self.read.max(end);
    }

    /// Since when a part of a line is held.
    #[must_use]
    pub fn held_since(&self) -> Option<Instant> {
        self.out.since().into_iter().chain(self.err.since()).min()
    }

    /// Lets go of all that is held.
    pub fn let_go(&mut self, lines: &mut Vec<SessionLine>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = if stream == Stream::Stderr { &mut self.err } else { &mut self.out };
            if let Some(bytes) = held.let_go() {
                let message = message(self.tty, &bytes, false);
                lines.push(SessionLine { time: self.time, stream, message, at: self.at() });
            }
        }
    }
}

/// A line's text, with the mark where it is cut.
fn message(tty: bool, bytes: &[u8], cut: bool) -> String {
    let mut message = if tty { text::terminal(bytes) } else { text::plain(bytes) };
    if cut {
        message.push_str(CUT);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cause, Reason, Stream as From};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn output(stream: From, offset: u64, data: &[u8]) -> Record {
        Record { offset, time: 9, payload: Payload::Output(stream, Bytes::copy_from_slice(data)) }
    }

    fn records(parts: &[(From, &str)]) -> Vec<Record> {
        let mut offset = 0;
        let record = |(stream, data): &(From, &str)| {
            let record = output(*stream, offset, data.as_bytes());
            offset = record.end();
            record
        };
        parts.iter().map(record).collect()
    }

    fn lines(splitter: &mut Splitter, records: &[Record]) -> Vec<SessionLine> {
        let mut lines = Vec::new();
        records.iter().for_each(|record| splitter.feed(record, &mut lines));
        lines
    }

    #[test]
    fn each_stream_has_its_own_lines_and_what_is_not_whole_waits() {
        let records = records(&[
            (From::Stdout, "one\ntw"),
            (From::Stderr, "warn"),
            (From::Stdout, "o\n"),
            (From::Stderr, "ing\nrest"),
        ]);
        let mut splitter = Splitter::new(false, SessionAt::default(), None);
        let mut found = lines(&mut splitter, &records);
        splitter.let_go(&mut found);
        let found: Vec<_> = found.iter().map(|line| (line.stream, &*line.message, line.at.out, line.at.err)).collect();
        assert_eq!(
            found,
            [
                (Stream::Stdout, "one", 4, 4),
                (Stream::Stdout, "two", 12, 6),
                (Stream::Stderr, "warning", 16, 16),
                (Stream::Stderr, "rest", 20, 20),
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_marked_pieces() {
        let mut held = Held::default();
        let mut pieces = Vec::new();
        let mut line = vec![b'x'; 2 * MAX_LINE];
        line.extend_from_slice(b"\nnext\n");
        for (at, part) in line.chunks(1000).enumerate() {
            held.feed(part, at as u64 * 1000, |piece| pieces.push((piece.bytes.len(), piece.cut, piece.end)));
        }
        let max = MAX_LINE as u64;
        assert_eq!(pieces, [(MAX_LINE, true, max), (MAX_LINE, false, 2 * max + 1), (4, false, 2 * max + 6)]);
    }

    #[test]
    fn a_line_is_cut_before_a_character_and_not_within() {
        for (pad, step) in [(0, 1000), (1, 1000), (2, 1000), (3, 7), (1, 1 << 20), (2, MAX_LINE - 1)] {
            let text = format!("{}{}", "x".repeat(pad), "\u{1f600}".repeat(3 * MAX_LINE / 4));
            let line = format!("{text}\n");
            let (mut held, mut pieces, mut end) = (Held::default(), String::new(), 0);
            for (at, part) in line.as_bytes().chunks(step).enumerate() {
                held.feed(part, (at * step) as u64, |piece| {
                    pieces.push_str(std::str::from_utf8(piece.bytes).expect("whole characters"));
                    assert_eq!(piece.end, (pieces.len() + usize::from(!piece.cut)) as u64);
                    end = piece.end;
                });
            }
            assert!(pieces == text && end == line.len() as u64 && held.start().is_none(), "{pad} {step}");
        }
    }

    #[test]
    fn a_gap_and_the_end_let_go_of_what_is_held() {
        let mut splitter = Splitter::new(false, SessionAt::default(), None);
        let found = lines(
            &mut splitter,
            &[
                output(From::Stdout, 0, b"half"),
                Record { offset: 4, time: 9, payload: Payload::Dropped { to: 104, reason: Reason::SpoolFull } },
                output(From::Stdout, 104, b"rest"),
                Record { offset: 108, time: 9, payload: Payload::Exit(Cause::Exited { status: 0 }.into()) },
            ],
        );
        let found: Vec<_> = found.iter().map(|line| (&*line.message, line.at.out)).collect();
        let gap = "100 bytes of output are missing: the agent's spool was full";
        assert_eq!(found, [("half", 4), (gap, 104), ("rest", 108)]);
    }

    proptest! {
        /// A reader that stops behind any line, and one that goes on from there, have together what one has.
        #[test]
        fn lines_are_the_same_wherever_a_reader_stops(
            parts in proptest::collection::vec((any::<bool>(), "[a-c\n]{1,9}"), 1..12), stop in 0usize..20,
        ) {
            let parts: Vec<_> = parts.iter().map(|(err, text)| (if *err { From::Stderr } else { From::Stdout }, &**text)).collect();
            let records = records(&parts);
            let mut splitter = Splitter::new(false, SessionAt::default(), None);
            let mut all = lines(&mut splitter, &records);
            splitter.let_go(&mut all);
            let at = if stop == 0 { SessionAt::default() } else { all[stop.min(all.len()) - 1].at };
            let mut before = Splitter::new(false, SessionAt::default(), Some(at));
            let mut both = lines(&mut before, &records);
            before.let_go(&mut both);
            let mut after = Splitter::new(false, at, None);
            let again: Vec<_> = records.iter().filter(|record| record.end() > at.low()).cloned().collect();
            both.extend(lines(&mut after, &again));
            after.let_go(&mut both);
            let key = |line: &SessionLine| (line.stream.name(), line.at, line.message.clone());
            let sides = |lines: &[SessionLine], stream| -> Vec<_> {
                lines.iter().filter(|line| line.stream == stream).map(|line| line.message.clone()).collect()
            };
            prop_assert_eq!(sides(&both, Stream::Stdout), sides(&all, Stream::Stdout), "{:?}", both.iter().map(key).collect::<Vec<_>>());
            prop_assert_eq!(sides(&both, Stream::Stderr), sides(&all, Stream::Stderr));
        }
    }
}
