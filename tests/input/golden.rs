//! A hub speaks with clients of version 1: conversations that are written down byte for byte, and a reader of the hub's
//! answers that shares nothing with the hub's own code.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::wire::{Got, Wire};

/// One who plays a conversation, and reads the answers as the first release's client did.
struct Player {
    wire: Wire,
    /// Messages and records that came and were not waited for yet.
    heard: Vec<Heard>,
    output: String,
}

/// What the hub said, in version 1.
#[derive(Debug)]
enum Heard {
    Message(Value),
    Resize(u16, u16),
    Exit(Value),
    Snapshot(u16, u16),
    Pong(String),
    Close(u16),
}

impl Player {
    async fn next(&mut self) {
        match self.wire.next().await {
            Got::Message(message) => {
                check(&message);
                self.heard.push(Heard::Message(message));
            }
            Got::Binary(records) => self.records(&records),
            Got::Pong(payload) => self.heard.push(Heard::Pong(String::from_utf8(payload).expect("text"))),
            Got::Close(code) => self.heard.push(Heard::Close(code)),
            Got::End => panic!("the end, after {:?}", self.heard),
        }
    }

    /// Records: kind, three zeros, length, offset, time, payload.
    fn records(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(24);
            let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            assert_eq!(head[1..4], [0, 0, 0]);
            let time = u64::from_be_bytes(head[16..].try_into().expect("8 bytes"));
            assert!(time > 1_700_000_000_000_000, "microseconds since the epoch");
            let (payload, rest) = rest.split_at(len);
            let pair = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
            match head[0] {
                1 | 2 => self.output.push_str(&String::from_utf8_lossy(payload)),
                3 => self.heard.push(Heard::Resize(pair(0), pair(2))),
                5 => self.heard.push(Heard::Exit(serde_json::from_slice(payload).expect("JSON"))),
                6 => self.heard.push(Heard::Snapshot(pair(0), pair(2))),
                kind => panic!("a record of kind {kind}"),
            }
            bytes = rest;
        }
    }

    async fn waits_for(&mut self, expected: &str) {
        let (kind, rest) = expected.split_once(' ').unwrap_or((expected, ""));
        if kind == "output" {
            while !self.output.contains(rest) {
                self.next().await;
            }
            return;
        }
        loop {
            if let Some(at) = self.heard.iter().position(|heard| is(heard, kind, rest)) {
                // What came before it was not waited for.
                self.heard.drain(..=at);
                return;
            }
            assert!(!matches!(self.heard.last(), Some(Heard::Close(_))), "{:?} and no {expected}", self.heard);
            self.next().await;
        }
    }
}

fn is(heard: &Heard, kind: &str, rest: &str) -> bool {
    match heard {
        Heard::Message(message) => {
            let fields: Value = serde_json::from_str(if rest.is_empty() { "{}" } else { rest }).unwrap_or_default();
            let same = |(name, value): (&String, &Value)| message.get(name) == Some(value);
            message["type"] == kind && fields.as_object().is_some_and(|fields| fields.iter().all(same))
        }
        Heard::Resize(cols, rows) => kind == "resize" && rest == format!("{cols} {rows}"),
        Heard::Exit(exit) => kind == "exit" && serde_json::from_str::<Value>(rest).is_ok_and(|rest| rest == *exit),
        Heard::Snapshot(cols, rows) => kind == "snapshot" && (*cols, *rows) != (0, 0),
        Heard::Pong(payload) => kind == "pong" && rest == payload,
        Heard::Close(code) => kind == "close" && rest == code.to_string(),
    }
}

/// What a client of version 1 needs of each message. It passes over what it does not know.
fn check(message: &Value) {
    let number = |name: &str| assert!(message[name].is_u64(), "{name} in {message}");
    match message["type"].as_str().expect("a type") {
        "welcome" => {
            ["viewer", "head"].into_iter().for_each(number);
            assert!(message["driving"].is_boolean() && message.get("size").is_some(), "{message}");
            assert!(message["size"].is_null() || message["size"]["cols"].is_u64() && message["size"]["rows"].is_u64());
            let session = &message["session"];
            for name in ["id", "name", "kind", "state", "app", "owner", "backend", "created_at"] {
                assert!(session[name].is_string(), "{name} in {session}");
            }
            for name in ["tty", "record", "detached"] {
                assert!(session[name].is_boolean(), "{name} in {session}");
            }
            for name in ["started_at", "ended_at", "exit", "exit_status", "exit_text", "viewers"] {
                assert!(session.get(name).is_some(), "{name} in {session}");
            }
            assert!(session["command"].is_array(), "{session}");
        }
        "presence" => {
            number("watchers");
            let driver = message.get("driver").expect("a driver, or null");
            assert!(driver.is_null() || driver["name"].is_string() && driver["viewer"].is_u64(), "{message}");
            assert!(message["driving"].is_boolean(), "{message}");
        }
        "input_ack" | "going_away" => number("offset"),
        "notice" => assert!(message["code"].is_string() && message["text"].is_string(), "{message}"),
        "error" => assert!(message["code"].is_string() && message["detail"].is_string(), "{message}"),
        _ => {}
    }
}

/// Plays a conversation with a session.
async fn play(server: &Server, token: &str, id: &str, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = fs::read_to_string(path).expect("a conversation");
    let host = server.url().replace("http://", "");
    let handshake: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('|'))
        .map(|line| format!("{}\r\n", line.trim_start()))
        .collect();
    let handshake = handshake.replace("{id}", id).replace("{host}", &host).replace("{token}", token);
    let wire = Wire::shake(&server.url(), &handshake).await.expect("a websocket");
    let mut player = Player { wire, heard: Vec::new(), output: String::new() };
    let mut steps = 0;
    for line in text.lines() {
        if let Some(hex) = line.strip_prefix("> ") {
            let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
            player.wire.send(&bytes).await;
        } else if let Some(expected) = line.strip_prefix("< ") {
            player.waits_for(expected).await;
        } else {
            continue;
        }
        steps += 1;
    }
    assert!(steps > 5, "the whole of {name}");
}

#[tokio::test]
async fn a_hub_speaks_with_clients_of_version_1() {
    let mut server = Server::start("").await;
    let admin = server.token();
    let script = "stty -echo; read -r a; echo \"got $a\"; read -r b; stty size; exec sleep 600";
    let session = server.run(&["sh", "-c", script], json!({"tty": true, "stdin": true})).await;
    let terminal = session["id"].as_str().expect("an id").to_owned();
    play(&server, &admin, &terminal, "v1-terminal.txt").await;
    let session = server.run(&["sh", "-c", "cat; exit 3"], json!({"stdin": true})).await;
    play(&server, &admin, session["id"].as_str().expect("an id"), "v1-pipe.txt").await;
    let talks = server.run_detached("echo hello; exec sleep 600").await;
    let body = json!({"right": "read"});
    let (_, ticket) = server.ask("POST", &format!("/v1/sessions/{talks}/tickets"), Some(body)).await;
    play(&server, ticket["secret"].as_str().expect("a secret"), &talks, "v1-watcher.txt").await;
    for id in [terminal, talks] {
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!(session["state"], "running", "what a client of version 1 left goes on");
        server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
        server.ended(&id).await;
    }
}
