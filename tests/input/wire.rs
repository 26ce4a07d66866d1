//! A websocket by hand, over a plain socket: what is sent may be wrong in any way, what comes is checked by RFC 6455.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::server::DEADLINE;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The bit of a message's last frame.
pub(crate) const FIN: u8 = 0x80;

/// The key that clients' frames are masked with here.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The key and the answer of RFC 6455, section 1.3.
const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

/// The first bytes of a frame: `first`, then the length in the shortest form, masked.
pub(crate) fn head(first: u8, len: u64) -> Vec<u8> {
    let mut head = vec![first];
    match len {
        0..126 => head.push(0x80 | len as u8),
        126..0x1_0000 => {
            head.push(0x80 | 126);
            head.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend_from_slice(&len.to_be_bytes());
        }
    }
    head.extend_from_slice(&MASK);
    head
}

/// A masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len() as u64);
    frame.extend(masked(payload));
    frame
}

/// A payload under [`MASK`].
pub(crate) fn masked(payload: &[u8]) -> impl Iterator<Item = u8> {
    payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4])
}

/// A whole text message.
pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A whole message of input.
pub(crate) fn input(offset: u64, typed: &str) -> Vec<u8> {
    frame(FIN | BINARY, &[&offset.to_be_bytes(), typed.as_bytes()].concat())
}

/// What came from the hub.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Got {
    Message(Value),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// A close frame's code; 1005 where it has none.
    Close(u16),
    /// The connection is at its end.
    End,
}

/// See the module's documentation.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The code of the last error that the hub told.
    pub(crate) error: Option<String>,
    /// The payloads of all output records so far, with the offset of the first.
    pub(crate) output: Vec<u8>,
    pub(crate) first: Option<u64>,
}

impl Wire {
    /// Asks for a websocket; the status and the problem where there is none.
    pub(crate) async fn open(url: &str, token: &str, id: &str) -> Result<Self, (u16, Value)> {
        Self::ask(url, id, &[("authorization", &format!("Bearer {token}")), ("sec-websocket-protocol", "foghorn.v1")])
            .await
    }

    /// The same, with these headers.
    pub(crate) async fn ask(url: &str, id: &str, headers: &[(&str, &str)]) -> Result<Self, (u16, Value)> {
        let host = url.trim_start_matches("http://");
        let mut head = format!(
            "GET /v1/sessions/{id}/attach HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {}\r\n",
            KEY.0
        );
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        Self::shake(url, &format!("{head}\r\n")).await
    }

    /// The same, with this handshake.
    pub(crate) async fn shake(url: &str, handshake: &str) -> Result<Self, (u16, Value)> {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        stream.write_all(handshake.as_bytes()).await.expect("writes");
        let mut wire = Self { stream, buffer: Vec::new(), error: None, output: Vec::new(), first: None };
        let head = wire.response_head().await;
        if head.starts_with("http/1.1 101 ") {
            let accept = format!("sec-websocket-accept: {}", KEY.1.to_lowercase());
            assert!(head.contains(&accept) && head.contains("sec-websocket-protocol: foghorn.v1"), "{head}");
            return Ok(wire);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        while wire.buffer.len() < length.unwrap_or(0) {
            assert!(wire.fill().await, "the whole problem");
        }
        Err((status, serde_json::from_slice(&wire.buffer).expect("a problem")))
    }

    /// The head of an answer, in lower case.
    async fn response_head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8_lossy(&head).to_lowercase();
            }
            assert!(self.fill().await, "an answer");
        }
    }

    /// Reads what is there; whether the connection goes on.
    async fn fill(&mut self) -> bool {
        let mut part = [0; 16 << 10];
        let read = timeout(DEADLINE, self.stream.read(&mut part)).await.expect("something comes, or the end");
        let read = read.unwrap_or(0);
        self.buffer.extend_from_slice(&part[..read]);
        read > 0
    }

    /// Sends bytes as they are. A hub that has hung up is found out by what comes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("the hub reads");
    }

    /// Sends as much of the bytes as the hub takes before nothing moved for `pause`; whether it took all.
    pub(crate) async fn offer(&mut self, bytes: &[u8], pause: Duration) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match timeout(pause, self.stream.write(rest)).await {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        true
    }

    /// Sends no more.
    pub(crate) async fn hang_up(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Says hello with these fields, as JSON without the braces.
    pub(crate) async fn hello(&mut self, fields: &str) {
        let comma = if fields.is_empty() { "" } else { "," };
        self.send(&text(&format!(r#"{{"type":"hello"{comma}{fields}}}"#))).await;
    }

    /// The next message or control frame.
    pub(crate) async fn next(&mut self) -> Got {
        let mut message: Option<(u8, Vec<u8>)> = None;
        loop {
            let Some((first, payload)) = self.frame().await else { return Got::End };
            assert_eq!(first & 0x70, 0, "no reserved bits");
            let (last, opcode) = (first & FIN != 0, first & 0xf);
            if opcode >= CLOSE {
                assert!(last && payload.len() <= 125, "a control frame is whole and short");
            }
            match (opcode, &mut message) {
                // It is not this client's to prove that it lives: it is there for as long as its test.
                (PING, _) => continue,
                (PONG, _) => return Got::Pong(payload),
                (CLOSE, _) => return Got::Close(close_code(&payload)),
                (TEXT | BINARY, None) => message = Some((opcode, payload)),
                (CONTINUATION, Some((_, whole))) => whole.extend_from_slice(&payload),
                _ => panic!("a frame of type {opcode} in the wrong place"),
            }
            if let Some((opcode, whole)) = message.take_if(|_| last) {
                return if opcode == TEXT { self.said(&whole) } else { self.shown(whole) };
            }
        }
    }

    fn said(&mut self, text: &[u8]) -> Got {
        let message: Value = serde_json::from_slice(text).expect("JSON in UTF-8");
        if message["type"] == "error" {
            self.error = message["code"].as_str().map(ToOwned::to_owned);
        }
        Got::Message(message)
    }

    /// Reads the records by their headers.
    fn shown(&mut self, records: Vec<u8>) -> Got {
        let mut rest = &records[..];
        while let Some(head) = rest.get(..24) {
            let number = |from: usize, to: usize| head[from..to].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            let len = number(4, 8) as usize;
            if matches!(head[0], 1 | 2) {
                let expected = self.first.map(|first| first + self.output.len() as u64);
                assert!(expected.is_none_or(|offset| offset == number(8, 16)), "output is contiguous");
                self.first.get_or_insert(number(8, 16));
                self.output.extend_from_slice(&rest[24..24 + len]);
            }
            rest = &rest[24 + len..];
        }
        assert!(rest.is_empty(), "whole records");
        Got::Binary(records)
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.take(2).await?;
        assert_eq!(head[1] & 0x80, 0, "a hub does not mask");
        let len = match head[1] {
            126 => {
                let len = self.take(2).await?;
                usize::from(u16::from_be_bytes([len[0], len[1]]))
            }
            127 => {
                let len = self.take(8).await?;
                len.iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
            }
            len => usize::from(len),
        };
        let shortest = match len {
            0..126 => len,
            126..0x1_0000 => 126,
            _ => 127,
        };
        assert_eq!(usize::from(head[1]), shortest, "a length is in its shortest form");
        Some((head[0], self.take(len).await?))
    }

    async fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < len {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..len).collect())
    }

    /// Reads until a text message of this type.
    pub(crate) async fn hears(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Got::Message(message) if message["type"] == kind => return message,
                got @ (Got::Close(_) | Got::End) => panic!("{got:?} before {kind}; last error {:?}", self.error),
                _ => {}
            }
        }
    }

    /// Reads until the hub tells an error, and goes on: its code.
    pub(crate) async fn refuses(&mut self) -> String {
        self.hears("error").await["code"].as_str().expect("a code").to_owned()
    }

    /// Reads until the pong with this payload.
    pub(crate) async fn pong(&mut self, payload: &[u8]) {
        loop {
            match self.next().await {
                Got::Pong(pong) => return assert_eq!(pong, payload),
                got @ (Got::Close(_) | Got::End) => panic!("{got:?} before the pong; last error {:?}", self.error),
                _ => {}
            }
        }
    }

    /// Reads until the output has this text.
    pub(crate) async fn shows(&mut self, text: &str) {
        while !self.output.windows(text.len()).any(|part| part == text.as_bytes()) {
            let got = self.next().await;

            assert!(!matches!(got, Got::Close(_) | Got::End), "{got:?} before {text:?}; {:?}", self.error);
        }
    }

    /// Reads to the connection's end; the close code, if one came.
    pub(crate) async fn rest(&mut self) -> Option<u16> {
        let mut code = None;
        loop {
            match self.next().await {
                Got::Close(closed) => code = code.or(Some(closed)),
                Got::End => return code,
                Got::Pong(_) if code.is_some() => panic!("a pong behind the close"),
                _ => {}
            }
        }
    }
}

fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [] => 1005,
        [high, low, reason @ ..] => {
            assert!(std::str::from_utf8(reason).is_ok(), "a close's reason is UTF-8");
            u16::from_be_bytes([*high, *low])
        }
        [_] => panic!("a close frame of one byte"),
    }
}
