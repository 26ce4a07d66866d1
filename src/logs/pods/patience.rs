//! How long nodes are waited for that do not answer: one that hangs holds up nobody, and costs no other node's lines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::request::Failure;
use crate::session::lock;

/// How long a node is waited for that was given up, where another of its containers is asked.
const SHORT: Duration = Duration::from_millis(100);

/// Where so many nodes were given up, it may be all of them, and each next one has so long.
const MANY: (usize, Duration) = (2, Duration::from_secs(1));

/// See the module's documentation.
#[derive(Debug)]
pub struct Patience {
    /// How long one answer may keep silent.
    each: Duration,
    /// How long a node may.
    node: Duration,
    /// Since when a node has not answered, although it was asked.
    silent: Mutex<HashMap<Arc<str>, Instant>>,
}

impl Patience {
    /// No node was silent yet.
    #[must_use]
    pub fn new(each: Duration, node: Duration) -> Self {
        Self { each, node, silent: Mutex::default() }
    }

    /// What comes of an answer of a node in time.
    ///
    /// # Errors
    /// [`Failure::Busy`] where nothing comes in time, besides what comes.
    pub async fn wait<T>(&self, node: &Arc<str>, next: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let since = Instant::now();
        let came = timeout(self.left(node), next).await;
        let mut silent = lock(&self.silent);
        let Ok(came) = came else {
            silent.entry(node.clone()).or_insert(since);
            return Err(Failure::Busy("it does not answer".into(), None));
        };
        silent.remove(node);
        came
    }

    /// Whether a node has been silent for so long that it is not asked again and again.
    #[must_use]
    pub fn has_given_up(&self, node: &str) -> bool {
        let silent = lock(&self.silent);
        silent.get(node).is_some_and(|since| since.elapsed() >= self.limit(&silent))
    }

    fn left(&self, node: &str) -> Duration {
        let silent = lock(&self.silent);
        let so_far = silent.get(node).map_or(Duration::ZERO, Instant::elapsed);
        let limit = self.limit(&silent);
        limit.saturating_sub(so_far).min(self.each).max(SHORT)
    }

    fn limit(&self, silent: &HashMap<Arc<str>, Instant>) -> Duration {
        let given_up = silent.values().filter(|since| since.elapsed() >= self.node).count();
        if given_up >= MANY.0 { MANY.1.min(self.node) } else { self.node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_is_given_up_and_others_are_not() {
        let patience = Patience::new(Duration::from_secs(5), Duration::from_secs(8));
        let [hangs, well, third, fourth] = ["a", "b", "c", "d"].map(Arc::<str>::from);
        let takes = async |node, seconds: u64| {
            let since = Instant::now();
            let answer = async {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(())
            };
            let came = patience.wait(node, answer).await;
            (came.is_ok(), since.elapsed().as_millis())
        };
        assert_eq!(takes(&hangs, 60).await, (false, 5000));
        assert!(!patience.has_given_up("a"));
        assert_eq!(takes(&hangs, 60).await, (false, 3000));
        assert!(patience.has_given_up("a") && !patience.has_given_up("b"));
        assert_eq!(takes(&hangs, 60).await, (false, 100));
        assert_eq!(takes(&well, 4).await, (true, 4000));
        // Long after, too; and one that answers is waited for again.
        assert_eq!(takes(&well, 4).await, (true, 4000));
        assert_eq!(takes(&hangs, 0).await, (true, 0));
        assert_eq!(takes(&hangs, 4).await, (true, 4000));
        for node in [&third, &fourth] {
            assert_eq!(takes(node, 60).await, (false, 5000));
            assert_eq!(takes(node, 60).await, (false, 3000));
        }
        assert_eq!(takes(&well, 60).await, (false, 1000));
        assert!(patience.has_given_up("b"));
    }
}
