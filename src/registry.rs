//! The registry opens sessions, keeps those that live, and finds those that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, oneshot, watch};
use tracing::Instrument;
use uuid::Uuid;

mod adopt;
mod card;

use crate::agent::descendants::{EXEMPT, MARK};
use crate::agent::protocol::Start;
use crate::backend::{Backend, BackendError, Order, Run, What};
use crate::config::server::{Limits, Server};
use crate::metrics::Metrics;
use crate::protocol::NewRun;
use crate::record::{Cause, Size};
use crate::recorder;
use crate::session::history::Journal;
use crate::session::{Session, now};
use crate::store::{Created, Extent, Kind, SessionRow, SharedStore, State, StoreError};
use crate::tasks::Tasks;
use card::Card;

/// How far ahead of its client a command without a terminal may produce output, in bytes. Half a ring, so that the
/// client always reads from memory.
pub const PACE_WINDOW: u64 = 512 << 10;

/// How long an ended session stays in memory after its last viewer left.
const KEPT: Duration = Duration::from_secs(5);

/// How long a start is waited for before it is answered: a process's, and one that tells how far it has come.
const BEGIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// How long a note for the store waits that it did not take.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a session that is not here yet is waited for.
const ARRIVAL: Duration = Duration::from_secs(2);

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 255;

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

    /// Starts a command, or finds the session that the same request started before (`false`).
    ///
    /// # Errors
    /// [`RegistryError`]. A command that cannot be started is not one: its session ends with that reason.
    pub async fn start(self: &Arc<Self>, run: NewRun, owner: &str) -> Result<(Arc<Session>, bool), RegistryError> {
        check(&run)?;
        let (registry, owner) = (self.clone(), owner.to_owned());
        let (done, outcome) = oneshot::channel();
        // To its end, also if the caller does not wait for it: half a start would be a session that never ends.
        let start = async move {
            let _the_caller_left = done.send(registry.start_now(run, &owner).await);
        };
        self.tasks.spawn_to_end("start", start.instrument(tracing::info_span!("start")));
        outcome.await.map_err(|_| RegistryError::Stopping)?
    }

    async fn start_now(self: &Arc<Self>, run: NewRun, owner: &str) -> Result<(Arc<Session>, bool), RegistryError> {
        let row = match self.create(&run, owner).await? {
            Created::New(row) => *row,
            Created::Existing(row) if row.request_hash != request_hash(&run) => return Err(RegistryError::KeyReused),
            Created::Existing(row) => return Ok((self.open(*row).await?, false)),
        };
        let start = match self.start_message(&run) {
            Ok(start) => start,
            Err(error) => {
                self.store.delete_session(row.id).await?;
                return Err(error);
            }
        };
        if let Err(error) = self.check_room(owner, &run.app).await {
            self.store.delete_session(row.id).await?;
            return Err(error);
        }
        let journal = Journal::new(self.store.clone(), row.id, Extent::default());
        let limits = crate::session::Limits { ring_bytes: self.limits.ring_bytes as usize };
        let card = Card::of(&row, self.installation().await?);
        let session = Session::new(row, journal, 0, limits);
        session.set_card(&card);
        self.keep(&session);
        let order = self.order(session.id(), &run, owner)?;
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
    async fn create(&self, run: &NewRun, owner: &str) -> Result<Created, RegistryError> {
        let created = self.store.create_session(self.row(run, owner).await?).await?;
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
        Ok(self.store.create_session(self.row(run, owner).await?).await?)
    }

    /// Whether there is room for the session that was just made.
    async fn check_room(&self, owner: &str, app: &str) -> Result<(), RegistryError> {
        if self.limits.live_per_owner.is_none() && self.limits.live_per_app.is_none() {
            return Ok(());
        }
        let (owners, apps) = self.store.count_live(owner, app).await?;
        match (self.limits.live_per_owner, self.limits.live_per_app) {
            (Some(limit), _) if owners > limit => Err(RegistryError::TooMany(owner.into(), limit)),
            (_, Some(limit)) if apps > limit => Err(RegistryError::TooMany(format!("the app {app}"), limit)),
            _ => Ok(()),
        }
    }

    /// What the backend has to know of a session.
    fn order(&self, session: Uuid, run: &NewRun, owner: &str) -> Result<Order, RegistryError> {
        let time_limit = duration(run.timeout.as_deref(), "timeout")?.unwrap_or(self.limits.time_limit);
        Ok(Order {
            session,
            app: run.app.clone(),
            owner: owner.into(),
            tty: run.tty,
            stdin: run.stdin,
            lifetime: time_limit + self.limits.hup_wait + self.limits.term_wait,
            what: What::Run(Box::new(Run {
                command: run.command.clone(),
                env: run.env.clone(),
                from: run.from.clone(),
                container: run.container.clone(),
                cpu: run.cpu.clone(),
                memory: run.memory.clone(),
                launcher: run.launcher,
            })),
        })
    }

    async fn row(&self, run: &NewRun, owner: &str) -> Result<SessionRow, RegistryError> {
        let id = Uuid::now_v7();
        Ok(SessionRow {
            id,
            name: String::new(),
            kind: Kind::Run,
            state: State::Starting,
            app: run.app.clone(),
            owner: owner.into(),
            command: run.command.clone(),
            tty: run.tty,
            record: run.record,
            detached: run.detached || run.keep,
            backend: self.backend.name().into(),
            place: self.backend.place(&self.order(id, run, owner)?).await?,
            idempotency_key: run.idempotency_key.clone(),
            request_hash: request_hash(run),
            created_at: now(),
            started_at: None,
            ended_at: None,
            exit: None,
        })
    }

    fn start_message(&self, run: &NewRun) -> Result<Start, RegistryError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let time_limit = duration(run.timeout.as_deref(), "timeout")?.unwrap_or(self.limits.time_limit);
        let idle_limit = duration(run.idle.as_deref(), "idle")?.unwrap_or(self.limits.idle_limit);
        let held = !run.detached && !run.keep;
        Ok(Start {
            nonce: Uuid::new_v4().to_string(),
            command: run.command.clone(),
            env: self.env(run),
            dir: self.dir(run),
            terminal: run.tty.then(|| run.size.unwrap_or(Size::DEFAULT).clamped()),
            stdin: run.stdin,
            pace: (held && !run.tty).then_some(PACE_WINDOW),
            spool_bytes: self.limits.spool_bytes,
            time_limit: Some(millis(time_limit)),
            idle_limit: run.tty.then_some(millis(idle_limit)),
            orphan_limit: millis(if held { self.limits.orphan_limit } else { time_limit }),
            hup_wait: millis(self.limits.hup_wait),
            term_wait: millis(self.limits.term_wait),
            copy_output: self.backend.has_environment(),
        })
    }

    /// The caller's own environment on its own machine, else the hub's basics; the terminal's type is the caller's.
    fn env(&self, run: &NewRun) -> BTreeMap<String, String> {
        let mut env = match (self.backend.has_environment(), self.embedded) {
            (true, _) => BTreeMap::new(),
            (false, true) => run.caller_env.clone(),
            (false, false) => self.base_env.clone(),
        };
        match run.caller_env.get("TERM").filter(|_| run.tty) {
            Some(term) => drop(env.insert("TERM".into(), term.clone())),
            None if run.tty => drop(env.insert("TERM".into(), "xterm-256color".into())),
            None => {}
        }
        for name in PRIVATE {
            env.remove(name);
        }
        env.extend(run.env.clone());
        env
    }

    fn dir(&self, run: &NewRun) -> String {
        let home = || self.base_env.get("HOME").cloned().unwrap_or_else(|| "/".into());
        run.dir.clone().unwrap_or_else(home)
    }

    /// Finds a session by id or name: one that lives, or one that has ended from the store.
    ///
    /// # Errors
    /// [`RegistryError::Store`].
    pub async fn find(&self, id: &str) -> Result<Option<Arc<Session>>, RegistryError> {
        let row = match Uuid::parse_str(id) {
            Ok(id) => match self.live.get(&id) {
                Some(session) => return Ok(Some(session.clone())),
                None => self.store.session(id).await?,
            },
            // First among those that live: they are found while the database is away.
            Err(_) => match self.live_by_name(id) {
                Some(session) => return Ok(Some(session)),
                None => self.store.session_by_name(id).await?,
            },
        };
        match row {
            Some(row) => Ok(Some(self.open(row).await?)),
            None => Ok(None),
        }
    }

    fn live_by_name(&self, name: &str) -> Option<Arc<Session>> {
        self.live.iter().find(|session| session.row.name == name).map(|session| session.clone())
    }

    async fn open(&self, mut row: SessionRow) -> Result<Arc<Session>, RegistryError> {
        if let Some(session) = self.live.get(&row.id) {
            return Ok(session.clone());
        }
        if row.exit.is_none() {
            // It is about to be kept here, or has just ended, or is another hub's.
            if let Ok(session) = tokio::time::timeout(ARRIVAL, self.arrival(row.id)).await {
                return Ok(session);
            }
            row = self.store.session(row.id).await?.filter(|row| row.exit.is_some()).ok_or(RegistryError::Elsewhere)?;
        }
        let extent = self.store.extent(row.id).await?;
        let journal = Journal::new(self.store.clone(), row.id, extent);
        let limits = crate::session::Limits { ring_bytes: self.limits.ring_bytes as usize };
        Ok(Session::ended(row, journal, limits))
    }

    async fn arrival(&self, id: Uuid) -> Arc<Session> {
        let mut count = self.count.subscribe();
        loop {
            if let Some(session) = self.live.get(&id) {
                return session.clone();
            }
            // Never closed while this is here.
            let _ = count.changed().await;
        }
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

fn check(run: &NewRun) -> Result<(), RegistryError> {
    let invalid = |text: &str| Err(RegistryError::Invalid(text.into()));
    let letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if run.app.is_empty() || run.app.len() > 63 || !run.app.chars().all(letter) {
        return invalid("an app's name has 1 to 63 letters, digits, '-', '_' and '.'");
    }
    if run.command.first().is_none_or(String::is_empty) {
        return invalid("there is no command to run");
    }
    let strings = run.command.iter().chain(run.env.values()).chain(run.env.keys()).chain(&run.dir);
    let mut strings = strings.chain(run.caller_env.values()).chain(run.caller_env.keys()).chain(&run.idempotency_key);
    if strings.any(|text| text.contains('\0')) {
        return invalid("a command and its environment cannot have NUL characters");
    }
    if run.env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return invalid("a variable's name cannot be empty or have '='");
    }
    if run.idempotency_key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
        return invalid("an idempotency key has at most 255 bytes");
    }
    Ok(())
}

fn duration(text: Option<&str>, name: &str) -> Result<Option<Duration>, RegistryError> {
    let parse = |text| humantime::parse_duration(text);
    let invalid = |_| RegistryError::Invalid(format!("{name} is not a duration such as 90s or 1h"));
    text.map(parse).transpose().map_err(invalid)
}

/// What a repeated start is compared by. Values of the environment are left out: they are stored in no form.
fn request_hash(run: &NewRun) -> Option<String> {
    run.idempotency_key.as_ref()?;
    let mut run = run.clone();
    run.caller_env.clear();
    run.env.values_mut().for_each(String::clear);
    let body = serde_json::to_vec(&run).ok()?;
    Some(hex(&Sha256::digest(body)))
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
