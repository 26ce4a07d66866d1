//! Connections that have nothing to say, or no end of it, and those that they must not keep out.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bed::memory;
use crate::raw::connect;
use crate::support::server::{Hello, Server, until};

/// How long a client may take to send a head, and some time to be late.
const HEAD: Duration = Duration::from_secs(30);

/// What a hub's stranger makes it hold: the longest head twice, since a buffer grows by doubling, and what a connection
/// takes otherwise, in bytes.
const PER_STRANGER: u64 = (2 * 64 + 32) << 10;

/// Many sockets in one test.
fn raise_nofile() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("more files");
}

fn descriptors(server: &Server) -> usize {
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(server.home().join("hub.json")).expect("a hub")).expect("JSON");
    fs::read_dir(format!("/proc/{}/fd", file["pid"])).expect("a process").count()
}

/// A connection that has sent this and waits.
async fn waiting(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(server).await;
    // One that has to go at once hears of it later.
    let _ = stream.write_all(bytes).await;
    stream
}

/// What a TLS client says first.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.extend((0..509).map(|byte| byte as u8));
    hello
}

#[tokio::test]
async fn who_has_nothing_to_say_keeps_nobody_out() {
    raise_nofile();
    let mut server = Server::start("connections = 20\n").await;
    let id = server.run_detached("i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done").await;
    let mut witness = server.attach(&id, Hello::watch()).await;
    witness.shows("tick 0").await;
    let (before, files) = (memory(&server), descriptors(&server));
    let half = b"GET /healthz HTTP/1.1\r\nhost: hub\r\nx: ".to_vec();
    let no_token = b"GET /v1/sessions HTTP/1.1\r\nhost: hub\r\n\r\n".to_vec();
    let kinds = [Vec::new(), half, client_hello(), no_token, vec![0; 1000]];
    let mut held = Vec::new();
    for round in 0..20 {
        for number in 0..100 {
            held.push(waiting(&server, &kinds[number % kinds.len()]).await);
        }
        // The whole flood is still connected, for all that it knows.
        let since = Instant::now();
        assert_eq!(server.ask("GET", "/v1/sessions", None).await.0, 200);
        assert_eq!(server.ask("GET", "/healthz", None).await.0, 200);
        assert!(since.elapsed() < HEAD, "let in at once, not when strangers have been waited for");
        // 20 who have shown a token, 20 strangers, and what is about to be closed.
        let what = format!("round {round}: fewer than {} descriptors", files + 50);
        until(&what, async || (descriptors(&server) < files + 50).then_some(())).await;
    }
    let mut late = server.attach(&id, Hello::watch()).await;
    late.shows("tick 1").await;
    assert!(memory(&server) < before + (16 << 20), "{} KiB more", (memory(&server) - before) >> 10);
    drop(held);
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(&id).await;
    witness.rest().await;
    assert!(witness.exit.is_some() && witness.gaps.is_empty());
    assert!(witness.output == server.output(&id, false).await, "the witness lost nothing");
}

#[tokio::test]
async fn thousands_of_half_heads_hold_what_a_thousand_may() {
    raise_nofile();
    let server = Server::start("").await;
    let before = memory(&server);
    let half = format!("GET /healthz HTTP/1.1\r\nhost: hub\r\nx: {}", "y".repeat(60_000)).into_bytes();
    let mut held = Vec::new();
    for _ in 0..3000 {
        held.push(waiting(&server, &half).await);
    }
    assert_eq!(server.ask("GET", "/v1/sessions", None).await.0, 200);
    let grown = memory(&server) - before;
    println!("3000 half heads: {} KiB more", grown >> 10);
    assert!(grown < 1024 * PER_STRANGER, "{} KiB more", grown >> 10);
    assert!(descriptors(&server) < 1024 + 60);
}

#[tokio::test]
async fn a_head_that_does_not_come_is_waited_for_ten_seconds() {
    let server = Server::start("").await;
    let silent = waiting(&server, b"").await;
    let half = waiting(&server, b"GET /healthz HTTP/1.1\r\n").await;
    let one_by_one = connect(&server).await;
    // Behind an answer as before the first one.
    let idle = waiting(&server, b"GET /healthz HTTP/1.1\r\nhost: hub\r\n\r\n").await;
    let ends = async |mut stream: TcpStream, what: &str| {
        let mut answer = Vec::new();
        let ended = timeout(HEAD, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{what} is still connected");
    };
    let slowly = async |mut stream: TcpStream| {
        let drip = async {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(HEAD, drip).await.expect("a head that never ends is cut off");
    };
    tokio::join!(ends(silent, "silent"), ends(half, "half"), ends(idle, "idle"), slowly(one_by_one));
    until("the hub answers", async || (server.ask("GET", "/healthz", None).await.0 == 200).then_some(())).await;
    assert_eq!(server.ask("POST", "/v1/sessions", Some(json!({}))).await.0, 400);
}
