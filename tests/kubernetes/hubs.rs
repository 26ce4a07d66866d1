//! Hubs that come, go, and share a cluster: no run is ended that is not theirs to end, and none is left.

use std::fs;

use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

use crate::support::cluster::Cluster;
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
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(cluster.runs().len(), 1);
    proxy.close(false);
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn yesterdays_database_costs_nobody_a_run() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    hub.terminate().await;
    let database = hub.home().join("foghorn.db");
    let yesterday = fs::read(&database).expect("a database");
    hub.again().await;
    // What it had printed and the newer database had taken, the older one would not have: that would be told as a gap.
    let script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; echo after; exit 5";
    let id = runs(&mut hub, &["sh", "-c", script]).await;
    let pod = cluster.runs().remove(0)["metadata"]["name"].as_str().expect("a name").to_owned();
    hub.kill();
    for file in ["foghorn.db", "foghorn.db-wal", "foghorn.db-shm"] {
        let _ = fs::remove_file(hub.home().join(file));
    }
    fs::write(&database, &yesterday).expect("writes");
    hub.again().await;
    is_running(&hub, &id).await;
    cluster.kubectl(&["exec", &pod, "--", "touch", "/tmp/go"]);
    assert_eq!(hub.ended(&id).await["exit_status"], 5);
    assert_eq!(hub.output(&id, false).await, "after\n");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn a_run_whose_hub_never_comes_back_ends_by_itself() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let settings = format!("orphan = \"4s\"\ntime = \"5s\"\n{}", cluster.settings_with_agent());
    let mut hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    let started = hub.run(&["sleep", "600"], json!({ "app": "demo" })).await;
    is_running(&hub, started["id"].as_str().expect("an id")).await;
    hub.kill();
    // A bridge whose other end died without a word is found out first.
    let since = std::time::Instant::now();
    let longest = std::time::Duration::from_secs(150);
    while !["Succeeded", "Failed"].contains(&cluster.runs()[0]["status"]["phase"].as_str().expect("a phase")) {
        assert!(since.elapsed() < longest, "{}", cluster.runs()[0]);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
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
