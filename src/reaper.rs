//! The reaper: looks for what sessions have left behind, and applies retention. Of all hubs on one store, one does it at
//! a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::server::Limits;
use crate::registry::Registry;
use crate::session::now;
use crate::store::{Micros, Retention};

/// How often retention is applied.
const RETAIN: Duration = Duration::from_secs(10 * 60);

/// How long lines of the audit trail are kept.
const AUDIT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Reaps now and then, until it is dropped.
pub async fn run(registry: Arc<Registry>, limits: Limits) {
    let mut retained: Option<Instant> = None;
    loop {
        match registry.store().alone().await {
            Ok(Some(_alone)) => {
                if retained.is_none_or(|at| at.elapsed() >= RETAIN) {
                    retain(&registry, &limits).await;
                    retained = Some(Instant::now());
                }
                // What is there at the start was looked at by then.
                tokio::time::sleep(limits.reap).await;
                if let Err(error) = registry.adopt_leftovers().await {
                    tracing::warn!(%error, "cannot look for what sessions have left");
                }
            }
            Ok(None) => tokio::time::sleep(limits.reap).await,
            Err(error) => {
                tracing::warn!(%error, "cannot reap");
                tokio::time::sleep(limits.reap).await;
            }
        }
    }
}

async fn retain(registry: &Registry, limits: &Limits) {
    let before = |age: Duration| now() - age.as_micros() as Micros;
    let retention = Retention {
        ended_before: before(limits.journal_age),
        audit_before: before(AUDIT_AGE),
        total_bytes: limits.journals_bytes,
    };
    match registry.store().retain(&retention).await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, "removed sessions past retention"),
        Err(error) => tracing::warn!(%error, "cannot apply retention"),
    }
}
