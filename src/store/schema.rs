//! Brings a database's tables up to date.
//!
//! Migrations are numbered by release: the thousands count the minor releases, from 1 for the first. They only ever
//! add, so a hub works on the tables of the minor release after its own, and an upgrade can be taken back by one.
//! Tables from later than that are refused.

use std::collections::HashMap;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType};

use super::StoreError;

const TABLE: &str = "_sqlx_migrations";
const A_RELEASE: i64 = 1000;

fn migration(version: i64, name: &'static str, sql: &'static str) -> Migration {
    Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
}

/// What SQLite's tables are made of, in order.
pub(super) fn sqlite() -> Vec<Migration> {
    vec![
        migration(1001, "first", include_str!("../../migrations/sqlite/1001_first.sql")),
        migration(1002, "issuers", include_str!("../../migrations/sqlite/1002_issuers.sql")),
        migration(2001, "clock", include_str!("../../migrations/sqlite/2001_clock.sql")),
        migration(2002, "ticket labels", include_str!("../../migrations/sqlite/2002_ticket_labels.sql")),
    ]
}

/// What PostgreSQL's tables are made of, in order.
pub(super) fn postgres() -> Vec<Migration> {
    vec![
        migration(1001, "first", include_str!("../../migrations/postgres/1001_first.sql")),
        migration(1002, "issuers", include_str!("../../migrations/postgres/1002_issuers.sql")),
        migration(2001, "clock", include_str!("../../migrations/postgres/2001_clock.sql")),
        migration(2002, "ticket labels", include_str!("../../migrations/postgres/2002_ticket_labels.sql")),
    ]
}

/// Applies what is missing, one hub at a time. After an error the connection must be closed: it may hold the lock.
pub(super) async fn prepare<C: Migrate>(connection: &mut C, migrations: &[Migration]) -> Result<(), StoreError> {
    connection.lock().await.map_err(failed)?;
    apply(connection, migrations).await?;
    connection.unlock().await.map_err(failed)
}

async fn apply<C: Migrate>(connection: &mut C, migrations: &[Migration]) -> Result<(), StoreError> {
    connection.ensure_migrations_table(TABLE).await.map_err(failed)?;
    if let Some(version) = connection.dirty_version(TABLE).await.map_err(failed)? {
        return Err(StoreError::Migrate(MigrateError::Dirty(version)));
    }
    let applied: HashMap<_, _> = connection
        .list_applied_migrations(TABLE)
        .await
        .map_err(failed)?
        .into_iter()
        .map(|migration| (migration.version, migration.checksum))
        .collect();
    let newest = migrations.iter().map(|migration| migration.version).max().unwrap_or(0);
    let newest_there = applied.keys().copied().max().unwrap_or(0);
    if newest_there / A_RELEASE > newest / A_RELEASE + 1 {
        return Err(StoreError::Newer(newest_there));
    }
    for migration in migrations {
        match applied.get(&migration.version) {
            Some(checksum) if *checksum == migration.checksum => {}
            Some(_) => return Err(StoreError::Migrate(MigrateError::VersionMismatch(migration.version))),
            None => drop(connection.apply(TABLE, migration).await.map_err(failed)?),
        }
    }
    Ok(())
}

fn failed(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => StoreError::Migrate(other),
    }
}
