//! Why a store could not do what it was asked.

use sqlx::error::DatabaseError;
use uuid::Uuid;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address of the database could not be understood.
    #[error("the database's URL is not usable: {0}")]
    Url(String),
    /// The database cannot be reached, or failed.
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("the database's tables could not be brought up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The tables are from a later version of Foghorn.
    #[error(
        "the database was made by a later version of Foghorn (its migration {0} is not known here); use that version"
    )]
    Newer(i64),
    /// The disk or the database's quota is full.
    #[error("there is no space left for the database: {0}")]
    Full(#[source] sqlx::Error),
    /// A row holds what this version cannot read.
    #[error("{row} of the table {table} cannot be read: {reason}")]
    Row {
        /// Which table.
        table: &'static str,
        /// Which row, in words: `the row` and its id, where that can be read.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A chunk did not continue the journal where it ends: another hub wrote it, or it was written before.
    #[error("the chunk at {from} does not continue the journal, which ends at {end}")]
    NotContiguous {
        /// Where the chunk starts.
        from: u64,
        /// Where the journal ends.
        end: u64,
    },
    /// What was to be kept belongs to a session that is not, or no longer, in the store.
    #[error("the session {0} is not in the store")]
    NoSession(Uuid),
}

impl StoreError {
    /// That a row holds, or would hold, what cannot be; which one is not known here.
    #[must_use]
    pub fn of_row(table: &'static str, reason: impl ToString) -> Self {
        Self::Row { table, row: "a row".into(), reason: reason.to_string() }
    }

    /// A stable code, for a hub that cannot start.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Newer(_) => "database_newer",
            Self::Full(_) => "database_full",
            Self::Url(_) => "database_url_invalid",
            _ => "database_unusable",
        }
    }

    /// Whether the database does not take what it was given, and never will: SQLSTATE's classes 22 and 23, wrong data and
    /// broken constraints.
    #[must_use]
    pub fn is_of_the_data(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| code.len() == 5 && (code.starts_with("22") || code.starts_with("23")))
    }

    /// A word for its kind, without anything of the request or the database.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Database(_) => "database",
            Self::Migrate(_) => "migrate",
            Self::Newer(_) => "newer",
            Self::Full(_) => "full",
            Self::Row { .. } => "row",
            Self::NotContiguous { .. } => "not_contiguous",
            Self::NoSession(_) => "no_session",
        }
    }
}

/// PostgreSQL's `disk_full`.
const POSTGRES_FULL: &str = "53100";

/// SQLite's `SQLITE_FULL`.
const SQLITE_FULL: &str = "13";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(DatabaseError::code);
        match code.as_deref() {
            Some(POSTGRES_FULL | SQLITE_FULL) => Self::Full(error),
            _ => Self::Database(error),
        }
    }
}
