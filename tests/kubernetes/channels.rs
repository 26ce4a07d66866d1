//! Exec and attach against a server that has what the real cluster has not: version 5 of the protocol, its failures, and
//! logs that are rotated when a test says so. The real `kubectl` is another client of that server, which shows that it
//! speaks the protocol rightly.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use foghorn::record::Reason;
use serde_json::json;

use crate::support::channels::{Channels, Create, NAMESPACE, POD};
use crate::support::program::Program;
use crate::support::server::{Hello, Server, Viewer, until};

const V4: &str = "v4.channel.k8s.io";
pub(super) const V5: &str = "v5.channel.k8s.io";

/// A server, and a hub of it.
pub(super) async fn hub(version: &'static str) -> (Channels, Server, tempfile::TempDir) {
    let channels = Channels::start(version).await;
    let dir = tempfile::tempdir().expect("a directory");
    let settings =
        format!("[kubernetes]\nkubeconfig = \"{}\"\nnamespace = \"{NAMESPACE}\"\n", channels.kubeconfig(dir.path()));
    let hub = Server::start_with(&settings, &[("FOGHORN_BACKEND", "kubernetes")]).await;
    (channels, hub, dir)
}

async fn start(hub: &Server, command: &[&str]) -> String {
    let source = json!({ "kind": "exec", "app": "demo", "pod": "web.1", "command": command, "stdin": true });
    let (status, session) = hub.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
    assert_eq!(status, 201, "{session}");
    session["id"].as_str().expect("an id").to_owned()
}

fn exec(hub: &Server, command: &[&str]) -> Program {
    Program::start(hub, &hub.url(), &[&["exec", "-a", "demo", "web.1", "-T", "--"], command].concat())
}

/// kubectl, as a client of the server.
fn kubectl(kubeconfig: &str, input: &[u8], command: &[&str]) -> (Option<i32>, String, String) {
    let mut child = Command::new("kubectl")
        .args(["--kubeconfig", kubeconfig, "exec", "-i", POD, "--"])
        .args(command)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl");
    child.stdin.take().expect("its input").write_all(input).expect("writes");
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn version_5_ends_the_input_and_kubectl_agrees() {
    let (channels, hub, dir) = hub(V5).await;
    let (status, out, said) = kubectl(&channels.kubeconfig(dir.path()), b"one\ntwo\n", &["cat"]);
    assert_eq!((status, out.as_str(), said.as_str()), (Some(0), "one\ntwo\n", "eof\n"));
    let (status, _, said) = kubectl(&channels.kubeconfig(dir.path()), b"", &["exit", "7"]);
    assert_eq!(status, Some(7), "{said}");
    let mut program = exec(&hub, &["cat"]);
    program.types("one\ntwo\n");
    let (status, out, said) = program.ends().await;
    assert_eq!((status, &*out), (Some(0), &b"one\ntwo\n"[..]), "{said}");
    assert!(said.contains("eof\n") && !said.contains("is not told"), "{said}");
    let (status, ..) = exec(&hub, &["exit", "7"]).ends().await;
    assert_eq!(status, Some(7));
}

#[tokio::test]
async fn version_4_has_no_end_of_input_and_no_output_is_lost() {
    let (_channels, hub, _dir) = hub(V4).await;
    let mut program = exec(&hub, &["cat"]);
    program.types("one\n");
    program.prints("one\n").await;
    drop(program.stdin());
    program.says("is not told that its input has ended").await;
    assert!(!program.stderr().contains("stream 255?"), "{}", program.stderr());
    let (status, ..) = exec(&hub, &["exit", "0"]).ends().await;
    assert_eq!(status, Some(0));
}

#[tokio::test]
async fn a_flood_holds_up_no_key() {
    let (_channels, hub, _dir) = hub(V5).await;
    let id = start(&hub, &["flood"]).await;
    let mut driver = hub.attach(&id, Hello { paces: false, ..Hello::drive(1) }).await;
    driver.shows("xxxx").await;
    let since = Instant::now();
    driver.type_at(0, "q").await;
    driver.rest().await;
    assert_eq!(hub.ended(&id).await["exit_status"], 3);
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

#[tokio::test]
async fn what_is_refused_and_what_breaks_is_told() {
    let (_channels, hub, _dir) = hub(V5).await;
    for code in ["403", "404", "500"] {
        let id = start(&hub, &[code]).await;
        let ended = hub.ended(&id).await;
        assert_eq!((&ended["exit_status"], &ended["exit"]["cause"]), (&json!(125), &json!("start_failed")), "{ended}");
        assert!(ended["exit_text"].as_str().expect("a text").contains("no exec for you"), "{ended}");
    }
    let ended = hub.ended(&start(&hub, &["nothing"]).await).await;
    assert_eq!(ended["exit_status"], 127, "{ended}");
    let id = start(&hub, &["cut"]).await;
    let ended = hub.ended(&id).await;
    assert_eq!(ended["exit"]["cause"], "lost", "{ended}");
    assert_eq!(hub.output(&id, true).await, "before\n");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let (_channels, hub, _dir) = hub(V5).await;
    let id = start(&hub, &["hang"]).await;
    let since = Instant::now();
    let ended = loop {
        let (_, session) = hub.ask("GET", &format!("/v1/sessions/{id}?wait=20"), None).await;
        if session["state"] == "ended" {
            break session;
        }
        assert!(since.elapsed() < Duration::from_secs(100), "{session}");
    };
    assert!(ended["exit_text"].as_str().expect("a text").contains("silent"), "{ended}");
    assert_eq!(hub.output(&id, true).await, "before\n");
}

#[tokio::test]
async fn a_pod_is_made_once_by_an_api_server_that_has_much_to_do_fails_and_loses_its_answer() {
    let (channels, mut hub, _dir) = hub(V4).await;
    channels.creates(&[Create::Refused(429), Create::Refused(500), Create::Refused(503), Create::Lost]);
    channels.set_prints(&[(Duration::from_millis(300), "made\n".into())]);
    let run = hub.run(&["sh"], json!({ "app": "demo", "detached": true })).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    hub.attach(&id, Hello::watch()).await.shows("made\n").await;
    assert_eq!(channels.creates_left(), 0);
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    // One that is refused for good is not asked again.
    channels.creates(&[Create::Refused(403), Create::Refused(500)]);
    let run = hub.run(&["sh"], json!({ "app": "demo", "detached": true })).await;
    let ended = hub.ended(run["id"].as_str().expect("an id")).await;
    assert!(ended["exit_text"].as_str().expect("a text").contains("not now"), "{ended}");
    assert_eq!(channels.creates_left(), 1);
}

/// Numbered lines, as a container prints them.
fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|line| format!("line {line}\n")).collect()
}

/// Hands the pod over.
async fn hand_over(hub: &Server) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    let source = json!({ "kind": "pod", "namespace": NAMESPACE, "pod": POD, "app": "demo" });
    let (status, session) = hub.ask("POST", "/v1/sessions", Some(json!({ "id": id, "source": source }))).await;
    assert_eq!(status, 201, "{session}");
    id
}

/// Waits until the session's output has come to this, and is in its journal.
async fn has(hub: &Server, id: &str, end: &str) -> Viewer {
    let mut viewer = hub.attach(id, Hello::watch()).await;
    viewer.shows(end).await;
    until("it is in the journal", async || (stored(hub, id).await == viewer.next).then_some(())).await;
    viewer
}

/// Hands a pod over that prints a thousand lines. Its log is rotated, so that it has these, while the hub is started anew,
/// several times; what the session has in the end.
async fn rotated(logs: &[std::ops::Range<u32>]) -> Viewer {
    let (channels, mut hub, _dir) = hub(V4).await;
    channels.set_logs(&[lines(0..1000)]);
    let id = hand_over(&hub).await;
    let mut viewer = has(&hub, &id, "line 999\n").await;
    for log in logs {
        drop(viewer);
        hub.terminate().await;
        channels.set_logs(&[lines(log.clone())]);
        hub.again().await;
        viewer = has(&hub, &id, &format!("line {}\n", log.end - 1)).await;
    }
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
    viewer
}

#[tokio::test]
async fn a_hub_that_starts_finds_its_place_in_a_log_that_was_rotated() {
    // Shorter than what was printed, longer, and not rotated again.
    let viewer = rotated(&[900..1050, 1000..5000, 1000..5001]).await;
    assert_eq!(String::from_utf8_lossy(&viewer.output), lines(0..5001));
    assert_eq!(viewer.gaps, []);
}

#[tokio::test]
async fn a_hub_that_starts_tells_of_a_log_that_was_rotated_beyond_its_place() {
    let viewer = rotated(&[2000..2050, 4000..9000, 8000..9001]).await;
    let expected = lines(0..1000) + &lines(2000..2050) + &lines(4000..9001);
    assert_eq!(String::from_utf8_lossy(&viewer.output), expected);
    let reasons: Vec<Reason> = viewer.gaps.iter().map(|(.., reason)| *reason).collect();
    assert_eq!(reasons, [Reason::NotLogged; 2]);
}

/// The offset up to which the store has a session's output.
async fn stored(hub: &Server, id: &str) -> u64 {
    let store = foghorn::store::open(None, &hub.home().join("foghorn.db")).await.expect("a database");
    store.extent(id.parse().expect("an id")).await.expect("an extent").to
}

#[tokio::test]
async fn what_was_shown_and_not_stored_when_a_hub_was_killed_costs_nothing_that_follows() {
    let (channels, mut hub, _dir) = hub(V4).await;
    // A line without its end is in no log.
    let prompt = |wait| [(Duration::from_millis(wait), "$ ".to_owned())];
    channels.set_logs(&[lines(0..100)]);
    channels.set_prints(&prompt(1000));
    let id = hand_over(&hub).await;
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.shows("line 99\n").await;
    loop {
        viewer.shows("$ ").await;
        hub.kill();
        channels.set_prints(&[(Duration::from_millis(500), "next\n".into())]);
        if stored(&hub, &id).await < viewer.next {
            break;
        }
        channels.set_prints(&prompt(500));
        hub.again().await;
        viewer = hub.attach(&id, Hello { from: Some(viewer.next), ..Hello::watch() }).await;
    }
    hub.again().await;
    let mut all = hub.attach(&id, Hello::watch()).await;
    all.shows("next\n").await;
    // One that comes back at once, and one that comes when more was printed than it had.
    for from in [viewer.next, viewer.next] {
        let mut viewer = hub.attach(&id, Hello { from: Some(from), ..Hello::watch() }).await;
        viewer.shows("next\n").await;
        assert_eq!(String::from_utf8_lossy(&viewer.output), "next\n");
    }
    assert!(String::from_utf8_lossy(&all.output).starts_with(&lines(0..100)), "{:?}", all.seen);
    assert_eq!(all.gaps, []);
    // The next hub finds its place behind it, in a log that has the whole line.
    let stored_all = async || (stored(&hub, &id).await == all.next).then_some(());
    until("it is in the journal", stored_all).await;
    hub.kill();
    let prompts = String::from_utf8_lossy(&all.output).matches("$ ").count() + 1;
    let line = "$ ".repeat(prompts) + "next\n";
    channels.set_logs(&[lines(0..100) + &line + "meanwhile\n"]);
    hub.again().await;
    let mut after = hub.attach(&id, Hello { from: Some(all.next), ..Hello::watch() }).await;
    after.shows("meanwhile\n").await;
    assert_eq!((&after.output[..], &after.gaps[..]), (&b"meanwhile\n"[..], &[][..]));
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
}

/// Hands the pod over, which is about to print this, to one who watches.
async fn hand_over_that_prints(channels: &Channels, hub: &Server, text: &str, record: bool) -> (String, Viewer) {
    channels.set_prints(&[(Duration::from_millis(1000), text.into())]);
    let id = uuid::Uuid::new_v4().to_string();
    let source = json!({ "kind": "pod", "namespace": NAMESPACE, "pod": POD, "app": "demo", "record": record });
    let (status, session) = hub.ask("POST", "/v1/sessions", Some(json!({ "id": id, "source": source }))).await;
    assert_eq!(status, 201, "{session}");
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.shows(text).await;
    (id, viewer)
}

/// What one who comes back has got when this has come.
async fn comes_back(hub: &Server, id: &str, viewer: &mut Viewer, until: &str) -> String {
    *viewer = hub.attach(id, Hello { from: Some(viewer.next), ..Hello::watch() }).await;
    viewer.shows(until).await;
    assert_eq!(viewer.gaps, []);
    String::from_utf8_lossy(&viewer.output).into_owned()
}

#[tokio::test]
async fn a_cluster_that_refuses_a_hub_that_comes_ends_no_session_and_costs_no_line() {
    let (channels, mut hub, _dir) = hub(V4).await;
    channels.set_logs(&[lines(0..100)]);
    let id = hand_over(&hub).await;
    let mut viewer = has(&hub, &id, "line 99\n").await;
    hub.terminate().await;
    channels.set_logs(&[lines(0..150)]);
    // More often than an attach is tried in one go.
    channels.refuse(&[404, 404, 404, 403, 404, 404, 401], &[503, 429, 500]);
    hub.again().await;
    assert_eq!(comes_back(&hub, &id, &mut viewer, "line 149\n").await, lines(100..150));
    assert_eq!(channels.refusals_left(), 0);
    // Where its log is not to be read, that is a gap, whoever was attached before.
    hub.terminate().await;
    channels.refuse(&[], &[403]);
    hub.again().await;
    let mut viewer = hub.attach(&id, Hello { from: Some(viewer.next), ..Hello::watch() }).await;
    until("it was tried", async || (channels.refusals_left() == 0).then_some(())).await;
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
    viewer.rest().await;
    assert_eq!(viewer.gaps.iter().map(|(.., reason)| *reason).collect::<Vec<_>>(), [Reason::NotLogged]);
}

#[tokio::test]
async fn hubs_that_come_while_a_line_has_no_end_give_each_byte_once() {
    let (channels, mut hub, _dir) = hub(V4).await;
    let (id, mut viewer) = hand_over_that_prints(&channels, &hub, "$ ", true).await;
    // The log has nothing yet.
    for key in ["l", "s"] {
        let all = viewer.next;
        until("it is stored", async || (stored(&hub, &id).await == all).then_some(())).await;
        hub.terminate().await;
        channels.set_prints(&[(Duration::from_millis(800), key.into())]);
        hub.again().await;
        assert_eq!(comes_back(&hub, &id, &mut viewer, key).await, key);
    }
    let all = viewer.next;
    until("it is stored", async || (stored(&hub, &id).await == all).then_some(())).await;
    hub.kill();
    channels.set_logs(&["$ ls\nmeanwhile\n".into()]);
    hub.again().await;
    assert_eq!(comes_back(&hub, &id, &mut viewer, "meanwhile\n").await, "\nmeanwhile\n");
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
}

#[tokio::test]
async fn hubs_that_come_to_a_pod_that_is_not_recorded_give_each_line_once() {
    let (channels, mut hub, _dir) = hub(V4).await;
    let (id, mut viewer) = hand_over_that_prints(&channels, &hub, "line 0\n", false).await;
    for line in 0..3 {
        hub.kill();
        // One more was printed meanwhile, and one comes then.
        channels.set_logs(&[lines(0..2 * line + 2)]);
        channels.set_prints(&[(Duration::from_millis(800), lines(2 * line + 2..2 * line + 3))]);
        hub.again().await;
        let last = lines(2 * line + 2..2 * line + 3);
        assert_eq!(comes_back(&hub, &id, &mut viewer, &last).await, lines(2 * line + 1..2 * line + 3));
    }
    let mut late = hub.attach(&id, Hello::watch()).await;
    late.shows("line 6\n").await;
    assert_eq!((String::from_utf8_lossy(&late.output).into_owned(), &late.gaps[..]), (lines(0..7), &[][..]));
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
}

#[tokio::test]
async fn who_saw_more_of_an_exec_than_was_stored_is_told_its_end() {
    let (_channels, mut hub, _dir) = hub(V4).await;
    let (id, next) = loop {
        let id = start(&hub, &["hang"]).await;
        let mut viewer = hub.attach(&id, Hello::watch()).await;
        viewer.shows("before\n").await;
        hub.kill();
        if stored(&hub, &id).await < viewer.next {
            break (id, viewer.next);
        }
        hub.again().await;
    };
    hub.again().await;
    let mut viewer = hub.attach(&id, Hello { from: Some(next), ..Hello::watch() }).await;
    viewer.rest().await;
    let exit = serde_json::to_value(viewer.exit.expect("its end")).expect("JSON");
    assert_eq!(exit["cause"], "lost", "{exit}");
}

#[tokio::test]
async fn a_log_that_has_more_than_came_is_told_in_the_end() {
    let (channels, hub, _dir) = hub(V4).await;
    channels.set_logs(&[lines(0..100), lines(0..100), lines(0..2000)]);
    channels.set_prints(&[(Duration::from_millis(1500), lines(101..2000))]);
    channels.end();
    let id = hand_over(&hub).await;
    let mut viewer = hub.attach(&id, Hello::watch()).await;
    viewer.rest().await;
    assert_eq!(String::from_utf8_lossy(&viewer.output), lines(0..100) + &lines(101..2000));
    let head = (lines(0..100) + &lines(101..2000)).len() as u64;
    assert_eq!(viewer.gaps, [(head, head + 9, Reason::NotLogged)], "{:?}", viewer.seen);
    assert_eq!(hub.ended(&id).await["exit_status"], 0);
}

/// What a session has of a pod whose log is these each time that it is read, and that prints these behind an attach.
async fn spliced(logs: &[String], prints: &[(u64, String)]) -> String {
    let (channels, hub, _dir) = hub(V4).await;
    channels.set_logs(logs);
    let prints: Vec<_> = prints.iter().map(|(wait, text)| (Duration::from_millis(*wait), text.clone())).collect();
    channels.set_prints(&prints);
    let id = hand_over(&hub).await;
    let viewer = has(&hub, &id, "line 99\n").await;
    hub.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    hub.ended(&id).await;
    String::from_utf8_lossy(&viewer.output).into_owned()
}

#[tokio::test]
async fn a_log_that_is_written_late_costs_no_line() {
    let logs = [lines(0..50), lines(0..52), lines(0..60)];
    assert_eq!(spliced(&logs, &[(0, lines(55..58)), (300, lines(58..100))]).await, lines(0..100));
}

#[tokio::test]
async fn streams_that_begin_late_cost_no_line() {
    let logs = [lines(0..50), lines(0..60), lines(0..70)];
    assert_eq!(spliced(&logs, &[(400, lines(65..70)), (0, lines(70..100))]).await, lines(0..100));
}

#[tokio::test]
async fn streams_that_are_behind_the_log_give_no_line_twice() {
    assert_eq!(spliced(&[lines(0..90)], &[(0, lines(50..60)), (400, lines(60..100))]).await, lines(0..100));
}

#[tokio::test]
async fn streams_that_are_far_behind_the_log_give_no_line_twice() {
    // They begin with what the log ends with, which is somewhere else.
    let prints = [(0, format!("\n{}", lines(50..98))), (3000, lines(98..100))];
    assert_eq!(spliced(&[lines(0..100)], &prints).await, lines(0..100));
}

#[tokio::test]
async fn a_line_that_was_printed_before_is_not_taken_for_the_one_that_comes() {
    let logs = ["ok\n".to_owned() + &lines(0..98), "ok\n".to_owned() + &lines(0..98) + "ok\n"];
    let expected = logs[1].clone() + "line 99\n";
    assert_eq!(spliced(&logs, &[(0, "ok\n".into()), (2000, "line 99\n".into())]).await, expected);
}

#[tokio::test]
async fn a_log_that_goes_while_it_is_read_costs_no_line() {
    assert_eq!(spliced(&[lines(0..100), String::new()], &[]).await, lines(0..100));
}
