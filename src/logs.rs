//! The live log of an app: the output of its sessions, the files that the configuration names for it, and, with a
//! cluster, the containers of its pods, as one stream of lines that any number may follow.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`line`] | a line, and its written forms |
//! | [`split`], [`text`] | bytes into lines, and lines into text |
//! | [`position`] | how far each source was read, and the token that says so |
//! | [`ring`], [`cursors`] | the newest lines, bounded, and who has read how many |
//! | [`state`] | what changes in one step |
//! | [`sessions`] | the app's sessions as they come, say something, and end |
//! | [`files`], [`tail`], [`pattern`], [`kernel`] | the app's files through rotation and truncation |
//! | [`dated`] | the time that a file's line starts with |
//! | [`pods`] | the app's pods as they come and go, and what their containers say |
//! | [`absent`] | what is asked for and is not there, waits, or cannot be read |
//! | [`history`], [`backfill`] | what was said before, and from where on a follower wants it |
//! | [`follower`] | one follower's way through history and ring |
//!
//! Invariant: what is appended to the ring, and where the sources stand behind it, change in one step. A follower takes
//! both at once when it joins; it then reads the history up to that position, and the ring from that line on. So there
//! is no seam between what was and what comes, and each source has one reader however many follow.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use crate::config::server::App;
use crate::kubernetes::Cluster;
use crate::registry::Registry;
use crate::session::{Session, lock};
use crate::store::StoreError;
use crate::tasks::Tasks;

mod absent;
pub mod backfill;
pub mod cursors;
pub mod dated;
pub mod files;
pub mod follower;
pub mod history;
mod kernel;
pub mod line;
pub mod pattern;
pub mod pods;
pub mod position;
pub mod ring;
pub mod sessions;
pub mod split;
pub mod state;
pub mod tail;
pub mod text;

use cursors::Cursors;
use files::Files;
use follower::{Ask, Follower};
use line::Entry;
use pods::{Container, Place, Pods, Reach};
use position::{ContainerAt, FileAt, Move};
use state::{Join, State};
use tail::Handle;

/// How long a log is kept after its last follower left: who comes back soon finds it as it was.
pub const KEPT: Duration = Duration::from_secs(30);

/// Bytes of an app's newest lines in memory.
pub const RING: usize = 4 << 20;

/// How many lines are appended under one lock.
const AT_ONCE: usize = 256;

/// How long a source that has much at once waits for those that do not read.
const READ: Duration = Duration::from_secs(1);

/// How long who joins waits for the sources to be looked at once more.
const FRESH: Duration = Duration::from_secs(2);

/// How long who resumes waits for a session to be read up to where they were: on a new hub the agent is asked first.
const REACH: Duration = Duration::from_secs(10);

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The store does not say which sessions the app has.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app cannot be in the cluster.
    #[error("{0}")]
    NoHome(String),
    /// The API server does not say which pods the app has.
    #[error("the app's pods cannot be followed: {0}")]
    Cluster(String),
    /// The API server will not say that to this hub.
    #[error("this hub may not follow the app's pods: {0}")]
    Refused(String),
}

/// What a source tells its log.
#[derive(Debug)]
pub enum Event {
    /// A line.
    Line(Entry),
    /// A source stands elsewhere, without a line.
    Moved(Move),
    /// A file is followed from here on.
    Opened(Handle, FileAt),
    /// The log of a container is read from here on.
    Joined(Arc<Container>, ContainerAt),
    /// These are all that cannot be read of the app's files, and why.
    Unread(Vec<String>),
    /// The session with this number was read up to this offset, held parts of lines included.
    Read(u64, u64),
}

/// All logs of this hub that are open.
pub struct Logs {
    registry: Arc<Registry>,
    apps: BTreeMap<String, App>,
    reach: Option<Arc<Reach>>,
    tasks: Tasks,
    open: Mutex<HashMap<String, Arc<Slot>>>,
    followers: watch::Sender<usize>,
}

/// A log that is open, or is being opened by who asked first.
#[derive(Default)]
struct Slot {
    log: OnceCell<Arc<Log>>,
    followers: watch::Sender<usize>,
}

impl Logs {
    /// No log is open. `apps` has the patterns of the apps' files; `cluster` has their pods.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        apps: BTreeMap<String, App>,
        cluster: Option<Arc<Cluster>>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let reach = cluster.map(Reach::new);
        Arc::new(Self { registry, apps, reach, tasks, open: Mutex::default(), followers: watch::Sender::new(0) })
    }

    /// Follows how many follow a log.
    #[must_use]
    pub fn followers(&self) -> watch::Receiver<usize> {
        self.followers.subscribe()
    }

    /// Joins the log of an app; opens it if nobody follows it now.
    ///
    /// # Errors
    /// [`LogsError`].
    pub async fn follow(self: &Arc<Self>, app: &str, ask: Ask) -> Result<Follower, LogsError> {
        let guest = Guest::join(self, app);
        let log = guest.slot.log.get_or_try_init(|| self.open(app, &guest.slot)).await?.clone();
        Follower::join(log, guest, ask).await
    }

    async fn open(self: &Arc<Self>, app: &str, slot: &Arc<Slot>) -> Result<Arc<Log>, LogsError> {
        let patterns = self.apps.get(app).map(|app| app.logs.clone()).unwrap_or_default();
        let place = self.reach.as_ref().map(|reach| Place::new(reach, app)).transpose()?.map(Arc::new);
        let log = Arc::new(Log {
            app: app.into(),
            registry: self.registry.clone(),
            tasks: self.tasks.clone(),
            stop: self.tasks.stopping().child_token(),
            patterns: patterns.clone(),
            place: place.clone(),
            state: Mutex::new(State::new()),
            head: watch::Sender::new(0),
            cursors: Cursors::default(),
            looks: Looks::default(),
        });
        // Where opening fails, or is given up, what was begun ends with it.
        let half = log.stop.clone().drop_guard();
        if !patterns.is_empty() {
            let opened = tokio::task::spawn_blocking(move || Files::open(patterns));
            if let Ok((files, events)) = opened.await {
                log.publish(events);
                log.spawn("log-files", files::follow(log.clone(), files));
            }
        }
        if let Some(place) = place {
            let pods = Pods::open(log.clone(), place.clone()).await?;
            log.spawn("log-events", pods::events::follow(log.clone(), place.clone()));
            log.spawn("log-shortage", pods::place::tell_shortage(log.clone(), place));
            log.spawn("log-pods", pods.follow());
        }
        log.open_sessions().await?;
        log.spawn("log-sessions", log.clone().follow_sessions());
        self.tasks.spawn("log-keeper", self.clone().keep(app.to_owned(), slot.clone(), log.stop.clone()));
        half.disarm();
        tracing::debug!(app, files = lock(&log.state).files.len(), "opened a log");
        Ok(log)
    }

    /// Closes a log when nobody has followed it for a while.
    async fn keep(self: Arc<Self>, app: String, slot: Arc<Slot>, stop: CancellationToken) {
        let mut followers = slot.followers.subscribe();
        loop {
            let _ = followers.wait_for(|followers| *followers == 0).await;
            if tokio::time::timeout(KEPT, followers.wait_for(|followers| *followers > 0)).await.is_ok() {
                continue;
            }
            // Nobody joins while the lock is held.
            let mut open = lock(&self.open);
            if *followers.borrow() == 0 {
                open.remove(&app);
                stop.cancel();
                tracing::debug!(app, "closed a log");
                return;
            }
        }
    }
}

/// One who follows, until it is dropped.
pub struct Guest {
    logs: Arc<Logs>,
    app: String,
    slot: Arc<Slot>,
}

impl Guest {
    fn join(logs: &Arc<Logs>, app: &str) -> Self {
        let mut open = lock(&logs.open);
        let slot = open.entry(app.to_owned()).or_default().clone();
        slot.followers.send_modify(|followers| *followers += 1);
        logs.followers.send_modify(|followers| *followers += 1);
        Self { logs: logs.clone(), app: app.to_owned(), slot }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut open = lock(&self.logs.open);
        self.slot.followers.send_modify(|followers| *followers -= 1);
        self.logs.followers.send_modify(|followers| *followers -= 1);
        // One that was never opened has no keeper.
        if !self.slot.log.initialized() && *self.slot.followers.borrow() == 0 {
            open.remove(&self.app);
        }
    }
}

/// Asks the sources to look now, and hears when they have.
#[derive(Default)]
struct Looks {
    wanted: watch::Sender<u64>,
    files: watch::Sender<u64>,
    sessions: watch::Sender<u64>,
}

/// The log of one app.
pub struct Log {
    app: Arc<str>,
    registry: Arc<Registry>,
    tasks: Tasks,
    stop: CancellationToken,
    patterns: Vec<String>,
    /// Where its pods are.
    place: Option<Arc<Place>>,
    state: Mutex<State>,
    /// Moves with every line.
    head: watch::Sender<u64>,
    cursors: Cursors,
    looks: Looks,
}

impl Log {
    /// The app.
    #[must_use]
    pub fn app(&self) -> &str {
        &self.app
    }

    /// Starts a task that ends when the log is closed, or all tasks stop.
    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(name, async move { stop.run_until_cancelled_owned(work).await.unwrap_or_default() });
    }

    /// Takes what a source tells. Waits for nobody, and holds nobody up for long.
    fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let end = {
                let mut state = lock(&self.state);
                events.by_ref().take(AT_ONCE).for_each(|event| state.apply(&self.app, event));
                state.ring.end()
            };
            self.head.send_if_modified(|head| std::mem::replace(head, end) != end);
        }
    }

    /// Lets followers read before a source goes on that has much at once; not for long.
    async fn let_read(&self) {
        let Some(middle) = lock(&self.state).ring.middle().filter(|middle| self.cursors.behind(*middle)) else {
            return;
        };
        let read = async {
            while self.cursors.behind(middle) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(READ, read).await.is_err() {
            self.cursors.give_up(middle);
        }
    }

    fn newest(&self) -> u64 {
        lock(&self.state).positions.newest
    }

    fn note_newest(&self, newest: u64) {
        let mut state = lock(&self.state);
        state.positions.newest = newest;
    }

    fn note_session(&self, number: u64, session: Arc<Session>, read: u64) {
        lock(&self.state).sessions.insert(number, (session, read));
    }

    fn join(&self) -> Join {
        lock(&self.state).join()
    }

    /// What a follower has to know before all else: that not all pods are followed.
    fn shortage(&self) -> Option<String> {
        self.place.as_ref().and_then(|place| place.shortage())
    }

    /// Waits until what the sources have now is in the ring; not for long.
    async fn look_now(&self) {
        let wanted = {
            let mut wanted = 0;
            self.looks.wanted.send_modify(|number| {
                *number += 1;
                wanted = *number;
            });
            wanted
        };
        let looked = async {
            let (mut files, mut sessions) = (self.looks.files.subscribe(), self.looks.sessions.subscribe());
            if !self.patterns.is_empty() {
                let _ = files.wait_for(|number| *number >= wanted).await;
            }
            let _ = sessions.wait_for(|number| *number >= wanted).await;
            let heads: BTreeMap<u64, u64> =
                lock(&self.state).sessions.iter().map(|(number, (session, _))| (*number, session.head())).collect();
            self.reached(&heads).await;
        };
        // Who looks at a log whose sources are slow sees what there is.
        let _ = tokio::time::timeout(FRESH, looked).await;
    }

    /// Waits until the sessions were read up to these offsets, or have ended.
    async fn reached(&self, offsets: &BTreeMap<u64, u64>) {
        let reached = || {
            let state = lock(&self.state);
            let behind =
                |(number, offset): (&u64, &u64)| state.sessions.get(number).is_some_and(|(_, read)| read < offset);
            !offsets.iter().any(behind)
        };
        // Not every reading makes a line, so this looks again and again; it is over within a moment.
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
