//! Rows as both databases return them, and what they mean.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::error::DatabaseError;
use uuid::Uuid;

use super::{AuditRow, Chunk, ChunkKind, Kind, Micros, SessionRow, StoreError, TicketRow};

const RECORDS: i16 = 0;
const SCREEN: i16 = 1;
const MICROS_A_DAY: i64 = 86_400_000_000;

/// The day on which a time lies, counted from the Unix epoch.
pub(super) fn day(time: Micros) -> i64 {
    time.div_euclid(MICROS_A_DAY)
}

/// A value as JSON.
pub(super) fn to_json<T: Serialize>(table: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Row { table, reason: error.to_string() })
}

fn from_json<T: DeserializeOwned>(table: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Row { table, reason: error.to_string() })
}

/// A word of an enum without fields, as it stands in JSON too, but without quotes.
pub(super) fn to_word<T: Serialize>(table: &'static str, value: &T) -> Result<String, StoreError> {
    to_json(table, value).map(|json| json.trim_matches('"').to_owned())
}

fn from_word<T: DeserializeOwned>(table: &'static str, word: String) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(word))
        .map_err(|error| StoreError::Row { table, reason: error.to_string() })
}

/// An offset or a count as the databases keep it.
pub(super) fn signed(table: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Row { table, reason: format!("{value} is more than can be stored") })
}

/// An offset or a count that a database kept.
pub(super) fn unsigned(table: &'static str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Row { table, reason: format!("{value} is below zero") })
}

/// A row of `sessions`, without its journal.
#[derive(sqlx::FromRow)]
pub(super) struct Session {
    id: Uuid,
    name: String,
    kind: String,
    state: String,
    app: String,
    owner: String,
    command: String,
    tty: bool,
    record: bool,
    detached: bool,
    backend: String,
    place: String,
    idempotency_key: Option<String>,
    request_hash: Option<String>,
    created_at: Micros,
    started_at: Option<Micros>,
    ended_at: Option<Micros>,
    exit: Option<String>,
}

impl TryFrom<Session> for SessionRow {
    type Error = StoreError;

    fn try_from(row: Session) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            name: row.name,
            kind: from_word("sessions", row.kind)?,
            state: from_word("sessions", row.state)?,
            app: row.app,
            owner: row.owner,
            command: from_json("sessions", &row.command)?,
            tty: row.tty,
            record: row.record,
            detached: row.detached,
            backend: row.backend,
            place: from_json("sessions", &row.place)?,
            idempotency_key: row.idempotency_key,
            request_hash: row.request_hash,
            created_at: row.created_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
            exit: row.exit.map(|exit| from_json("sessions", &exit)).transpose()?,
        })
    }
}

/// The query that inserts a [`SessionRow`], for either database.
macro_rules! insert_session {
    ($row:expr) => {
        sqlx::query(sql::INSERT_SESSION)
            .bind($row.id)
            .bind(&$row.name)
            .bind(rows::to_word("sessions", &$row.kind)?)
            .bind(rows::to_word("sessions", &$row.state)?)
            .bind(&$row.app)
            .bind(&$row.owner)
            .bind(rows::to_json("sessions", &$row.command)?)
            .bind($row.tty)
            .bind($row.record)
            .bind($row.detached)
            .bind(&$row.backend)
            .bind($row.place.to_string())
            .bind(&$row.idempotency_key)
            .bind(&$row.request_hash)
            .bind($row.created_at)
            .bind($row.started_at)
            .bind($row.ended_at)
            .bind($row.exit.as_ref().map(|exit| rows::to_json("sessions", exit)).transpose()?)
            .bind(rows::day($row.created_at))
    };
}
pub(super) use insert_session;

/// A row of `chunks`.
#[derive(sqlx::FromRow)]
pub(super) struct ChunkData {
    kind: i16,
    seq: i64,
    from_offset: i64,
    to_offset: i64,
    first_time: Micros,
    last_time: Micros,
    data: Vec<u8>,
}

/// How a kind of chunk stands in its row.
pub(super) fn chunk_kind(kind: ChunkKind) -> i16 {
    match kind {
        ChunkKind::Records => RECORDS,
        ChunkKind::Screen => SCREEN,
    }
}

impl TryFrom<ChunkData> for Chunk {
    type Error = StoreError;

    fn try_from(row: ChunkData) -> Result<Self, StoreError> {
        let kind = match row.kind {
            RECORDS => ChunkKind::Records,
            SCREEN => ChunkKind::Screen,
            other => return Err(StoreError::Row { table: "chunks", reason: format!("unknown kind {other}") }),
        };
        Ok(Self {
            kind,
            seq: row.seq,
            from: unsigned("chunks", row.from_offset)?,
            to: unsigned("chunks", row.to_offset)?,
            first_time: row.first_time,
            last_time: row.last_time,
            data: Bytes::from(row.data),
        })
    }
}

/// The query that inserts a [`Chunk`] as `seq` into a session made on `day`, for either database.
macro_rules! insert_chunk {
    ($session:expr, $day:expr, $seq:expr, $chunk:expr) => {
        sqlx::query(sql::INSERT_CHUNK)
            .bind(rows::chunk_kind($chunk.kind))
            .bind($seq)
            .bind(rows::signed("chunks", $chunk.from)?)
            .bind(rows::signed("chunks", $chunk.to)?)
            .bind($chunk.first_time)
            .bind($chunk.last_time)
            .bind(&$chunk.data[..])
            .bind($session)
            .bind($day)
            .bind(rows::signed("chunks", $chunk.data.len() as u64)?)
    };
}
pub(super) use insert_chunk;

/// A row of `tickets`.
#[derive(sqlx::FromRow)]
pub(super) struct Ticket {
    id: Uuid,
    hash: String,
    session: Uuid,
    access: String,
    issuer: String,
    one_use: bool,
    expires_at: Micros,
    used_at: Option<Micros>,
    revoked_at: Option<Micros>,
    resume_hash: Option<String>,
    issuer_identity: Option<String>,
    label: Option<String>,
}

impl TryFrom<Ticket> for TicketRow {
    type Error = StoreError;

    fn try_from(row: Ticket) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            hash: row.hash,
            session: row.session,
            right: from_word("tickets", row.access)?,
            issuer: row.issuer,
            one_use: row.one_use,
            expires_at: row.expires_at,
            used_at: row.used_at,
            revoked_at: row.revoked_at,
            resume_hash: row.resume_hash,
            issuer_identity: row.issuer_identity.map(|identity| from_json("tickets", &identity)).transpose()?,
            label: row.label,
        })
    }
}

/// The query that inserts a [`TicketRow`], for either database.
macro_rules! insert_ticket {
    ($ticket:expr) => {
        sqlx::query(sql::INSERT_TICKET)
            .bind($ticket.id)
            .bind(&$ticket.hash)
            .bind($ticket.session)
            .bind(rows::to_word("tickets", &$ticket.right)?)
            .bind(&$ticket.issuer)
            .bind($ticket.one_use)
            .bind($ticket.expires_at)
            .bind($ticket.used_at)
            .bind($ticket.revoked_at)
            .bind(&$ticket.resume_hash)
            .bind($ticket.issuer_identity.as_ref().map(ToString::to_string))
            .bind(&$ticket.label)
    };
}
pub(super) use insert_ticket;

/// A row of `audit`.
#[derive(sqlx::FromRow)]
pub(super) struct Audit {
    time: Micros,
    actor: String,
    action: String,
    session: Option<Uuid>,
    address: String,
    outcome: String,
    detail: String,
}

impl From<Audit> for AuditRow {
    fn from(row: Audit) -> Self {
        Self {
            time: row.time,
            actor: row.actor,
            action: row.action,
            session: row.session,
            address: row.address,
            outcome: row.outcome,
            detail: row.detail,
        }
    }
}

/// The query that inserts an [`AuditRow`], for either database.
macro_rules! insert_audit {
    ($row:expr) => {
        sqlx::query(sql::INSERT_AUDIT)
            .bind($row.time)
            .bind(&$row.actor)
            .bind(&$row.action)
            .bind($row.session)
            .bind(&$row.address)
            .bind(&$row.outcome)
            .bind(&$row.detail)
    };
}
pub(super) use insert_audit;

/// The time, by this machine's clock.
pub(super) fn now() -> Micros {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since_epoch.as_micros()).unwrap_or(Micros::MAX)
}

/// The short name of the session with this number.
pub(super) fn session_name(kind: Kind, number: i64) -> String {
    format!("{}.{number}", kind.name())
}

/// The number in a session's short name.
pub(super) fn session_number(name: &str) -> i64 {
    name.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// A limit in bytes that always lets the first one through.
pub(super) fn at_least_one(max_bytes: u64) -> i64 {
    i64::try_from(max_bytes).unwrap_or(i64::MAX).max(1)
}

/// The error of a row whose session is not there.
pub(super) fn without_session(error: sqlx::Error, session: Uuid) -> StoreError {
    let orphan = error.as_database_error().is_some_and(DatabaseError::is_foreign_key_violation);
    if orphan { StoreError::NoSession(session) } else { error.into() }
}
