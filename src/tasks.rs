//! The one place that starts tasks. Every task has a name, a span, an end that it is told of, and is waited for.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Starts tasks and ends them. Clones share all.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// The same as the token says, for those who ask often: the token takes a lock.
    stopped: Arc<AtomicBool>,
}

impl Tasks {
    /// Starts a task that ends by itself, or is dropped at its next wait when [`Tasks::stop`] is called.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn_to_end(name, async move { stop.run_until_cancelled_owned(future).await.unwrap_or_default() });
    }

    /// [`Tasks::spawn`] for a task of one session, which all that the task logs names.
    pub fn spawn_for(
        &self,
        session: &impl Display,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        // Of the highest level, so that it is there whatever the log leaves out; and no part of the request that
        // started the session, which it outlives.
        let span = tracing::error_span!(parent: None, "session", %session, task = name);
        self.spawn(name, future.instrument(span));
    }

    /// Starts a task that sees to its end itself; it may ask [`Tasks::stopping`].
    pub fn spawn_to_end(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let span = tracing::debug_span!(parent: None, "task", task = name);
        #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        self.tracker.spawn(future.instrument(span));
    }

    /// A token that is cancelled when the tasks are to stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Whether the tasks are to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Tells all tasks to stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Waits until all tasks have ended, at most `limit`. Whether they have.
    pub async fn ended(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
