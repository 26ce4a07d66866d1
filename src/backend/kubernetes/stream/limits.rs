//! The limits that a session's start sets, by a clock that nobody sets: as the agent keeps them.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::protocol::Start;
use crate::record::Cause;

/// How long before the idle limit a warning is given, at most; less where the limit is short.
const WARNING: Duration = Duration::from_secs(60);

/// What the clock says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A limit is reached.
    End(Cause),
    /// The idle limit is reached after so long.
    Warn(Duration),
    /// Nothing is, before this.
    Nothing(Instant),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Limits {
    end: Option<Instant>,
    idle: Option<Duration>,
    activity: Instant,
    warned: bool,
}

impl Limits {
    /// No limits, until a start sets them.
    pub(super) fn none() -> Self {
        Self { end: None, idle: None, activity: Instant::now(), warned: false }
    }

    pub(super) fn of(start: &Start) -> Self {
        let now = Instant::now();
        let end = start.time_limit.and_then(|limit| now.checked_add(Duration::from_millis(limit)));
        let idle = start.idle_limit.filter(|_| start.terminal.is_some()).map(Duration::from_millis);
        Self { end, idle, activity: now, warned: false }
    }

    /// Something was typed or printed. Whether a warning is to be taken back.
    pub(super) fn note_activity(&mut self) -> bool {
        self.activity = Instant::now();
        std::mem::take(&mut self.warned)
    }

    /// What is due now; a warning once.
    pub(super) fn due(&mut self) -> Due {
        let now = Instant::now();
        let far = now + Duration::from_secs(u64::from(u32::MAX));
        if self.end.is_some_and(|end| end <= now) {
            return Due::End(Cause::TimeLimit);
        }
        let next = self.end.unwrap_or(far);
        let Some(limit) = self.idle else { return Due::Nothing(next) };
        let idle_at = self.activity.checked_add(limit).unwrap_or(far);
        if idle_at <= now {
            return Due::End(Cause::Idle);
        }
        let warn_at = idle_at.checked_sub(WARNING.min(limit / 2)).unwrap_or(now);
        match (self.warned, warn_at <= now) {
            (false, true) => {
                self.warned = true;
                Due::Warn(idle_at - now)
            }
            (false, false) => Due::Nothing(next.min(warn_at)),
            (true, _) => Due::Nothing(next.min(idle_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_warning_comes_once_before_the_end_and_is_taken_back() {
        let second = Duration::from_secs(1);
        let mut limits = Limits { idle: Some(10 * second), end: Some(Instant::now() + 60 * second), ..Limits::none() };
        assert_eq!(limits.due(), Due::Nothing(Instant::now() + 5 * second));
        tokio::time::advance(6 * second).await;
        assert_eq!(limits.due(), Due::Warn(4 * second));
        assert_eq!(limits.due(), Due::Nothing(Instant::now() + 4 * second));
        assert!(limits.note_activity());
        assert!(!limits.note_activity());
        tokio::time::advance(10 * second).await;
        assert_eq!(limits.due(), Due::End(Cause::Idle));
        limits.note_activity();
        tokio::time::advance(44 * second).await;
        assert_eq!(limits.due(), Due::End(Cause::TimeLimit));
    }
}
