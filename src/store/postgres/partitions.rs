//! The partitions of `chunks`, one for each day on which sessions were made.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Executor};

use super::super::StoreError;

const PREFIX: &str = "chunks_d";

const EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";
const ALL: &str = "SELECT child.relname::TEXT FROM pg_inherits
     JOIN pg_class AS child ON child.oid = inhrelid WHERE inhparent = 'chunks'::regclass";
const LOCK: &str = "SELECT 1 FROM installation FOR UPDATE";
const IN_USE: &str = "SELECT EXISTS (SELECT 1 FROM sessions WHERE day = $1)";

/// Dropping waits so long for readers, and they for it; then it is left for the next time.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";
const LOCK_NOT_AVAILABLE: &str = "55P03";

fn name(day: i64) -> String {
    format!("{PREFIX}{day}")
}

/// Takes the row of `installation`, until the transaction ends.
pub(super) async fn lock(connection: &mut PgConnection) -> Result<(), StoreError> {
    Ok(connection.execute(LOCK).await.map(drop)?)
}

/// Makes the partition of a day where it is not there. The caller holds the row of `installation`.
///
/// The table is made apart and then attached, which does not lock out those who read and append, as `CREATE TABLE …
/// PARTITION OF` would.
pub(super) async fn ensure(connection: &mut PgConnection, day: i64) -> Result<(), StoreError> {
    let table = format!("\"{}\"", name(day));
    let there: bool = sqlx::query_scalar(EXISTS).bind(&table).fetch_one(&mut *connection).await?;
    if there {
        return Ok(());
    }
    let make = format!(
        "CREATE TABLE {table} (LIKE chunks INCLUDING ALL);
         ALTER TABLE chunks ATTACH PARTITION {table} FOR VALUES FROM ({day}) TO ({})",
        day + 1
    );
    connection.execute(AssertSqlSafe(make)).await?;
    Ok(())
}

/// The days that have a partition.
pub(super) async fn days(pool: &PgPool) -> Result<Vec<i64>, StoreError> {
    let names: Vec<String> = sqlx::query_scalar(ALL).fetch_all(pool).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok()).collect())
}

/// Drops a day's partition, unless a session was made on that day after all.
pub(super) async fn drop_unused(pool: &PgPool, day: i64) -> Result<(), StoreError> {
    let mut tx = pool.begin().await?;
    tx.execute(LOCK_TIMEOUT).await?;
    lock(&mut tx).await?;
    if sqlx::query_scalar(IN_USE).bind(day).fetch_one(&mut *tx).await? {
        return Ok(());
    }
    let dropped = tx.execute(AssertSqlSafe(format!("DROP TABLE IF EXISTS \"{}\"", name(day)))).await;
    match dropped {
        Ok(_) => Ok(tx.commit().await?),
        Err(error) if lock_not_available(&error) => Ok(tx.rollback().await?),
        Err(error) => Err(error.into()),
    }
}

fn lock_not_available(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some(LOCK_NOT_AVAILABLE)
}
