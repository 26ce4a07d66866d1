//! Where sessions outlive the hub: their rows, their journals, tickets and the audit trail.
//!
//! One trait, two real implementations with the same behaviour: [`sqlite`] for one machine, [`postgres`] for servers.
//! A store knows nothing of live sessions; it keeps what it is told. Journals are opaque, compressed chunks to it.
//!
//! Invariant: the chunks of a session are contiguous in offsets, from its journal's start to its end.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::record::Exit;

pub mod brief;
mod error;
mod journal;
pub mod measured;
pub mod postgres;
mod rows;
mod schema;
mod sql;
pub mod sqlite;
pub mod unreadable;

pub use error::StoreError;

/// Microseconds since the Unix epoch.
pub type Micros = i64;

/// What a session's source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A command in a place of its own.
    Run,
    /// A command in a container of the app that runs already.
    Exec,
    /// A pod that somebody else has made and handed over.
    Pod,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Run, Self::Exec, Self::Pod];

    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Exec => "exec",
            Self::Pod => "pod",
        }
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its command is being started.
    Starting,
    /// Its command runs.
    Running,
    /// It has its end.
    Ended,
}

impl State {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// A session as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRow {
    /// Its id, for ever.
    pub id: Uuid,
    /// Its short name within the installation, its kind and a number such as `run.4821`; given by the store.
    pub name: String,
    /// What its source is.
    pub kind: Kind,
    /// How far it has come.
    pub state: State,
    /// The app it belongs to.
    pub app: String,
    /// Who started it: a token's name.
    pub owner: String,
    /// The command and its arguments. Values of its environment are never here.
    pub command: Vec<String>,
    /// Whether that is only its start, as in lists where it is long: [`brief::cut_command`].
    pub command_cut: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its output is journalled.
    pub record: bool,
    /// Whether it was started without a client that holds it, or is to outlive it.
    pub detached: bool,
    /// The backend that runs it, such as `local`.
    pub backend: String,
    /// What the backend needs to find its agent again.
    pub place: serde_json::Value,
    /// The caller's key that makes a repeated start the same start; unique with the owner.
    pub idempotency_key: Option<String>,
    /// What the first start with that key asked for, hashed: a different body is a conflict.
    pub request_hash: Option<String>,
    /// When it was made.
    pub created_at: Micros,
    /// When its command was started.
    pub started_at: Option<Micros>,
    /// When it ended.
    pub ended_at: Option<Micros>,
    /// Its end.
    pub exit: Option<Exit>,
}

/// What came of [`Store::create_session`].
#[derive(Debug)]
pub enum Created {
    /// A new session; its row with the name that the store gave it.
    New(Box<SessionRow>),
    /// The owner's idempotency key, or the id, was used before; the row it made then.
    Existing(Box<SessionRow>),
}

/// Which sessions [`Store::sessions`] returns, newest first.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only of this app.
    pub app: Option<String>,
    /// Only of this owner.
    pub owner: Option<String>,
    /// Only those that have (`Some(false)`) or have not (`Some(true)`) ended.
    pub live: Option<bool>,
    /// Only those made before this time, for paging.
    pub before: Option<Micros>,
    /// At most so many.
    pub limit: u32,
}

/// What a listing found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// The rows that this version can read.
    pub rows: Vec<T>,
    /// How many rows it cannot read; the log names them.
    pub unreadable: u64,
    /// The `before` of the next page, where this one is full.
    pub next: Option<Micros>,
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkKind {
    /// Records of the sequence.
    Records,
    /// One snapshot record: the screen as it stood at `from` (`to` is the same).
    Screen,
}

/// A piece of a session's journal. The data is compressed by the caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// What it holds.
    pub kind: ChunkKind,
    /// Its place among the session's chunks of its kind, from 0, without holes until old ones are deleted. The store
    /// numbers screens itself: theirs is not looked at by [`Store::append`].
    pub seq: i64,
    /// Offset of its first record.
    pub from: u64,
    /// Offset at which its last record ends.
    pub to: u64,
    /// Time of its first record.
    pub first_time: Micros,
    /// Time of its last record.
    pub last_time: Micros,
    /// zstd-compressed encoded records.
    pub data: Bytes,
}

/// What a journal has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Offset of the oldest byte that is still there; `to` where all chunks are gone.
    pub from: u64,
    /// Offset behind the newest.
    pub to: u64,
    /// The `seq` that the next chunk of records gets.
    pub next_seq: i64,
    /// Compressed bytes, chunks of both kinds.
    pub stored_bytes: u64,
}

/// A right that a ticket gives. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Follow and read the output.
    Read,
    /// Type, and set the terminal's size.
    Write,
    /// Signal and stop.
    Control,
}

impl Right {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Control => "control",
        }
    }
}

/// A ticket as the store keeps it: its secret only as a hash.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketRow {
    /// Names the ticket, for revoking; not secret.
    pub id: Uuid,
    /// SHA-256 of the secret, in hex.
    pub hash: String,
    /// The session it is for.
    pub session: Uuid,
    /// What it allows.
    pub right: Right,
    /// Who made it: a token's name, or a person's.
    pub issuer: String,
    /// A person whom an authorizer vouches for: what it has to be told to ask about them again. Never a token.
    pub issuer_identity: Option<serde_json::Value>,
    /// What the issuer calls its holder. It is shown, and nobody is known by it.
    pub label: Option<String>,
    /// Whether it can be used once only.
    pub one_use: bool,
    /// When it stops being valid.
    pub expires_at: Micros,
    /// When it was first used.
    pub used_at: Option<Micros>,
    /// When it was revoked.
    pub revoked_at: Option<Micros>,
    /// The viewer's own secret that the first use gave, hashed: a reconnect uses it instead of the ticket.
    pub resume_hash: Option<String>,
}

impl TicketRow {
    /// How its holder is shown to others: never as who made it.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.label {
            Some(label) => format!("{label} (guest of {})", self.issuer),
            None => format!("guest of {}", self.issuer),
        }
    }

    /// Under which name its holder stands in the audit trail.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("ticket:{}", self.id)
    }
}

/// A line of the audit trail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditRow {
    /// When.
    pub time: Micros,
    /// Who: a token's name, or `ticket:ID`.
    pub actor: String,
    /// What: `start`, `join`, `driver`, `ticket`, `revoke`, `read`, `signal`, `stop`, `remove`,
    /// `logs`; `refused` where a ticket came that has ended, or is for something else.
    pub action: String,
    /// On which session.
    pub session: Option<Uuid>,
    /// From which address.
    pub address: String,
    /// `ok`, or the code of the error that answered it; `refused` where the line speaks of many.
    pub outcome: String,
    /// More, for a person; never a secret.
    pub detail: String,
}

/// What the audit door asks for, newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only on this session.
    pub session: Option<Uuid>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only before this time, for paging.
    pub before: Option<Micros>,
    /// At most so many.
    pub limit: u32,
}

/// How much is kept. The reaper asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Sessions that ended before this time go with all that belongs to them.
    pub ended_before: Micros,
    /// Audit lines from before this time go.
    pub audit_before: Micros,
    /// Above so many stored bytes in all, the journals of the sessions that ended first go.
    pub total_bytes: u64,
}

/// The wall clock, as the hubs of an installation have seen it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Latest time that a hub saw.
    pub seen: Option<Micros>,
    /// Time since which a clock far beyond that is doubted, by that clock.
    pub doubted: Option<Micros>,
}

/// Keeps what outlives a hub. See the module's documentation.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The id of this installation, made at the first start.
    async fn installation(&self) -> Result<Uuid, StoreError>;

    /// Returns what the store knows of the time.
    async fn clock(&self) -> Result<Clock, StoreError>;

    /// Notes what is known of the time.
    async fn set_clock(&self, clock: &Clock) -> Result<(), StoreError>;

    /// Whether the store answers.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Makes a session. Its name (its kind and a number counted within the installation) is given here; `row.name` is
    /// not looked at. Where `row.id`, or `row.idempotency_key` of the same owner, is there already, nothing is made.
    async fn create_session(&self, row: SessionRow) -> Result<Created, StoreError>;

    /// Puts a session back that lives although the store does not know it, as after an older copy of the database was
    /// put in place. It keeps its name where that is free, and gets a new one otherwise; names that are given later
    /// are others. An idempotency key that was used again in between is left out. The row as it stands then; one that
    /// is there stays as it is.
    async fn restore_session(&self, row: SessionRow) -> Result<SessionRow, StoreError>;

    /// The session with this id.
    async fn session(&self, id: Uuid) -> Result<Option<SessionRow>, StoreError>;

    /// The session with this short name.
    async fn session_by_name(&self, name: &str) -> Result<Option<SessionRow>, StoreError>;

    /// The session that this owner started with this idempotency key.
    async fn session_by_key(&self, owner: &str, key: &str) -> Result<Option<SessionRow>, StoreError>;

    /// Sessions, newest first. Of a long command they have the start, and no more is loaded.
    async fn sessions(&self, filter: &SessionFilter) -> Result<Listed<SessionRow>, StoreError>;

    /// The apps that sessions belong to, each once.
    async fn apps(&self) -> Result<Vec<String>, StoreError>;

    /// Counts the sessions that have not ended: those of `owner`, and those of `app`.
    async fn count_live(&self, owner: &str, app: &str) -> Result<(u64, u64), StoreError>;

    /// Notes that the command runs. Does nothing to a session that has ended.
    async fn set_running(&self, id: Uuid, started_at: Micros) -> Result<(), StoreError>;

    /// Notes the backend's place of the session's agent.
    async fn set_place(&self, id: Uuid, place: &serde_json::Value) -> Result<(), StoreError>;

    /// Notes the end. The first end stands: a later call changes nothing.
    async fn end_session(&self, id: Uuid, exit: &Exit, ended_at: Micros) -> Result<(), StoreError>;

    /// Deletes a session with its chunks and tickets; the audit trail stays. Whether it was there.
    async fn delete_session(&self, id: Uuid) -> Result<bool, StoreError>;

    /// Appends chunks of one session, all or none. Chunks of records must continue the journal: the first starts
    /// where the journal ends (a journal without chunks takes any start) and has the next `seq`. Screens may stand
    /// anywhere. Whether the session has ended is not looked at: its last records may come after its end.
    /// After [`StoreError::Database`] the chunks may be stored or not, as where the answer was lost:
    /// [`Store::extent`] tells.
    ///
    /// # Errors
    /// [`StoreError::NotContiguous`] where they do not; [`StoreError::NoSession`] where the session is gone.
    async fn append(&self, session: Uuid, chunks: &[Chunk]) -> Result<(), StoreError>;

    /// What the session's journal has; nothing where there is no session.
    async fn extent(&self, session: Uuid) -> Result<Extent, StoreError>;

    /// Chunks of records in order, from the one that holds `offset` (or the oldest behind it; the last one that ends
    /// right at `offset` where none holds it, so that records without length at the end are found), until `max_bytes`
    /// of compressed data are reached; at least one where there is one. Of a row that cannot be read the chunk has no
    /// data, and offsets that need not be true.
    async fn chunks(&self, session: Uuid, offset: u64, max_bytes: u64) -> Result<Vec<Chunk>, StoreError>;

    /// The chunk of records with this `seq`.
    async fn chunk(&self, session: Uuid, seq: i64) -> Result<Option<Chunk>, StoreError>;

    /// The last screen at or before `offset`.
    async fn screen(&self, session: Uuid, offset: u64) -> Result<Option<Chunk>, StoreError>;

    /// Deletes the oldest chunks until the session stores at most `max_bytes`, and screens from before them but the
    /// newest one.
    async fn trim(&self, session: Uuid, max_bytes: u64) -> Result<(), StoreError>;

    /// Keeps a ticket.
    ///
    /// # Errors
    /// [`StoreError::NoSession`] where its session is not there.
    async fn create_ticket(&self, ticket: &TicketRow) -> Result<(), StoreError>;

    /// The ticket whose secret, or whose viewer's resume secret, has this hash.
    async fn ticket(&self, hash: &str) -> Result<Option<TicketRow>, StoreError>;

    /// Uses a ticket: notes the first use and the resume secret that it gave; later uses change neither. `false` where
    /// it is for one use and was used, or is revoked; two callers at once cannot both get `true` for a one-use ticket.
    /// Its expiry is the caller's to look at.
    async fn use_ticket(&self, id: Uuid, now: Micros, resume_hash: &str) -> Result<bool, StoreError>;

    /// Revokes a ticket. Whether there was one to revoke; one that is revoked already is not.
    async fn revoke_ticket(&self, session: Uuid, id: Uuid, now: Micros) -> Result<bool, StoreError>;

    /// The session's tickets, by id.
    async fn tickets(&self, session: Uuid) -> Result<Listed<TicketRow>, StoreError>;

    /// Writes a line of the audit trail.
    async fn add_audit(&self, row: &AuditRow) -> Result<(), StoreError>;

    /// Reads the audit trail, newest first.
    async fn audit(&self, filter: &AuditFilter) -> Result<Listed<AuditRow>, StoreError>;

    /// Applies retention. Sessions that live are never touched. How many sessions went; those that only lost their
    /// journal to `total_bytes` stay, and do not count.
    async fn retain(&self, retention: &Retention) -> Result<u64, StoreError>;

    /// For who does what only one of all hubs on this store may do at a time: a guard, or none while another hub has
    /// it. A hub that dies does not hold it.
    async fn alone(&self) -> Result<Option<Alone>, StoreError>;

    /// Returns whether the store had no room for what it was given last. Only a store that is [`measured`] knows.
    fn is_full(&self) -> bool {
        false
    }

    /// Ends all use of the store: what was committed is on disk.
    async fn close(&self);
}

/// Held by the one hub that may do what [`Store::alone`] is for; dropping it lets the next one.
pub struct Alone(#[expect(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send + Sync>>);

impl Alone {
    /// A guard that holds this.
    fn holding(what: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(what)))
    }
}

/// A store, shared.
pub type SharedStore = Arc<dyn Store>;

/// Opens the store: PostgreSQL where there is a `postgres://` or `postgresql://` URL, else the SQLite file at
/// `sqlite_path`, which is made if it is not there. Brings its tables up to date.
///
/// # Errors
/// [`StoreError::Url`] for any other URL, [`StoreError::Newer`] for the tables of a later version, and whatever keeps
/// the database from being reached. None of them tells the URL's password.
pub async fn open(url: Option<&str>, sqlite_path: &Path) -> Result<SharedStore, StoreError> {
    Ok(match url {
        None => Arc::new(sqlite::Sqlite::open(sqlite_path).await?),
        Some(url) => Arc::new(postgres::Postgres::connect(url).await?),
    })
}
