//! Making, listing and deleting sessions.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::super::{Created, Listed, SessionFilter, SessionRow, StoreError, brief, rows, sql};
use super::partitions;

/// Keeps appends away while a session goes.
const LOCK: &str = "SELECT id FROM sessions WHERE id = $1 FOR UPDATE";

pub(super) async fn create(pool: &PgPool, mut row: SessionRow) -> Result<Created, StoreError> {
    let mut tx = pool.begin().await?;
    let number: i64 = sqlx::query_scalar(sql::NEXT_NUMBER).fetch_one(&mut *tx).await?;
    let same = sqlx::query(sql::SAME_START)
        .bind(row.id)
        .bind(&row.owner)
        .bind(&row.idempotency_key)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(same) = same {
        tx.rollback().await?;
        return Ok(Created::Existing(Box::new(rows::session(&same)?)));
    }
    row.name = rows::session_name(row.kind, number);
    partitions::ensure(&mut tx, rows::day(row.created_at)).await?;
    rows::insert_session!(row).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Created::New(Box::new(row)))
}

pub(super) async fn restore(pool: &PgPool, mut row: SessionRow) -> Result<SessionRow, StoreError> {
    let mut tx = pool.begin().await?;
    partitions::lock(&mut tx).await?;
    let same = sqlx::query(sql::SAME_START)
        .bind(row.id)
        .bind(&row.owner)
        .bind(&row.idempotency_key)
        .fetch_optional(&mut *tx)
        .await?;
    match same {
        // One that cannot be read is not made anew, and what lives is as its hub has it.
        Some(same) if rows::id(&same) == Some(row.id) => return Ok(rows::session(&same).unwrap_or(row)),
        Some(_) => (row.idempotency_key, row.request_hash) = (None, None),
        None => {}
    }
    sqlx::query(sql::RAISE_NUMBER).bind(rows::session_number(&row.name)).execute(&mut *tx).await?;
    while row.name.is_empty() || sqlx::query_scalar(sql::NAME_TAKEN).bind(&row.name).fetch_one(&mut *tx).await? {
        row.name = rows::session_name(row.kind, sqlx::query_scalar(sql::NEXT_NUMBER).fetch_one(&mut *tx).await?);
    }
    partitions::ensure(&mut tx, rows::day(row.created_at)).await?;
    rows::insert_session!(row).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(row)
}

pub(super) async fn list(pool: &PgPool, filter: &SessionFilter) -> Result<Listed<SessionRow>, StoreError> {
    let found = sqlx::query(sql::SESSIONS)
        .bind(&filter.app)
        .bind(&filter.owner)
        .bind(filter.live)
        .bind(filter.before)
        .bind(i64::from(filter.limit))
        .bind(brief::READ_LETTERS)
        .fetch_all(pool)
        .await?;
    Ok(rows::sessions(&found, filter.limit))
}

/// Deletes a session, and its chunks at once rather than with their partition: who asks for this wants them gone.
pub(super) async fn delete(pool: &PgPool, id: Uuid) -> Result<bool, StoreError> {
    let mut tx = pool.begin().await?;
    let there: Option<Uuid> = sqlx::query_scalar(LOCK).bind(id).fetch_optional(&mut *tx).await?;
    if there.is_none() {
        return Ok(false);
    }
    sqlx::query(sql::DELETE_CHUNKS).bind(id).execute(&mut *tx).await?;
    sqlx::query(sql::DELETE_SESSION).bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(true)
}
