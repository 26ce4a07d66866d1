//! Which pods are deleted, and deleting them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Place, Way, choose};
use crate::kubernetes::error::{in_time, is_not_found, is_refusal, sentence};
use crate::kubernetes::{Cluster, INSTALLATION, SESSION};

/// How long a pod waits that the API server did not delete: at first, at most, and in all. What is left by then is the
/// reaper's, where it is of this installation's making.
const AGAIN: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(30));
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Whether a pod was made by this installation for this session.
pub(super) fn owns(pod: &Pod, installation: Uuid, session: Uuid) -> bool {
    let is = |label, id: Uuid| pod.labels().get(label).is_some_and(|value| *value == id.to_string());
    is(INSTALLATION, installation) && is(SESSION, session)
}

/// Deletes a session's pod.
#[derive(Clone)]
pub(super) struct Remover {
    pub(super) cluster: Arc<Cluster>,
    pub(super) installation: Uuid,
    pub(super) session: Uuid,
    pub(super) place: Place,
    /// Which pod it has to be, where it is known.
    pub(super) uid: Option<String>,
}

impl Remover {
    /// Deletes it if it may be. Waits until the API server has taken it, also one that is away for a while.
    pub(super) async fn delete(&self, grace: Option<u32>) {
        let (session, name) = (self.session, &self.place.pod);
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), &self.place.namespace);
        let mut params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        let (mut wait, since) = (AGAIN.0, Instant::now());
        while since.elapsed() < LIMIT {
            let error = match in_time(pods.get_opt(name)).await {
                Ok(Some(pod)) if self.may(&pod) => {
                    params.preconditions = Some(kube::api::Preconditions { uid: pod.uid(), resource_version: None });
                    match in_time(pods.delete(name, &params)).await {
                        Ok(_) => return,
                        Err(error) if is_not_found(&error) => return,
                        Err(error) if is_refusal(&error) => {
                            tracing::error!(error = sentence(&error), %session, pod = name, "may not delete a pod");
                            return;
                        }
                        Err(error) => error,
                    }
                }
                Ok(_) => return,
                Err(error) => error,
            };
            tracing::warn!(error = sentence(&error), %session, pod = name, "cannot delete a pod; trying again");
            sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    /// Another's pod is deleted where its hand-over asked for that, and nowhere else.
    fn may(&self, pod: &Pod) -> bool {
        match self.place.way {
            Way::Agent | Way::Attach => owns(pod, self.installation, self.session),
            Way::Exec => false,
            Way::Pod => {
                let app = self.place.app.as_deref();
                let same = self.uid.is_none() || self.uid == pod.uid();
                self.place.delete && same && choose::belongs(&self.cluster, pod, app).is_ok()
            }
        }
    }

    /// The same, with the pod's own grace, each time that it is called.
    pub(super) fn when_asked(self) -> Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync> {
        Arc::new(move || {
            let remover = self.clone();
            Box::pin(async move { remover.delete(None).await })
        })
    }
}
