//! A session's card: who it is, kept by its agent for a hub whose database does not know it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{Kind, Micros, SessionRow, State};

/// See the module's documentation. Nothing of the command's environment is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    /// Of the database that the session was made in: another one must not take it in.
    pub(super) installation: Uuid,
    pub(super) name: String,
    kind: Kind,
    app: String,
    owner: String,
    command: Vec<String>,
    tty: bool,
    record: bool,
    detached: bool,
    created_at: Micros,
    idempotency_key: Option<String>,
    request_hash: Option<String>,
}

impl Card {
    /// The card of a session in a database.
    pub(super) fn of(row: &SessionRow, installation: Uuid) -> Self {
        let row = row.clone();
        Self {
            installation,
            name: row.name,
            kind: row.kind,
            app: row.app,
            owner: row.owner,
            command: row.command,
            tty: row.tty,
            record: row.record,
            detached: row.detached,
            created_at: row.created_at,
            idempotency_key: row.idempotency_key,
            request_hash: row.request_hash,
        }
    }

    /// The session's row, as far as its card tells it.
    pub(super) fn row(self, id: Uuid, backend: &str, place: serde_json::Value) -> SessionRow {
        SessionRow {
            id,
            name: self.name,
            kind: self.kind,
            state: State::Running,
            app: self.app,
            owner: self.owner,
            command: self.command,
            tty: self.tty,
            record: self.record,
            detached: self.detached,
            backend: backend.into(),
            place,
            idempotency_key: self.idempotency_key,
            request_hash: self.request_hash,
            created_at: self.created_at,
            started_at: Some(self.created_at),
            ended_at: None,
            exit: None,
        }
    }
}
