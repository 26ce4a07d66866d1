//! Every door checks who comes and what for, and tells what is wrong with a stable code.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use bytes::Bytes;
use foghorn::protocol::{ClientMessage, HubMessage, Mode, Role};
use http_body_util::Full;
use serde_json::{Value, json};
use support::server::{Hello, Server, send, tokens, until};

const USER: &str = "user-token-0123456789";
const OTHER: &str = "other-token-0123456789";
const WATCHER: &str = "watcher-token-0123456789";

/// A hub that knows an admin (its own), two users and a watcher.
async fn server() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = tokens(dir.path(), &[("ann", "user", USER), ("bob", "user", OTHER), ("eve", "watcher", WATCHER)]);
    let server =
        Server::start_with("live_per_owner = 3\n", &[("FOGHORN_TOKENS", file.to_str().expect("a path"))]).await;
    (server, dir)
}

fn sleep(app: &str) -> Value {
    json!({"source": {"kind": "run", "app": app, "command": ["sleep", "600"], "detached": true}})
}

async fn start(server: &Server, token: &str) -> (u16, Value) {
    server.ask_as(token, "POST", "/v1/sessions", Some(sleep("blog"))).await
}

async fn stop(server: &Server, id: &str) {
    server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await;
    server.ended(id).await;
}

fn id(session: &Value) -> String {
    session["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_session_is_seen_by_its_owner_and_admins_alone() {
    let (server, _dir) = server().await;
    let (status, session) = start(&server, USER).await;
    assert_eq!((status, &session["owner"]), (201, &json!("ann")));
    let id = id(&session);
    for path in ["", "/output", "/recording.cast", "/tickets"] {
        let path = format!("/v1/sessions/{id}{path}");
        for token in [OTHER, WATCHER] {
            let (status, problem) = server.ask_as(token, "GET", &path, None).await;
            assert_eq!((status, &problem["code"]), (404, &json!("session_not_found")), "{path}");
        }
        let (status, problem) = server.ask_as("no-such-token", "GET", &path, None).await;
        assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")), "{path}");
    }
    for (method, path, body) in [
        ("DELETE", "", None),
        ("POST", "/signal", Some(json!({"signal": 9}))),
        ("POST", "/tickets", Some(json!({"right": "read"}))),
    ] {
        let (status, _) = server.ask_as(OTHER, method, &format!("/v1/sessions/{id}{path}"), body).await;
        assert_eq!(status, 404, "{method} {path}");
    }
    for (token, seen) in [(USER, 1), (OTHER, 0), (WATCHER, 0)] {
        let (_, list) = server.ask_as(token, "GET", "/v1/sessions", None).await;
        assert_eq!(list["sessions"].as_array().expect("a list").len(), seen);
        let (status, problem) = server.ask_as(token, "GET", "/v1/audit", None).await;
        assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
    }
    let (status, problem) = start(&server, WATCHER).await;
    assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "a watcher starts nothing");
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_ticket_allows_what_it_says_and_nothing_else() {
    let (server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let path = format!("/v1/sessions/{id}");
    let make = async |right: &str, one_use: bool| {
        let body = json!({"right": right, "expires": "1h", "one_use": one_use});
        let (status, ticket) = server.ask_as(USER, "POST", &format!("{path}/tickets"), Some(body)).await;
        assert_eq!(status, 201, "{ticket}");
        (ticket["id"].as_str().expect("an id").to_owned(), ticket["secret"].as_str().expect("a secret").to_owned())
    };
    let (read_id, read) = make("read", false).await;
    let (_, write) = make("write", false).await;
    // Reading: sees and follows, and may neither type, nor signal, nor stop, nor let others in.
    assert_eq!(server.ask_as(&read, "GET", &path, None).await.0, 200);
    for (method, path, body) in [
        ("DELETE", path.clone(), None),
        ("POST", format!("{path}/signal"), Some(json!({"signal": 15}))),
        ("POST", format!("{path}/tickets"), Some(json!({"right": "read"}))),
    ] {
        for ticket in [&read, &write] {
            let (status, problem) = server.ask_as(ticket, method, &path, body.clone()).await;
            assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{method} {path}");
        }
    }
    let mut viewer = server.attach_as(&read, &id, Hello::drive(1)).await.expect("connects");
    assert_eq!(viewer.rest().await, 4403);
    let mut viewer = server.attach_as(&read, &id, Hello { writer: Some(1), ..Hello::watch() }).await.expect("connects");
    for message in [ClientMessage::Take, ClientMessage::Signal { signal: 9 }, ClientMessage::Stop] {
        viewer.say(&message).await;
        viewer.hears(|message| matches!(message, HubMessage::Error { code, .. } if code == "forbidden")).await;
    }
    // Writing: drives, and nothing beyond it.
    let mut driver = server.attach_as(&write, &id, Hello::drive(2)).await.expect("connects");
    driver.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    for message in [ClientMessage::Signal { signal: 9 }, ClientMessage::Stop] {
        driver.say(&message).await;
        driver.hears(|message| matches!(message, HubMessage::Error { code, .. } if code == "forbidden")).await;
    }
    // A revoked ticket lets nobody in.
    let revoke = format!("{path}/tickets/{read_id}");
    assert_eq!(server.ask_as(USER, "DELETE", &revoke, None).await.0, 204);
    assert_eq!(server.ask_as(&read, "GET", &path, None).await.0, 401);
    // Another session is none of a ticket's business.
    let (_, other) = start(&server, USER).await;
    let other = self::id(&other);
    assert_eq!(server.ask_as(&write, "GET", &format!("/v1/sessions/{other}"), None).await.0, 404);
    stop(&server, &id).await;
    stop(&server, &other).await;
}

#[tokio::test]
async fn a_ticket_for_one_use_survives_its_viewers_reconnect_alone() {
    let (mut server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let body = json!({"right": "read", "one_use": true});
    let (_, ticket) = server.ask_as(USER, "POST", &format!("/v1/sessions/{id}/tickets"), Some(body)).await;
    let secret = ticket["secret"].as_str().expect("a secret").to_owned();
    let mut viewer = server.attach_as(&secret, &id, Hello::watch()).await.expect("connects");
    let welcome = viewer.hears(|message| matches!(message, HubMessage::Welcome { .. })).await;
    let HubMessage::Welcome { resume: Some(resume), .. } = welcome else { panic!("no resume secret") };
    assert!(server.attach_as(&secret, &id, Hello::watch()).await.is_err(), "it was for one use");
    let body = json!({"right": "control", "one_use": true});
    let (_, other) = server.ask_as(USER, "POST", &format!("/v1/sessions/{id}/tickets"), Some(body)).await;
    let other = other["secret"].as_str().expect("a secret");
    for (method, door) in [("GET", "/output"), ("GET", "/recording.cast"), ("DELETE", "")] {
        let (status, _) = server.ask_as(other, method, &format!("/v1/sessions/{id}{door}"), None).await;
        assert_eq!(status, 403, "{method} {door}: its one use is to follow");
    }
    assert_eq!(server.ask_as(&secret, "GET", &format!("/v1/sessions/{id}"), None).await.1["code"], "ticket_used");
    server.kill();
    server.again().await;
    let mut again = server.attach_as(&resume, &id, Hello::watch()).await.expect("reconnects");
    again.hears(|message| matches!(message, HubMessage::Welcome { resume: None, .. })).await;
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_ticket_ends_with_its_issuers_right() {
    let (server, dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let secret = session["ticket"]["secret"].as_str().expect("a secret").to_owned();
    let path = format!("/v1/sessions/{id}");
    assert_eq!(server.ask_as(&secret, "GET", &path, None).await.0, 200);
    tokens(dir.path(), &[("bob", "user", OTHER)]);
    assert_eq!(server.ask_as(USER, "GET", &path, None).await.0, 401, "the file is read again");
    assert_eq!(server.ask_as(&secret, "GET", &path, None).await.0, 401);
    stop(&server, &id).await;
}

#[tokio::test]
async fn what_is_wrong_has_a_stable_code() {
    let (server, _dir) = server().await;
    let run = |source: Value| json!({ "source": source });
    let cases = [
        ("GET", "/v1/nothing", None, 404, "no_such_door"),
        ("GET", "/v1/sessions/run.999", None, 404, "session_not_found"),
        ("GET", "/v1/sessions/not-a-session", None, 404, "session_not_found"),
        ("GET", "/v1/sessions?state=asleep", None, 400, "invalid_request"),
        ("GET", "/v1/sessions?limit=many", None, 400, "invalid_request"),
        ("POST", "/v1/sessions", Some(json!({"source": {"kind": "moon"}})), 400, "invalid_request"),
        ("POST", "/v1/sessions", Some(json!("text")), 400, "invalid_request"),
        (
            "POST",
            "/v1/sessions",
            Some(run(json!({"kind": "run", "app": "a b", "command": ["x"]}))),
            400,
            "invalid_request",
        ),
        ("POST", "/v1/sessions", Some(run(json!({"kind": "run", "app": "a", "command": []}))), 400, "invalid_request"),
        (
            "POST",
            "/v1/sessions",
            Some(run(json!({"kind": "run", "app": "a", "command": ["x"], "timeout": "soon"}))),
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/sessions",
            Some(run(json!({"kind": "run", "app": "a", "command": ["x"], "env": {"A=B": "c"}}))),
            400,
            "invalid_request",
        ),
        ("GET", "/v1/sessions/run.1/attach", None, 400, "websocket_needed"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = server.ask(method, path, body.clone()).await;
        assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)), "{method} {path} {body:?}: {}", answer.1);
        assert!(answer.1["detail"].as_str().is_some_and(|text| text.len() > 10), "{}", answer.1);
    }
}

#[tokio::test]
async fn too_much_is_refused() {
    let (server, _dir) = server().await;
    let big = json!({"source": {"kind": "run", "app": "a", "command": ["x".repeat(2 << 20)]}});
    let (status, problem) = server.ask("POST", "/v1/sessions", Some(big)).await;
    assert_eq!((status, &problem["code"]), (413, &json!("too_large")));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (status, session) = start(&server, USER).await;
        assert_eq!(status, 201);
        ids.push(id(&session));
    }
    let (status, problem) = start(&server, USER).await;
    assert_eq!((status, &problem["code"]), (429, &json!("too_many_sessions")));
    let mut with_key = sleep("blog");
    with_key["source"]["idempotency_key"] = "k".into();
    let (status, problem) = server.ask_as(USER, "POST", "/v1/sessions", Some(with_key)).await;
    assert_eq!((status, &problem["code"]), (429, &json!("too_many_sessions")), "a key makes no difference");
    let mut viewer = server.attach(&ids[0], Hello::watch()).await;
    viewer.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    viewer.say_text(&"x".repeat(1 << 20)).await;
    assert_ne!(viewer.rest().await, 1000, "an oversized message ends the connection, the session goes on");
    for id in &ids {
        stop(&server, id).await;
    }
    let long = http::Request::builder()
        .uri(format!("{}/healthz", server.url()))
        .header("x-long", "x".repeat(200 << 10))
        .body(Full::new(Bytes::new()));
    assert_eq!(send(long.expect("a request")).await.0, 431);
}

#[tokio::test]
async fn a_websocket_that_does_not_keep_to_the_protocol_is_closed_with_the_reason() {
    let (server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    for (text, code) in [("not json", 4400), (r#"{"type":"hello"}"#, 4400), (r#"{"no":"type"}"#, 4400)] {
        let mut viewer = server.attach(&id, Hello::watch()).await;
        viewer.say_text(text).await;
        assert_eq!(viewer.rest().await, code, "{text}");
        assert!(viewer.seen.iter().any(|message| matches!(message, HubMessage::Error { .. })), "{text}");
    }
    // A message of a later version is passed over.
    let mut viewer = server.attach(&id, Hello { writer: Some(1), ..Hello::watch() }).await;
    viewer.say_text(r#"{"type":"from_the_future","x":1}"#).await;
    viewer.say(&ClientMessage::Take).await;
    viewer.hears(|message| matches!(message, HubMessage::Presence { driving: true, .. })).await;
    // Input with a hole in it.
    viewer.type_at(0, "a").await;
    viewer.type_at(700_000, "b").await;
    assert_eq!(viewer.rest().await, 4400);
    let mut viewer = server.attach(&id, Hello { role: Role::Drive, ..Hello::default() }).await;
    assert_eq!(viewer.rest().await, 4400, "who drives names its writer");
    stop(&server, &id).await;
    let mut viewer = server.attach(&id, Hello { from: Some(1 << 40), mode: Mode::Bytes, ..Hello::default() }).await;
    assert_eq!(viewer.rest().await, 4400, "beyond the end");
}

/// A request for the attach door with these headers: the status and the code.
async fn upgrade(server: &Server, id: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = http::Request::builder().uri(format!("{}/v1/sessions/{id}/attach", server.url()));
    let usual = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in usual.iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let (status, body) = send(request.body(Full::new(Bytes::new())).expect("a request")).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_and_browsers_bring_their_token_as_a_subprotocol() {
    use base64::Engine;
    let (server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let bearer = format!("Bearer {USER}");
    let protocols = format!("foghorn.v1, foghorn.bearer.{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(USER));
    let own = server.url();
    let name = "sec-websocket-protocol";
    assert_eq!(upgrade(&server, &id, &[(name, &protocols)]).await.0, 101);
    assert_eq!(upgrade(&server, &id, &[(name, &protocols), ("origin", &own)]).await.0, 101);
    let (status, problem) = upgrade(&server, &id, &[(name, &protocols), ("origin", "https://evil.example")]).await;
    assert_eq!((status, &problem["code"]), (403, &json!("origin_not_allowed")));
    let (status, problem) = upgrade(&server, &id, &[(name, "other.v1"), ("authorization", &bearer)]).await;
    assert_eq!((status, &problem["code"]), (400, &json!("unsupported_subprotocol")));
    let (status, problem) = upgrade(&server, &id, &[(name, "foghorn.v1")]).await;
    assert_eq!((status, &problem["code"]), (401, &json!("unauthorized")));
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_repeated_start_is_the_same_session() {
    let (server, _dir) = server().await;
    let body = |command: &str| json!({"source": {"kind": "run", "app": "a", "command": [command], "detached": true, "idempotency_key": "k"}});
    let (status, first) = server.ask_as(USER, "POST", "/v1/sessions", Some(body("true"))).await;
    assert_eq!(status, 201);
    let (status, again) = server.ask_as(USER, "POST", "/v1/sessions", Some(body("true"))).await;
    assert_eq!((status, &again["id"], &again["ticket"]), (200, &first["id"], &Value::Null));
    let (status, problem) = server.ask_as(USER, "POST", "/v1/sessions", Some(body("false"))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("idempotency_key_reused")));
    let (status, other) = server.ask_as(OTHER, "POST", "/v1/sessions", Some(body("true"))).await;
    assert_eq!(status, 201, "{other}");
    assert_ne!(first["id"], other["id"], "a key is its owner's");
    for id in [id(&first), id(&other)] {
        server.ended(&id).await;
    }
}

#[tokio::test]
async fn a_websocket_counts_as_a_connection_for_as_long_as_it_lives() {
    let mut server = Server::start("connections = 3\n").await;
    let id = server.run_detached("sleep 600").await;
    let mut first = server.attach(&id, Hello::watch()).await;
    first.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    let mut second = server.attach(&id, Hello::watch()).await;
    second.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    let mut third = server.attach(&id, Hello::watch()).await;
    third.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    let (status, problem) = server.ask("GET", "/v1/sessions", None).await;
    assert_eq!((status, &problem["code"]), (503, &json!("too_many_connections")), "there is no place left");
    assert_eq!(server.ask("GET", "/healthz", None).await.0, 200, "which is no failure of the hub");
    drop(third);
    // The place is free again, each time that a connection which is closed has been noticed.
    let path = format!("/v1/sessions/{id}");
    until("a place is free", async || (server.ask("DELETE", &path, None).await.0 == 202).then_some(())).await;
    server.ended(&id).await;
}

#[tokio::test]
async fn a_ticket_gives_nothing_that_its_issuer_has_no_longer() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = tokens(dir.path(), &[("ann", "user", USER), ("bob", "admin", OTHER)]);
    let server = Server::start_with("", &[("FOGHORN_TOKENS", file.to_str().expect("a path"))]).await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let path = format!("/v1/sessions/{id}");
    let body = json!({"right": "control"});
    let (status, ticket) = server.ask_as(OTHER, "POST", &format!("{path}/tickets"), Some(body)).await;
    assert_eq!(status, 201, "{ticket}");
    let secret = ticket["secret"].as_str().expect("a secret");
    assert_eq!(server.ask_as(secret, "GET", &path, None).await.0, 200);
    tokens(dir.path(), &[("ann", "user", USER), ("bob", "watcher", OTHER)]);
    assert_eq!(server.ask_as(secret, "GET", &path, None).await.0, 404, "bob is an admin no longer");
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_right_that_ends_breaks_off_what_it_opened() {
    let (server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let path = format!("/v1/sessions/{id}");
    let (_, ticket) = server.ask_as(USER, "POST", &format!("{path}/tickets"), Some(json!({"right": "read"}))).await;
    let secret = ticket["secret"].as_str().expect("a secret");
    let mut viewer = server.attach_as(secret, &id, Hello::watch()).await.expect("connects");
    viewer.hears(|message| matches!(message, HubMessage::Presence { .. })).await;
    let whole = server.open_as(secret, &format!("{path}/output?follow=true")).await;
    let ticket = ticket["id"].as_str().expect("an id");
    assert_eq!(server.ask_as(USER, "DELETE", &format!("{path}/tickets/{ticket}"), None).await.0, 204);
    assert!(!whole.await, "the answer is broken off");
    assert_eq!(viewer.rest().await, 4401);
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_part_of_an_output_is_not_taken_for_the_whole_when_the_hub_stops() {
    let (mut server, _dir) = server().await;
    let (_, session) = start(&server, USER).await;
    let id = id(&session);
    let whole = server.open_as(USER, &format!("/v1/sessions/{id}/output?follow=true")).await;
    server.terminate().await;
    assert!(!whole.await);
    server.again().await;
    stop(&server, &id).await;
}

#[tokio::test]
async fn a_start_whose_caller_left_is_a_session_like_any_other() {
    use tokio::io::AsyncWriteExt;
    let server = Server::start("").await;
    let body = sleep("blog").to_string();
    let head = format!(
        "POST /v1/sessions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.token(),
        body.len()
    );
    let address = server.url().replace("http://", "");
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        drop(stream);
    }
    let (_, list) = server.ask("GET", "/v1/sessions", None).await;
    for session in list["sessions"].as_array().expect("a list") {
        let id = id(session);
        until("it runs", async || {
            let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
            (session["state"] != "starting").then_some(())
        })
        .await;
        stop(&server, &id).await;
    }
}
