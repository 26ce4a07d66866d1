//! The controller's hand-over: a platform makes a pod and a UUID, and the command line connects by them.

use std::process::{Command, Stdio};

use foghorn::protocol::HubMessage;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::{BASH, Cluster};
use crate::support::server::{Hello, Server, tokens, until};

const CONTROLLER: &str = "controller-token-0123456789";
const ELSEWHERE: &str = "elsewhere-token-0123456789";
const USER: &str = "user-token-0123456789";

/// A cluster, and a hub that knows a controller, one of another app, and a user.
async fn hub(settings: &str) -> Option<(Cluster, Server, tempfile::TempDir)> {
    let cluster = Cluster::start().await?;
    let dir = tempfile::tempdir().expect("a directory");
    let file = tokens(dir.path(), &[("deis", "controller", CONTROLLER), ("ann", "user", USER)]);
    let mut text = std::fs::read_to_string(&file).expect("reads");
    text +=
        &format!("[[token]]\nname = \"drycc\"\nrole = \"controller\"\ntoken = \"{ELSEWHERE}\"\napps = [\"shop\"]\n");
    std::fs::write(&file, text).expect("writes");
    let env = [("FOGHORN_BACKEND", "kubernetes"), ("FOGHORN_TOKENS", file.to_str().expect("a path"))];
    let hub = Server::start_with(&format!("{}{settings}", cluster.settings()), &env).await;
    Some((cluster, hub, dir))
}

/// A pod as a controller makes one.
fn pod(cluster: &Cluster, name: &str, app: &str, script: &str, tty: bool) {
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app.kubernetes.io/instance": app } },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "run", "image": BASH, "imagePullPolicy": "IfNotPresent", "stdin": true, "tty": tty,
                "command": ["sh", "-c", script],
            }],
        },
    }));
}

fn body(cluster: &Cluster, id: Uuid, pod: &str, with: Value) -> Value {
    let mut source = json!({ "kind": "pod", "namespace": cluster.namespace, "pod": pod });
    for (name, value) in with.as_object().into_iter().flatten() {
        source[name] = value.clone();
    }
    json!({ "id": id, "source": source })
}

/// `curl` with a token: the status and the body.
fn curl(hub: &Server, token: &str, body: &Value) -> (u16, Value) {
    let output = Command::new("curl")
        .args(["-sS", "-w", "\n%{http_code}", "-H", &format!("Authorization: Bearer {token}")])
        .args(["-H", "Content-Type: application/json", "--data", &body.to_string()])
        .arg(format!("{}/v1/sessions", hub.url()))
        .output()
        .expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a status"), serde_json::from_str(body).expect("JSON"))
}

/// The command line with a ticket alone.
fn attach(hub: &Server, id: Uuid, ticket: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_foghorn"))
        .args(["attach", &id.to_string()])
        .env("FOGHORN_URL", hub.url())
        .env("FOGHORN_TOKEN", ticket)
        .stdin(Stdio::null())
        .output()
        .expect("foghorn");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn handover_by_kubectl_and_curl_and_the_command_line_connects_by_the_uuid() {
    let Some((cluster, hub, _dir)) = hub("").await else { return };
    pod(&cluster, "blog-run-1", "blog", "for i in 1 2 3; do echo line $i; sleep 0.3; done; echo e >&2; exit 9", false);
    let id = Uuid::new_v4();
    let wish = body(&cluster, id, "blog-run-1", json!({ "container": "run" }));
    let (status, session) = curl(&hub, CONTROLLER, &wish);
    assert_eq!(status, 201, "{session}");
    assert_eq!((&session["id"], &session["app"], &session["kind"]), (&json!(id), &json!("blog"), &json!("pod")));
    assert_eq!(session["owner"], "deis");
    let ticket = session["ticket"]["secret"].as_str().expect("a ticket").to_owned();
    let (code, out, said) = attach(&hub, id, &ticket);
    assert_eq!(code, Some(9), "{said}");
    for line in ["line 1\n", "line 2\n", "line 3\n"] {
        assert_eq!(out.matches(line).count(), 1, "{out}");
    }
    // The same call is the same session, with a ticket again.
    let (status, again) = curl(&hub, CONTROLLER, &wish);
    assert_eq!((status, &again["id"], &again["name"]), (200, &session["id"], &session["name"]));
    let second = again["ticket"]["secret"].as_str().expect("a ticket");
    assert_ne!(second, ticket);
    assert_eq!(hub.ask_as(second, "GET", &format!("/v1/sessions/{id}"), None).await.0, 200);
    // Another one is not, and gets nothing.
    let other = body(&cluster, id, "blog-run-1", json!({ "container": "run", "delete": true }));
    for (token, wish, expected) in [(CONTROLLER, &other, 409), (ELSEWHERE, &wish, 403)] {
        let (status, problem) = curl(&hub, token, wish);
        assert_eq!(status, expected, "{problem}");
        assert!(problem.get("ticket").is_none_or(Value::is_null), "{problem}");
    }
    let (status, problem) = hub.ask("POST", "/v1/sessions", Some(wish.clone())).await;
    assert_eq!((status, &problem["code"]), (409, &json!("id_taken")), "an admin is another caller");
    hub.stored(&id.to_string()).await;
    cluster.kubectl(&["get", "pod", "blog-run-1"]);
}

#[tokio::test]
async fn handover_of_a_terminal_that_is_not_there_yet() {
    let Some((cluster, hub, _dir)) = hub("").await else { return };
    let id = Uuid::new_v4();
    let (status, problem) = curl(&hub, CONTROLLER, &body(&cluster, id, "later", json!({})));
    assert_eq!(status, 400, "{problem}");
    assert!(problem["detail"].as_str().expect("a detail").contains("which app"), "{problem}");
    let wish = body(&cluster, id, "later", json!({ "app": "blog", "tty": true, "delete": true }));
    let (status, session) = curl(&hub, CONTROLLER, &wish);
    assert_eq!((status, &session["tty"]), (201, &json!(true)), "{session}");
    let ticket = session["ticket"]["secret"].as_str().expect("a ticket");
    let mut driver = hub.attach_as(ticket, &id.to_string(), Hello::drive(1)).await.expect("attaches");
    driver
        .hears(|message| matches!(message, HubMessage::Notice { text, .. } if text.contains("waiting for the pod")))
        .await;
    pod(&cluster, "later", "blog", "exec bash", true);
    driver.type_at(0, "echo a$((40+2))z\r").await;
    driver.shows("a42z").await;
    driver.type_at(17, "exit 4\r").await;
    driver.rest().await;
    assert_eq!(hub.ended(&id.to_string()).await["exit_status"], 4);
    until("its pod is deleted", async || cluster.try_kubectl(&["get", "pod", "later"]).err()).await;
}

/// A runtime's log of a terminal may have no CR.
#[tokio::test]
async fn handover_of_a_terminal_that_has_printed_already_gives_whole_ends_of_lines() {
    let Some((cluster, mut hub, _dir)) = hub("").await else { return };
    let script = "for i in 1 2 3; do echo early $i; done; PS1='at $ ' exec bash --norc --noprofile";
    pod(&cluster, "early", "blog", script, true);
    until("it has printed", async || {
        cluster.try_kubectl(&["logs", "early"]).ok().filter(|log| log.contains("early 3"))
    })
    .await;
    let id = Uuid::new_v4();
    let (status, session) = curl(&hub, CONTROLLER, &body(&cluster, id, "early", json!({ "tty": true })));
    assert_eq!(status, 201, "{session}");
    let ticket = session["ticket"]["secret"].as_str().expect("a ticket");
    let id = id.to_string();
    let mut at = 0;
    for turn in 0..3_u32 {
        let mut driver = hub.attach_as(ticket, &id, Hello::drive(u128::from(turn))).await.expect("attaches");
        driver.shows("early 3\r\n").await;
        let keys = format!("echo turn$(({turn}+10))z; printf 'ba''r\\r\\n'\r");
        driver.type_at(0, &keys).await;
        driver.shows(&format!("turn{}z\r\nbar\r", turn + 10)).await;
        assert!(driver.output.len() > at, "it goes on");
        at = driver.output.len();
        hub.kill();
        hub.again().await;
    }
    let mut driver = hub.attach_as(ticket, &id, Hello::drive(9)).await.expect("attaches");
    driver.type_at(0, "exit 1\r").await;
    driver.rest().await;
    let output = String::from_utf8_lossy(&driver.output);
    assert!(output.starts_with("early 1\r\nearly 2\r\nearly 3\r\n"), "{output:?}");
    assert!(
        output.ends_with("exit 1\r\nexit\r\n") || output.ends_with("exit 1\r\n\u{1b}[?2004l\rexit\r\n"),
        "{output:?}"
    );
    for (text, count) in [("turn10z\r\n", 1), ("turn11z\r\n", 1), ("turn12z\r\n", 1), ("bar\r", 3), ("exit\r\n", 1)] {
        assert_eq!(output.matches(text).count(), count, "{text:?} in {output:?}");
    }
    assert_eq!(output.replace("\r\n", "").matches('\n').count(), 0, "{output:?}");
    assert_eq!(hub.ended(&id).await["exit_status"], 1);
    assert!(hub.output(&id, false).await == driver.output, "the record has the same");
}

#[tokio::test]
async fn handover_keeps_a_terminal_from_those_who_read_the_apps_log() {
    let Some((cluster, hub, _dir)) = hub("").await else { return };
    for (name, tty) in [("blog-run-tty", true), ("blog-run-pipe", false)] {
        pod(&cluster, name, "blog", &format!("echo said by {name}; exec sleep 60"), tty);
        let id = Uuid::new_v4();
        let (status, session) = curl(&hub, CONTROLLER, &body(&cluster, id, name, json!({ "tty": tty })));
        assert_eq!(status, 201, "{session}");
        let ticket = session["ticket"]["secret"].as_str().expect("a ticket");
        let mut viewer = hub.attach_as(ticket, &id.to_string(), Hello::watch()).await.expect("attaches");
        viewer.shows("said by").await;
    }
    let log = async |token: &str, query: &str| {
        let (status, log) = hub.bytes_as(token, "GET", &format!("/v1/apps/blog/logs?{query}"), None).await;
        assert_eq!(status, 200);
        String::from_utf8_lossy(&log).into_owned()
    };
    for query in ["tail=50", "since=10m"] {
        let admins = until("the logs have it", async || {
            let log = log(&hub.token(), query).await;
            (log.contains("said by blog-run-tty") && log.contains("said by blog-run-pipe")).then_some(log)
        });
        admins.await;
        let anns = log(USER, query).await;
        assert!(anns.contains("said by blog-run-pipe") && !anns.contains("said by blog-run-tty"), "{anns}");
    }
    assert!(log(USER, "tail=50&grep=tty").await.is_empty());
}

#[tokio::test]
async fn handover_takes_what_was_typed_before_the_pod_was_there() {
    let Some((cluster, mut hub, _dir)) = hub("").await else { return };
    let id = Uuid::new_v4();
    let (status, session) =
        curl(&hub, CONTROLLER, &body(&cluster, id, "patient", json!({ "app": "blog", "tty": true, "delete": true })));
    assert_eq!(status, 201, "{session}");
    let ticket = session["ticket"]["secret"].as_str().expect("a ticket");
    let mut driver = hub.attach_as(ticket, &id.to_string(), Hello::drive(1)).await.expect("attaches");
    // Many short messages, more than a source is told at once, and a key typed behind each hub's death arrives too.
    let mut at = 0;
    for _ in 0..1000 {
        driver.type_at(at, ":\r").await;
        at += 2;
    }
    pod(&cluster, "patient", "blog", "exec bash", true);
    driver.type_at(at, "echo a$((40+2))z\r").await;
    at += 17;
    driver.shows("a42z").await;
    for round in 3..5 {
        hub.kill();
        hub.again().await;
        driver = hub
            .attach_as(ticket, &id.to_string(), Hello { from: Some(driver.next), ..Hello::drive(1) })
            .await
            .expect("attaches");
        let keys = format!("echo b$((40+{round}))z\r");
        driver.type_at(at, &keys).await;
        at += keys.len() as u64;
        driver.shows(&format!("b{}z", 40 + round)).await;
    }
    driver.type_at(at, "exit 6\r").await;
    driver.rest().await;
    assert_eq!(hub.ended(&id.to_string()).await["exit_status"], 6);
}

#[tokio::test]
async fn handover_is_for_controllers_and_of_pods_of_apps() {
    let Some((cluster, hub, _dir)) = hub("pod_wait = \"20s\"\n").await else { return };
    pod(&cluster, "of-none", "", "sleep 1000", false);
    pod(&cluster, "of-blog", "blog", "echo up; sleep 1000", false);
    let wish = |pod: &str, with: Value| body(&cluster, Uuid::new_v4(), pod, with);
    for (token, body, expected) in [
        (USER, wish("of-blog", json!({})), 403),
        (ELSEWHERE, wish("of-blog", json!({})), 403),
        (ELSEWHERE, wish("of-blog", json!({ "app": "shop" })), 400),
        (CONTROLLER, wish("of-none", json!({})), 400),
        (CONTROLLER, wish("of-blog", json!({ "container": "db" })), 400),
        (CONTROLLER, wish("of-blog", json!({ "namespace": "kube-system" })), 400),
        (CONTROLLER, json!({ "source": { "kind": "pod", "namespace": cluster.namespace, "pod": "of-blog" } }), 400),
        (
            CONTROLLER,
            json!({ "id": Uuid::new_v4(), "source": { "kind": "run", "app": "blog", "command": ["true"] } }),
            400,
        ),
    ] {
        let (status, problem) = curl(&hub, token, &body);
        assert_eq!(status, expected, "{body}: {problem}");
        assert!(problem.get("ticket").is_none_or(Value::is_null), "{problem}");
    }
    // One that never comes, and one that goes.
    let (_, never) = curl(&hub, CONTROLLER, &wish("never", json!({ "app": "blog" })));
    let (_, goes) = curl(&hub, CONTROLLER, &wish("of-blog", json!({})));
    let ended = hub.ended(never["id"].as_str().expect("an id")).await;
    assert_eq!(ended["exit"]["cause"], "start_failed", "{ended}");
    assert!(ended["exit_text"].as_str().expect("a text").contains("no pod never"), "{ended}");
    let goes = goes["id"].as_str().expect("an id");
    hub.attach(goes, Hello::watch()).await.shows("up\n").await;
    cluster.kubectl(&["delete", "pod", "of-blog", "--wait=false", "--grace-period=1"]);
    let ended = hub.ended(goes).await;
    assert_eq!(ended["exit_status"], 125, "{ended}");
    assert!(ended["exit_text"].as_str().expect("a text").contains("deleted"), "{ended}");
    // One that turns out to be another's.
    let (status, other) = curl(&hub, CONTROLLER, &wish("comes", json!({ "app": "blog" })));
    assert_eq!(status, 201, "{other}");
    pod(&cluster, "comes", "shop", "sleep 1000", false);
    let ended = hub.ended(other["id"].as_str().expect("an id")).await;
    assert!(ended["exit_text"].as_str().expect("a text").contains("does not belong to the app blog"), "{ended}");
    cluster.kubectl(&["get", "pod", "comes"]);
}

#[tokio::test]
async fn handover_outlives_the_hub_and_a_stop_leaves_the_pod() {
    let Some((cluster, mut hub, _dir)) = hub("").await else { return };
    let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done";
    pod(&cluster, "loops", "blog", script, false);
    let id = Uuid::new_v4();
    let (status, session) = curl(&hub, CONTROLLER, &body(&cluster, id, "loops", json!({})));
    assert_eq!(status, 201, "{session}");
    hub.attach(&id.to_string(), Hello::watch()).await.shows("line 100\n").await;
    hub.kill();
    hub.again().await;
    let mut viewer = hub.attach(&id.to_string(), Hello::watch()).await;
    viewer.shows("line 600\n").await;
    assert_eq!(hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    viewer.rest().await;
    let lines = viewer.output.split(|byte| *byte == b'\n').count() - 1;
    let expected: String = (1..=lines).map(|line| format!("line {line}\n")).collect();
    let whole = viewer.output.iter().rposition(|byte| *byte == b'\n').expect("a line") + 1;
    assert_eq!(String::from_utf8_lossy(&viewer.output[..whole]), expected);
    assert_eq!(hub.ended(&id.to_string()).await["exit"]["cause"], "stopped");
    assert_eq!(cluster.kubectl(&["get", "pod", "loops", "-o", "jsonpath={.status.phase}"]), "Running");
}
