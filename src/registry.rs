//! The registry opens sessions, keeps those that live, and finds those that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OnceCell, oneshot, watch};
use tracing::Instrument;
use uuid::Uuid;

mod adopt;
mod card;
mod found;
pub mod wanted;

use crate::agent::descendants::{EXEMPT, MARK};
use crate::agent::protocol::Start;
use crate::backend::{Backend, BackendError, Handed, Order, Whose};
use crate::config::server::{Limits, Server};
use crate::metrics::Metrics;
use crate::record::{Cause, Size};
use crate::recorder;
use crate::session::history::Journal;
use crate::session::{Session, now};
use crate::store::{Created, Extent, Kind, SessionRow, SharedStore, State, StoreError};
use crate::tasks::Tasks;
use card::Card;
pub use found::Found;
use wanted::Wanted;

/// How far ahead of its client a command without a terminal may produce output, in bytes. Half a ring, so that the
/// client always reads from memory.
pub const PACE_WINDOW: u64 = 512 << 10;

/// How long an ended session stays in memory after its last viewer left.
const KEPT: Duration = Duration::from_secs(5);

/// How long a start is waited for before it is answered: a process's, and one that tells how far it has come.
const BEGIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How long a note for the store waits that it did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// Variables of the hub and its clients that no command gets.
const PRIVATE: [&str; 4] = ["FOGHORN_TOKEN", "FOGHORN_DATABASE_URL", EXEMPT, MARK];

/// Why a session could not be opened or found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend cannot make such a session.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The request cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// The idempotency key was used before, for something else.
    #[error("the idempotency key was used before, for another request")]
    KeyReused,
    /// The id that was given is another session's, or this one was asked for otherwise.
    #[error("the id is that of another session, or of this one by another caller or with another request")]
    IdTaken,
    /// The session lives, but not on this hub.
    #[error("this session lives on another hub, or its hub is about to come back; try again there or in a moment")]
    Elsewhere,
    /// The hub is about to stop.
    #[error("this hub is about to stop")]
    Stopping,
    /// Too many sessions live.
    #[error("{0} has {1} live sessions, and {1} are allowed; wait for one to end or stop one")]
    TooMany(String, u64),
}

/// See the module's documentation.
pub struct Registry {
    store: SharedStore,
    backend: Arc<dyn Backend>,
    limits: Limits,
    embedded: bool,
    base_env: BTreeMap<String, String>,
    /// The id of the store's installation, once it was asked for.
    installation: OnceCell<Uuid>,
    live: DashMap<Uuid, Arc<Session>>,
    /// Agents of sessions that are not in the database, or have ended, which are being taken up or let go.
    leftovers: DashMap<Uuid, ()>,
    /// Moves when a session comes or goes.
    count: watch::Sender<usize>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// A registry without sessions.
    #[must_use]
    pub fn new(
        store: SharedStore,
        backend: Arc<dyn Backend>,
        settings: &Server,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            backend,
            limits: settings.limits.clone(),
            embedded: settings.embedded,
            base_env: settings.base_env.clone(),
            installation: OnceCell::new(),
            live: DashMap::new(),
            leftovers: DashMap::new(),
            count: watch::Sender::new(0),
            tasks,
            metrics,
        })
    }

    /// The backend's name.
    #[must_use]
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// The store that the sessions are in.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Whether sessions can be started now, as far as it lies with the backend.
    ///
    /// # Errors
    /// What keeps the backend from it.
    pub async fn ready(&self) -> Result<(), BackendError> {
        self.backend.ready().await
    }

    /// The sessions in memory.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Session>> {
        self.live.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Follows how many sessions are in memory.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Which app a pod belongs to that is handed over under an id: that of the owner's session which has the id already,
    /// where there is one.
    ///
    /// # Errors
    /// [`RegistryError::Store`], and what the backend says.
    pub async fn whose(&self, id: Uuid, handed: &Handed, owner: &str) -> Result<Whose, RegistryError> {
        match self.store.session(id).await? {
            Some(row) if row.owner == owner => Ok(Whose { app: row.app, tty: Some(row.tty) }),
            _ => Ok(self.backend.whose(handed).await?),
        }
    }

    /// Starts a session, or finds the one that the same request started before (`false`).
    ///
    /// # Errors
    /// [`RegistryError`]. A command that cannot be started is not one: its session ends with that reason.
    pub async fn start(self: &Arc<Self>, wanted: Wanted, owner: &str) -> Result<(Arc<Session>, bool), RegistryError> {
        let (registry, owner) = (self.clone(), owner.to_owned());
        let (done, outcome) = oneshot::channel();
        // To its end, also if the caller does not wait for it: half a start would be a session that never ends.
        let start = async move {
            let _the_caller_left = done.send(registry.start_now(wanted, &owner).await);
        };
        self.tasks.spawn_to_end("start", start.instrument(tracing::info_span!("start")));
        outcome.await.map_err(|_| RegistryError::Stopping)?
    }

    async fn start_now(self: &Arc<Self>, wanted: Wanted, owner: &str) -> Result<(Arc<Session>, bool), RegistryError> {
        let row = match self.create(&wanted, owner).await? {
            Created::New(row) => *row,
            Created::Existing(row) => {
                let same = row.request_hash == wanted.hash && row.owner == owner;
                return match wanted.id {
                    _ if same => Ok((self.open_stored(*row).await?, false)),
                    Some(_) => Err(RegistryError::IdTaken),
                    None => Err(RegistryError::KeyReused),
                };
            }
        };
        let start = self.start_message(&wanted);
        if let Err(error) = self.check_room(owner, &wanted).await {
            self.store.delete_session(row.id).await?;
            return Err(error);
        }
        let journal = Journal::new(self.store.clone(), row.id, Extent::default());
        let limits = crate::session::Limits { ring_bytes: self.limits.ring_bytes as usize };
        let card = Card::of(&row, self.installation().await?);
        let session = Session::new(row, journal, 0, limits);
        session.set_card(&card);
        self.keep(&session);
        let card = serde_json::to_value(&card).unwrap_or_default();
        let order = Order { card, ..self.order(session.id(), &wanted, owner) };
        match self.backend.create(&order, &session.row.place).await {
            Ok(()) => self.pump(&session, session.row.place.clone(), Some(start)),
            Err(error) => session.conclude(Cause::StartFailed { status: 125, reason: error.to_string() }),
        }
        self.tend(&session);
        // Who has the answer has a command that runs, or the reason why not: a hub that dies now costs nobody a start.
        let wait = if self.backend.has_environment() { BEGIN.1 } else { BEGIN.0 };
        let _slow_but_under_way = tokio::time::timeout(wait, session.begun()).await;
        Ok((session, true))
    }

    /// Makes the session's row, under a name that no session has.
    async fn create(&self, wanted: &Wanted, owner: &str) -> Result<Created, RegistryError> {
        // Before it is looked where it is to be: what a repeated request was for may be gone by now.
        if let Some(row) = self.same_start(wanted, owner).await? {
            return Ok(Created::Existing(Box::new(row)));
        }
        let created = self.store.create_session(self.row(wanted, owner).await?).await?;
        let Created::New(row) = &created else { return Ok(created) };
        if self.live_by_name(&row.name).is_none() {
            return Ok(created);
        }
        tracing::warn!(
            name = row.name,
            "an older copy of the database was put in place: its live sessions are put back"
        );
        self.store.delete_session(row.id).await?;
        self.put_back().await?;
        Ok(self.store.create_session(self.row(wanted, owner).await?).await?)
    }

    /// The session that the same request, by its key, started before.
    async fn same_start(&self, wanted: &Wanted, owner: &str) -> Result<Option<SessionRow>, StoreError> {
        match &wanted.idempotency_key {
            Some(key) => self.store.session_by_key(owner, key).await,
            None => Ok(None),
        }
    }

    /// Whether there is room for the session that was just made. Those that a platform hands over are all one owner's,
    /// and no person's.
    async fn check_room(&self, owner: &str, wanted: &Wanted) -> Result<(), RegistryError> {
        let per_owner = self.limits.live_per_owner.filter(|_| wanted.kind != Kind::Pod);
        if per_owner.is_none() && self.limits.live_per_app.is_none() {
            return Ok(());
        }
        let (owners, apps) = self.store.count_live(owner, &wanted.app).await?;
        match (per_owner, self.limits.live_per_app) {
            (Some(limit), _) if owners > limit => Err(RegistryError::TooMany(owner.into(), limit)),
            (_, Some(limit)) if apps > limit => Err(RegistryError::TooMany(format!("the app {}", wanted.app), limit)),
            _ => Ok(()),
        }
    }

    /// What the backend has to know of a session.
    fn order(&self, session: Uuid, wanted: &Wanted, owner: &str) -> Order {
        let time_limit = wanted.timeout.unwrap_or(self.limits.time_limit);
        Order {
            session,
            app: wanted.app.clone(),
            owner: owner.into(),
            tty: wanted.tty,
            stdin: wanted.stdin,
            lifetime: time_limit + self.limits.hup_wait + self.limits.term_wait,
            what: wanted.what.clone(),
            card: serde_json::Value::Null,
        }
    }

    async fn row(&self, wanted: &Wanted, owner: &str) -> Result<SessionRow, RegistryError> {
        let id = wanted.id.unwrap_or_else(Uuid::now_v7);
        Ok(SessionRow {
            id,
            name: String::new(),
            kind: wanted.kind,
            state: State::Starting,
            app: wanted.app.clone(),
            owner: owner.into(),
            command: wanted.command.clone(),
            command_cut: false,
            tty: wanted.tty,
            record: wanted.record,
            detached: wanted.unheld,
            backend: self.backend.name().into(),
            place: self.backend.place(&self.order(id, wanted, owner)).await?,
            idempotency_key: wanted.idempotency_key.clone(),
            request_hash: wanted.hash.clone(),
            created_at: now(),
            started_at: None,
            ended_at: None,
            exit: None,
        })
    }

    fn start_message(&self, wanted: &Wanted) -> Start {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let time_limit = wanted.timeout.unwrap_or(self.limits.time_limit);
        let idle_limit = wanted.idle.unwrap_or(self.limits.idle_limit);
        Start {
            nonce: Uuid::new_v4().to_string(),
            command: wanted.command.clone(),
            env: self.env(wanted),
            dir: self.dir(wanted),
            terminal: wanted.tty.then(|| wanted.size.unwrap_or(Size::DEFAULT).clamped()),
            stdin: wanted.stdin,
            pace: (!wanted.unheld && !wanted.tty).then_some(PACE_WINDOW),
            spool_bytes: self.limits.spool_bytes,
            time_limit: Some(millis(time_limit)),
            idle_limit: wanted.tty.then_some(millis(idle_limit)),
            orphan_limit: millis(if wanted.unheld { time_limit } else { self.limits.orphan_limit }),
            hup_wait: millis(self.limits.hup_wait),
            term_wait: millis(self.limits.term_wait),
            copy_output: self.backend.has_environment(),
        }
    }

    /// The caller's own environment on its own machine, else the hub's basics; the terminal's type is the caller's.
    fn env(&self, wanted: &Wanted) -> BTreeMap<String, String> {
        let mut env = match (self.backend.has_environment(), self.embedded) {
            (true, _) => BTreeMap::new(),
            (false, true) => wanted.caller_env.clone(),
            (false, false) => self.base_env.clone(),
        };
        match wanted.caller_env.get("TERM").filter(|_| wanted.tty) {
            Some(term) => drop(env.insert("TERM".into(), term.clone())),
            None if wanted.tty => drop(env.insert("TERM".into(), "xterm-256color".into())),
            None => {}
        }
        for name in PRIVATE {
            env.remove(name);
        }
        env.extend(wanted.env.clone());
        env
    }

    fn dir(&self, wanted: &Wanted) -> String {
        let home = || self.base_env.get("HOME").cloned().unwrap_or_else(|| "/".into());
        wanted.dir.clone().unwrap_or_else(home)
    }

    /// Waits until the sessions that have ended are stored and their agents gone, at most `limit`; what is not by then
    /// is the next hub's to do.
    pub async fn settle(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        for session in self.live().into_iter().filter(|session| session.has_ended()) {
            let _the_next_hub_does_it = tokio::time::timeout_at(deadline, session.settled()).await;
        }
    }

    fn keep(&self, session: &Arc<Session>) {
        self.live.insert(session.id(), session.clone());
        self.count.send_replace(self.live.len());
    }

    fn pump(self: &Arc<Self>, session: &Arc<Session>, place: serde_json::Value, start: Option<Start>) {
        let (registry, session) = (self.clone(), session.clone());
        self.tasks.spawn_for(&session.id(), "pump", async move {
            session.pump(&*registry.backend, &place, start, &registry.metrics).await;
        });
    }

    /// All that goes on beside a session's pump.
    fn tend(self: &Arc<Self>, session: &Arc<Session>) {
        self.tasks.spawn_to_end("crier", session.clone().cry(self.tasks.stopping()));
        self.tasks.spawn_for(&session.id(), "recorder", recorder::record(session.clone(), self.limits.journal_bytes));
        if session.row.tty {
            self.tasks.spawn_for(&session.id(), "screen", session.clone().keep_screen());
        }
        self.tasks.spawn_for(&session.id(), "grace", {
            let (session, grace) = (session.clone(), self.limits.grace);
            until_end(session.clone(), async move {
                session.abandoned(grace).await;
                let by = format!("the hub: its client was away for {}", humantime::format_duration(grace));
                session.stop(&by).await;
            })
        });
        self.tasks.spawn_for(&session.id(), "orphan-limit", {
            let (session, limits) = (session.clone(), self.limits.clone());
            until_end(session.clone(), async move {
                session.follow_orphan_limit(limits.orphan_limit, limits.time_limit).await;
            })
        });
        self.tasks.spawn_for(&session.id(), "state", until_end(session.clone(), note_running(session.clone())));
        self.tasks.spawn_for(&session.id(), "retire", self.clone().retire(session.clone()));
    }

    /// Lets a session go from memory once its end is stored and nobody has looked at it for a while.
    async fn retire(self: Arc<Self>, session: Arc<Session>) {
        let mut status = session.status();
        // Never closed while the session is here.
        let exit = status.wait_for(|status| status.exit.is_some()).await.ok().and_then(|status| status.exit.clone());
        exit.iter().for_each(|exit| self.metrics.end(exit));
        let _ = status.wait_for(|status| status.safe).await;
        let mut present = session.presence.follow();
        loop {
            if present.wait_for(|present| present.viewers == 0).await.is_err() {
                break;
            }
            if tokio::time::timeout(KEPT, present.wait_for(|present| present.viewers > 0)).await.is_err() {
                break;
            }
        }
        self.live.remove(&session.id());
        self.count.send_replace(self.live.len());
        session.set_control(None);
    }
}

/// Does something beside a session, for as long as the session has not ended.
async fn until_end(session: Arc<Session>, work: impl Future<Output = ()>) {
    let mut status = session.status();
    tokio::select! {
        () = work => {}
        _ = status.wait_for(|status| status.exit.is_some()) => {}
    }
}

/// Stores that the command runs, as soon as the store takes it.
async fn note_running(session: Arc<Session>) {
    let mut status = session.status();
    let at = status.wait_for(|status| status.started_at.is_some()).await.ok().and_then(|status| status.started_at);
    let Some(at) = at else { return };
    while let Err(error) = session.journal.store().set_running(session.id(), at).await {
        tracing::warn!(%error, session = %session.id(), "cannot store that a command runs; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
