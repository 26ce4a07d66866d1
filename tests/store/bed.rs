//! What a behaviour is tried on: a store, and ways to look behind it.

use std::path::PathBuf;

use bytes::Bytes;
use foghorn::store::{
    AuditFilter, AuditRow, Chunk, ChunkKind, Created, Kind, Right, SessionFilter, SessionRow, SharedStore, State,
    StoreError, TicketRow, open,
};
use uuid::Uuid;

use crate::support::postgres::Database;

/// A store of a test's own.
pub(crate) struct Bed {
    pub(crate) store: SharedStore,
    folder: tempfile::TempDir,
    database: Option<Database>,
}

impl Bed {
    pub(crate) async fn sqlite() -> Self {
        Self::on(None).await
    }

    /// `None` where there is no PostgreSQL.
    pub(crate) async fn postgres() -> Option<Self> {
        Some(Self::on(Some(Database::shared().await?)).await)
    }

    async fn on(database: Option<Database>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = database.as_ref().map(Database::url);
        let store = open(url.as_deref(), &folder.path().join("foghorn.db")).await.unwrap();
        Self { store, folder, database }
    }

    /// Opens the same database once more, as a hub that starts does.
    pub(crate) async fn open(&self) -> Result<SharedStore, StoreError> {
        open(self.url().as_deref(), &self.path()).await
    }

    pub(crate) fn url(&self) -> Option<String> {
        self.database.as_ref().map(Database::url)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("foghorn.db")
    }

    /// Runs statements behind the store's back.
    pub(crate) async fn execute(&self, statements: &'static str) {
        use sqlx::{Connection, Executor};
        if let Some(url) = self.url() {
            let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
            connection.execute(statements).await.unwrap();
            connection.close().await.unwrap();
        } else {
            let path = format!("sqlite://{}", self.path().display());
            let mut connection = sqlx::SqliteConnection::connect(&path).await.unwrap();
            connection.execute(statements).await.unwrap();
            connection.close().await.unwrap();
        }
    }

    /// Reads a number behind the store's back.
    pub(crate) async fn number(&self, statement: &'static str) -> i64 {
        use sqlx::Connection;
        if let Some(url) = self.url() {
            let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
            sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap()
        } else {
            let path = format!("sqlite://{}", self.path().display());
            let mut connection = sqlx::SqliteConnection::connect(&path).await.unwrap();
            sqlx::query_scalar(statement).fetch_one(&mut connection).await.unwrap()
        }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.database.is_some()
    }

    pub(crate) async fn finish(self) {
        self.store.close().await;
    }

    /// Makes a session.
    pub(crate) async fn make(&self, row: SessionRow) -> SessionRow {
        match self.store.create_session(row).await.unwrap() {
            Created::New(row) => *row,
            Created::Existing(row) => panic!("was there: {row:?}"),
        }
    }

    /// Makes a session like any other.
    pub(crate) async fn any(&self) -> Uuid {
        self.make(session()).await.id
    }
}

/// A session like any other. Each is made a second after the one before it.
pub(crate) fn session() -> SessionRow {
    static CLOCK: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1_790_000_000_000_000);
    SessionRow {
        id: Uuid::now_v7(),
        name: String::new(),
        kind: Kind::Run,
        state: State::Starting,
        app: "blog".into(),
        owner: "ada".into(),
        command: vec!["echo".into(), "ünï \"x\"".into(), String::new()],
        command_cut: false,
        tty: true,
        record: true,
        detached: false,
        backend: "local".into(),
        place: serde_json::json!({"pid": 7, "socket": "/run/x"}),
        idempotency_key: None,
        request_hash: None,
        created_at: CLOCK.fetch_add(1_000_000, std::sync::atomic::Ordering::Relaxed),
        started_at: None,
        ended_at: None,
        exit: None,
    }
}

/// A chunk of records whose data has as many bytes as it covers, or 10 where it covers none.
pub(crate) fn records(seq: i64, from: u64, to: u64) -> Chunk {
    let data = vec![u8::try_from(seq % 251).unwrap(); usize::try_from((to - from).max(10)).unwrap()];
    Chunk { kind: ChunkKind::Records, seq, from, to, first_time: seq * 10, last_time: seq * 10 + 9, data: data.into() }
}

/// A screen of 5 bytes.
pub(crate) fn screen(at: u64) -> Chunk {
    let data = Bytes::from_static(b"draws");
    Chunk { kind: ChunkKind::Screen, seq: 0, from: at, to: at, first_time: 1, last_time: 1, data }
}

/// A ticket for one use.
pub(crate) fn ticket(session: Uuid) -> TicketRow {
    let id = Uuid::now_v7();
    TicketRow {
        id,
        hash: format!("hash of {id}"),
        session,
        right: Right::Write,
        issuer: "ada".into(),
        issuer_identity: Some(serde_json::json!({"user": "ann", "groups": ["dev"]})),
        label: Some("bob".into()),
        one_use: true,
        expires_at: 1_900_000_000_000_000,
        used_at: None,
        revoked_at: None,
        resume_hash: None,
    }
}

/// A line of the audit trail.
pub(crate) fn line(time: i64, actor: &str, session: Option<Uuid>) -> AuditRow {
    AuditRow {
        time,
        actor: actor.into(),
        action: "join".into(),
        session,
        address: "[::1]:5".into(),
        outcome: "ok".into(),
        detail: "as driver".into(),
    }
}

/// All sessions.
pub(crate) fn all() -> SessionFilter {
    SessionFilter { limit: 1000, ..SessionFilter::default() }
}

/// The whole audit trail.
pub(crate) fn whole() -> AuditFilter {
    AuditFilter { limit: 1000, ..AuditFilter::default() }
}
