//! Making and listing sessions.

use sqlx::sqlite::SqlitePool;

use super::super::{Created, Listed, SessionFilter, SessionRow, StoreError, brief, rows, sql};

pub(super) async fn create(writer: &SqlitePool, mut row: SessionRow) -> Result<Created, StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
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
    rows::insert_session!(row).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Created::New(Box::new(row)))
}

pub(super) async fn restore(writer: &SqlitePool, mut row: SessionRow) -> Result<SessionRow, StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
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
    rows::insert_session!(row).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(row)
}

pub(super) async fn list(readers: &SqlitePool, filter: &SessionFilter) -> Result<Listed<SessionRow>, StoreError> {
    let found = sqlx::query(sql::SESSIONS)
        .bind(&filter.app)
        .bind(&filter.owner)
        .bind(filter.live)
        .bind(filter.before)
        .bind(i64::from(filter.limit))
        .bind(brief::READ_LETTERS)
        .fetch_all(readers)
        .await?;
    Ok(rows::sessions(&found, filter.limit))
}
