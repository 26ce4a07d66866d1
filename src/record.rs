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

mod batch;
mod exit;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub use batch::{Batch, Marks};
pub use exit::{Cause, Exit, STATUS_HUB_FAILED};

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
#[cfg_attr(feature = "hub", derive(utoipa::ToSchema))]
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

/// How many offsets a hub has for what it numbers itself, as no agent does: one that goes on for it starts so far behind
/// the end that it knows. So nothing gets the number of what a viewer was shown and no store had when the hub was killed.
///
/// So an offset is a multiple of this, and how much output there was before, as far as the hub knows that.
pub const NUMBERS: u64 = 1 << 40;

/// How many bytes of output there are between two offsets.
#[must_use]
pub fn between(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) % NUMBERS
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
    /// A store had it, so that the agent let it go, and an older copy of that store was put in its place.
    Acknowledged = 5,
    /// The connection to its container broke, and the container's log does not have it any more.
    NotLogged = 6,
    /// Nothing is known to be missing: another hub goes on here, under numbers that the one before it can't have given.
    Renumbered = 7,
    /// The journal had it, and what stands there cannot be read.
    Unreadable = 8,
    /// One that this version does not know.
    Unknown = 0,
}

impl Reason {
    /// All of them with their names: what the wire, the metrics and the documentation have comes from here.
    pub const ALL: [(Self, &str); 9] = [
        (Self::SpoolFull, "spool_full"),
        (Self::JournalLimit, "journal_limit"),
        (Self::NotRecorded, "not_recorded"),
        (Self::AgentLost, "agent_lost"),
        (Self::Acknowledged, "acknowledged"),
        (Self::NotLogged, "not_logged"),
        (Self::Renumbered, "renumbered"),
        (Self::Unreadable, "unreadable"),
        (Self::Unknown, "unknown"),
    ];

    fn from_byte(byte: u8) -> Self {
        Self::ALL.into_iter().map(|(reason, _)| reason).find(|reason| *reason as u8 == byte).unwrap_or(Self::Unknown)
    }

    /// Whether output is missing.
    #[must_use]
    pub fn is_loss(self) -> bool {
        self != Self::Renumbered
    }

    /// A clause for a person: `… because {reason}`.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::SpoolFull => "the agent's spool was full",
            Self::JournalLimit => "the journal had reached its limit",
            Self::NotRecorded => "the session is not recorded",
            Self::AgentLost => "the agent died before it was stored",
            Self::Acknowledged => "the database that had it was replaced by an older copy",
            Self::NotLogged => {
                "the connection to its container broke, and its place in the container's log, if it is there, is not \
                 known"
            }
            Self::Renumbered => "another hub has taken its source over",
            Self::Unreadable => "what the journal has of it cannot be read",
            Self::Unknown => "of something that this version does not know",
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
    /// Where it stands, in payload bytes from the session's start, and [`NUMBERS`] for each hub that numbered it anew.
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

/// Bytes of a dropped range's payload, at least.
const DROPPED_LEN: usize = 9;

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

    /// Whether a payload says what [`Header::end`] needs of it, as [`Record::decode`] has it too.
    fn fits(&self, payload: &[u8]) -> bool {
        self.kind != DROPPED || (payload.len() >= DROPPED_LEN && (&payload[..8]).get_u64() >= self.offset)
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
            Payload::Output(_, data) => self.offset.saturating_add(data.len() as u64),
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
            if !header.fits(&data) {
                return Err(malformed);
            }
            Payload::Dropped { to: data.get_u64(), reason: Reason::from_byte(data.get_u8()) }
        }
        EXIT => Payload::Exit(serde_json::from_slice(&data).map_err(|_| malformed)?),
        SNAPSHOT => Payload::Snapshot(decode_size(&mut data).ok_or(malformed)?.clamped(), data),
        kind => Payload::Unknown(kind),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let dropped = Payload::Dropped { to: 0x0200, reason: Reason::Acknowledged };
        assert_eq!(hex(dropped), format!("0400000000000009{at}000000000000020005"));
        let dropped = Payload::Dropped { to: 0x0200, reason: Reason::Unreadable };
        assert_eq!(hex(dropped), format!("0400000000000009{at}000000000000020008"));
        let exit = Record { offset: 0, time: 0, payload: Payload::Exit(Cause::Exited { status: 7 }.into()) };
        assert_eq!(&exit.to_bytes()[HEADER_LEN..], br#"{"cause":"exited","status":7}"#);
        assert_eq!(exit.to_bytes()[0], 5);
        assert_eq!(hex(Payload::Snapshot(Size::DEFAULT, bytes)), format!("0600000000000006{at}005000186869"));
    }

    #[test]
    fn every_reason_is_listed_and_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operation.md");
        let docs = std::fs::read_to_string(path).expect("reads the page");
        for (reason, name) in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).expect("is JSON"), name);
            assert_eq!(Reason::from_byte(reason as u8), reason);
            assert!(docs.contains(&format!("| `{name}` |")), "docs/operation.md does not have {name}");
        }
        let known = (0..=u8::MAX).filter(|byte| Reason::from_byte(*byte) != Reason::Unknown).count();
        assert_eq!(known + 1, Reason::ALL.len());
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

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0u64..300) {
            let mut rest = Bytes::from(bytes.clone());
            while let Ok(Some(_)) = Record::decode(&mut rest) {}
            if let Ok(batch) = Batch::parse(Bytes::from(bytes)) {
                let _ = batch.after(cut);
            }
        }
    }
}
