//! Databases that freeze, die, crawl and fill up: who watches notices nothing, and the journal is complete afterwards.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foghorn::record::Reason;
use serde_json::json;
use support::disk::Disk;
use support::postgres::Database;
use support::proxy::{Proxy, Target};
use support::server::{Came, Hello, Server, Viewer, signal, until};
use tokio::task::JoinHandle;

/// How long a record may be on its way to a viewer while the database fails. One that waited for the database would be
/// longer: for an answer's parts, two seconds each, or for as long as it is away.
const NOTICED: Duration = Duration::from_secs(5);

/// Within how long who joins has the session, where the machine does not stall.
const JOINS: Duration = Duration::from_secs(1);

/// How long a database fails.
const AWAY: Duration = Duration::from_secs(10);

/// What each step of a stream prints.
const STEP: u32 = 5000;

/// A command that prints steadily in so many steps, about 1 MiB a second.
fn stream(steps: u32) -> String {
    format!("i=0; while [ $i -lt {steps} ]; do seq 1 {STEP}; i=$((i+1)); sleep 0.02; done; exit 3")
}

fn printed(steps: u32) -> Vec<u8> {
    let step: Vec<u8> = (1..=STEP).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    step.repeat(steps as usize)
}

/// The same with bytes that cannot be compressed much, which nobody knows before.
fn noise(steps: u32) -> String {
    format!(
        "i=0; while [ $i -lt {steps} ]; do head -c 18000 /dev/urandom | base64 -w0; i=$((i+1)); sleep 0.02; done; exit 3"
    )
}

/// One who watches to the end: what came, and how long a record was on its way at most.
fn watching(mut viewer: Viewer) -> JoinHandle<(Viewer, Duration)> {
    tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        loop {
            match viewer.come().await {
                Came::Records(records) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                    let made = records.first().map_or(now, |record| Duration::from_micros(record.time));
                    longest = longest.max(now.saturating_sub(made));
                }
                Came::Closed(1000) => return (viewer, longest),
                Came::Message(_) => {}
                other => panic!("{other:?}"),
            }
        }
    })
}

/// Waits until the watcher has the end, and holds against it that it noticed something. What it saw.
async fn unnoticed(what: &str, watcher: JoinHandle<(Viewer, Duration)>) -> Vec<u8> {
    let (viewer, longest) = watcher.await.unwrap();
    println!("{what}: a record was on its way for {longest:?} at most");
    assert_eq!(viewer.gaps, [], "{what}");
    assert!(longest < NOTICED, "{what}: a record was on its way for {longest:?}");
    viewer.output
}

/// What another hub finds in the journal.
async fn journal(server: &mut Server, id: &str) -> Viewer {
    server.stored(id).await;
    server.kill();
    server.again().await;
    let mut viewer = server.attach(id, Hello::watch()).await;
    assert_eq!(viewer.rest().await, 1000);
    assert_eq!(server.ended(id).await["exit_status"], 3);
    viewer
}

async fn complete(server: &mut Server, id: &str, expected: &[u8]) {
    let viewer = journal(server, id).await;
    assert_eq!(viewer.gaps, [], "in the journal");
    assert!(viewer.output == expected, "{} bytes of {} in the journal", viewer.output.len(), expected.len());
}

async fn hub_on(database: &Database, settings: &str) -> Server {
    Server::start_with(settings, &[("FOGHORN_DATABASE_URL", &database.url())]).await
}

/// A database that is away does not keep those from a live session who need nothing of it.
async fn joins_at_once(server: &Server, id: &str) {
    let mut took = Vec::new();
    // One that needed the database would never be in time.
    while took.len() < 3 {
        let since = Instant::now();
        let mut viewer = server.attach(id, Hello { from: None, ..Hello::drive(1) }).await;
        while viewer.output.is_empty() {
            assert!(matches!(viewer.come().await, Came::Records(_) | Came::Message(_)));
        }
        let (status, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!((status, &session["state"]), (200, &json!("running")));
        took.push(since.elapsed());
        if since.elapsed() < JOINS {
            return;
        }
    }
    panic!("joins took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_freezes_is_noticed_by_nobody() {
    let Some(database) = Database::alone().await else { return };
    let mut server = hub_on(&database, "").await;
    let id = server.run_detached(&stream(450)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n5000\n").await;
    let watcher = watching(viewer);
    database.freeze(true);
    joins_at_once(&server, &id).await;
    tokio::time::sleep(AWAY).await;
    database.freeze(false);
    until("the trail has who came while nothing could be stored", async || {
        let (_, audit) = server.ask("GET", "/v1/audit?limit=1000", None).await;
        let lines = audit["lines"].as_array().cloned().unwrap_or_default();
        lines.iter().any(|line| line["action"] == "driver" && line["session"] == *id).then_some(())
    })
    .await;
    let expected = printed(450);
    assert!(unnoticed("frozen", watcher).await == expected);
    complete(&mut server, &id, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_crashes_and_a_hub_that_is_killed_meanwhile_cost_nothing() {
    let Some(database) = Database::alone().await else { return };
    let mut server = hub_on(&database, "").await;
    let id = server.run_detached(&stream(450)).await;
    let mut first = server.attach(&id, Hello::watch()).await;
    first.shows("\n5000\n").await;
    let watcher = watching(server.attach(&id, Hello::watch()).await);
    database.stop();
    joins_at_once(&server, &id).await;
    let (status, problem) = server.ask("GET", "/readyz", None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("store_unavailable")));
    tokio::time::sleep(AWAY).await;
    database.start().await;
    let expected = printed(450);
    assert!(unnoticed("crashed", watcher).await == expected);
    complete(&mut server, &id, &expected).await;

    // And where the hub dies while the agent alone has what was not committed.
    let id = server.run_detached(&stream(100)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n5000\n").await;
    database.stop();
    viewer.gets(1_400_000).await;
    server.kill();
    database.start().await;
    server.again().await;
    complete(&mut server, &id, &printed(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_while_the_database_is_away_leaves_an_end_and_one_gap() {
    let Some(database) = Database::alone().await else { return };
    let mut server = hub_on(&database, "").await;
    let id = server.run_detached(&stream(100_000)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    let committed = async || database.number("SELECT CAST(SUM(journal_to) AS BIGINT) FROM sessions").await;
    until("something is stored", async || (committed().await > 0).then_some(())).await;
    database.stop();
    viewer.gets(6_000_000).await;
    signal(server.agent(&id).unwrap(), "KILL");
    assert_eq!(viewer.rest().await, 1000);
    database.start().await;
    server.stored(&id).await;
    until("the end is stored", async || {
        (database.number("SELECT COUNT(*) FROM sessions WHERE exit IS NOT NULL").await == 1).then_some(())
    })
    .await;
    server.kill();
    server.again().await;
    let mut stored = server.attach(&id, Hello::watch()).await;
    assert_eq!(stored.rest().await, 1000);
    assert_eq!((stored.next, &stored.exit), (viewer.next, &viewer.exit));
    let printed = printed(1 + stored.next as u32 / 20_000);
    viewer.holds(&printed);
    stored.holds(&printed);
    let [(_, to, Reason::AgentLost)] = stored.gaps[..] else { panic!("gaps: {:?}", stored.gaps) };
    assert!(stored.next - to > 500_000, "the ring had more than {} bytes", stored.next - to);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_takes_two_seconds_an_answer_still_stores_and_holds_up_nobody() {
    let Some(database) = Database::alone().await else { return };
    let socket = database.socket();
    let proxy = Proxy::start(move || Some(Target::Unix(socket.clone())));
    let url = database.url_through(proxy.address());
    let mut server = Server::start_with("", &[("FOGHORN_DATABASE_URL", &url)]).await;
    let id = server.run_detached(&stream(600)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n5000\n").await;
    let watcher = watching(viewer);
    proxy.delay(Duration::from_secs(2));
    joins_at_once(&server, &id).await;
    // Two commits, so that one of them began and ended in slowness.
    let committed = async || database.number("SELECT CAST(SUM(next_seq) AS BIGINT) FROM sessions").await;
    let before = committed().await;
    until("a slow database takes records", async || (committed().await >= before + 2).then_some(())).await;
    proxy.delay(Duration::ZERO);
    let expected = printed(600);
    assert!(unnoticed("slow", watcher).await == expected);
    complete(&mut server, &id, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_without_room_stores_all_once_it_has_room() {
    let Some(disk) = Disk::new(32) else { return };
    let Some(database) = Database::alone().await else { return };
    database.move_to(disk.path()).await;
    let mut server = hub_on(&database, "").await;
    let id = server.run_detached(&noise(600)).await;
    let watcher = watching(server.attach(&id, Hello::watch()).await);
    let stored = async || database.number("SELECT CAST(SUM(journal_to) AS BIGINT) FROM sessions").await;
    until("something is stored", async || (stored().await > 0).then_some(())).await;
    disk.fill();
    until("the database is full", async || server.log().contains("no space left for the database").then_some(())).await;
    joins_at_once(&server, &id).await;
    let expected = unnoticed("full", watcher).await;
    disk.free();
    complete(&mut server, &id, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_small_spool_cannot_keep_is_one_gap_with_its_range_and_the_rest_is_there() {
    let Some(database) = Database::alone().await else { return };
    let mut server = hub_on(&database, "spool = \"6 MiB\"\n").await;
    let id = server.run_detached(&stream(550)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n5000\n").await;
    let watcher = watching(viewer);
    let committed = async || database.number("SELECT CAST(SUM(journal_to) AS BIGINT) FROM sessions").await;
    until("something is stored", async || (committed().await > 0).then_some(())).await;
    database.stop();
    let expected = printed(550);
    assert!(unnoticed("a small spool", watcher).await == expected);
    database.start().await;
    let stored = journal(&mut server, &id).await;
    let [(from, to, Reason::SpoolFull)] = stored.gaps[..] else { panic!("gaps: {:?}", stored.gaps) };
    let all = expected.len() as u64;
    assert_eq!(stored.next, all);
    assert!(from > 0 && to - from > 1 << 20 && all - to >= 4 << 20, "{from} to {to} of {all}");
    stored.holds(&expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_sqlite_and_the_spool_loses_nothing_that_fits() {
    let Some(disk) = Disk::new(48) else { return };
    let home = tempfile::Builder::new().tempdir_in(disk.path()).unwrap();
    let mut server = Server::start_at(home, "", &[]).await;
    let id = server.run_detached(&noise(300)).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.gets(100_000).await;
    let watcher = watching(viewer);
    disk.fill();
    until("the database is full", async || server.log().contains("no space left for the database").then_some(())).await;
    assert!(disk.is_full());
    joins_at_once(&server, &id).await;
    let body = json!({"source": {"kind": "run", "app": "test", "command": ["true"]}});
    let (status, problem) = server.ask("POST", "/v1/sessions", Some(body)).await;
    assert_eq!((status, &problem["code"]), (507, &json!("store_full")), "{problem}");
    // So long that all fits into the agent's memory, which has no room on the disk for more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    disk.free();
    let expected = unnoticed("SQLite full", watcher).await;
    complete(&mut server, &id, &expected).await;
    let other = server.run_detached("echo again; exit 3").await;
    complete(&mut server, &other, b"again\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_has_a_file_keeps_what_fits_into_it_on_a_full_disk() {
    let Some(disk) = Disk::new(48) else { return };
    let home = tempfile::Builder::new().tempdir_in(disk.path()).unwrap();
    let mut server = Server::start_at(home, "", &[]).await;
    let go = server.home().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().unwrap().success());
    let id = server.run_detached(&format!("echo up; read x < {}; seq 1 3000000; exit 3", go.display())).await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("up\n").await;
    // No hub takes anything, and there is room for less than a third of what comes.
    server.kill();
    disk.fill();
    disk.free_some(8 << 20);
    std::fs::write(&go, "\n").unwrap();
    until("the command ends", async || server.processes(&id).is_empty().then_some(())).await;
    disk.free();
    server.again().await;
    let stored = journal(&mut server, &id).await;
    let mut expected = b"up\n".to_vec();
    expected.extend((1..=3_000_000u32).flat_map(|n| format!("{n}\n").into_bytes()));
    let [(_, to, Reason::SpoolFull)] = stored.gaps[..] else { panic!("gaps: {:?}", stored.gaps) };
    let kept = expected.len() as u64 - to;
    assert!(kept > 8_000_000, "the spool kept {kept} bytes");
    assert_eq!(stored.next, expected.len() as u64);
    stored.holds(&expected);
}
