//! The store in one SQLite file: for one machine, and one hub at a time.
//!
//! One connection writes and a few read, so that no writer ever finds the file locked by its own hub, and a reader of
//! a long journal holds up nobody. Every commit is synced to disk (`synchronous = FULL`): an agent drops what the hub
//! acknowledges, so a commit that a power cut could take back would lose output for good.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::Connection;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use uuid::Uuid;

use super::{
    Alone, AuditFilter, AuditRow, Chunk, Clock, Created, Extent, Listed, Micros, Retention, SessionFilter, SessionRow,
    Store, StoreError, TicketRow, journal, rows, schema, sql,
};
use crate::folder;
use crate::record::Exit;

mod chunks;
mod retention;
mod sessions;

/// How long a statement waits for another process that has the file, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for its turn.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that read.
const READERS: u32 = 4;

/// The write-ahead log is cut back to so many bytes after a checkpoint.
const LOG_BYTES: &str = "67108864";

/// The SQLite store. See the module's documentation.
#[derive(Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    /// Opens the database at `path`. Makes it, with its folder, for this user alone where it is not there. One of a
    /// later version is left as it was.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for the tables of a later version; [`StoreError::Database`] where the file cannot be
    /// made, read or written.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let empty = make_private(path).map_err(sqlx::Error::Io)?;
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).foreign_keys(true);
        // Said again of a file that has tables it would change nothing, but be written to it.
        let made = if empty { options.clone().auto_vacuum(SqliteAutoVacuum::Incremental) } else { options.clone() };
        let writing = made
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", LOG_BYTES);
        let writer = pool().max_connections(1).after_release(still_usable).connect_with(writing).await?;
        let readers = pool().max_connections(READERS).connect_lazy_with(options.pragma("query_only", "1"));
        let store = Self { writer, readers };
        match store.prepare().await {
            Ok(()) => Ok(store),
            Err(error) => {
                // Its log files go with the last connection, and that is not left to whenever it is noticed.
                store.close().await;
                Err(error)
            }
        }
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        schema::prepare(&mut *self.writer.acquire().await?, &schema::sqlite()).await?;
        sqlx::query(sql::MAKE_INSTALLATION).bind(Uuid::new_v4()).bind(rows::now()).execute(&self.writer).await?;
        Ok(())
    }
}

fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(None).max_lifetime(None)
}

/// Whether a connection that comes back can be used again. On a full disk SQLite itself rolls back, and the driver,
/// whose own rollback then fails, would count that transaction as open for ever.
fn still_usable(
    connection: &mut SqliteConnection,
    _: PoolConnectionMetadata,
) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    Box::pin(async move {
        // Answered when what was sent before is done, a rollback too.
        connection.ping().await?;
        Ok(!connection.is_in_transaction())
    })
}

/// Makes the file where it is not there. SQLite gives its log files the same mode. Whether it is empty.
fn make_private(path: &Path) -> std::io::Result<bool> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    folder::open(path, OpenOptions::new().create(true).append(true))?.metadata().map(|file| file.len() == 0)
}

#[async_trait]
impl Store for Sqlite {
    async fn installation(&self) -> Result<Uuid, StoreError> {
        Ok(sqlx::query_scalar(sql::INSTALLATION).fetch_one(&self.readers).await?)
    }

    async fn clock(&self) -> Result<Clock, StoreError> {
        let (seen, doubted) = sqlx::query_as(sql::CLOCK).fetch_one(&self.readers).await?;
        Ok(Clock { seen, doubted })
    }

    async fn set_clock(&self, clock: &Clock) -> Result<(), StoreError> {
        sqlx::query(sql::SET_CLOCK).bind(clock.seen).bind(clock.doubted).execute(&self.writer).await?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query(sql::PING).execute(&self.readers).await?;
        Ok(())
    }

    async fn create_session(&self, row: SessionRow) -> Result<Created, StoreError> {
        sessions::create(&self.writer, row).await
    }

    async fn restore_session(&self, row: SessionRow) -> Result<SessionRow, StoreError> {
        sessions::restore(&self.writer, row).await
    }

    async fn session(&self, id: Uuid) -> Result<Option<SessionRow>, StoreError> {
        let row = sqlx::query(sql::SESSION).bind(id).fetch_optional(&self.readers).await?;
        row.as_ref().map(rows::session).transpose()
    }

    async fn session_by_name(&self, name: &str) -> Result<Option<SessionRow>, StoreError> {
        let row = sqlx::query(sql::SESSION_BY_NAME).bind(name).fetch_optional(&self.readers).await?;
        row.as_ref().map(rows::session).transpose()
    }

    async fn session_by_key(&self, owner: &str, key: &str) -> Result<Option<SessionRow>, StoreError> {
        let row = sqlx::query(sql::SESSION_BY_KEY).bind(owner).bind(key).fetch_optional(&self.readers).await?;
        row.as_ref().map(rows::session).transpose()
    }

    async fn sessions(&self, filter: &SessionFilter) -> Result<Listed<SessionRow>, StoreError> {
        sessions::list(&self.readers, filter).await
    }

    async fn apps(&self) -> Result<Vec<String>, StoreError> {
        Ok(rows::names(&sqlx::query(sql::APPS).fetch_all(&self.readers).await?))
    }

    async fn count_live(&self, owner: &str, app: &str) -> Result<(u64, u64), StoreError> {
        let (theirs, of_app): (i64, i64) =
            sqlx::query_as(sql::COUNT_LIVE).bind(owner).bind(app).fetch_one(&self.readers).await?;
        Ok((rows::unsigned("sessions", theirs)?, rows::unsigned("sessions", of_app)?))
    }

    async fn set_running(&self, id: Uuid, started_at: Micros) -> Result<(), StoreError> {
        sqlx::query(sql::SET_RUNNING).bind(id).bind(started_at).execute(&self.writer).await?;
        Ok(())
    }

    async fn set_place(&self, id: Uuid, place: &serde_json::Value) -> Result<(), StoreError> {
        sqlx::query(sql::SET_PLACE).bind(id).bind(place.to_string()).execute(&self.writer).await?;
        Ok(())
    }

    async fn end_session(&self, id: Uuid, exit: &Exit, ended_at: Micros) -> Result<(), StoreError> {
        let exit = rows::to_json("sessions", exit)?;
        sqlx::query(sql::END_SESSION).bind(id).bind(exit).bind(ended_at).execute(&self.writer).await?;
        Ok(())
    }

    async fn delete_session(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(sql::DELETE_SESSION).bind(id).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn append(&self, session: Uuid, chunks: &[Chunk]) -> Result<(), StoreError> {
        chunks::append(&self.writer, session, chunks).await
    }

    async fn extent(&self, session: Uuid) -> Result<Extent, StoreError> {
        let journal: Option<journal::Journal> =
            sqlx::query_as(sql::JOURNAL).bind(session).fetch_optional(&self.readers).await?;
        journal.map_or(Ok(Extent::default()), |journal| journal.extent())
    }

    async fn chunks(&self, session: Uuid, offset: u64, max_bytes: u64) -> Result<Vec<Chunk>, StoreError> {
        chunks::read(&self.readers, session, offset, max_bytes).await
    }

    async fn chunk(&self, session: Uuid, seq: i64) -> Result<Option<Chunk>, StoreError> {
        let row = sqlx::query(sql::CHUNK).bind(session).bind(seq).fetch_optional(&self.readers).await?;
        Ok(row.as_ref().map(rows::chunk))
    }

    async fn screen(&self, session: Uuid, offset: u64) -> Result<Option<Chunk>, StoreError> {
        let offset = rows::signed("chunks", offset)?;
        let row = sqlx::query(sql::SCREEN).bind(session).bind(offset).fetch_optional(&self.readers).await?;
        Ok(row.as_ref().map(rows::chunk))
    }

    async fn trim(&self, session: Uuid, max_bytes: u64) -> Result<(), StoreError> {
        chunks::trim(&self.writer, session, max_bytes).await
    }

    async fn create_ticket(&self, ticket: &TicketRow) -> Result<(), StoreError> {
        let made = rows::insert_ticket!(ticket).execute(&self.writer).await;
        made.map(drop).map_err(|error| rows::without_session(error, ticket.session))
    }

    async fn ticket(&self, hash: &str) -> Result<Option<TicketRow>, StoreError> {
        let row = sqlx::query(sql::TICKET).bind(hash).fetch_optional(&self.readers).await?;
        row.as_ref().map(rows::ticket).transpose()
    }

    async fn use_ticket(&self, id: Uuid, now: Micros, resume_hash: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(sql::USE_TICKET).bind(id).bind(now).bind(resume_hash).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn revoke_ticket(&self, session: Uuid, id: Uuid, now: Micros) -> Result<bool, StoreError> {
        let done = sqlx::query(sql::REVOKE_TICKET).bind(session).bind(id).bind(now).execute(&self.writer).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn tickets(&self, session: Uuid) -> Result<Listed<TicketRow>, StoreError> {
        let found = sqlx::query(sql::TICKETS).bind(session).fetch_all(&self.readers).await?;
        Ok(rows::tickets(&found))
    }

    async fn add_audit(&self, row: &AuditRow) -> Result<(), StoreError> {
        rows::insert_audit!(row).execute(&self.writer).await?;
        Ok(())
    }

    async fn audit(&self, filter: &AuditFilter) -> Result<Listed<AuditRow>, StoreError> {
        let found = sqlx::query(sql::AUDIT)
            .bind(filter.session)
            .bind(&filter.actor)
            .bind(filter.before)
            .bind(i64::from(filter.limit))
            .fetch_all(&self.readers)
            .await?;
        Ok(rows::audit(&found, filter.limit))
    }

    async fn retain(&self, retention: &Retention) -> Result<u64, StoreError> {
        retention::apply(&self.writer, retention).await
    }

    async fn alone(&self) -> Result<Option<Alone>, StoreError> {
        // One hub has the state folder, and with it the file.
        Ok(Some(Alone::holding(())))
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests;
