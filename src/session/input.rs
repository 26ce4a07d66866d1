//! Input: who types, and what was typed that the command has not got yet.
//!
//! One writer drives at a time. What it types is kept here until the source acknowledges it, so that a broken connection
//! to the source costs no key; how much that may be is bounded by the window that writers keep to, and by how many of
//! them are remembered. One that is forgotten had nothing under way, and the source, which remembers more of them, is
//! asked where it stands when it comes back.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use tokio::select;

use super::{Session, lock};
use crate::agent::protocol::{INPUT_WINDOW, Writer};
use crate::source::{Command, Control};

/// How many writers of a session are remembered. The one that was heard of least lately is forgotten first.
pub const WRITERS: usize = 64;

/// Why input was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Somebody else types.
    #[error("this viewer does not drive the session")]
    NotDriving,
    /// Bytes before these are missing, or too many are under way.
    #[error("the input does not follow what was sent before it, or is more than may be under way")]
    OutOfWindow,
}

#[derive(Debug, Default)]
struct Sent {
    /// What the source has not acknowledged, by offset, without holes, each with when it came.
    waiting: VecDeque<(u64, u64, Bytes)>,
    next: u64,
    acked: u64,
    /// Where it ends, once that is known.
    end: Option<u64>,
    /// When it last said something, as a count.
    heard: u64,
}

#[derive(Debug, Default)]
struct Writers {
    known: HashMap<Writer, Sent>,
    heard: u64,
}

impl Writers {
    /// What this writer sent: nothing where it is not known, and it is known from now on. Others may have to go for it.
    fn meet(&mut self, writer: Writer) -> &mut Sent {
        if !self.known.contains_key(&writer) {
            self.make_room();
        }
        let heard = self.heard;
        self.known.entry(writer).or_insert_with(|| Sent { heard, ..Sent::default() })
    }

    /// The same, for one that says something: none where all that are known have something under way.
    fn hear(&mut self, writer: Writer) -> Result<&mut Sent, InputError> {
        if !self.known.contains_key(&writer) && !self.make_room() {
            return Err(InputError::OutOfWindow);
        }
        self.heard += 1;
        let heard = self.heard;
        let sent = self.meet(writer);
        sent.heard = heard;
        Ok(sent)
    }

    /// Forgets a writer of whom nothing is under way, where there are too many. Whether there is room for another one.
    fn make_room(&mut self) -> bool {
        if self.known.len() >= WRITERS {
            // Of those who have ended their input one is enough for a source that has to be told again.
            let ends = self.known.values().filter(|sent| sent.end.is_some()).count();
            let idle =
                self.known.iter().filter(|(_, sent)| sent.waiting.is_empty() && (sent.end.is_none() || ends > 1));
            if let Some(oldest) = idle.min_by_key(|(_, sent)| sent.heard).map(|(writer, _)| *writer) {
                self.known.remove(&oldest);
            }
        }
        self.known.len() < WRITERS
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Input {
    writers: Mutex<Writers>,
}

impl Input {
    /// Up to where the command has this writer's input.
    #[must_use]
    pub fn acked(&self, writer: Writer) -> u64 {
        lock(&self.writers).known.get(&writer).map_or(0, |sent| sent.acked)
    }

    /// The source has a writer's input up to `offset`.
    fn note_ack(&self, writer: Writer, offset: u64) {
        {
            let mut writers = lock(&self.writers);
            let sent = writers.meet(writer);
            sent.acked = sent.acked.max(offset);
            sent.next = sent.next.max(offset);
            let acked = sent.acked;
            sent.waiting.retain(|(_, at, data)| at + data.len() as u64 > acked);
        }
    }

    /// Whether it is known where this writer stands.
    fn knows(&self, writer: Writer) -> bool {
        lock(&self.writers).known.contains_key(&writer)
    }

    /// Takes a writer's bytes, which starts at 0 where it is not known; `None` where they are here already.
    fn accept(&self, writer: Writer, offset: u64, data: Bytes) -> Result<Option<(u64, Bytes)>, InputError> {
        let mut writers = lock(&self.writers);
        let end = offset.saturating_add(data.len() as u64);
        let (next, acked) = writers.known.get(&writer).map_or((0, 0), |sent| (sent.next, sent.acked));
        if offset > next || end > acked.saturating_add(INPUT_WINDOW) {
            return Err(InputError::OutOfWindow);
        }
        let sent = writers.hear(writer)?;
        if end <= sent.next {
            return Ok(None);
        }
        let new = data.slice((sent.next - offset) as usize..);
        // What waits for long is not to hold the whole block that it was read into.
        let new = if sent.waiting.is_empty() { new } else { Bytes::copy_from_slice(&new) };
        let at = sent.next;
        sent.next = end;
        sent.waiting.push_back((sent.heard, at, new.clone()));
        Ok(Some((at, new)))
    }

    /// Notes where a writer's input ends: behind all that it sent.
    fn end(&self, writer: Writer, offset: u64) -> Result<(), InputError> {
        let mut writers = lock(&self.writers);
        if offset != writers.known.get(&writer).map_or(0, |sent| sent.next) {
            return Err(InputError::OutOfWindow);
        }
        writers.hear(writer)?.end = Some(offset);
        Ok(())
    }

    /// What a new connection to the source has to be told again, in the order in which it came. Ends come last: behind
    /// one, nothing that another writer typed would reach the command.
    fn waiting(&self) -> Vec<Command> {
        let writers = lock(&self.writers);
        let (mut typed, mut ends) = (Vec::new(), Vec::new());
        for (writer, sent) in &writers.known {
            let input = |at: u64, data: &Bytes| Command::Input(*writer, at, data.clone());
            typed.extend(sent.waiting.iter().map(|(heard, at, data)| (*heard, input(*at, data))));
            ends.extend(sent.end.map(|end| Command::InputEnd(*writer, end)));
        }
        typed.sort_by_key(|(heard, _)| *heard);
        typed.into_iter().map(|(_, command)| command).chain(ends).collect()
    }
}

impl Session {
    /// Gives the source what a driver typed. Returns when it is on its way, or kept for the next connection.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn type_in(&self, viewer: u64, writer: Writer, offset: u64, data: Bytes) -> Result<(), InputError> {
        if !self.presence.drives(viewer) {
            return Err(InputError::NotDriving);
        }
        if offset > 0 && !self.meet(writer, offset).await {
            return Ok(());
        }
        // A new connection to the source is first told what was typed before: nothing may overtake that.
        let _order = self.telling.lock().await;
        match self.input.accept(writer, offset, data)? {
            Some((at, new)) => {
                self.tell(Command::Input(writer, at, new)).await;
            }
            // The writer may have missed the acknowledgement.
            None => self.crier.nudge(),
        }
        Ok(())
    }

    /// The driver's input ends at `offset`.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn end_input(&self, viewer: u64, writer: Writer, offset: u64) -> Result<(), InputError> {
        if !self.presence.drives(viewer) {
            return Err(InputError::NotDriving);
        }
        if offset > 0 && !self.meet(writer, offset).await {
            return Ok(());
        }
        let _order = self.telling.lock().await;
        self.input.end(writer, offset)?;
        self.tell(Command::InputEnd(writer, offset)).await;
        Ok(())
    }

    /// The source has a writer's input up to `offset`: whoever types is told.
    pub(super) fn note_input(&self, writer: Writer, offset: u64) {
        self.input.note_ack(writer, offset);
        self.crier.nudge();
    }

    /// Asks the source where a writer stands that is not known here and that does not start at 0: an earlier hub may
    /// have known it, and a source that is given what does not follow breaks off the connection that all viewers live
    /// from. Whether the writer is known now; not where the session ends first, and nothing can be typed any more.
    async fn meet(&self, writer: Writer, offset: u64) -> bool {
        if self.input.knows(writer) {
            return true;
        }
        let mut acks = self.crier.at_once();
        let mut control = self.control.subscribe();
        let mut status = self.status();
        loop {
            let connected = control.borrow_and_update().clone();
            if self.input.knows(writer) {
                return true;
            }
            if let Some(connected) = connected {
                // Where the connection is gone there will be another one.
                let _ = connected.send(Command::Meet(writer, offset)).await;
            }
            let known = async { while !self.input.knows(writer) && acks.changed().await.is_ok() {} };
            select! {
                () = known => return true,
                _ = control.changed() => {}
                _ = status.wait_for(|status| status.exit.is_some()) => return false,
            }
        }
    }

    /// Tells a new connection all that the source has not acknowledged.
    pub(super) async fn type_again(&self, control: &Control) {
        for command in self.input.waiting() {
            if !control.send(command).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_acknowledged_is_kept_and_nothing_else() {
        let input = Input::default();
        let bytes = Bytes::from_static;
        assert_eq!(input.accept(1, 0, bytes(b"abc")), Ok(Some((0, bytes(b"abc")))));
        assert_eq!(input.accept(1, 0, bytes(b"abcd")), Ok(Some((3, bytes(b"d")))));
        assert_eq!(input.accept(1, 1, bytes(b"bc")), Ok(None));
        assert_eq!(input.accept(1, 9, bytes(b"x")), Err(InputError::OutOfWindow));
        input.note_ack(1, 3);
        assert_eq!(input.waiting().len(), 1);
        input.note_ack(1, 4);
        assert!(input.waiting().is_empty());
    }

    #[test]
    fn a_writer_starts_at_its_start_or_where_the_source_says() {
        let input = Input::default();
        let bytes = Bytes::from_static;
        for offset in [1, u64::MAX - 1, u64::MAX] {
            assert_eq!(input.accept(1, offset, bytes(b"abc")), Err(InputError::OutOfWindow));
        }
        input.note_ack(2, 7);
        assert_eq!(input.accept(2, 5, bytes(b"abc")), Ok(Some((7, bytes(b"c")))));
        assert_eq!(input.accept(2, 9, bytes(b"x")), Err(InputError::OutOfWindow));
    }

    #[test]
    fn so_many_writers_are_remembered_and_those_of_whom_something_is_under_way() {
        let input = Input::default();
        let key = Bytes::from_static(b"k");
        let known = || lock(&input.writers).known.len();
        assert!(input.accept(0, 0, key.clone()).is_ok());
        for writer in 1..1000 {
            assert_eq!(input.accept(writer, 0, key.clone()), Ok(Some((0, key.clone()))));
            input.note_ack(writer, 1);
        }
        assert_eq!(known(), WRITERS);
        assert_eq!((input.acked(999), input.acked(1)), (1, 0));
        assert_eq!(input.waiting().len(), 1, "what the first one typed");
        // One that was forgotten is met again, and its key is not typed twice.
        assert_eq!(input.accept(1, 1, key.clone()), Err(InputError::OutOfWindow));
        input.note_ack(1, 1);
        assert_eq!(input.accept(1, 0, key.clone()), Ok(None));
        assert_eq!(input.accept(1, 1, key.clone()), Ok(Some((1, key.clone()))));
        assert_eq!(known(), WRITERS);
        // Where all have something under way there is no room for more, and nothing of theirs is lost.
        (2000..2000 + WRITERS as Writer).for_each(|writer| drop(input.accept(writer, 0, key.clone())));
        assert_eq!((known(), input.waiting().len()), (WRITERS, WRITERS));
        assert_eq!(input.accept(3000, 0, key.clone()), Err(InputError::OutOfWindow));
        assert_eq!(input.end(3000, 0), Err(InputError::OutOfWindow));
        input.note_ack(2000, 1);
        assert!(input.accept(3000, 0, key).is_ok());
    }

    #[test]
    fn what_is_told_again_comes_in_the_order_of_those_who_typed_and_ends_last() {
        let input = Input::default();
        let bytes = Bytes::from_static;
        for writer in [9, 3, 7, 1, 5] {
            assert!(input.accept(writer, 0, bytes(b"x")).is_ok());
        }
        assert_eq!(input.end(3, 1), Ok(()));
        assert!(input.accept(9, 1, bytes(b"y")).is_ok());
        input.note_ack(7, 0);
        let told = input.waiting().into_iter().map(|command| match command {
            Command::Input(writer, at, _) => (writer, at),
            Command::InputEnd(writer, _) => (writer, u64::MAX),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [(9, 0), (3, 0), (7, 0), (1, 0), (5, 0), (9, 1), (3, u64::MAX)]);
    }

    #[test]
    fn an_end_stands_behind_all_that_was_typed() {
        let input = Input::default();
        assert!(input.accept(1, 0, Bytes::from_static(b"abc")).is_ok());
        for offset in [0, 2, 4, u64::MAX] {
            assert_eq!(input.end(1, offset), Err(InputError::OutOfWindow));
        }
        assert_eq!(input.end(1, 3), Ok(()));
        assert_eq!(input.end(1, 3), Ok(()), "said again over a new connection");
        assert_eq!(input.end(2, 0), Ok(()), "one who types nothing");
    }

    #[test]
    fn a_writer_keeps_to_its_window() {
        let input = Input::default();
        let much = Bytes::from(vec![0; INPUT_WINDOW as usize]);
        assert!(input.accept(1, 0, much).is_ok());
        assert_eq!(input.accept(1, INPUT_WINDOW, Bytes::from_static(b"x")), Err(InputError::OutOfWindow));
        input.note_ack(1, 1);
        assert!(input.accept(1, INPUT_WINDOW, Bytes::from_static(b"x")).is_ok());
    }
}
