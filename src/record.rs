//! Records: the entries of a session's sequence, and their one encoding.
//!
//! The agent encodes a record once. The same bytes then stand in its spool, travel to the hub, lie in the hub's ring,
//! go to every viewer and, compressed, into the journal. Nothing on the way decodes a payload or copies it to frame it
//! anew, so what a viewer reads from its websocket is what the agent wrote.
//!
//! # Encoding
//!
//! A header of [`HEADER_LEN`] bytes, integers in network order, then the payload:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | kind: 1 stdout, 2 stderr, 3 resize, 4 dropped, 5 exit, 6 snapshot |
//! | 1–3 | zero; a reader ignores them |
//! | 4–7 | length of the payload in bytes, at most [`MAX_PAYLOAD`] |
//! | 8–15 | offset: position in the session's output where the record stands, in payload bytes |
//! | 16–23 | time: microseconds since the Unix epoch, by the agent's clock, never going back within a session |
//!
//! | kind | payload | length in offsets |
//! | --- | --- | --- |
//! | stdout, stderr | the bytes as the command wrote them | that of the payload |
//! | resize | columns `u16`, rows `u16` | 0 |
//! | dropped | end of the range `u64`, reason `u8` ([`Reason`]) | end − offset |
//! | exit | an [`Exit`] as JSON | 0 |
//! | snapshot | columns `u16`, rows `u16`, then what draws the screen on a reset terminal of that size | 0 |
//!
//! A snapshot is made for one viewer and is never part of the sequence. A reader skips kinds that it does not know.
//!
//! Invariant: the offsets of a sequence are contiguous: each record stands where the one before it ended.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Bytes of a record's header.
pub const HEADER_LEN: usize = 24;

/// The longest payload of a record, in bytes. A snapshot of the largest terminal fits.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// The longest payload that an agent puts into one output record, in bytes.
pub const MAX_OUTPUT: usize = 64 << 10;

/// The largest terminal, in columns.
pub const MAX_COLS: u16 = 1000;

/// The largest terminal, in rows.
pub const MAX_ROWS: u16 = 500;

/// Which of the command's outputs a byte came from. A terminal has only stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or a terminal's output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A terminal's size, in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns, 1 to [`MAX_COLS`].
    pub cols: u16,
    /// Rows, 1 to [`MAX_ROWS`].
    pub rows: u16,
}

impl Size {
    /// What a terminal has when nobody said otherwise: 80 columns, 24 rows.
    pub const DEFAULT: Self = Self { cols: 80, rows: 24 };

    /// The nearest size that is allowed: a zero means the default, and what is too large is cut.
    #[must_use]
    pub fn clamped(self) -> Self {
        let or = |value: u16, default: u16| if value == 0 { default } else { value };
        Self {
            cols: or(self.cols, Self::DEFAULT.cols).min(MAX_COLS),
            rows: or(self.rows, Self::DEFAULT.rows).min(MAX_ROWS),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.cols, self.rows)
    }
}

/// Why a range of a session's output cannot be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// The agent's spool was full while no hub took its records.
    SpoolFull = 1,
    /// The session's journal reached its limit, or its age.
    JournalLimit = 2,
    /// The session is not recorded, and its output has left the ring.
    NotRecorded = 3,
    /// The agent died and took what no hub had committed with it.
    AgentLost = 4,
}

impl Reason {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::SpoolFull,
            2 => Self::JournalLimit,
            3 => Self::NotRecorded,
            4 => Self::AgentLost,
            _ => return None,
        })
    }

    /// A clause for a person: `… because {reason}`.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::SpoolFull => "the agent's spool was full",
            Self::JournalLimit => "the journal had reached its limit",
            Self::NotRecorded => "the session is not recorded",
            Self::AgentLost => "the agent died before it was stored",
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The command ended by itself.
    Exited {
        /// Its exit status, 0 to 255.
        status: u8,
    },
    /// A signal that nobody of ours sent ended the command.
    Signalled {
        /// The signal's number.
        signal: u8,
    },
    /// The command could not be started.
    StartFailed {
        /// What the client exits with: 127 not found, 126 not executable, 125 anything else.
        status: u8,
        /// What the system said.
        reason: String,
    },
    /// A person, or a client that vanished for longer than its grace, stopped it.
    Stopped {
        /// Who did.
        by: String,
    },
    /// Nothing was typed or printed on its terminal for the idle limit.
    Idle,
    /// It ran for its time limit.
    TimeLimit,
    /// The platform took its place away.
    Evicted {
        /// What the platform said.
        reason: String,
    },
    /// Its agent died, or no hub spoke to the agent for the orphan limit.
    Lost {
        /// What is known of it.
        reason: String,
    },
}

/// A session's end: the cause, and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What ended it.
    #[serde(flatten)]
    pub cause: Cause,
}

impl From<Cause> for Exit {
    fn from(cause: Cause) -> Self {
        Self { cause }
    }
}

/// Exit status of a client whose hub failed, whose session was evicted or lost, or that detached.
pub const STATUS_HUB_FAILED: u8 = 125;

impl Exit {
    /// What a client that saw this end exits with, 0 to 255.
    #[must_use]
    pub fn status(&self) -> u8 {
        match &self.cause {
            Cause::Exited { status } | Cause::StartFailed { status, .. } => *status,
            Cause::Signalled { signal } => 128u8.saturating_add(*signal),
            Cause::Stopped { .. } => 143,
            Cause::Idle => 129,
            Cause::TimeLimit => 124,
            Cause::Evicted { .. } | Cause::Lost { .. } => STATUS_HUB_FAILED,
        }
    }

    /// The name of the cause as it stands in JSON and in the store, such as `time_limit`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.cause {
            Cause::Exited { .. } => "exited",
            Cause::Signalled { .. } => "signalled",
            Cause::StartFailed { .. } => "start_failed",
            Cause::Stopped { .. } => "stopped",
            Cause::Idle => "idle",
            Cause::TimeLimit => "time_limit",
            Cause::Evicted { .. } => "evicted",
            Cause::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Exited { status } => write!(f, "exited with status {status}"),
            Cause::Signalled { signal } => write!(f, "killed by signal {signal}"),
            Cause::StartFailed { reason, .. } => write!(f, "could not be started: {reason}"),
            Cause::Stopped { by } => write!(f, "stopped by {by}"),
            Cause::Idle => f.write_str("ended: idle for too long"),
            Cause::TimeLimit => f.write_str("ended: reached its time limit"),
            Cause::Evicted { reason } => write!(f, "evicted: {reason}"),
            Cause::Lost { reason } => write!(f, "lost: {reason}"),
        }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Output of the command.
    Output(Stream, Bytes),
    /// The terminal has this size from here on.
    Resize(Size),
    /// The range from the record's offset to `to` cannot be had any more.
    Dropped {
        /// End of the range, exclusive.
        to: u64,
        /// Why.
        reason: Reason,
    },
    /// The session ended here. Always the last record.
    Exit(Exit),
    /// What draws the screen as it stood at the record's offset; for one viewer, not in the sequence.
    Snapshot(Size, Bytes),
    /// A kind that this version does not know.
    Unknown(u8),
}

/// One decoded entry of a session's sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands, in payload bytes from the session's start.
    pub offset: u64,
    /// When the agent made it, in microseconds since the Unix epoch.
    pub time: u64,
    /// What it says.
    pub payload: Payload,
}

/// Bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// The payload's length is above [`MAX_PAYLOAD`].
    TooLong(usize),
    /// The payload does not fit its kind.
    Payload(u8),
    /// The bytes end within a record.
    Truncated,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(f, "a record of {len} bytes, more than the {MAX_PAYLOAD} allowed"),
            Self::Payload(kind) => write!(f, "a record of kind {kind} whose payload does not fit it"),
            Self::Truncated => f.write_str("a record that ends too early"),
        }
    }
}

impl std::error::Error for Malformed {}

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const DROPPED: u8 = 4;
const EXIT: u8 = 5;
const SNAPSHOT: u8 = 6;

/// A record's header, read without touching its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    /// Bytes of the payload.
    pub len: usize,
    /// Where the record stands.
    pub offset: u64,
    /// When it was made, in microseconds since the Unix epoch.
    pub time: u64,
}

impl Header {
    /// The header of an output record whose payload is written behind it by the caller.
    #[must_use]
    pub fn output(stream: Stream, len: usize, offset: u64, time: u64) -> Self {
        let kind = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        Self { kind, len, offset, time }
    }

    /// Its [`HEADER_LEN`] bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut out = &mut bytes[..];
        out.put_u32(u32::from(self.kind) << 24);
        out.put_u32(self.len as u32);
        out.put_u64(self.offset);
        out.put_u64(self.time);
        bytes
    }

    /// Reads a header, or `None` where fewer than [`HEADER_LEN`] bytes are there.
    ///
    /// # Errors
    /// [`Malformed::TooLong`] where the payload would be longer than [`MAX_PAYLOAD`].
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(mut head) = bytes.get(..HEADER_LEN) else { return Ok(None) };
        let kind = (head.get_u32() >> 24) as u8;
        let len = head.get_u32() as usize;
        if len > MAX_PAYLOAD {
            return Err(Malformed::TooLong(len));
        }
        Ok(Some(Self { kind, len, offset: head.get_u64(), time: head.get_u64() }))
    }

    /// The offset at which the record ends, given its payload.
    fn end(&self, payload: &[u8]) -> u64 {
        match self.kind {
            STDOUT | STDERR => self.offset.saturating_add(self.len as u64),
            DROPPED => payload.get(..8).map_or(self.offset, |mut to| to.get_u64().max(self.offset)),
            _ => self.offset,
        }
    }

    fn is_output(&self) -> bool {
        matches!(self.kind, STDOUT | STDERR)
    }
}

impl Record {
    /// The offset at which it ends; the next record stands there.
    #[must_use]
    pub fn end(&self) -> u64 {
        match &self.payload {
            Payload::Output(_, data) => self.offset + data.len() as u64,
            Payload::Dropped { to, .. } => *to,
            _ => self.offset,
        }
    }

    /// Appends its encoding.
    pub fn encode(&self, out: &mut BytesMut) {
        let small;
        let json;
        let (kind, data): (u8, &[u8]) = match &self.payload {
            Payload::Output(Stream::Stdout, data) => (STDOUT, data),
            Payload::Output(Stream::Stderr, data) => (STDERR, data),
            Payload::Resize(size) => {
                small = encode_size(*size);
                (RESIZE, &small)
            }
            Payload::Dropped { to, reason } => {
                let mut payload = [0; 9];
                payload[..8].copy_from_slice(&to.to_be_bytes());
                payload[8] = *reason as u8;
                return self.put(DROPPED, &payload, out);
            }
            Payload::Exit(exit) => {
                json = serde_json::to_vec(exit).unwrap_or_default();
                (EXIT, &json)
            }
            Payload::Snapshot(size, screen) => {
                let mut payload = BytesMut::with_capacity(4 + screen.len());
                payload.extend_from_slice(&encode_size(*size));
                payload.extend_from_slice(screen);
                return self.put(SNAPSHOT, &payload, out);
            }
            Payload::Unknown(kind) => (*kind, &[]),
        };
        self.put(kind, data, out);
    }

    fn put(&self, kind: u8, payload: &[u8], out: &mut BytesMut) {
        let header = Header { kind, len: payload.len(), offset: self.offset, time: self.time };
        out.reserve(HEADER_LEN + payload.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(payload);
    }

    /// Its encoding as bytes of their own.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// Takes one record off the front of `bytes`; `None` where they are empty. The payload shares their memory.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are not whole records.
    pub fn decode(bytes: &mut Bytes) -> Result<Option<Self>, Malformed> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let header = Header::peek(bytes)?.ok_or(Malformed::Truncated)?;
        if bytes.len() < HEADER_LEN + header.len {
            return Err(Malformed::Truncated);
        }
        bytes.advance(HEADER_LEN);
        let payload = decode_payload(header, bytes.split_to(header.len))?;
        Ok(Some(Self { offset: header.offset, time: header.time, payload }))
    }
}

fn encode_size(size: Size) -> [u8; 4] {
    let (cols, rows) = (size.cols.to_be_bytes(), size.rows.to_be_bytes());
    [cols[0], cols[1], rows[0], rows[1]]
}

fn decode_size(data: &mut Bytes) -> Option<Size> {
    (data.len() >= 4).then(|| Size { cols: data.get_u16(), rows: data.get_u16() })
}

fn decode_payload(header: Header, mut data: Bytes) -> Result<Payload, Malformed> {
    let malformed = Malformed::Payload(header.kind);
    Ok(match header.kind {
        STDOUT => Payload::Output(Stream::Stdout, data),
        STDERR => Payload::Output(Stream::Stderr, data),
        RESIZE => Payload::Resize(decode_size(&mut data).ok_or(malformed)?.clamped()),
        DROPPED => {
            if data.len() < 9 {
                return Err(malformed);
            }
            let to = data.get_u64();
            let reason = Reason::from_byte(data.get_u8()).ok_or(malformed.clone())?;
            if to < header.offset {
                return Err(malformed);
            }
            Payload::Dropped { to, reason }
        }
        EXIT => Payload::Exit(serde_json::from_slice(&data).map_err(|_| malformed)?),
        SNAPSHOT => Payload::Snapshot(decode_size(&mut data).ok_or(malformed)?.clamped(), data),
        kind => Payload::Unknown(kind),
    })
}

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
            batch.to = header.end(payload);
            batch.last_time = header.time;
            batch.ends = header.kind == EXIT;
            batch.resizes |= header.kind == RESIZE;
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

/// The records without length that stand at the end of a sequence. Where the sequence is continued from another place,
/// which is found by an offset alone, these come again and are known by their bytes, which hold their time.
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
            self.bytes.push(rest.split_to(HEADER_LEN + header.len));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn output(offset: u64, data: &'static str) -> Record {
        Record { offset, time: 7, payload: Payload::Output(Stream::Stdout, Bytes::from_static(data.as_bytes())) }
    }

    fn batch(records: &[Record]) -> Batch {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        Batch::parse(bytes.freeze()).expect("whole records")
    }

    /// The bytes of each kind, written down: a change here is a new version of both protocols and of the journal.
    #[test]
    fn golden_bytes() {
        let hex = |payload| {
            let record = Record { offset: 0x0102, time: 0x0a0b_0c0d, payload };
            record.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let at = "0000000000000102000000000a0b0c0d";
        let bytes = Bytes::from_static(b"hi");
        assert_eq!(hex(Payload::Output(Stream::Stdout, bytes.clone())), format!("0100000000000002{at}6869"));
        assert_eq!(hex(Payload::Output(Stream::Stderr, bytes.clone())), format!("0200000000000002{at}6869"));
        assert_eq!(hex(Payload::Resize(Size { cols: 132, rows: 43 })), format!("0300000000000004{at}0084002b"));
        let dropped = Payload::Dropped { to: 0x0200, reason: Reason::SpoolFull };
        assert_eq!(hex(dropped), format!("0400000000000009{at}000000000000020001"));
        let exit = Record { offset: 0, time: 0, payload: Payload::Exit(Cause::Exited { status: 7 }.into()) };
        assert_eq!(&exit.to_bytes()[HEADER_LEN..], br#"{"cause":"exited","status":7}"#);
        assert_eq!(exit.to_bytes()[0], 5);
        assert_eq!(hex(Payload::Snapshot(Size::DEFAULT, bytes)), format!("0600000000000006{at}005000186869"));
    }

    #[test]
    fn every_cause_survives_its_encoding() {
        let reason = || "why".to_owned();
        for cause in [
            Cause::Exited { status: 255 },
            Cause::Signalled { signal: 9 },
            Cause::StartFailed { status: 127, reason: reason() },
            Cause::Stopped { by: reason() },
            Cause::Idle,
            Cause::TimeLimit,
            Cause::Evicted { reason: reason() },
            Cause::Lost { reason: reason() },
        ] {
            let record = Record { offset: 3, time: 4, payload: Payload::Exit(cause.into()) };
            assert_eq!(Record::decode(&mut record.to_bytes()), Ok(Some(record)));
        }
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
        let rest: Vec<_> = Batch::of(&gap).after(40).records().collect();
        assert_eq!(rest, [Record { offset: 40, ..gap }]);
    }

    #[test]
    fn records_that_do_not_follow_are_refused() {
        let mut bytes = BytesMut::new();
        output(0, "abc").encode(&mut bytes);
        output(4, "def").encode(&mut bytes);
        assert_eq!(Batch::parse(bytes.freeze()), Err(Malformed::Payload(STDOUT)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0u64..300) {
            let mut rest = Bytes::from(bytes.clone());
            while let Ok(Some(_)) = Record::decode(&mut rest) {}
            if let Ok(batch) = Batch::parse(Bytes::from(bytes)) {
                let _ = batch.after(cut);
            }
        }

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
