//! How a container stands, by what its pod says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;

/// How far a run of a container has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not begun.
    #[default]
    Coming,
    /// It runs.
    Running,
    /// It has ended, and no other has begun.
    Ended,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    status: i32,
    reason: String,
    /// When, in seconds.
    pub at: i64,
}

/// How a container stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The number of its newest run: how often it was restarted.
    pub restart: u64,
    /// How far that has come.
    pub phase: Phase,
    /// The cause for which it has not begun, where that is known.
    pub waits: Option<String>,
    /// How that run ended.
    pub exit: Option<Exit>,
    /// How the run before it ended.
    pub before: Option<Exit>,
    /// Whether its pod was told to end.
    pub leaves: bool,
    /// Whether its pod is gone.
    pub gone: bool,
}

impl Standing {
    /// Whether the run with this number runs.
    #[must_use]
    pub fn runs(&self, restart: u64) -> bool {
        self.restart == restart && self.phase == Phase::Running && !self.gone
    }

    /// The same, with what was known of the run before the newest: of a container that waits for its next run, a pod tells
    /// of the newest alone.
    #[must_use]
    pub fn after(mut self, known: &Self) -> Self {
        let before = match self.restart.checked_sub(known.restart) {
            Some(0) => known.before.clone(),
            Some(1) => known.exit.clone(),
            _ => None,
        };
        self.before = self.before.or(before);
        self
    }

    /// How the run with this number ended, where that is known.
    #[must_use]
    pub fn exit(&self, restart: u64) -> Option<&Exit> {
        match self.restart.checked_sub(restart)? {
            0 => self.exit.as_ref(),
            1 => self.before.as_ref(),
            _ => None,
        }
    }
}

impl Exit {
    fn of(ended: &ContainerStateTerminated) -> Self {
        let at = ended.finished_at.as_ref().map_or(0, |time| time.0.as_second());
        Self { status: ended.exit_code, reason: ended.reason.clone().unwrap_or_default(), at }
    }

    /// The sentence that the log has about it.
    #[must_use]
    pub fn sentence(&self) -> String {
        let status = self.status;
        match &*self.reason {
            "OOMKilled" => format!("Process was killed, since it used too much memory (OOMKilled, status {status})"),
            // The status is a filler of the kubelet's, which found no container any more.
            "ContainerStatusUnknown" => "Process exited; how it ended is not known".to_owned(),
            "" | "Error" | "Completed" => format!("Process exited with status {status}"),
            reason => format!("Process exited with status {status} ({reason})"),
        }
    }
}

/// The containers of a pod by name, and how each stands.
#[must_use]
pub fn containers(pod: &Pod) -> BTreeMap<String, Standing> {
    let spec = pod.spec.iter();
    let names = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let mut containers: BTreeMap<_, _> = names.map(|named| (named.name.clone(), Standing::default())).collect();
    let status = pod.status.iter();
    let all =
        status.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]).flatten().flatten();
    for status in all {
        containers.insert(status.name.clone(), standing(status));
    }
    let (leaves, node) = (pod.metadata.deletion_timestamp.is_some(), awaited_node(pod));
    for standing in containers.values_mut() {
        standing.leaves = leaves;
        if standing.phase == Phase::Coming && node.is_some() {
            standing.waits.clone_from(&node);
        }
    }
    containers
}

fn standing(status: &ContainerStatus) -> Standing {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().and_then(|last| last.terminated).map(|ended| Exit::of(&ended));
    let restart = u64::try_from(status.restart_count).unwrap_or(0);
    let of = |phase, exit, before| Standing { restart, phase, exit, before, ..Standing::default() };
    let waiting = state.waiting.unwrap_or_default();
    match (state.running, state.terminated) {
        (Some(_), _) => of(Phase::Running, None, last),
        (None, Some(ended)) => of(Phase::Ended, Some(Exit::of(&ended)), last),
        // It waits for its next run; the newest one is the one that ended last.
        (None, None) if last.is_some() => of(Phase::Ended, last, None),
        (None, None) => {
            let reason = waiting.reason.filter(|reason| !reason.is_empty() && reason != BEHIND_INIT);
            let waits = reason.map(|reason| worded(&reason, waiting.message.as_deref()));
            Standing { waits, ..of(Phase::Coming, None, None) }
        }
    }
}

/// The reason of a container that waits for its pod's init containers, which say for themselves what they wait for.
const BEHIND_INIT: &str = "PodInitializing";

/// Returns why a pod has no node yet, as the scheduler says it.
fn awaited_node(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")?;
    let reason = scheduled.reason.as_deref().unwrap_or("no node");
    (scheduled.status == "False").then(|| worded(reason, scheduled.message.as_deref()))
}

fn worded(reason: &str, message: Option<&str>) -> String {
    let message = message.unwrap_or_default().replace(['\n', '\r'], " ");
    if message.trim().is_empty() { reason.to_owned() } else { format!("{reason}: {}", message.trim()) }
}

/// The last part of a pod's name, which tells it from its likes.
#[must_use]
pub fn short(pod: &Pod) -> String {
    let name = pod.name_any();
    name.rsplit('-').next().unwrap_or(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Standing {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "blog-web-5c9f-x7k2p" },
            "spec": { "initContainers": [{ "name": "init" }], "containers": [{ "name": "web" }] },
            "status": { "containerStatuses": [status] },
        }))
        .expect("a pod");
        assert_eq!(short(&pod), "x7k2p");
        let mut all = containers(&pod);
        assert_eq!(all.remove("init"), Some(Standing::default()));
        all.remove("web").expect("the container")
    }

    #[test]
    fn a_run_is_known_by_its_number_while_the_next_is_waited_for() {
        let ended = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let status = |state, last, restarts| json!({ "name": "web", "image": "", "imageID": "", "ready": true, "state": state, "lastState": last, "restartCount": restarts });
        let runs = pod(status(json!({ "running": {} }), json!({}), 0));
        assert!(runs.runs(0) && !runs.runs(1));
        let waits = pod(status(json!({ "waiting": { "reason": "CrashLoopBackOff" } }), ended.clone(), 1));
        assert_eq!((waits.restart, waits.phase, waits.exit(0)), (1, Phase::Ended, None));
        assert!(waits.exit(1).is_some_and(|exit| exit.sentence().contains("OOMKilled, status 137")));
        let again = pod(status(json!({ "running": {} }), ended.clone(), 2));
        assert!(again.runs(2) && again.exit(1).is_some() && again.exit(2).is_none());
        assert_eq!(pod(status(ended.clone(), json!({}), 0)).phase, Phase::Ended);
        let first = pod(status(json!({ "terminated": { "exitCode": 7 } }), json!({}), 0));
        let (known, exit) = (waits.clone().after(&first), first.exit.clone());
        assert_eq!((known.exit(0), known.exit(1)), (exit.as_ref(), waits.exit.as_ref()));
        assert_eq!(waits.clone().after(&known), known);
        assert_eq!(pod(status(json!({ "running": {} }), json!({}), 2)).after(&first).before, None);
        assert_eq!(pod(status(json!({ "waiting": {} }), json!({}), 0)).phase, Phase::Coming);
        let unknown = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
        let exit = pod(status(unknown, json!({}), 0)).exit.expect("an end");
        assert_eq!(exit.sentence(), "Process exited; how it ended is not known");
    }

    #[test]
    fn what_a_container_waits_for_is_known() {
        let waits = |waiting| {
            pod(json!({ "name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": waiting } })).waits
        };
        let pulls = json!({ "reason": "ErrImagePull", "message": "no such image\n" });
        assert_eq!(waits(pulls).as_deref(), Some("ErrImagePull: no such image"));
        assert_eq!(waits(json!({ "reason": "ContainerCreating" })).as_deref(), Some("ContainerCreating"));
        assert_eq!((waits(json!({ "reason": "PodInitializing" })), waits(json!({}))), (None, None));
        let pending: Pod = serde_json::from_value(json!({
            "metadata": { "name": "x" }, "spec": { "containers": [{ "name": "web" }] },
            "status": { "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available",
            }] },
        }))
        .expect("a pod");
        assert_eq!(containers(&pending)["web"].waits.as_deref(), Some("Unschedulable: 0/1 nodes are available"));
    }
}
