//! A session's card: who it is, kept by its agent, or with its pod, for a hub whose database does not know it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::session::RELEASED;
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
    /// Whether its driver left it on purpose, where the card was kept up to date.
    #[serde(default, skip_serializing)]
    released: Option<bool>,
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
            released: None,
        }
    }

    /// The session's row, as far as its card tells it.
    pub(super) fn row(self, id: Uuid, backend: &str, mut place: serde_json::Value) -> SessionRow {
        // Who may have been left on purpose is not ended because nobody comes back.
        place[RELEASED] = self.released.unwrap_or(true).into();
        SessionRow {
            id,
            name: self.name,
            kind: self.kind,
            state: State::Running,
            app: self.app,
            owner: self.owner,
            command: self.command,
            command_cut: false,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_gives_the_row_back() {
        let card = json!({
            "installation": Uuid::nil(), "name": "run.1", "kind": "run", "app": "blog", "owner": "ann",
            "command": ["sh"], "tty": true, "record": true, "detached": false, "created_at": 7,
            "idempotency_key": "k", "request_hash": "h",
        });
        let row = |card: &serde_json::Value| {
            let card: Card = serde_json::from_value(card.clone()).expect("a card");
            card.row(Uuid::max(), "kubernetes", json!({ "pod": "p" }))
        };
        let there = row(&card);
        assert_eq!(serde_json::to_value(Card::of(&there, Uuid::nil())).expect("JSON"), card);
        assert_eq!(there.place, json!({ "pod": "p", "released": true }), "nobody knows who has to hold it");
        let mut of_agent = card;
        of_agent["released"] = false.into();
        assert_eq!(row(&of_agent).place["released"], false);
    }
}
