//! What is typed, kept until the command has it.
//!
//! Invariant: every byte keeps its offset for ever; a new connection starts again at the first byte that was not
//! acknowledged, so a command gets each byte once whatever breaks on the way.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::protocol::{INPUT_WINDOW, MAX_INPUT};

/// A writer's input: what is acknowledged, under way, and waiting.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: VecDeque<Bytes>,
    acked: u64,
    sent: u64,
    end: u64,
    closed: bool,
    close_sent: bool,
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Input, the first byte at the offset.
    Data(u64, Bytes),
    /// The input ends at the offset.
    End(u64),
}

impl Outgoing {
    /// Whether more may be typed: less than a window's worth is kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.closed && self.end - self.acked < INPUT_WINDOW
    }

    /// Appends input. Nothing follows a close.
    pub fn push(&mut self, data: Bytes) {
        if !self.closed && !data.is_empty() {
            self.end += data.len() as u64;
            self.pieces.push_back(data);
        }
    }

    /// Ends the input.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Takes note that the command has everything before `offset`.
    pub fn ack(&mut self, offset: u64) {
        let offset = offset.min(self.end);
        while self.acked < offset {
            let Some(first) = self.pieces.front_mut() else { break };
            let step = (offset - self.acked).min(first.len() as u64);
            first.advance(step as usize);
            self.acked += step;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
        self.sent = self.sent.max(self.acked);
    }

    /// A connection is new: what was under way goes again.
    pub fn rewind(&mut self) {
        self.sent = self.acked;
        self.close_sent = false;
    }

    /// The next piece to send within the window, if there is one.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let limit = self.end.min(self.acked + INPUT_WINDOW);
        if self.sent < limit {
            let at = self.sent;
            let data = self.slice(at, (limit - at).min(MAX_INPUT as u64) as usize)?;
            self.sent += data.len() as u64;
            return Some(Piece::Data(at, data));
        }
        let closing = self.closed && !self.close_sent && self.sent == self.end;
        closing.then(|| {
            self.close_sent = true;
            Piece::End(self.end)
        })
    }

    /// Whether all of it was acknowledged.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.acked == self.end
    }

    fn slice(&self, at: u64, most: usize) -> Option<Bytes> {
        let mut start = self.acked;
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            if at < end {
                let from = (at - start) as usize;
                return Some(piece.slice(from..piece.len().min(from + most)));
            }
            start = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(offset: u64, text: &'static str) -> Option<Piece> {
        Some(Piece::Data(offset, Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn what_was_not_acknowledged_goes_again() {
        let mut input = Outgoing::default();
        input.push("abc".into());
        input.push("def".into());
        assert_eq!(input.next_piece(), data(0, "abc"));
        assert_eq!(input.next_piece(), data(3, "def"));
        assert_eq!(input.next_piece(), None);
        input.ack(2);
        input.rewind();
        assert_eq!(input.next_piece(), data(2, "c"));
        assert_eq!(input.next_piece(), data(3, "def"));
        input.ack(6);
        assert!(input.is_settled());
        input.rewind();
        assert_eq!(input.next_piece(), None);
    }

    #[test]
    fn the_end_goes_last_and_again() {
        let mut input = Outgoing::default();
        input.push("ab".into());
        input.close();
        input.push("never".into());
        assert!(!input.has_room());
        assert_eq!(input.next_piece(), data(0, "ab"));
        assert_eq!(input.next_piece(), Some(Piece::End(2)));
        assert_eq!(input.next_piece(), None);
        input.rewind();
        assert_eq!(input.next_piece(), data(0, "ab"));
        assert_eq!(input.next_piece(), Some(Piece::End(2)));
    }

    #[test]
    fn no_more_than_the_window_is_under_way() {
        let mut input = Outgoing::default();
        let piece = Bytes::from(vec![7; MAX_INPUT]);
        while input.has_room() {
            input.push(piece.clone());
        }
        input.push(piece);
        let mut under_way = 0;
        while let Some(Piece::Data(_, data)) = input.next_piece() {
            under_way += data.len() as u64;
        }
        assert_eq!(under_way, INPUT_WINDOW);
        input.ack(1);
        assert!(matches!(input.next_piece(), Some(Piece::Data(INPUT_WINDOW, data)) if data.len() == 1));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_typed_is_harmless() {
        let mut input = Outgoing::default();
        input.ack(9);
        input.push("a".into());
        assert_eq!(input.next_piece(), data(0, "a"));
    }

    proptest! {
        /// Whatever breaks, a command that accepts each offset once gets exactly what was typed.
        #[test]
        fn every_byte_arrives_once(steps in proptest::collection::vec((0u8..4, 1usize..200), 1..80)) {
            let (mut input, mut typed, mut got) = (Outgoing::default(), Vec::new(), Vec::new());
            let mut receive = |piece: Option<Piece>| {
                if let Some(Piece::Data(offset, data)) = piece {
                    assert!(offset <= got.len() as u64, "a hole");
                    let known = got.len() - offset as usize;
                    got.extend_from_slice(data.get(known..).unwrap_or_default());
                }
                got.len() as u64
            };
            for (step, size) in steps {
                match step {
                    0 => {
                        let text: Vec<u8> = (0..size).map(|i| (typed.len() + i) as u8).collect();
                        typed.extend_from_slice(&text);
                        input.push(text.into());
                    }
                    1 => { receive(input.next_piece()); }
                    2 => { let have = receive(None); input.ack(have.min(size as u64)); }
                    _ => input.rewind(),
                }
            }
            input.rewind();
            while let Some(piece) = input.next_piece() { receive(Some(piece)); }
            prop_assert_eq!(typed, got);
        }
    }
}
