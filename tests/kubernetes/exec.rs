//! Exec: a command in a pod of the app that runs already.

use std::io::Write;

use foghorn::record::Size;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::program::Program;
use crate::support::server::{Hello, Server, until};

/// A cluster with the app `demo`, whose pod runs, and a hub.
async fn demo() -> Option<(Cluster, Server)> {
    let cluster = Cluster::start().await?;
    cluster.deploy("demo");
    cluster.kubectl(&["rollout", "status", "deploy/demo-web", "--timeout=60s"]);
    let hub = Server::start_with(&cluster.settings(), &[("FOGHORN_BACKEND", "kubernetes")]).await;
    Some((cluster, hub))
}

/// The command line's exec of a script, without a terminal.
fn exec(hub: &Server, options: &[&str], script: &str) -> Program {
    let args = [&["exec", "-a", "demo", "web.1", "-T"], options, &["--", "sh", "-c", script]].concat();
    Program::start(hub, &hub.url(), &args)
}

/// Starts a command by the door.
async fn start(hub: &Server, command: &[&str], with: Value) -> (u16, Value) {
    let mut source = json!({ "kind": "exec", "app": "demo", "pod": "web.1", "command": command });
    for (name, value) in with.as_object().into_iter().flatten() {
        source[name] = value.clone();
    }
    hub.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await
}

/// The id of one that started.
async fn started(hub: &Server, command: &[&str], with: Value) -> String {
    let (status, session) = start(hub, command, with).await;
    assert_eq!(status, 201, "{session}");
    assert_eq!(session["kind"], "exec");
    session["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn exec_has_the_containers_environment_streams_apart_and_the_commands_status() {
    let Some((_cluster, hub)) = demo().await else { return };
    let (status, out, said) = exec(&hub, &["-n"], "echo $GREETING; echo e >&2; exit 7").ends().await;
    assert_eq!((status, String::from_utf8_lossy(&out).as_ref()), (Some(7), "hello\n"), "{said}");
    assert!(said.contains("\ne\n"), "{said}");
    assert!(said.contains("exec."), "{said}");
}

#[tokio::test]
async fn exec_at_a_terminal_is_resized_and_interrupted() {
    let Some((_cluster, hub)) = demo().await else { return };
    let id = started(&hub, &["bash"], json!({ "tty": true, "stdin": true, "size": { "cols": 91, "rows": 17 } })).await;
    let size = Some(Size { cols: 91, rows: 17 });
    let mut driver = hub.attach(&id, Hello { size, ..Hello::drive(1) }).await;
    let mut at = 0;
    let mut types = async |driver: &mut crate::support::server::Viewer, text: &str| {
        driver.type_at(at, text).await;
        at += text.len() as u64;
    };
    // The size and what is typed go different ways.
    types(&mut driver, "until [ \"$(stty size)\" = '17 91' ]; do :; done; echo a$((40+2))z\r").await;
    driver.shows("a42z").await;
    let resize = foghorn::protocol::ClientMessage::Resize { size: Size { cols: 99, rows: 33 } };
    driver.say(&resize).await;
    until("the new size is there", async || {
        types(&mut driver, "stty size\r").await;
        tokio::time::timeout(std::time::Duration::from_millis(500), driver.shows("33 99")).await.ok()
    })
    .await;
    // What it prints, and not its echo, says that it has the terminal.
    types(&mut driver, "sh -c 'echo ready$((1+1)); exec sleep 1000'\r").await;
    driver.shows("ready2").await;
    let (status, _) = hub.ask("POST", &format!("/v1/sessions/{id}/signal"), Some(json!({ "signal": 2 }))).await;
    assert_eq!(status, 204);
    types(&mut driver, "echo still $((1+1)) here\r").await;
    driver.shows("still 2 here").await;
    types(&mut driver, "exit 5\r").await;
    driver.rest().await;
    assert_eq!(hub.ended(&id).await["exit_status"], 5);
}

#[tokio::test]
async fn exec_loses_no_byte_of_much_output_while_somebody_types() {
    let Some((_cluster, hub)) = demo().await else { return };
    let script = "exec 3<&0; (read x <&3; echo got $x >&2) & seq 1 1500000; wait";
    let id = started(&hub, &["sh", "-c", script], json!({ "stdin": true })).await;
    let (mut one, mut two) = (hub.attach(&id, Hello::watch()).await, hub.attach(&id, Hello::drive(1)).await);
    two.type_at(0, "it\n").await;
    tokio::join!(one.rest(), two.rest());
    assert_eq!(one.output, two.output);
    let expected: String = (1..=1_500_000).map(|line| format!("{line}\n")).collect();
    let got = String::from_utf8(one.output).expect("text");
    // What stderr says stands somewhere in between.
    assert_eq!(got.replacen("got it\n", "", 1).len(), expected.len());
    assert!(got.replacen("got it\n", "", 1) == expected);
    assert!(hub.output(&id, true).await == got.as_bytes());
}

#[tokio::test]
async fn exec_takes_input_to_its_last_byte() {
    let Some((_cluster, hub)) = demo().await else { return };
    let mut program = exec(&hub, &[], "head -c 3000000 | md5sum");
    let mut stdin = program.stdin();
    let data: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let sum = data.clone();
    std::thread::spawn(move || stdin.write_all(&data));
    let (status, out, said) = program.ends().await;
    assert_eq!(status, Some(0), "{said}");
    let local = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut local = local.expect("md5sum");
    local.stdin.take().expect("its input").write_all(&sum).expect("writes");
    assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&local.wait_with_output().expect("ends").stdout));
}

#[tokio::test]
async fn exec_says_that_the_end_of_input_cannot_be_told_and_is_stopped() {
    let Some((_cluster, hub)) = demo().await else { return };
    let mut program = exec(&hub, &[], "cat; sleep 1000");
    program.types("one\n");
    program.prints("one\n").await;
    drop(program.stdin());
    program.says("is not told that its input has ended").await;
    let (_, sessions) = hub.ask("GET", "/v1/sessions?state=live", None).await;
    let id = sessions["sessions"][0]["id"].as_str().expect("a session").to_owned();
    assert_eq!(hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    let (status, out, said) = program.ends().await;
    assert_eq!((status, &*out), (Some(143), &b"one\n"[..]), "{said}");
    assert!(said.contains("goes on in its container"), "{said}");
}

#[tokio::test]
async fn exec_that_cannot_be_says_why() {
    let Some((cluster, hub)) = demo().await else { return };
    let name = cluster.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    let (status, problem) = start(&hub, &["true"], json!({ "pod": "web.9" })).await;
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().expect("a detail").contains(&format!("web.1 ({name})")), "{problem}");
    let (status, problem) = start(&hub, &["true"], json!({ "container": "db" })).await;
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().expect("a detail").contains("no container db; it has web"), "{problem}");
    let (status, _) = start(&hub, &["true"], json!({ "app": "shop" })).await;
    assert_eq!(status, 400, "the pod is another app's");
    let id = started(&hub, &["no-such-program"], json!({ "pod": name })).await;
    let ended = hub.ended(&id).await;
    assert_eq!((&ended["exit_status"], &ended["exit"]["cause"]), (&json!(127), &json!("start_failed")), "{ended}");
}

#[tokio::test]
async fn exec_ends_with_its_limit_its_pod_and_its_hub() {
    let Some((cluster, mut hub)) = demo().await else { return };
    let sleep = ["sh", "-c", "echo up; sleep 1000"];
    let limited = started(&hub, &sleep, json!({ "timeout": "1s" })).await;
    assert_eq!(hub.ended(&limited).await["exit"]["cause"], "time_limit");
    let evicted = started(&hub, &sleep, json!({})).await;
    let mut viewer = hub.attach(&evicted, Hello::watch()).await;
    viewer.shows("up\n").await;
    cluster.kubectl(&["delete", "pods", "--all", "--wait=false", "--grace-period=1"]);
    let ended = hub.ended(&evicted).await;
    assert!(ended["exit_status"].as_u64().expect("a status") >= 125, "{ended}");
    until("another pod runs", async || start(&hub, &["true"], json!({})).await.1["id"].as_str().map(|_| ())).await;
    let lost = started(&hub, &sleep, json!({})).await;
    let mut viewer = hub.attach(&lost, Hello::watch()).await;
    viewer.shows("up\n").await;
    until("it is stored", async || (hub.output(&lost, false).await == "up\n").then_some(())).await;
    hub.kill();
    hub.again().await;
    let ended = hub.ended(&lost).await;
    assert_eq!(ended["exit"]["cause"], "lost", "{ended}");
    assert!(ended["exit_text"].as_str().expect("a text").contains("may go on"), "{ended}");
}

#[tokio::test]
async fn an_exec_that_is_asked_for_again_is_the_same_also_once_its_pod_is_gone() {
    let Some((cluster, hub)) = demo().await else { return };
    let keyed = json!({ "idempotency_key": "k" });
    let id = started(&hub, &["sh", "-c", "exit 3"], keyed.clone()).await;
    assert_eq!(hub.ended(&id).await["exit_status"], 3);
    cluster.kubectl(&["scale", "deploy/demo-web", "--replicas=0"]);
    until("there is no pod", async || {
        let (status, problem) = start(&hub, &["true"], json!({})).await;
        (status == 400).then(|| assert!(problem["detail"].as_str().expect("a detail").contains("no running pod")))
    })
    .await;
    let (status, again) = start(&hub, &["sh", "-c", "exit 3"], keyed.clone()).await;
    assert_eq!((status, &again["id"]), (200, &json!(id)), "{again}");
    let (status, other) = start(&hub, &["true"], keyed).await;
    assert_eq!((status, &other["code"]), (409, &json!("idempotency_key_reused")), "{other}");
}
