//! From a session's place to its source: by the agent, or by the container's own streams.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::core::Request;
use kube::{Resource, ResourceExt};
use serde_json::Value;
use uuid::Uuid;

use super::remove::owns;
use super::stream::join::Container;
use super::stream::{self, AtEnd, Parts};
use super::{Kubernetes, Place, Way, choose, lock, spec, start};
use crate::agent::protocol::{HubHello, MAX_VERSION, MIN_VERSION};
use crate::backend::{BackendError, Tell, link};
use crate::kubernetes::error::{LIMIT, sentence};
use crate::kubernetes::{CARD, channel};
use crate::record::Cause;
use crate::source::Source;

/// The grace of a pod that says nothing of it.
const GRACE: i64 = 30;

/// How long a pod's containers have to end once it was deleted.
fn grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE);
    Duration::from_secs(seconds.try_into().unwrap_or(0))
}

impl Kubernetes {
    /// The agent of a run, by the bridge in its container.
    pub(super) async fn agent(
        &self,
        session: Uuid,
        place: &Place,
        from: u64,
        tell: &Tell<'_>,
    ) -> Result<Source, BackendError> {
        let pod = start::running(&self.cluster.client, place, tell).await?;
        if !owns(&pod, self.hub.installation, session) {
            return Err(BackendError::Ended(Cause::Lost { reason: "its pod is another session's".into() }));
        }
        let params = AttachParams::default().container(start::container(&pod)).stdin(true).stdout(true).stderr(true);
        let request = Request::new(Pod::url_path(&(), Some(&place.namespace)));
        let request = request.exec(&place.pod, spec::BRIDGE, &params);
        let request = request.map_err(|error| BackendError::Unreachable(error.to_string()))?;
        let opened = tokio::time::timeout(LIMIT, channel::open(&self.cluster.client, request)).await;
        let opened = opened.map_err(|_| BackendError::Unreachable("the API server does not answer".into()))?;
        let (output, input) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // What a container that has just ended answers is not told from what a busy kubelet does.
                start::running(&self.cluster.client, place, &|_| {}).await?;
                return Err(BackendError::Unreachable(sentence(&error)));
            }
        };
        let hello = HubHello { min: MIN_VERSION, max: MAX_VERSION, epoch: self.hub.epoch, from };
        link::open(output, input, &hello, &session.to_string(), (&self.tasks, self.metrics.clone())).await
    }

    /// A command that is started in a container, once.
    pub(super) fn exec(&self, place: Place, from: u64, fresh: bool) -> Result<Source, BackendError> {
        if !fresh {
            let reason = "the hub that held its connection is gone, and what it ran cannot be had again; it may go on \
                          in its container";
            return Err(BackendError::Ended(Cause::Lost { reason: reason.into() }));
        }
        let container = Container {
            client: self.cluster.client.clone(),
            name: place.container.clone().unwrap_or_default(),
            place,
            tty: false,
            stdin: false,
            uid: None,
            restarts: 0,
        };
        Ok(self.source(container, (stream::Way::Exec, AtEnd::Leave), from, false, None))
    }

    /// A container whose first process is the command.
    pub(super) async fn attach(
        &self,
        session: Uuid,
        place: Place,
        from: u64,
        fresh: bool,
        tell: &Tell<'_>,
    ) -> Result<Source, BackendError> {
        let missing = if place.way == Way::Pod { self.cluster.settings.pod_wait } else { Duration::ZERO };
        let pod = match start::begun(&self.cluster.client, &place, missing, tell).await? {
            start::Begun::Running(pod) => *pod,
            start::Begun::Ended(pod, cause) => {
                let name = start::of_place(&place, &pod);
                if !start::has_run(&pod, &name) {
                    let restarts = start::restarts(&pod, &name);
                    let cause = start::end_of_command(&pod, &name, restarts).unwrap_or(cause);
                    return Err(BackendError::Ended(cause));
                }
                *pod
            }
        };
        let own = place.way == Way::Attach && owns(&pod, self.hub.installation, session);
        let handed = place.way == Way::Pod;
        if !own && !handed {
            return Err(BackendError::Ended(Cause::Lost { reason: "its pod is another session's".into() }));
        }
        if handed {
            let of_app = choose::belongs(&self.cluster, &pod, place.app.as_deref());
            of_app.map_err(|reason| BackendError::Ended(Cause::StartFailed { status: 125, reason }))?;
            let uid = pod.uid().unwrap_or_default();
            if *lock(&self.handed).entry(session).or_insert_with(|| uid.clone()) != uid {
                return Err(BackendError::Ended(Cause::Lost {
                    reason: "its pod is another one of the same name".into(),
                }));
            }
        }
        let card = if own { self.card(&place, &pod) } else { None };
        let name = start::of_place(&place, &pod);
        let (stdin, tty, stdin_once) = choose::streams(&pod, &name);
        let at_end = match own || place.delete {
            true => AtEnd::Delete(self.remover(session, &place).when_asked(), grace(&pod)),
            false => AtEnd::Leave,
        };
        let container = Container {
            client: self.cluster.client.clone(),
            restarts: start::restarts(&pod, &name),
            uid: pod.uid(),
            name,
            place,
            tty,
            stdin,
        };
        Ok(self.source(container, (stream::Way::Attach { stdin_once }, at_end), from, !fresh, card))
    }

    /// Who the session of a run's pod is, as the hub that made it has noted there. What is in the namespace of one app
    /// speaks for no other.
    fn card(&self, place: &Place, pod: &Pod) -> Option<Value> {
        let card: Value = serde_json::from_str(pod.annotations().get(CARD)?).ok()?;
        let home = self.cluster.home(card["app"].as_str()?).ok()?;
        (home.namespace == place.namespace).then_some(card)
    }

    fn source(
        &self,
        container: Container,
        (way, at_end): (stream::Way, AtEnd),
        from: u64,
        started: bool,
        card: Option<Value>,
    ) -> Source {
        let takers = container.place.takers;
        stream::source(Parts {
            container,
            way,
            at_end,
            from,
            started,
            takers,
            card,
            dir: &self.hub.dir,
            spool_bytes: self.hub.spool_bytes,
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
        })
    }
}
