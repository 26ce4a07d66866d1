//! How long to wait between two tries.

use std::time::Duration;

/// The first wait, at most.
const FIRST: Duration = Duration::from_millis(50);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double, each shortened by chance so that many clients do not come back at once.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let mut byte = [0];
        // Without chance all wait the longest, which is still right.
        let chance = if getrandom::fill(&mut byte).is_ok() { f64::from(byte[0]) / 255.0 } else { 1.0 };
        self.wait_by(chance)
    }

    fn wait_by(&mut self, chance: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.0.min(16)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        full.mul_f64(0.5 + chance / 2.0)
    }

    /// Starts again with the first wait.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.wait_by(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.wait_by(0.0), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.wait_by(0.0), FIRST / 2);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff(u32::MAX);
        assert!(backoff.wait() <= LONGEST);
    }
}
