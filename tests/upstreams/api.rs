//! A small API server for logs: pods, their watch, events, and the log endpoint as a kubelet answers it, with all that
//! may go wrong with it. `kubectl logs` speaks to it as well.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};

/// What becomes of an answer that follows a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Turn {
    /// It goes on.
    Well,
    /// There is none: this status.
    Refused(u16),
    /// Nothing at all comes.
    Hangs,
    /// After so many lines nothing more comes, and it stays open.
    Silent(usize),
    /// After so many lines it ends, as if the container had.
    Ends(usize),
    /// After so many lines it breaks off in the middle of a line.
    Breaks(usize),
    /// After so many lines the kubelet says what went wrong.
    Says(usize),
}

/// A container's run: lines with their times in nanoseconds, of which a rotation takes the oldest away.
#[derive(Clone, Debug, Default)]
struct Log {
    lines: Vec<(u64, String)>,
    /// How many of them are not in the newest file.
    rotated: usize,
    /// Whether the last line has no end.
    open: bool,
    ended: bool,
}

#[derive(Default)]
struct Pods {
    version: u64,
    pods: BTreeMap<String, Value>,
    /// The runs of each pod's container.
    logs: BTreeMap<String, Vec<Log>>,
    /// Pods whose container waits for its next run: the kubelet gives the newest one's log as the previous one's, too.
    waiting: BTreeSet<String>,
    turns: VecDeque<Turn>,
    /// The same, for answers that do not follow.
    past_turns: VecDeque<Turn>,
    forbidden: bool,
    /// Requests for logs, as they came.
    asked: Vec<BTreeMap<String, String>>,
    /// Whose log each answer follows that does.
    following: Vec<String>,
    /// How many answers and how many pods' logs there were at once.
    most: (usize, usize),
}

struct Shared {
    pods: Mutex<Pods>,
    moved: watch::Sender<u64>,
    changes: broadcast::Sender<Value>,
}

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct Api {
    shared: Arc<Shared>,
    /// Where it listens.
    pub(crate) url: String,
}

/// The first line's time.
const START: u64 = 1_795_341_600_000_000_000;

impl Api {
    pub(crate) async fn start() -> Self {
        let shared =
            Shared { pods: Mutex::default(), moved: watch::Sender::new(0), changes: broadcast::Sender::new(256) };
        let shared = Arc::new(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/version", get(async || Json(json!({ "major": "1", "minor": "20", "gitVersion": "v1.20.0" }))))
            .route("/api", get(async || Json(json!({ "kind": "APIVersions", "versions": ["v1"] }))))
            .route("/apis", get(async || Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }))))
            .route("/api/v1", get(resources))
            .route("/api/v1/namespaces/{namespace}/pods", get(list))
            .route("/api/v1/namespaces/{namespace}/pods/{name}", get(one))
            .route("/api/v1/namespaces/{namespace}/pods/{name}/log", get(log))
            .route("/api/v1/namespaces/{namespace}/events", get(events))
            .with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { shared, url }
    }

    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.shared.pods.lock().unwrap()
    }

    fn moved(&self) {
        self.shared.moved.send_modify(|number| *number += 1);
    }

    fn change(&self, kind: &str, pods: &mut Pods, name: &str, pod: Value) {
        let mut pod = pod;
        pods.version += 1;
        pod["metadata"]["resourceVersion"] = pods.version.to_string().into();
        match kind {
            "DELETED" => drop(pods.pods.remove(name)),
            _ => drop(pods.pods.insert(name.into(), pod.clone())),
        }
        let _ = self.shared.changes.send(json!({ "type": kind, "object": pod }));
    }

    /// A pod of the app `blog` with one container, which runs.
    pub(crate) fn pod(&self, name: &str) {
        let labels = json!({ "app.kubernetes.io/instance": "blog", "app.kubernetes.io/component": "web" });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "apps", "uid": format!("uid-{name}"), "labels": labels },
            "spec": { "containers": [{ "name": "web", "image": "x" }] },
            "status": { "phase": "Running", "containerStatuses": [status(json!({ "running": {} }), json!({}), 0)] },
        });
        let mut pods = self.lock();
        pods.logs.insert(name.into(), vec![Log::default()]);
        self.change("ADDED", &mut pods, name, pod);
    }

    /// The container prints lines, each a millisecond after the one before, or at the very same time.
    pub(crate) fn print(&self, name: &str, lines: &[String], apart: bool) {
        let mut pods = self.lock();
        let runs = pods.logs.get_mut(name).unwrap();
        let last = runs.iter().flat_map(|run| &run.lines).map(|(time, _)| *time).max();
        let mut time = last.map_or(START, |last| last + 1_000_000);
        let run = runs.last_mut().unwrap();
        for line in lines {
            run.lines.push((time, line.clone()));
            time += if apart { 1_000_000 } else { 0 };
        }
        drop(pods);
        self.moved();
    }

    /// The container prints a line so many milliseconds after the first line's usual time.
    pub(crate) fn print_at(&self, name: &str, millis: u64, line: &str) {
        let time = START + millis * 1_000_000;
        self.lock().logs.get_mut(name).unwrap().last_mut().unwrap().lines.push((time, line.to_owned()));
        self.moved();
    }

    /// What was printed is in an older file now, which nobody can ask for; who follows stays with it, as kubelets do.
    pub(crate) fn rotate(&self, name: &str) {
        let mut pods = self.lock();
        let run = pods.logs.get_mut(name).unwrap().last_mut().unwrap();
        run.rotated = run.lines.len();
        drop(pods);
        self.moved();
    }

    /// The container's last line has no end.
    pub(crate) fn leave_open(&self, name: &str) {
        self.lock().logs.get_mut(name).unwrap().last_mut().unwrap().open = true;
    }

    /// The container ends with a status, and with `again` runs anew.
    pub(crate) fn exit(&self, name: &str, code: i32, again: bool) {
        self.end(name, again);
        match again {
            true => self.tell(name, json!({ "running": {} }), ended(code)),
            false => self.tell(name, ended(code), json!({})),
        }
    }

    /// The container ends, and with `again` runs anew, and the kubelet knows it alone.
    pub(crate) fn end(&self, name: &str, again: bool) {
        let mut pods = self.lock();
        let runs = pods.logs.get_mut(name).unwrap();
        runs.last_mut().unwrap().ended = true;
        if again {
            runs.push(Log::default());
        }
        drop(pods);
        self.moved();
    }

    /// The pod says that the container ended with a status and waits for its next run.
    pub(crate) fn back_off(&self, name: &str, code: i32) {
        self.lock().waiting.insert(name.into());
        self.tell(name, json!({ "waiting": { "reason": "CrashLoopBackOff" } }), ended(code));
    }

    /// The pod says how its newest run stands, and how the one before it ended.
    pub(crate) fn tell(&self, name: &str, state: Value, last: Value) {
        let mut pods = self.lock();
        let status = status(state, last, pods.logs[name].len() - 1);
        let mut pod = pods.pods[name].clone();
        pod["status"]["containerStatuses"] = json!([status]);
        self.change("MODIFIED", &mut pods, name, pod);
        drop(pods);
        self.moved();
    }

    /// The pod goes, and its log with it.
    pub(crate) fn delete(&self, name: &str) {
        let mut pods = self.lock();
        let pod = pods.pods[name].clone();
        pods.logs.get_mut(name).unwrap().last_mut().unwrap().ended = true;
        self.change("DELETED", &mut pods, name, pod);
        drop(pods);
        self.moved();
    }

    /// Whether nobody may list the pods.
    pub(crate) fn forbid(&self, forbidden: bool) {
        self.lock().forbidden = forbidden;
    }

    /// What becomes of the next answers that follow a log.
    pub(crate) fn turns(&self, turns: &[Turn]) {
        self.lock().turns.extend(turns);
    }

    /// What becomes of the next answers that do not follow a log.
    pub(crate) fn past_turns(&self, turns: &[Turn]) {
        self.lock().past_turns = turns.iter().copied().collect();
    }

    /// How many of these are still to come.
    pub(crate) fn turns_left(&self) -> usize {
        self.lock().turns.len()
    }

    /// The requests for logs so far.
    pub(crate) fn asked(&self) -> Vec<BTreeMap<String, String>> {
        self.lock().asked.clone()
    }

    /// How many answers follow a log now.
    pub(crate) fn following(&self) -> usize {
        self.lock().following.len()
    }

    /// How many answers followed a log at once, at most, and how many logs that were.
    pub(crate) fn followed(&self) -> (usize, usize) {
        self.lock().most
    }
}

/// How a run ended, before its last lines have their times, as on a machine that is busy.
pub(crate) fn ended(code: i32) -> Value {
    let at = jiff::Timestamp::from_second(START as i64 / 1_000_000_000 - 5).unwrap().to_string();
    json!({ "terminated": { "exitCode": code, "reason": "Error", "finishedAt": at } })
}

fn status(state: Value, last: Value, restarts: usize) -> Value {
    json!({
        "name": "web", "image": "x", "imageID": "", "ready": true,
        "state": state, "lastState": last, "restartCount": restarts,
    })
}

async fn resources() -> Json<Value> {
    let pods = json!({ "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get", "list", "watch"] });
    Json(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [pods] }))
}

type Asked = Query<BTreeMap<String, String>>;

async fn list(State(shared): State<Arc<Shared>>, Query(asked): Asked) -> Response {
    let (changes, version, items) = {
        let pods = shared.pods.lock().unwrap();
        (shared.changes.subscribe(), pods.version, pods.pods.values().cloned().collect::<Vec<_>>())
    };
    if shared.pods.lock().unwrap().forbidden {
        return refused(403, "pods is forbidden");
    }
    let from = asked.get("resourceVersion").and_then(|version| version.parse::<u64>().ok()).unwrap_or(0);
    if asked.contains_key("watch") && from < version {
        // What came between the list and the watch: the list again.
        let gone = json!({ "type": "ERROR", "object": problem(410, "too old") });
        return Body::from(format!("{gone}\n")).into_response();
    }
    answer(asked.contains_key("watch"), "PodList", version, items, Some(changes))
}

async fn events(Query(asked): Asked) -> Response {
    answer(asked.contains_key("watch"), "EventList", 1, Vec::new(), None)
}

fn answer(
    watch: bool,
    kind: &str,
    version: u64,
    items: Vec<Value>,
    changes: Option<broadcast::Receiver<Value>>,
) -> Response {
    if !watch {
        let meta = json!({ "resourceVersion": version.to_string() });
        return Json(json!({ "kind": kind, "apiVersion": "v1", "metadata": meta, "items": items })).into_response();
    }
    let lines = stream::unfold(changes, |changes| async move {
        let Some(mut changes) = changes else { return std::future::pending().await };
        let change = changes.recv().await.ok()?;
        Some((Ok::<_, Infallible>(format!("{change}\n")), Some(changes)))
    });
    Body::from_stream(lines).into_response()
}

async fn one(State(shared): State<Arc<Shared>>, Path((_, name)): Path<(String, String)>) -> Response {
    match shared.pods.lock().unwrap().pods.get(&name) {
        Some(pod) => Json(pod.clone()).into_response(),
        None => refused(404, "pods not found"),
    }
}

fn problem(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code })
}

fn refused(code: u16, message: &str) -> Response {
    (StatusCode::from_u16(code).unwrap(), Json(problem(code, message))).into_response()
}

async fn log(
    State(shared): State<Arc<Shared>>,
    Path((_, name)): Path<(String, String)>,
    Query(asked): Asked,
) -> Response {
    let (run, turn) = {
        let mut pods = shared.pods.lock().unwrap();
        pods.asked.push(asked.clone());
        let follow = asked.contains_key("follow");
        let turns = if follow { &mut pods.turns } else { &mut pods.past_turns };
        let turn = turns.pop_front().unwrap_or(Turn::Well);
        let count = pods.logs.get(&name).map_or(0, Vec::len);
        let back = if asked.contains_key("previous") && !pods.waiting.contains(&name) { 2 } else { 1 };
        match count.checked_sub(back).filter(|_| pods.pods.contains_key(&name)) {
            Some(run) => (run, turn),
            None => return refused(if count == 0 { 404 } else { 400 }, "there is no such log"),
        }
    };
    match turn {
        Turn::Refused(code) => return refused(code, "try again"),
        Turn::Hangs => std::future::pending::<()>().await,
        _ => {}
    }
    // As a server behind an API server does: nothing comes before the first line.
    let (pieces, body) = mpsc::channel(1);
    tokio::spawn(write(shared, name, run, asked, turn, pieces));
    let lines = stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
    Body::from_stream(lines).into_response()
}

/// One that follows, until it is dropped.
struct Follows(Arc<Shared>, String);

impl Follows {
    fn new(shared: &Arc<Shared>, name: &str) -> Self {
        let mut pods = shared.pods.lock().unwrap();
        pods.following.push(name.to_owned());
        let distinct = pods.following.iter().collect::<BTreeSet<_>>().len();
        pods.most = (pods.most.0.max(pods.following.len()), pods.most.1.max(distinct));
        Self(shared.clone(), name.to_owned())
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        let mut pods = self.0.pods.lock().unwrap();
        if let Some(at) = pods.following.iter().position(|name| *name == self.1) {
            pods.following.swap_remove(at);
        }
    }
}

fn rfc3339(time: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time)).unwrap().to_string()
}

async fn write(
    shared: Arc<Shared>,
    name: String,
    run: usize,
    asked: BTreeMap<String, String>,
    turn: Turn,
    pieces: mpsc::Sender<Result<String, std::io::Error>>,
) {
    let follow = asked.contains_key("follow");
    let _follows = follow.then(|| Follows::new(&shared, &name));
    let mut moved = shared.moved.subscribe();
    // Whole seconds, as an API server hands it on.
    let since = asked.get("sinceTime").map_or(0, |time| time.parse::<jiff::Timestamp>().unwrap().as_second() as u64);
    let file = |shared: &Shared| shared.pods.lock().unwrap().logs[&name][run].clone();
    let first = file(&shared);
    let (mut at, rotated) = (first.rotated, first.rotated);
    if let Some(tail) = asked.get("tailLines") {
        // A kubelet counts parts of 16 KiB.
        let mut left: usize = tail.parse().unwrap();
        let parts = |line: &str| line.len().div_ceil(16 << 10).max(1);
        let last = first.lines.iter().rev().take_while(|(_, line)| {
            let has_room = parts(line) <= left;
            left = left.saturating_sub(parts(line));
            has_room
        });
        at = at.max(first.lines.len() - last.count());
    }
    if let Some(limit) = asked.get("limitBytes") {
        let (limit, first) = (limit.parse().unwrap(), first.lines.get(at));
        let mut head = first.map_or(String::new(), |(time, line)| format!("{} {line}\n", rfc3339(*time)));
        head.truncate(limit);
        let _ = pieces.send(Ok(head)).await;
        return;
    }
    let mut left = match turn {
        Turn::Silent(lines) | Turn::Ends(lines) | Turn::Breaks(lines) | Turn::Says(lines) => lines,
        _ => usize::MAX,
    };
    loop {
        moved.borrow_and_update();
        let now = file(&shared);
        // A file that was rotated is read to its end, and then never left.
        let end = if now.rotated > rotated { now.rotated } else { now.lines.len() };
        while at < end && left > 0 {
            let (time, line) = &now.lines[at];
            at += 1;
            if *time / 1_000_000_000 < since {
                continue;
            }
            let stamp = if asked.contains_key("timestamps") { format!("{} ", rfc3339(*time)) } else { String::new() };
            let end = if now.open && at == now.lines.len() { "" } else { "\n" };
            if pieces.send(Ok(format!("{stamp}{line}{end}"))).await.is_err() {
                return;
            }
            left -= 1;
        }
        match turn {
            Turn::Ends(_) if left == 0 => return,
            Turn::Breaks(_) if left == 0 => {
                let _ = pieces.send(Ok(format!("{} the start of a li", rfc3339(START)))).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = pieces.send(Err(std::io::ErrorKind::ConnectionReset.into())).await;
                return;
            }
            Turn::Says(_) if left == 0 => {
                let _ = pieces.send(Ok("rpc error: code = Unavailable desc = busy\n".into())).await;
                return;
            }
            _ => {}
        }
        if !follow || (now.ended && left > 0) {
            return;
        }
        tokio::select! {
            _ = moved.changed() => {}
            () = pieces.closed() => return,
        }
    }
}
