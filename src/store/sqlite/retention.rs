//! Retention. Each session goes in a transaction of its own, so that appends get their turn in between.

use sqlx::sqlite::SqlitePool;
use uuid::Uuid;

use super::super::{Micros, Retention, StoreError, sql};
use super::chunks;

/// By the numbers that SQLite itself gives rows: an id may be one that cannot be read.
const EXPIRED: &str = "SELECT rowid FROM sessions WHERE ended_at < $1";
const DELETE_ROW: &str = "DELETE FROM sessions WHERE rowid = $1";

/// Free pages that are kept for what comes next; more are given back to the file system.
const SPARE_PAGES: i64 = 16_384;

pub(super) async fn apply(writer: &SqlitePool, retention: &Retention) -> Result<u64, StoreError> {
    let gone = expire(writer, retention.ended_before).await?;
    sqlx::query(sql::EXPIRE_AUDIT).bind(retention.audit_before).execute(writer).await?;
    shrink(writer, retention.total_bytes).await?;
    give_back(writer).await?;
    Ok(gone)
}

async fn expire(writer: &SqlitePool, ended_before: Micros) -> Result<u64, StoreError> {
    let expired: Vec<i64> = sqlx::query_scalar(EXPIRED).bind(ended_before).fetch_all(writer).await?;
    let mut gone = 0;
    for row in expired {
        gone += sqlx::query(DELETE_ROW).bind(row).execute(writer).await?.rows_affected();
    }
    Ok(gone)
}

async fn shrink(writer: &SqlitePool, total_bytes: u64) -> Result<(), StoreError> {
    let stored: i64 = sqlx::query_scalar(sql::STORED_BYTES).fetch_one(writer).await?;
    let mut stored = u64::try_from(stored).unwrap_or(0);
    while stored > total_bytes {
        let oldest: Vec<(Uuid, i64)> = sqlx::query_as(sql::OLDEST_JOURNALS).fetch_all(writer).await?;
        if oldest.is_empty() {
            return Ok(());
        }
        for (id, bytes) in oldest {
            if stored <= total_bytes {
                break;
            }
            chunks::clear(writer, id).await?;
            stored = stored.saturating_sub(u64::try_from(bytes).unwrap_or(0));
        }
    }
    Ok(())
}

async fn give_back(writer: &SqlitePool) -> Result<(), StoreError> {
    let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(writer).await?;
    if free > SPARE_PAGES {
        sqlx::query("PRAGMA incremental_vacuum(16384)").execute(writer).await?;
    }
    Ok(())
}
