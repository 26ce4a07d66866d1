//! The doors: who shares what, and the loop that accepts connections.
//!
//! | module | doors |
//! | --- | --- |
//! | [`routes`] | the table of all doors and of who may come in; the router |
//! | [`sessions`] | start, list, show, stop, signal, audit |
//! | [`tickets`] | make, list, revoke |
//! | [`attach`] | the websocket that follows a session |
//! | [`output`] | the raw bytes, NDJSON, SSE, asciicast |
//! | [`logs`] | the log of an app |
//! | [`ready`], [`metrics`], [`openapi`] | operation |
//! | [`auth`] | who calls, and what they may do |
//! | [`error`] | how errors are told |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::protocol::PING;
use crate::registry::Registry;
use crate::store::{AuditRow, SharedStore};
use crate::tasks::Tasks;

pub mod attach;
pub mod auth;
pub mod error;
mod format;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod output;
pub mod ready;
pub mod routes;
pub mod sessions;
pub mod tickets;

use auth::Tokens;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long answers that are under way may take when the hub stops.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

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
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the hub is about to stop: it is not ready any more, and still serves.
    pub closing: CancellationToken,
}

/// How many lines of the audit trail may wait for the store.
pub const TRAIL: usize = 4096;

/// Writes the audit trail to the store until all who could add to it are gone. Nobody waits for it.
pub async fn write_trail(store: SharedStore, mut lines: mpsc::Receiver<AuditRow>, metrics: Arc<Metrics>) {
    while let Some(row) = lines.recv().await {
        if let Err(error) = store.add_audit(&row).await {
            metrics.audit_unstored.inc();
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
            self.metrics.audit_unstored.inc();
            tracing::error!("a line of the audit trail is in the log alone: too many wait for the store");
        }
    }
}

/// A connection's place among those that may be open at once. What goes on after an upgrade keeps it.
#[derive(Clone, Debug)]
pub struct Place(#[expect(dead_code, reason = "held, not read")] Arc<OwnedSemaphorePermit>);

/// Small frames go at once: an echo that waits for an acknowledgement takes 40 ms. And a peer that vanished without a
/// word is noticed, also by doors that only send.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PING * 2)?;
    sockopt::set_tcp_keepintvl(stream, PING / 3)?;
    Ok(sockopt::set_tcp_keepcnt(stream, 3)?)
}

/// Accepts connections until the tasks are told to stop, at most so many at once.
pub async fn serve(listener: TcpListener, router: Router, tasks: Tasks, connections: usize) {
    let room = Arc::new(Semaphore::new(connections));
    let stop = tasks.stopping();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly: some will be free again.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        // A socket that refuses this is served without it.
        let _ = tune(&stream);
        let router = router.clone();
        let place = Place(Arc::new(permit));
        let service = TowerToHyperService::new(router.map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
            request.extensions_mut().insert(place.clone());
            request
        }));
        let stop = stop.clone();
        tasks.spawn_to_end("connection", async move {
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
            let mut serving = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
            let served = tokio::select! {
                served = serving.as_mut() => served,
                () = stop.cancelled() => {
                    // What was asked is answered, and nothing more is taken.
                    serving.as_mut().graceful_shutdown();
                    match tokio::time::timeout(LAST_ANSWERS, serving).await {
                        Ok(served) => served,
                        // A client that does not read what it asked for.
                        Err(_) => Ok(()),
                    }
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, %peer, "a connection failed");
            }
        });
    }
}
