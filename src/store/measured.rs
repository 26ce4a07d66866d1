//! A store that is measured: each call's time and outcome are counted, and it is a span of the trace that it is in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Alone, AuditFilter, AuditRow, Chunk, Clock, Created, Extent, Listed, Micros, Retention, SessionFilter, SessionRow,
    SharedStore, Store, StoreError, TicketRow,
};
use crate::metrics::Metrics;
use crate::record::Exit;

/// See the module's documentation.
pub struct Measured {
    store: SharedStore,
    /// When there was no room for what was written last.
    full: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

impl Measured {
    /// Measures a store.
    #[must_use]
    pub fn new(store: SharedStore, metrics: Arc<Metrics>) -> Self {
        Self { store, full: Mutex::default(), metrics }
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let since = Instant::now();
        let outcome = call.instrument(tracing::info_span!("store", operation)).await;
        let word = outcome.as_ref().map_or_else(StoreError::name, |_| "ok");
        self.metrics.store(operation, word, since.elapsed());
        match &outcome {
            Err(StoreError::Full(_)) => *lock(&self.full) = Some(Instant::now()),
            Ok(_) if WRITES.contains(&operation) => *lock(&self.full) = None,
            _ => {}
        }
        outcome
    }
}

/// How long a store counts as full that was not given anything since: a hub that is not ready is sent nothing.
const FULL_KNOWN: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls that need room: one that succeeds shows that there is some.
const WRITES: [&str; 5] = ["create_session", "append", "create_ticket", "add_audit", "set_clock"];

/// The trait's methods, each passed on and measured under its own name.
macro_rules! measured {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Measured {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$answer, StoreError> {
                self.call(stringify!($name), self.store.$name($($argument),*)).await
            })*

            fn is_full(&self) -> bool {
                lock(&self.full).is_some_and(|at| at.elapsed() < FULL_KNOWN)
            }

            async fn close(&self) {
                self.store.close().await;
            }
        }
    };
}

measured! {
    installation() -> Uuid;
    clock() -> Clock;
    set_clock(clock: &Clock) -> ();
    ping() -> ();
    create_session(row: SessionRow) -> Created;
    restore_session(row: SessionRow) -> SessionRow;
    session(id: Uuid) -> Option<SessionRow>;
    session_by_name(name: &str) -> Option<SessionRow>;
    session_by_key(owner: &str, key: &str) -> Option<SessionRow>;
    sessions(filter: &SessionFilter) -> Listed<SessionRow>;
    apps() -> Vec<String>;
    count_live(owner: &str, app: &str) -> (u64, u64);
    set_running(id: Uuid, started_at: Micros) -> ();
    set_place(id: Uuid, place: &serde_json::Value) -> ();
    end_session(id: Uuid, exit: &Exit, ended_at: Micros) -> ();
    delete_session(id: Uuid) -> bool;
    append(session: Uuid, chunks: &[Chunk]) -> ();
    extent(session: Uuid) -> Extent;
    chunks(session: Uuid, offset: u64, max_bytes: u64) -> Vec<Chunk>;
    chunk(session: Uuid, seq: i64) -> Option<Chunk>;
    screen(session: Uuid, offset: u64) -> Option<Chunk>;
    trim(session: Uuid, max_bytes: u64) -> ();
    create_ticket(ticket: &TicketRow) -> ();
    ticket(hash: &str) -> Option<TicketRow>;
    use_ticket(id: Uuid, now: Micros, resume_hash: &str) -> bool;
    revoke_ticket(session: Uuid, id: Uuid, now: Micros) -> bool;
    tickets(session: Uuid) -> Listed<TicketRow>;
    add_audit(row: &AuditRow) -> ();
    audit(filter: &AuditFilter) -> Listed<AuditRow>;
    retain(retention: &Retention) -> u64;
    alone() -> Option<Alone>;
}
