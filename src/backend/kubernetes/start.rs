//! How far a pod has come: followed until its container runs, or it is known why it will not.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod, PodStatus};
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object, watcher};
use kube::{Client, ResourceExt};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use super::Place;
use crate::backend::{BackendError, Tell};
use crate::kubernetes::CONTAINER;
use crate::kubernetes::error::{in_time, sentence};
use crate::record::Cause;

/// How long a pod may be without a node before its start counts as failed: a scheduler that has just seen room says so
/// within a moment.
const SCHEDULE: Duration = Duration::from_secs(5);

/// How long a pod may take to start where nothing says that it will not: pulling a large image is in it.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long after its time a deleted pod may still be said to run.
const OVERDUE: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);

/// Most that a node's clock may be behind the API server's. Both tell whole seconds.
const CLOCKS_APART: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

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

/// The status of a process that was killed.
const KILLED: i32 = 128 + 9;

/// The name of the container that a place names, or that has the command.
pub fn of_place(place: &Place, pod: &Pod) -> String {
    place.container.clone().unwrap_or_else(|| container(pod))
}

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

/// How far a container has come that is not on its way any more.
#[derive(Clone, Debug)]
pub enum Begun {
    /// It runs.
    Running(Box<Pod>),
    /// It has ended, or will not run.
    Ended(Box<Pod>, Cause),
}

/// Waits until a pod's container runs.
///
/// # Errors
/// [`BackendError::Ended`] where it will not, and [`BackendError::Unreachable`] where the API server does not answer.
pub async fn running(client: &Client, place: &Place, tell: &Tell<'_>) -> Result<Pod, BackendError> {
    match begun(client, place, Duration::ZERO, tell).await? {
        Begun::Running(pod) => Ok(*pod),
        Begun::Ended(_, cause) => Err(BackendError::Ended(cause)),
    }
}

/// Waits until a pod's container runs or has run. A pod that is not there is waited for so long.
///
/// # Errors
/// [`BackendError::Ended`] where there is no pod, and [`BackendError::Unreachable`] where the API server does not answer.
pub async fn begun(client: &Client, place: &Place, missing: Duration, tell: &Tell<'_>) -> Result<Begun, BackendError> {
    let pods = Api::<Pod>::namespaced(client.clone(), &place.namespace);
    // Most often it is there already.
    let pod = in_time(pods.get_opt(&place.pod)).await;
    let pod = pod.map_err(|error| BackendError::Unreachable(sentence(&error)))?;
    let mut seen = pod.is_some();
    match pod.map(|pod| look(place, pod)) {
        Some(Look::Begun(begun)) => return Ok(begun),
        None if missing.is_zero() => return Err(BackendError::Ended(gone())),
        None => tell(format!("waiting for the pod {}", place.pod)),
        Some(_) => {}
    }
    let mut follow = Following::new(client, place);
    let absent = Instant::now() + missing;
    let mut hopeless = None;
    let limit = Instant::now() + LIMIT;
    loop {
        let room = hopeless.as_ref().map_or(limit, |(at, _)| *at);
        let deadline = if seen { room } else { absent };
        select! {
            pod = follow.pods.next() => match pod {
                Some(Ok(Some(pod))) => {
                    seen = true;
                    match look(place, pod) {
                        Look::Begun(begun) => return Ok(begun),
                        Look::Unschedulable(why) => hopeless = hopeless.or(Some((Instant::now() + SCHEDULE, why))),
                        Look::Coming => hopeless = None,
                    }
                }
                Some(Ok(None)) if seen => return Err(BackendError::Ended(gone())),
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::debug!(%error, pod = place.pod, "cannot follow a pod; trying again"),
                None => return Err(BackendError::Unreachable("the pod is not followed any more".into())),
            },
            Some(event) = follow.events.next() => follow.told.hear(event, tell),
            () = sleep_until(deadline) => {
                let missing = Some(missing).filter(|_| !seen);
                return Err(BackendError::Ended(late(place, missing, hopeless, follow.told.0)));
            },
        }
    }
}

/// Why nobody waits any longer.
fn late(place: &Place, missing: Option<Duration>, hopeless: Option<(Instant, String)>, told: Option<String>) -> Cause {
    start_failed(match (missing, hopeless) {
        (None, Some((_, reason))) => format!("no node has room for its pod: {reason}"),
        (None, None) => format!("its pod did not start within {LIMIT:?}{}", detail(told)),
        (Some(missing), _) => {
            let missing = humantime::format_duration(missing);
            format!("there was no pod {} in the namespace {} within {missing}", place.pod, place.namespace)
        }
    })
}

/// What is seen of a pod.
enum Look {
    Coming,
    Unschedulable(String),
    Begun(Begun),
}

fn look(place: &Place, pod: Pod) -> Look {
    match stand(&pod, &of_place(place, &pod)) {
        Stand::Running => Look::Begun(Begun::Running(Box::new(pod))),
        Stand::Ended(cause) => Look::Begun(Begun::Ended(Box::new(pod), cause)),
        Stand::Unschedulable(reason) => Look::Unschedulable(reason),
        Stand::Coming => Look::Coming,
    }
}

/// A pod and its events, followed.
struct Following {
    pods: Pin<Box<dyn Stream<Item = Result<Option<Pod>, watcher::Error>> + Send>>,
    events: Pin<Box<dyn Stream<Item = Result<watcher::Event<Event>, watcher::Error>> + Send>>,
    told: Told,
}

impl Following {
    fn new(client: &Client, place: &Place) -> Self {
        let of_pod = watcher::Config::default().fields(&format!("involvedObject.name={}", place.pod));
        Self {
            pods: Box::pin(
                watch_object(Api::namespaced(client.clone(), &place.namespace), &place.pod).default_backoff(),
            ),
            events: Box::pin(watcher(Api::namespaced(client.clone(), &place.namespace), of_pod).default_backoff()),
            told: Told::default(),
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    /// Tells an event that is worth it.
    fn hear(&mut self, event: Result<watcher::Event<Event>, watcher::Error>, tell: &Tell<'_>) {
        // Not every hub may see events; the pod's own state says what has to be known.
        let Ok(watcher::Event::Apply(event) | watcher::Event::InitApply(event)) = event else { return };
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

pub(super) fn gone() -> Cause {
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
    let is_over = matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"));
    // A node that has ended a pod for its own reason may leave its containers' status as it was.
    if let Some(cause) = of_pod(&status).filter(|_| is_over && state.running.is_some()) {
        return Stand::Ended(cause);
    }
    if state.running.is_some() {
        return match is_overdue(pod) {
            true => Stand::Ended(Cause::Evicted {
                reason: "its pod was deleted, and its node has not said for long that it ended".into(),
            }),
            false => Stand::Running,
        };
    }
    if is_over {
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

/// Whether a pod should have gone long ago: its node has died, and says of a container for ever that it runs.
fn is_overdue(pod: &Pod) -> bool {
    // The time at which its grace is over, by the API server's clock.
    let gone_at = pod.metadata.deletion_timestamp.as_ref().map(|at| at.0);
    gone_at.is_some_and(|at| jiff::Timestamp::now().duration_since(at) > OVERDUE)
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
        _ if is_out_of_memory(ended) => {
            Cause::Lost { reason: "its container was killed because it used too much memory".into() }
        }
        _ if deleted => Cause::Evicted { reason: "its pod was deleted".into() },
        _ => Cause::Lost { reason: format!("its agent ended with status {}", ended.exit_code) },
    }
}

/// Whether a container was killed for the memory that it used. The same is said of one whose first process went on when
/// another one was killed, and ended in its own way later.
fn is_out_of_memory(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some("OOMKilled") && ended.exit_code == KILLED
}

/// How often a container was started again.
#[must_use]
pub fn restarts(pod: &Pod, container: &str) -> i32 {
    let all = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    all.and_then(|all| all.iter().find(|own| own.name == container)).map_or(0, |own| own.restart_count)
}

/// The end of a container whose first process is the command itself, and that had been started again so often when it
/// was met; none while it has none.
#[must_use]
pub fn end_of_command(pod: &Pod, container: &str, restarts: i32) -> Option<Cause> {
    let status = pod.status.clone().unwrap_or_default();
    let own = status.container_statuses.iter().flatten().find(|own| own.name == container);
    let Some(ended) = own.and_then(|own| terminated(own, restarts)) else {
        return match stand(pod, container) {
            // What ran in it has no status any more.
            Stand::Ended(Cause::StartFailed { .. }) if pod.metadata.deletion_timestamp.is_some() => {
                Some(Cause::Evicted { reason: "its pod was deleted".into() })
            }
            Stand::Ended(cause) => Some(cause),
            _ => None,
        };
    };
    let deleted = was_deleted_before(pod, &ended);
    match ended.reason.as_deref().unwrap_or_default() {
        "ContainerCannotRun" | "StartError" => Some(cannot_run(&ended)),
        _ if of_pod(&status).is_some() || deleted || is_out_of_memory(&ended) => {
            Some(ended_by(&status, &ended, deleted))
        }
        _ => Some(Cause::Exited { status: ended.exit_code.clamp(0, 255) as u8 }),
    }
}

/// Tells whether a pod had been deleted when its container ended, whatever status it ended with.
fn was_deleted_before(pod: &Pod, ended: &ContainerStateTerminated) -> bool {
    let Some(gone_at) = &pod.metadata.deletion_timestamp else { return false };
    let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    let deleted_at = gone_at.0 - grace;
    // A runtime that has forgotten the container does not know when it ended.
    ended.finished_at.as_ref().is_none_or(|at| at.0 + CLOCKS_APART >= deleted_at)
}

/// Whether a container has ended that did run: then it may have printed something.
#[must_use]
pub fn has_run(pod: &Pod, container: &str) -> bool {
    let all = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let own = all.and_then(|all| all.iter().find(|own| own.name == container));
    own.and_then(|own| terminated(own, own.restart_count))
        .is_some_and(|ended| !matches!(ended.reason.as_deref(), Some("ContainerCannotRun" | "StartError")))
}

/// How a container ended, or the one before it that it was started in place of.
fn terminated(status: &ContainerStatus, restarts: i32) -> Option<ContainerStateTerminated> {
    let of = |state: &Option<ContainerState>| state.clone().and_then(|state| state.terminated);
    if status.restart_count > restarts { of(&status.last_state) } else { of(&status.state) }
}

/// The end of a container whose command could not be started, with a shell's statuses.
fn cannot_run(ended: &ContainerStateTerminated) -> Cause {
    let reason = ended.message.clone().unwrap_or_else(|| "its container could not be started".into());
    Cause::StartFailed { status: status_of(&reason), reason }
}

/// What a shell exits with where a program cannot be started for this reason.
#[must_use]
pub fn status_of(reason: &str) -> u8 {
    let says = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
    match () {
        () if says(&["executable file not found", "no such file or directory"]) => 127,
        () if says(&["permission denied", "is a directory"]) => 126,
        () => 125,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_ends_because_its_pod_was_deleted_was_evicted() {
        let ends = |status: i32, at: &str, deleted: Option<&str>| {
            let ended = serde_json::json!({ "exitCode": status, "finishedAt": at });
            let own = serde_json::json!({
                "name": "run", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": ended },
            });
            let pod = serde_json::json!({
                "metadata": { "deletionTimestamp": deleted, "deletionGracePeriodSeconds": deleted.map(|_| 30) },
                "status": { "containerStatuses": [own] },
            });
            end_of_command(&serde_json::from_value(pod).expect("a pod"), "run", 0)
        };
        let evicted = Some(Cause::Evicted { reason: "its pod was deleted".into() });
        let at = "2026-01-01T12:00:05Z";
        for status in [0, 143] {
            // Its grace ends half a minute after it was deleted.
            assert_eq!(ends(status, at, Some("2026-01-01T12:00:34Z")), evicted);
            assert_eq!(ends(status, at, Some("2026-01-01T12:00:36Z")), evicted, "the clocks are a second apart");
            let own = Some(Cause::Exited { status: status as u8 });
            assert_eq!(ends(status, at, Some("2026-01-01T12:01:05Z")), own, "it had ended before");
            assert_eq!(ends(status, at, None), own);
        }
    }
}
