//! The hub's end of a websocket (RFC 6455, version 13, without extensions).
//!
//! Why not a library's: records go out from where they lie, many with one system call, behind a header that is made on
//! the way; a viewer that is quiet holds no buffer; and what is half written is known, so that a slow viewer is left at a
//! frame's border. What comes in is short, and is unmasked in place.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use super::stream::Stream;

/// A text frame's opcode.
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The longest header of a frame, in bytes, without a mask.
const MAX_HEAD: usize = 10;

/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: usize = 125;

/// The longest message that is taken from a peer, in bytes.
const MAX_MESSAGE: usize = crate::protocol::MAX_CLIENT_MESSAGE;

/// Bytes that are read at once while little comes.
const READ: usize = 4 << 10;

/// What a peer said.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A ping, to be answered with the same bytes.
    Ping(Bytes),
    /// The answer to a ping.
    Pong,
    /// The peer closes. Nothing follows.
    Close,
}

/// What breaks the protocol, and closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame that cannot stand where it does.
    #[error("the frame breaks the websocket protocol: {0}")]
    Protocol(&'static str),
    /// A message that is too long.
    #[error("a message has at most {MAX_MESSAGE} bytes")]
    TooLong,
    /// Text that is not UTF-8.
    #[error("a text message has to be UTF-8")]
    NotText,
}

/// Makes messages of the bytes that come. Holds no memory while nothing is half here.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The opcode and the parts so far of a message that comes in several frames.
    parts: Option<(u8, BytesMut)>,
}

struct Head {
    last: bool,
    opcode: u8,
    /// Bytes before the payload, and of it.
    len: usize,
    payload: usize,
    mask: [u8; 4],
}

impl Decoder {
    /// Goes on with what was read already.
    #[must_use]
    pub fn new(first: &[u8]) -> Self {
        Self { buffer: first.into(), parts: None }
    }

    /// Reads what is there, without waiting. The number of bytes; 0 at the connection's end.
    ///
    /// # Errors
    /// What the socket says; `WouldBlock` where nothing is there.
    pub fn read(&mut self, stream: &Stream) -> io::Result<usize> {
        self.buffer.reserve(READ);
        let read = stream.try_read_buf(&mut self.buffer);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read
    }

    /// The next message of those that were read.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            let whole = head.len + head.payload;
            if self.buffer.len() < whole {
                self.buffer.reserve(whole - self.buffer.len());
                return Ok(None);
            }
            self.buffer.advance(head.len);
            let mut payload = self.buffer.split_to(head.payload);
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            unmask(&mut payload, head.mask);
            if let Some(message) = self.message(&head, payload)? {
                return Ok(Some(message));
            }
        }
    }

    fn head(&self) -> Result<Option<Head>, FrameError> {
        let Some(&[first, second]) = self.buffer.get(..2) else { return Ok(None) };
        let protocol = |what| Err(FrameError::Protocol(what));
        let (last, opcode, short) = (first & 0x80 != 0, first & 15, usize::from(second & 0x7f));
        if first & 0x70 != 0 {
            return protocol("a reserved bit is set");
        }
        if second & 0x80 == 0 {
            return protocol("a client's frames are masked");
        }
        match opcode {
            0 | TEXT | BINARY => {}
            CLOSE | PING | PONG if !last => return protocol("a control frame comes whole"),
            CLOSE | PING | PONG if short > MAX_CONTROL => return protocol("a control frame has at most 125 bytes"),
            CLOSE | PING | PONG => {}
            _ => return protocol("an opcode is not known"),
        }
        let (at, payload) = match short {
            126 => (4, self.number(2)),
            127 => (10, self.number(8)),
            short => (2, Some(short as u64)),
        };
        let Some(payload) = payload else { return Ok(None) };
        let before = self.parts.as_ref().map_or(0, |(_, parts)| parts.len());
        let payload = usize::try_from(payload).ok().filter(|len| len.saturating_add(before) <= MAX_MESSAGE);
        let payload = payload.ok_or(FrameError::TooLong)?;
        let Some(mask) = self.buffer.get(at..at + 4).and_then(|mask| mask.try_into().ok()) else { return Ok(None) };
        Ok(Some(Head { last, opcode, len: at + 4, payload, mask }))
    }

    /// The length behind the first two bytes, once it is here.
    fn number(&self, len: usize) -> Option<u64> {
        let bytes = self.buffer.get(2..2 + len)?;
        Some(bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    fn message(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Message>, FrameError> {
        let (opcode, data) = match (head.opcode, self.parts.take()) {
            (PING | PONG | CLOSE, parts) => {
                self.parts = parts;
                (head.opcode, payload)
            }
            (0, None) => return Err(FrameError::Protocol("there is no message to be continued")),
            (0, Some((opcode, mut parts))) => {
                parts.extend_from_slice(&payload);
                (opcode, parts)
            }
            (_, Some(_)) => return Err(FrameError::Protocol("a message has not come to its end")),
            (opcode, None) => (opcode, payload),
        };
        if !head.last {
            self.parts = Some((opcode, data));
            return Ok(None);
        }
        Ok(Some(match opcode {
            TEXT => Message::Text(String::from_utf8(data.into()).map_err(|_| FrameError::NotText)?),
            BINARY => Message::Binary(data.freeze()),
            PING => Message::Ping(data.freeze()),
            PONG => Message::Pong,
            _ => closed(&data)?,
        }))
    }
}

/// Checks what a peer closes with (RFC 6455, section 7.4).
fn closed(data: &[u8]) -> Result<Message, FrameError> {
    let code = match data {
        [] => return Ok(Message::Close),
        [_] => return Err(FrameError::Protocol("a close code has two bytes")),
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::Protocol("a close code is not one"));
    }
    std::str::from_utf8(&data[2..]).map(|_| Message::Close).map_err(|_| FrameError::NotText)
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for part in payload.chunks_mut(4) {
        part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// A frame's header and how much of it there is.
fn head(opcode: u8, len: usize) -> ([u8; MAX_HEAD], usize) {
    let mut head = [0; MAX_HEAD];
    head[0] = 0x80 | opcode;
    let whole = match len {
        0..=125 => {
            head[1] = len as u8;
            2
        }
        126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    (head, whole)
}

/// With so many bytes of short messages on their way, nothing more is heard that would be answered.
const MAX_SHORT: usize = 64 << 10;

/// Parts that go with one write at most.
const MAX_PARTS: usize = 64;

/// With room for more parts than this, an empty outbox gives its memory back.
const KEPT_PARTS: usize = 8;

/// What is on its way to the peer. Short messages go before records that have not begun.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Whole frames.
    short: Vec<u8>,
    /// What was written of them.
    short_at: usize,
    /// The header of the binary message that is under way.
    head: [u8; MAX_HEAD],
    head_at: usize,
    head_len: usize,
    /// Its parts, and how many of them were written, the last one in part.
    parts: Vec<Bytes>,
    next: usize,
}

impl Outbox {
    /// Whether all was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.short.is_empty() && !self.is_sending()
    }

    /// Whether a binary message is under way.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.head_at < self.head_len || self.next < self.parts.len()
    }

    /// Whether there is room for the answer to what the peer says: one that does not read is not heard any further.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.short.len() < MAX_SHORT
    }

    /// Adds a text message.
    pub fn text(&mut self, text: &str) {
        self.add(TEXT, text.as_bytes());
    }

    /// Adds a ping.
    pub fn ping(&mut self) {
        self.add(PING, &[]);
    }

    /// Answers a ping, unless so much waits already that the peer does not read.
    pub fn pong(&mut self, payload: &[u8]) {
        if self.short.len() < READ {
            self.add(PONG, payload);
        }
    }

    /// Adds a close frame, the last one.
    pub fn close(&mut self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        let room = MAX_CONTROL - payload.len();
        let end = (0..=reason.len().min(room)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        payload.extend_from_slice(&reason.as_bytes()[..end]);
        self.add(CLOSE, &payload);
    }

    fn add(&mut self, opcode: u8, payload: &[u8]) {
        let (head, len) = head(opcode, payload.len());
        self.short.extend_from_slice(&head[..len]);
        self.short.extend_from_slice(payload);
    }

    /// Lets `fill` add the parts of the next binary message; without any there is none. Only while none is under way.
    pub fn binary<T>(&mut self, fill: impl FnOnce(&mut Vec<Bytes>) -> T) -> T {
        debug_assert!(!self.is_sending(), "one message at a time");
        self.parts.clear();
        self.next = 0;
        let filled = fill(&mut self.parts);
        self.parts.retain(|part| !part.is_empty());
        if !self.parts.is_empty() {
            (self.head, self.head_len) = head(BINARY, self.parts.iter().map(Bytes::len).sum());
            self.head_at = 0;
        }
        filled
    }

    /// Writes what the socket takes, without waiting. The number of bytes, and whether all is written.
    ///
    /// # Errors
    /// What the socket says, but `WouldBlock`.
    pub fn write(&mut self, stream: &Stream) -> io::Result<(usize, bool)> {
        let mut sum = 0;
        while !self.is_empty() {
            match self.write_some(stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    sum += written;
                    self.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((sum, false)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.give_back();
        Ok((sum, true))
    }

    fn begun(&self) -> bool {
        self.head_at > 0 && self.is_sending()
    }

    /// What goes before the binary message: all short ones, unless it has begun.
    fn before(&self) -> &[u8] {
        if self.begun() { &[] } else { &self.short[self.short_at..] }
    }

    fn write_some(&self, stream: &Stream) -> io::Result<usize> {
        if !self.is_sending() {
            return stream.try_write(self.before());
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        slices[0] = IoSlice::new(self.before());
        slices[1] = IoSlice::new(&self.head[self.head_at..self.head_len]);
        let parts = self.parts[self.next..].iter().take(MAX_PARTS - 2);
        let len = parts.zip(&mut slices[2..]).map(|(part, slice)| *slice = IoSlice::new(part)).count();
        stream.try_write_vectored(&slices[..len + 2])
    }

    fn advance(&mut self, mut written: usize) {
        let before = written.min(self.before().len());
        if before > 0 {
            self.short_at += before;
            written -= before;
            if self.short_at == self.short.len() {
                (self.short, self.short_at) = (Vec::new(), 0);
            }
        }
        let head = written.min(self.head_len - self.head_at);
        self.head_at += head;
        written -= head;
        while written > 0 {
            let part = &mut self.parts[self.next];
            let take = written.min(part.len());
            written -= take;
            if take == part.len() {
                // Lets go of the memory that it shares.
                *part = Bytes::new();
                self.next += 1;
            } else {
                part.advance(take);
            }
        }
    }

    fn give_back(&mut self) {
        self.parts.clear();
        self.next = 0;
        if self.parts.capacity() > KEPT_PARTS {
            self.parts = Vec::new();
        }
    }
}
