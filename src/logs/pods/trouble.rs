//! Why a log cannot be read, and when that is said.

use std::time::Duration;

use tokio::time::Instant;

use super::request::Failure;

/// The time for which another try may help before it is said that a log cannot be read.
pub(super) const TROUBLE: Duration = Duration::from_secs(10);

/// The trouble with one log.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    is_said: bool,
}

impl Trouble {
    /// Takes a failure; returns what is to be said of it: a right that is missing at once, all else after a while.
    pub(super) fn fail(&mut self, failure: &Failure) -> Option<String> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_due = matches!(failure, Failure::Refused(_)) || since.elapsed() >= TROUBLE;
        (is_due && !std::mem::replace(&mut self.is_said, true))
            .then(|| format!("its log cannot be read: {}; trying again", failure.reason()))
    }

    /// Notes that the log can be read; returns whether it was said that it cannot.
    pub(super) fn end(&mut self) -> bool {
        std::mem::take(self).is_said
    }
}
