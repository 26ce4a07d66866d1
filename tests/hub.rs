//! A session through the real hub: many viewers, one driver, hubs that die, and what a late viewer gets.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[path = "hub/folder.rs"]
mod folder;
mod support;

use std::path::PathBuf;

use foghorn::protocol::{ClientMessage, HubMessage, Mode, Role};
use foghorn::record::{Cause, Payload, Size};
use serde_json::json;
use support::server::{Came, Hello, Server, alive, signal, tokens, until};

/// What `seq 1 N` prints.
fn seq(to: u32) -> Vec<u8> {
    (1..=to).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

#[tokio::test]
async fn every_viewer_gets_every_byte_however_late_it_joins() {
    let mut server = Server::start("").await;
    let id = server.run_detached("seq 1 200000; sleep 0.2; seq 1 1000").await;
    let mut expected = seq(200_000);
    expected.extend(seq(1000));
    for from in [0, 1, 77_777, 1_000_000] {
        let mut viewer = server.attach(&id, Hello { from: Some(from), ..Hello::watch() }).await;
        assert_eq!(viewer.rest().await, 1000);
        assert!(viewer.output == expected[from as usize..], "from {from}");
        assert_eq!(viewer.exit, Some(Cause::Exited { status: 0 }.into()));
    }
    server.ended(&id).await;
    assert!(server.output(&id, false).await == expected);
    server.terminate().await;
    server.again().await;
    assert!(server.output(&id, true).await == expected, "another hub has it from the journal");
    let since = std::time::Instant::now();
    let mut viewer = server.attach(&id, Hello::watch()).await;
    assert_eq!(viewer.rest().await, 1000);
    assert!(viewer.output == expected);
    // What goes on only at the next ping is not found by what came.
    assert!(since.elapsed() < foghorn::protocol::PING / 2, "{:?}", since.elapsed());
}

/// A command that prints steadily, for as long as a test needs, and then how much it was.
struct Steps {
    script: String,
    over: PathBuf,
}

impl Steps {
    fn until_told(server: &Server) -> Self {
        let over = server.home().join("over");
        let script = format!(
            "i=0; while [ ! -e {} ]; do seq 1 500; i=$((i+1)); sleep 0.005; done; echo $i steps; exit 3",
            over.display()
        );
        Self { script, over }
    }

    fn end(&self) {
        std::fs::write(&self.over, "").expect("writes");
    }

    /// Holds that this is what it printed.
    fn are_all(&self, output: &[u8]) {
        let text = String::from_utf8_lossy(output);
        let steps: usize = text
            .strip_suffix(" steps\n")
            .and_then(|text| text.rsplit('\n').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{} bytes without their end", output.len()));
        let expected = [seq(500).repeat(steps), format!("{steps} steps\n").into_bytes()].concat();
        assert!(output == expected, "{} bytes of {}", output.len(), expected.len());
    }
}

#[tokio::test]
async fn a_hub_that_is_killed_costs_no_line_of_any_viewer_or_of_the_journal() {
    let mut server = Server::start("").await;
    let steps = Steps::until_told(&server);
    let id = server.run_detached(&steps.script).await;
    let mut output = Vec::new();
    for _ in 0..4 {
        let mut viewer = server.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::watch() }).await;
        viewer.gets(100_000).await;
        server.kill();
        while !matches!(viewer.come().await, Came::Lost) {}
        output.append(&mut viewer.output);
        server.again().await;
    }
    let mut viewer = server.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::watch() }).await;
    steps.end();
    assert_eq!(viewer.rest().await, 1000);
    output.append(&mut viewer.output);
    steps.are_all(&output);
    server.ended(&id).await;
    assert!(server.output(&id, false).await == output, "the journal's lines");
}

#[tokio::test]
async fn a_key_typed_across_ten_kills_reaches_the_command_once() {
    let mut server = Server::start("").await;
    let session = server.run(&["cat"], json!({"stdin": true, "keep": true})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let typed: Vec<String> = (0..1000).map(|n| format!("key {n}\n")).collect();
    let all = typed.concat();
    let (mut from, mut output, mut kills) = (0u64, Vec::new(), 0);
    while kills < 10 {
        let mut viewer = server.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::drive(7) }).await;
        // All that was not acknowledged is sent again, and then some more.
        let upto = (from as usize + 150).min(all.len());
        viewer.type_at(from, &all[from as usize..upto]).await;
        let acked = viewer.hears(|message| matches!(message, HubMessage::InputAck { offset } if *offset > from)).await;
        if kills % 2 == 0 {
            // Typed, and perhaps given to the command, but not acknowledged to the client.
            viewer.type_at(upto as u64, &all[upto..(upto + 40).min(all.len())]).await;
        }
        if let HubMessage::InputAck { offset } = acked {
            from = offset;
        }
        server.kill();
        while !matches!(viewer.come().await, Came::Lost) {}
        output.append(&mut viewer.output);
        kills += 1;
        server.again().await;
    }
    let mut viewer = server.attach(&id, Hello { from: Some(output.len() as u64), ..Hello::drive(7) }).await;
    viewer.type_at(from, &all[from as usize..]).await;
    viewer.say(&ClientMessage::InputEnd { offset: all.len() as u64 }).await;
    assert_eq!(viewer.rest().await, 1000);
    output.append(&mut viewer.output);
    assert_eq!(String::from_utf8_lossy(&output), all);
}

#[tokio::test]
async fn one_drives_and_the_others_watch() {
    let mut server = Server::start("").await;
    let size = Size { cols: 91, rows: 31 };
    let session = server.run(&["sh"], json!({"tty": true, "stdin": true, "size": size, "env": {"PS1": "$ "}})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    // Who comes first has the seat, so each waits for the one before to sit.
    let seated = |message: &HubMessage| matches!(message, HubMessage::Presence { .. });
    let mut ann = server.attach(&id, Hello { size: Some(size), ..Hello::drive(1) }).await;
    ann.hears(seated).await;
    let mut bob = server.attach(&id, Hello { size: Some(Size { cols: 20, rows: 5 }), ..Hello::drive(2) }).await;
    bob.hears(seated).await;
    let mut eve = server.attach(&id, Hello::watch()).await;
    ann.type_at(0, "stty size\n").await;
    for viewer in [&mut ann, &mut bob, &mut eve] {
        viewer.shows("31 91\r\n").await;
    }
    // One may have a prompt already that another has not.
    let least = [&ann, &bob, &eve].map(|viewer| viewer.output.len()).into_iter().min().expect("some");
    let seen = [&ann, &bob, &eve].map(|viewer| &viewer.output[..least]);
    assert!(seen[0] == seen[1] && seen[0] == seen[2], "all see the same");
    bob.type_at(0, "x").await;
    eve.type_at(0, "x").await;
    for viewer in [&mut bob, &mut eve] {
        viewer.hears(|message| matches!(message, HubMessage::Error { code, .. } if code == "not_driving")).await;
    }
    // Bob takes over: all see it, and his window is the terminal's from now on.
    bob.say(&ClientMessage::Take).await;
    for viewer in [&mut ann, &mut bob, &mut eve] {
        let new = |message: &HubMessage| matches!(message, HubMessage::Presence { driver: Some(driver), .. } if driver.viewer == 2);
        if !viewer.seen.iter().any(new) {
            viewer.hears(new).await;
        }
    }
    bob.type_at(0, "stty size; exit 4\n").await;
    for viewer in [&mut ann, &mut bob, &mut eve] {
        assert_eq!(viewer.rest().await, 1000);
        assert!(viewer.has("5 20\r\n"), "{:?}", String::from_utf8_lossy(&viewer.output));
        assert_eq!(viewer.exit, Some(Cause::Exited { status: 4 }.into()));
    }
}

#[tokio::test]
async fn a_watcher_who_falls_behind_is_brought_up_by_a_snapshot_and_a_reader_of_bytes_is_not() {
    let mut server = Server::start("").await;
    let session =
        server.run(&["sh", "-c", "seq 1 300000; echo done; sleep 600"], json!({"tty": true, "detached": true})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut bytes = server.attach(&id, Hello::watch()).await;
    bytes.shows("done").await;
    let hello = Hello { mode: Mode::Screen, ..Hello::watch() };
    let mut screen = server.attach(&id, hello).await;
    let snapshot = loop {
        if let Came::Records(records) = screen.come().await {
            break records;
        }
    };
    assert!(matches!(snapshot[0].payload, Payload::Snapshot(Size { cols: 80, rows: 24 }, _)));
    assert!(snapshot[0].offset > 1_000_000, "the screen is the present one");
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!(server.ended(&id).await["exit"]["cause"], "stopped");
}

#[tokio::test]
async fn a_stopping_hub_tells_where_to_resume_and_the_next_goes_on() {
    let mut server = Server::start("").await;
    let id = server.run_detached("seq 1 1000; sleep 600 & wait").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n1000\n").await;
    server.terminate().await;
    let going = viewer.hears(|message| matches!(message, HubMessage::GoingAway { .. })).await;
    assert_eq!(going, HubMessage::GoingAway { offset: viewer.next });
    assert_eq!(viewer.rest().await, 1001);
    server.again().await;
    let mut viewer = server.attach(&id, Hello { from: Some(viewer.next), ..Hello::watch() }).await;
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(viewer.output, b"");
}

#[tokio::test]
async fn an_attached_command_is_paced_by_its_client_and_by_nobody_else() {
    let mut server = Server::start("").await;
    let session = server.run(&["sh", "-c", "yes | head -c 8000000"], json!({"stdin": false})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut watcher = server.attach(&id, Hello::watch()).await;
    let mut client = server.attach(&id, Hello { paces: true, ..Hello::drive(1) }).await;
    // The client reads but does not say that it has used anything: half a ring and what was read at once is all.
    client.gets(512 << 10).await;
    let (_, info) = server.ask("GET", &format!("/v1/sessions/{id}?wait=1"), None).await;
    assert_eq!(info["state"], "running", "it waits for its client");
    while client.exit.is_none() {
        let offset = client.next;
        client.say(&ClientMessage::Consumed { offset }).await;
        client.come().await;
    }
    assert_eq!(client.output.len(), 8_000_000);
    assert_eq!(watcher.rest().await, 1000);
    assert_eq!(watcher.gaps, []);
    assert_eq!(watcher.output.len(), client.output.len());
    assert!(watcher.output == client.output);
}

#[tokio::test]
async fn what_is_not_recorded_is_a_gap_with_its_reason_afterwards() {
    let mut server = Server::start("").await;
    let session = server.run(&["sh", "-c", "seq 1 100"], json!({"detached": true, "record": false})).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    server.stored(&id).await;
    server.terminate().await;
    server.again().await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    let gap = loop {
        if let Came::Records(records) = viewer.come().await {
            break records;
        }
    };
    let to = seq(100).len() as u64;
    let expected = Payload::Dropped { to, reason: foghorn::record::Reason::NotRecorded };
    assert_eq!((gap[0].offset, &gap[0].payload), (0, &expected));
    assert_eq!(server.ended(&id).await["exit_status"], 0);
}

#[tokio::test]
async fn a_journal_above_its_limit_loses_its_oldest_part_and_says_so() {
    let mut server = Server::start("journal = \"2 MiB\"\n").await;
    // Hardly compressible, so that the stored bytes are many.
    let id = server.run_detached("head -c 30000000 /dev/urandom | base64 -w0").await;
    server.stored(&id).await;
    server.terminate().await;
    server.again().await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    let first = loop {
        if let Came::Records(records) = viewer.come().await {
            break records[0].clone();
        }
    };
    assert!(
        matches!(first.payload, Payload::Dropped { reason: foghorn::record::Reason::JournalLimit, .. }),
        "the first record is no gap"
    );
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(viewer.next, 40_000_000);
    assert!(viewer.output.len() > 1_000_000);
}

#[tokio::test]
async fn the_embedded_hub_ends_by_itself_when_there_is_nothing_to_do() {
    let mut server = Server::start("embedded_idle = \"5s\"\n").await;
    let id = server.run_detached("sleep 1; echo done").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    assert_eq!(viewer.rest().await, 1000, "not while a session lives");
    until("the hub ends", async || server.has_ended().then_some(())).await;
    assert!(!server.home().join("hub.json").exists());
}

#[tokio::test]
async fn a_second_hub_on_the_same_folder_is_refused() {
    let server = Server::start("").await;
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_foghorn"));
    let output = command.args(["serve", "--embedded", "--home"]).arg(server.home()).output().expect("runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("another hub uses the state folder"), "{text}");
}

#[tokio::test]
async fn an_agent_lets_go_of_a_hub_that_a_later_one_replaced() {
    let mut server = Server::start("").await;
    let id = server.run_detached("sleep 600").await;
    let agent = until("the agent runs", async || server.agent(&id)).await;
    server.kill();
    assert!(alive(agent));
    server.again().await;
    let mut viewer = server.attach(&id, Hello { role: Role::Drive, writer: Some(1), ..Hello::default() }).await;
    viewer.say(&ClientMessage::Signal { signal: 15 }).await;
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(viewer.exit, Some(Cause::Signalled { signal: 15 }.into()));
    until("the agent ends", async || (!alive(agent)).then_some(())).await;
    signal(agent, "KILL");
}

#[tokio::test]
async fn on_postgresql_a_database_that_goes_away_costs_nobody_anything() {
    let Some(database) = support::postgres::Database::alone().await else { return };
    let mut server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &database.url())]).await;
    let steps = Steps::until_told(&server);
    let id = server.run_detached(&steps.script).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.gets(100_000).await;
    database.stop();
    viewer.gets(200_000).await;
    let (status, problem) = server.ask("GET", "/readyz", None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("store_unavailable")));
    database.start().await;
    steps.end();
    assert_eq!(viewer.rest().await, 1000);
    steps.are_all(&viewer.output);
    server.stored(&id).await;
    server.kill();
    server.again().await;
    assert!(server.output(&id, true).await == viewer.output, "and from the journal, by the next hub");
    assert_eq!(server.ended(&id).await["exit_status"], 3);
}

#[tokio::test]
async fn the_terminals_size_is_known_and_can_be_changed_after_a_hub_died() {
    let mut server = Server::start("").await;
    let size = Size { cols: 120, rows: 40 };
    let with = json!({"tty": true, "stdin": true, "keep": true, "size": size, "env": {"PS1": "$ "}});
    let session = server.run(&["sh"], with).await;
    let id = session["id"].as_str().expect("an id").to_owned();
    let mut driver = server.attach(&id, Hello { size: Some(size), ..Hello::drive(1) }).await;
    driver.shows("$ ").await;
    server.kill();
    server.again().await;
    // The size that a hub would take for given, were it not told.
    let size = Size { cols: 80, rows: 24 };
    let mut driver = server.attach(&id, Hello { size: Some(size), from: Some(driver.next), ..Hello::drive(1) }).await;
    driver.type_at(0, "until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; echo chang''ed; exit\n").await;
    driver.shows("changed").await;
    assert_eq!(driver.rest().await, 1000);
}

#[tokio::test]
async fn hubs_that_share_a_database_leave_each_others_sessions_alone() {
    let Some(database) = support::postgres::Database::shared().await else { return };
    let url = database.url();
    let mut first = Server::start_with("", &[("FOGHORN_DATABASE_URL", &url)]).await;
    let id = first.run_detached("echo up; sleep 600").await;
    let mut viewer = first.attach(&id, Hello::watch()).await;
    viewer.shows("up").await;
    let (dir, other) = (tempfile::tempdir().expect("a directory"), "token-of-another-0123456789");
    let file = tokens(dir.path(), &[("bob", "user", other)]);
    let file = file.to_str().expect("a path");
    let second = Server::start_with("", &[("FOGHORN_DATABASE_URL", &url), ("FOGHORN_TOKENS", file)]).await;
    let path = format!("/v1/sessions/{id}");
    let (_, ticket) = first.ask("POST", &format!("{path}/tickets"), Some(json!({"right": "read"}))).await;
    let (read, own) = (ticket["secret"].as_str().expect("a secret"), second.token());
    // Who may see it hears where it lives; who may not does not even hear that it does, nor waits for it.
    for (method, rest, body) in [
        ("GET", "", None),
        ("GET", "/output", None),
        ("GET", "/recording.cast", None),
        ("GET", "/tickets", None),
        ("POST", "/tickets", Some(json!({"right": "read"}))),
        ("POST", "/signal", Some(json!({"signal": 15}))),
        ("DELETE", "", None),
        ("DELETE", "?purge=true", None),
    ] {
        let door = format!("{path}{rest}");
        let ask = async |token| second.ask_as(token, method, &door, body.clone()).await;
        let (status, problem) = ask(&own).await;
        assert_eq!((status, &problem["code"]), (503, &json!("session_elsewhere")), "{method} {rest}");
        let (status, problem) = ask(other).await;
        assert_eq!((status, &problem["code"]), (404, &json!("session_not_found")), "{method} {rest}");
    }
    let (status, problem) = second.ask_as(read, "DELETE", &path, None).await;
    assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
    let (status, list) = second.ask_as(read, "GET", "/v1/sessions", None).await;
    assert_eq!((status, &list["sessions"][0]["id"]), (200, &json!(id)));
    let (_, session) = first.ask("GET", &format!("/v1/sessions/{id}"), None).await;
    assert_eq!(session["state"], "running");
    first.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    first.stored(&id).await;
    assert_eq!(second.output(&id, true).await, "up\n");
}
