//! The least of the wires that a client needs: the upgrade, masked frames, and where the output has got to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use foghorn::record::{HEADER_LEN, Header};

/// Upgrades to a websocket, and reads no byte beyond the answer's head.
pub fn upgrade(address: SocketAddr, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_nodelay(true).expect("a socket");
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

/// A client's frame: whole, masked with zeros, which changes nothing.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(len).expect("a short frame").to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What stands around runs of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A server's websocket frames.
    Websocket,
    /// An agent's messages.
    Agent,
}

/// Finds the output in a stream of frames that comes in any pieces.
pub struct Parser {
    framing: Framing,
    head: [u8; HEADER_LEN],
    have: usize,
    /// Bytes left of the frame, and of the record's payload.
    frame: usize,
    payload: usize,
    /// Whether the frame holds records, and the record output.
    records: bool,
    output: bool,
    /// Whether output may be missing.
    lossy: bool,
    /// The offset up to which output was seen.
    pub offset: u64,
}

impl Parser {
    pub fn new(framing: Framing, lossy: bool) -> Self {
        let head = [0; HEADER_LEN];
        Self { framing, head, have: 0, frame: 0, payload: 0, records: false, output: false, lossy, offset: 0 }
    }

    /// Takes what came; output is handed on with its offset.
    pub fn feed(&mut self, mut bytes: &[u8], mut output: impl FnMut(u64, &[u8])) {
        while !bytes.is_empty() {
            if self.payload > 0 || (self.frame > 0 && !self.records) {
                let whole = if self.payload > 0 { self.payload } else { self.frame };
                let (part, rest) = bytes.split_at(whole.min(bytes.len()));
                self.frame -= part.len();
                if self.payload > 0 {
                    self.payload -= part.len();
                    if self.output {
                        output(self.offset, part);
                        self.offset += part.len() as u64;
                    }
                }
                bytes = rest;
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.frame > 0 { self.record_head() } else { self.frame_head() }
        }
    }

    fn record_head(&mut self) {
        self.frame -= 1;
        if self.have < HEADER_LEN {
            return;
        }
        let header = Header::peek(&self.head).expect("a header").expect("whole");
        self.output = matches!(self.head[0], 1 | 2);
        if self.output {
            assert!(self.lossy || header.offset == self.offset, "{} follows {}", header.offset, self.offset);
            self.offset = header.offset;
        }
        assert_ne!(self.head[0], 4, "output was dropped at {}", header.offset);
        (self.payload, self.have) = (header.len, 0);
    }

    fn frame_head(&mut self) {
        let head = &self.head[..self.have];
        let Some((_, frame)) = frame_head(self.framing, head) else { return };
        self.records = match self.framing {
            Framing::Agent => head[0] == 66,
            Framing::Websocket => head[0] & 15 == 2,
        };
        (self.frame, self.have) = (frame, 0);
    }
}

/// The longest header of a frame, in bytes.
pub const MAX_HEAD: usize = 10;

/// Bytes of the header that `head` starts with, and of what follows it, once the header is whole.
pub fn frame_head(framing: Framing, head: &[u8]) -> Option<(usize, usize)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte));
    match framing {
        Framing::Agent => head.get(4..8).map(|len| (8, number(len))),
        Framing::Websocket => match *head.get(1)? {
            127 => head.get(2..10).map(|len| (10, number(len))),
            126 => head.get(2..4).map(|len| (4, number(len))),
            short => Some((2, usize::from(short))),
        },
    }
}
