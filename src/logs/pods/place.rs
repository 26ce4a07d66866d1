//! Where the pods of an app are, and how many of their containers may be followed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::MAX_CONTAINERS;
use super::events::Names;
use crate::kubernetes::Cluster;
use crate::kubernetes::apps::Home;
use crate::logs::files::notice;
use crate::logs::{Event, Log, LogsError};

/// How long it is waited for more of them before it is said that containers are not followed.
const GATHER: Duration = Duration::from_millis(500);

/// The cluster of the logs of a hub.
pub struct Reach {
    pub(super) cluster: Arc<Cluster>,
    /// One for each container that may be followed.
    pub(super) upstreams: Arc<Semaphore>,
}

impl Reach {
    /// As its settings have it.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>) -> Arc<Self> {
        let upstreams = Arc::new(Semaphore::new(cluster.settings.log_upstreams.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { cluster, upstreams })
    }

    fn limit(&self) -> usize {
        self.cluster.settings.log_upstreams
    }
}

/// A log's part in the cluster.
pub(in crate::logs) struct Place {
    pub(in crate::logs) reach: Arc<Reach>,
    pub(super) home: Home,
    /// The pods that there are, by UID, and what their lines are from.
    pub(super) names: Names,
    /// How many containers wait until they may be followed.
    pub(super) waiting: watch::Sender<usize>,
    /// Whether there are more containers than its log can know.
    pub(super) too_many: AtomicBool,
}

impl Place {
    pub(in crate::logs) fn new(reach: &Arc<Reach>, app: &str) -> Result<Self, LogsError> {
        let home = reach.cluster.home(app).map_err(|error| LogsError::NoHome(error.to_string()))?;
        Ok(Self {
            reach: reach.clone(),
            home,
            names: Names::default(),
            waiting: watch::Sender::new(0),
            too_many: AtomicBool::new(false),
        })
    }

    /// Returns the labels and the namespace of the app's pods, in words.
    pub(in crate::logs) fn where_pods_are(&self) -> String {
        format!("{} in the namespace {}", self.home.selector, self.home.namespace)
    }

    /// Returns the line that a follower has to have before all else.
    pub(in crate::logs) fn shortage(&self) -> Option<String> {
        let beyond = self.too_many.load(Ordering::Relaxed).then(too_many);
        let waiting = self.sentence(*self.waiting.borrow());
        let all: Vec<_> = beyond.into_iter().chain(waiting).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn sentence(&self, waiting: usize) -> Option<String> {
        let (limit, are) = (self.reach.limit(), if waiting == 1 { "container is" } else { "containers are" });
        let message = format!(
            "{waiting} {are} not followed: this hub follows at most {limit} at once (kubernetes.log_upstreams); \
             the next takes the place of one that ends"
        );
        (waiting > 0).then_some(message)
    }
}

pub(super) fn too_many() -> String {
    format!("the app has more than {MAX_CONTAINERS} containers; those beyond are not followed")
}

/// Says when containers are not followed because too many are.
pub(in crate::logs) async fn tell_shortage(log: Arc<Log>, place: Arc<Place>) {
    let mut waiting = place.waiting.subscribe();
    let mut told = 0;
    loop {
        let _ = waiting.wait_for(|waiting| *waiting != told).await;
        tokio::time::sleep(GATHER).await;
        let now = *waiting.borrow_and_update();
        if now > told
            && let Some(message) = place.sentence(now)
        {
            log.publish([Event::Line(notice("log".into(), message))]);
        }
        told = now;
    }
}
