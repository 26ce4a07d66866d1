//! Retention. The chunks of a session that expired go with the partition of its day, when the last session of that day
//! has expired too; until then nothing can read them.

use std::collections::HashSet;

use sqlx::Executor;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::super::{Micros, Retention, StoreError, rows, sql};
use super::{chunks, partitions};

const EXPIRE: &str = "DELETE FROM sessions WHERE ended_at < $1";

const DAYS: &str = "SELECT DISTINCT day FROM sessions";

/// What a partition still holds of sessions that went.
const SWEEP: &str = "DELETE FROM chunks WHERE day = $1
     AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = chunks.session)";

/// A partition that is so many days older than retention asks for is held by a few long sessions, and is swept.
const HELD_DAYS: i64 = 2;

/// Deleting much takes longer than the statements of a call may.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '120s'";

pub(super) async fn apply(pool: &PgPool, retention: &Retention) -> Result<u64, StoreError> {
    let gone = run(pool, EXPIRE, retention.ended_before).await?;
    run(pool, sql::EXPIRE_AUDIT, retention.audit_before).await?;
    let needed: HashSet<i64> = sqlx::query_scalar(DAYS).fetch_all(pool).await?.into_iter().collect();
    for day in partitions::days(pool).await? {
        if !needed.contains(&day) {
            partitions::drop_unused(pool, day).await?;
        } else if day < rows::day(retention.ended_before) - HELD_DAYS {
            run(pool, SWEEP, day).await?;
        }
    }
    shrink(pool, retention.total_bytes).await?;
    Ok(gone)
}

async fn run(pool: &PgPool, statement: &'static str, argument: Micros) -> Result<u64, StoreError> {
    let mut tx = pool.begin().await?;
    tx.execute(STATEMENT_TIMEOUT).await?;
    let done = sqlx::query(statement).bind(argument).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected())
}

async fn shrink(pool: &PgPool, total_bytes: u64) -> Result<(), StoreError> {
    let stored: i64 = sqlx::query_scalar(sql::STORED_BYTES).fetch_one(pool).await?;
    let mut stored = u64::try_from(stored).unwrap_or(0);
    while stored > total_bytes {
        let oldest: Vec<(Uuid, i64)> = sqlx::query_as(sql::OLDEST_JOURNALS).fetch_all(pool).await?;
        if oldest.is_empty() {
            return Ok(());
        }
        for (id, bytes) in oldest {
            if stored <= total_bytes {
                break;
            }
            chunks::clear(pool, id).await?;
            stored = stored.saturating_sub(u64::try_from(bytes).unwrap_or(0));
        }
    }
    Ok(())
}
