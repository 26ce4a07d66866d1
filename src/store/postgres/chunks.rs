//! A session's journal.

use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::super::journal::{Journal, Piece, present, set_journal};
use super::super::{Chunk, StoreError, rows, sql};

const LOCKED_JOURNAL: &str =
    "SELECT day, first_seq, next_seq, next_screen, journal_from, journal_to, stored_bytes FROM sessions
     WHERE id = $1 FOR UPDATE";

pub(super) async fn append(pool: &PgPool, session: Uuid, chunks: &[Chunk]) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let mut journal = present(session, journal(&mut tx, session).await?)?;
    for chunk in chunks {
        let seq = journal.accept(chunk)?;
        rows::insert_chunk!(session, journal.day, seq, chunk).execute(&mut *tx).await?;
    }
    set_journal!(session, journal).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Locks the session's row: appends by two hubs come one after the other.
async fn journal(connection: &mut PgConnection, session: Uuid) -> Result<Option<Journal>, StoreError> {
    Ok(sqlx::query_as(LOCKED_JOURNAL).bind(session).fetch_optional(connection).await?)
}

pub(super) async fn read(pool: &PgPool, session: Uuid, offset: u64, max_bytes: u64) -> Result<Vec<Chunk>, StoreError> {
    let offset = rows::signed("chunks", offset)?;
    let mut found =
        sqlx::query(sql::CHUNKS).bind(session).bind(offset).bind(rows::at_least_one(max_bytes)).fetch_all(pool).await?;
    if found.is_empty() {
        found = sqlx::query(sql::CHUNK_ENDING).bind(session).bind(offset).fetch_all(pool).await?;
    }
    Ok(found.iter().map(rows::chunk).collect())
}

pub(super) async fn trim(pool: &PgPool, session: Uuid, max_bytes: u64) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let Some(mut journal) = journal(&mut tx, session).await? else { return Ok(()) };
    if rows::unsigned("sessions", journal.stored_bytes)? <= max_bytes {
        return Ok(());
    }
    let pieces: Vec<Piece> = sqlx::query_as(sql::PIECES).bind(session).fetch_all(&mut *tx).await?;
    let cut = journal.trim(&pieces, max_bytes);
    sqlx::query(sql::CUT).bind(session).bind(cut.records_before).bind(cut.screens_before).execute(&mut *tx).await?;
    set_journal!(session, journal).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Deletes all chunks of a session.
pub(super) async fn clear(pool: &PgPool, session: Uuid) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    let Some(mut journal) = journal(&mut tx, session).await? else { return Ok(()) };
    journal.clear();
    sqlx::query(sql::DELETE_CHUNKS).bind(session).execute(&mut *tx).await?;
    set_journal!(session, journal).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
