//! The crier tells those who follow a session that there is more: to whoever types at once, to all others gathered.
//!
//! What a viewer costs is the number of writes to it, so lines that come one by one are told of together: at once after
//! a pause, then no more often than every [`GATHER`], or when there is enough for a large write. The more viewers there
//! are, the longer it gathers, so that a crowd does not take the machine from the one who types. Viewers are woken in
//! groups with room between them for the same reason.
//!
//! Invariant: whoever looks after it was told, or before it waits, misses nothing; the last word is never withheld.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Session;

/// How long output is gathered, for a session with few viewers.
pub const GATHER: Duration = Duration::from_millis(12);

/// What each viewer adds to that, and what it is at most.
const GATHER_VIEWER: Duration = Duration::from_micros(20);
const GATHER_MOST: Duration = Duration::from_millis(50);

/// Output of so many bytes is told of without waiting for more.
const FULL: u64 = 256 << 10;

/// Groups in which viewers are woken.
const GROUPS: usize = 32;

/// How often at most viewers are told that others came and went.
const PRESENCE: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub struct Crier {
    /// Offset at which the output ends; moves with every append, and when there is news for whoever types.
    head: watch::Sender<u64>,
    groups: [watch::Sender<u64>; GROUPS],
    joined: AtomicUsize,
    /// The offset that the groups were last told of, and whether there is something that they were not told of.
    told: AtomicU64,
    news: AtomicBool,
    full: Notify,
}

impl Crier {
    /// For a session whose output ends at `head` so far.
    pub(super) fn new(head: u64) -> Self {
        Self {
            head: watch::Sender::new(head),
            groups: std::array::from_fn(|_| watch::Sender::new(head)),
            joined: AtomicUsize::new(0),
            told: AtomicU64::new(head),
            // What came before somebody cries.
            news: AtomicBool::new(true),
            full: Notify::new(),
        }
    }

    /// Offset at which the output ends now.
    pub(super) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Output was appended up to `to`. Waits for nobody.
    pub(super) fn moved(&self, to: u64) {
        self.news.store(true, Ordering::Release);
        self.head.send_replace(to);
        if to.saturating_sub(self.told.load(Ordering::Relaxed)) >= FULL {
            self.full.notify_one();
        }
    }

    /// There is something new for whoever types, that is not output.
    pub(super) fn nudge(&self) {
        self.head.send_modify(|_| {});
    }

    /// There is something new for all, that is not output.
    fn nudge_all(&self) {
        self.news.store(true, Ordering::Release);
        self.nudge();
    }

    /// Whether somebody is told of every append, besides the one who cries.
    pub(super) fn is_urgent(&self) -> bool {
        self.head.receiver_count() > 1
    }

    /// Moves with every append.
    pub(super) fn at_once(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Moves when output was gathered.
    pub(super) fn gathered(&self) -> watch::Receiver<u64> {
        self.groups[self.joined.fetch_add(1, Ordering::Relaxed) % GROUPS].subscribe()
    }

    /// Tells all groups, one after the other.
    async fn tell(&self) {
        let head = self.head();
        self.told.store(head, Ordering::Relaxed);
        for group in &self.groups {
            if group.receiver_count() > 0 {
                group.send_replace(head);
                yield_now().await;
            }
        }
    }

    /// Waits until output has been gathered for so long, or until there is much of it.
    async fn gather(&self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            select! {
                () = sleep_until(until) => return,
                () = self.full.notified() => {
                    // A permit from before it was last told is not for this.
                    if self.head().saturating_sub(self.told.load(Ordering::Relaxed)) >= FULL {
                        return;
                    }
                }
            }
        }
    }
}

impl Session {
    /// Cries until the session has ended or `stop` is cancelled; both are told too.
    pub(crate) async fn cry(self: Arc<Self>, stop: CancellationToken) {
        let mut head = self.crier.at_once();
        // What came before this task did.
        head.mark_changed();
        let (mut present, mut notices) = (self.presence.follow(), self.notices.follow());
        let (mut look, mut tell_at, mut changes) = (false, Instant::now(), 0);
        loop {
            select! {
                // None is closed while the session is here.
                _ = head.changed() => {}
                _ = notices.changed() => self.crier.nudge_all(),
                _ = present.changed(), if !look => {
                    look = true;
                    if present.borrow_and_update().changes != changes {
                        tell_at = Instant::now();
                    }
                    continue;
                }
                () = sleep_until(tell_at), if look => {
                    (look, tell_at) = (false, Instant::now() + PRESENCE);
                    changes = present.borrow_and_update().changes;
                    self.presence.announce();
                    self.crier.nudge_all();
                }
                () = stop.cancelled() => {
                    self.crier.nudge();
                    return self.crier.tell().await;
                }
            }
            head.borrow_and_update();
            let ended = self.has_ended();
            if !self.crier.news.swap(false, Ordering::Acquire) && !ended {
                continue;
            }
            self.crier.tell().await;
            if ended {
                return;
            }
            let crowd = GATHER_VIEWER * u32::try_from(self.presence.count()).unwrap_or(u32::MAX);
            self.crier.gather(crowd.clamp(GATHER, GATHER_MOST)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn much_is_told_of_at_once_and_little_when_its_time_has_come() {
        let crier = Crier::new(0);
        let since = Instant::now();
        crier.moved(10);
        crier.gather(GATHER).await;
        assert!(since.elapsed() >= GATHER);
        crier.tell().await;
        let since = Instant::now();
        let (gathered, ()) = tokio::join!(crier.gather(GATHER), async {
            crier.moved(10 + FULL);
        });
        assert_eq!(((), since.elapsed()), (gathered, Duration::ZERO));
    }

    #[tokio::test]
    async fn every_group_is_told_and_who_looks_first_misses_nothing() {
        let crier = Crier::new(0);
        let mut all: Vec<_> = (0..2 * GROUPS).map(|_| crier.gathered()).collect();
        crier.moved(7);
        assert!(all.iter().all(|follower| !follower.has_changed().expect("open")));
        crier.tell().await;
        for follower in &mut all {
            assert!(follower.has_changed().expect("open"));
            assert_eq!(*follower.borrow_and_update(), 7);
        }
    }
}
