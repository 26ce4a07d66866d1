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
//! | `trail` | the audit trail |

use std::sync::Arc;

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
mod trail;
pub mod websocket;

pub use accept::{Place, serve};
use auth::Tokens;
use auth::review::Reviews;
pub use trail::{Trail, write_trail};

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
    /// The audit trail.
    pub trail: Trail,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the hub is about to stop: it is not ready any more, and still serves.
    pub closing: CancellationToken,
}

impl Hub {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        self.registry.store()
    }

    /// Writes a line of the audit trail.
    pub fn audit(&self, row: AuditRow) {
        self.trail.add(row);
    }
}
