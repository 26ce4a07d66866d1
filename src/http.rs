//! The doors: who shares what.
//!
//! | module | doors |
//! | --- | --- |
//! | [`routes`] | the table of all doors and of who may come in; the router |
//! | [`sessions`] | start, list, show, stop, signal, audit |
//! | [`tickets`] | make, list, revoke |
//! | [`attach`] | the websocket that follows a session, over [`websocket`] |
//! | [`output`] | the raw bytes, NDJSON, SSE, asciicast |
//! | [`apps`], [`logs`] | which apps there are, and the log of one |
//! | [`ready`], [`metrics`], [`openapi`] | operation |
//! | [`accept`], [`stream`] | the loop that accepts connections, and who may be connected; a connection |
//! | [`taken`] | a connection whose client has to take what it asked for |
//! | [`head`], [`body`] | what may come with a request |
//! | [`auth`] | who calls, and what they may do |
//! | [`error`] | how errors are told |

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::Cluster;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::{AuditRow, SharedStore};
use crate::tasks::Tasks;

mod accept;
pub mod apps;
pub mod attach;
pub mod auth;
mod body;
pub mod error;
mod format;
mod head;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod output;
pub mod ready;
pub mod routes;
pub mod sessions;
pub mod starts;
pub mod stream;
mod taken;
pub mod tickets;
pub mod websocket;

pub use accept::{Place, serve};
use auth::Tokens;
use auth::review::Reviews;

/// What all doors share.
pub struct Hub {
    /// The sessions.
    pub registry: Arc<Registry>,
    /// The cluster, where the backend is one.
    pub cluster: Option<Arc<Cluster>>,
    /// The apps that the settings name.
    pub apps: Vec<String>,
    /// The logs of apps that are followed.
    pub logs: Arc<Logs>,
    /// The static tokens.
    pub tokens: Tokens,
    /// Who vouches for people that have none.
    pub reviews: Option<Reviews>,
    /// Origins of pages that may call.
    pub origins: Vec<String>,
    /// Who follows sessions now.
    pub tasks: Tasks,
    /// Lines of the audit trail on their way to the store.
    pub trail: mpsc::Sender<AuditRow>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the hub is about to stop: it is not ready any more, and still serves.
    pub closing: CancellationToken,
}

/// How many lines of the audit trail may wait for the store.
pub const TRAIL: usize = 4096;

/// For how long, and how often, a line is brought to a store that does not take it.
const TRAIL_LIMIT: Duration = Duration::from_secs(10 * 60);
const TRAIL_AGAIN: Duration = Duration::from_secs(1);

/// Writes the audit trail to the store until all who could add to it are gone. Nobody waits for it.
pub async fn write_trail(store: SharedStore, mut lines: mpsc::Receiver<AuditRow>, metrics: Arc<Metrics>) {
    while let Some(row) = lines.recv().await {
        let since = Instant::now();
        while let Err(error) = store.add_audit(&row).await {
            // A database that is away comes back; what it never takes is not to keep out all that comes behind it.
            if error.is_of_the_data() || lines.is_closed() || since.elapsed() > TRAIL_LIMIT {
                metrics.audit_unstored.inc();
                tracing::error!(%error, "cannot store a line of the audit trail; the log has it");
                break;
            }
            tokio::time::sleep(TRAIL_AGAIN).await;
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
    pub fn audit(&self, mut row: AuditRow) {
        // No text of PostgreSQL's has it, and what was asked for may.
        for text in [&mut row.actor, &mut row.address, &mut row.detail] {
            text.retain(|letter| letter != '\0');
        }
        tracing::info!(
            target: "audit", actor = row.actor, action = row.action, session = row.session.map(tracing::field::display),
            address = row.address, outcome = row.outcome, detail = row.detail,
        );
        if self.trail.try_send(row).is_err() {
            self.metrics.audit_unstored.inc();
            tracing::error!("a line of the audit trail is in the log alone: too many wait for the store");
        }
    }
}
