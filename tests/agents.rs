//! Hubs and agents of different versions: the bytes of version 1, written down, over real sockets.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foghorn::record::Reason;
use serde_json::{Value, json};
use support::clock::Clock;
use support::server::{Came, Hello, Server, signal, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// A message's bytes: type, three zeros, length, rest.
fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend((rest.len() as u32).to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// The next message: its type and its rest.
async fn next(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let read = async {
        let mut head = [0; 8];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[1..4], [0, 0, 0]);
        let mut rest = vec![0; u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize];
        stream.read_exact(&mut rest).await.unwrap();
        (head[0], rest)
    };
    tokio::time::timeout(support::server::DEADLINE, read).await.expect("a message in time")
}

/// A record's bytes, as version 1 has them.
fn record(kind: u8, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(1_700_000_000_000_000u64.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn a_hub_speaks_with_an_agent_of_version_1() {
    let mut server = Server::start("").await;
    let id = server.run_detached("sleep 600").await;
    server.kill();
    // In the place of its agent an old one, played by the test.
    signal(server.agent(&id).unwrap(), "KILL");
    server.processes(&id).into_iter().for_each(|pid| signal(pid, "KILL"));
    let dir = server.home().join("agents").join(&id);
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    let listener = UnixListener::bind(dir.join("sock")).unwrap();
    let old = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (kind, hello) = next(&mut stream).await;
        let hello: Value = serde_json::from_slice(&hello).unwrap();
        assert_eq!((kind, &hello["min"], &hello["max"], &hello["from"]), (1, &json!(1), &json!(2), &json!(0)));
        let answer = format!(r#"{{"version":1,"session":"{id}","nonce":"n","oldest":0,"head":3}}"#);
        stream.write_all(&message(65, answer.as_bytes())).await.unwrap();
        stream.write_all(&message(70, &[0, 0, 0, 2])).await.unwrap();
        stream.write_all(&message(66, &record(1, 0, b"old"))).await.unwrap();
        // Typed, said and asked in version 1 only.
        let mut typed = false;
        loop {
            let (kind, rest) = next(&mut stream).await;
            assert!((1..=12).contains(&kind), "an old agent does not know type {kind}");
            match kind {
                3 => {
                    assert_eq!(rest[16..], [&[0; 8][..], b"x"].concat());
                    let ack = [&rest[..16], &1u64.to_be_bytes()].concat();
                    stream.write_all(&message(69, &ack)).await.unwrap();
                    let exit = br#"{"cause":"exited","status":7}"#;
                    let last = [record(1, 3, b" agent"), record(5, 9, exit)].concat();
                    stream.write_all(&message(66, &last)).await.unwrap();
                    typed = true;
                }
                8 if rest == [&9u64.to_be_bytes()[..], &[1]].concat() => break,
                10 => stream.write_all(&message(71, &[])).await.unwrap(),
                _ => {}
            }
        }
        assert!(typed);
        drop(stream);
        fs::remove_dir_all(&dir).unwrap();
        id
    });
    server.again().await;
    let (_, list) = server.ask("GET", "/v1/sessions", None).await;
    let id = list["sessions"][0]["id"].as_str().unwrap().to_owned();
    let mut driver = server.attach(&id, Hello::drive(9)).await;
    driver.shows("old").await;
    driver.type_at(0, "x").await;
    assert_eq!(driver.rest().await, 1000, "{:?} {:?}", driver.seen, driver.output);
    assert_eq!(driver.output, b"old agent");
    assert_eq!(old.await.unwrap(), id);
    server.stored(&id).await;
    assert_eq!(server.ended(&id).await["exit_status"], 7);
    assert_eq!(server.output(&id, true).await, "old agent");
}

/// A real agent, without a hub.
struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Agent {
    /// Of a session of its own: an agent ends all processes of its session.
    async fn start(session: &str) -> Self {
        Self::start_with(session, &[]).await
    }

    /// The same, with variables in its environment.
    async fn start_with(session: &str, env: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.args(["agent", "serve", "--session", session, "--dir"]).arg(dir.path()).envs(env.iter().cloned());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let agent = Self { child, dir };
        until("the agent listens", async || agent.socket().exists().then_some(())).await;
        agent
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("sock")
    }

    /// Greets with a range of versions; the agent's answer.
    async fn greet(socket: &Path, min: u16, max: u16, from: u64) -> (UnixStream, Value) {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let hello = format!(r#"{{"min":{min},"max":{max},"epoch":1,"from":{from}}}"#);
        stream.write_all(&message(1, hello.as_bytes())).await.unwrap();
        let (kind, answer) = next(&mut stream).await;
        assert_eq!(kind, 65);
        (stream, serde_json::from_slice(&answer).unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A start message of version 1: a terminal whose idle limit is near at once.
const START: &str = r#"{"nonce":"n","command":["cat"],"env":{"PATH":"/usr/bin:/bin"},"dir":"/","terminal":{"cols":80,"rows":24},"stdin":true,"pace":null,"spool_bytes":1000,"time_limit":null,"idle_limit":1000,"orphan_limit":60000,"hup_wait":100,"term_wait":100,"copy_output":false}"#;

#[tokio::test]
async fn an_agent_speaks_with_a_hub_of_version_1() {
    let agent = Agent::start("old").await;
    let (mut stream, answer) = Agent::greet(&agent.socket(), 1, 1, 0).await;
    assert_eq!(answer, json!({"version": 1, "session": "old", "nonce": null, "oldest": 0, "head": 0}));
    stream.write_all(&message(2, START.as_bytes())).await.unwrap();
    let mut end = Vec::new();
    while end.is_empty() {
        let (kind, rest) = next(&mut stream).await;
        assert!((65..=72).contains(&kind), "an old hub does not know type {kind}");
        if kind == 66 && rest[0] == 5 {
            end = rest[24..].to_vec();
        }
    }
    assert_eq!(end, br#"{"cause":"idle"}"#);
    stream.write_all(&message(8, &[&0u64.to_be_bytes()[..], &[1]].concat())).await.unwrap();
    until("the agent ends", async || (!agent.socket().exists()).then_some(())).await;
}

#[tokio::test]
async fn an_agent_gives_back_its_card_and_warns_of_the_idle_limit() {
    let agent = Agent::start("idle").await;
    let (mut stream, answer) = Agent::greet(&agent.socket(), 1, 2, 0).await;
    assert_eq!(answer, json!({"version": 2, "session": "idle", "nonce": null, "oldest": 0, "head": 0}));
    stream.write_all(&message(13, br#"{"name":"run.1"}"#)).await.unwrap();
    let start = START.replace(r#""idle_limit":1000"#, r#""idle_limit":10000"#);
    stream.write_all(&message(2, start.as_bytes())).await.unwrap();
    let mut warned = Vec::new();
    let mut typed = 0u64;
    while warned.len() < 3 {
        let (kind, rest) = next(&mut stream).await;
        if kind != 73 {
            continue;
        }
        let left = u64::from_be_bytes(rest.try_into().unwrap());
        warned.push(left);
        if left != u64::MAX && typed == 0 {
            assert!((1..=5000).contains(&left), "half of a short limit, not {left} ms");
            let input = [&1u128.to_be_bytes()[..], &typed.to_be_bytes(), b"k"].concat();
            stream.write_all(&message(3, &input)).await.unwrap();
            typed = 1;
        }
    }
    assert_eq!(warned[1], u64::MAX, "something was typed: {warned:?}");
    // Another hub is told who the session is, and that it is idle.
    let (mut stream, answer) = Agent::greet(&agent.socket(), 1, 2, 0).await;
    assert_eq!((&answer["card"], &answer["nonce"]), (&json!({"name": "run.1"}), &json!("n")));
    while next(&mut stream).await.0 != 73 {}
    let (_stream, answer) = Agent::greet(&agent.socket(), 1, 1, 0).await;
    assert_eq!(answer.get("card"), None, "an old hub is told what it knows");
    assert_eq!(answer["version"], 1);
}

#[tokio::test]
async fn limits_and_the_times_of_records_do_not_follow_a_clock_that_jumps() {
    let Some(clock) = Clock::new() else { return };
    let day = 24 * 60 * 60;
    let other = START.replace(r#""time_limit":null,"idle_limit":1000"#, r#""time_limit":1000,"idle_limit":null"#);
    for (start, cause) in [(START, "idle"), (&other, "time_limit")] {
        for jump in [-day, day] {
            clock.set(-300 * day);
            let agent = Agent::start_with("clock", &clock.env()).await;
            let (mut stream, _) = Agent::greet(&agent.socket(), 1, 1, 0).await;
            let since = Instant::now();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            stream.write_all(&message(2, start.as_bytes())).await.unwrap();
            let mut times = Vec::new();
            let mut end = Vec::new();
            while end.is_empty() {
                let (kind, rest) = next(&mut stream).await;
                if kind != 66 {
                    continue;
                }
                let time = Duration::from_micros(u64::from_be_bytes(rest[16..24].try_into().unwrap()));
                if times.is_empty() {
                    clock.set(-300 * day + jump);
                }
                times.push(time);
                if rest[0] == 5 {
                    end = rest[24..].to_vec();
                }
            }
            let took = since.elapsed();
            assert_eq!(String::from_utf8_lossy(&end), format!(r#"{{"cause":"{cause}"}}"#));
            assert!((950..20_000).contains(&took.as_millis()), "{cause} after {took:?}, with a jump of {jump} s");
            let behind = now - times[0];
            assert!(behind > Duration::from_secs(299 * 86_400), "the agent has the clock: {behind:?} behind");
            let spread = *times.last().unwrap() - times[0];
            assert!(times.is_sorted() && spread <= took, "{times:?} within {took:?}");
            stream.write_all(&message(8, &[&0u64.to_be_bytes()[..], &[1]].concat())).await.unwrap();
            until("the agent ends", async || (!agent.socket().exists()).then_some(())).await;
        }
    }
}

#[tokio::test]
async fn an_agent_that_was_stopped_for_a_while_goes_on_where_it_was() {
    let mut server = Server::start("").await;
    let id = server.run_detached("for i in $(seq 1 60); do seq 1 2000; sleep 0.02; done; exit 3").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.shows("\n2000\n").await;
    let agent = server.agent(&id).unwrap();
    for pid in [agent, server.pid()] {
        signal(pid, "STOP");
        // Long enough for pipes and sockets to fill.
        tokio::time::sleep(Duration::from_millis(700)).await;
        signal(pid, "CONT");
        assert!(matches!(viewer.come().await, Came::Records(_) | Came::Message(_)));
    }
    assert_eq!(viewer.rest().await, 1000);
    let step: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert!(viewer.output == step.repeat(60).as_bytes());
    server.stored(&id).await;
    assert!(server.output(&id, true).await == step.repeat(60).as_bytes());
}

#[tokio::test]
async fn a_session_whose_agent_cannot_be_reached_can_be_stopped() {
    let mut server = Server::start("").await;
    let id = server.run_detached("echo up; sleep 600").await;
    server.attach(&id, Hello::watch()).await.shows("up\n").await;
    let agent = server.agent(&id).expect("an agent");
    signal(agent, "STOP");
    server.kill();
    server.again().await;
    assert_eq!(server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    let session = server.ended(&id).await;
    assert_eq!((&session["exit"]["cause"], &session["exit_text"]), (&json!("stopped"), &json!("stopped by tester")));
    until("no process of it is left", async || server.processes(&id).is_empty().then_some(())).await;
    signal(agent, "KILL");
}

#[tokio::test]
async fn an_agent_that_is_killed_in_a_flood_ends_its_session_and_what_was_seen_is_stored() {
    let mut server = Server::start("").await;
    let id = server.run_detached("while :; do seq 1 100000; done").await;
    let mut viewer = server.attach(&id, Hello::watch()).await;
    viewer.gets(5_000_000).await;
    signal(server.agent(&id).unwrap(), "KILL");
    assert_eq!(viewer.rest().await, 1000);
    let end = viewer.exit.clone().unwrap();
    assert!(end.to_string().starts_with("lost: its agent was killed"), "{end}");
    until("no process is left", async || server.processes(&id).is_empty().then_some(())).await;
    let store = foghorn::store::open(None, &server.home().join("foghorn.db")).await.unwrap();
    until("the end is stored", async || store.session(id.parse().unwrap()).await.unwrap().and_then(|row| row.exit))
        .await;
    store.close().await;
    server.kill();
    server.again().await;
    let mut stored = server.attach(&id, Hello::watch()).await;
    assert_eq!(stored.rest().await, 1000);
    assert_eq!((stored.next, &stored.exit), (viewer.next, &viewer.exit));
    // What was still to be had from the agent is told, and nothing else is missing.
    let step: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let printed = step.repeat(1 + stored.next as usize / step.len()).into_bytes();
    for viewer in [&viewer, &stored] {
        viewer.holds(&printed);
        assert!(viewer.gaps.iter().all(|(_, _, reason)| *reason == Reason::AgentLost), "{:?}", viewer.gaps);
    }
}
