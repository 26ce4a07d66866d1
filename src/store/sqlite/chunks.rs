//! A session's journal.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::super::journal::{Journal, Piece, present, set_journal};
use super::super::{Chunk, StoreError, rows, sql};

pub(super) async fn append(writer: &SqlitePool, session: Uuid, chunks: &[Chunk]) -> Result<(), StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut journal = present(session, journal(&mut tx, session).await?)?;
    for chunk in chunks {
        let seq = journal.accept(chunk)?;
        rows::insert_chunk!(session, journal.day, seq, chunk).execute(&mut *tx).await?;
    }
    set_journal!(session, journal).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

async fn journal(connection: &mut SqliteConnection, session: Uuid) -> Result<Option<Journal>, StoreError> {
    Ok(sqlx::query_as(sql::JOURNAL).bind(session).fetch_optional(connection).await?)
}

pub(super) async fn read(
    readers: &SqlitePool,
    session: Uuid,
    offset: u64,
    max_bytes: u64,
) -> Result<Vec<Chunk>, StoreError> {
    let offset = rows::signed("chunks", offset)?;
    let mut found = sqlx::query(sql::CHUNKS)
        .bind(session)
        .bind(offset)
        .bind(rows::at_least_one(max_bytes))
        .fetch_all(readers)
        .await?;
    if found.is_empty() {
        found = sqlx::query(sql::CHUNK_ENDING).bind(session).bind(offset).fetch_all(readers).await?;
    }
    Ok(found.iter().map(rows::chunk).collect())
}

pub(super) async fn trim(writer: &SqlitePool, session: Uuid, max_bytes: u64) -> Result<(), StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
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
pub(super) async fn clear(writer: &SqlitePool, session: Uuid) -> Result<(), StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let Some(mut journal) = journal(&mut tx, session).await? else { return Ok(()) };
    journal.clear();
    sqlx::query(sql::DELETE_CHUNKS).bind(session).execute(&mut *tx).await?;
    set_journal!(session, journal).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}
