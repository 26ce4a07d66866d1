//! The protocol between a hub and an agent, versions 1 and 2, over one stream socket.
//!
//! Every message is a header of [`HEADER_LEN`] bytes (type `u8`, three zero bytes, length of the rest `u32`), then that
//! rest. Integers are in network order; structures are JSON, so that a later version can add fields. Records travel as
//! [`crate::record`] encodes them.
//!
//! The hub speaks first with [`ToAgent::Hello`]; the agent answers with [`ToHub::Hello`], or with [`ToHub::Refused`] and
//! the end of the connection. Then the agent sends records from the offset that the hub named, for as long as the
//! connection lives, and everything else may come at any time, in both directions. Records without length that stand
//! right at that offset are sent again; the hub knows how many of them it has.
//!
//! Each side sends something at least every [`HEARTBEAT`] and gives the other up after [`SILENCE`].
//!
//! Version 2 adds the session's card ([`ToAgent::Card`], [`AgentHello::card`]), [`ToHub::Idle`], and [`Reason::Acknowledged`] for what was
//! dropped because a hub had it. None of it is sent to a peer that speaks version 1.
//!
//! [`Reason::Acknowledged`]: crate::record::Reason::Acknowledged

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::record::Size;

/// The oldest version that this code speaks.
pub const MIN_VERSION: u16 = 1;

/// The newest version that this code speaks.
pub const MAX_VERSION: u16 = 2;

/// The first version with cards and warnings.
pub const CARDS: u16 = 2;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 8;

/// The longest rest of a message, in bytes.
pub const MAX_MESSAGE: usize = 2 << 20;

/// How often each side says something.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// After how long without a word the other side is given up.
pub const SILENCE: Duration = Duration::from_secs(45);

/// Bytes of input that a writer may have under way without an acknowledgement.
pub const INPUT_WINDOW: u64 = 256 << 10;

/// The longest piece of input in one message, in bytes.
pub const MAX_INPUT: usize = 64 << 10;

/// Names one writer of input across its reconnects.
pub type Writer = u128;

/// The hub's greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubHello {
    /// Oldest version it speaks.
    pub min: u16,
    /// Newest version it speaks.
    pub max: u16,
    /// Grows with each hub that takes the session over; a lower one than seen before is refused.
    pub epoch: u64,
    /// Where the records are to start.
    pub from: u64,
}

/// The agent's greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The version that both speak from here on.
    pub version: u16,
    /// The session it was made for.
    pub session: String,
    /// The nonce of the start message that it obeyed, or none if it was not started yet.
    pub nonce: Option<String>,
    /// Offset of the oldest byte in its spool.
    pub oldest: u64,
    /// Offset at which its output ends.
    pub head: u64,
    /// From version 2: the session's card, as a hub gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<serde_json::Value>,
}

/// What to run, and for how long at most. All durations are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Makes a repeated start message the same start.
    pub nonce: String,
    /// The command and its arguments; at least one.
    pub command: Vec<String>,
    /// The command's whole environment.
    pub env: BTreeMap<String, String>,
    /// The directory it starts in.
    pub dir: String,
    /// Its terminal's size; without it, it gets three pipes.
    pub terminal: Option<Size>,
    /// Whether its standard input is fed by messages; otherwise it is at its end from the start.
    pub stdin: bool,
    /// The number of output bytes that it may produce before the first [`ToAgent::Pace`]; none: as many as it likes.
    pub pace: Option<u64>,
    /// Bytes of output kept for a hub, in memory and file together.
    pub spool_bytes: u64,
    /// Ends it after so long.
    pub time_limit: Option<u64>,
    /// Ends it after so long without input or output; terminals only.
    pub idle_limit: Option<u64>,
    /// Ends it after so long without a word from a hub.
    pub orphan_limit: u64,
    /// What passes between HUP and TERM.
    pub hup_wait: u64,
    /// What passes between TERM and KILL.
    pub term_wait: u64,
    /// Whether output is copied to the agent's own stdout.
    #[serde(default)]
    pub copy_output: bool,
}

/// A message from a hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    /// Type 1, [`HubHello`] as JSON.
    Hello(HubHello),
    /// Type 2, [`Start`] as JSON.
    Start(Box<Start>),
    /// Type 3: writer `u128`, offset `u64` of the first byte in that writer's input, the bytes.
    Input(Writer, u64, Bytes),
    /// Type 4: writer `u128`, offset `u64` at which the input ends.
    InputEnd(Writer, u64),
    /// Type 5: columns `u16`, rows `u16`.
    Resize(Size),
    /// Type 6: signal number `u8`, to the foreground processes.
    Signal(u8),
    /// Type 7: who asks for the end, as UTF-8.
    Stop(String),
    /// Type 8: offset `u64` up to which all records are safe, and `u8` 1 where the exit is safe too.
    Ack(u64, bool),
    /// Type 9: a number `u64` for the answer, from `u64`, to `u64`.
    Read(u64, u64, u64),
    /// Type 10.
    Ping,
    /// Type 11: offset `u64` up to which output may be produced.
    Pace(u64),
    /// Type 12: milliseconds `u64`: the orphan limit from now on.
    OrphanLimit(u64),
    /// Type 13, from version 2: the session's card from now on: who it is, as JSON, for a hub whose database does not
    /// know it. Kept in memory, and not looked at.
    Card(serde_json::Value),
}

/// A message from an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToHub {
    /// Type 65, [`AgentHello`] as JSON.
    Hello(AgentHello),
    /// Type 66: encoded records, the next ones of the sequence.
    Records(Bytes),
    /// Type 67: the number `u64` of a read, encoded records.
    Read(u64, Bytes),
    /// Type 68: the number `u64` of a read that has all.
    ReadEnd(u64),
    /// Type 69: writer `u128`, offset `u64` up to which its input was given to the command.
    InputAck(Writer, u64),
    /// Type 70: the command runs under this process id `u32`.
    Started(u32),
    /// Type 71.
    Pong,
    /// Type 72: why the agent closes the connection, as UTF-8.
    Refused(String),
    /// Type 73, from version 2: the idle limit ends the command in so many milliseconds, `u64`, unless something is
    /// typed or printed; [`NOT_IDLE`] once something was.
    Idle(u64),
}

/// In [`ToHub::Idle`]: the command is not about to be ended any more.
pub const NOT_IDLE: u64 = u64::MAX;

/// Bytes that are not a message.
#[derive(Debug)]
pub enum ProtocolError {
    /// The connection failed or ended.
    Io(io::Error),
    /// The message is longer than [`MAX_MESSAGE`].
    TooLong(usize),
    /// The message does not fit its type.
    Malformed(u8),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection failed: {error}"),
            Self::TooLong(len) => write!(f, "a message of {len} bytes, more than the {MAX_MESSAGE} allowed"),
            Self::Malformed(kind) => write!(f, "a message of type {kind} that does not fit it"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl From<io::Error> for ProtocolError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A message's header for a rest of `len` bytes, for a sender that writes the rest from where it lies.
#[must_use]
pub fn header(kind: u8, len: usize) -> [u8; HEADER_LEN] {
    let len = (len as u32).to_be_bytes();
    [kind, 0, 0, 0, len[0], len[1], len[2], len[3]]
}

/// The type of [`ToHub::Records`].
pub const RECORDS: u8 = 66;

/// The type of [`ToHub::Read`].
pub const READ: u8 = 67;

fn message(kind: u8, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN + rest.len());
    out.put_slice(&header(kind, rest.len()));
    out.put_slice(rest);
    out.freeze()
}

fn json(kind: u8, value: &impl Serialize) -> Bytes {
    message(kind, &serde_json::to_vec(value).unwrap_or_default())
}

fn parts(kind: u8, fixed: &[&[u8]], rest: &[u8]) -> Bytes {
    let len = fixed.iter().map(|part| part.len()).sum::<usize>() + rest.len();
    let mut out = BytesMut::with_capacity(HEADER_LEN + len);
    out.put_slice(&header(kind, len));
    fixed.iter().for_each(|part| out.put_slice(part));
    out.put_slice(rest);
    out.freeze()
}

impl ToAgent {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Hello(hello) => json(1, hello),
            Self::Start(start) => json(2, start),
            Self::Input(writer, offset, data) => parts(3, &[&writer.to_be_bytes(), &offset.to_be_bytes()], data),
            Self::InputEnd(writer, offset) => parts(4, &[&writer.to_be_bytes(), &offset.to_be_bytes()], &[]),
            Self::Resize(size) => parts(5, &[&size.cols.to_be_bytes(), &size.rows.to_be_bytes()], &[]),
            Self::Signal(signal) => message(6, &[*signal]),
            Self::Stop(by) => message(7, by.as_bytes()),
            Self::Ack(offset, exit) => parts(8, &[&offset.to_be_bytes(), &[u8::from(*exit)]], &[]),
            Self::Read(id, from, to) => parts(9, &[&id.to_be_bytes(), &from.to_be_bytes(), &to.to_be_bytes()], &[]),
            Self::Ping => message(10, &[]),
            Self::Pace(offset) => parts(11, &[&offset.to_be_bytes()], &[]),
            Self::OrphanLimit(limit) => parts(12, &[&limit.to_be_bytes()], &[]),
            Self::Card(card) => json(13, card),
        }
    }

    /// Reads the rest of a message of type `kind`; `None` for a type that this version does not know.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] where the rest does not fit.
    pub fn decode(kind: u8, mut rest: Bytes) -> Result<Option<Self>, ProtocolError> {
        let fits = |len: usize| (rest.len() >= len).then_some(()).ok_or(ProtocolError::Malformed(kind));
        Ok(Some(match kind {
            1 => Self::Hello(parse(kind, &rest)?),
            2 => Self::Start(parse(kind, &rest)?),
            3 => {
                fits(24)?;
                Self::Input(rest.get_u128(), rest.get_u64(), rest)
            }
            4 => {
                fits(24)?;
                Self::InputEnd(rest.get_u128(), rest.get_u64())
            }
            5 => {
                fits(4)?;
                Self::Resize(Size { cols: rest.get_u16(), rows: rest.get_u16() }.clamped())
            }
            6 => {
                fits(1)?;
                Self::Signal(rest.get_u8())
            }
            7 => Self::Stop(String::from_utf8_lossy(&rest).into_owned()),
            8 => {
                fits(9)?;
                Self::Ack(rest.get_u64(), rest.get_u8() != 0)
            }
            9 => {
                fits(24)?;
                Self::Read(rest.get_u64(), rest.get_u64(), rest.get_u64())
            }
            10 => Self::Ping,
            11 => {
                fits(8)?;
                Self::Pace(rest.get_u64())
            }
            12 => {
                fits(8)?;
                Self::OrphanLimit(rest.get_u64())
            }
            13 => Self::Card(parse(kind, &rest)?),
            _ => return Ok(None),
        }))
    }
}

impl ToHub {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Hello(hello) => json(65, hello),
            Self::Records(records) => message(RECORDS, records),
            Self::Read(id, records) => parts(READ, &[&id.to_be_bytes()], records),
            Self::ReadEnd(id) => message(68, &id.to_be_bytes()),
            Self::InputAck(writer, offset) => parts(69, &[&writer.to_be_bytes(), &offset.to_be_bytes()], &[]),
            Self::Started(pid) => message(70, &pid.to_be_bytes()),
            Self::Pong => message(71, &[]),
            Self::Refused(reason) => message(72, reason.as_bytes()),
            Self::Idle(left) => parts(73, &[&left.to_be_bytes()], &[]),
        }
    }

    /// Reads the rest of a message of type `kind`; `None` for a type that this version does not know.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] where the rest does not fit.
    pub fn decode(kind: u8, mut rest: Bytes) -> Result<Option<Self>, ProtocolError> {
        let fits = |len: usize| (rest.len() >= len).then_some(()).ok_or(ProtocolError::Malformed(kind));
        Ok(Some(match kind {
            65 => Self::Hello(parse(kind, &rest)?),
            RECORDS => Self::Records(rest),
            READ => {
                fits(8)?;
                Self::Read(rest.get_u64(), rest)
            }
            68 => {
                fits(8)?;
                Self::ReadEnd(rest.get_u64())
            }
            69 => {
                fits(24)?;
                Self::InputAck(rest.get_u128(), rest.get_u64())
            }
            70 => {
                fits(4)?;
                Self::Started(rest.get_u32())
            }
            71 => Self::Pong,
            72 => Self::Refused(String::from_utf8_lossy(&rest).into_owned()),
            73 => {
                fits(8)?;
                Self::Idle(rest.get_u64())
            }
            _ => return Ok(None),
        }))
    }
}

fn parse<T: for<'de> Deserialize<'de>>(kind: u8, rest: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(rest).map_err(|_| ProtocolError::Malformed(kind))
}

/// Takes messages off a socket. What was read of a message stays in the reader when a future is dropped.
#[derive(Debug)]
pub struct Reader<R> {
    socket: R,
    buffer: BytesMut,
    /// The size of the present block, in bytes.
    size: usize,
    /// Blocks that messages were read into, the oldest first: used again once none of those messages is left, since new
    /// memory's pages are cleared at their first use. None is larger than [`BLOCK`], so that what is kept is bounded.
    used: VecDeque<BytesMut>,
}

/// The size of the blocks that messages are read into, in bytes. A message's rest shares its block.
const BLOCK: usize = 256 << 10;

/// With less room than this left in a block, a new one is taken, in bytes.
const MIN_ROOM: usize = 16 << 10;

/// How many blocks are kept to be used again: what a ring holds on to, and some more.
const MAX_USED: usize = 6;

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `socket`.
    pub fn new(socket: R) -> Self {
        Self { socket, buffer: BytesMut::with_capacity(BLOCK), size: BLOCK, used: VecDeque::new() }
    }

    /// Goes on in another block, with what has come of a message.
    fn change_block(&mut self) {
        let size = BLOCK.max(2 * self.buffer.len());
        let free = size == BLOCK && self.used.front_mut().is_some_and(|oldest| oldest.try_reclaim(size));
        let oldest = if free || self.used.len() == MAX_USED { self.used.pop_front() } else { None };
        let mut block = oldest.filter(|_| free).unwrap_or_else(|| BytesMut::with_capacity(size));
        block.extend_from_slice(&self.buffer);
        let mut used = std::mem::replace(&mut self.buffer, block);
        if std::mem::replace(&mut self.size, size) == BLOCK {
            used.clear();
            self.used.push_back(used);
        }
    }

    /// The next message's type and rest, or `None` at the connection's end. Safe to cancel.
    ///
    /// # Errors
    /// [`ProtocolError`] where the connection fails, ends within a message, or sends one that is too long.
    pub async fn next(&mut self) -> Result<Option<(u8, Bytes)>, ProtocolError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.buffer.capacity() - self.buffer.len() < MIN_ROOM {
                self.change_block();
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                };
            }
        }
    }

    fn take(&mut self) -> Result<Option<(u8, Bytes)>, ProtocolError> {
        let Some(mut head) = self.buffer.get(..HEADER_LEN) else { return Ok(None) };
        let kind = (head.get_u32() >> 24) as u8;
        let len = head.get_u32() as usize;
        if len > MAX_MESSAGE {
            return Err(ProtocolError::TooLong(len));
        }
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        Ok(Some((kind, self.buffer.split_to(len).freeze())))
    }
}

#[cfg(test)]
mod tests;
