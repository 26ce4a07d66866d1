//! Rows as both databases return them, and what they mean.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::FromRow;
use sqlx::error::DatabaseError;
use uuid::Uuid;

use super::{AuditRow, Chunk, ChunkKind, Kind, Listed, Micros, SessionRow, StoreError, TicketRow, brief, unreadable};

const RECORDS: i16 = 0;
const SCREEN: i16 = 1;
const MICROS_A_DAY: i64 = 86_400_000_000;

/// The day on which a time lies, counted from the Unix epoch.
pub(super) fn day(time: Micros) -> i64 {
    time.div_euclid(MICROS_A_DAY)
}

/// A value as JSON.
pub(super) fn to_json<T: Serialize>(table: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::of_row(table, error))
}

fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{column}: {error}"))
}

/// A word of an enum without fields, as it stands in JSON too, but without quotes.
pub(super) fn to_word<T: Serialize>(table: &'static str, value: &T) -> Result<String, StoreError> {
    to_json(table, value).map(|json| json.trim_matches('"').to_owned())
}

fn from_word<T: DeserializeOwned>(column: &str, word: String) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(word)).map_err(|error| format!("{column}: {error}"))
}

/// An offset or a count as the databases keep it.
pub(super) fn signed(table: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::of_row(table, format!("{value} is more than can be stored")))
}

/// An offset or a count that a database kept.
pub(super) fn unsigned(table: &'static str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::of_row(table, format!("{value} is below zero")))
}

/// What names a row of most tables.
#[derive(FromRow)]
pub(super) struct Id {
    id: Uuid,
}

/// What names a line of the audit trail.
#[derive(FromRow)]
pub(super) struct Number {
    id: i64,
}

/// When a session was made.
#[derive(FromRow)]
pub(super) struct Made {
    created_at: Micros,
}

/// When a line of the audit trail was written.
#[derive(FromRow)]
pub(super) struct Written {
    time: Micros,
}

/// A row of `sessions`, without its journal.
#[derive(FromRow)]
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

/// Reads a row; one that cannot be read is an error that names it.
fn read<'r, R, Raw, T>(
    row: &'r R,
    table: &'static str,
    name: Option<String>,
    make: impl FnOnce(Raw) -> Result<T, String>,
) -> Result<T, StoreError>
where
    R: sqlx::Row,
    Raw: FromRow<'r, R>,
{
    let read = Raw::from_row(row).map_err(|error| error.to_string()).and_then(make);
    let name = || name.map_or_else(|| "a row".to_owned(), |name| format!("the row {name}"));
    read.map_err(|reason| StoreError::Row { table, row: name(), reason })
}

/// The id of a session's row.
pub(super) fn id<'r, R: sqlx::Row>(row: &'r R) -> Option<Uuid>
where
    Id: FromRow<'r, R>,
{
    Id::from_row(row).ok().map(|Id { id }| id)
}

/// A session, from its row.
pub(super) fn session<'r, R: sqlx::Row>(row: &'r R) -> Result<SessionRow, StoreError>
where
    Id: FromRow<'r, R>,
    Session: FromRow<'r, R>,
{
    let whole = |json: &str| Ok((from_json("command", json)?, false));
    read(row, "sessions", id(row).map(|id| id.to_string()), |row| session_of(row, whole))
}

fn session_of(
    row: Session,
    command: impl FnOnce(&str) -> Result<(Vec<String>, bool), String>,
) -> Result<SessionRow, String> {
    let (command, command_cut) = command(&row.command)?;
    Ok(SessionRow {
        id: row.id,
        name: row.name,
        kind: from_word("kind", row.kind)?,
        state: from_word("state", row.state)?,
        app: row.app,
        owner: row.owner,
        command,
        command_cut,
        tty: row.tty,
        record: row.record,
        detached: row.detached,
        backend: row.backend,
        place: from_json("place", &row.place)?,
        idempotency_key: row.idempotency_key,
        request_hash: row.request_hash,
        created_at: row.created_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        exit: row.exit.map(|exit| from_json("exit", &exit)).transpose()?,
    })
}

/// A page of sessions, from their rows.
pub(super) fn sessions<R: sqlx::Row>(found: &[R], limit: u32) -> Listed<SessionRow>
where
    for<'r> Id: FromRow<'r, R>,
    for<'r> Made: FromRow<'r, R>,
    for<'r> Session: FromRow<'r, R>,
{
    let made = |row: &R| Made::from_row(row).ok().map(|Made { created_at }| created_at);
    let start = |json: &str| brief::command_of(json).map_err(|error| format!("command: {error}"));
    let session = |row: &R| read(row, "sessions", id(row).map(|id| id.to_string()), |row| session_of(row, start));
    listed(found, session, next(found, limit, made))
}

/// Where the page behind one that is full starts.
fn next<R>(found: &[R], limit: u32, time: impl Fn(&R) -> Option<Micros>) -> Option<Micros> {
    let full = u32::try_from(found.len()).unwrap_or(u32::MAX) >= limit;
    if full { found.iter().rev().find_map(time) } else { None }
}

/// What of a page can be read. The rest is told in the log, and counted.
fn listed<R, T>(found: &[R], read: impl Fn(&R) -> Result<T, StoreError>, next: Option<Micros>) -> Listed<T> {
    let mut rows = Vec::with_capacity(found.len());
    for row in found {
        match read(row) {
            Ok(row) => rows.push(row),
            Err(error) => unreadable::tell(&error),
        }
    }
    let unreadable = (found.len() - rows.len()) as u64;
    Listed { rows, unreadable, next }
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
#[derive(FromRow)]
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

/// A chunk, from its row. One whose row cannot be read has no data, as none has that was written.
pub(super) fn chunk<'r, R: sqlx::Row>(row: &'r R) -> Chunk
where
    ChunkData: FromRow<'r, R>,
    Place: FromRow<'r, R>,
{
    read(row, "chunks", None, chunk_of).unwrap_or_else(|_| {
        let place = Place::from_row(row).unwrap_or_default();
        let [from, to] = [place.from_offset, place.to_offset].map(|offset| u64::try_from(offset).unwrap_or(0));
        let kind = ChunkKind::Records;
        Chunk { kind, seq: place.seq, from, to, first_time: 0, last_time: 0, data: Bytes::new() }
    })
}

fn chunk_of(row: ChunkData) -> Result<Chunk, String> {
    let kind = match row.kind {
        RECORDS => ChunkKind::Records,
        SCREEN => ChunkKind::Screen,
        other => return Err(format!("unknown kind {other}")),
    };
    let offset = |offset| u64::try_from(offset).map_err(|_| format!("the offset {offset} is below zero"));
    Ok(Chunk {
        kind,
        seq: row.seq,
        from: offset(row.from_offset)?,
        to: offset(row.to_offset)?,
        first_time: row.first_time,
        last_time: row.last_time,
        data: Bytes::from(row.data),
    })
}

/// Where a chunk of a row stands that cannot be read otherwise.
#[derive(Default, FromRow)]
pub(super) struct Place {
    seq: i64,
    from_offset: i64,
    to_offset: i64,
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
#[derive(FromRow)]
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

/// A ticket, from its row.
pub(super) fn ticket<'r, R: sqlx::Row>(row: &'r R) -> Result<TicketRow, StoreError>
where
    Id: FromRow<'r, R>,
    Ticket: FromRow<'r, R>,
{
    read(row, "tickets", id(row).map(|id| id.to_string()), ticket_of)
}

fn ticket_of(row: Ticket) -> Result<TicketRow, String> {
    Ok(TicketRow {
        id: row.id,
        hash: row.hash,
        session: row.session,
        right: from_word("access", row.access)?,
        issuer: row.issuer,
        one_use: row.one_use,
        expires_at: row.expires_at,
        used_at: row.used_at,
        revoked_at: row.revoked_at,
        resume_hash: row.resume_hash,
        issuer_identity: row.issuer_identity.map(|identity| from_json("issuer_identity", &identity)).transpose()?,
        label: row.label,
    })
}

/// All tickets of a session, from their rows.
pub(super) fn tickets<R: sqlx::Row>(found: &[R]) -> Listed<TicketRow>
where
    for<'r> Id: FromRow<'r, R>,
    for<'r> Ticket: FromRow<'r, R>,
{
    listed(found, |row| ticket(row), None)
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
#[derive(FromRow)]
pub(super) struct Audit {
    time: Micros,
    actor: String,
    action: String,
    session: Option<Uuid>,
    address: String,
    outcome: String,
    detail: String,
}

/// A page of the audit trail, from its rows.
pub(super) fn audit<R: sqlx::Row>(found: &[R], limit: u32) -> Listed<AuditRow>
where
    for<'r> Audit: FromRow<'r, R>,
    for<'r> Number: FromRow<'r, R>,
    for<'r> Written: FromRow<'r, R>,
{
    let name = |row: &R| Number::from_row(row).ok().map(|Number { id }| id.to_string());
    let written = |row: &R| Written::from_row(row).ok().map(|Written { time }| time);
    listed(found, |row| read(row, "audit", name(row), audit_of), next(found, limit, written))
}

#[expect(clippy::unnecessary_wraps, reason = "all that can be wrong with such a row is the types of its columns")]
fn audit_of(row: Audit) -> Result<AuditRow, String> {
    Ok(AuditRow {
        time: row.time,
        actor: row.actor,
        action: row.action,
        session: row.session,
        address: row.address,
        outcome: row.outcome,
        detail: row.detail,
    })
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

/// The names in the first column, but for those that cannot be read.
pub(super) fn names<R: sqlx::Row>(rows: &[R]) -> Vec<String>
where
    usize: sqlx::ColumnIndex<R>,
    for<'r> String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}
