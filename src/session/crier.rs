//! The crier tells those who follow a session that there is more: to whoever types at once, to all others gathered.
//!
//! What a viewer costs is the number of writes to it, so lines that come one by one are told of together: at once after
//! a pause, then no more often than every [`GATHER`], or when there is enough for a large write. A crowd must not take the
//! machine from the one who types: the more viewers there are, the longer it gathers, they are woken in groups with room
//! between them, and while somebody types nobody but the driver is woken by a key.
//!
//! Invariant: whoever looks after it was told, or before it waits, misses nothing; the last word is never withheld.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Session;

/// How long output is gathered, for a session with few viewers.
pub const GATHER: Duration = Duration::from_millis(13);

/// What each viewer adds to that, and what it is at most.
const GATHER_VIEWER: Duration = Duration::from_micros(50);
const GATHER_MOST: Duration = Duration::from_millis(50);

/// Output of so many bytes is told of without waiting for more.
const FULL: u64 = 256 << 10;

/// Groups in which viewers are woken.
const GROUPS: usize = 32;

/// With more viewers than this there is a pause between two groups.
const CROWD: usize = 8 * GROUPS;
const PAUSE: Duration = Duration::from_millis(1);

/// For how long after a key the crier looks by itself, instead of being woken by the next one.
const TYPES: Duration = Duration::from_millis(500);

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
    pub(super) fn nudge_all(&self) {
        self.news.store(true, Ordering::Release);
        self.nudge();
    }

    /// Whether there is something that the groups were not told of.
    fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
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

    /// Tells all groups, one after the other, with a pause between them or only a turn for others.
    async fn tell(&self, pause: bool) {
        let head = self.head();
        self.told.store(head, Ordering::Relaxed);
        for group in &self.groups {
            if group.receiver_count() > 0 {
                group.send_replace(head);
                if pause { sleep(PAUSE).await } else { yield_now().await }
            }
        }
    }

    /// Bytes that the groups were not told of.
    fn untold(&self) -> u64 {
        self.head().saturating_sub(self.told.load(Ordering::Relaxed))
    }

    /// Waits until then, or until much output has been gathered.
    async fn gather(&self, until: Instant) {
        loop {
            select! {
                () = sleep_until(until) => return,
                // A permit from before they were last told is not for this.
                () = self.full.notified() => if self.untold() >= FULL { return },
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
        let mut told_at = Instant::now();
        loop {
            let looks = self.crier.is_urgent() && told_at.elapsed() < TYPES;
            select! {
                // None is closed while the session is here.
                _ = head.changed(), if !looks => {}
                () = sleep(GATHER), if looks && !self.crier.has_news() => {}
                () = std::future::ready(()), if looks && self.crier.has_news() => {}
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
                    return self.crier.tell(false).await;
                }
            }
            head.borrow_and_update();
            let ended = self.has_ended();
            if !self.crier.news.swap(false, Ordering::Acquire) && !ended {
                continue;
            }
            told_at = Instant::now();
            let viewers = self.presence.count();
            let crowd = GATHER_VIEWER * u32::try_from(viewers).unwrap_or(u32::MAX);
            self.crier.tell(viewers > CROWD && self.crier.untold() < FULL).await;
            if ended {
                return;
            }
            self.crier.gather(told_at + crowd.clamp(GATHER, GATHER_MOST)).await;
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
        crier.gather(since + GATHER).await;
        assert!(since.elapsed() >= GATHER);
        crier.tell(false).await;
        let since = Instant::now();
        let (gathered, ()) = tokio::join!(crier.gather(since + GATHER), async {
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
        crier.tell(false).await;
        for follower in &mut all {
            assert!(follower.has_changed().expect("open"));
            assert_eq!(*follower.borrow_and_update(), 7);
        }
    }
}
