//! The reaper: looks for what sessions have left behind, and applies retention. Of all hubs on one store, one does it at
//! a time.
//!
//! Retention goes by the wall clock, which may be wrong by years. The store keeps the latest time that a hub saw. Where a
//! hub finds itself later than that by more than sessions are kept, all of them would go at once: then nothing is removed
//! for its age for [`DOUBT`], so that somebody can set the clock right.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::server::Limits;
use crate::registry::Registry;
use crate::session::now;
use crate::store::{Clock, Micros, Retention, StoreError};

/// How often retention is applied.
const RETAIN: Duration = Duration::from_secs(10 * 60);

/// How long lines of the audit trail are kept.
const AUDIT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long nothing is removed for its age by a clock that is far beyond the one before it.
const DOUBT: Duration = Duration::from_secs(24 * 3600);

/// How long after the first doubt a clock is taken to have gone on, and not to have jumped once more.
const AGREES: Duration = Duration::from_secs(90 * 24 * 3600);

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
    let kept = limits.journal_age.as_micros() as Micros;
    let believed = believe(registry, kept).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot compare the clock with the one before; nothing is removed for its age");
        false
    });
    // What is too much goes whatever the time is.
    let before = |age: Micros| if believed { now() - age } else { Micros::MIN };
    let retention = Retention {
        ended_before: before(kept),
        audit_before: before(AUDIT_AGE.as_micros() as Micros),
        total_bytes: limits.journals_bytes,
    };
    match registry.store().retain(&retention).await {
        Ok(0) => {}
        Ok(gone) => tracing::info!(gone, "removed sessions past retention"),
        Err(error) => tracing::warn!(%error, "cannot apply retention"),
    }
}

/// Compares the clock with the latest time that a hub saw, and notes it. Whether things are removed for their age by it.
async fn believe(registry: &Registry, kept: Micros) -> Result<bool, StoreError> {
    let before = registry.store().clock().await?;
    let (clock, believed) = judge(before, now(), kept);
    if !believed && before.doubted != clock.doubted {
        let last_seen = before.seen.unwrap_or_default() / 1_000_000;
        tracing::warn!(
            last_seen,
            now = now() / 1_000_000,
            "the clock is far later than when a hub ran last: for 24 h nothing is removed for its age; set it if it is wrong"
        );
    }
    if clock != before {
        registry.store().set_clock(&clock).await?;
    }
    Ok(believed)
}

/// Returns what is known of the time from now on, and whether the clock is believed. `kept` is for how long things are kept.
fn judge(before: Clock, now: Micros, kept: Micros) -> (Clock, bool) {
    let doubt = DOUBT.as_micros() as Micros;
    let known = Clock { seen: Some(now), doubted: None };
    let Some(seen) = before.seen else { return (known, true) };
    if now.saturating_sub(seen) <= kept {
        // One that went back by more was wrong before.
        let latest = if seen.saturating_sub(now) <= kept { seen.max(now) } else { now };
        return (Clock { seen: Some(latest), doubted: None }, true);
    }
    // A hub of one's own may be used once in a while only.
    let agrees = kept.max(AGREES.as_micros() as Micros).saturating_add(doubt);
    match before.doubted.map(|since| now.saturating_sub(since)) {
        Some(passed) if (0..doubt).contains(&passed) => (before, false),
        Some(passed) if (doubt..=agrees).contains(&passed) => (known, true),
        _ => (Clock { doubted: Some(now), ..before }, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Micros = 3600 * 1_000_000;
    const DAY: Micros = 24 * HOUR;
    const KEPT: Micros = 7 * DAY;
    const YEAR: Micros = 365 * DAY;

    /// A clock's way through several looks: the time, and whether it is believed then.
    fn goes(looks: &[(Micros, bool)]) -> Clock {
        looks.iter().fold(Clock::default(), |clock, (now, expected)| {
            let (next, believed) = judge(clock, *now, KEPT);
            assert_eq!(believed, *expected, "at {now}: {clock:?}");
            next
        })
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        let clock = goes(&[(YEAR, true), (YEAR + HOUR, true), (YEAR + 5 * DAY, true), (YEAR + 4 * DAY, true)]);
        assert_eq!(clock, Clock { seen: Some(YEAR + 5 * DAY), doubted: None });
    }

    #[test]
    fn a_clock_that_is_years_ahead_is_doubted_for_a_day() {
        let jump = 3 * YEAR;
        goes(&[
            (YEAR, true),
            (jump, false),
            (jump + HOUR, false),
            (jump + DAY - 1, false),
            (jump + DAY, true),
            (jump + 2 * DAY, true),
        ]);
        let back = goes(&[(YEAR, true), (jump, false), (YEAR + HOUR, true)]);
        assert_eq!(back, Clock { seen: Some(YEAR + HOUR), doubted: None }, "as if nothing had been");
        goes(&[(YEAR, true), (jump, false), (jump + 2 * YEAR, false), (jump + 2 * YEAR + DAY, true)]);
    }

    #[test]
    fn a_hub_that_runs_once_a_month_removes_something_at_last() {
        goes(&[(YEAR, true), (YEAR + 30 * DAY, false), (YEAR + 60 * DAY, true), (YEAR + 90 * DAY, false)]);
        goes(&[(Micros::MIN, true), (YEAR, false), (Micros::MAX, false)]);
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed_and_doubted_when_it_is_right_again() {
        let clock = goes(&[(3 * YEAR, true), (YEAR, true), (3 * YEAR, false), (3 * YEAR + DAY, true)]);
        assert_eq!(clock.doubted, None);
    }
}
