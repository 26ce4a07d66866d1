//! Input: who types, and what was typed that the command has not got yet.
//!
//! One writer drives at a time. What it types is kept here until the source acknowledges it, so that a broken connection
//! to the source costs no key; how much that may be is bounded by the window that writers keep to.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;

use super::{Session, lock};
use crate::agent::protocol::{INPUT_WINDOW, Writer};
use crate::source::{Command, Control};

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
    /// What the source has not acknowledged, by offset, without holes.
    waiting: VecDeque<(u64, Bytes)>,
    next: u64,
    acked: u64,
    /// Where it ends, once that is known.
    end: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Input {
    writers: Mutex<HashMap<Writer, Sent>>,
}

impl Input {
    /// Up to where the command has this writer's input.
    #[must_use]
    pub fn acked(&self, writer: Writer) -> u64 {
        lock(&self.writers).get(&writer).map_or(0, |sent| sent.acked)
    }

    /// The source has a writer's input up to `offset`.
    fn note_ack(&self, writer: Writer, offset: u64) {
        if let Some(sent) = lock(&self.writers).get_mut(&writer) {
            sent.acked = sent.acked.max(offset);
            let acked = sent.acked;
            sent.waiting.retain(|(at, data)| at + data.len() as u64 > acked);
        }
    }

    /// Takes a writer's bytes; `None` where they are here already.
    fn accept(&self, writer: Writer, offset: u64, data: Bytes) -> Result<Option<(u64, Bytes)>, InputError> {
        let mut writers = lock(&self.writers);
        let sent = writers.entry(writer).or_insert_with(|| {
            // A writer that an earlier hub knew: it goes on where it says; the source checks it.
            Sent { next: offset, acked: offset, ..Sent::default() }
        });
        let end = offset.saturating_add(data.len() as u64);
        if offset > sent.next || end > sent.acked + INPUT_WINDOW {
            return Err(InputError::OutOfWindow);
        }
        if end <= sent.next {
            return Ok(None);
        }
        let new = data.slice((sent.next - offset) as usize..);
        let at = sent.next;
        sent.next = end;
        sent.waiting.push_back((at, new.clone()));
        Ok(Some((at, new)))
    }

    /// What a new connection to the source has to be told again, oldest first.
    fn waiting(&self) -> Vec<Command> {
        let writers = lock(&self.writers);
        let mut commands = Vec::new();
        for (writer, sent) in writers.iter() {
            commands.extend(sent.waiting.iter().map(|(at, data)| Command::Input(*writer, *at, data.clone())));
            commands.extend(sent.end.map(|end| Command::InputEnd(*writer, end)));
        }
        commands
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
        let _order = self.telling.lock().await;
        lock(&self.input.writers).entry(writer).or_default().end = Some(offset);
        self.tell(Command::InputEnd(writer, offset)).await;
        Ok(())
    }

    /// The source has a writer's input up to `offset`: whoever types is told.
    pub(super) fn note_input(&self, writer: Writer, offset: u64) {
        self.input.note_ack(writer, offset);
        self.crier.nudge();
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
    fn a_writer_keeps_to_its_window() {
        let input = Input::default();
        let much = Bytes::from(vec![0; INPUT_WINDOW as usize]);
        assert!(input.accept(1, 0, much).is_ok());
        assert_eq!(input.accept(1, INPUT_WINDOW, Bytes::from_static(b"x")), Err(InputError::OutOfWindow));
        input.note_ack(1, 1);
        assert!(input.accept(1, INPUT_WINDOW, Bytes::from_static(b"x")).is_ok());
    }
}
