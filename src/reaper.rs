//! The reaper applies retention: it deletes what is older, or more, than is to be kept.

use std::sync::Arc;
use std::time::Duration;

use crate::config::server::Limits;
use crate::registry::Registry;
use crate::session::now;
use crate::store::{Micros, Retention};

/// How often retention is applied.
const EVERY: Duration = Duration::from_secs(10 * 60);

/// How long lines of the audit trail are kept.
const AUDIT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Applies retention now and then, until it is dropped.
pub async fn run(registry: Arc<Registry>, limits: Limits) {
    loop {
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
        tokio::time::sleep(EVERY).await;
    }
}
