//! An older copy of the database is put in place under hubs and agents: nobody is ended for being unknown, and what
//! nobody has any more is told.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::fs;
use std::path::PathBuf;

use foghorn::protocol::{ClientMessage, HubMessage};
use foghorn::record::Reason;
use foghorn::store::{Created, SessionFilter};
use serde_json::{Value, json};
use support::postgres::Database;
use support::server::{Came, Hello, Server, Viewer, alive, until};

/// A command that prints in steps, each when it is told to.
struct Steps {
    id: String,
    go: PathBuf,
    printed: Vec<u8>,
}

impl Steps {
    async fn start(server: &mut Server, name: &str, with: Value) -> Self {
        let go = server.home().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
        let script = format!("while read -r n; do [ $n = end ] && exit 3; seq 1 $n; done < {}", go.display());
        // Opened for both, so that the command's end never comes to it by itself.
        let script = script.replace("done < ", "done <> ");
        let mut with = with;
        with["detached"] = true.into();
        let started = server.run(&["sh", "-c", &script], with).await;
        Self { id: started["id"].as_str().unwrap().to_owned(), go, printed: Vec::new() }
    }

    fn tell(&self, word: &str) {
        fs::write(&self.go, format!("{word}\n")).unwrap();
    }

    fn print(&mut self, lines: u32) {
        self.tell(&lines.to_string());
        self.printed.extend((1..=lines).flat_map(|n| format!("{n}\n").into_bytes()));
    }

    /// Waits until a viewer has all that was printed from where it joined.
    async fn seen(&self, viewer: &mut Viewer) {
        while viewer.next < self.printed.len() as u64 {
            assert!(matches!(viewer.come().await, Came::Records(_) | Came::Message(_)));
        }
    }

    /// Holds what a viewer got against what was printed: complete but for what it was told.
    fn holds(&self, viewer: &Viewer, gap: bool) -> (u64, u64) {
        assert_eq!(viewer.gaps.len(), usize::from(gap), "{:?}", viewer.gaps);
        let (from, to) = match viewer.gaps.first() {
            Some((from, to, reason)) => {
                assert_eq!(*reason, Reason::Acknowledged);
                (*from as usize, *to as usize)
            }
            None => (self.printed.len(), self.printed.len()),
        };
        assert!(viewer.output[..from] == self.printed[..from], "before {from}");
        assert!(viewer.output[from..] == self.printed[to..], "behind {to}");
        (from as u64, to as u64)
    }
}

/// Waits until the database has all of a session.
async fn stored(server: &Server, steps: &Steps) {
    let path = server.home().join("foghorn.db");
    until("all is stored", async || {
        let store = foghorn::store::open(None, &path).await.unwrap();
        let extent = store.extent(steps.id.parse().unwrap()).await.unwrap();
        store.close().await;
        (extent.to == steps.printed.len() as u64).then_some(())
    })
    .await;
}

const FILES: [&str; 3] = ["foghorn.db", "foghorn.db-wal", "foghorn.db-shm"];

/// Stops the hub in order, copies its database, and starts it again.
async fn copy(server: &mut Server) {
    server.terminate().await;
    for file in FILES.iter().filter(|file| server.home().join(file).exists()) {
        fs::copy(server.home().join(file), server.home().join(format!("kept-{file}"))).unwrap();
    }
    server.again().await;
}

/// Kills the hub, and puts the copy in the place of its database.
fn put_back(server: &mut Server) {
    server.kill();
    for file in FILES {
        let _ = fs::remove_file(server.home().join(file));
        let _ = fs::copy(server.home().join(format!("kept-{file}")), server.home().join(file));
    }
}

async fn show(server: &Server, id: &str) -> Value {
    server.ask("GET", &format!("/v1/sessions/{id}"), None).await.1
}

/// What the journal has, found by another hub when the session has ended.
async fn journal(server: &mut Server, steps: &Steps) -> Viewer {
    server.stored(&steps.id).await;
    server.kill();
    server.again().await;
    let mut viewer = server.attach(&steps.id, Hello::watch()).await;
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(show(server, &steps.id).await["exit_status"], 3);
    viewer
}

#[tokio::test]
async fn running_agents_are_taken_up_by_a_hub_whose_database_is_older() {
    let mut server = Server::start("grace = \"5s\"\n").await;
    let mut known = Steps::start(&mut server, "known", json!({})).await;
    known.print(10_000);
    stored(&server, &known).await;
    let mut ended = Steps::start(&mut server, "ended", json!({})).await;
    ended.print(10);
    copy(&mut server).await;

    let with = json!({"idempotency_key": "k", "app": "blog"});
    let mut unknown = Steps::start(&mut server, "unknown", with.clone()).await;
    let before = show(&server, &unknown.id).await;
    let left = server.run(&["cat"], json!({"tty": true, "stdin": true})).await["id"].as_str().unwrap().to_owned();
    let mut driver = server.attach(&left, Hello::drive(1)).await;
    driver.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    driver.say(&ClientMessage::Detach).await;
    assert_eq!(driver.rest().await, 1000);
    for steps in [&mut known, &mut unknown] {
        steps.print(20_000);
        stored(&server, steps).await;
    }
    ended.tell("end");
    server.stored(&ended.id).await;
    // Printed while no hub is there: the agents alone have it.
    put_back(&mut server);
    known.print(5000);
    unknown.print(5000);
    server.again().await;

    for steps in [&mut known, &mut unknown] {
        let mut viewer = server.attach(&steps.id, Hello::watch()).await;
        steps.print(3000);
        steps.seen(&mut viewer).await;
        steps.tell("end");
        assert_eq!(viewer.rest().await, 1000);
        steps.holds(&viewer, true);
    }
    let after = show(&server, &unknown.id).await;
    for field in ["id", "name", "kind", "app", "owner", "command", "tty", "record", "detached", "created_at"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let lost = server.ended(&ended.id).await;
    assert_eq!((&lost["exit"]["cause"], &lost["exit_status"]), (&json!("lost"), &json!(125)));
    assert!(lost["exit_text"].as_str().unwrap().contains("there is no trace of its agent"), "{lost}");
    // Whoever left on purpose has still left on purpose, longer than its grace.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!(show(&server, &left).await["state"], "running");
    server.ask("DELETE", &format!("/v1/sessions/{left}"), None).await;
    server.ended(&left).await;

    let (from, _) = known.holds(&journal(&mut server, &known).await, true);
    let line_ends = known.printed[..from as usize].ends_with(b"10000\n");
    assert!(line_ends, "the gap starts where the copy ended, not at {from}");
    let (from, _) = unknown.holds(&journal(&mut server, &unknown).await, true);
    assert_eq!(from, 0);
    let mut source = with;
    source["kind"] = "run".into();
    source["command"] = before["command"].clone();
    source["detached"] = true.into();
    source["caller_env"] = json!({"PATH": ""});
    let (status, again) = server.ask("POST", "/v1/sessions", Some(json!({ "source": source }))).await;
    assert_eq!((status, &again["id"]), (200, &before["id"]), "its key is known again");
    let new = server.run_detached("true").await;
    let names: Vec<_> = [&new, &unknown.id, &known.id, &left].map(|id| id.to_owned()).to_vec();
    let mut seen = std::collections::HashSet::new();
    for id in names {
        assert!(seen.insert(show(&server, &id).await["name"].as_str().unwrap().to_owned()), "a name was given twice");
    }
    server.stored(&new).await;
}

#[tokio::test]
async fn a_session_whose_name_was_taken_gets_another_one_and_is_told() {
    let mut server = Server::start("").await;
    copy(&mut server).await;
    let unknown = Steps::start(&mut server, "unknown", json!({})).await;
    assert_eq!(show(&server, &unknown.id).await["name"], "run.1");
    put_back(&mut server);
    let store = foghorn::store::open(None, &server.home().join("foghorn.db")).await.unwrap();
    let taken = row(&server);
    let Created::New(taken) = store.create_session(taken).await.unwrap() else { panic!("not new") };
    store.end_session(taken.id, &foghorn::record::Cause::Idle.into(), foghorn::session::now()).await.unwrap();
    store.close().await;
    assert_eq!(taken.name, "run.1");

    server.again().await;
    assert_eq!(show(&server, "run.1").await["id"], taken.id.to_string());
    assert_eq!(show(&server, "run.2").await["id"], unknown.id);
    let mut viewer = server.attach("run.2", Hello::watch()).await;
    let notice = viewer.hears(|message| matches!(message, HubMessage::Notice { .. })).await;
    let HubMessage::Notice { code, text } = notice else { panic!("{notice:?}") };
    assert_eq!(code, "renamed");
    assert!(text.starts_with("run.1 is run.2 now"), "{text}");
    unknown.tell("end");
    assert_eq!(viewer.rest().await, 1000);
    // The agent knows its new name: the next hub does not ask again.
    server.stored(&unknown.id).await;
}

/// The row of a session that is nobody's to run here.
fn row(server: &Server) -> foghorn::store::SessionRow {
    foghorn::store::SessionRow {
        id: uuid::Uuid::now_v7(),
        name: String::new(),
        kind: foghorn::store::Kind::Run,
        state: foghorn::store::State::Starting,
        app: "test".into(),
        owner: "tester".into(),
        command: vec!["true".into()],
        command_cut: false,
        tty: false,
        record: true,
        detached: true,
        backend: "local".into(),
        place: json!({"agents": server.home().join("elsewhere")}),
        idempotency_key: None,
        request_hash: None,
        created_at: 1,
        started_at: None,
        ended_at: None,
        exit: None,
    }
}

#[tokio::test]
async fn a_database_of_another_installation_takes_no_session_in_and_ends_none() {
    let mut server = Server::start("").await;
    let mut steps = Steps::start(&mut server, "steps", json!({})).await;
    steps.print(100);
    stored(&server, &steps).await;
    server.kill();
    for file in FILES {
        let _ = fs::rename(server.home().join(file), server.home().join(format!("kept-{file}")));
    }
    server.again().await;
    let (status, _) = server.ask("GET", &format!("/v1/sessions/{}", steps.id), None).await;
    assert_eq!(status, 404);
    let agent = server.agent(&steps.id).expect("an agent");
    assert!(server.log().contains("was not made in it"), "{}", server.log());
    put_back(&mut server);
    server.again().await;
    assert!(alive(agent));
    steps.print(100);
    steps.tell("end");
    let viewer = journal(&mut server, &steps).await;
    steps.holds(&viewer, false);
}

#[tokio::test]
async fn a_hub_that_runs_puts_back_what_its_database_has_forgotten() {
    let Some(database) = Database::alone().await else { return };
    let env = [("FOGHORN_DATABASE_URL", &database.url()[..])];
    let mut server = Server::start_with("", &env).await;
    let committed = async |at: u64| {
        until("all is stored", async || {
            let sum = database.number("SELECT CAST(SUM(journal_to) AS BIGINT) FROM sessions").await;
            (sum as u64 == at).then_some(())
        })
        .await;
    };
    let mut known = Steps::start(&mut server, "known", json!({})).await;
    known.print(10_000);
    committed(known.printed.len() as u64).await;
    server.terminate().await;
    database.keep_copy().await;
    server.again().await;
    let mut unknown = Steps::start(&mut server, "unknown", json!({})).await;
    known.print(200_000);
    unknown.print(200_000);
    committed((known.printed.len() + unknown.printed.len()) as u64).await;
    let name = show(&server, &unknown.id).await["name"].clone();
    let mut live = server.attach(&unknown.id, Hello::watch()).await;
    unknown.seen(&mut live).await;

    database.put_copy_back().await;
    until("the database is there", async || (server.ask("GET", "/readyz", None).await.0 == 200).then_some(())).await;
    // Nobody prints: who joins from the start is told what is gone, and gets what the ring still has.
    let mut late = server.attach(&unknown.id, Hello::watch()).await;
    unknown.seen(&mut late).await;
    unknown.holds(&late, true);
    assert!(late.output.len() > 500_000, "the ring has {} bytes", late.output.len());
    // A new session has none of the names that live.
    let new = server.run_detached("true").await;
    assert_ne!(show(&server, &new).await["name"], name);
    for steps in [&mut known, &mut unknown] {
        steps.print(1000);
        steps.tell("end");
    }
    assert_eq!(live.rest().await, 1000);
    unknown.holds(&live, false);
    assert_eq!(show(&server, &unknown.id).await["name"], name);
    for (steps, from) in [(&known, Some(48_894)), (&unknown, Some(0))] {
        let viewer = journal(&mut server, steps).await;
        let gap = steps.holds(&viewer, true);
        assert_eq!(Some(gap.0), from);
    }
    let store = foghorn::store::open(Some(&database.url()), &PathBuf::new()).await.unwrap();
    let live = SessionFilter { live: Some(true), limit: 10, ..SessionFilter::default() };
    assert_eq!(store.sessions(&live).await.unwrap().rows, []);
    store.close().await;
}
