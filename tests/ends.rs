//! How sessions end: each end has its cause and its status, and no process is left.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::{Duration, Instant};

use foghorn::protocol::ClientMessage;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::clock::Clock;
use support::server::{Hello, Server, alive, signal, until};

/// The cause and the client's status of a session's end.
fn end(session: &Value) -> (String, u64) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&session["exit"]["cause"]), session["exit_status"].as_u64().expect("a status"))
}

/// A command, how it is started, the cause and the status of its end, and the sentence for it.
type Case<'a> = (&'a [&'a str], Value, (&'a str, u64), &'a str);

/// Starts a command that nobody holds and gives its session when it has ended.
async fn run(server: &mut Server, command: &[&str], mut with: Value) -> Value {
    with["detached"] = true.into();
    let id = server.run(command, with).await["id"].as_str().expect("an id").to_owned();
    let session = server.ended(&id).await;
    until("no process is left", async || server.processes(&id).is_empty().then_some(())).await;
    session
}

#[tokio::test]
async fn each_end_has_its_cause_and_its_status() {
    let mut server = Server::start("").await;
    let folder = server.home().to_string_lossy().into_owned();
    let no_folder = format!("could not be started: {folder}: permission denied");
    let cases: &[Case<'_>] = &[
        (&["true"], json!({}), ("exited", 0), "exited with status 0"),
        (&["sh", "-c", "exit 7"], json!({}), ("exited", 7), "exited with status 7"),
        (&["sh", "-c", "exit 255"], json!({"tty": true}), ("exited", 255), "exited with status 255"),
        (&["sh", "-c", "kill -9 $$"], json!({}), ("signalled", 137), "killed by signal 9"),
        (&["sh", "-c", "kill -15 $$"], json!({"tty": true}), ("signalled", 143), "killed by signal 15"),
        (
            &["no-such-command"],
            json!({}),
            ("start_failed", 127),
            "could not be started: no-such-command: command not found",
        ),
        (&["/etc/passwd"], json!({}), ("start_failed", 126), "could not be started: /etc/passwd: permission denied"),
        (&[&folder], json!({}), ("start_failed", 126), &no_folder),
        (
            &["true"],
            json!({"dir": "/no/such/directory"}),
            ("start_failed", 126),
            "could not be started: /no/such/directory: no such directory",
        ),
        (&["sleep", "600"], json!({"timeout": "300ms"}), ("time_limit", 124), "ended: reached its time limit"),
        (&["sleep", "600"], json!({"tty": true, "idle": "300ms"}), ("idle", 129), "ended: idle for too long"),
    ];
    for (command, with, (cause, status), text) in cases {
        let session = run(&mut server, command, with.clone()).await;
        assert_eq!(end(&session), ((*cause).to_owned(), *status), "{command:?} {with}");
        assert_eq!(session["exit_text"], *text);
    }
}

#[tokio::test]
async fn a_stop_ends_all_that_the_command_started() {
    let mut server = Server::start("").await;
    // One ignores HUP and TERM, one has a session of its own, one closed everything, one holds stdout open.
    let script = "trap '' HUP TERM; setsid sleep 601 & nohup sleep 602 >/dev/null 2>&1 & sleep 603 & \
                  (setsid env -i sleep 604 <&- >&- 2>&- &) ; echo ready; while :; do sleep 605; done";
    let id = server.run_detached(script).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("ready").await;
    let unmarked = until("the one without the mark runs", async || {
        let found = std::process::Command::new("pgrep").args(["-f", "^sleep 604$"]).output().expect("pgrep");
        String::from_utf8_lossy(&found.stdout).trim().parse::<u32>().ok()
    })
    .await;
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    let session = server.ended(&id).await;
    assert_eq!(end(&session), ("stopped".into(), 143));
    assert_eq!(session["exit_text"], "stopped by tester");
    assert!(server.processes(&id).is_empty());
    assert!(!alive(unmarked), "the agent is the subreaper of those that lost the mark too");
}

#[tokio::test]
async fn what_a_command_leaves_behind_ends_with_it_and_its_output_is_kept() {
    let mut server = Server::start("").await;
    let waits = server.home().join("waits");
    let waits = waits.display();
    let script = format!(
        "(trap 'echo bye; exit' HUP TERM; echo waiting; : > {waits}; while :; do sleep 0.05; done) & \
         until [ -e {waits} ]; do sleep 0.05; done; exit 5"
    );
    let id = server.run_detached(&script).await;
    let session = server.ended(&id).await;
    assert_eq!(end(&session), ("exited".into(), 5), "the command's own status");
    // Before, behind or between them, on stderr, its shell may tell that its sleep was hung up, or terminated where the
    // shell was so slow that both signals came.
    let output = String::from_utf8_lossy(&server.output(&id, true).await).into_owned();
    let own: Vec<&str> = output.lines().filter(|line| !matches!(*line, "Hangup" | "Terminated")).collect();
    assert_eq!(own, ["waiting", "bye"], "{output:?}");
    assert!(server.processes(&id).is_empty());
}

#[tokio::test]
async fn a_client_that_vanished_gets_its_grace_and_then_the_command_ends() {
    let mut server = Server::start("grace = \"700ms\"\n").await;
    let started = server.run(&["sleep", "600"], json!({"tty": true, "stdin": true})).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let driver = server.attach(&id, Hello::drive(1)).await;
    let mut watcher = server.attach(&id, Hello::watch()).await;
    let since = Instant::now();
    drop(driver);
    assert_eq!(watcher.rest().await, 1000);
    assert!(since.elapsed() >= Duration::from_millis(600), "not before its grace");
    let session = server.ended(&id).await;
    assert_eq!(end(&session), ("stopped".into(), 143), "a watcher does not hold a session");
    assert_eq!(session["exit_text"], "stopped by the hub: its client was away for 700ms");
}

#[tokio::test]
async fn watchers_who_come_and_go_do_not_lengthen_a_grace() {
    let mut server = Server::start("grace = \"2s\"\n").await;
    let started = server.run(&["sleep", "600"], json!({"tty": true, "stdin": true})).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    drop(server.attach(&id, Hello::drive(1)).await);
    let since = Instant::now();
    until("it is stopped", async || {
        drop(server.attach(&id, Hello::watch()).await);
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        (session["state"] != "running").then_some(())
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(1900), "not before its grace");
    assert_eq!(end(&server.ended(&id).await), ("stopped".into(), 143));
}

#[tokio::test]
async fn who_ends_a_terminals_input_ends_it_for_nobody_else() {
    let mut server = Server::start("").await;
    let script = "stty -echo; while :; do cat; echo ended; done";
    let started = server.run(&["sh", "-c", script], json!({"tty": true, "stdin": true, "keep": true})).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    for writer in 1..=3 {
        let mut driver = server.attach(&id, Hello::drive(writer)).await;
        driver.type_at(0, &format!("says {writer}\r")).await;
        driver.shows(&format!("says {writer}\r\n")).await;
        driver.say(&ClientMessage::InputEnd { offset: 7 }).await;
        driver.shows("ended\r\n").await;
        driver.say(&ClientMessage::Detach).await;
        assert_eq!(driver.rest().await, 1000);
    }
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(&id).await;
}

#[tokio::test]
async fn a_grace_does_not_follow_a_clock_that_jumps() {
    let Some(clock) = Clock::new() else { return };
    let [library, file] = &clock.env();
    let env = [(library.0, &*library.1), (file.0, &*file.1)];
    let mut server = Server::start_with("grace = \"1s\"\n", &env).await;
    let day = 24 * 60 * 60;
    for jump in [day, -day] {
        clock.set(0);
        let started = server.run(&["sleep", "600"], json!({"tty": true, "stdin": true})).await;
        let id = started["id"].as_str().expect("an id").to_owned();
        let driver = server.attach(&id, Hello::drive(1)).await;
        let mut watcher = server.attach(&id, Hello::watch()).await;
        let since = Instant::now();
        drop(driver);
        clock.set(jump);
        let other = server.run_detached("true").await;
        assert_eq!(watcher.rest().await, 1000, "nobody else is given up");
        let took = since.elapsed();
        assert!((900..20_000).contains(&took.as_millis()), "{took:?}, with a jump of {jump} s");
        let session = server.ended(&id).await;
        assert_eq!(session["exit_text"], "stopped by the hub: its client was away for 1s");
        // The hub has the clock, and what it writes on a page says so.
        let made = |session: &Value| -> jiff::Timestamp { session["created_at"].as_str().unwrap().parse().unwrap() };
        let apart = (made(&server.ended(&other).await) - made(&started)).get_seconds();
        assert!((apart - jump).abs() < 60, "{apart} s apart");
    }
}

#[tokio::test]
async fn who_comes_back_in_time_or_left_on_purpose_finds_the_command_running() {
    let mut server = Server::start("grace = \"5s\"\n").await;
    let mut ids = Vec::new();
    for (keep, detach, back) in [(true, false, false), (false, true, false), (false, false, true)] {
        let started = server.run(&["sleep", "600"], json!({"tty": true, "stdin": true, "keep": keep})).await;
        let id = started["id"].as_str().expect("an id").to_owned();
        let mut driver = server.attach(&id, Hello::drive(1)).await;
        driver.hears(|message| matches!(message, foghorn::protocol::HubMessage::Presence { .. })).await;
        if detach {
            driver.say(&ClientMessage::Detach).await;
            assert_eq!(driver.rest().await, 1000);
        }
        drop(driver);
        let again = if back { Some(server.attach(&id, Hello::drive(2)).await) } else { None };
        ids.push((id, again));
    }
    // The hub's death and return takes nobody's wish back: the one who left on purpose has still left on purpose.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    server.again().await;
    let _held = server.attach(&ids[2].0, Hello::drive(2)).await;
    // Longer than the grace: what is to be shown is that nothing happens.
    tokio::time::sleep(Duration::from_secs(7)).await;
    for (id, _) in &ids {
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!(session["state"], "running", "{session}");
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    }
    for (id, _) in &ids {
        server.ended(id).await;
    }
}

#[tokio::test]
async fn without_any_hub_the_agent_ends_its_command_at_the_orphan_limit() {
    let mut server = Server::start("orphan = \"1s\"\n").await;
    let started = server.run(&["sh", "-c", "setsid sleep 601 & echo up; sleep 602"], json!({})).await;
    let id = started["id"].as_str().expect("an id").to_owned();
    let detached = server.run_detached("sleep 603").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("up").await;
    server.kill();
    until("the command ends", async || server.processes(&id).is_empty().then_some(())).await;
    assert!(!server.processes(&detached).is_empty(), "what nobody has to hold lives until its time limit");
    server.again().await;
    let session = server.ended(&id).await;
    assert_eq!(end(&session), ("lost".into(), 125));
    assert!(session["exit_text"].as_str().expect("a text").contains("no hub spoke to its agent"), "{session}");
    server.ask("DELETE", &format!("/v1/sessions/{detached}"), None).await;
    server.ended(&detached).await;
}

#[tokio::test]
async fn when_the_agent_is_killed_this_hub_or_the_next_ends_what_is_left() {
    let mut server = Server::start("").await;
    for next in [false, true] {
        let id = server.run_detached("setsid sleep 601 & nohup sleep 602 >/dev/null 2>&1 & echo up; sleep 603").await;
        let mut viewer = server.attach(&id, Hello::watch()).await;
        viewer.shows("up").await;
        let agent = server.agent(&id).expect("an agent");
        if next {
            server.kill();
        }
        signal(agent, "KILL");
        if next {
            server.again().await;
        }
        let session = server.ended(&id).await;
        assert_eq!(end(&session), ("lost".into(), 125));
        until("no process is left", async || server.processes(&id).is_empty().then_some(())).await;
        if !next {
            assert_eq!(server.output(&id, true).await, "up\n");
        }
    }
}

#[tokio::test]
async fn signals_reach_the_foreground_and_only_who_may_sends_them() {
    let mut server = Server::start("").await;
    let script = "trap 'echo got; exit 9' USR1; echo up; while :; do sleep 0.05; done";
    let id = server.run_detached(script).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("up").await;
    let (status, _) = server.ask("POST", &format!("/v1/sessions/{id}/signal"), Some(json!({"signal": 10}))).await;
    assert_eq!(status, 204);
    viewer.shows("got").await;
    assert_eq!(end(&server.ended(&id).await), ("exited".into(), 9));
    let (status, problem) = server.ask("POST", &format!("/v1/sessions/{id}/signal"), Some(json!({"signal": 10}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("session_ended")));
}

#[tokio::test]
async fn a_thousand_runs_at_twenty_a_time_each_have_their_own_status() {
    let server = Server::start("").await;
    let statuses: Vec<u64> = (0..1000).map(|n| if n % 5 < 4 { n % 2 } else { n % 256 }).collect();
    let run = async |status: u64| {
        let command = match status {
            0 => json!(["true"]),
            1 => json!(["false"]),
            _ => json!(["sh", "-c", format!("echo {status}; exit {status}")]),
        };
        let env = json!({"PATH": "/usr/bin:/bin"});
        let source = json!({"kind": "run", "app": "test", "command": command, "detached": true, "caller_env": env});
        let (code, started) = server.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
        assert_eq!(code, 201, "{started}");
        let id = started["id"].as_str().expect("an id").to_owned();
        assert_eq!(end(&server.ended(&id).await), ("exited".into(), status));
        let printed = if status > 1 { format!("{status}\n") } else { String::new() };
        assert_eq!(server.output(&id, true).await, printed);
        id
    };
    let mut ids = futures_util::stream::iter(statuses).map(run).buffer_unordered(20);
    let mut last = Vec::new();
    while let Some(id) = ids.next().await {
        last.push(id);
    }
    assert_eq!(last.len(), 1000);
    until("all agents are gone", async || {
        let agents = std::fs::read_dir(server.home().join("agents")).expect("a directory");
        (agents.count() == 0).then_some(())
    })
    .await;
    let home = format!("{}/agents", server.home().display());
    let left = std::process::Command::new("pgrep").args(["-f", &home]).output().expect("pgrep");
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[tokio::test]
async fn an_agent_whose_end_was_stored_but_not_acknowledged_is_let_go_by_the_next_hub() {
    let mut server = Server::start("").await;
    let id = server.run_detached("sleep 600").await;
    let agent = until("the agent runs", async || server.agent(&id)).await;
    // Frozen, it is as one that the hub died before telling.
    signal(agent, "STOP");
    server.terminate().await;
    let home = server.home().join("foghorn.db");
    let store = foghorn::store::open(None, &home).await.expect("opens");
    let end = foghorn::record::Cause::Idle.into();
    store.end_session(id.parse().expect("an id"), &end, foghorn::session::now()).await.expect("stores");
    store.close().await;
    signal(agent, "CONT");
    server.again().await;
    until("the agent ends", async || (!alive(agent)).then_some(())).await;
    assert_eq!(end_of(&server, &id).await, "idle");
}

async fn end_of(server: &Server, id: &str) -> String {
    end(&server.ended(id).await).0
}

#[tokio::test]
async fn a_hub_that_stops_right_after_a_sessions_end_stores_it_first() {
    let mut server = Server::start("").await;
    for _ in 0..5 {
        let id = server.run_detached("echo x; exit 4").await;
        server.ended(&id).await;
        let agent = server.agent(&id);
        server.terminate().await;
        assert!(agent.is_none_or(|agent| !alive(agent)), "its agent is gone too");
        server.again().await;
        assert_eq!(server.output(&id, true).await, "x\n");
    }
}

#[tokio::test]
async fn where_no_process_can_be_started_the_start_fails_with_a_sentence_and_the_hub_lives_on() {
    // Limits of processes hold for users other than root, so the hub is one that nobody else is.
    let Some(mut server) = Server::start_as(54_321, 26).await else { return };
    let mut running = Vec::new();
    let failed = loop {
        let id = server.run(&["sleep", "600"], json!({"detached": true, "dir": "/"})).await["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        match session["state"] == "ended" {
            true => break session,
            false => running.push(id),
        }
        assert!(running.len() < 26, "more than may be");
    };
    println!("{} ran, then: {failed}", running.len());
    assert!(!running.is_empty(), "{failed}");
    assert_eq!(end(&failed), ("start_failed".into(), 125));
    let text = failed["exit_text"].as_str().expect("a text");
    assert!(text.starts_with("could not be started: ") && text.contains("can have no more processes"), "{text}");
    for id in &running {
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!(session["state"], "running", "the others go on");
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.stored(id).await;
    }
    let again = run(&mut server, &["true"], json!({"dir": "/"})).await;
    assert_eq!(end(&again), ("exited".into(), 0), "there is room again");
}
