//! The log of an app: its pods as they come, crash, are rolled, and go.
//!
//! Where `FOGHORN_TEST_LOG_SIZE` says at how many bytes the cluster's kubelet rotates a log (`64Ki`, say), more than
//! that is written, for as long as it takes until logs were rotated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Seen, all, get};
use crate::support::cluster::Cluster;
use crate::support::server::{DEADLINE, Server, until};

/// Prints numbered lines, about 200 a second, and the last number when it is told to end. A runtime may leave out what is
/// printed right before the end.
const COUNTING: &str = r#"trap 'echo "$HOSTNAME end $n"; sleep 1; exit 0' TERM
i=0; n=0; pad=$(printf "%0${PAD}d" 0)
while :; do
  for k in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo "$HOSTNAME $i ${pad}x"; n=$i; done
  sleep 0.045 & wait $!
done"#;

/// How often a kubelet looks whether a log is to be rotated.
const ROTATES: Duration = Duration::from_secs(10);

/// At how many bytes a log is rotated, where that is known.
fn log_size() -> Option<usize> {
    let text = std::env::var("FOGHORN_TEST_LOG_SIZE").ok()?;
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("", 1)];
    units.iter().find_map(|(unit, bytes)| Some(text.strip_suffix(unit)?.parse::<usize>().ok()? * bytes))
}

/// How long each stage goes on: with rotation, until there was some.
fn stage() -> Duration {
    if log_size().is_some() { ROTATES * 3 } else { Duration::from_secs(3) }
}

/// What each pod has counted, and what it said at its end.
#[derive(Default)]
struct Counted {
    numbers: BTreeMap<String, Vec<u32>>,
    ends: BTreeMap<String, u32>,
}

impl Counted {
    fn of(seen: &Seen) -> Self {
        let mut counted = Self::default();
        for line in seen.0.lock().unwrap().iter().filter(|line| line["stream"] == "stdout") {
            let words: Vec<&str> = line["message"].as_str().unwrap().split(' ').collect();
            let process = line["process"].as_str().unwrap();
            assert_eq!(Some(process), words[0].rsplit('-').next().map(|last| format!("web.{last}")).as_deref());
            match words[..] {
                [pod, "end", number] => drop(counted.ends.insert(pod.into(), number.parse().unwrap())),
                [pod, number, _] => counted.numbers.entry(pod.into()).or_default().push(number.parse().unwrap()),
                _ => panic!("{line}"),
            }
        }
        counted
    }

    /// Each pod's numbers are complete and in order, from its first or from where it was joined.
    fn assert_complete(&self, ended: &[String]) {
        for (pod, numbers) in &self.numbers {
            let from = numbers[0];
            let wrong = numbers.iter().zip(from..).find(|(number, at)| **number != *at);
            assert_eq!(wrong, None, "{pod}, from {from} to {:?}", numbers.last());
        }
        for pod in ended {
            let (last, end) = (self.numbers[pod].last().copied().unwrap_or(0), self.ends[pod]);
            assert!(last == end || last == end + 1, "{pod} ended at {end}, and {last} came");
        }
    }
}

async fn hub(cluster: &Cluster, more: &str) -> Server {
    Server::start_with(&format!("{}{more}", cluster.settings()), &[("FOGHORN_BACKEND", "kubernetes")]).await
}

fn deploy_counting(cluster: &Cluster) {
    // So wide that each look of the kubelet's rotates the log.
    let pad = log_size().map_or(64, |size| (size * 3 / 2 / (200 * ROTATES.as_secs() as usize)).max(64));
    let env = json!([{ "name": "PAD", "value": pad.to_string() }]);
    let container = json!({ "command": ["sh", "-c", COUNTING], "env": env });
    cluster.deploy_with("blog", json!({ "terminationGracePeriodSeconds": 30 }), container);
}

/// The app's pods that run, by name.
fn pods(cluster: &Cluster) -> Vec<String> {
    let running = ["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"];
    cluster.kubectl(&running).lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect()
}

/// Waits until so many of the Deployment's pods run, and no other is left. Where logs are rotated the machine is busy.
async fn settled(cluster: &Cluster, count: usize) {
    let since = Instant::now();
    loop {
        let all = cluster.kubectl(&["get", "pods", "-o", "name"]);
        if all.lines().count() == count && pods(cluster).len() == count {
            return;
        }
        assert!(since.elapsed() < DEADLINE * 3, "not {count} pods, but {all}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the cluster's own words about the app's pods have come. A kubelet says five things a second, and where many
/// pods come and go it is minutes behind.
async fn until_told(what: &str, fact: impl Fn() -> bool) {
    let since = Instant::now();
    while !fact() {
        assert!(since.elapsed() < DEADLINE * 6, "it is not told: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets it go on for a while, with whatever is to be looked at meanwhile.
async fn go_on(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many connections the hub's process has to the API server.
fn connections(server: &Server) -> usize {
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
    sockets
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("socket")))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_scaled_and_rolled_is_followed_line_by_line() {
    let Some(cluster) = Cluster::start().await else { return };
    deploy_counting(&cluster);
    settled(&cluster, 1).await;
    let server = hub(&cluster, "").await;
    let (one, two) = (Seen::default(), Seen::default());
    one.follow(get(&server, "follow=true"));
    until("lines come", async || (!one.0.lock().unwrap().is_empty()).then_some(())).await;
    let mut before = connections(&server);
    // Whatever else the first follower needs is asked for, and there.
    loop {
        go_on(Duration::from_secs(1)).await;
        let now = connections(&server);
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    two.follow(get(&server, "follow=true"));
    until("lines come", async || (!two.0.lock().unwrap().is_empty()).then_some(())).await;
    // The second follower's own, and none to the API server.
    until("no others are left", async || (connections(&server) <= before + 1).then_some(())).await;
    let mut ended = pods(&cluster);

    for replicas in [3, 1] {
        cluster.kubectl(&["scale", "deploy/blog-web", &format!("--replicas={replicas}")]);
        settled(&cluster, replicas).await;
        ended.extend(pods(&cluster));
        go_on(stage()).await;
    }
    cluster.kubectl(&["rollout", "restart", "deploy/blog-web"]);
    cluster.kubectl(&["rollout", "status", "deploy/blog-web", "--timeout=60s"]);
    settled(&cluster, 1).await;
    ended.extend(pods(&cluster));
    go_on(stage()).await;
    cluster.kubectl(&["scale", "deploy/blog-web", "--replicas=0"]);
    settled(&cluster, 0).await;
    ended.sort();
    ended.dedup();
    assert!(ended.len() >= 4, "{ended:?}");

    for seen in [one, two] {
        for pod in &ended {
            until("the pod has left", async || seen.has_message(&format!("Pod {pod} is gone")).then_some(())).await;
        }
        let left_out = |line: &&Value| line["message"].as_str().unwrap().contains("lines were left out");
        assert_eq!(seen.0.lock().unwrap().iter().find(left_out), None);
        let counted = Counted::of(&seen);
        counted.assert_complete(&ended);
        // All but the one that was there first.
        assert_eq!(counted.numbers.values().filter(|numbers| numbers[0] == 1).count(), ended.len() - 1);
        let joined = ended.iter().filter(|pod| seen.has_message(&format!("Pod {pod} joins"))).count();
        assert_eq!(joined, ended.len() - 1);
        // A kubelet that is busy does not tell of each.
        until_told("that pods are stopped", || seen.has_message("Killing: ")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_comes_back_by_its_token_and_the_last_lines_are_there() {
    let Some(cluster) = Cluster::start().await else { return };
    deploy_counting(&cluster);
    cluster.kubectl(&["scale", "deploy/blog-web", "--replicas=2"]);
    settled(&cluster, 2).await;
    let mut server = hub(&cluster, "").await;
    let seen = Seen::default();
    let mut query = "follow=true&tail=50".to_owned();
    for round in 0..4 {
        let at = seen.0.lock().unwrap().len();
        let thread = seen.follow(get(&server, &query));
        until("lines come", async || (seen.0.lock().unwrap().len() > at + 400).then_some(())).await;
        server.kill();
        thread.join().unwrap();
        query = format!("follow=true&from={}", seen.resume());
        if round == 2 {
            cluster.kubectl(&["scale", "deploy/blog-web", "--replicas=3"]);
            settled(&cluster, 3).await;
        }
        server.again().await;
    }
    assert_eq!(pods(&cluster).len(), 3);
    seen.follow(get(&server, &query));
    until("lines of all came", async || (Counted::of(&seen).numbers.len() == 3).then_some(())).await;
    go_on(Duration::from_secs(1)).await;
    let counted = Counted::of(&seen);
    counted.assert_complete(&[]);
    // The one that came last is there from its start.
    assert_eq!(counted.numbers.values().filter(|numbers| numbers[0] == 1).count(), 1);

    let last = all(get(&server, "tail=300"));
    assert_eq!(last.len(), 300);
    let recent = Seen::default();
    recent.follow(get(&server, "since=5s")).join().unwrap();
    let lines = recent.0.lock().unwrap().clone();
    let times: Vec<&str> = lines.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    // More than who names no time gets.
    assert!(lines.len() > 100, "{}", lines.len());
    Counted::of(&recent).assert_complete(&[]);
    let one = pods(&cluster)[0].rsplit('-').next().unwrap().to_owned();
    let of_one = all(get(&server, &format!("tail=20&process=web.{one}&container=web&grep=x$")));
    assert_eq!(of_one.len(), 20);
    assert!(of_one.iter().all(|line| line.starts_with(&format!("web.{one}: "))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashing_container_said_last_is_there_and_what_the_cluster_says_of_it() {
    let Some(cluster) = Cluster::start().await else { return };
    let server = hub(&cluster, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let long = "printf '%020000d\\n' 7; ";
    let script =
        format!("{long} i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo run $i; done; printf 'no end'; sleep 1; exit 3");
    cluster.deploy_with("blog", json!({}), json!({ "command": ["sh", "-c", script] }));
    until("two runs came", async || {
        let exits =
            seen.0.lock().unwrap().iter().filter(|line| line["message"] == "Process exited with status 3").count();
        (exits >= 2).then_some(())
    })
    .await;
    let messages = seen.messages();
    let own = |message: &&String| message.starts_with("run ") || *message == "no end" || message.ends_with("007");
    let own: Vec<&String> = messages.iter().filter(own).collect();
    for run in own.chunks(502).take(2) {
        let ends = (run[0].len(), &**run[1], &**run[500], &**run[501]);
        let told = || messages.iter().map(|line| line.trim_start_matches('0')).collect::<Vec<_>>();
        assert!(ends == (20_000, "run 1", "run 500", "no end"), "{:?}", told());
    }
    for said in ["Scheduled: ", "BackOff: "] {
        until_told(said, || seen.has_message(said)).await;
    }
    // Of a run that nobody followed, the end is there as well.
    until("an end is among the last lines", async || {
        // The next run may be printing just now.
        all(get(&server, "tail=20")).iter().any(|line| line.ends_with(": no end")).then_some(())
    })
    .await;
    // While it waits for its next run, the API gives the newest one's log as that of the run before it, too.
    let past = Seen::default();
    past.follow(get(&server, "tail=5000")).join().unwrap();
    let lines = past.0.lock().unwrap().clone();
    let sevenths = || lines.iter().filter(|line| line["message"] == "run 7").map(|line| line["time"].to_string());
    let times: std::collections::BTreeSet<_> = sevenths().collect();
    assert_eq!(times.len(), sevenths().count(), "{times:?}");

    cluster.deploy_with(
        "blog",
        json!({}),
        json!({ "image": "docker.io/rig/none:1", "imagePullPolicy": "IfNotPresent" }),
    );
    for said in ["Pulling: ", "Failed: "] {
        until_told(said, || seen.has_message(said)).await;
    }
    cluster.deploy_with("blog", json!({ "nodeSelector": { "no": "node" } }), json!({}));
    until("it is said that there is no node", async || seen.has_message("FailedScheduling: ").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_used_too_much_memory_says_so_in_the_log_of_its_app() {
    let Some(cluster) = Cluster::start().await else { return };
    let server = hub(&cluster, "").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    // It keeps a line that has no end.
    let script = "echo up; sleep 1; exec tail /dev/zero";
    let container =
        json!({ "command": ["sh", "-c", script], "resources": { "limits": { "memory": "32Mi", "cpu": "100m" } } });
    cluster.deploy_with("blog", json!({}), container);
    let is_told = async || seen.has_message("Process was killed, since it used too much memory").then_some(());
    until("it is told", is_told).await;
    assert!(seen.has_message("up"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_once_though_its_pod_has_a_log() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("blog");
    settled(&cluster, 1).await;
    let settings = format!("{}keep_labels = [\"app.kubernetes.io/instance\"]\n", cluster.settings_with_agent());
    let mut server = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    let started = server.run(&["sh", "-c", "echo once 1; sleep 8"], json!({ "app": "blog", "detached": true })).await;
    let is_scheduled = |line: &Value| {
        line["process"] == started["name"] && line["message"].as_str().unwrap().starts_with("Scheduled: ")
    };
    until_told("where it runs", || seen.0.lock().unwrap().iter().any(is_scheduled)).await;
    server.ended(started["id"].as_str().unwrap()).await;
    until("its end came", async || seen.has_message("Process exited with status 0").then_some(())).await;
    let lines = seen.0.lock().unwrap().clone();
    let own: Vec<_> = lines.iter().filter(|line| line["message"] == "once 1").collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0]["process"], started["name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_beyond_the_budget_are_named() {
    let Some(cluster) = Cluster::start().await else { return };
    let two = json!({ "command": ["sh", "-c", "while :; do echo side; sleep 1; done"] });
    let side = json!({ "name": "side", "image": "docker.io/rig/busybox:1", "imagePullPolicy": "IfNotPresent" });
    let side: serde_json::Map<_, _> = [side, two].iter().flat_map(|part| part.as_object().unwrap().clone()).collect();
    let web = json!({
        "name": "web", "image": "docker.io/rig/busybox:1", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", "while :; do echo main; sleep 1; done"],
    });
    cluster.deploy_with("blog", json!({ "containers": [web, side] }), json!({}));
    settled(&cluster, 1).await;
    let pod = pods(&cluster)[0].clone();
    let short = pod.rsplit('-').next().unwrap();
    {
        let server = hub(&cluster, "").await;
        until("both came", async || {
            let mut lines = all(get(&server, "since=1h"));
            lines.sort();
            lines.dedup();
            (lines == [format!("web.{short}/side: side"), format!("web.{short}/web: main")]).then_some(())
        })
        .await;
        assert!(all(get(&server, "since=1h&container=side")).iter().all(|line| line.ends_with("/side: side")));
    }
    let server = hub(&cluster, "log_upstreams = 1\n").await;
    let seen = Seen::default();
    seen.follow(get(&server, "follow=true"));
    until("it is said", async || seen.has_message("1 container is not followed").then_some(())).await;
    let either = || seen.has_message("side") || seen.has_message("main");
    until("the other is followed", async || either().then_some(())).await;
    assert!(seen.has_message("side") != seen.has_message("main"));
}

#[tokio::test]
async fn what_an_exec_prints_is_for_those_who_see_its_session() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    cluster.kubectl(&["rollout", "status", "deployment/demo-web"]);
    let hub = cluster.hub().await;
    let source = json!({ "kind": "exec", "app": "demo", "pod": "web.1", "command": ["echo", "not", "for", "all"] });
    let (status, started) = hub.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
    assert_eq!(status, 201, "{started}");
    let id = started["id"].as_str().expect("an id");
    hub.ended(id).await;
    assert_eq!(hub.output(id, false).await, "not for all\n");
    let (status, log) = hub.bytes_as(&hub.token(), "GET", "/v1/apps/demo/logs?tail=1000", None).await;
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(status == 200 && log.contains("line 1"), "{log}");
    assert!(!log.contains("not for all") && !log.contains("exec."), "{log}");
}
