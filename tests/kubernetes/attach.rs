//! Runs without an agent: the hub attaches to the command's own container.

use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::program::Program;
use crate::support::server::{Hello, Server};

/// A cluster with the app `demo`, and a hub that brings no agent.
async fn demo() -> Option<(Cluster, Server)> {
    let cluster = Cluster::start().await?;
    cluster.deploy("demo");
    let hub = Server::start_with(&cluster.settings(), &[("FOGHORN_BACKEND", "kubernetes")]).await;
    Some((cluster, hub))
}

async fn run(hub: &mut Server, script: &str) -> String {
    let started = hub.run(&["sh", "-c", script], json!({ "app": "demo", "detached": true })).await;
    started["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn attach_gives_all_output_and_the_status_of_one_that_ends_at_once() {
    let Some((cluster, mut hub)) = demo().await else { return };
    for status in [0, 7] {
        // The log has two streams in another order than they were written where they are; and a runtime may leave out of it
        // what is printed right before the end.
        let id =
            run(&mut hub, &format!("echo $GREETING; sleep 1; echo e >&2; sleep 1; printf end; sleep 1; exit {status}"))
                .await;
        let mut viewer = hub.attach(&id, Hello::watch()).await;
        viewer.rest().await;
        assert_eq!(String::from_utf8_lossy(&viewer.output), "hello\ne\nend");
        assert_eq!(hub.ended(&id).await["exit"], json!({ "cause": "exited", "status": status }));
    }
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn attach_gives_each_line_of_much_output_once() {
    let Some((_cluster, mut hub)) = demo().await else { return };
    // A runtime may leave out of the log what is printed right before the end. Less than makes a log that is rotated.
    let id = run(&mut hub, "seq 1 150000; sleep 5").await;
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.rest().await;
    let expected: String = (1..=150_000).map(|line| format!("{line}\n")).collect();
    let other = std::iter::zip(viewer.output.split(|byte| *byte == b'\n'), 1..)
        .find(|(line, number)| *line != number.to_string().as_bytes())
        .map(|(line, number)| (String::from_utf8_lossy(line), number));
    assert_eq!((other, viewer.output.len()), (Some(("".into(), 150_001)), expected.len()), "{:?}", viewer.seen);
    assert_eq!(viewer.gaps, []);
    assert!(hub.output(&id, true).await == expected.as_bytes());
}

#[tokio::test]
async fn attach_goes_on_behind_a_hub_that_was_killed() {
    let Some((_cluster, mut hub)) = demo().await else { return };
    let id = run(&mut hub, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; sleep 0.005; done; sleep 1").await;
    for line in ["line 100\n", "line 900\n"] {
        let mut viewer = hub.attach(&id, Hello::watch()).await;
        viewer.shows(line).await;
        hub.kill();
        hub.again().await;
    }
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.rest().await;
    let output = String::from_utf8_lossy(&viewer.output);
    let other = output.lines().enumerate().find(|(at, line)| *line != format!("line {}", at + 1));
    assert_eq!((other, output.lines().count()), (None, 2000), "{:?}", viewer.seen);
    assert_eq!(viewer.gaps, []);
    assert_eq!(hub.ended(&id).await["exit_status"], 0);
}

#[tokio::test]
async fn attach_gives_a_terminal() {
    let Some((_cluster, mut hub)) = demo().await else { return };
    let wish = json!({ "app": "demo", "tty": true, "stdin": true, "size": { "cols": 91, "rows": 17 } });
    let started = hub.run(&["bash"], wish).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let mut driver = hub.attach(&id, Hello::drive(1)).await;
    // The size and what is typed go different ways.
    let sized = "until [ \"$(stty size)\" = '17 91' ]; do :; done; echo a$((40+2))z\r";
    driver.type_at(0, sized).await;
    driver.shows("a42z").await;
    let at = sized.len() as u64;
    // What it prints, and not its echo, says that it has the terminal.
    let sleep = "sh -c 'echo ready$((1+1)); exec sleep 1000'\r";
    driver.type_at(at, sleep).await;
    driver.shows("ready2").await;
    driver.type_at(at + sleep.len() as u64, "\u{3}exit 5\r").await;
    driver.rest().await;
    assert_eq!(hub.ended(&id).await["exit_status"], 5);
}

#[tokio::test]
async fn attach_brings_input_and_its_end() {
    let Some((_cluster, hub)) = demo().await else { return };
    let mut program = Program::start(&hub, &hub.url(), &["run", "-a", "demo", "--", "sh", "-c", "wc -l; sleep 1"]);
    program.types("a\nb\n");
    let (status, out, said) = program.ends().await;
    assert_eq!((status, String::from_utf8_lossy(&out).trim()), (Some(0), "2"), "{said}");
}

#[tokio::test]
async fn attach_ends_when_it_is_stopped_and_where_its_command_is_not_there() {
    let Some((cluster, mut hub)) = demo().await else { return };
    let id = run(&mut hub, "trap 'echo bye; sleep 1; exit 0' TERM; echo up; while :; do sleep 0.1; done").await;
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.shows("up\n").await;
    assert_eq!(hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    viewer.rest().await;
    assert_eq!(String::from_utf8_lossy(&viewer.output), "up\nbye\n");
    assert_eq!(hub.ended(&id).await["exit"]["cause"], "stopped");
    let id = hub.run(&["no-such-program"], json!({ "app": "demo", "detached": true })).await;
    let ended = hub.ended(id["id"].as_str().expect("an id")).await;
    assert_eq!((&ended["exit_status"], &ended["exit"]["cause"]), (&json!(127), &json!("start_failed")), "{ended}");
    cluster.has_runs(0).await;
}

#[tokio::test]
async fn attach_tells_of_a_pod_that_somebody_deletes_or_drains() {
    let Some((cluster, mut hub)) = demo().await else { return };
    // Whatever its command ends with then.
    let clean = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    for (script, drained) in [("echo up; sleep 1000", false), (clean, false), (clean, true)] {
        let id = run(&mut hub, script).await;
        let mut viewer = hub.attach(&id, Hello::watch()).await;
        viewer.shows("up\n").await;
        let session = format!("foghorn.dev/session={id}");
        if drained {
            let pod = cluster.kubectl(&["get", "pods", "-l", &session, "-o", "jsonpath={.items[0].metadata.name}"]);
            let eviction = tempfile::NamedTempFile::new().expect("a file");
            let metadata = json!({ "name": pod, "namespace": cluster.namespace });
            let object = json!({ "apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": metadata });
            std::fs::write(eviction.path(), object.to_string()).expect("writes");
            let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", cluster.namespace);
            cluster.kubectl(&["create", "--raw", &path, "-f", &eviction.path().display().to_string()]);
        } else {
            cluster.kubectl(&["delete", "pods", "-l", &session, "--wait=false", "--grace-period=1"]);
        }
        let ended = hub.ended(&id).await;
        assert_eq!((&ended["exit_status"], &ended["exit"]["cause"]), (&json!(125), &json!("evicted")), "{ended}");
        assert!(ended["exit_text"].as_str().expect("a text").contains("deleted"), "{ended}");
    }
}
