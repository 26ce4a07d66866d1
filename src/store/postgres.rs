//! The store in a PostgreSQL database: for servers, and for any number of hubs at once.
//!
//! A database that is away costs a caller seconds, never more: connecting, waiting for a connection, each statement
//! and each call have their limits. The next call connects anew. One that is slow, by seconds an answer, is not away.
//!
//! Chunks lie in one partition for each day on which sessions were made, so that retention drops tables instead of
//! deleting rows. Whoever makes a session, makes or drops a partition holds the row of `installation` while doing so:
//! two hubs cannot make one twice, and none is dropped while a session of its day is being made.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor};
use uuid::Uuid;

use super::{
    Alone, AuditFilter, AuditRow, Chunk, Clock, Created, Extent, Listed, Micros, Retention, SessionFilter, SessionRow,
    Store, StoreError, TicketRow, journal, rows, schema, sql,
};
use crate::record::Exit;

mod chunks;
mod partitions;
mod retention;
mod sessions;

/// How long the first connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);

/// How long a call waits for a connection, a new one included, which takes up to four answers of the server: one that
/// takes 2 s for each is slow, not away.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(9);

/// How long a call may take in all. Above the statement's limit, so that the server's own answer comes first.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// How long an append may take, which nobody waits for: seven answers of a slow server, and a new connection.
const APPEND_LIMIT: Duration = Duration::from_mins(1);

/// How long retention may take, which drops and deletes much at once.
const RETENTION_LIMIT: Duration = Duration::from_mins(5);

/// How long bringing the tables up to date may take, the wait for another hub that does it included.
const MIGRATE_LIMIT: Duration = Duration::from_mins(2);

/// How long a connection that comes back from a call may take to show that it still works.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// The number of the advisory lock behind [`Store::alone`]: "foghorn" in ASCII.
const ALONE: i64 = 0x0066_6f67_686f_726e;

/// Connections of one hub.
const CONNECTIONS: u32 = 10;

/// What each connection starts with: no statement hangs, and a hub that vanished within a transaction holds its locks
/// for seconds only.
const CONNECTION_LIMITS: &str = "SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'";

/// The PostgreSQL store. See the module's documentation.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Connects to the database that `url` names (`postgres://` or `postgresql://`, with the parameters that libpq
    /// knows) and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Url`] for a URL that is not one of PostgreSQL's, [`StoreError::Newer`] for the tables of a later
    /// version, [`StoreError::Database`] where the server does not answer within seconds or does not let us in. None
    /// of them tells the password.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = parse(url)?;
        let mut first = within(CONNECT_LIMIT, async { Ok(PgConnection::connect_with(&options).await?) }).await?;
        within(MIGRATE_LIMIT, async {
            schema::prepare(&mut first, &schema::postgres()).await?;
            let made = sqlx::query(sql::MAKE_INSTALLATION).bind(Uuid::new_v4()).bind(rows::now());
            Ok(made.execute(&mut first).await?)
        })
        .await?;
        within(RELEASE_LIMIT, async { Ok(first.close().await?) }).await?;
        Ok(Self { pool: pool(options) })
    }
}

fn parse(url: &str) -> Result<PgConnectOptions, StoreError> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(StoreError::Url("it must begin with postgres:// or postgresql://".to_owned()));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Url(explain(url, &error)))?;
    Ok(options.application_name("foghorn"))
}

/// What is wrong with a URL. The parser's own words are dropped where they repeat some of the URL's.
fn explain(url: &str, error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(cause) => {
            let cause = cause.to_string();
            let quotes = cause.split(['`', '"', '\'']).skip(1).step_by(2).any(|part| url.contains(part));
            if quotes { "one of its parameters has a value that is not known".to_owned() } else { cause }
        }
        _ => "it is not a URL".to_owned(),
    }
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE_LIMIT)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(CONNECTION_LIMITS).await.map(drop) }))
        // Without a limit, connections to a host that fell silent would hang here and use up the pool.
        .after_release(|connection, _| {
            Box::pin(async move {
                let answered = tokio::time::timeout(RELEASE_LIMIT, connection.ping()).await;
                answered.map_err(|_| silent(RELEASE_LIMIT)).flatten().map(|()| true)
            })
        })
        .connect_lazy_with(options)
}

/// The outcome of `call`, or an error after `limit`.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(limit, call).await.map_err(|_| silent(limit).into()).flatten()
}

fn silent(limit: Duration) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs())))
}

#[async_trait]
impl Store for Postgres {
    async fn installation(&self) -> Result<Uuid, StoreError> {
        within(CALL_LIMIT, async { Ok(sqlx::query_scalar(sql::INSTALLATION).fetch_one(&self.pool).await?) }).await
    }

    async fn clock(&self) -> Result<Clock, StoreError> {
        within(CALL_LIMIT, async {
            let (seen, doubted) = sqlx::query_as(sql::CLOCK).fetch_one(&self.pool).await?;
            Ok(Clock { seen, doubted })
        })
        .await
    }

    async fn set_clock(&self, clock: &Clock) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            sqlx::query(sql::SET_CLOCK).bind(clock.seen).bind(clock.doubted).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            sqlx::query(sql::PING).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn create_session(&self, row: SessionRow) -> Result<Created, StoreError> {
        within(CALL_LIMIT, async { sessions::create(&self.pool, row).await }).await
    }

    async fn restore_session(&self, row: SessionRow) -> Result<SessionRow, StoreError> {
        within(CALL_LIMIT, async { sessions::restore(&self.pool, row).await }).await
    }

    async fn session(&self, id: Uuid) -> Result<Option<SessionRow>, StoreError> {
        within(CALL_LIMIT, async {
            let row = sqlx::query(sql::SESSION).bind(id).fetch_optional(&self.pool).await?;
            row.as_ref().map(rows::session).transpose()
        })
        .await
    }

    async fn session_by_name(&self, name: &str) -> Result<Option<SessionRow>, StoreError> {
        within(CALL_LIMIT, async {
            let row = sqlx::query(sql::SESSION_BY_NAME).bind(name).fetch_optional(&self.pool).await?;
            row.as_ref().map(rows::session).transpose()
        })
        .await
    }

    async fn session_by_key(&self, owner: &str, key: &str) -> Result<Option<SessionRow>, StoreError> {
        within(CALL_LIMIT, async {
            let row = sqlx::query(sql::SESSION_BY_KEY).bind(owner).bind(key).fetch_optional(&self.pool).await?;
            row.as_ref().map(rows::session).transpose()
        })
        .await
    }

    async fn sessions(&self, filter: &SessionFilter) -> Result<Listed<SessionRow>, StoreError> {
        within(CALL_LIMIT, async { sessions::list(&self.pool, filter).await }).await
    }

    async fn apps(&self) -> Result<Vec<String>, StoreError> {
        within(CALL_LIMIT, async { Ok(rows::names(&sqlx::query(sql::APPS).fetch_all(&self.pool).await?)) }).await
    }

    async fn count_live(&self, owner: &str, app: &str) -> Result<(u64, u64), StoreError> {
        within(CALL_LIMIT, async {
            let (theirs, of_app): (i64, i64) =
                sqlx::query_as(sql::COUNT_LIVE).bind(owner).bind(app).fetch_one(&self.pool).await?;
            Ok((rows::unsigned("sessions", theirs)?, rows::unsigned("sessions", of_app)?))
        })
        .await
    }

    async fn set_running(&self, id: Uuid, started_at: Micros) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            sqlx::query(sql::SET_RUNNING).bind(id).bind(started_at).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn set_place(&self, id: Uuid, place: &serde_json::Value) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            sqlx::query(sql::SET_PLACE).bind(id).bind(place.to_string()).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn end_session(&self, id: Uuid, exit: &Exit, ended_at: Micros) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            let exit = rows::to_json("sessions", exit)?;
            sqlx::query(sql::END_SESSION).bind(id).bind(exit).bind(ended_at).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn delete_session(&self, id: Uuid) -> Result<bool, StoreError> {
        within(CALL_LIMIT, async { sessions::delete(&self.pool, id).await }).await
    }

    async fn append(&self, session: Uuid, chunks: &[Chunk]) -> Result<(), StoreError> {
        within(APPEND_LIMIT, async { chunks::append(&self.pool, session, chunks).await }).await
    }

    async fn extent(&self, session: Uuid) -> Result<Extent, StoreError> {
        within(CALL_LIMIT, async {
            let journal: Option<journal::Journal> =
                sqlx::query_as(sql::JOURNAL).bind(session).fetch_optional(&self.pool).await?;
            journal.map_or(Ok(Extent::default()), |journal| journal.extent())
        })
        .await
    }

    async fn chunks(&self, session: Uuid, offset: u64, max_bytes: u64) -> Result<Vec<Chunk>, StoreError> {
        within(CALL_LIMIT, async { chunks::read(&self.pool, session, offset, max_bytes).await }).await
    }

    async fn chunk(&self, session: Uuid, seq: i64) -> Result<Option<Chunk>, StoreError> {
        within(CALL_LIMIT, async {
            let row = sqlx::query(sql::CHUNK).bind(session).bind(seq).fetch_optional(&self.pool).await?;
            Ok(row.as_ref().map(rows::chunk))
        })
        .await
    }

    async fn screen(&self, session: Uuid, offset: u64) -> Result<Option<Chunk>, StoreError> {
        within(CALL_LIMIT, async {
            let offset = rows::signed("chunks", offset)?;
            let row = sqlx::query(sql::SCREEN).bind(session).bind(offset).fetch_optional(&self.pool).await?;
            Ok(row.as_ref().map(rows::chunk))
        })
        .await
    }

    async fn trim(&self, session: Uuid, max_bytes: u64) -> Result<(), StoreError> {
        within(CALL_LIMIT, async { chunks::trim(&self.pool, session, max_bytes).await }).await
    }

    async fn create_ticket(&self, ticket: &TicketRow) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            let made = rows::insert_ticket!(ticket).execute(&self.pool).await;
            made.map(drop).map_err(|error| rows::without_session(error, ticket.session))
        })
        .await
    }

    async fn ticket(&self, hash: &str) -> Result<Option<TicketRow>, StoreError> {
        within(CALL_LIMIT, async {
            let row = sqlx::query(sql::TICKET).bind(hash).fetch_optional(&self.pool).await?;
            row.as_ref().map(rows::ticket).transpose()
        })
        .await
    }

    async fn use_ticket(&self, id: Uuid, now: Micros, resume_hash: &str) -> Result<bool, StoreError> {
        within(CALL_LIMIT, async {
            let done = sqlx::query(sql::USE_TICKET).bind(id).bind(now).bind(resume_hash).execute(&self.pool).await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn revoke_ticket(&self, session: Uuid, id: Uuid, now: Micros) -> Result<bool, StoreError> {
        within(CALL_LIMIT, async {
            let done = sqlx::query(sql::REVOKE_TICKET).bind(session).bind(id).bind(now).execute(&self.pool).await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn tickets(&self, session: Uuid) -> Result<Listed<TicketRow>, StoreError> {
        within(CALL_LIMIT, async {
            let found = sqlx::query(sql::TICKETS).bind(session).fetch_all(&self.pool).await?;
            Ok(rows::tickets(&found))
        })
        .await
    }

    async fn add_audit(&self, row: &AuditRow) -> Result<(), StoreError> {
        within(CALL_LIMIT, async {
            rows::insert_audit!(row).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Listed<AuditRow>, StoreError> {
        within(CALL_LIMIT, async {
            let found = sqlx::query(sql::AUDIT)
                .bind(filter.session)
                .bind(&filter.actor)
                .bind(filter.before)
                .bind(i64::from(filter.limit))
                .fetch_all(&self.pool)
                .await?;
            Ok(rows::audit(&found, filter.limit))
        })
        .await
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, StoreError> {
        within(RETENTION_LIMIT, async { retention::apply(&self.pool, retention).await }).await
    }

    async fn alone(&self) -> Result<Option<Alone>, StoreError> {
        within(CALL_LIMIT, async {
            // The lock is the connection's, and must not go back to the pool with it.
            let mut connection = self.pool.acquire().await?.detach();
            let taken = sqlx::query_scalar(sql::TRY_ALONE).bind(ALONE).fetch_one(&mut connection).await?;
            Ok(if taken { Some(Alone::holding(connection)) } else { None })
        })
        .await
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests;
