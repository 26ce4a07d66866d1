//! Presence: who is here, and which of them drives. Joining returns a value; dropping it leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::lock;
use crate::agent::protocol::Writer;

/// Who types in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// The name of its token, or, of a ticket's holder, whose guest it is.
    pub name: String,
    /// Numbers the viewer within the session.
    pub viewer: u64,
}

/// Who is here now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Who types.
    pub driver: Option<Driver>,
    /// What it types as.
    pub writer: Option<Writer>,
    /// How many follow, the driver included.
    pub viewers: usize,
    /// Counts the changes of driver.
    pub changes: u64,
    /// Nobody has to hold the session any more: somebody left it on purpose.
    pub released: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Presence {
    names: Mutex<HashMap<u64, String>>,
    next: Mutex<u64>,
    present: watch::Sender<Present>,
    /// Counts how often viewers were to be told of who is here.
    announced: AtomicU64,
}

impl Presence {
    /// Nobody is here; `released` where somebody left on purpose before, while another hub had the session.
    #[must_use]
    pub fn new(released: bool) -> Arc<Self> {
        let present = Present { released, ..Present::default() };
        Arc::new(Self {
            names: Mutex::default(),
            next: Mutex::default(),
            present: watch::Sender::new(present),
            announced: AtomicU64::new(0),
        })
    }

    /// Joins under a name.
    #[must_use]
    pub fn join(self: &Arc<Self>, name: &str) -> Guest {
        let viewer = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        lock(&self.names).insert(viewer, name.to_owned());
        self.present.send_modify(|present| present.viewers += 1);
        Guest { presence: self.clone(), viewer }
    }

    /// Follows who is here.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Present> {
        self.present.subscribe()
    }

    /// Who is here now.
    #[must_use]
    pub fn now(&self) -> Present {
        self.present.borrow().clone()
    }

    /// How many are here now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.present.borrow().viewers
    }

    /// Viewers are to be told who is here.
    pub(super) fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows when viewers are to be told who is here.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.announced.load(Ordering::Relaxed)
    }

    /// Whether this viewer drives.
    #[must_use]
    pub fn drives(&self, viewer: u64) -> bool {
        self.present.borrow().driver.as_ref().is_some_and(|driver| driver.viewer == viewer)
    }

    /// Makes this viewer the driver, if nobody drives, it takes over, or the same writer drove on another connection:
    /// one that comes back before the hub has noticed that its old connection is gone. Whether it drives now.
    pub fn drive(&self, viewer: u64, take: bool, writer: Option<Writer>) -> bool {
        let Some(name) = lock(&self.names).get(&viewer).cloned() else { return false };
        self.present.send_if_modified(|present| {
            let again = writer.is_some() && present.writer == writer;
            let free = present.driver.as_ref().is_none_or(|driver| (take || again) && driver.viewer != viewer);
            if free {
                present.writer = writer;
                present.driver = Some(Driver { name, viewer });
                present.changes += 1;
                present.released = false;
            }
            free
        });
        self.drives(viewer)
    }

    /// The driver leaves on purpose: nobody has to hold the session from now on.
    pub fn release(&self, viewer: u64) {
        self.present.send_if_modified(|present| {
            let driving = present.driver.as_ref().is_some_and(|driver| driver.viewer == viewer);
            if driving {
                (present.driver, present.released) = (None, true);
                present.changes += 1;
            }
            driving
        });
    }

    /// What an earlier hub knew: whether somebody had left on purpose. Who is here now knows better.
    pub fn set_released(&self, released: bool) {
        self.present.send_if_modified(|present| {
            let news = present.driver.is_none() && present.released != released;
            present.released ^= news;
            news
        });
    }

    fn leave(&self, viewer: u64) {
        lock(&self.names).remove(&viewer);
        self.present.send_modify(|present| {
            present.viewers -= 1;
            if present.driver.as_ref().is_some_and(|driver| driver.viewer == viewer) {
                present.driver = None;
                present.changes += 1;
            }
        });
    }
}

/// One who is here, until it is dropped.
#[derive(Debug)]
pub struct Guest {
    presence: Arc<Presence>,
    /// Its number within the session.
    pub viewer: u64,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.presence.leave(self.viewer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_drives_at_a_time_and_leaving_frees_the_seat() {
        let presence = Presence::new(false);
        let (ann, bob) = (presence.join("ann"), presence.join("bob"));
        assert!(presence.drive(ann.viewer, false, Some(1)));
        assert!(!presence.drive(bob.viewer, false, Some(2)));
        assert!(presence.drive(bob.viewer, true, Some(2)));
        assert!(!presence.drives(ann.viewer));
        drop(bob);
        assert_eq!(presence.now().driver, None);
        assert!(presence.drive(ann.viewer, false, Some(1)));
        assert_eq!(presence.now().viewers, 1);
        let back = presence.join("ann");
        assert!(!presence.drive(back.viewer, false, Some(3)));
        assert!(presence.drive(back.viewer, false, Some(1)), "the same writer on a new connection");
    }
}
