//! Where the followers of a log are: a source that has much at once, since it could not be read for a while, lets them
//! read before it goes on. Nobody is waited for twice who did not read meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::session::lock;

/// The followers of a log.
#[derive(Debug, Default)]
pub struct Cursors(Mutex<Vec<Weak<Cursor>>>);

/// A follower's place.
#[derive(Debug)]
pub struct Cursor {
    next: AtomicU64,
    /// Whether it was waited for in vain.
    given_up: AtomicBool,
}

impl Cursors {
    /// A follower that reads the line with this number next.
    #[must_use]
    pub fn join(&self, next: u64) -> Arc<Cursor> {
        let cursor = Arc::new(Cursor { next: AtomicU64::new(next), given_up: AtomicBool::new(false) });
        let mut cursors = lock(&self.0);
        cursors.retain(|cursor| cursor.strong_count() > 0);
        cursors.push(Arc::downgrade(&cursor));
        cursor
    }

    /// Whether one that is to be waited for has not read up to this number.
    #[must_use]
    pub fn behind(&self, number: u64) -> bool {
        let waits = |cursor: Arc<Cursor>| {
            !cursor.given_up.load(Ordering::Relaxed) && cursor.next.load(Ordering::Relaxed) < number
        };
        lock(&self.0).iter().filter_map(Weak::upgrade).any(waits)
    }

    /// Does not wait any more for those that have not read up to this number, until they have read all.
    pub fn give_up(&self, number: u64) {
        let cursors = lock(&self.0);
        let behind = |cursor: &Arc<Cursor>| cursor.next.load(Ordering::Relaxed) < number;
        cursors.iter().filter_map(Weak::upgrade).filter(behind).for_each(|cursor| {
            cursor.given_up.store(true, Ordering::Relaxed);
        });
    }
}

impl Cursor {
    /// It has read up to this number, which may be all that there is.
    pub fn read(&self, next: u64, all: bool) {
        self.next.store(next, Ordering::Relaxed);
        if all {
            self.given_up.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_is_not_waited_for_again() {
        let cursors = Cursors::default();
        let (one, two) = (cursors.join(0), cursors.join(5));
        assert!(cursors.behind(4) && !cursors.behind(0));
        cursors.give_up(4);
        assert!(!cursors.behind(4) && cursors.behind(6));
        one.read(3, false);
        assert!(!cursors.behind(4));
        one.read(9, true);
        assert!(cursors.behind(10));
        drop((one, two));
        assert!(!cursors.behind(10));
    }
}
