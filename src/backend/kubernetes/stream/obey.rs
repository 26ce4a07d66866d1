//! What the people at a session, and its hub, want of a container's streams.

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::limits::Limits;
use super::writer::Piece;
use super::{AtEnd, DELETED, Half, Joined, Link, PIECE, UNHEARD, Way};
use crate::agent::input::Piece as Typed;
use crate::agent::protocol::{Start, Writer};
use crate::agent::spool::Spool;
use crate::record::{Batch, Cause, Payload, Size};
use crate::source::{Command, Printed};

/// What ends the input of a terminal.
const END_OF_FILE: &[u8] = b"\x04";

/// What a terminal makes a signal of.
const SIGNALS: [(u8, &[u8]); 3] = [(2, b"\x03"), (3, b"\x1c"), (20, b"\x1a")];

/// A window's new size: a terminal's resize sends it.
const SIGWINCH: u8 = 28;

impl Half {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(*start),
            Command::Meet(typist, offset) => {
                self.take_up(typist, offset);
                // No bytes at all: what is acknowledged is where it stands.
                let _in_window = self.input.accept(typist, 0, Bytes::new());
                self.acknowledge();
            }
            Command::Input(typist, offset, data) => {
                self.note_activity();
                self.take_up(typist, offset);
                if self.input.accept(typist, offset, data).is_err() {
                    tracing::warn!(pod = self.container.place.pod, "input that does not follow what came before it");
                }
                self.acknowledge();
            }
            Command::InputEnd(typist, offset) => {
                self.take_up(typist, offset);
                self.input.end(typist, offset, self.container.tty);
            }
            Command::Resize(size) => self.resize(size),
            Command::Signal(signal) => self.signal(signal),
            Command::Stop(by) => self.end(Cause::Stopped { by }),
            Command::Ack(offset, exit) => {
                self.spool.acknowledge(offset);
                // Who lets it go says so before the end, too.
                self.safe |= exit;
            }
            Command::Pace(offset) => self.pace = offset,
            Command::Read(from, to, reader) => self.read(from, to, reader),
            // It has no life beyond the hub's.
            Command::OrphanLimit(_) | Command::Card(_) => {}
            Command::Printed(printed) => self.go_on(printed),
        }
    }

    /// Takes the word of a writer who began while another half was there: what that one gave the container, it
    /// acknowledged or it is not known any more.
    fn take_up(&mut self, typist: Writer, offset: u64) {
        if self.taken_up {
            self.input.take_up(typist, offset);
        }
    }

    fn start(&mut self, start: Start) {
        if !matches!(self.link, Link::Idle) {
            return;
        }
        self.limits = Limits::of(&start);
        self.pace = start.pace.unwrap_or(u64::MAX);
        self.spool = Spool::starting_at(&self.dir, start.spool_bytes, self.spool.head());
        self.cursor = self.spool.seek(self.spool.head());
        if let Some(size) = start.terminal {
            self.resize(size);
        }
        match self.way {
            Way::Exec => {
                self.container.tty = start.terminal.is_some();
                self.container.stdin = start.stdin || self.container.tty;
                let exec = self.container.clone().exec(start.command);
                self.link = Link::Opening(Box::pin(async move { exec.await.map(Joined::Streams) }));
            }
            Way::Attach { .. } => {
                if !start.env.is_empty() {
                    self.say("without an agent the variables that were given stand in its pod's spec, for whoever may read that");
                }
                self.attach(std::time::Duration::ZERO, false);
            }
        }
    }

    /// Goes on where a hub before this one stopped.
    fn go_on(&mut self, printed: Printed) {
        if matches!(self.link, Link::Idle) {
            self.known.learn(printed);
            self.attach(std::time::Duration::ZERO, false);
        }
    }

    fn resize(&mut self, size: Size) {
        if self.ended {
            return;
        }
        // The record first: what is printed because of the new size stands behind it.
        self.mark(Payload::Resize(size));
        self.size = Some(size);
        if let Link::Open(_) = self.link {
            self.raw.retain(|piece| !matches!(piece, Piece::Resize(_)));
            self.raw.push_back(Piece::Resize(size));
        }
    }

    fn signal(&mut self, signal: u8) {
        let typed = SIGNALS.iter().find(|(known, _)| *known == signal).filter(|_| self.container.tty);
        match typed {
            Some((_, keys)) => self.raw.push_back(Piece::Raw(Bytes::from_static(keys))),
            None if signal == SIGWINCH && self.container.tty => {}
            None => self.say(format!(
                "signal {signal} was not sent: without an agent there is only what a terminal makes of its keys \
                 (2, 3 and 20)"
            )),
        }
    }

    /// Ends it, for a reason of this side's.
    pub(super) fn end(&mut self, cause: Cause) {
        if self.ended || self.ending.is_some() {
            return;
        }
        match (&self.at_end, &self.link) {
            (AtEnd::Delete(delete, grace), _) => {
                self.tasks.spawn("container-end", delete());
                self.ending = Some((cause, Instant::now() + *grace + DELETED));
            }
            (AtEnd::Leave, Link::Open(_)) => {
                self.say("its connection was closed; a process that does not end by that goes on in its container");
                self.exit(cause);
            }
            (AtEnd::Leave, _) => self.exit(cause),
        }
    }

    fn read(&mut self, from: u64, to: u64, reader: oneshot::Sender<Vec<Batch>>) {
        let mut cursor = self.spool.seek(from);
        let mut batches = Vec::new();
        while cursor.offset < to {
            let records = self.spool.read(&mut cursor, PIECE);
            if records.is_empty() {
                break;
            }
            batches.extend(records.into_iter().filter_map(|bytes| Batch::parse(bytes).ok()));
        }
        // Whoever asked may have left.
        let _ = reader.send(batches);
    }

    /// Hands to the writer what waits, as far as it takes it.
    pub(super) fn hand_over(&mut self) {
        let Link::Open(open) = &mut self.link else { return };
        while open.writer.has_room() {
            let piece = match self.raw.pop_front() {
                Some(piece) => piece,
                None => match self.input.take() {
                    Some(Typed::Data { writer, end, data }) => {
                        open.may_be_full |= !data.is_empty();
                        open.typed.push_back((writer, end));
                        Piece::Typed(writer, end, data)
                    }
                    Some(Typed::End) => match end_of_input(self.container.tty, self.way, open.writer.ends_stdin) {
                        Some(piece) => {
                            // A terminal goes on after it.
                            self.input_over = !self.container.tty;
                            piece
                        }
                        None => {
                            self.input_over = true;
                            self.unheard = Some(Instant::now() + UNHEARD);
                            continue;
                        }
                    },
                    None => return,
                },
            };
            if let Err(piece) = open.writer.put(piece) {
                return self.raw.push_front(piece);
            }
        }
    }
}

/// What tells a container that its input is at its end; none where nothing does.
fn end_of_input(tty: bool, way: Way, ends_stdin: bool) -> Option<Piece> {
    match way {
        _ if tty => Some(Piece::Raw(Bytes::from_static(END_OF_FILE))),
        _ if ends_stdin => Some(Piece::End),
        // Its stdin ends with this connection, and another one brings the rest of its output.
        Way::Attach { stdin_once: true } => Some(Piece::Close),
        Way::Attach { stdin_once: false } | Way::Exec => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_input_is_told_as_far_as_there_is_a_way() {
        let once = |stdin_once| Way::Attach { stdin_once };
        assert!(matches!(end_of_input(true, Way::Exec, false), Some(Piece::Raw(_))));
        assert!(matches!(end_of_input(false, Way::Exec, true), Some(Piece::End)));
        assert!(end_of_input(false, Way::Exec, false).is_none());
        assert!(matches!(end_of_input(false, once(true), true), Some(Piece::End)));
        assert!(matches!(end_of_input(false, once(true), false), Some(Piece::Close)));
        assert!(end_of_input(false, once(false), false).is_none());
    }
}
