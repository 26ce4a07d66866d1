//! The pods of an app's log: which there are, and what each of their containers says.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`place`] | where the pods are, and how many of their containers may be followed |
//! | [`standing`] | how a container stands, by what its pod says |
//! | [`request`] | one answer of the log endpoint |
//! | [`stamped`] | what comes in it, as lines with times |
//! | [`reading`] | one answer that follows, as far as it was read, and whose log it may be |
//! | [`seen`] | which of these were told already |
//! | [`upstream`] | a container's log as it comes, through restarts, rotation and broken answers |
//! | [`pace`] | how long a container may be silent |
//! | [`past`] | a container's log as it was |
//! | [`patience`] | how long a node may be silent |
//! | [`trouble`] | why a log cannot be read, and when that is said |
//! | [`events`] | what the cluster says of the pods |
//!
//! Invariant: a container has one reader however many follow, and at most as many containers are followed at once, in all
//! logs of a hub, as its settings allow. The pods of runs are left out: what they say is their sessions'.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod as Object;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Change, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::files::notice;
use super::line::{Entry, Stream as Output};
use super::position::{ContainerAt, ContainerId, Move};
use super::{Event, Log, LogsError};
use crate::kubernetes::SESSION;
use crate::kubernetes::error::sentence;
use crate::session::lock;

pub mod events;
mod pace;
pub mod past;
pub mod patience;
pub(super) mod place;
mod reading;
pub mod request;
pub mod seen;
pub mod stamped;
pub mod standing;
mod trouble;
pub mod upstream;

use patience::Patience;
pub(super) use place::Place;
pub use place::Reach;
use place::too_many;
use standing::{Exit, Standing};
use upstream::Upstream;

/// How long the API server may take to say which pods there are.
const LISTED: Duration = Duration::from_secs(10);

/// How many containers are asked at once for their last lines when a log is opened.
const ASKED: usize = 16;

/// How long all of them together may take to say them.
const NEWEST: Duration = Duration::from_secs(6);

/// How long one answer of them may keep silent, and one node.
const SILENT: Duration = Duration::from_millis(2500);

/// The most containers of one app that its log knows: each is in every token.
pub const MAX_CONTAINERS: usize = 512;

/// A pod of the app.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its lines are from, without a container.
    pub process: Arc<str>,
    /// Where it runs, once that is known.
    node: OnceLock<Arc<str>>,
    /// How many of its containers are still read.
    reading: AtomicUsize,
}

impl Pod {
    fn node(&self) -> &Arc<str> {
        static NONE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
        self.node.get().unwrap_or(&NONE)
    }

    fn note_node(&self, object: &Object) {
        if let Some(node) = object.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            self.node.get_or_init(|| node.into());
        }
    }
}

/// A container of one of the app's pods.
#[derive(Debug)]
pub struct Container {
    /// Which.
    pub id: ContainerId,
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Its name.
    pub name: Arc<str>,
    /// What its lines are from.
    pub process: Arc<str>,
    /// Whether it is a terminal that somebody made for themselves.
    is_terminal: bool,
    standing: watch::Sender<Standing>,
    /// The reason that was told of why its log cannot be read.
    trouble: Mutex<Option<String>>,
}

impl Container {
    /// Whether a run of it has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.standing.borrow().phase != standing::Phase::Coming
    }

    /// Returns the cause for which it has not begun, where that is known.
    pub(super) fn waits(&self) -> Option<String> {
        self.standing.borrow().waits.clone()
    }

    /// Returns the line that says why its log cannot be read, where followers were told so.
    pub(super) fn trouble(&self) -> Option<Entry> {
        lock(&self.trouble).clone().map(|message| Entry { stream: Output::Unread, ..self.notice(message) })
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }

    /// Returns the line that says why what it said before cannot be read.
    pub(super) fn unread(&self, reason: &str) -> Entry {
        let message = format!("what it said before cannot be read: {reason}");
        Entry { stream: Output::Unread, ..self.notice(message) }
    }

    /// The first run whose log can be there, for who has nothing of what was told up to a position: the one before the
    /// newest.
    pub(super) fn first_run(&self, to: ContainerAt) -> u64 {
        to.restart.min(self.standing.borrow().restart).saturating_sub(1)
    }

    /// How a run of it ended. Behind that is the next one, so that it is told once.
    fn exited(&self, restart: u64, exit: &Exit) -> Entry {
        let moved = Move::Container(self.id, ContainerAt::start(restart + 1));
        Entry { time: exit.at.saturating_mul(1_000_000), moved, ..self.notice(exit.sentence()) }
    }

    /// A line of Foghorn's own about it, which moves nothing.
    pub(super) fn notice(&self, message: impl Into<String>) -> Entry {
        Entry { container: Some(self.name.clone()), ..notice(self.process.clone(), message.into()) }
    }
}

/// Says what a watch failed of.
fn failed(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => sentence(error),
        error => error.to_string(),
    }
}

/// Tells whether the API server does not let this hub watch. Another try does not change that soon.
fn is_forbidden(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 401 | 403)
}

type Changes = Pin<Box<dyn Stream<Item = Result<Change<Object>, watcher::Error>> + Send>>;

/// Follows which pods there are.
pub(super) struct Pods {
    log: Arc<Log>,
    place: Arc<Place>,
    changes: Changes,
    known: BTreeMap<String, Vec<Arc<Container>>>,
    /// Those that were there and were too many when the log was opened: what they had said counts as told.
    left_out: BTreeSet<String>,
    /// While all are listed anew: those that were seen.
    listed: Option<BTreeSet<String>>,
}

impl Pods {
    /// Takes up the pods that there are: what they have said so far counts as told.
    pub(super) async fn open(log: Arc<Log>, place: Arc<Place>) -> Result<Self, LogsError> {
        let api = Api::<Object>::namespaced(place.reach.cluster.client.clone(), &place.home.namespace);
        let config = watcher::Config::default().labels(&place.home.selector);
        let changes: Changes = Box::pin(watcher(api, config).default_backoff());
        let mut pods = Self { log, place, changes, known: BTreeMap::new(), left_out: BTreeSet::new(), listed: None };
        let (mut found, mut said) = (Vec::new(), "the API server does not answer".to_owned());
        let list = timeout(LISTED, async {
            loop {
                match pods.changes.next().await {
                    Some(Ok(Change::InitApply(pod) | Change::Apply(pod))) => found.push(pod),
                    Some(Ok(Change::InitDone)) | None => return Ok(()),
                    Some(Ok(Change::Init | Change::Delete(_))) => {}
                    Some(Err(error)) => {
                        said = failed(&error);
                        if is_forbidden(&error) {
                            return Err(());
                        }
                    }
                }
            }
        });
        match list.await {
            Ok(Ok(())) => {}
            Ok(Err(())) => return Err(LogsError::Refused(said)),
            Err(_) => return Err(LogsError::Cluster(said)),
        }
        pods.take_up(found).await;
        Ok(pods)
    }

    /// First those that run, then those that ended last: of too many, the others do not matter.
    async fn take_up(&mut self, found: Vec<Object>) {
        let containers = found.iter().flat_map(|pod| self.containers(pod));
        let mut containers: Vec<_> = containers
            .map(|container| {
                let standing = container.standing.borrow().clone();
                (standing, container)
            })
            .collect();
        containers.sort_by_key(|(standing, _)| {
            let ended =
                (standing.phase == standing::Phase::Ended).then(|| standing.exit.as_ref().map_or(0, |exit| exit.at));
            ended.map_or((0, 0), |at| (1, -at))
        });
        if containers.len() > MAX_CONTAINERS {
            containers.truncate(MAX_CONTAINERS);
            let taken: BTreeSet<_> = containers.iter().map(|(_, container)| container.id).collect();
            // The others are looked at again with their next change: there may be room then.
            self.known.values_mut().for_each(|known| known.retain(|container| taken.contains(&container.id)));
            let left_out = self.known.iter().filter(|(_, known)| known.is_empty()).map(|(uid, _)| uid.clone());
            self.left_out = left_out.collect();
            self.known.retain(|_, known| !known.is_empty());
            self.note_too_many(true);
        }
        let cluster = &self.place.reach.cluster;
        // One node that hangs holds up nobody.
        let (patience, until) = (Patience::new(SILENT, SILENT), Instant::now() + NEWEST);
        let positions = stream::iter(containers.into_iter().map(async |(standing, container)| {
            let at = past::newest(&cluster.client, &container, &standing, &patience, until).await;
            (container, at, standing)
        }));
        let positions: Vec<_> = positions.buffer_unordered(ASKED).collect().await;
        for (container, at, standing) in positions {
            self.take_on(container, at, standing.restart);
        }
    }

    /// Follows which pods there are until the log is closed.
    pub(super) async fn follow(mut self) {
        let mut is_told = false;
        while let Some(change) = self.changes.next().await {
            match change {
                Ok(Change::Init) => self.listed = Some(BTreeSet::new()),
                Ok(Change::InitApply(pod) | Change::Apply(pod)) => self.see(&pod),
                Ok(Change::InitDone) => {
                    let listed = self.listed.take().unwrap_or_default();
                    let gone: Vec<_> = self.known.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                    gone.iter().for_each(|uid| self.leave(uid));
                    self.left_out.retain(|uid| listed.contains(uid));
                }
                Ok(Change::Delete(pod)) => {
                    let uid = pod.uid().unwrap_or_default();
                    if !self.left_out.remove(&uid) {
                        self.see(&pod);
                        self.leave(&uid);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, app = self.log.app(), "cannot follow an app's pods; trying again");
                    if is_forbidden(&error) && !std::mem::replace(&mut is_told, true) {
                        let message = format!("pods that come are not seen: {}; trying again", failed(&error));
                        self.log.publish([Event::Line(notice("log".into(), message))]);
                    }
                }
            }
        }
    }

    /// A pod as it is now.
    fn see(&mut self, pod: &Object) {
        let uid = pod.uid().unwrap_or_default();
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        if let Some(known) = self.known.get(&uid) {
            let all = standing::containers(pod);
            for container in known {
                container.pod.note_node(pod);
                if let Some(standing) = all.get(&*container.name) {
                    container.standing.send_if_modified(|known| {
                        let standing = standing.clone().after(known);
                        *known != standing && {
                            *known = standing;
                            true
                        }
                    });
                }
            }
            return;
        }
        let count: usize = self.known.values().map(Vec::len).sum();
        let containers = self.containers(pod);
        if containers.is_empty() || count + containers.len() > MAX_CONTAINERS {
            self.note_too_many(!containers.is_empty());
            // Looked at again with its next change: there may be room then.
            self.known.remove(&uid);
            return;
        }
        if self.left_out.remove(&uid) {
            for container in containers {
                let standing = container.standing.borrow().clone();
                let at = past::by_the_clock(&standing);
                self.take_on(container, at, standing.restart);
            }
            return;
        }
        let joins = notice(containers[0].pod.process.clone(), format!("Pod {} joins", pod.name_any()));
        self.log.publish([Event::Line(joins)]);
        for container in containers {
            // The run before may have said why.
            let first = container.standing.borrow().restart.saturating_sub(1);
            self.take_on(container, ContainerAt::start(first), first);
        }
    }

    fn note_too_many(&mut self, really: bool) {
        if really && !self.place.too_many.swap(true, Ordering::Relaxed) {
            self.log.publish([Event::Line(notice("log".into(), too_many()))]);
        }
    }

    /// The containers of a pod that is new; none of one that a session has.
    fn containers(&mut self, object: &Object) -> Vec<Arc<Container>> {
        let uid = object.uid().unwrap_or_default();
        if object.labels().contains_key(SESSION) {
            return Vec::new();
        }
        let all = standing::containers(object);
        let process: Arc<str> =
            format!("{}.{}", self.place.reach.cluster.process_of(object), standing::short(object)).into();
        self.place.names.insert(uid.clone(), process.clone());
        let alone = all.len() == 1;
        let pod = Arc::new(Pod {
            namespace: self.place.home.namespace.clone(),
            name: object.name_any(),
            process: process.clone(),
            node: OnceLock::new(),
            reading: AtomicUsize::new(0),
        });
        pod.note_node(object);
        let terminals = terminals(object);
        let container = |(name, standing): (String, Standing)| {
            Arc::new(Container {
                id: ContainerId::new(&uid, &name),
                pod: pod.clone(),
                is_terminal: terminals.contains(&name),
                process: if alone { process.clone() } else { format!("{process}/{name}").into() },
                name: name.into(),
                standing: watch::Sender::new(standing),
                trouble: Mutex::default(),
            })
        };
        let containers: Vec<_> = all.into_iter().map(container).collect();
        self.known.insert(uid, containers.clone());
        containers
    }

    /// Reads a container on from a position, which is in this run of it or behind it.
    fn take_on(&self, container: Arc<Container>, at: ContainerAt, restart: u64) {
        container.pod.reading.fetch_add(1, Ordering::Relaxed);
        self.log.publish([Event::Joined(container.clone(), at)]);
        let done = at.restart > restart;
        let at = if done { ContainerAt::start(restart) } else { at };
        let upstream = Upstream::new(self.log.clone(), self.place.clone(), container, at, done);
        self.log.spawn("log-container", upstream.read());
    }

    /// A pod is gone. Its containers' readers see to the rest.
    fn leave(&mut self, uid: &str) {
        self.place.names.leave(uid);
        for container in self.known.remove(uid).unwrap_or_default() {
            container.standing.send_modify(|standing| standing.gone = true);
        }
    }
}

/// The containers of a pod that are somebody's terminal: a controller made it for one who ran a command. Those of an app's
/// own pods, which a ReplicaSet or the like has, are not, even where they have one.
fn terminals(object: &Object) -> BTreeSet<String> {
    let is_apps = object.owner_references().iter().any(|owner| owner.controller == Some(true));
    let containers = object.spec.iter().flat_map(|spec| &spec.containers);
    let terminals = containers.filter(|container| container.tty == Some(true) && !is_apps);
    terminals.map(|container| container.name.clone()).collect()
}
