//! Input for the command: each byte of each writer is accepted once and acknowledged when the command has it.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::protocol::{INPUT_WINDOW, Writer};
use super::wire::WriteHalf;

/// How many writers are remembered: more than a hub does, which asks where one stands that it has forgotten. The one
/// that was heard of least lately is forgotten first, and only where the command has all of its bytes.
const WRITERS: usize = 1024;

/// What waits to be given to the command.
#[derive(Debug)]
pub enum Piece {
    /// A writer's bytes.
    Data {
        /// Whose.
        writer: Writer,
        /// Where they end in that writer's input.
        end: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The end of all input.
    End,
}

/// How far a writer is.
#[derive(Debug, Default)]
struct Place {
    /// Where its next byte is expected.
    accepted: u64,
    /// Up to where the command has its bytes.
    given: u64,
    /// When it was last heard of, as a count.
    heard: u64,
    /// Whether it has ended a terminal's input, which goes on for others.
    ended: bool,
}

/// Input that does not continue what its writer sent before, or is more than may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfWindow;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Input {
    pieces: VecDeque<Piece>,
    writers: HashMap<Writer, Place>,
    heard: u64,
    /// What is to be acknowledged on the present connection.
    acks: VecDeque<(Writer, u64)>,
    ended: bool,
}

impl Input {
    /// A writer of whom nothing is known stands here, by its own word: it began at a hub that is gone.
    pub fn take_up(&mut self, writer: Writer, offset: u64) {
        if !self.writers.contains_key(&writer) && self.make_room(writer).is_ok() {
            self.heard += 1;
            self.writers.insert(writer, Place { accepted: offset, given: offset, heard: self.heard, ended: false });
        }
    }

    /// Takes a writer's bytes at their offset; those that it has already are passed over and acknowledged again.
    ///
    /// # Errors
    /// [`OutOfWindow`] where bytes before them are missing, or more than [`INPUT_WINDOW`] would be under way.
    pub fn accept(&mut self, writer: Writer, offset: u64, mut data: Bytes) -> Result<(), OutOfWindow> {
        let (accepted, given) = self.writers.get(&writer).map_or((0, 0), |place| (place.accepted, place.given));
        let end = offset.checked_add(data.len() as u64).ok_or(OutOfWindow)?;
        if offset > accepted || end > given.saturating_add(INPUT_WINDOW) {
            return Err(OutOfWindow);
        }
        self.make_room(writer)?;
        self.heard += 1;
        let place = self.writers.entry(writer).or_default();
        place.heard = self.heard;
        if end <= given {
            self.acks.push_back((writer, given));
        }
        if end <= accepted {
            return Ok(());
        }
        data.advance((accepted - offset) as usize);
        place.accepted = end;
        match self.ended {
            true => self.given(writer, end),
            false => self.pieces.push_back(Piece::Data { writer, end, data }),
        }
        Ok(())
    }

    /// Forgets a writer where there are too many and this is another one.
    fn make_room(&mut self, writer: Writer) -> Result<(), OutOfWindow> {
        if self.writers.len() < WRITERS || self.writers.contains_key(&writer) {
            return Ok(());
        }
        let idle = self.writers.iter().filter(|(_, place)| place.accepted == place.given);
        let oldest = idle.min_by_key(|(_, place)| place.heard).map(|(writer, _)| *writer).ok_or(OutOfWindow)?;
        self.writers.remove(&oldest);
        Ok(())
    }

    /// Ends the input, where the writer's bytes up to `offset` are here. What is typed at a `terminal` ends there, as ctrl-D
    /// does, once for each writer, and all others go on; a pipe has one end.
    pub fn end(&mut self, writer: Writer, offset: u64, terminal: bool) {
        if self.ended || self.writers.get(&writer).map_or(0, |place| place.accepted) < offset {
            return;
        }
        if terminal {
            // One that is not known has typed nothing; it may be told again.
            let known = self.make_room(writer).map(|()| self.writers.entry(writer).or_default());
            if known.map_or(true, |place| std::mem::replace(&mut place.ended, true)) {
                return;
            }
        }
        self.ended = !terminal;
        self.pieces.push_back(Piece::End);
    }

    /// The command takes no more input: what waits and what comes counts as given, as with a closed pipe.
    pub fn close(&mut self) {
        self.ended = true;
        while let Some(piece) = self.pieces.pop_front() {
            if let Piece::Data { writer, end, .. } = piece {
                self.given(writer, end);
            }
        }
    }

    /// What is to be given next. What it is acknowledged by is [`Self::given`].
    pub fn take(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// The command has a writer's bytes up to `end`.
    pub fn given(&mut self, writer: Writer, end: u64) {
        if let Some(place) = self.writers.get_mut(&writer) {
            place.given = end;
        }
        self.acks.push_back((writer, end));
    }

    /// What is to be acknowledged now.
    pub fn take_acks(&mut self) -> VecDeque<(Writer, u64)> {
        std::mem::take(&mut self.acks)
    }
}

/// Gives the command its input, until it ends or is dropped. `end_of_file` is what ends a terminal's input; a pipe is
/// closed instead. `moved` is told when something can be acknowledged.
pub async fn give(
    input: &std::cell::RefCell<Input>,
    mut command: WriteHalf,
    end_of_file: impl Fn() -> Option<u8>,
    mut typed: watch::Receiver<()>,
    moved: &watch::Sender<()>,
) {
    loop {
        typed.borrow_and_update();
        let next = input.borrow_mut().take();
        let open = match next {
            Some(Piece::Data { writer, end, data }) => {
                let open = command.write_all(&data).await.is_ok();
                input.borrow_mut().given(writer, end);
                open
            }
            Some(Piece::End) => match end_of_file() {
                Some(byte) => command.write_all(&[byte]).await.is_ok(),
                None => false,
            },
            None => typed.changed().await.is_ok(),
        };
        if !open {
            input.borrow_mut().close();
            moved.send_replace(());
            return;
        }
        moved.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(input: &mut Input) -> Vec<u8> {
        let pieces = std::mem::take(&mut input.pieces);
        let data = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Data { data, writer, end } => {
                input.given(writer, end);
                Some(data)
            }
            Piece::End => None,
        });
        data.flatten().collect()
    }

    #[test]
    fn a_byte_sent_again_is_accepted_once() {
        let mut input = Input::default();
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        input.accept(1, 0, bytes("abc")).expect("in window");
        input.accept(1, 0, bytes("abc")).expect("in window");
        input.accept(1, 1, bytes("bcde")).expect("in window");
        input.accept(2, 0, bytes("X")).expect("in window");
        assert_eq!(taken(&mut input), b"abcdeX");
        input.take_acks();
        input.accept(1, 0, bytes("abc")).expect("in window");
        assert_eq!(input.take_acks(), [(1, 5)]);
        assert_eq!(taken(&mut input), b"");
    }

    #[test]
    fn a_hole_and_too_much_are_refused() {
        let mut input = Input::default();
        assert_eq!(input.accept(1, 1, Bytes::from_static(b"b")), Err(OutOfWindow));
        let much = Bytes::from(vec![0; INPUT_WINDOW as usize]);
        assert_eq!(input.accept(1, 0, much), Ok(()));
        assert_eq!(input.accept(1, INPUT_WINDOW, Bytes::from_static(b"b")), Err(OutOfWindow));
    }

    #[test]
    fn so_many_writers_are_remembered_and_those_whose_bytes_wait() {
        let mut input = Input::default();
        let key = || Bytes::from_static(b"k");
        input.accept(0, 0, key()).expect("in window");
        taken(&mut input);
        for writer in 1..2 * WRITERS as Writer {
            input.accept(writer, 0, key()).expect("in window");
            // One comes back again and again, and is not forgotten.
            input.accept(0, 0, key()).expect("in window");
            assert_eq!(taken(&mut input), b"k", "the new one's");
        }
        assert_eq!(input.writers.len(), WRITERS);
        assert_eq!(input.accept(0, 1, key()), Ok(()));
        assert_eq!(input.accept(1, 1, key()), Err(OutOfWindow), "forgotten, and told so");
        taken(&mut input);
        for writer in 9000..9000 + WRITERS as Writer {
            input.accept(writer, 0, key()).expect("in window");
        }
        assert_eq!(input.accept(1, 0, key()), Err(OutOfWindow), "no room while all wait for the command");
        assert_eq!(taken(&mut input).len(), WRITERS);
        assert_eq!(input.accept(1, 0, key()), Ok(()));
    }

    #[test]
    fn a_terminals_input_is_ended_by_each_writer_once_and_goes_on_for_others() {
        let mut input = Input::default();
        let ends = |input: &mut Input| {
            let pieces = std::mem::take(&mut input.pieces);
            pieces.iter().filter(|piece| matches!(piece, Piece::End)).count()
        };
        input.accept(1, 0, Bytes::from_static(b"ls")).expect("in window");
        input.end(1, 3, true);
        assert_eq!(ends(&mut input), 0, "not before all of it is here");
        for _ in 0..2 {
            input.end(1, 2, true);
            input.end(3, 0, true);
        }
        assert_eq!(ends(&mut input), 2);
        input.accept(2, 0, Bytes::from_static(b"here")).expect("in window");
        assert_eq!(taken(&mut input), b"here");
        input.end(2, 4, false);
        input.end(1, 2, false);
        assert_eq!(ends(&mut input), 1, "a pipe has one end");
    }

    #[test]
    fn the_end_waits_for_what_was_sent_before_it() {
        let mut input = Input::default();
        input.end(1, 3, false);
        assert!(!input.ended);
        input.accept(1, 0, Bytes::from_static(b"abc")).expect("in window");
        input.end(1, 3, false);
        assert!(input.ended);
    }
}
