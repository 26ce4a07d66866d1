//! A database with damage, or with what a later version wrote: whoever reads has the rest, and is told what is missing.

use std::path::Path;

use foghorn::protocol::Mode;
use foghorn::record::{Batch, Cause, Payload, Reason, Record, Size, Stream};
use foghorn::session::history::pack;
use foghorn::store::{self, Chunk, ChunkKind, Created, Kind, SessionRow, SharedStore, State};
use http_body_util::Full;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use uuid::Uuid;

use super::metrics::samples;
use crate::support::program::Program;
use crate::support::server::{Came, Hello, Server, send, until};

/// Bytes in each of the three chunks of a session.
const CHUNK: u64 = 7000;

fn database(server: &Server) -> std::path::PathBuf {
    server.home().join("foghorn.db")
}

async fn opened(path: &Path) -> SharedStore {
    store::open(None, path).await.expect("a store")
}

/// Changes a database behind the store's back.
async fn change(path: &Path, statement: &'static str, session: Uuid, data: Vec<u8>) {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.expect("opens");
    let query = sqlx::query(statement).bind(session);
    let query = if statement.contains("?2") { query.bind(data) } else { query };
    let changed = query.execute(&mut connection).await.expect("changes");
    assert!(changed.rows_affected() > 0, "{statement}");
    connection.close().await.expect("closes");
}

fn row(tty: bool) -> SessionRow {
    SessionRow {
        id: Uuid::now_v7(),
        name: String::new(),
        kind: Kind::Run,
        state: State::Starting,
        app: "test".into(),
        owner: "tester".into(),
        command: vec!["true".into()],
        command_cut: false,
        tty,
        record: true,
        detached: true,
        backend: "local".into(),
        place: json!({}),
        idempotency_key: None,
        request_hash: None,
        created_at: foghorn::session::now(),
        started_at: None,
        ended_at: None,
        exit: None,
    }
}

/// What a session prints: lines of seven bytes.
fn printed() -> String {
    (0..3 * CHUNK / 7).map(|line| format!("{line:06}\n")).collect()
}

fn chunk(kind: ChunkKind, seq: i64, record: &Record) -> Chunk {
    let batch = Batch::of(record);
    let data = pack(&batch.bytes).expect("packs").into();
    let time = record.time as i64;
    Chunk { kind, seq, from: batch.from, to: batch.to, first_time: time, last_time: time, data }
}

/// Makes a session that has printed three chunks and ended.
async fn made(store: &SharedStore, tty: bool, screens: &[Chunk]) -> SessionRow {
    let (Created::New(row) | Created::Existing(row)) = store.create_session(row(tty)).await.expect("makes");
    let text = printed();
    for seq in 0..3 {
        let from = seq * CHUNK;
        let data = text[from as usize..(from + CHUNK) as usize].to_owned();
        let record = Record {
            offset: from,
            time: row.created_at as u64 + seq,
            payload: Payload::Output(Stream::Stdout, data.into()),
        };
        store.append(row.id, &[chunk(ChunkKind::Records, seq as i64, &record)]).await.expect("appends");
    }
    store.append(row.id, screens).await.expect("appends");
    store.end_session(row.id, &Cause::Exited { status: 0 }.into(), row.created_at + 9).await.expect("ends");
    *row
}

/// An answer as objects, each on a line.
async fn ndjson(server: &Server, path: &str) -> String {
    let request = http::Request::get(format!("{}{path}", server.url()))
        .header("authorization", format!("Bearer {}", server.token()))
        .header("accept", "application/x-ndjson");
    let (status, bytes) = send(request.body(Full::default()).expect("a request")).await;
    assert_eq!(status, 200);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a chunk is replaced with that is packed well and says something else: output at another offset.
fn elsewhere() -> Vec<u8> {
    let payload = Payload::Output(Stream::Stdout, "here".into());
    pack(&Record { offset: 3, time: 1, payload }.to_bytes()).expect("packs")
}

/// A frame that says that it unpacks to 2^40 bytes.
fn huge() -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    frame.extend((1u64 << 40).to_le_bytes());
    frame.extend([1, 0, 0]);
    frame
}

#[tokio::test]
async fn a_chunk_that_cannot_be_read_is_a_gap_to_every_reader_and_all_have_what_follows() {
    const DATA: [&str; 3] = [
        "UPDATE chunks SET data = ?2 WHERE session = ?1 AND seq = 0",
        "UPDATE chunks SET data = ?2 WHERE session = ?1 AND seq = 1",
        "UPDATE chunks SET data = ?2 WHERE session = ?1 AND seq = 2",
    ];
    let garbage: Vec<u8> = (0..900u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let damages: [(&str, &str, Vec<u8>, u64); 13] = [
        ("emptied at the start", DATA[0], vec![], 0),
        ("emptied", DATA[1], vec![], 1),
        ("emptied at the end", DATA[2], vec![], 2),
        ("random", DATA[1], garbage.clone(), 1),
        ("packed garbage", DATA[1], pack(&garbage).expect("packs"), 1),
        ("packed from elsewhere", DATA[1], elsewhere(), 1),
        ("huge", DATA[1], huge(), 1),
        ("of an unknown kind", "UPDATE chunks SET kind = 7 WHERE session = ?1 AND seq = 1", vec![], 1),
        ("of an unknown kind at the end", "UPDATE chunks SET kind = -7 WHERE session = ?1 AND seq = 2", vec![], 2),
        ("from below zero", "UPDATE chunks SET from_offset = -9 WHERE session = ?1 AND seq = 1", vec![], 1),
        ("to below zero", "UPDATE chunks SET to_offset = -9 WHERE session = ?1 AND seq = 1", vec![], 1),
        ("to far beyond", "UPDATE chunks SET to_offset = 1 << 60 WHERE session = ?1 AND seq = 1", vec![], 1),
        ("text", "UPDATE chunks SET first_time = 'noon' WHERE session = ?1 AND seq = 1", vec![], 1),
    ];
    let mut server = Server::start("").await;
    server.terminate().await;
    let path = database(&server);
    let mut sessions = Vec::new();
    for (what, statement, data, bad) in damages {
        let store = opened(&path).await;
        let session = made(&store, false, &[]).await;
        store.close().await;
        change(&path, statement, session.id, data).await;
        sessions.push((what, session, bad * CHUNK));
    }
    server.again().await;

    let text = printed();
    for (what, session, from) in &sessions {
        let (id, to) = (session.id.to_string(), from + CHUNK);
        let rest = [&text[..*from as usize], &text[to as usize..]].concat();
        for start in [0, *from, from + 9] {
            let mut viewer = server.attach(&id, Hello { from: Some(start), ..Hello::watch() }).await;
            assert_eq!(viewer.rest().await, 1000, "{what}");
            assert_eq!(viewer.gaps, [(start.max(*from), to, Reason::Unreadable)], "{what}, from {start}");
            assert!(viewer.exit.is_some(), "{what}");
            viewer.gaps.clear();
            assert!(rest.as_bytes().ends_with(&viewer.output), "{what}, from {start}");
        }
        let records = ndjson(&server, &format!("/v1/sessions/{id}/output")).await;
        let gap = format!("\"offset\":{from},\"reason\":\"unreadable\"");
        assert!(records.contains(&gap) && records.contains(&format!("\"to\":{to},")), "{what}: {records:.300}");
        assert!(records.contains("\"type\":\"exit\""), "{what}");
        // These have no word for a gap: they are broken off at the end.
        for door in ["output", "recording.cast"] {
            let whole = server.open_as(&server.token(), &format!("/v1/sessions/{id}/{door}")).await;
            assert!(!whole.await, "{what}, {door}");
        }
        let (url, name) = (server.url(), &session.name[..]);
        let lines: Vec<&str> = rest.lines().collect();
        for args in [
            &["logs", "-s", name][..],
            &["export", name, "--format", "text"],
            &["replay", name, "--speed", "1000"],
            &["logs", "-a", "test", "--ps", name, "-n", "100000"],
        ] {
            let (_, stdout, stderr) = Program::start(&server, &url, args).ends().await;
            let stdout = String::from_utf8_lossy(&stdout);
            let said = format!("{stdout}{stderr}");
            assert!(said.contains("cannot be read"), "{what}, {args:?}: {stderr}");
            let has = lines.iter().filter(|line| stdout.contains(**line)).count();
            assert_eq!(has, lines.len(), "{what}, {args:?}: {stderr}");
        }
    }
    let gaps = samples(&server).await["foghorn_gaps_total{reason=\"unreadable\"}"];
    assert!(gaps >= 3.0 * sessions.len() as f64, "{gaps}");
    let log = server.log();
    for (what, session, _) in &sessions {
        let told = log.lines().filter(|line| line.contains(&session.id.to_string()) && line.contains("cannot be read"));
        assert_eq!(told.count(), 1, "{what}: {log}");
    }
}

#[tokio::test]
async fn a_screen_that_cannot_be_read_is_passed_over_for_the_one_before() {
    let mut server = Server::start("").await;
    server.terminate().await;
    let path = database(&server);
    let store = opened(&path).await;
    let screen = |offset, text: &str| {
        let payload = Payload::Snapshot(Size::DEFAULT, text.to_owned().into());
        chunk(ChunkKind::Screen, 0, &Record { offset, time: 1, payload })
    };
    let session = made(&store, true, &[screen(3 * CHUNK - 14, "MARK"), screen(3 * CHUNK - 7, "LATER")]).await;
    store.close().await;
    let statement = "UPDATE chunks SET data = ?2 WHERE session = ?1 AND kind = 1 AND seq = 1";
    change(&path, statement, session.id, b"damaged".to_vec()).await;
    server.again().await;
    let mut viewer = server.attach(&session.id.to_string(), Hello { mode: Mode::Screen, ..Hello::watch() }).await;
    let drawn = loop {
        if let Came::Records(records) = viewer.come().await
            && let Some(Payload::Snapshot(_, drawn)) = records.into_iter().next().map(|record| record.payload)
        {
            break drawn;
        }
    };
    let drawn = String::from_utf8_lossy(&drawn).into_owned();
    assert!(drawn.contains("MARK") && drawn.contains("002999") && !drawn.contains("LATER"), "{drawn:?}");
}

#[tokio::test]
async fn sessions_that_cannot_be_read_are_left_out_named_once_and_counted() {
    const DAMAGES: [&str; 6] = [
        "UPDATE sessions SET kind = 'teleport' WHERE id = ?1",
        "UPDATE sessions SET state = 'dreaming' WHERE id = ?1",
        "UPDATE sessions SET command = '[' WHERE id = ?1",
        "UPDATE sessions SET place = 'nowhere' WHERE id = ?1",
        "UPDATE sessions SET exit = '{' WHERE id = ?1",
        "UPDATE sessions SET exit = '{\"cause\":\"abducted\"}' WHERE id = ?1",
    ];
    let mut server = Server::start("").await;
    server.terminate().await;
    let path = database(&server);
    let store = opened(&path).await;
    let good = made(&store, false, &[]).await;
    let mut bad = Vec::new();
    for _ in DAMAGES {
        bad.push(made(&store, false, &[]).await);
    }
    store.close().await;
    for (statement, row) in DAMAGES.into_iter().zip(&bad) {
        change(&path, statement, row.id, vec![]).await;
    }
    server.again().await;
    for _ in 0..3 {
        let (status, list) = server.ask("GET", "/v1/sessions", None).await;
        assert_eq!((status, &list["unreadable"]), (200, &json!(6)), "{list}");
        let ids: Vec<&Value> = list["sessions"].as_array().expect("a list").iter().map(|row| &row["id"]).collect();
        assert_eq!(ids, [&json!(good.id)]);
    }
    let (status, stdout, stderr) = Program::start(&server, &server.url(), &["sessions", "-o", "json"]).ends().await;
    let listed: Vec<Value> = serde_json::from_slice(&stdout).expect("JSON");
    assert_eq!((status, listed.len(), &listed[0]["id"]), (Some(0), 1, &json!(good.id)), "{stderr}");
    assert!(stderr.contains("6 sessions are left out"), "{stderr}");
    change(&path, "UPDATE sessions SET app = x'ff00' WHERE id = ?1", bad[0].id, vec![]).await;
    let (status, apps) = server.ask("GET", "/v1/apps", None).await;
    assert_eq!((status, &apps["apps"][0]["app"]), (200, &json!("test")), "{apps}");
    // The newest are all such: the page is not the end.
    let (_, page) = server.ask("GET", "/v1/sessions?limit=1", None).await;
    assert_eq!((&page["sessions"][0]["id"], &page["unreadable"]), (&json!(good.id), &json!(6)), "{page}");
    for row in &bad {
        for name in [&row.id.to_string(), &row.name] {
            let (status, problem) = server.ask("GET", &format!("/v1/sessions/{name}"), None).await;
            assert_eq!((status, &problem["code"]), (500, &json!("session_unreadable")), "{problem}");
            assert!(problem["detail"].as_str().expect("a detail").contains(&row.id.to_string()), "{problem}");
        }
        let log = server.log();
        let told = log.lines().filter(|line| line.contains(&row.id.to_string()) && line.contains("cannot be read"));
        assert_eq!(told.count(), 1, "{log}");
    }
    assert_eq!(server.ask("GET", "/v1/apps", None).await.0, 200);
    assert_eq!(server.ask("GET", "/v1/apps/test/logs?tail=10", None).await.0, 200);
    let (_, list) = server.ask("GET", "/v1/sessions?state=live", None).await;
    assert!(list["unreadable"].is_null(), "nothing is left out here: {list}");
}

#[tokio::test]
async fn a_live_session_that_cannot_be_read_keeps_no_hub_from_the_others() {
    let mut server = Server::start("").await;
    let printing = "i=0; while [ $i -lt 9 ]; do seq 1 9000; i=$((i+1)); sleep 0.02; done; read x < go; echo went on";
    let go = server.home().join("go");
    assert!(std::process::Command::new("mkfifo").arg(&go).status().expect("mkfifo").success());
    let script = printing.replace("< go", &format!("< {}", go.display()));
    let damaged = server.run_detached(&script).await;
    let unknown = server.run_detached("sleep 600").await;
    let mut before = server.attach(&damaged, Hello::watch()).await;
    before.gets(9 * 43_893).await;
    let path = database(&server);
    let committed = async || {
        let store = opened(&path).await;
        let extent = store.extent(damaged.parse().expect("an id")).await.expect("an extent");
        store.close().await;
        (extent.to == 9 * 43_893).then_some(extent.next_seq)
    };
    until("all is committed", committed).await;
    server.kill();
    // The last chunk, as if a disk had lost it, and a row as a later version writes it.
    let last =
        "UPDATE chunks SET data = ?2 WHERE session = ?1 AND seq = (SELECT MAX(seq) FROM chunks WHERE session = ?1)";
    change(&path, last, damaged.parse().expect("an id"), vec![]).await;
    let row = "UPDATE sessions SET kind = 'teleport' WHERE id = ?1";
    change(&path, row, unknown.parse().expect("an id"), vec![]).await;
    server.again().await;
    let (_, list) = server.ask("GET", "/v1/sessions?state=live", None).await;
    assert_eq!((&list["unreadable"], &list["sessions"][0]["id"]), (&json!(1), &json!(damaged)), "{list}");
    assert!(server.log().contains("live sessions cannot be taken up"), "{}", server.log());
    assert!(server.agent(&unknown).is_some(), "what it runs is left alone");

    let mut viewer = server.attach(&damaged, Hello { from: Some(0), ..Hello::watch() }).await;
    until("the gap is told", async || {
        viewer.come().await;
        (!viewer.gaps.is_empty()).then_some(())
    })
    .await;
    std::fs::write(&go, "\n").expect("writes");
    viewer.shows("went on\n").await;
    assert_eq!(viewer.rest().await, 1000);
    let [(_, to, Reason::Unreadable)] = viewer.gaps[..] else { panic!("gaps: {:?}", viewer.gaps) };
    assert_eq!(to, 9 * 43_893);

    // The version that wrote it is back.
    server.kill();
    change(&path, "UPDATE sessions SET kind = 'run' WHERE id = ?1", unknown.parse().expect("an id"), vec![]).await;
    server.again().await;
    assert_eq!(server.ask("DELETE", &format!("/v1/sessions/{unknown}"), None).await.0, 202);
    server.stored(&unknown).await;
}
