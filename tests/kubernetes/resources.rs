//! What a run's pod gets: CPU, memory, what the settings add to it, and how long it may be.

use std::time::Duration;

use serde_json::{Value, json};

use super::starts::{is, run};
use crate::home::Home;
use crate::support::cluster::Cluster;
use crate::support::server::Server;

/// The pod of the only run, as the API server has it.
fn pod(cluster: &Cluster) -> Value {
    let runs = cluster.lasting_runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runs_pod_has_the_resources_asked_for_and_what_the_settings_say_last() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let more = "max_cpu = \"1\"\nmax_memory = \"128Mi\"\n[kubernetes.patch.metadata.labels]\nteam = \"blue\"\n\
                [kubernetes.patch.spec]\nterminationGracePeriodSeconds = 77\n";
    let home = Home::with_settings(&format!("backend = \"kubernetes\"\n{}{more}", cluster.settings_with_agent()));
    let asked = ["--cpu", "100m", "--memory", "64Mi"];
    let script = ["--", "sh", "-c", "echo runs; sleep 600"];
    let started = home.run(&[&["run", "-a", "demo", "-d"], &asked[..], &script].concat());
    assert_eq!(started.status, 0, "{}", started.stderr);
    crate::home::eventually("it runs", || (home.run(&["logs", "-s", "run.1"]).text() == "runs\n").then_some(()));
    let pod = pod(&cluster);
    let resources = json!({ "cpu": "100m", "memory": "64Mi" });
    assert_eq!(pod["spec"]["containers"][0]["resources"], json!({ "limits": resources, "requests": resources }));
    assert_eq!(pod["metadata"]["labels"]["team"], "blue");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 77);
    home.run(&["stop", "run.1"]);
    for (asked, says) in [
        (["--memory", "0"], "--memory 0 is nothing"),
        (["--cpu", "0m"], "--cpu 0m is nothing"),
        (["--memory", "129Mi"], "--memory 129Mi is more than the 128Mi that a run may have here"),
        (["--cpu", "1001m"], "--cpu 1001m is more than the 1 that a run may have here"),
    ] {
        let refused = home.run(&[&["run", "-a", "demo"], &asked[..], &["--", "true"]].concat());
        assert_eq!(refused.status, 125, "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    crate::home::eventually("the pod is gone", || cluster.runs().is_empty().then_some(()));
}

/// A hub with an agent beside each command, and one without.
async fn hubs(cluster: &Cluster) -> [Server; 2] {
    let without = Server::start_with(&cluster.settings(), &[("FOGHORN_BACKEND", "kubernetes")]).await;
    [cluster.hub().await, without]
}

/// Runs a command to its end that has little memory, and what it printed.
async fn in_little(hub: &mut Server, command: &[&str]) -> (Value, Vec<u8>) {
    let started = hub.run(command, json!({ "app": "demo", "detached": true, "memory": "32Mi" })).await;
    let id = started["id"].as_str().expect("an id");
    (hub.ended(id).await, hub.output(id, false).await.to_vec())
}

// What keeps a line that has no end: `tail /dev/zero`. With cgroups of version 1 the kernel kills that process alone; with
// those of version 2 a kubelet has all of the container's killed, and the agent with them.

#[tokio::test]
async fn a_command_that_uses_too_much_memory_is_killed_and_where_it_is_the_container_it_is_said_why() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let [mut with_agent, mut without] = hubs(&cluster).await;
    let (ended, _) = in_little(&mut with_agent, &["tail", "/dev/zero"]).await;
    match ended["exit"]["cause"].as_str() {
        Some("signalled") => is(&cluster, &ended, 137, &["killed by signal 9"]).await,
        _ => is(&cluster, &ended, 125, &["used too much memory"]).await,
    }
    let (ended, _) = in_little(&mut without, &["tail", "/dev/zero"]).await;
    is(&cluster, &ended, 125, &["used too much memory"]).await;
}

#[tokio::test]
async fn a_command_that_outlives_a_process_that_used_too_much_memory_has_its_own_status() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    for mut hub in hubs(&cluster).await {
        let script = "tail /dev/zero; echo it ended with $?; sleep 1; exit 4";
        let (ended, output) = in_little(&mut hub, &["sh", "-c", script]).await;
        if output.is_empty() {
            is(&cluster, &ended, 125, &["used too much memory"]).await;
        } else {
            // The shell says on stderr that it was killed, before or after that.
            let output = String::from_utf8_lossy(&output);
            assert!(output.lines().any(|line| line == "it ended with 137"), "{output}");
            is(&cluster, &ended, 4, &["exited with status 4"]).await;
        }
    }
}

#[tokio::test]
async fn the_platforms_own_limit_is_above_the_sessions_and_is_one() {
    let Some(cluster) = Cluster::start().await else { return };
    cluster.deploy("demo");
    let mut hub = cluster.hub().await;
    for (timeout, limit) in [(json!("10m"), Duration::from_secs(600)), (Value::Null, Duration::from_secs(24 * 60 * 60))]
    {
        let source = json!({ "app": "demo", "detached": true, "timeout": timeout });
        let started = hub.run(&["sleep", "600"], source).await;
        let deadline = pod(&cluster)["spec"]["activeDeadlineSeconds"].as_u64().expect("a deadline");
        // The pod has to be made and to start in it as well.
        assert!(Duration::from_secs(deadline) >= limit + Duration::from_secs(60), "{deadline} s for {limit:?}");
        assert!(Duration::from_secs(deadline) <= limit + Duration::from_secs(60 * 60), "{deadline} s for {limit:?}");
        hub.ask("DELETE", &format!("/v1/sessions/{}", started["id"].as_str().expect("an id")), None).await;
        cluster.has_runs(0).await;
    }
    // Where it is reached all the same, as with a patch, the agent is told to stop before the pod says why.
    let mut hub = cluster.hub_with("patch = { spec = { activeDeadlineSeconds = 5 } }\n").await;
    let ended = run(&mut hub, "demo", &["sleep", "600"]).await;
    assert!(["evicted", "time_limit"].contains(&ended["exit"]["cause"].as_str().expect("a cause")), "{ended}");
    cluster.has_runs(0).await;
}
