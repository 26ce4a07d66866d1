//! Hubs that come, go, and share a cluster: no run is ended that is not theirs to end, and none is left.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::support::cluster::{BASH, Cluster};
use crate::support::postgres::Database;
use crate::support::proxy::Cut;
use crate::support::server::{Hello, Server, until};

/// Starts a command of the app `demo`, and waits until it runs: who knew what to start has said so by then.
async fn runs(hub: &mut Server, command: &[&str]) -> String {
    let started = hub.run(command, json!({ "app": "demo", "detached": true })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    is_running(hub, &id).await;
    id
}

async fn is_running(hub: &Server, id: &str) {
    until("the run goes on", async || {
        let (_, session) = hub.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        (session["state"] == "running").then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_installations_leave_each_others_runs_alone() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let (mut one, mut other) = (cluster.hub().await, cluster.hub().await);
    let first = runs(&mut one, &["sleep", "600"]).await;
    let second = runs(&mut other, &["sleep", "600"]).await;
    for hub in [&mut one, &mut other] {
        hub.terminate().await;
        hub.again().await;
    }
    for (hub, id, stranger) in [(&one, &first, &second), (&other, &second, &first)] {
        is_running(hub, id).await;
        assert_eq!(hub.ask("GET", &format!("/v1/sessions/{stranger}"), None).await.0, 404);
    }
    assert_eq!(cluster.runs().len(), 2);
    one.ask("DELETE", &format!("/v1/sessions/{first}"), None).await;
    assert_eq!(one.ended(&first).await["exit_status"], 143);
    cluster.has_runs(1).await;
    other.ask("DELETE", &format!("/v1/sessions/{second}"), None).await;
    other.ended(&second).await;
    cluster.has_runs(0).await;
}

/// The reaper would find it, but is not called in.
#[tokio::test]
async fn a_pod_that_an_api_server_would_not_delete_is_deleted_when_it_is_back() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let (proxy, kubeconfig) = cluster.behind_a_proxy();
    let settings = cluster
        .settings_with_agent()
        .replace(&cluster.kubeconfig.display().to_string(), &kubeconfig.path().display().to_string());
    let settings = format!("reap = \"1h\"\n{settings}");
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let id = runs(&mut hub, &["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 6"]).await;
    let mut watcher = hub.attach(&id, Hello::watch()).await;
    // The end comes, and cannot be stored until the API server is away.
    let mut database =
        SqliteConnection::connect(&hub.home().join("foghorn.db").display().to_string()).await.expect("opens");
    database.execute("BEGIN IMMEDIATE").await.expect("locks");
    let pod = cluster.runs().remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    cluster.kubectl(&["exec", &pod, "--", "touch", "/tmp/go"]);
    watcher.rest().await;
    proxy.close(true);
    assert!(proxy.cut(Cut::Reset) > 0);
    database.execute("ROLLBACK").await.expect("unlocks");
    assert_eq!(hub.ended(&id).await["exit_status"], 6);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.runs().len(), 1);
    proxy.close(false);
    cluster.has_runs(0).await;
}

/// Cuts all connections to the API server now and then while runs start, go on and end.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_breaks_off_again_and_again_costs_no_run() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let (proxy, kubeconfig) = cluster.behind_a_proxy();
    let path = |path: &std::path::Path| path.display().to_string();
    let through = |settings: String| settings.replace(&path(&cluster.kubeconfig), &path(kubeconfig.path()));
    let backend = [("FOGHORN_BACKEND", "kubernetes")];
    let mut with_agent = Server::start_with(&through(cluster.settings_with_agent()), &backend).await;
    let mut without = Server::start_with(&through(cluster.settings()), &backend).await;
    let over = Arc::new(AtomicBool::new(false));
    let cutter = std::thread::spawn({
        let over = over.clone();
        move || {
            for turn in 0.. {
                if over.load(Ordering::Relaxed) {
                    return turn;
                }
                std::thread::sleep(Duration::from_millis(300 + 170 * (turn % 5)));
                proxy.cut([Cut::Reset, Cut::Fin, Cut::Within(100)][turn as usize % 3]);
            }
            unreachable!("it is over some time")
        }
    });
    let mut started = Vec::new();
    for status in 0..8 {
        for hub in [&mut with_agent, &mut without] {
            let script = format!("seq 1 500; sleep 2; seq 501 1000; sleep 1; exit {status}");
            let run = hub.run(&["sh", "-c", &script], json!({ "app": "demo", "detached": true })).await;
            started.push(run["id"].as_str().expect("an id").to_owned());
        }
    }
    let expected: String = (1..=1000).map(|line| format!("{line}\n")).collect();
    for (at, id) in started.iter().enumerate() {
        let hub = if at % 2 == 0 { &with_agent } else { &without };
        let ended = hub.ended(id).await;
        assert_eq!(ended["exit"], json!({ "cause": "exited", "status": at / 2 }), "{ended}");
        assert!(hub.output(id, false).await == expected.as_bytes(), "{ended}");
    }
    over.store(true, Ordering::Relaxed);
    assert!(cutter.join().expect("it cuts") > 10);
    cluster.has_runs(0).await;
}

/// A hub with a copy of its database from before it had any run.
async fn with_yesterday(settings: &str) -> (Server, Vec<u8>) {
    // An API server that does not answer once is asked again with the next look for what was left.
    let settings = format!("reap = \"5s\"\n{settings}");
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    hub.terminate().await;
    let yesterday = fs::read(hub.home().join("foghorn.db")).expect("a database");
    hub.again().await;
    (hub, yesterday)
}

/// Starts a hub that was killed with its database of yesterday.
async fn again_with(hub: &mut Server, yesterday: &[u8]) {
    for file in ["foghorn.db", "foghorn.db-wal", "foghorn.db-shm"] {
        let _ = fs::remove_file(hub.home().join(file));
    }
    fs::write(hub.home().join("foghorn.db"), yesterday).expect("writes");
    hub.again().await;
}

/// What does not change about a session.
async fn card(hub: &Server, id: &str) -> Vec<Value> {
    let (_, session) = hub.ask("GET", &format!("/v1/sessions/{id}"), None).await;
    let parts = ["name", "kind", "app", "owner", "command", "tty", "record", "detached", "created_at"];
    parts.map(|part| session[part].clone()).to_vec()
}

/// Of a run that has printed this before.
async fn costs_nobody_a_run(cluster: &Cluster, settings: &str, printed: &str) {
    cluster.deploy("demo");
    let (mut hub, yesterday) = with_yesterday(settings).await;
    let script = format!("printf '{printed}'; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo after; sleep 1; exit 5");
    let id = runs(&mut hub, &["sh", "-c", &script]).await;
    let before = card(&hub, &id).await;
    let pod = cluster.runs().remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    hub.kill();
    again_with(&mut hub, &yesterday).await;
    is_running(&hub, &id).await;
    assert_eq!(card(&hub, &id).await, before);
    cluster.kubectl(&["exec", &pod, "--", "touch", "/tmp/go"]);
    assert_eq!(hub.ended(&id).await["exit_status"], 5);
    assert_eq!(hub.output(&id, false).await, format!("{printed}after\n"));
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn yesterdays_database_costs_nobody_a_run() {
    let Some(cluster) = Cluster::start().await else { return };
    // An agent lets go what a database has.
    costs_nobody_a_run(&cluster, &cluster.settings_with_agent(), "").await;
}

#[tokio::test]
async fn yesterdays_database_costs_nobody_a_run_that_is_attached_to() {
    let Some(cluster) = Cluster::start().await else { return };
    costs_nobody_a_run(&cluster, &format!("{}runner = \"attach\"\n", cluster.settings()), "before\n").await;
}

#[tokio::test]
async fn yesterdays_database_gets_the_end_of_a_run_that_was_attached_to() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let (mut hub, yesterday) = with_yesterday(&format!("{}runner = \"attach\"\n", cluster.settings())).await;
    // A runtime may leave out of the log what is printed right before the end.
    let script = "echo before; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo after; sleep 1; exit 5";
    // Nobody has left it on purpose, as far as its pod says; and nobody comes back to hold it.
    let started = hub.run(&["sh", "-c", script], json!({ "app": "demo" })).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    is_running(&hub, &id).await;
    let pod = cluster.runs().remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    hub.kill();
    cluster.kubectl(&["exec", &pod, "--", "touch", "/tmp/go"]);
    let phase = ["get", "pod", &pod, "-o", "jsonpath={.status.phase}"];
    until("the pod has ended", async || (cluster.kubectl(&phase) == "Failed").then_some(())).await;
    again_with(&mut hub, &yesterday).await;
    let ended = hub.ended(&id).await;
    assert_eq!(ended["exit"], json!({ "cause": "exited", "status": 5 }), "{ended}");
    assert_eq!(hub.output(&id, false).await, "before\nafter\n");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_pod_says_who_its_session_is_for_the_app_of_its_namespace_alone() {
    let Some(cluster) = Cluster::start().await else { return };
    let app = cluster.namespace.clone();
    cluster.deploy(&app);
    let cluster_of_apps = cluster.settings().replace(&app, "{app}");
    let settings = format!("reap = \"300ms\"\n{cluster_of_apps}runner = \"attach\"\n");
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let started = hub.run(&["sleep", "600"], json!({ "app": app, "detached": true })).await;
    is_running(&hub, started["id"].as_str().expect("an id")).await;
    let made = cluster.runs().remove(0);
    let annotation = made["metadata"]["annotations"]["foghorn.dev/card"].as_str().expect("a card");
    let mut ids = Vec::new();
    for (name, claimed) in [("strange", "shop"), ("own", &*app)] {
        let id = uuid::Uuid::new_v4().to_string();
        let mut card: Value = serde_json::from_str(annotation).expect("JSON");
        (card["app"], card["name"]) = (json!(claimed), json!(name));
        let mut labels = made["metadata"]["labels"].clone();
        labels["foghorn.dev/session"] = json!(id);
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": labels, "annotations": { "foghorn.dev/card": card.to_string() } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": BASH, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"],
            }] },
        }));
        let phase = ["get", "pod", name, "-o", "jsonpath={.status.phase}"];
        until("the pod runs", async || (cluster.kubectl(&phase) == "Running").then_some(())).await;
        ids.push(id);
    }
    is_running(&hub, &ids[1]).await;
    assert_eq!(card(&hub, &ids[1]).await[0], "own");
    assert_eq!(hub.ask("GET", &format!("/v1/sessions/{}", ids[0]), None).await.0, 404);
    cluster.kubectl(&["get", "pod", "strange"]);
}

#[tokio::test]
async fn a_run_whose_hub_never_comes_back_ends_by_itself() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let settings = format!("orphan = \"4s\"\n{}", cluster.settings_with_agent());
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let started = hub.run(&["sleep", "600"], json!({ "app": "demo" })).await;
    is_running(&hub, started["id"].as_str().expect("an id")).await;
    hub.kill();
    // A bridge whose other end died without a word is found out first.
    let since = std::time::Instant::now();
    let longest = Duration::from_secs(150);
    while !["Succeeded", "Failed"].contains(&cluster.runs()[0]["status"]["phase"].as_str().expect("a phase")) {
        assert!(since.elapsed() < longest, "{}", cluster.runs()[0]);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The next hub finds what is left, and puts an end to it.
    hub.again().await;
    cluster.has_runs(0).await;
    let (_, sessions) = hub.ask("GET", "/v1/sessions", None).await;
    assert_eq!(sessions["sessions"][0]["state"], "ended", "{sessions}");
}

#[tokio::test]
async fn a_pod_that_outlived_its_session_is_found() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let settings = format!("reap = \"300ms\"\n{}", cluster.settings_with_agent());
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let id = runs(&mut hub, &["sleep", "600"]).await;
    let mut pod = cluster.runs().remove(0);
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
    cluster.has_runs(0).await;
    // The same one again, as if nobody had deleted it; and one of somebody else's, which is left alone.
    for (name, installation) in [("late", None), ("strange", Some("11111111-2222-3333-4444-555555555555"))] {
        let labels = pod["metadata"]["labels"].clone();
        pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
            "spec": { "containers": [{
                "name": "c", "image": "docker.io/rig/bash:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"],
            }] },
        });
        if let Some(installation) = installation {
            pod["metadata"]["labels"]["foghorn.dev/installation"] = json!(installation);
        }
        cluster.apply(&pod);
    }
    cluster.has_runs(1).await;
    let deleted = ["get", "pod", "strange", "-o", "jsonpath={.metadata.deletionTimestamp}"];
    assert_eq!(cluster.kubectl(&deleted), "");
}

/// With what a hub in a cluster has: the reaper's turn is a lock of the database there.
#[tokio::test]
async fn a_hub_on_postgresql_loses_no_run_and_leaves_none() {
    let (Some(cluster), Some(database)) = (Cluster::start().await, Database::alone().await) else { return };
    cluster.deploy("demo");
    let settings = format!("reap = \"300ms\"\n{}", cluster.settings_with_agent());
    let url = database.url();
    let env = [("FOGHORN_BACKEND", "kubernetes"), ("FOGHORN_DATABASE_URL", &*url)];
    let mut hub = Server::start_with(&settings, &env).await;
    hub.terminate().await;
    database.keep_copy().await;
    hub.again().await;
    let script = "seq 1 100; while [ ! -e /tmp/go ]; do sleep 0.1; done; seq 101 200; exit 6";
    let id = runs(&mut hub, &["sh", "-c", script]).await;
    let pod = cluster.runs().remove(0);
    hub.kill();
    database.stop();
    database.start().await;
    hub.again().await;
    is_running(&hub, &id).await;
    cluster.kubectl(&["exec", pod["metadata"]["name"].as_str().expect("a name"), "--", "touch", "/tmp/go"]);
    assert_eq!(hub.ended(&id).await["exit_status"], 6);
    let expected: String = (1..=200).map(|line| format!("{line}\n")).collect();
    assert_eq!(hub.output(&id, false).await, expected);
    cluster.has_runs(0).await;
    // As if nobody had deleted it.
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "late", "labels": pod["metadata"]["labels"] },
        "spec": { "containers": [{
            "name": "c", "image": BASH, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"],
        }] },
    }));
    cluster.has_runs(0).await;
    let id = runs(&mut hub, &["sleep", "600"]).await;
    hub.kill();
    database.put_copy_back().await;
    hub.again().await;
    is_running(&hub, &id).await;
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!(hub.ended(&id).await["exit_status"], 143);
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_run_whose_pod_is_deleted_has_an_end() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    let id = runs(&mut hub, &["sleep", "600"]).await;
    let pod = cluster.runs().remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    cluster.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]);
    let ended = hub.ended(&id).await;
    assert_eq!(ended["exit_status"], 125, "{ended}");
    assert!(["lost", "evicted"].contains(&ended["exit"]["cause"].as_str().expect("a cause")), "{ended}");
}
