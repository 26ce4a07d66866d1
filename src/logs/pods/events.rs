//! What the cluster says of an app's pods: scheduling, pulling, killing and the like, as lines of Foghorn's own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Event as Object;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Change, watcher};
use kube::{Resource, ResourceExt};
use tokio::time::{Instant, sleep};

use super::Place;
use crate::logs::files::notice;
use crate::logs::sessions::is_told;
use crate::logs::{Event, Log};
use crate::session::lock;
use crate::store::SessionRow;

/// What is worth telling.
const TOLD: [&str; 17] = [
    "BackOff",
    "Evicted",
    "Failed",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "FailedMount",
    "FailedScheduling",
    "Killing",
    "NodeNotReady",
    "NotTriggerScaleUp",
    "OOMKilling",
    "Preempted",
    "Preempting",
    "Pulling",
    "Scheduled",
    "TaintManagerEviction",
    "Unhealthy",
];

/// How long the same of the same pod is not told again: a failing start is told of every few seconds.
const AGAIN: Duration = Duration::from_secs(60);

/// How long it is waited for the pod that an event is about: the two are followed apart.
const UNKNOWN: Duration = Duration::from_secs(5);

/// How often it is looked whether it has come.
const LOOK: Duration = Duration::from_millis(250);

/// How many events wait for their pods, and how many pods that are gone are remembered.
const KEPT: usize = 256;

/// The pods that there are, by UID, and what their lines are from. Those that are gone stay for a while: what is said of
/// their end comes behind it.
#[derive(Default)]
pub(super) struct Names(Mutex<Known>);

#[derive(Default)]
struct Known {
    names: HashMap<String, Arc<str>>,
    gone: VecDeque<String>,
}

impl Names {
    pub(super) fn insert(&self, uid: String, process: Arc<str>) {
        lock(&self.0).names.insert(uid, process);
    }

    pub(super) fn leave(&self, uid: &str) {
        let Known { names, gone } = &mut *lock(&self.0);
        gone.push_back(uid.to_owned());
        while gone.len() > KEPT {
            gone.pop_front().map(|uid| names.remove(&uid));
        }
    }

    fn get(&self, uid: &str) -> Option<Arc<str>> {
        lock(&self.0).names.get(uid).cloned()
    }
}

/// What was told, and when.
#[derive(Default)]
struct Told(HashMap<(String, String), (Instant, String)>);

impl Told {
    /// Whether an event is to be told: not the same again within a while.
    fn is_new(&mut self, uid: &str, reason: &str, message: &str) -> bool {
        let now = Instant::now();
        self.0.retain(|_, (at, _)| now < *at + AGAIN);
        let key = (uid.to_owned(), reason.to_owned());
        let known = self.0.get(&key).is_some_and(|(_, known)| known == message);
        if !known {
            self.0.insert(key, (now, message.to_owned()));
        }
        !known
    }
}

/// Follows what is said of the app's pods until the log is closed. What was said before is not told.
pub(in crate::logs) async fn follow(log: Arc<Log>, place: Arc<Place>) {
    let api = Api::<Object>::namespaced(place.reach.cluster.client.clone(), &place.home.namespace);
    let config = watcher::Config::default().fields("involvedObject.kind=Pod");
    let mut changes = Box::pin(watcher(api, config).default_backoff());
    // Those of the first list were there before.
    let (mut before, mut warned) = (true, false);
    let mut seen: HashMap<String, Option<String>> = HashMap::new();
    let (mut told, mut unknown) = (Told::default(), VecDeque::new());
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(Change::Apply(event) | Change::InitApply(event))) => {
                    let version = event.meta().resource_version.clone();
                    let is_new = seen.insert(event.name_any(), version.clone()) != Some(version);
                    if is_new && !before {
                        unknown.push_back((Instant::now() + UNKNOWN, event));
                    }
                }
                Some(Ok(Change::Delete(event))) => drop(seen.remove(&event.name_any())),
                Some(Ok(Change::InitDone)) => before = false,
                Some(Ok(Change::Init)) => {}
                // Not every hub may see events.
                Some(Err(error)) if !std::mem::replace(&mut warned, true) => {
                    tracing::warn!(%error, app = log.app(), "cannot follow the events of an app's pods; trying again");
                }
                Some(Err(error)) => tracing::debug!(%error, app = log.app(), "cannot follow the events of an app's pods"),
                None => return,
            },
            () = sleep(LOOK), if !unknown.is_empty() => {}
        }
        unknown.retain(|(until, event)| !tell(&log, &place, event, &mut told) && Instant::now() < *until);
        while unknown.len() > KEPT {
            unknown.pop_front();
        }
    }
}

/// Tells of an event if its pod is known; whether it was.
fn tell(log: &Log, place: &Place, event: &Object, told: &mut Told) -> bool {
    let (reason, message) = (event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
    if !TOLD.contains(&reason) {
        return true;
    }
    let uid = event.involved_object.uid.as_deref().unwrap_or_default();
    let Some(process) = place.names.get(uid).or_else(|| run_of(log, place, event)) else { return false };
    if told.is_new(uid, reason, message) {
        let message = message.replace(['\n', '\r'], " ");
        log.publish([Event::Line(notice(process, format!("{reason}: {}", message.trim())))]);
    }
    true
}

/// The run of the app whose pod an event is about: its pod is none that the app's selector has.
fn run_of(log: &Log, place: &Place, event: &Object) -> Option<Arc<str>> {
    let pod = event.involved_object.name.as_deref()?;
    let is_its = |row: &SessionRow| {
        row.app == log.app()
            && is_told(row)
            && row.place["pod"] == pod
            && row.place["namespace"] == *place.home.namespace
    };
    let sessions = log.registry.live();
    sessions.iter().find(|session| is_its(&session.row)).map(|session| session.row.name.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_told_once_a_minute() {
        let mut told = Told::default();
        assert!(told.is_new("a", "BackOff", "x") && !told.is_new("a", "BackOff", "x"));
        assert!(
            told.is_new("b", "BackOff", "x") && told.is_new("a", "Killing", "x") && told.is_new("a", "BackOff", "y")
        );
        sleep(AGAIN).await;
        assert!(told.is_new("b", "BackOff", "x"));
    }
}
