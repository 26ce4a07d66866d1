//! What changes in one step: the newest lines, and where the sources stand behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::files::notice;
use super::line::Line;
use super::pods::Container;
use super::position::{ContainerId, FileId, Move, Positions};
use super::ring::Ring;
use super::tail::Handle;
use super::{Event, RING};
use crate::session::Session;

/// What changes in one step.
pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) positions: Positions,
    pub(super) files: BTreeMap<FileId, Handle>,
    /// The app's files that cannot be read.
    unread: Vec<String>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
    /// The sessions that are read, and up to where.
    pub(super) sessions: BTreeMap<u64, (Arc<Session>, u64)>,
}

/// What a follower starts from: all before it is history, all behind it comes from the ring.
pub struct Join {
    /// The next line in the ring.
    pub cursor: u64,
    /// Where the sources stand before that line.
    pub positions: Positions,
    /// The files that are followed.
    pub files: BTreeMap<FileId, Handle>,
    /// The app's files that cannot be read.
    pub unread: Vec<String>,
    /// The containers that there are.
    pub containers: BTreeMap<ContainerId, Arc<Container>>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::new(RING),
            positions: Positions::default(),
            files: BTreeMap::new(),
            unread: Vec::new(),
            containers: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, app: &Arc<str>, event: Event) {
        match event {
            Event::Line(entry) => {
                self.moved(entry.moved);
                let resume = self.positions.token(app);
                self.ring.push(Arc::new(Line::new(app.clone(), entry, resume)));
            }
            Event::Moved(moved) => self.moved(moved),
            Event::Opened(handle, at) => {
                self.moved(Move::File(handle.id, at));
                self.files.insert(handle.id, handle);
            }
            Event::Joined(container, at) => {
                self.moved(Move::Container(container.id, at));
                self.containers.insert(container.id, container);
            }
            Event::Unread(messages) => {
                for message in messages.iter().filter(|message| !self.unread.contains(message)) {
                    let resume = self.positions.token(app);
                    let entry = notice("log".into(), message.clone());
                    self.ring.push(Arc::new(Line::new(app.clone(), entry, resume)));
                }
                self.unread = messages;
            }
            Event::Read(number, offset) => {
                if let Some((_, read)) = self.sessions.get_mut(&number) {
                    *read = offset;
                }
            }
        }
    }

    fn moved(&mut self, moved: Move) {
        self.positions.apply(moved);
        match moved {
            Move::SessionEnd(number) => drop(self.sessions.remove(&number)),
            Move::FileEnd(id) => drop(self.files.remove(&id)),
            Move::ContainerEnd(id) => drop(self.containers.remove(&id)),
            _ => {}
        }
    }

    /// Where a follower that joins now starts.
    pub(super) fn join(&self) -> Join {
        Join {
            cursor: self.ring.end(),
            positions: self.positions.clone(),
            files: self.files.clone(),
            unread: self.unread.clone(),
            containers: self.containers.clone(),
        }
    }
}
