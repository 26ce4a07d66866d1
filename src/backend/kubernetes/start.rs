//! How far a pod has come: followed until its container runs, or it is known why it will not.

use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod, PodStatus};
use kube::api::Api;
use kube::runtime::watcher::{self, watch_object, watcher};
use kube::{Client, ResourceExt};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use super::Place;
use crate::backend::{BackendError, Tell};
use crate::kubernetes::CONTAINER;
use crate::kubernetes::error::sentence;
use crate::record::Cause;

/// How long a pod may be without a node before its start counts as failed: a scheduler that has just seen room says so
/// within a moment.
const SCHEDULE: Duration = Duration::from_secs(5);

/// How long a pod may take to start where nothing says that it will not: pulling a large image is in it.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// How often it is asked again while the API server does not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// What events of a pod are worth telling whoever waits for it.
const TOLD: [&str; 9] = [
    "Scheduled",
    "Pulling",
    "FailedScheduling",
    "Failed",
    "BackOff",
    "FailedMount",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "NotTriggerScaleUp",
];

/// Why a container will not start, by what it waits for.
const HOPELESS: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    /// It is on its way.
    Coming,
    /// No node has room for it now.
    Unschedulable(String),
    /// Its container runs.
    Running,
    /// It will not run any more.
    Ended(Cause),
}

/// The name of the container with the command.
pub fn container(pod: &Pod) -> String {
    let first = || pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|first| first.name.clone());
    pod.annotations().get(CONTAINER).cloned().or_else(first).unwrap_or_default()
}

/// Waits until a pod's container runs.
///
/// # Errors
/// [`BackendError::Ended`] where it will not, and [`BackendError::Unreachable`] where the API server does not answer.
pub async fn running(client: &Client, place: &Place, tell: &Tell<'_>) -> Result<Pod, BackendError> {
    let pods = Api::<Pod>::namespaced(client.clone(), &place.namespace);
    // Most often it is there already.
    let pod = pods.get_opt(&place.pod).await.map_err(|error| BackendError::Unreachable(sentence(&error)))?;
    let Some(pod) = pod else { return Err(BackendError::Ended(gone())) };
    match stand(&pod, &container(&pod)) {
        Stand::Running => return Ok(pod),
        Stand::Ended(cause) => return Err(BackendError::Ended(cause)),
        Stand::Coming | Stand::Unschedulable(_) => {}
    }
    let mut pods = Box::pin(watch_object(pods, &place.pod));
    let of_pod = watcher::Config::default().fields(&format!("involvedObject.name={}", place.pod));
    let mut events = Box::pin(watcher(Api::<Event>::namespaced(client.clone(), &place.namespace), of_pod));
    let mut told = Told::default();
    let mut hopeless = None;
    let limit = Instant::now() + LIMIT;
    loop {
        let deadline = hopeless.as_ref().map_or(limit, |(at, _)| *at);
        select! {
            pod = pods.next() => match pod {
                Some(Ok(Some(pod))) => match stand(&pod, &container(&pod)) {
                    Stand::Running => return Ok(pod),
                    Stand::Ended(cause) => return Err(BackendError::Ended(cause)),
                    Stand::Unschedulable(reason) => hopeless = hopeless.or(Some((Instant::now() + SCHEDULE, reason))),
                    Stand::Coming => hopeless = None,
                },
                Some(Ok(None)) => return Err(BackendError::Ended(gone())),
                Some(Err(error)) => {
                    tracing::debug!(%error, pod = place.pod, "cannot follow a pod; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                None => return Err(BackendError::Unreachable("the pod is not followed any more".into())),
            },
            event = events.next() => match event {
                Some(Ok(event)) => told.tell(event, tell),
                // Not every hub may see events; the pod's own state says what has to be known.
                Some(Err(_)) => tokio::time::sleep(AGAIN).await,
                // Told of its end never: a watcher goes on for ever.
                None => tokio::time::sleep(AGAIN).await,
            },
            () = sleep_until(deadline) => {
                return Err(BackendError::Ended(start_failed(match hopeless {
                    Some((_, reason)) => format!("no node has room for its pod: {reason}"),
                    None => format!("its pod did not start within {LIMIT:?}{}", detail(told.0)),
                })));
            }
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn tell(&mut self, event: watcher::Event<Event>, tell: &Tell<'_>) {
        let (watcher::Event::Apply(event) | watcher::Event::InitApply(event)) = event else { return };
        let (Some(reason), Some(message)) = (event.reason, event.message) else { return };
        if TOLD.contains(&&*reason) && self.0.as_ref() != Some(&message) {
            tell(message.clone());
            self.0 = Some(message);
        }
    }
}

fn start_failed(reason: String) -> Cause {
    Cause::StartFailed { status: 125, reason }
}

fn gone() -> Cause {
    Cause::Lost { reason: "its pod is not there: it was never made, or somebody else has deleted it".into() }
}

fn stand(pod: &Pod, container: &str) -> Stand {
    let status = pod.status.clone().unwrap_or_default();
    let of = |all: &Option<Vec<ContainerStatus>>| all.clone().unwrap_or_default();
    let (containers, inits) = (of(&status.container_statuses), of(&status.init_container_statuses));
    let own = containers.iter().find(|status| status.name == container);
    let state = own.and_then(|own| own.state.clone()).unwrap_or_default();
    if let Some(ended) = &state.terminated {
        return Stand::Ended(ended_by(&status, ended, pod.metadata.deletion_timestamp.is_some()));
    }
    if state.running.is_some() {
        return Stand::Running;
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return Stand::Ended(failed(&status, &inits));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Stand::Ended(gone());
    }
    if let Some(reason) = inits.iter().chain(own).find_map(hopeless) {
        return Stand::Ended(start_failed(reason));
    }
    let unschedulable =
        status.conditions.iter().flatten().find(|condition| {
            condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
        });
    match unschedulable {
        Some(condition) => Stand::Unschedulable(condition.message.clone().unwrap_or_default()),
        None => Stand::Coming,
    }
}

/// Why a container will not start.
fn hopeless(status: &ContainerStatus) -> Option<String> {
    let ContainerState { waiting, terminated, .. } = status.state.clone()?;
    if let Some(ended) = terminated.filter(|ended| ended.exit_code != 0) {
        return Some(format!("{} ended with status {}{}", status.name, ended.exit_code, detail(ended.message)));
    }
    let waiting = waiting?;
    let reason = waiting.reason.filter(|reason| HOPELESS.contains(&&**reason))?;
    Some(format!("{} (image {}): {reason}{}", status.name, status.image, detail(waiting.message)))
}

fn detail(message: Option<String>) -> String {
    message
        .filter(|message| !message.trim().is_empty())
        .map(|message| format!(": {}", message.trim()))
        .unwrap_or_default()
}

/// The end of a container that ran.
fn ended_by(status: &PodStatus, ended: &ContainerStateTerminated, deleted: bool) -> Cause {
    if let Some(cause) = of_pod(status) {
        return cause;
    }
    let reason = ended.reason.as_deref().unwrap_or_default();
    match reason {
        "ContainerCannotRun" | "StartError" => start_failed(format!("{reason}{}", detail(ended.message.clone()))),
        "OOMKilled" => Cause::Lost { reason: "its container was killed because it used too much memory".into() },
        _ if deleted => Cause::Evicted { reason: "its pod was deleted".into() },
        _ => Cause::Lost { reason: format!("its agent ended with status {}", ended.exit_code) },
    }
}

/// What the platform says of a pod that it has ended.
fn of_pod(status: &PodStatus) -> Option<Cause> {
    let reason = status.reason.as_deref()?;
    let message = status.message.clone().unwrap_or_default();
    Some(match reason {
        "DeadlineExceeded" => Cause::TimeLimit,
        _ => Cause::Evicted { reason: format!("{reason}: {message}") },
    })
}

/// Why a pod ended whose container never ran.
fn failed(status: &PodStatus, inits: &[ContainerStatus]) -> Cause {
    let reason = inits.iter().find_map(hopeless);
    match (reason, of_pod(status)) {
        (Some(reason), _) => start_failed(reason),
        (None, Some(cause)) => cause,
        (None, None) => start_failed("its pod failed and does not say why".into()),
    }
}
