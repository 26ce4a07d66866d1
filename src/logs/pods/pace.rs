//! How long a container is silent as a rule, and how long it may be before its log is asked anew.

use std::time::Duration;

use tokio::time::Instant;

/// How long a container may be silent before its log is asked anew, at least and at most. It is a multiple of the time
/// that passes between its lines, and doubles while it stays silent: a lively log that was rotated has to be found again
/// before it is rotated once more, and a quiet one costs the API server next to nothing.
const SILENT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(75));

/// The same at least where its pod was told to end: its log goes soon.
pub(super) const LEAVES: Duration = Duration::from_millis(500);

/// How many times the usual gap between lines counts as silence.
const GAPS: u32 = 20;

/// How long a container is silent as a rule, and how long it may be now.
pub(super) struct Pace {
    last: Instant,
    gap: Duration,
    /// How long it may be silent from its last line on.
    pub(super) patience: Duration,
    least: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), gap: SILENT.0, patience: SILENT.0, least: SILENT.0 }
    }

    /// So many lines came.
    pub(super) fn lines(&mut self, count: usize) {
        let gap = self.last.elapsed() / u32::try_from(count).unwrap_or(1).max(1);
        self.gap = (self.gap * 7 + gap) / 8;
        self.last = Instant::now();
        self.patience = (self.gap * GAPS).clamp(self.least, SILENT.1);
    }

    /// It will end soon.
    pub(super) fn hurry(&mut self) {
        (self.least, self.patience) = (LEAVES, LEAVES);
    }

    /// It was silent for as long as it may be.
    pub(super) fn silent(&mut self) {
        self.patience = (self.patience * 2).min(SILENT.1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_speaks_often_is_missed_soon() {
        let mut pace = Pace::new();
        for _ in 0..100 {
            sleep(Duration::from_millis(5)).await;
            pace.lines(1);
        }
        assert_eq!(pace.patience, SILENT.0);
        pace.silent();
        assert_eq!(pace.patience, SILENT.0 * 2);
        for _ in 0..100 {
            sleep(Duration::from_secs(10)).await;
            pace.lines(1);
        }
        assert_eq!(pace.patience, SILENT.1);
    }
}
