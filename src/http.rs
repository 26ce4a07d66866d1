//! The doors: routes and limits.
//!
//! | module | doors |
//! | --- | --- |
//! | [`sessions`] | start, list, show, stop, signal, tickets, audit |
//! | [`attach`] | the websocket that follows a session, over [`websocket`] |
//! | [`output`] | the raw bytes, NDJSON, SSE, asciicast |
//! | [`logs`] | the log of an app |
//! | [`accept`] | the loop that accepts connections, and who may be connected |
//! | [`body`] | what may come with a request |
//! | [`auth`] | who calls, and what they may do |
//! | [`error`] | how errors are told |

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, map_response};
use axum::routing::{delete, get, post};
use tokio::sync::mpsc;
use tower_http::catch_panic::CatchPanicLayer;

use crate::logs::Logs;
use crate::registry::Registry;
use crate::store::{AuditRow, SharedStore};
use crate::tasks::Tasks;

mod accept;
pub mod attach;
pub mod auth;
mod body;
pub mod error;
mod format;
pub mod logs;
pub mod output;
pub mod sessions;
pub mod websocket;

pub use accept::{Place, serve};
use auth::Tokens;
use error::ApiError;

/// What all doors share.
pub struct Hub {
    /// The sessions.
    pub registry: Arc<Registry>,
    /// The logs of apps that are followed.
    pub logs: Arc<Logs>,
    /// The static tokens.
    pub tokens: Tokens,
    /// Origins of pages that may call.
    pub origins: Vec<String>,
    /// Who follows sessions now.
    pub tasks: Tasks,
    /// Lines of the audit trail on their way to the store.
    pub trail: mpsc::Sender<AuditRow>,
}

/// How many lines of the audit trail may wait for the store.
pub const TRAIL: usize = 4096;

/// Writes the audit trail to the store until all who could add to it are gone. Nobody waits for it.
pub async fn write_trail(store: SharedStore, mut lines: mpsc::Receiver<AuditRow>) {
    while let Some(row) = lines.recv().await {
        if let Err(error) = store.add_audit(&row).await {
            tracing::error!(%error, "cannot store a line of the audit trail; the log has it");
        }
    }
}

impl Hub {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        self.registry.store()
    }

    /// Writes a line of the audit trail, to the log at once and to the store in its turn. A store that is slow or away
    /// does not stop what is audited: the log has it.
    pub fn audit(&self, row: AuditRow) {
        tracing::info!(
            target: "audit", actor = row.actor, action = row.action, session = ?row.session, address = row.address,
            outcome = row.outcome, detail = row.detail,
        );
        if self.trail.try_send(row).is_err() {
            tracing::error!("a line of the audit trail is in the log alone: too many wait for the store");
        }
    }
}

/// All routes.
pub fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(sessions::ready))
        .route("/v1/sessions", post(sessions::start).get(sessions::list))
        .route("/v1/sessions/{id}", get(sessions::show).delete(sessions::stop))
        .route("/v1/sessions/{id}/signal", post(sessions::signal))
        .route("/v1/sessions/{id}/tickets", post(sessions::make_ticket).get(sessions::tickets))
        .route("/v1/sessions/{id}/tickets/{ticket}", delete(sessions::revoke_ticket))
        .route("/v1/sessions/{id}/attach", get(attach::attach))
        .route("/v1/sessions/{id}/output", get(output::output))
        .route("/v1/sessions/{id}/recording.cast", get(output::recording))
        .route("/v1/apps/{app}/logs", get(logs::logs))
        .route("/v1/audit", get(sessions::audit))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no_such_door", "there is nothing at this address") })
        .layer(DefaultBodyLimit::max(body::MAX_BODY))
        .layer(from_fn(body::checked))
        .layer(map_response(error::as_problem))
        .layer(CatchPanicLayer::custom(|_| {
            let detail = "the hub failed at this request; its log says more";
            axum::response::IntoResponse::into_response(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                detail,
            ))
        }))
        .with_state(hub)
}
