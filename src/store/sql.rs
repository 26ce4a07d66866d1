//! The statements that are the same on both databases.
//!
//! Column lists end up in [`super::rows`]; what only one database says stands beside its implementation.

/// The columns of [`super::rows::Session`], of the command all or what is said.
macro_rules! session_columns {
    () => {
        session_columns!("command")
    };
    ($command:literal) => {
        concat!(
            "id, name, kind, state, app, owner, ",
            $command,
            ", tty, record, detached, backend, place, idempotency_key, request_hash, created_at, started_at, ended_at, exit"
        )
    };
}

/// The columns of [`super::rows::ChunkData`].
macro_rules! chunk_columns {
    () => {
        "kind, seq, from_offset, to_offset, first_time, last_time, data"
    };
}

/// The columns of [`super::rows::Ticket`].
macro_rules! ticket_columns {
    () => {
        "id, hash, session, access, issuer, one_use, expires_at, used_at, revoked_at, resume_hash, \
         issuer_identity, label"
    };
}

/// Chunks of the session `$1`, and only the partition that they lie in.
macro_rules! of_session {
    () => {
        " FROM chunks WHERE session = $1 AND day = (SELECT day FROM sessions WHERE id = $1)"
    };
}

pub(super) const MAKE_INSTALLATION: &str =
    "INSERT INTO installation (one, id, made_at) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
pub(super) const INSTALLATION: &str = "SELECT id FROM installation";
/// The latest time that is known, and since when a clock is doubted. Before a hub noted one, what was stored last tells.
pub(super) const CLOCK: &str =
    "SELECT COALESCE(clock_seen, (SELECT MAX(time) FROM audit), (SELECT MAX(created_at) FROM sessions)),
     clock_doubted FROM installation";
pub(super) const SET_CLOCK: &str = "UPDATE installation SET clock_seen = $1, clock_doubted = $2";
pub(super) const PING: &str = "SELECT 1";

/// On PostgreSQL: takes the advisory lock with this number, unless another connection has it.
pub(super) const TRY_ALONE: &str = "SELECT pg_try_advisory_lock($1)";

/// Takes the installation's row, and with it the right to make sessions, until the transaction ends.
pub(super) const NEXT_NUMBER: &str =
    "UPDATE installation SET sessions_made = sessions_made + 1 RETURNING sessions_made";
pub(super) const NAME_TAKEN: &str = "SELECT EXISTS (SELECT 1 FROM sessions WHERE name = $1)";
/// Numbers up to this one are given.
pub(super) const RAISE_NUMBER: &str = "UPDATE installation SET sessions_made = $1 WHERE sessions_made < $1";
pub(super) const SAME_START: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE id = $1 OR (owner = $2 AND idempotency_key = $3)
     ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1"
);
pub(super) const INSERT_SESSION: &str = concat!(
    "INSERT INTO sessions (",
    session_columns!(),
    ", day) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
);
pub(super) const SESSION: &str = concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1");
pub(super) const SESSION_BY_NAME: &str = concat!("SELECT ", session_columns!(), " FROM sessions WHERE name = $1");
pub(super) const SESSION_BY_KEY: &str =
    concat!("SELECT ", session_columns!(), " FROM sessions WHERE owner = $1 AND idempotency_key = $2");
/// Of each command at most `$6` letters.
pub(super) const SESSIONS: &str = concat!(
    "SELECT ",
    session_columns!("substr(command, 1, $6) AS command"),
    " FROM sessions
     WHERE ($1 IS NULL OR app = $1) AND ($2 IS NULL OR owner = $2) AND ($3 IS NULL OR (ended_at IS NULL) = $3)
       AND ($4 IS NULL OR created_at < $4)
     ORDER BY created_at DESC, id DESC LIMIT $5"
);
pub(super) const APPS: &str = "SELECT DISTINCT app FROM sessions";
pub(super) const COUNT_LIVE: &str =
    "SELECT COUNT(CASE WHEN owner = $1 THEN 1 END), COUNT(CASE WHEN app = $2 THEN 1 END)
     FROM sessions WHERE ended_at IS NULL";
pub(super) const SET_RUNNING: &str =
    "UPDATE sessions SET state = 'running', started_at = $2 WHERE id = $1 AND ended_at IS NULL";
pub(super) const SET_PLACE: &str = "UPDATE sessions SET place = $2 WHERE id = $1";
pub(super) const END_SESSION: &str =
    "UPDATE sessions SET state = 'ended', exit = $2, ended_at = $3 WHERE id = $1 AND ended_at IS NULL";
pub(super) const DELETE_SESSION: &str = "DELETE FROM sessions WHERE id = $1";

/// What a session's row says of its journal: [`super::journal::Journal`].
pub(super) const JOURNAL: &str =
    "SELECT day, first_seq, next_seq, next_screen, journal_from, journal_to, stored_bytes FROM sessions WHERE id = $1";
pub(super) const SET_JOURNAL: &str = "UPDATE sessions SET first_seq = $2, next_seq = $3, next_screen = $4,
     journal_from = $5, journal_to = $6, stored_bytes = $7 WHERE id = $1";
pub(super) const INSERT_CHUNK: &str = concat!(
    "INSERT INTO chunks (",
    chunk_columns!(),
    ", session, day, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
);
/// From the first chunk of records that ends behind `$2`, or stands there without length, until `$3` bytes are reached.
/// Those without length are not counted: what moves a reader on is always among them where it is there. The sum is a subquery with one
/// value, which is evaluated once; as a set to look in, PostgreSQL would evaluate it for every row.
pub(super) const CHUNKS: &str = concat!(
    "SELECT ",
    chunk_columns!(),
    of_session!(),
    " AND kind = 0 AND to_offset >= $2 AND (to_offset > $2 OR from_offset = $2) AND seq <= (
         SELECT MAX(seq) FROM (
             SELECT seq, to_offset,
                 SUM(CASE WHEN to_offset > $2 THEN bytes ELSE 0 END) OVER (ORDER BY to_offset, seq) - bytes AS before",
    of_session!(),
    "        AND kind = 0 AND to_offset >= $2
         ) AS sized WHERE to_offset = $2 OR before < $3
     ) ORDER BY seq"
);
pub(super) const CHUNK_ENDING: &str =
    concat!("SELECT ", chunk_columns!(), of_session!(), " AND kind = 0 AND to_offset = $2 ORDER BY seq DESC LIMIT 1");
pub(super) const CHUNK: &str = concat!("SELECT ", chunk_columns!(), of_session!(), " AND kind = 0 AND seq = $2");
pub(super) const SCREEN: &str = concat!(
    "SELECT ",
    chunk_columns!(),
    of_session!(),
    " AND kind = 1 AND to_offset <= $2 ORDER BY to_offset DESC, seq DESC LIMIT 1"
);
/// What a journal is made of, without the data: [`super::journal::Piece`].
pub(super) const PIECES: &str =
    concat!("SELECT kind, seq, from_offset, bytes", of_session!(), " AND kind IN (0, 1) ORDER BY kind, to_offset, seq");
/// The oldest chunks of records, and screens.
pub(super) const CUT: &str =
    concat!("DELETE", of_session!(), " AND ((kind = 0 AND seq < $2) OR (kind = 1 AND to_offset < $3))");
pub(super) const DELETE_CHUNKS: &str = concat!("DELETE", of_session!());

pub(super) const INSERT_TICKET: &str =
    concat!("INSERT INTO tickets (", ticket_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)");
pub(super) const TICKET: &str =
    concat!("SELECT ", ticket_columns!(), " FROM tickets WHERE hash = $1 OR resume_hash = $1");
pub(super) const USE_TICKET: &str = "UPDATE tickets
     SET used_at = COALESCE(used_at, $2), resume_hash = COALESCE(resume_hash, $3)
     WHERE id = $1 AND revoked_at IS NULL AND (NOT one_use OR used_at IS NULL)";
pub(super) const REVOKE_TICKET: &str =
    "UPDATE tickets SET revoked_at = $3 WHERE id = $2 AND session = $1 AND revoked_at IS NULL";
pub(super) const TICKETS: &str = concat!("SELECT ", ticket_columns!(), " FROM tickets WHERE session = $1 ORDER BY id");

pub(super) const INSERT_AUDIT: &str = "INSERT INTO audit (time, actor, action, session, address, outcome, detail)
     VALUES ($1, $2, $3, $4, $5, $6, $7)";
pub(super) const AUDIT: &str = "SELECT id, time, actor, action, session, address, outcome, detail FROM audit
     WHERE ($1 IS NULL OR session = $1) AND ($2 IS NULL OR actor = $2) AND ($3 IS NULL OR time < $3)
     ORDER BY time DESC, id DESC LIMIT $4";
pub(super) const EXPIRE_AUDIT: &str = "DELETE FROM audit WHERE time < $1";

pub(super) const STORED_BYTES: &str = "SELECT CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) FROM sessions";
/// Journals in the order in which they go when there is too much, with their sizes.
pub(super) const OLDEST_JOURNALS: &str = "SELECT id, stored_bytes FROM sessions
     WHERE ended_at IS NOT NULL AND stored_bytes > 0 ORDER BY ended_at, id LIMIT 100";
